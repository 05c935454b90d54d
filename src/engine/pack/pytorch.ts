// Reads PyTorch checkpoints without running what they pickle: zip archives, the older plain pickles, and TorchScript.
// Follows torch/serialization.py (_load, _legacy_load), torch/_utils.py, torch/csrc/jit/serialization/pickler.cpp.

import { quoted } from '../errors.js'
import { bytesOf, damaged, openBytes, readBytes, sha256Of } from './byte-source.js'
import type { ByteSource } from './byte-source.js'
import { MAX_PICKLE_BYTES } from './pickle-input.js'
import { PickleObject, unpickle } from './pickle.js'
import { elementBytes, elementCount, readValues, tensorInfo } from './tensor-bytes.js'
import type { StorageType, TensorInfo, TensorSource } from './tensor-source.js'
import { TorchTensor, torchRules } from './torch-globals.js'
import type { TorchStorage } from './torch-globals.js'
import { readZipDirectory } from './zip-directory.js'

/** torch.save's mark at the start of a plain pickle. */
const LEGACY_MAGIC = 0x1950a86a20f9469cfc6cn
const LEGACY_PROTOCOL = 1001
/** A view may repeat its storage (`expand`): up to here, so that a small file cannot ask for all memory. */
const MAX_REPEATED_ELEMENTS = 2 ** 22
const MAX_NODES = 1_000_000
const MAX_DEPTH = 64
const MAX_NAME_LENGTH = 1000
const MAX_NAMES_LENGTH = 2 ** 24

/** What a file pickles, and where the bytes of its storages begin. */
interface Contents {
  readonly value: unknown
  /** Errors: DATA_LOSS where the storage is not in the file, or not whole. */
  readonly locate: (storage: TorchStorage) => number
}

interface Placed extends TensorInfo {
  /** The first element's place in the file, in bytes. */
  readonly position: number
  readonly strides: readonly number[]
  /** Elements of the storage from the first to the last that the tensor uses. */
  readonly span: number
}

/**
 * Open a checkpoint of torch.save (either format) or torch.jit.save. The tensors are those of `state_dict` where there
 * is one, else all in nested dicts and modules, named by their path with dots. Values are read when asked for.
 * Errors: NOT_FOUND; DATA_LOSS for a file that is damaged, or that pickles what is not on the list of `torchRules`.
 */
export async function openPyTorch(path: string): Promise<TensorSource> {
  const source = openBytes(path)
  try {
    const isArchive = source.size > 1 && Buffer.from(readBytes(source, 0, 2).buffer).toString('latin1') === 'PK'
    const contents = isArchive ? await readArchive(source) : readLegacy(source)
    return tensorSource(source, contents)
  } catch (error) {
    source.close()
    throw error
  }
}

async function readArchive(source: ByteSource): Promise<Contents> {
  const { path } = source
  const entries = await readZipDirectory(source)
  const pickles = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name))
  const root = pickles[0]?.slice(0, -'data.pkl'.length)
  if (root === undefined || pickles.length > 1)
    throw damaged(path, `a zip archive with ${pickles.length} data.pkl in it is not a PyTorch checkpoint`)
  const place = (name: string) => {
    const entry = entries.get(root + name)
    if (entry === undefined) throw damaged(path, `the archive has no entry ${quoted(root + name)}`)
    if (!entry.plain)
      throw damaged(path, `${quoted(root + name)} is compressed in the archive`, 'Save it again with torch.save.')
    return entry
  }
  const content = (name: string) => {
    const { start, size } = place(name)
    if (size > MAX_PICKLE_BYTES) throw damaged(path, `${quoted(root + name)} is larger than ${MAX_PICKLE_BYTES} bytes`)
    return readBytes(source, start, size)
  }
  if (entries.has(`${root}byteorder`) && Buffer.from(content('byteorder')).toString() !== 'little')
    throw bigEndian(path)
  const script = entries.has(`${root}constants.pkl`)
  const { value } = unpickle(bytesOf(content('data.pkl'), path), 0, torchRules(path, { script }))
  return {
    value,
    locate(storage) {
      const { start, size } = place(`data/${storage.key}`)
      const wanted = storage.elements * storage.kind.bytes
      if (size < wanted) throw damaged(path, `storage ${quoted(storage.key)} has ${size} of ${wanted} bytes`)
      return start
    },
  }
}

function readLegacy(source: ByteSource): Contents {
  const { path } = source
  let position = 0
  const rules = torchRules(path, { script: false })
  const next = () => {
    const { value, end } = unpickle(source, position, rules)
    position = end
    return value
  }
  if (next() !== LEGACY_MAGIC || next() !== LEGACY_PROTOCOL)
    throw damaged(path, 'a Python pickle, but not one that torch.save wrote', 'Save it with torch.save or safetensors.')
  const system = next()
  if (!(system instanceof Map) || system.get('little_endian') !== true) throw bigEndian(path)
  const value = next()
  const keys = next()
  if (!Array.isArray(keys)) throw damaged(path, 'its list of storages is not a list')
  const starts = new Map<unknown, number>()
  for (const key of keys as unknown[]) {
    const storage = typeof key === 'string' ? rules.storages.get(key) : undefined
    if (storage === undefined || starts.has(key)) throw damaged(path, 'its list of storages does not fit its tensors')
    const elements = Number(new DataView(readBytes(source, position, 8).buffer).getBigInt64(0, true))
    if (elements !== storage.elements)
      throw damaged(path, `storage ${quoted(storage.key)} has ${elements} of ${storage.elements} elements`)
    starts.set(storage.key, position + 8)
    position += 8 + elements * storage.kind.bytes
  }
  if (position > source.size) throw damaged(path, `the file is truncated: it has ${source.size} of ${position} bytes`)
  return {
    value,
    locate(storage) {
      const start = starts.get(storage.key)
      if (start === undefined) throw damaged(path, `the file has no storage ${quoted(storage.key)}`)
      return start
    },
  }
}

