// safetensors: round trips, every rule of the format broken once, and seeded damage.
// Follows https://github.com/huggingface/safetensors (README, "Format").

import { mkdtemp, rm } from 'node:fs/promises'
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { writeFileAtomic } from '../../../src/engine/files.js'
import { Weights } from '../../../src/engine/networks/weights.js'
import { openCheckpoint } from '../../../src/engine/pack/checkpoint.js'
import { openSafetensors, parseSafetensors, serialiseSafetensors } from '../../../src/engine/pack/safetensors.js'
import type { TensorData } from '../../../src/engine/pack/safetensors.js'
import { damage, ourError, refuses, seededRandom } from './hostile.js'

const golden = new URL('../../../../../shared/golden/tiny/', import.meta.url)

const all: TensorData[] = [
  { name: 'u8', dtype: 'U8', shape: [3], data: Uint8Array.of(0, 1, 255) },
  { name: 'f64', dtype: 'F64', shape: [2], data: Float64Array.of(0.25, -1e300) },
  { name: 'f32', dtype: 'F32', shape: [2, 3], data: Float32Array.of(0, 1, 2, 3, 4, 5) },
  { name: 'f16', dtype: 'F16', shape: [2], data: Uint16Array.of(0x3c00, 0xc000) },
  { name: 'bf16', dtype: 'BF16', shape: [2], data: Uint16Array.of(0x3f80, 0xc000) },
  { name: 'i64', dtype: 'I64', shape: [2], data: BigInt64Array.of(-1n, 2n ** 40n) },
  { name: 'i32', dtype: 'I32', shape: [2], data: Int32Array.of(-1, 7) },
  { name: 'i16', dtype: 'I16', shape: [2], data: Int16Array.of(-1, 7) },
  { name: 'i8', dtype: 'I8', shape: [2], data: Int8Array.of(-1, 7) },
  { name: 'bool', dtype: 'BOOL', shape: [2], data: Uint8Array.of(0, 1) },
  { name: '__proto__', dtype: 'F32', shape: [], data: Float32Array.of(9) },
  { name: 'empty', dtype: 'F32', shape: [0, 4], data: new Float32Array() },
]
const expected: Record<string, number[]> = {
  u8: [0, 1, 255],
  f64: [0.25, -Infinity],
  f32: [0, 1, 2, 3, 4, 5],
  f16: [1, -2],
  bf16: [1, -2],
  i64: [-1, 2 ** 40],
  i32: [-1, 7],
  i16: [-1, 7],
  i8: [-1, 7],
  bool: [0, 1],
  ['__proto__']: [9],
  empty: [],
}
const whole = Buffer.concat(serialiseSafetensors(all, { kind: 'latent', step: '7' }))

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'flexit-'))
  t.teardown(() => rm(path, { recursive: true }))
  return path
}

/** A file with any header, however wrong. */
function file(header: unknown, dataBytes: number): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const bytes = Buffer.alloc(8 + json.length + dataBytes)
  bytes.writeBigUInt64LE(BigInt(json.length))
  bytes.set(json, 8)
  return bytes
}

test('what is written is read back, from a buffer and from a file', async (t) => {
  const path = join(await folder(t), 'all.bin')
  await writeFileAtomic(path, serialiseSafetensors(all, { kind: 'latent', step: '7' }))
  for (const source of [parseSafetensors(whole, 'buffer'), openSafetensors(path)]) {
    t.deepEqual([...source.metadata].sort(), [['kind', 'latent'], ['step', '7']]) // prettier-ignore
    t.deepEqual([...source.tensors.keys()].sort(), all.map(({ name }) => name).sort())
    for (const { name, dtype, shape, data } of all) {
      t.like(source.tensors.get(name), { dtype, shape })
      t.deepEqual([...source.read(name)], expected[name], name)
      t.deepEqual(source.raw(name), new Uint8Array(data.buffer), name)
    }
    source.close()
  }
})

test('raw bytes are a copy that any typed array can be laid on', (t) => {
  const source = parseSafetensors(whole, 'buffer')
  const raw = source.raw('f64')
  t.is(raw.byteOffset, 0)
  t.is(new Float64Array(raw.buffer)[0], 0.25)
  raw.fill(0)
  t.is(source.read('f64')[0], 0.25)
})

