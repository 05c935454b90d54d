// The original implementations' numbers (float64) against our graphs (float32): every network, every vector-Jacobian
// product, eight steps of a whole edit. FLEXIT_GOLDEN names another folder of the same layout, with other architectures.

import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { gradient } from '../../src/engine/graph/gradient.js'
import { Graph, type Value } from '../../src/engine/graph/graph.js'
import * as op from '../../src/engine/graph/ops.js'
import { N } from '../../src/engine/graph/shape.js'
import { encodeImage, encodeText } from '../../src/engine/networks/clip.js'
import { lpipsDistance, lpipsFeatures } from '../../src/engine/networks/lpips.js'
import * as vqgan from '../../src/engine/networks/vqgan.js'
import { Weights } from '../../src/engine/networks/weights.js'
import { clipHeads, describeClip } from '../../src/engine/pack/describe.js'
import { type Safetensors, openSafetensors } from '../../src/engine/pack/safetensors.js'
import type { Tensor } from '../../src/engine/runtime.js'
import { floats, relativeError, runGraph } from '../support/graphs.js'

const folder = process.env['FLEXIT_GOLDEN'] ?? fileURLToPath(new URL('../../../../shared/golden/tiny', import.meta.url))
const golden = existsSync(join(folder, 'golden.safetensors'))
  ? openSafetensors(join(folder, 'golden.safetensors'))
  : undefined
const tolerance = 1e-4

/** A test that is skipped, with a word, where the golden values are not at hand. */
function goldenTest(title: string, body: (t: ExecutionContext, values: Safetensors) => Promise<void>): void {
  if (golden === undefined) test.skip(`${title} (no golden values in ${folder})`, () => undefined)
  else test(title, (t) => body(t, golden))
}

const checkpoint = (name: string) => openSafetensors(join(folder, `${name}.safetensors`))
const vqganOptions = { normGroups: 32 }

function tensor(values: Safetensors, name: string, shape?: readonly number[]): Tensor {
  return { shape: shape ?? values.tensors.get(name)!.shape, data: values.read(name) }
}

/** With a batch axis in front. */
function batched(values: Safetensors, name: string): Tensor {
  return tensor(values, name, [1, ...values.tensors.get(name)!.shape])
}

const inputLike = (graph: Graph, name: string, { shape }: Tensor): Value =>
  graph.input(name, 'float32', [N, ...shape.slice(1)])

function close(t: ExecutionContext, actual: Tensor | undefined, values: Safetensors, name: string): void {
  const error = relativeError(floats(actual), values.read(name))
  t.log(`${name}: ${error.toExponential(1)}`)
  t.true(error < tolerance, `${name}: relative error ${error}`)
}

goldenTest('the VQGAN encoder and decoder', async (t, values) => {
  const weights = new Weights(checkpoint('vqgan'))
  const image = batched(values, 'image')
  const z = tensor(values, 'vqgan.z')
  const cotangent = tensor(values, 'vqgan.cotangent')

  const encoder = new Graph()
  encoder.output('z0', vqgan.encode(op.sub(op.mul(inputLike(encoder, 'image', image), 2), 1), weights, vqganOptions))
  const [encoded] = await runGraph(encoder, { image })
  close(t, encoded!['z0'], values, 'vqgan.z0')

  const decoder = new Graph()
  const latent = inputLike(decoder, 'z', z)
  const decoded = vqgan.decode(latent, weights, vqganOptions)
  decoder.output('decode', decoded)
  decoder.output('grad_z', gradient(decoded, inputLike(decoder, 'cotangent', cotangent), [latent])[0]!)
  const [results] = await runGraph(decoder, { z, cotangent })
  close(t, results!['decode'], values, 'vqgan.decode')
  close(t, results!['grad_z'], values, 'vqgan.grad_z')
})

goldenTest('the soft clamp and its derivative', async (t, values) => {
  const graph = new Graph()
  const x = graph.input('x', 'float32', [N])
  const y = op.softClamp(op.sub(op.mul(x, 2), 1))
  graph.output('y', y)
  graph.output('grad', gradient(y, op.add(op.mul(x, 0), 1), [x])[0]!)
  const [results] = await runGraph(graph, { x: tensor(values, 'soft_clamp.x') })
  close(t, results!['y'], values, 'soft_clamp.y')
  close(t, results!['grad'], values, 'soft_clamp.grad')
})

goldenTest('LPIPS and its gradient', async (t, values) => {
  const [trunk, linear] = [new Weights(checkpoint('vgg16')), new Weights(checkpoint('lpips'))]
  const options = { trunk: 'vgg16', shift: [-0.03, -0.088, -0.188], scale: [0.458, 0.448, 0.45] } as const
  const x = tensor(values, 'lpips.x')
  const image = batched(values, 'image')
  const graph = new Graph()
  const input = inputLike(graph, 'x', x)
  const [features, others] = [input, inputLike(graph, 'image', image)].map((v) =>
    lpipsFeatures(v, trunk, linear, options),
  )
  const value = lpipsDistance(features!, others!)
  graph.output('value', value)
  graph.output('grad_x', gradient(value, op.add(op.mul(value, 0), 1), [input])[0]!)
  const [results] = await runGraph(graph, { x, image })
  close(t, results!['value'], values, 'lpips.value')
  close(t, results!['grad_x'], values, 'lpips.grad_x')
})

const architectures =
  golden && (JSON.parse(readFileSync(join(folder, 'architectures.json'), 'utf8')) as { clips: object })
for (const name of Object.keys(architectures?.clips ?? { vit: {}, rn: {} })) {
  goldenTest(`CLIP ${name}: image tower, its gradient, text tower`, async (t, values) => {
    const source = checkpoint(`clip-${name}`)
    const weights = new Weights(source)
    const heads = clipHeads(describeClip(source.tensors))
    const image = tensor(values, `clip-${name}.image`)
    const cotangent = tensor(values, `clip-${name}.cotangent`)
    const graph = new Graph()
    const input = inputLike(graph, 'image', image)
    const embedding = encodeImage(input, weights, heads.image)
    graph.output('embedding', embedding)
    graph.output('grad', gradient(embedding, inputLike(graph, 'cotangent', cotangent), [input])[0]!)
    const [results] = await runGraph(graph, { image, cotangent })
    close(t, results!['embedding'], values, `clip-${name}.image_embedding`)
    close(t, results!['grad'], values, `clip-${name}.grad_image`)

    const tokens = values.read(`clip-${name}.tokens`)
    const [count, length] = values.tensors.get(`clip-${name}.tokens`)!.shape as [number, number]
    const last = new Float32Array(count * length)
    for (let i = 0; i < count; i++) {
      const row = tokens.subarray(i * length, (i + 1) * length)
      last[i * length + row.indexOf(Math.max(...row))] = 1
    }
    const text = new Graph()
    const ids = text.input('ids', 'int64', [N, length])
    text.output('embedding', encodeText(ids, text.input('last', 'float32', [N, 1, length]), weights, heads.text))
    const [embedded] = await runGraph(text, {
      ids: { shape: [count, length], data: BigInt64Array.from(tokens, BigInt) },
      last: { shape: [count, 1, length], data: last },
    })
    close(t, embedded!['embedding'], values, `clip-${name}.text_embedding`)
  })
}