function tensorSource(source: ByteSource, { value, locate }: Contents): TensorSource {
  const { path } = source
  const tensors = new Map<string, Placed>()
  const unread = new Map<string, string>()
  for (const [name, tensor] of collect(path, stateDict(value))) {
    const { dtype, name: kind } = tensor.storage.kind
    if (dtype === undefined) unread.set(name, kind)
    else tensors.set(name, place(path, name, dtype, tensor, locate(tensor.storage)))
  }
  if (tensors.size + unread.size === 0)
    throw damaged(
      path,
      'the checkpoint has no named tensors',
      'Save a state dict: torch.save(model.state_dict(), path).',
    )
  return {
    path,
    tensors,
    read(name) {
      const kind = unread.get(name)
      if (kind !== undefined)
        throw damaged(path, `tensor ${quoted(name)} is of type ${kind}`, 'Convert it to float32 before saving.')
      const { dtype, shape, strides, position, span } = tensorInfo(path, tensors, name)
      const values = readValues(source, dtype, position, span)
      return isContiguous(shape, strides) ? values : gather(values, shape, strides)
    },
    sha256: () => sha256Of(source),
    close: () => source.close(),
  }
}

/** What the weights are in: the `state_dict` of a training checkpoint, or all of it. */
function stateDict(value: unknown): unknown {
  return value instanceof Map && value.has('state_dict') ? value.get('state_dict') : value
}

/**
 * All tensors in nested dicts and module objects, by path. Objects may share parts, so what is looked at is counted, also
 * where its key is no part of a name.
 */
function collect(path: string, root: unknown): Map<string, TorchTensor> {
  const found = new Map<string, TorchTensor>()
  let nodes = 0
  let names = 0
  const tooDeep = (name: string) => damaged(path, `the checkpoint is nested too deeply, at ${quoted(name)}`)
  const visit = (value: unknown, name: string, depth: number): void => {
    names += name.length
    if (depth > MAX_DEPTH || name.length > MAX_NAME_LENGTH || names > MAX_NAMES_LENGTH) throw tooDeep(name)
    if (value instanceof TorchTensor && name !== '') {
      if (found.has(name)) throw damaged(path, `two tensors have the name ${quoted(name)}`)
      found.set(name, value)
    }
    const children = value instanceof PickleObject ? value.state : value
    if (!(children instanceof Map)) return
    for (const [key, child] of children as Map<unknown, unknown>) {
      if (++nodes > MAX_NODES) throw tooDeep(name)
      if (typeof key === 'string' || typeof key === 'number')
        visit(child, name === '' ? String(key) : `${name}.${key}`, depth + 1)
    }
  }
  visit(root, '', 0)
  return found
}

function place(path: string, name: string, dtype: StorageType, tensor: TorchTensor, start: number): Placed {
  const { storage, offset, shape, strides } = tensor
  const count = elementCount(shape)
  const wrong = (what: string) => damaged(path, `tensor ${quoted(name)} of shape [${shape.join(', ')}] ${what}`)
  if (count === undefined || elementCount(strides) === undefined || strides.length !== shape.length)
    throw wrong('has no valid shape and strides')
  const span = count === 0 ? 0 : shape.reduce((sum, size, axis) => sum + (size - 1) * strides[axis]!, 1)
  if (!(offset >= 0 && offset + span <= storage.elements))
    throw wrong(`needs elements ${offset} to ${offset + span} of a storage of ${storage.elements}`)
  if (count > Math.max(storage.elements, MAX_REPEATED_ELEMENTS)) throw wrong('repeats its storage too often')
  return { dtype, shape, strides, position: start + offset * elementBytes[dtype], span }
}

function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  if (shape.includes(0)) return true
  let expected = 1
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== expected) return false
    expected *= shape[axis]!
  }
  return true
}

/** The elements of a view in row-major order. */
function gather(values: Float32Array, shape: readonly number[], strides: readonly number[]): Float32Array {
  const gathered = new Float32Array(elementCount(shape)!)
  const index = shape.map(() => 0)
  let from = 0
  for (let to = 0; to < gathered.length; to++) {
    gathered[to] = values[from]!
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis]!
      if (++index[axis]! < shape[axis]!) break
      from -= strides[axis]! * shape[axis]!
      index[axis] = 0
    }
  }
  return gathered
}

function bigEndian(path: string) {
  return damaged(path, 'the checkpoint is of a big-endian machine', 'Save it again on a little-endian one.')
}