test('the header is padded with spaces and every tensor is aligned', (t) => {
  const headerBytes = Number(whole.readBigUInt64LE())
  t.is(headerBytes % 8, 0)
  const header = JSON.parse(whole.toString('utf8', 8, 8 + headerBytes)) as Record<string, { data_offsets: number[] }>
  t.is(header.f64!.data_offsets[0], 0)
  t.is(header.f32!.data_offsets[0]! % 4, 0)
  t.is(header.f16!.data_offsets[0]! % 2, 0)
  t.is(Buffer.concat(serialiseSafetensors([])).toString('latin1'), '\x08\0\0\0\0\0\0\0{}      ')
})

test('values longer than a chunk of the conversion are all converted', (t) => {
  const count = 2 ** 20 + 3
  const data = Uint8Array.from({ length: count }, (_, i) => i % 251)
  const parts = serialiseSafetensors([{ name: 'long', dtype: 'U8', shape: [count], data }])
  const values = parseSafetensors(Buffer.concat(parts), 'buffer').read('long')
  t.is(values.length, count)
  t.true(values.every((value, i) => value === i % 251))
})

test('what cannot be written is refused', (t) => {
  const one: TensorData = { name: 'a', dtype: 'F32', shape: [2], data: new Float32Array(2) }
  for (const tensors of [
    [one, one],
    [{ ...one, name: '__metadata__' }],
    [{ ...one, shape: [3] }],
    [{ ...one, shape: [-1] }],
    [{ ...one, dtype: 'F16' as const }],
  ])
    t.throws(() => serialiseSafetensors(tensors), { code: 'INVALID_ARGUMENT' })
})

const entry = { dtype: 'F32', shape: [2], data_offsets: [0, 8] }
const malformed: [title: string, bytes: Buffer, message: RegExp][] = [
  ['nothing', Buffer.alloc(0), /truncated/],
  ['half a length', Buffer.alloc(5), /truncated/],
  ['a header beyond the end', whole.subarray(0, 100), /truncated/],
  ['a header of 2^63 bytes', Buffer.from('0000000000000080', 'hex'), /header would be \d+ bytes long/],
  ['a header that is not JSON', file('{"a": ', 0), /not JSON/],
  ['a header that is not UTF-8', file('{"\xff', 0).fill(0xff, 9), /not JSON/],
  ['a header that is a list', file('[]', 0), /not a JSON object/],
  ['a header that is null', file('null', 0), /not a JSON object/],
  ['metadata of numbers', file({ __metadata__: { step: 7 } }, 0), /__metadata__: the value of "step"/],
  ['metadata that is a list', file({ __metadata__: [] }, 0), /__metadata__ is not/],
  ['an entry that is a number', file({ a: 1 }, 0), /"a": its entry/],
  ['an unknown type', file({ a: { ...entry, dtype: 'F8_E4M3' } }, 8), /"a": the type "F8_E4M3" is not one of F64/],
  ['a type of Object.prototype', file({ a: { ...entry, dtype: 'constructor' } }, 8), /"constructor" is not one of/],
  ['a type that is an object', file({ a: { ...entry, dtype: { toString: 1 } } }, 8), /"object" is not one of/],
  ['a shape that is a number', file({ a: { ...entry, shape: 2 } }, 8), /"a": its shape/],
  ['a negative size', file({ a: { ...entry, shape: [-1, -2] } }, 8), /"a": its shape/],
  ['a size that is no integer', file({ a: { ...entry, shape: [0.5, 4] } }, 8), /"a": its shape/],
  ['a product that overflows', file({ a: { ...entry, shape: [2 ** 52, 2 ** 52, 0.5] } }, 8), /"a": its shape/],
  ['sizes that overflow', file({ a: { ...entry, shape: [2 ** 52, 2 ** 52] } }, 8), /"a": its shape/],
  ['offsets that are missing', file({ a: { dtype: 'F32', shape: [2] } }, 8), /data_offsets/],
  ['offsets that are negative', file({ a: { ...entry, data_offsets: [-8, 0] } }, 8), /data_offsets/],
  ['offsets that are no integers', file({ a: { ...entry, data_offsets: [0.5, 8.5] } }, 9), /data_offsets/],
  [
    'offsets that do not fit the shape',
    file({ a: { ...entry, data_offsets: [0, 4] } }, 8),
    /4 bytes are not 2 elements/,
  ],
  ['values that are missing', file({ a: entry }, 7), /truncated: it holds 7 of 8 bytes/],
  ['values that belong to nothing', file({ a: entry }, 9), /1 bytes after the last tensor/],
  ['a hole', file({ a: entry, b: { ...entry, data_offsets: [12, 20] } }, 20), /"b" starts at 12.* ends at 8/],
  ['an overlap', file({ a: entry, b: { ...entry, data_offsets: [4, 12] } }, 12), /"b" starts at 4.* ends at 8/],
  ['the same place twice', file({ a: entry, b: entry }, 8), /starts at 0.* ends at 8/],
]

