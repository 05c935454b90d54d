// A sample gives the same bits alone and in a batch, on one thread and on two: every operation, every composite and
// their gradients, at the sizes of the gradient tests and at such as occur in networks.

import test, { type ExecutionContext } from 'ava'
import { gradient } from '../../../src/engine/graph/gradient.js'
import type { Value } from '../../../src/engine/graph/graph.js'
import { lower } from '../../../src/engine/graph/lowering.js'
import { type OperationName, operationNames } from '../../../src/engine/graph/operations.js'
import * as op from '../../../src/engine/graph/ops.js'
import { N, type Shape, isBatch } from '../../../src/engine/graph/shape.js'
import { descend, embeddingLoss, latentLoss } from '../../../src/engine/losses.js'
import type { Session, Tensor } from '../../../src/engine/runtime.js'
import { gradientCases } from '../../support/cases.js'
import { withSession } from '../../support/graphs.js'
import { type Case, Point, awayFromZero, whole } from '../../support/point.js'

const largest = 7
const batches = [1, 2, 3, 4, 7]

const convolution =
  (input: Shape, weight: readonly number[], options: op.ConvOptions = {}): Case =>
  ({ x, w }) =>
    op.conv(x(input), w(weight), w([weight[0]!]), options)

const heads: Shape = [N, 6, 37, 64]

/** Differentiated, at sizes of networks. */
const large: Readonly<Record<string, Case>> = {
  'convolution of a picture': convolution([N, 3, 64, 64], [32, 3, 3, 3], { padding: 1 }),
  'convolution 3×3 in a decoder': convolution([N, 64, 36, 36], [64, 64, 3, 3], { padding: 1 }),
  'convolution 3×3 of many channels': convolution([N, 256, 9, 9], [256, 256, 3, 3], { padding: 1 }),
  'convolution 1×1': convolution([N, 128, 18, 18], [256, 128, 1, 1]),
  'convolution with stride 2': convolution([N, 3, 96, 96], [24, 3, 3, 3], { stride: 2, padding: 1 }),
  'linear layer': ({ x, w }) => op.add(op.matmul(x([N, 50, 256]), w([256, 768])), w([768])),
  'linear layer of one row': ({ x, w }) => op.matmul(x([N, 512]), w([512, 256])),
  attention: ({ x }) => {
    const [q, k, v] = [x(heads), x(heads), x(heads)]
    return op.matmul(op.softmax(op.matmul(op.mul(q, 0.125), op.transposeLast(k))), v)
  },
  'attention with one query': ({ x }) =>
    op.matmul(op.softmax(op.matmul(x([N, 6, 1, 64]), op.transposeLast(x([N, 6, 50, 64])))), x([N, 6, 50, 64])),
  'attention of pixels': ({ x }) => op.matmul(x([N, 64, 324]), op.transposeLast(op.softmax(x([N, 324, 324])))),
  'resampling of views': ({ x, data }) =>
    op.matmul(op.matmul(data([N, 8, 1, 48, 72]), x([N, 1, 3, 72, 72])), op.transposeLast(data([N, 8, 1, 48, 72]))),
  'padding of views': ({ x, w }) => op.matmul(op.matmul(w([84, 72]), x([N, 1, 3, 72, 72])), w([72, 84])),
  'rotation of views': ({ x, data }) => op.shift(x([N, 4, 3, 64, 64]), data([N, 4, 1, 64, 1], whole(8)), 4),
  'group norm of 32 groups': ({ x, w }) => op.groupNorm(x([N, 128, 18, 18]), w([128]), w([128]), 32, 1e-6),
  'group norm of a large map': ({ x, w }) => op.groupNorm(x([N, 32, 64, 64]), w([32]), w([32]), 8, 1e-6),
  'layer norm': ({ x, w }) => op.layerNormalization(x([N, 50, 768]), w([768]), w([768]), 1e-5)[0],
  SiLU: ({ x }) => op.silu(x([N, 32, 64, 64]), 1.702),
  'soft clamp': ({ x }) => op.softClamp(x([N, 3, 72, 72])),
  'ReLU, max pooling': ({ x }) => op.maxPool(op.relu(x([N, 32, 48, 48])), 2),
  'average pooling': ({ x }) => op.averagePool(x([N, 64, 36, 36]), 2),
  upsampling: ({ x }) => op.upsample(x([N, 32, 36, 36]), 2),
  'LPIPS of a feature map': ({ x, data, w }) =>
    op.sumSquares(op.sub(op.mul(op.unitNorm(x([N, 64, 36, 36]), 1, 1e-10), w([1, 64, 1, 1])), data([N, 64, 36, 36]))),
  'mean over positions': ({ x }) => op.reduceMean(x([N, 81, 256]), [1]),
  'mean over views': ({ x }) => op.reduceMean(op.reshape(op.unitNorm(x([{ factor: 8 }, 512]), 1), [N, 8, 512]), [1]),
  'sum over channels': ({ x }) => op.reduceSum(x([N, 256, 18, 18]), [1]),
  'sum over two axes': ({ x }) => op.reduceSum(x([N, 3, 40, 40]), [1, 2]),
  'embedding loss': ({ x, data }) =>
    embeddingLoss('reference', [x([N, 512]), x([N, 640])], [data([N, 512]), data([N, 640])]),
  'embedding loss of the paper': ({ x, data }) => embeddingLoss('paper', [x([N, 512])], [data([N, 512])]),
  'latent loss': ({ x, data }) => latentLoss('reference', x([N, 256, 18, 18]), data([N, 256, 18, 18])),
}

