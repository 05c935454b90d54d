// Philox4x32-10 against the known answers of its authors (Random123, tests/kat_vectors), and the numbers made of it.

import test from 'ava'
import { philox, uniforms } from '../../src/engine/random.js'

const hex = (words: readonly number[]) => words.map((word) => word.toString(16).padStart(8, '0')).join(' ')

const take = (count: number, key: readonly [number, number, number, number]) => {
  const source = uniforms(...key)
  return Array.from({ length: count }, () => source.next().value)
}

test('known answers', (t) => {
  const ones = 0xffffffff
  t.is(hex(philox([0, 0, 0, 0], [0, 0])), '6627e8d5 e169c58d bc57ac4c 9b00dbd8')
  t.is(hex(philox([ones, ones, ones, ones], [ones, ones])), '408f276d 41c83b0e a20bc7c6 6d5451fd')
  t.is(
    hex(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])),
    'd16cfe09 94fdcceb 5001e420 24126ea1',
  )
})

test('uniform numbers are the words of consecutive blocks', (t) => {
  const expected = [0, 1].flatMap((block) => philox([7, 2, 5, block], [11, 0])).map((word) => word / 2 ** 32)
  t.deepEqual(take(8, [11, 7, 2, 5]), expected)
})

test('a key gives its numbers again; another in any part gives others', (t) => {
  const keys = [
    [1, 2, 3, 4],
    [2, 2, 3, 4],
    [1, 3, 3, 4],
    [1, 2, 4, 4],
    [1, 2, 3, 5],
    [1 + 2 ** 32, 2, 3, 4],
    [2 ** 53 - 1, 2, 3, 4],
  ] as const
  const series = keys.map((key) => take(4, key).join())
  t.is(new Set(series).size, keys.length)
  t.deepEqual(take(100, [1, 2, 3, 4]), take(100, [1, 2, 3, 4]))
})

test('numbers are in [0, 1), even, and neighbours are not related', (t) => {
  const count = 40_000
  const values = Array.from({ length: count / 4 }, (_, step) => take(4, [3, step, 0, 0])).flat()
  t.true(values.every((value) => value >= 0 && value < 1))
  // Deviations below are five or more times their standard error.
  const mean = values.reduce((sum, value) => sum + value, 0) / count
  t.true(Math.abs(mean - 0.5) < 5 * Math.sqrt(1 / 12 / count))
  const bins = new Array<number>(16).fill(0)
  for (const value of values) bins[Math.floor(value * 16)]!++
  const chiSquared = bins.reduce((sum, found) => sum + (found - count / 16) ** 2 / (count / 16), 0)
  t.true(chiSquared < 60, `χ² of 15 degrees of freedom: ${chiSquared}`)
  for (const lag of [1, 4]) {
    const products = values.slice(lag).map((value, i) => (value - 0.5) * (values[i]! - 0.5))
    const correlation = products.reduce((sum, value) => sum + value, 0) / products.length / (1 / 12)
    t.true(Math.abs(correlation) < 5 / Math.sqrt(count), `lag ${lag}: ${correlation}`)
  }
})
