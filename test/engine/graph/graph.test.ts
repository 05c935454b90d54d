// Building graphs: sharing of equal nodes, names, scopes, and errors that say which node does not fit.

import test from 'ava'
import { Graph, type Value, reachable } from '../../../src/engine/graph/graph.js'
import { lower } from '../../../src/engine/graph/lowering.js'
import * as op from '../../../src/engine/graph/ops.js'
import { N } from '../../../src/engine/graph/shape.js'
import { floats, runGraph } from '../../support/graphs.js'

function withInputs(...names: readonly string[]): [Graph, ...Value[]] {
  const graph = new Graph()
  return [graph, ...names.map((name) => graph.input(name, 'float32', [N, 3]))]
}

test('a node that is there already is not built again', (t) => {
  const [graph, x, y] = withInputs('x', 'y')
  t.is(op.add(x!, y!), op.add(x!, y!))
  t.is(op.mul(x!, 2), op.mul(x!, 2))
  t.is(op.reduceSum(x!, [-1]), op.reduceSum(x!, [1]))
  t.is(graph.nodes.length, 3)
})

test('nodes that differ in operands, their order or attributes are different', (t) => {
  const [graph, x, y] = withInputs('x', 'y')
  const values = [op.sub(x!, y!), op.sub(y!, x!), op.mul(x!, 2), op.mul(x!, 3), op.pow(x!, 2), op.pow(x!, 3)]
  t.is(new Set(values).size, values.length)
  t.is(graph.nodes.length, values.length)
})

test('values of the same name in different graphs are not mixed up', (t) => {
  const [, a] = withInputs('x')
  const [, b] = withInputs('x')
  t.not(op.relu(a!), op.relu(b!))
})

test('names are unique, also where they are taken on purpose', (t) => {
  const [graph, x] = withInputs('x')
  const names = [op.relu(x!, 'a'), op.neg(x!, 'a'), op.abs(x!, 'a_1'), op.sign(x!, 'a')].map(({ name }) => name)
  t.is(new Set(names).size, 4, names.join(', '))
  t.is(names[0], 'a')
  const again = graph.input('x', 'float32', [])
  t.not(again.name, x!.name)
})

test('scopes nest, and end also after an error', (t) => {
  const [graph, x] = withInputs('x')
  const inner = graph.scope('a', () => graph.scope('b', () => op.relu(x!)))
  t.is(inner.name, 'a/b/Relu')
  t.throws(() =>
    graph.scope('c', () => {
      throw new Error('no')
    }),
  )
  t.is(op.neg(x!, 'outside').name, 'outside')
  t.is(graph.scope('d', () => graph.constant('w', [1], Float32Array.of(1))).name, 'd/w')
  t.is(graph.scope('d', () => graph.input('y', 'float32', [])).name, 'y')
})

test('numbers become scalars that are shared', (t) => {
  const [graph, x] = withInputs('x')
  t.is(graph.scalar(2), graph.scalar(2))
  t.not(graph.scalar(0), graph.scalar(1))
  t.is(op.add(x!, 2), op.add(x!, 2))
  t.throws(() => op.add(1, 2), { message: 'one operand must be a value of a graph' })
})

test('a constant is read only when asked for, and derived once for each key', (t) => {
  const graph = new Graph()
  let reads = 0
  const weight = graph.constant('w', [2], () => {
    reads++
    return Float32Array.of(1, 2)
  })
  const twice = (data: Float32Array) => data.map((value) => 2 * value)
  const derived = graph.derivedConstant(weight, 'twice', [2], twice)
  t.is(graph.derivedConstant(weight, 'twice', [2], twice), derived)
  t.is(derived.name, 'w.twice')
  t.is(reads, 0)
  t.deepEqual((derived.constant as () => Float32Array)(), Float32Array.of(2, 4))
  t.is(reads, 1)
  t.throws(() => graph.derivedConstant(op.relu(weight), 'twice', [2], twice), { message: /not a float32 constant/ })
})

test('an output cannot have the name of another one, or of an input', (t) => {
  const [graph, x] = withInputs('x')
  graph.output('y', x!)
  t.throws(() => graph.output('y', x!), { message: 'the name y of an output is taken' })
  t.throws(() => graph.output('x', x!), { message: 'the name x of an output is taken' })
})

