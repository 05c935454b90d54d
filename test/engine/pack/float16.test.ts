// Half-precision conversions, held to their definition over all 65536 patterns and all ties between them.
// Follows IEEE 754-2019, sections 3.4 and 4.3.1.

import test from 'ava'
import { decodeBF16, decodeF16, encodeF16 } from '../../../src/engine/pack/float16.js'

const patterns = Uint16Array.from({ length: 0x10000 }, (_, bits) => bits)

/** Of binary16. */
const infinity = 0x7c00

/** The float32 next to `value` on the side of `direction`. */
function neighbour(value: number, direction: 1 | -1): number {
  const bits = new Int32Array(1)
  const float = new Float32Array(bits.buffer)
  float[0] = value
  bits[0]! += direction
  return float[0]
}

test('binary16 has the values of its definition', (t) => {
  const cases: [bits: number, value: number][] = [
    [0x0000, 0],
    [0x8000, -0],
    [0x0001, 2 ** -24],
    [0x83ff, -1023 * 2 ** -24],
    [0x0400, 2 ** -14],
    [0x3555, 0.333251953125],
    [0x3c00, 1],
    [0xc000, -2],
    [0x7bff, 65504],
    [0x7c00, Infinity],
    [0xfc00, -Infinity],
    [0x7e01, NaN],
  ]
  for (const [bits, value] of cases) t.is(decodeF16(Uint16Array.of(bits))[0], value, bits.toString(16))
})

test('bfloat16 has the values of its definition', (t) => {
  const cases: [bits: number, value: number][] = [
    [0x0000, 0],
    [0x8000, -0],
    [0x0001, 2 ** -133],
    [0x3f80, 1],
    [0xc049, -3.140625],
    [0x7f7f, 255 * 2 ** 120],
    [0xff80, -Infinity],
    [0x7fc0, NaN],
  ]
  for (const [bits, value] of cases) t.is(decodeBF16(Uint16Array.of(bits))[0], value, bits.toString(16))
})

test('every binary16 pattern survives float32 and back, NaNs as NaNs', (t) => {
  const values = decodeF16(patterns)
  const back = encodeF16(values)
  const wrong = [...patterns].filter((bits) =>
    Number.isNaN(values[bits]) ? !((back[bits]! & 0x7fff) > infinity) : back[bits] !== bits,
  )
  t.deepEqual(wrong, [])
  t.is(values.filter(Number.isNaN).length, 2 * (0x7fff - infinity))
})

test('float32 is rounded to the nearest binary16, a tie to the even one', (t) => {
  const wrong: number[] = []
  for (let bits = 0; bits + 1 < infinity; bits++) {
    const [low, high] = decodeF16(Uint16Array.of(bits, bits + 1))
    const tie = (low! + high!) / 2
    const rounded = encodeF16(Float32Array.of(tie, neighbour(tie, -1), neighbour(tie, 1), -tie))
    const even = bits % 2 === 0 ? bits : bits + 1
    if (rounded.join() !== [even, bits, bits + 1, even | 0x8000].join()) wrong.push(bits)
  }
  t.deepEqual(wrong, [])
})

test('a bfloat16 is the upper half of its float32', (t) => {
  const upper = new Uint32Array(decodeBF16(patterns).buffer).map((bits) => bits >>> 16)
  t.deepEqual([...upper], [...patterns])
})

test('what is too large becomes infinite, what is too small becomes zero', (t) => {
  const values = Float32Array.of(65519.99, 65520, -65536, 1e30, 2 ** -25, -(2 ** -26), 1e-40)
  t.deepEqual([...encodeF16(values)], [0x7bff, 0x7c00, 0xfc00, 0x7c00, 0, 0x8000, 0])
})

test('a part of an array can be the target', (t) => {
  const all = new Float32Array(4)
  decodeF16(Uint16Array.of(0x3c00, 0x4000), all.subarray(1, 3))
  t.deepEqual([...all], [0, 1, 2, 0])
  decodeBF16(Uint16Array.of(0x3f80), all.subarray(3))
  t.deepEqual([...all], [0, 1, 2, 1])
})