for (const [title, bytes, message] of malformed) {
  test(`refuses ${title}`, async (t) => {
    await refuses(t, () => parseSafetensors(bytes, 'from a client'), 'from a client', message)
    const path = join(await folder(t), 'weights.safetensors')
    writeFileSync(path, bytes)
    await refuses(t, () => openSafetensors(path), path, message)
  })
}

test('a missing tensor is named, with some that are there', async (t) => {
  const source = parseSafetensors(whole, 'buffer')
  await refuses(t, () => source.read('conv\n'), 'buffer', /no tensor "conv\\n": it has 12, .*"f64"/, 'NOT_FOUND')
  await refuses(t, () => source.raw('toString'), 'buffer', /no tensor "toString"/, 'NOT_FOUND')
})

test('a tensor of another shape than wanted is refused with both', async (t) => {
  const source = parseSafetensors(whole, 'buffer')
  t.is(new Weights(source).read('f32', [2, 3]).length, 6)
  t.is(new Weights(source).read('f32', [undefined, 3]).length, 6)
  t.is(new Weights(source).read('f32').length, 6)
  const message = /tensor f32 is \[2, 3\], expected \[3, any\]/
  await refuses(t, () => new Weights(source).read('f32', [3, undefined]), 'buffer', message)
  await refuses(t, () => new Weights(source).read('f32', [6]), 'buffer', /is \[2, 3\], expected \[6\]/)
  await refuses(t, () => new Weights(source).read('f33', [6]), 'buffer', /no tensor f33/)
})

test('a file that becomes shorter, and one that is closed, cannot be read', async (t) => {
  const path = join(await folder(t), 'weights.safetensors')
  writeFileSync(path, whole)
  const source = openSafetensors(path)
  writeFileSync(path, whole.subarray(0, 50))
  await refuses(t, () => source.read('f64'), path, /became shorter/)
  source.close()
  source.close()
  t.throws(() => source.read('f64'), { code: 'INTERNAL' })
})

test('damaged bytes give values or our error, nothing else', async (t) => {
  const random = seededRandom(1)
  let refusals = 0
  for (let i = 0; i < 3000; i++) {
    const error = await ourError(t, () => {
      const source = parseSafetensors(damage(whole, random), 'damaged')
      for (const name of source.tensors.keys()) source.read(name)
    })
    if (error !== undefined) refusals++
  }
  t.true(refusals > 1000 && refusals < 3000, `${refusals} of 3000`)
})

test('the golden files open', async (t) => {
  if (!existsSync(golden)) {
    t.log('skipped: the golden files are not here')
    t.pass()
    return
  }
  const names = readdirSync(golden).filter((name) => name.endsWith('.safetensors'))
  t.true(names.length > 0)
  for (const name of names) {
    const source = await openCheckpoint(new URL(name, golden).pathname)
    for (const [tensor, { shape }] of source.tensors)
      t.is(
        source.read(tensor).length,
        shape.reduce((a, b) => a * b, 1),
      )
    source.close()
    t.deepEqual(
      [...parseSafetensors(readFileSync(new URL(name, golden)), name).tensors.keys()],
      [...source.tensors.keys()],
    )
  }
})
