// Values of tensors as they lie in files, and the checks that all weight files share.
// Little-endian, row-major, as safetensors and PyTorch write them; so are all machines that ONNX Runtime runs on.

import { FlexitError, quoted } from '../errors.js'
import { allocate } from './byte-source.js'
import type { ByteSource } from './byte-source.js'
import { decodeBF16, decodeF16 } from './float16.js'
import type { StorageType, TensorInfo } from './tensor-source.js'

/** Bytes of one element. */
export const elementBytes: Readonly<Record<StorageType, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
}

/** Elements that are converted at a time, so that a conversion needs no second copy of a large tensor. */
const CHUNK = 2 ** 20

/** The number of elements, or undefined where `shape` is not a list of sizes with a product that can be counted. */
export function elementCount(shape: unknown): number | undefined {
  if (!Array.isArray(shape)) return undefined
  let count = 1
  for (const size of shape as unknown[]) {
    if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) return undefined
    count *= size
  }
  return Number.isSafeInteger(count) ? count : undefined
}

/** Read `count` elements that start at byte `position`, as float32. Errors: DATA_LOSS, RESOURCE_EXHAUSTED. */
export function readValues(source: ByteSource, dtype: StorageType, position: number, count: number): Float32Array {
  const values = allocate(source, count, (length) => new Float32Array(length))
  if (dtype === 'F32') {
    source.readInto(new Uint8Array(values.buffer), position)
    return values
  }
  const size = elementBytes[dtype]
  const buffer = new ArrayBuffer(Math.min(count, CHUNK) * size)
  for (let start = 0; start < count; start += CHUNK) {
    const length = Math.min(CHUNK, count - start)
    source.readInto(new Uint8Array(buffer, 0, length * size), position + start * size)
    convert(dtype, buffer, values.subarray(start, start + length))
  }
  return values
}

/** What a file says about a tensor. Errors: NOT_FOUND, naming the file. */
export function tensorInfo<T extends TensorInfo>(path: string, tensors: ReadonlyMap<string, T>, name: string): T {
  const info = tensors.get(name)
  if (info !== undefined) return info
  const first = [...tensors.keys()].slice(0, 3).map(quoted).join(', ')
  throw new FlexitError({
    code: 'NOT_FOUND',
    message: `${path} has no tensor ${quoted(name)}: it has ${tensors.size}, beginning with ${first || 'none'}`,
    cure: 'Check that the file holds the network that it is named for.',
  })
}

function convert(dtype: Exclude<StorageType, 'F32'>, buffer: ArrayBuffer, target: Float32Array): void {
  const length = target.length
  switch (dtype) {
    case 'F64':
      target.set(new Float64Array(buffer, 0, length))
      return
    case 'F16':
      decodeF16(new Uint16Array(buffer, 0, length), target)
      return
    case 'BF16':
      decodeBF16(new Uint16Array(buffer, 0, length), target)
      return
    case 'I64': {
      const whole = new BigInt64Array(buffer, 0, length)
      for (let i = 0; i < length; i++) target[i] = Number(whole[i])
      return
    }
    case 'I32':
      target.set(new Int32Array(buffer, 0, length))
      return
    case 'I16':
      target.set(new Int16Array(buffer, 0, length))
      return
    case 'I8':
      target.set(new Int8Array(buffer, 0, length))
      return
    case 'U8':
      target.set(new Uint8Array(buffer, 0, length))
      return
    case 'BOOL': {
      const bytes = new Uint8Array(buffer, 0, length)
      for (let i = 0; i < length; i++) target[i] = bytes[i] === 0 ? 0 : 1
      return
    }
  }
}
