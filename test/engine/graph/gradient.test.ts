// Every row of the table of gradients against finite differences, or against its own operation where that is linear;
// and the walker: accumulation, what is left out, what is refused.

import test, { type ExecutionContext } from 'ava'
import { gradientRules } from '../../../src/engine/graph/gradient-rules.js'
import { gradient } from '../../../src/engine/graph/gradient.js'
import { Graph, type Value } from '../../../src/engine/graph/graph.js'
import { type OperationName, operationNames } from '../../../src/engine/graph/operations.js'
import * as op from '../../../src/engine/graph/ops.js'
import { N } from '../../../src/engine/graph/shape.js'
import type { Tensor } from '../../../src/engine/runtime.js'
import { gradientCases } from '../../support/cases.js'
import { floats, runGraph } from '../../support/graphs.js'
import { type Case, Point } from '../../support/point.js'
import { Random } from '../../support/random.js'

const batch = 2
const directions = 3

/**
 * Step of the differences. With four points the error of the formula is h⁴/30 times a fifth derivative, about 1e-7 for
 * the steepest of the functions here; that of the numbers is float32's 6e-8 / h, about 6e-6, times what cancels in sums.
 */
const step = 0.01
const differenceTolerance = 2e-4
const adjointTolerance = 1e-5

type Inputs = Readonly<Record<string, Tensor>>

/** Inputs with the variables moved by `distance` along a direction. */
function moved(inputs: Inputs, direction: ReadonlyMap<string, Float32Array>, distance: number): Inputs {
  return Object.fromEntries(
    Object.entries(inputs).map(([name, { shape, data }]) => {
      const along = direction.get(name)
      const values = along === undefined ? data : (data as Float32Array).map((x, i) => x + distance * along[i]!)
      return [name, { shape, data: values }]
    }),
  )
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}

const norm = (a: ArrayLike<number>) => Math.sqrt(dot(a, a))

/** ⟨u, ∂y/∂x·v⟩ by the gradient and by the operation itself, in units of the product of their lengths. */
async function checkGradient(t: ExecutionContext, build: Case, linear: boolean, seed: number): Promise<void> {
  const point = new Point(batch, seed)
  const y = build(point)
  const random = new Random(seed + 1)
  point.graph.output('y', y)
  const cotangent = point.graph.input('u', 'float32', y.shape)
  const u = point.tensor(y.shape)
  gradient(y, cotangent, point.variables).forEach((g, i) => {
    t.deepEqual(g.shape, point.variables[i]!.shape)
    point.graph.output(`grad${i}`, g)
  })
  const base: Inputs = { ...point.inputs, u }
  const along = Array.from(
    { length: directions },
    () => new Map(point.variables.map(({ name }) => [name, random.normals(base[name]!.data.length)])),
  )
  const zero = new Map(point.variables.map(({ name }) => [name, floats(base[name])]))
  const offsets = linear ? [1] : [step, -step, 2 * step, -2 * step]
  const origin = linear ? moved(base, zero, -1) : base
  const [at, ...others] = await runGraph(
    point.graph,
    origin,
    ...along.flatMap((v) => offsets.map((distance) => moved(origin, v, distance))),
  )
  const [y0, grads] = [floats(at!['y']), point.variables.map((_, i) => floats(at![`grad${i}`]))]
  const magnitude = norm(grads.flatMap((g) => [...g]))
  for (const [i, v] of along.entries()) {
    const results = others.slice(i * offsets.length, (i + 1) * offsets.length).map((r) => floats(r['y']))
    const change = y0.map((value, j) =>
      linear
        ? results[0]![j]! - value
        : (8 * (results[0]![j]! - results[1]![j]!) - (results[2]![j]! - results[3]![j]!)) / (12 * step),
    )
    const expected = dot(change, u.data as Float32Array)
    const actual = grads.reduce((sum, g, k) => sum + dot(g, v.get(point.variables[k]!.name)!), 0)
    const scale = Math.max(magnitude, norm(change) * norm(u.data as Float32Array), 1e-3)
    const error = Math.abs(actual - expected) / scale
    t.true(error < (linear ? adjointTolerance : differenceTolerance), `direction ${i}: ${actual}, expected ${expected}`)
  }
}

for (const [operation, { linear = false, cases }] of Object.entries(gradientCases)) {
  for (const [i, [title, build]] of Object.entries(cases).entries()) {
    test(`${operation}: ${title}`, (t) => checkGradient(t, build, linear, i + 1))
  }
}

