// The losses and the step of descent against their formulas, written out with plain numbers.

import test, { type ExecutionContext } from 'ava'
import { gradient } from '../../src/engine/graph/gradient.js'
import { Graph } from '../../src/engine/graph/graph.js'
import { N } from '../../src/engine/graph/shape.js'
import { limits } from '../../src/engine/limits.js'
import { descend, embeddingLoss, latentLoss, meanSimilarity } from '../../src/engine/losses.js'
import { floats, runGraph } from '../support/graphs.js'
import { Random } from '../support/random.js'

const batch = 3
const widths = [5, 8]
const [channels, height, width] = [4, 3, 2]
const area = height * width
const latentSize = channels * area

/** Of each sample. */
function close(t: ExecutionContext, actual: Float32Array, expected: readonly number[]): void {
  t.is(actual.length, expected.length)
  expected.forEach((value, i) =>
    t.true(Math.abs(actual[i]! - value) < 1e-5 * (1 + Math.abs(value)), `${actual[i]} ${value}`),
  )
}

const range = (length: number) => Array.from({ length }, (_, i) => i)
const row = (data: Float32Array, i: number) => [
  ...data.subarray((i * data.length) / batch, ((i + 1) * data.length) / batch),
]
const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, value, i) => sum + value * b[i]!, 0)
const length = (a: readonly number[]) => Math.sqrt(dot(a, a))

/** Σ over positions of the length of the vector of channels. */
const positionLengths = (z: readonly number[]) =>
  range(area).reduce((sum, at) => sum + length(range(channels).map((c) => z[c * area + at]!)), 0)

test('embedding losses and the mean similarity', async (t) => {
  const random = new Random(1)
  const embeddings = widths.map((size) => random.normals(batch * size))
  const targets = widths.map((size) => random.normals(batch * size))
  const graph = new Graph()
  const inputs = (name: string) => widths.map((size, i) => graph.input(`${name}${i}`, 'float32', [N, size]))
  const [e, p] = [inputs('e'), inputs('p')]
  graph.output('paper', embeddingLoss('paper', e, p))
  graph.output('reference', embeddingLoss('reference', e, p))
  graph.output('similarity', meanSimilarity(e, p))
  const [results] = await runGraph(
    graph,
    Object.fromEntries(
      widths.flatMap((size, i) => [
        [`e${i}`, { shape: [batch, size], data: embeddings[i]! }],
        [`p${i}`, { shape: [batch, size], data: targets[i]! }],
      ]),
    ),
  )
  const paper = range(batch).map((n) => {
    const differences = widths.flatMap((_, i) => row(embeddings[i]!, n).map((v, j) => v - row(targets[i]!, n)[j]!))
    return dot(differences, differences)
  })
  const similarity = range(batch).map(
    (n) => (dot(row(embeddings[0]!, n), row(targets[0]!, n)) + dot(row(embeddings[1]!, n), row(targets[1]!, n))) / 2,
  )
  close(t, floats(results!['paper']), paper)
  close(t, floats(results!['similarity']), similarity)
  close(
    t,
    floats(results!['reference']),
    similarity.map((value) => -value),
  )
})

test('latent losses: zero at the start, finite for a latent of zeros', async (t) => {
  const random = new Random(2)
  const [z, z0] = [random.normals(batch * latentSize), random.normals(batch * latentSize)]
  const graph = new Graph()
  const shape = [N, channels, height, width]
  const [a, b] = [graph.input('z', 'float32', shape), graph.input('z0', 'float32', shape)]
  graph.output('paper', latentLoss('paper', a, b))
  graph.output('reference', latentLoss('reference', a, b))
  const tensor = (data: Float32Array) => ({ shape: [batch, channels, height, width], data })
  const zeros = new Float32Array(batch * latentSize)
  const [some, none, empty] = await runGraph(
    graph,
    { z: tensor(z), z0: tensor(z0) },
    { z: tensor(z0), z0: tensor(z0) },
    { z: tensor(zeros), z0: tensor(zeros) },
  )
  const distances = range(batch).map((n) => positionLengths(row(z, n).map((value, i) => value - row(z0, n)[i]!)))
  close(t, floats(some!['paper']), distances)
  close(
    t,
    floats(some!['reference']),
    distances.map((value, n) => value / positionLengths(row(z0, n))),
  )
  for (const results of [none, empty]) {
    for (const preset of ['paper', 'reference']) t.deepEqual([...floats(results![preset])], [0, 0, 0])
  }
})

