// Reads and writes safetensors: a JSON header with every tensor's type, shape and place, then the bare values.
// Follows https://github.com/huggingface/safetensors (README, "Format"), with the checks of its reference reader.

import { createHash } from 'node:crypto'
import { invalidArgument, quoted } from '../errors.js'
import { bytesOf, damaged, openBytes, readBytes, sha256Of } from './byte-source.js'
import type { ByteSource } from './byte-source.js'
import { elementBytes, elementCount, readValues, tensorInfo } from './tensor-bytes.js'
import type { StorageType, TensorInfo, TensorSource } from './tensor-source.js'

/** The reference reader's limit. */
const MAX_HEADER_BYTES = 100_000_000

export interface Safetensors extends TensorSource {
  readonly metadata: ReadonlyMap<string, string>
  /** A tensor's bytes as they are stored: a fresh copy, aligned for any typed array. Errors: NOT_FOUND, DATA_LOSS. */
  raw(name: string): Uint8Array<ArrayBuffer>
}

/** A tensor to be written; `data` holds shape × element bytes, row-major. */
export interface TensorData extends TensorInfo {
  readonly name: string
  readonly data: ArrayBufferView
}

interface Placed extends TensorInfo {
  /** In bytes from the end of the header. */
  readonly start: number
  readonly end: number
}

/** Open a file; values are read when asked for. Errors: NOT_FOUND, DATA_LOSS for all that is not well-formed. */
export function openSafetensors(path: string): Safetensors {
  const source = openBytes(path)
  try {
    return readSafetensors(source)
  } catch (error) {
    source.close()
    throw error
  }
}

/** Read from a buffer, which must not change afterwards. `where` names it in messages. Errors: DATA_LOSS. */
export function parseSafetensors(bytes: Uint8Array, where: string): Safetensors {
  return readSafetensors(bytesOf(bytes, where))
}

/**
 * A file in parts, for `writeFileAtomic`: header first, then the tensors, wide types before narrow ones so that each is
 * aligned; the data is not copied. Errors: INVALID_ARGUMENT for a name that is not unique or data of the wrong size.
 */
export function serialiseSafetensors(
  tensors: readonly TensorData[],
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array[] {
  const ordered = tensors.toSorted((a, b) => elementBytes[b.dtype] - elementBytes[a.dtype])
  const header = new Map<string, unknown>()
  if (Object.keys(metadata).length > 0) header.set('__metadata__', metadata)
  let end = 0
  for (const { name, dtype, shape, data } of ordered) {
    const count = elementCount(shape)
    if (header.has(name) || name === '__metadata__') throw invalidArgument('name', `${quoted(name)} is already used`)
    if (count === undefined || data.byteLength !== count * elementBytes[dtype])
      throw invalidArgument('data', `${quoted(name)}: ${data.byteLength} bytes for ${dtype} [${shape.join(', ')}]`)
    const start = end
    end += data.byteLength
    header.set(name, { dtype, shape, data_offsets: [start, end] })
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(header)))
  const head = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ')
  head.writeBigUInt64LE(BigInt(head.length - 8))
  head.set(json, 8)
  return [head, ...ordered.map(({ data }) => viewOf(data))]
}

const sealKey = 'sha256'

/**
 * `serialiseSafetensors`, with a sha256 of the metadata and of all tensors in the metadata, for `isAltered` to compare.
 * Errors: those of `serialiseSafetensors`.
 */
export function sealSafetensors(
  tensors: readonly TensorData[],
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array[] {
  return serialiseSafetensors(tensors, { ...metadata, [sealKey]: sealOf(tensors, Object.entries(metadata)) })
}

/** Whether a file is not as `sealSafetensors` wrote it; false for one that has no such sum. Errors: DATA_LOSS. */
export function isAltered(file: Safetensors): boolean {
  const seal = file.metadata.get(sealKey)
  if (seal === undefined) return false
  const tensors = [...file.tensors].map(([name, info]) => ({ ...info, name, data: file.raw(name) }))
  return seal !== sealOf(tensors, [...file.metadata])
}

/** Does not depend on any order. */
function sealOf(tensors: readonly TensorData[], metadata: readonly (readonly [string, string])[]): string {
  const byName = (a: string, b: string) => (a < b ? -1 : 1)
  const hash = createHash('sha256')
  const told = metadata.filter(([key]) => key !== sealKey).sort(([a], [b]) => byName(a, b))
  hash.update(JSON.stringify(told))
  for (const { name, dtype, shape, data } of tensors.toSorted((a, b) => byName(a.name, b.name))) {
    hash.update(JSON.stringify([name, dtype, shape])).update(viewOf(data))
  }
  return hash.digest('hex')
}

function viewOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}