test('every rule has a case, and every operation a rule or a reason', (t) => {
  t.deepEqual(Object.keys(gradientRules).sort(), [...operationNames].sort())
  const differentiable = operationNames.filter((name) => gradientRules[name] !== 'none')
  t.deepEqual(Object.keys(gradientCases).sort(), [...differentiable].sort())
  for (const { cases } of Object.values(gradientCases)) t.true(Object.keys(cases).length > 0)
})

test('each case differentiates the operation that it is listed under', (t) => {
  for (const [operation, { cases }] of Object.entries(gradientCases)) {
    for (const [title, build] of Object.entries(cases)) {
      const { graph } = build(new Point(1, 1))
      t.true(
        graph.nodes.some((node) => node.operation === (operation as OperationName)),
        `${operation}: ${title}`,
      )
    }
  }
})

/** The gradient of y with respect to x [N, …] for given values of x and of the cotangent. */
async function gradientAt(
  build: (x: Value) => Value,
  shape: readonly number[],
  values: readonly number[],
  cotangent: readonly number[],
): Promise<Float32Array> {
  const graph = new Graph()
  const x = graph.input('x', 'float32', [N, ...shape.slice(1)])
  const y = build(x)
  const u = graph.input('u', 'float32', y.shape)
  graph.output('grad', gradient(y, u, [x])[0]!)
  const size = y.shape.map((dim) => (typeof dim === 'number' ? dim : dim.factor * shape[0]!))
  const [results] = await runGraph(graph, {
    x: { shape, data: Float32Array.from(values) },
    u: { shape: size, data: Float32Array.from(cotangent) },
  })
  return floats(results!['grad'])
}

test('MaxPool routes the gradient to the first of equal maxima in row-major order', async (t) => {
  const pool = (x: Value) => op.maxPool(x, 2)
  const grad = await gradientAt(
    pool,
    [1, 1, 4, 5],
    [...[0, 7, 3, 3, 9], ...[7, 7, 3, 3, 9], ...[1, 2, -1, -5, 9], ...[4, 4, -1, -1, 9]],
    [10, 20, 30, 40],
  )
  t.deepEqual([...grad], [...[0, 10, 20, 0, 0], ...[0, 0, 0, 0, 0], ...[0, 0, 40, 0, 0], ...[30, 0, 0, 0, 0]])
})

test('MaxPool with a flat and a zero picture: one pixel of each window takes the gradient', async (t) => {
  for (const value of [0, -3]) {
    const flat = Array<number>(16).fill(value)
    const grad = await gradientAt((x) => op.maxPool(x, 2), [1, 1, 4, 4], flat, [1, 2, 3, 4])
    t.deepEqual([...grad], [1, 0, 2, 0, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0])
  }
})

test('Relu has no gradient at 0 and below', async (t) => {
  t.deepEqual([...(await gradientAt(op.relu, [1, 4], [-1, 0, 1e-20, 2], [3, 4, 5, 6]))], [0, 0, 5, 6])
})

test('the soft clamp has the slope ½ at 0, and 0 far away', async (t) => {
  const grad = await gradientAt(
    op.softClamp,
    [1, 7],
    [0, -0, 1e-30, -1e-7, 1e4, -1e4, 3e38],
    Array(7).fill(2) as number[],
  )
  t.deepEqual([...grad].map(Math.abs), [1, 1, 1, 1, 0, 0, 0])
})

for (const epsilon of [0, 1e-10, 0.5]) {
  test(`UnitNorm with ε ${epsilon}: a zero vector has a gradient of exactly zero, its neighbours keep theirs`, async (t) => {
    const unit = (x: Value) => op.unitNorm(x, 1, epsilon)
    const grad = await gradientAt(unit, [3, 2], [0, 0, 3, 4, 0, 0], [1, -2, 1, 0, 1e10, 1e10])
    t.deepEqual([...grad.slice(0, 2), ...grad.slice(4)].map(Math.abs), [0, 0, 0, 0])
    // (u − y·⟨u, x/n⟩)/(n + ε) with n = 5
    const along = 3 / 5
    const expected = [1, 0].map((u, i) => u / (5 + epsilon) - ([3, 4][i]! * along) / (5 + epsilon) ** 2)
    expected.forEach((value, i) => t.true(Math.abs(grad[2 + i]! - value) < 1e-7))
  })
}