test('a black picture’s pixels have a gradient of zero, whatever the weight', async (t) => {
  const graph = new Graph()
  const shape = [N, channels, height, width]
  const [z, z0] = [graph.input('z', 'float32', shape), graph.input('z0', 'float32', shape)]
  const weight = graph.input('weight', 'float32', [N])
  const [grad] = gradient(latentLoss('reference', z, z0), weight, [z])
  graph.output('grad', grad!)
  const zeros = { shape: [1, channels, height, width], data: new Float32Array(latentSize) }
  const heaviest = { shape: [1], data: Float32Array.of(limits.lambda) }
  const [results] = await runGraph(graph, { z: zeros, z0: zeros, weight: heaviest })
  t.true(floats(results!['grad']).every((value) => value === 0))
})

/** The latents after a step along `gradient`, each sample with its own learning rate. */
async function step(z: Float32Array, z0: Float32Array, gradient: Float32Array, rates: readonly number[]) {
  const graph = new Graph()
  const shape = [N, channels, height, width]
  const [a, b, g] = ['z', 'z0', 'g'].map((name) => graph.input(name, 'float32', shape))
  graph.output('next', descend(a!, b!, g!, graph.input('rate', 'float32', [N])))
  const tensor = (data: Float32Array) => ({ shape: [rates.length, channels, height, width], data })
  const rate = { shape: [rates.length], data: Float32Array.from(rates) }
  const [results] = await runGraph(graph, { z: tensor(z), z0: tensor(z0), g: tensor(gradient), rate })
  return floats(results!['next'])
}

for (const scale of [1, 1e-20, 1e-35, 1e25]) {
  test(`a step is as long as the learning rate times ‖z0‖, against a gradient of order ${scale}`, async (t) => {
    const random = new Random(3)
    const [z, z0, direction] = range(3).map(() => random.normals(batch * latentSize)) as [
      Float32Array,
      Float32Array,
      Float32Array,
    ]
    const rates = [0.05, 1, 3]
    const next = await step(
      z,
      z0,
      direction.map((value) => value * scale),
      rates,
    )
    for (const n of range(batch)) {
      const moved = row(next, n).map((value, i) => value - row(z, n)[i]!)
      const expected = rates[n]! * length(row(z0, n))
      t.true(Math.abs(length(moved) / expected - 1) < 1e-5)
      const cosine = dot(moved, row(direction, n)) / length(moved) / length(row(direction, n))
      t.true(Math.abs(cosine + 1) < 1e-5, `${cosine}`)
    }
  })
}

test('a gradient of zero leaves the latent where it is, to the bit, and only that sample', async (t) => {
  const random = new Random(4)
  const [z, z0] = [random.normals(batch * latentSize), random.normals(batch * latentSize)]
  const gradient = random.normals(batch * latentSize).fill(0, latentSize, 2 * latentSize)
  const next = await step(z, z0, gradient, [0.05, 0.05, 0.05])
  t.deepEqual(row(next, 1), row(z, 1))
  t.notDeepEqual(row(next, 0), row(z, 0))
  t.notDeepEqual(row(next, 2), row(z, 2))
})

test('a gradient that is not finite makes the latent not finite, of that sample only', async (t) => {
  const random = new Random(5)
  const [z, z0] = [random.normals(batch * latentSize), random.normals(batch * latentSize)]
  const gradient = random.normals(batch * latentSize)
  gradient[latentSize + 3] = NaN
  const next = await step(z, z0, gradient, [0.05, 0.05, 0.05])
  t.deepEqual(
    range(batch).map((n) => row(next, n).every(Number.isFinite)),
    [true, false, true],
  )
})
