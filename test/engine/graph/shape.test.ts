// Shapes with a symbolic batch axis.

import test from 'ava'
import {
  N,
  type Shape,
  broadcast,
  equalDims,
  equalShapes,
  fixed,
  formatShape,
  normaliseAxis,
  product,
} from '../../../src/engine/graph/shape.js'

const twoN = { factor: 2 }

test('broadcasting follows ONNX', (t) => {
  const cases: readonly [Shape, Shape, Shape][] = [
    [[], [2, 3], [2, 3]],
    [[3], [2, 3], [2, 3]],
    [
      [2, 1],
      [1, 3],
      [2, 3],
    ],
    [[N, 3], [3], [N, 3]],
    [
      [N, 3],
      [1, 1],
      [N, 3],
    ],
    [
      [1, 3],
      [N, 1],
      [N, 3],
    ],
    [
      [twoN, 1, 4],
      [5, 1],
      [twoN, 5, 4],
    ],
    [[N], [N], [N]],
  ]
  for (const [a, b, expected] of cases) {
    t.deepEqual(broadcast(a, b), expected)
    t.deepEqual(broadcast(b, a), expected)
  }
})

test('shapes that cannot be broadcast are an error that gives both', (t) => {
  t.throws(() => broadcast([2, 3], [2, 4]), { message: '[2, 3] and [2, 4] cannot be broadcast together' })
  t.throws(() => broadcast([N], [twoN]), { message: '[N] and [2N] cannot be broadcast together' })
  t.throws(() => broadcast([N], [2]), { message: '[N] and [2] cannot be broadcast together' })
})

test('lengths of the batch axis multiply', (t) => {
  t.is(product([2, 3]), 6)
  t.is(product([]), 1)
  t.deepEqual(product([N, 2, 3]), { factor: 6 })
  t.deepEqual(product([4, twoN]), { factor: 8 })
  t.throws(() => product([N, twoN]), { message: 'two batch axes in [N, 2N]' })
})

test('equality looks at factors', (t) => {
  t.true(equalDims(N, { factor: 1 }))
  t.false(equalDims(N, twoN))
  t.false(equalDims(N, 1))
  t.true(equalShapes([N, 3], [{ factor: 1 }, 3]))
  t.false(equalShapes([N, 3], [N, 3, 1]))
})

test('a symbolic length is not a number', (t) => {
  t.is(fixed(7), 7)
  t.throws(() => fixed(twoN), { message: 'the axis length 2N is not static' })
})

test('axes count from both ends', (t) => {
  t.deepEqual(
    [-3, -1, 0, 2].map((axis) => normaliseAxis(axis, 3)),
    [0, 2, 0, 2],
  )
  for (const axis of [-4, 3]) t.throws(() => normaliseAxis(axis, 3), { message: `axis ${axis} of a value of rank 3` })
})

test('shapes as text', (t) => {
  t.is(formatShape([N, { factor: 8 }, 3]), '[N, 8N, 3]')
  t.is(formatShape([]), '[]')
})