test('L2Norm: a zero vector has a gradient of exactly zero', async (t) => {
  const grad = await gradientAt((x) => op.l2Norm(x, 1), [2, 2], [0, 0, 3, 4], [5, 10])
  t.deepEqual([...grad.slice(0, 2)].map(Math.abs), [0, 0])
  t.true(Math.abs(grad[2]! - 6) < 1e-6 && Math.abs(grad[3]! - 8) < 1e-6)
})

test('the uses of a value accumulate', async (t) => {
  // y = x² + 3x + x·relu(x): dy/dx = 2x + 3 + 2x for x > 0
  const build = (x: Value) => op.add(op.add(op.mul(x, x), op.mul(x, 3)), op.mul(x, op.relu(x)))
  const grad = await gradientAt(build, [1, 3], [1, 2, 5], [1, 1, 10])
  t.deepEqual([...grad], [7, 11, 230])
})

test('a gradient with respect to a value that another variable depends on', (t) => {
  const graph = new Graph()
  const x = graph.input('x', 'float32', [N, 3])
  const y = op.mul(x, 2, 'y')
  const [dX, dY] = gradient(op.sumSquares(y), op.sumSquares(y), [x, y])
  t.deepEqual([dX!.shape, dY!.shape], [x.shape, y.shape])
})

test('a variable that the loss does not depend on is an error that names both', (t) => {
  const graph = new Graph()
  const [x, other] = ['x', 'other'].map((name) => graph.input(name, 'float32', [N, 3]))
  const loss = op.sumSquares(x!, 'loss')
  t.throws(() => gradient(loss, loss, [x!, other!]), { message: 'loss does not depend on other' })
})

test('a cotangent of another shape is an error that gives both shapes', (t) => {
  const graph = new Graph()
  const x = graph.input('x', 'float32', [N, 3])
  t.throws(() => gradient(op.relu(x, 'y'), op.sumSquares(x), [x]), { message: 'the cotangent is [N], y is [N, 3]' })
})

test('an operation without a rule on the path is an error that names its node', (t) => {
  const graph = new Graph()
  const x = graph.input('x', 'float32', [N, 3])
  const loss = graph.scope('head', () => op.sumSquares(op.tanh(x, 'squash')))
  t.throws(() => gradient(loss, loss, [x]), { message: 'Tanh "head/squash" has no gradient rule' })
})

test('an operation without a rule beside the path does no harm', (t) => {
  const graph = new Graph()
  const [x, other] = ['x', 'other'].map((name) => graph.input(name, 'float32', [N, 3]))
  const loss = op.sumSquares(op.mul(x!, op.tanh(other!)))
  t.notThrows(() => gradient(loss, loss, [x!]))
})

test('a convolution with a weight that is not constant is an error that names its node', (t) => {
  const graph = new Graph()
  const x = graph.input('x', 'float32', [N, 2, 4, 4])
  const weight = graph.input('weight', 'float32', [2, 2, 1, 1])
  const y = op.conv(x, weight, undefined, { name: 'mix' })
  t.throws(() => gradient(y, y, [x]), {
    message: /gradient of Conv "mix": .* the weight of a convolution to be constant/,
  })
})

test('pooling windows that overlap are an error that names the node', (t) => {
  const graph = new Graph()
  const x = graph.input('x', 'float32', [N, 2, 5, 5])
  const y = op.maxPool(x, 3, 2)
  t.throws(() => gradient(y, y, [x]), { message: /gradient of MaxPool "MaxPool": .* overlap/ })
})

test('a variable that is shared by the whole batch is an error: samples do not add up', (t) => {
  const graph = new Graph()
  const shared = graph.input('shared', 'float32', [1])
  for (const shape of [[N], [N, 3]]) {
    const y = op.mul(graph.input('batch', 'float32', shape), shared)
    t.throws(() => gradient(y, y, [shared]), { message: /^shared is shared by all samples/ })
  }
})

test('only paths from the variables are differentiated', (t) => {
  const graph = new Graph()
  const [x, constant] = ['x', 'constant'].map((name) => graph.input(name, 'float32', [N, 3]))
  const beside = op.relu(constant!, 'beside')
  const before = op.relu(x!, 'path')
  op.silu(x!)
  const loss = op.sumSquares(op.mul(before, beside, 'product'), 'loss')
  gradient(loss, loss, [x!])
  const differentiated = new Set(
    graph.nodes.flatMap(({ name }) => (name.includes('_grad') ? [name.slice(0, name.indexOf('_grad'))] : [])),
  )
  t.deepEqual([...differentiated].sort(), ['loss', 'path', 'product'])
})