/** Not differentiated. */
const forward: Readonly<Record<string, Case>> = {
  'one step of descent': ({ data }) =>
    descend(data([N, 256, 18, 18]), data([N, 256, 18, 18]), data([N, 256, 18, 18]), data([N])),
  choices: ({ data }) => {
    const [a, b] = [data([N, 3, 64, 64]), data([N, 3, 64, 64])]
    const rounded = op.round(b)
    return op.where(op.greater(a, b), op.where(op.equal(op.sign(a), op.sign(b)), op.max(a, b), rounded), rounded)
  },
  'functions of one value': ({ data }) => {
    const a = data([N, 5, 33, 31], awayFromZero)
    const positive = op.add(op.abs(a), op.reciprocal(op.sqrt(op.abs(a))))
    return op.add(op.tanh(op.pow(positive, 0.3)), op.clip(op.neg(op.sigmoid(a)), -0.5, -0.2))
  },
  'largest entry': ({ data }) => op.reduceMax(data([N, 82944]), [1]),
  'rows of a table': ({ data, w }) =>
    op.gather(w([600, 64]), op.cast(op.abs(op.round(op.mul(data([N, 77]), 50))), 'int64')),
}

/** The samples [start, end) of a batch, for an axis that may be several times the batch. */
function samples({ shape, data }: Tensor, start: number, end: number): Tensor {
  const size = data.length / largest
  return {
    shape: [(shape[0]! / largest) * (end - start), ...shape.slice(1)],
    data: data.slice(start * size, end * size),
  }
}

const bytes = ({ data }: Tensor) => Buffer.from(data.buffer, data.byteOffset, data.byteLength)

async function checkInvariance(t: ExecutionContext, point: Point): Promise<void> {
  const names = [...point.graph.outputs.keys()]
  const run = (session: Session, start: number, end: number) =>
    session.run(
      Object.fromEntries(Object.entries(point.inputs).map(([name, tensor]) => [name, samples(tensor, start, end)])),
    )
  const whole = await withSession(point.graph, 1, async (session) => {
    const expected = await run(session, 0, largest)
    for (const size of batches) {
      for (const start of new Set([0, largest - size])) {
        const results = await run(session, start, start + size)
        for (const name of names) {
          const same = bytes(results[name]!).equals(bytes(samples(expected[name]!, start, start + size)))
          t.true(same, `${name} of samples ${start} to ${start + size - 1}`)
        }
      }
    }
    return expected
  })
  await withSession(point.graph, 2, async (session) => {
    for (const size of [1, largest]) {
      const results = await run(session, 0, size)
      for (const name of names) {
        t.true(bytes(results[name]!).equals(bytes(samples(whole[name]!, 0, size))), `${name} on two threads`)
      }
    }
  })
}

/** The case as a graph with its result and, for each variable, the gradient. */
function withGradients(build: Case): Point {
  const point = new Point(largest, 1)
  const y = build(point)
  point.graph.output('y', y)
  const cotangent = point.data(y.shape)
  gradient(y, cotangent, point.variables).forEach((g, i) => point.graph.output(`grad${i}`, g))
  return point
}

function withoutGradients(build: Case): Point {
  const point = new Point(largest, 1)
  point.graph.output('y', build(point))
  return point
}

const startsWithBatch = ({ shape }: Value) => shape[0] !== undefined && isBatch(shape[0])

const small = Object.entries(gradientCases).flatMap(([operation, { cases }]) =>
  Object.entries(cases).map(([title, build]) => [`${operation}: ${title}`, build] as const),
)
const points = [
  ...[...small, ...Object.entries(large)].map(([title, build]) => [title, withGradients(build)] as const),
  ...Object.entries(forward).map(([title, build]) => [title, withoutGradients(build)] as const),
]

for (const [title, point] of points) {
  const { inputs, outputs } = point.graph
  if ([...inputs, ...outputs.values()].every(startsWithBatch)) test(title, (t) => checkInvariance(t, point))
}

test('every operation is among the cases', (t) => {
  const seen = new Set<OperationName>()
  for (const [, { graph }] of points) {
    for (const { nodes } of [graph, lower(graph)]) for (const { operation } of nodes) seen.add(operation)
  }
  t.deepEqual([...seen].sort(), [...operationNames].sort())
})
