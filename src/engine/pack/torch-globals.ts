// The allow-list: every name that a PyTorch checkpoint may pickle, and the harmless thing that stands for it.
// Follows torch/_weights_only_unpickler.py and torch/_utils.py; the inert classes are those of Lightning's checkpoints.

import { quoted } from '../errors.js'
import { damaged } from './byte-source.js'
import { PickleGlobal, PickleObject } from './pickle.js'
import type { PickleRules } from './pickle.js'
import { elementBytes } from './tensor-bytes.js'
import type { StorageType } from './tensor-source.js'

export interface StorageKind {
  /** As PyTorch calls it: `Half` of HalfStorage. */
  readonly name: string
  /** Of one element. */
  readonly bytes: number
  /** Absent where the file may have it but it cannot be read. */
  readonly dtype: StorageType | undefined
}

export class TorchStorage {
  readonly key: string
  readonly kind: StorageKind
  readonly elements: number

  constructor(key: string, kind: StorageKind, elements: number) {
    this.key = key
    this.kind = kind
    this.elements = elements
  }
}

/** A tensor as it is pickled: a view of a storage. Its numbers are not checked yet. */
export class TorchTensor {
  readonly storage: TorchStorage
  readonly offset: number
  readonly shape: readonly number[]
  readonly strides: readonly number[]

  constructor(storage: TorchStorage, offset: number, shape: readonly number[], strides: readonly number[]) {
    this.storage = storage
    this.offset = offset
    this.shape = shape
    this.strides = strides
  }
}

export interface TorchRules extends PickleRules {
  /** The storages that were referred to, by key. */
  readonly storages: ReadonlyMap<string, TorchStorage>
}

const readable: readonly (readonly [string, StorageType])[] = [
  ['Double', 'F64'],
  ['Float', 'F32'],
  ['Half', 'F16'],
  ['BFloat16', 'BF16'],
  ['Long', 'I64'],
  ['Int', 'I32'],
  ['Short', 'I16'],
  ['Char', 'I8'],
  ['Byte', 'U8'],
  ['Untyped', 'U8'],
  ['Bool', 'BOOL'],
]
const storageKinds = new Map<string, StorageKind>([
  ...readable.map(([name, dtype]) => [name, { name, dtype, bytes: elementBytes[dtype] }] as const),
  ['ComplexFloat', { name: 'ComplexFloat', dtype: undefined, bytes: 8 }],
  ['ComplexDouble', { name: 'ComplexDouble', dtype: undefined, bytes: 16 }],
])

/** Calls that only wrap their first argument. */
const wrappers = [
  'torch._utils._rebuild_parameter',
  'torch.Size',
  'torch.jit._pickle.build_boollist',
  'torch.jit._pickle.build_doublelist',
  'torch.jit._pickle.build_intlist',
  'torch.jit._pickle.build_tensorlist',
  'torch.jit._pickle.restore_type_tag',
  // Python 2 and protocol 2 have no bytes: they pickle text and its encoding.
  '_codecs.encode',
  'builtins.set',
  '__builtin__.set',
]

const dicts = ['collections.OrderedDict', 'collections.Counter', 'pytorch_lightning.utilities.parsing.AttributeDict']

/** What training leaves beside the weights: hyper-parameters, and the state of callbacks. */
const inertClasses = [
  'argparse.Namespace',
  'numpy.dtype',
  'numpy.core.multiarray.scalar',
  'numpy._core.multiarray.scalar',
  'pytorch_lightning.callbacks.early_stopping.EarlyStopping',
  'pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor',
  'pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint',
  'torch.device',
]

const dtypes = new Set(
  ['float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool'].map(
    (name) => `torch.${name}`,
  ),
)

/** Entries that dicts may be given in calls; in a hostile file the same list may be used again and again. */
const MAX_CALLED_ENTRIES = 1_000_000
const MAX_DIMENSIONS = 64

/** The rules for one file. `script`: it is a TorchScript archive, whose module classes are named `__torch__.…`. */
export function torchRules(path: string, { script }: { readonly script: boolean }): TorchRules {
  const storages = new Map<string, TorchStorage>()
  let entries = 0

  const tensor = (...[storage, offset, shape, strides, , , marks]: unknown[]): TorchTensor => {
    // Of a view that PyTorch negates (or conjugates) only when it is read.
    if (marks instanceof Map && marks.size > 0)
      throw damaged(path, `a tensor is marked ${[...marks.keys()].join(', ')}`, 'Save it again after `.resolve_neg()`.')
    if (!(storage instanceof TorchStorage) || !isSize(offset) || !isSizes(shape) || !isSizes(strides))
      throw damaged(path, 'a tensor is not built of a storage, an offset, a shape and strides')
    return new TorchTensor(storage, offset, [...shape], [...strides])
  }

  const dict = (items: unknown = []): Map<unknown, unknown> => {
    const pairs: unknown[] = items instanceof Map ? [...(items as Map<unknown, unknown>)] : (items as unknown[])
    if (!Array.isArray(pairs) || !pairs.every(isPair)) throw damaged(path, 'a dict is made of what is no list of pairs')
    entries += pairs.length
    if (entries > MAX_CALLED_ENTRIES) throw damaged(path, `its dicts have more than ${MAX_CALLED_ENTRIES} entries`)
    return new Map(pairs)
  }

  const allowed = new Map<string, PickleGlobal>()
  const allow = (name: string, call: (...args: unknown[]) => unknown) => allowed.set(name, new PickleGlobal(name, call))
  allow('torch._utils._rebuild_tensor', tensor)
  allow('torch._utils._rebuild_tensor_v2', tensor)
  for (const name of wrappers) allow(name, (value = null) => value)
  for (const name of dicts) allow(name, dict)
  for (const name of inertClasses) allow(name, () => new PickleObject(name))

  return {
    storages,
    globals(name) {
      if (storageKind(name) !== undefined || dtypes.has(name)) return new PickleGlobal(name)
      if (script && name.startsWith('__torch__.')) return new PickleGlobal(name, () => new PickleObject(name))
      return allowed.get(name)
    },
    persistent(id) {
      const storage = readStorage(path, id)
      const known = storages.get(storage.key)
      if (known === undefined) storages.set(storage.key, storage)
      else if (known.kind !== storage.kind || known.elements !== storage.elements)
        throw damaged(path, `storage ${quoted(storage.key)} is described in two ways`)
      return known ?? storage
    },
  }
}

/** A persistent id: ('storage', class, key, device, elements), and in plain pickles a view, which must be None. */
function readStorage(path: string, id: unknown): TorchStorage {
  const [tag, type, key, , elements, view] = Array.isArray(id) ? (id as unknown[]) : []
  const kind = type instanceof PickleGlobal ? storageKind(type.name) : undefined
  if (tag !== 'storage' || kind === undefined || typeof key !== 'string' || !isSize(elements))
    throw damaged(path, 'it refers to something that is not a storage of numbers')
  if (view !== undefined && view !== null)
    throw damaged(path, `storage ${quoted(key)} is a view of another`, 'Save it again with PyTorch 1.0 or newer.')
  return new TorchStorage(key, kind, elements)
}

function storageKind(name: string): StorageKind | undefined {
  const [, kind] = /^torch\.(?:cuda\.|storage\.)?(\w+)Storage$/.exec(name) ?? []
  return kind === undefined ? undefined : storageKinds.get(kind)
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.length <= MAX_DIMENSIONS && value.every(isSize)
}

function isPair(value: unknown): value is [unknown, unknown] {
  return Array.isArray(value) && value.length === 2
}