const wrong: Readonly<Record<string, [(x: Value) => unknown, RegExp]>> = {
  'shapes that do not broadcast': [
    (x) => op.add(x, x.graph.constant('w', [5], new Float32Array(5)), 'sum'),
    /^Add "sum" of x float32\[N, 6, 4, 4\], w float32\[5\]: /,
  ],
  'types that differ': [(x) => op.add(x, op.cast(x, 'int64')), /Add "Add".*: operands of different types/],
  'inner axes of a product': [
    (x) => op.matmul(x, x.graph.constant('w', [3, 2], new Float32Array(6))),
    /MatMul .*inner axes differ/,
  ],
  'a vector in a product': [
    (x) => op.matmul(x, x.graph.constant('w', [4], new Float32Array(4))),
    /MatMul .*two axes or more/,
  ],
  'channels of a convolution': [
    (x) => op.conv(x, x.graph.constant('w', [2, 5, 1, 1], new Float32Array(10)), undefined, { name: 'mix' }),
    /^Conv "mix" .*channels of input and weight differ/,
  ],
  'a reshape to another size': [(x) => op.reshape(x, [N, 5]), /Reshape .*cannot become \[N, 5\]/],
  'a reshape that loses the batch': [(x) => op.reshape(x, [96]), /Reshape .*cannot become \[96\]/],
  'an axis twice': [(x) => op.transpose(x, [0, 1, 1, 3]), /Transpose .*not a permutation/],
  'a slice beyond the end': [(x) => op.slice(x, 2, 1, 5), /Slice .*\[1, 5\) is not a range of axis 2/],
  'an empty slice': [(x) => op.slice(x, 2, 1, 1), /Slice .*is not a range/],
  'a slice of the batch': [(x) => op.slice(x, 0, 0, 1), /Slice .*the axis length N is not static/],
  'parts that do not fit together': [(x) => op.concat([x, op.slice(x, 3, 0, 2)], 1), /Concat .*shapes differ/],
  'an axis that is not there': [(x) => op.reduceSum(x, [4]), /axis 4 of a value of rank 4/],
  'groups that do not divide the channels': [
    (x) => op.groupNorm(x, x, x, 4, 1e-5),
    /GroupNorm .*cannot be split into 4 groups/,
  ],
  'a shift that differs along its axis': [(x) => op.shift(x, x, 3), /Shift .*the same along its axis/],
  'a condition that is not bool': [(x) => op.where(x, x, x), /Where .*must be bool/],
}

for (const [title, [build, message]] of Object.entries(wrong)) {
  test(`operands that do not fit: ${title}`, (t) => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', [N, 6, 4, 4])
    t.throws(() => build(x), { message })
  })
}

test('only what outputs need is reachable, in an order in which it can be computed', (t) => {
  const [graph, x] = withInputs('x')
  const a = op.relu(x!, 'a')
  op.neg(a, 'unused')
  const b = op.abs(a, 'b')
  t.deepEqual(
    reachable(graph, [b]).map(({ name }) => name),
    ['a', 'b'],
  )
})

test('lowering keeps inputs, outputs and the names of operations, and builds what composites share once', (t) => {
  const [graph, x] = withInputs('x')
  graph.input('unused', 'float32', [N])
  graph.output('norm', op.l2Norm(x!, 1))
  graph.output('unit', op.unitNorm(x!, 1))
  graph.output('same', x!)
  const lowered = lower(graph)
  t.deepEqual(
    lowered.inputs.map(({ name }) => name),
    ['x', 'unused'],
  )
  t.deepEqual([...lowered.outputs.keys()], ['norm', 'unit', 'same'])
  t.is(lowered.nodes.filter(({ operation }) => operation === 'ReduceSum').length, 1)
  t.true(lowered.nodes.every(({ name }) => /^(L2Norm|UnitNorm)/.test(name)))
})

test('an output may be an input, a constant, or the same value twice', async (t) => {
  const [graph, x] = withInputs('x')
  graph.output('same', x!)
  graph.output('again', x!)
  graph.output('weight', graph.constant('w', [2], Float32Array.of(4, 5)))
  const data = Float32Array.of(1, 2, 3)
  const [results] = await runGraph(graph, { x: { shape: [1, 3], data } })
  t.deepEqual(floats(results!['same']), data)
  t.deepEqual(floats(results!['again']), data)
  t.deepEqual(floats(results!['weight']), Float32Array.of(4, 5))
})