function readSafetensors(source: ByteSource): Safetensors {
  const { path } = source
  const { header, dataStart } = readHeader(source)
  const metadata = new Map<string, string>()
  const tensors = new Map<string, Placed>()
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') readMetadata(path, entry, metadata)
    else tensors.set(name, readEntry(path, name, entry))
  }
  checkPlaces(path, tensors, source.size - dataStart)
  return {
    path,
    tensors,
    metadata,
    read(name) {
      const { dtype, shape, start } = tensorInfo(path, tensors, name)
      return readValues(source, dtype, dataStart + start, elementCount(shape)!)
    },
    raw(name) {
      const { start, end } = tensorInfo(path, tensors, name)
      return readBytes(source, dataStart + start, end - start)
    },
    sha256: () => sha256Of(source),
    close: () => source.close(),
  }
}

function readHeader(source: ByteSource): { header: Readonly<Record<string, unknown>>; dataStart: number } {
  const length = Number(new DataView(readBytes(source, 0, 8).buffer).getBigUint64(0, true))
  if (length > MAX_HEADER_BYTES)
    throw damaged(source.path, `not a safetensors file: its header would be ${length} bytes long`)
  const bytes = readBytes(source, 8, length)
  let header: unknown
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (error) {
    throw damaged(source.path, 'the safetensors header is not JSON', undefined, error)
  }
  if (!isRecord(header)) throw damaged(source.path, 'the safetensors header is not a JSON object')
  return { header, dataStart: 8 + length }
}

function readMetadata(path: string, entry: unknown, metadata: Map<string, string>): void {
  if (!isRecord(entry)) throw damaged(path, '__metadata__ is not a JSON object')
  for (const [key, value] of Object.entries(entry)) {
    if (typeof value !== 'string') throw damaged(path, `__metadata__: the value of ${quoted(key)} is not a string`)
    metadata.set(key, value)
  }
}

function readEntry(path: string, name: string, entry: unknown): Placed {
  const wrong = (what: string) => damaged(path, `tensor ${quoted(name)}: ${what}`)
  if (!isRecord(entry)) throw wrong('its entry is not a JSON object')
  const { dtype, shape, data_offsets: offsets } = entry
  if (typeof dtype !== 'string' || !isStorageType(dtype))
    throw wrong(
      `the type ${quoted(typeof dtype === 'string' ? dtype : typeof dtype)} is not one of ${Object.keys(elementBytes).join(', ')}`,
    )
  const count = elementCount(shape)
  if (count === undefined) throw wrong('its shape is not a list of sizes')
  const [start, end] = Array.isArray(offsets) ? (offsets as unknown[]) : []
  if (!isOffset(start) || !isOffset(end)) throw wrong('its data_offsets are not two positions')
  if (end - start !== count * elementBytes[dtype])
    throw wrong(`${end - start} bytes are not ${count} elements of ${dtype}`)
  return { dtype, shape: shape as number[], start, end }
}

function checkPlaces(path: string, tensors: ReadonlyMap<string, Placed>, size: number): void {
  let end = 0
  for (const [name, tensor] of [...tensors].sort(([, a], [, b]) => a.start - b.start || a.end - b.end)) {
    if (tensor.start !== end)
      throw damaged(path, `tensor ${quoted(name)} starts at ${tensor.start}, but the one before it ends at ${end}`)
    end = tensor.end
  }
  if (end > size) throw damaged(path, `the file is truncated: it holds ${size} of ${end} bytes of values`)
  if (end < size) throw damaged(path, `${size - end} bytes after the last tensor belong to none`)
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isStorageType(name: string): name is StorageType {
  return Object.hasOwn(elementBytes, name)
}

function isOffset(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}
