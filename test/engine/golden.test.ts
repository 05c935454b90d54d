// The original implementations' numbers (float64) against our graphs (float32): every network, every vector-Jacobian
// product, eight steps of a whole edit. GOLDEN names another folder of the same layout, with other architectures.

import { existsSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Edit, type EditConstants } from '../../src/engine/edit.js'
import { Engine } from '../../src/engine/engine.js'
import { gradient } from '../../src/engine/graph/gradient.js'
import { Graph, type Value } from '../../src/engine/graph/graph.js'
import * as op from '../../src/engine/graph/ops.js'
import { N } from '../../src/engine/graph/shape.js'
import { encodeImage, encodeText } from '../../src/engine/networks/clip.js'
import { lpipsDistance, lpipsFeatures, tapCount } from '../../src/engine/networks/lpips.js'
import * as vqgan from '../../src/engine/networks/vqgan.js'
import { Weights } from '../../src/engine/networks/weights.js'
import { clipHeads, describeClip } from '../../src/engine/pack/describe.js'
import { importPack } from '../../src/engine/pack/import.js'
import type { Pack } from '../../src/engine/pack/pack.js'
import { type Safetensors, openSafetensors } from '../../src/engine/pack/safetensors.js'
import { specificationOf } from '../../src/engine/parameters.js'
import type { Tensor } from '../../src/engine/runtime.js'
import { type StepSpecification, names, prepareGraph, textGraph } from '../../src/engine/step-graph.js'
import { centreView, viewInputNames } from '../../src/engine/views.js'
import { floats, relativeError, runGraph, withFolder } from '../support/graphs.js'

const folder = process.env['GOLDEN'] ?? fileURLToPath(new URL('../../../../shared/golden/tiny', import.meta.url))
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
  // The original's derivative is 0 exactly in the middle, where it multiplies by a sign; the true one is 1.
  const middle = values.read('soft_clamp.x').indexOf(0.5)
  const expected = values.read('soft_clamp.grad').map((slope, i) => (i === middle ? 1 : slope))
  const error = relativeError(floats(results!['grad']), expected)
  t.true(error < tolerance, `soft_clamp.grad: relative error ${error}`)
  if (middle >= 0) t.is(floats(results!['grad'])[middle], 1)
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

interface Architectures {
  readonly clips: Readonly<Record<string, { readonly transformer_heads?: number }>>
}

const architectures: Architectures = golden
  ? (JSON.parse(readFileSync(join(folder, 'architectures.json'), 'utf8')) as Architectures)
  : { clips: { vit: {}, rn: {} } }
const networks = Object.keys(architectures.clips)

/** The original's rule for image towers; the heads of text towers are an argument of its constructor. */
function headsOf(name: string, source: Safetensors): { image: number; text: number } {
  const { image, text } = clipHeads(describeClip(source.tensors))
  return { image, text: architectures.clips[name]?.transformer_heads ?? text }
}

/** The golden token sequences of a network, as its text tower takes them: the end token has the highest id. */
function textInputs(values: Safetensors, name: string): { ids: Tensor; last: Tensor } {
  const tokens = values.read(`clip-${name}.tokens`)
  const [count, length] = values.tensors.get(`clip-${name}.tokens`)!.shape as [number, number]
  const last = new Float32Array(count * length)
  for (let i = 0; i < count; i++) {
    const row = tokens.subarray(i * length, (i + 1) * length)
    last[i * length + row.indexOf(Math.max(...row))] = 1
  }
  return {
    ids: { shape: [count, length], data: BigInt64Array.from(tokens, BigInt) },
    last: { shape: [count, 1, length], data: last },
  }
}

for (const name of networks) {
  goldenTest(`CLIP ${name}: image tower, its gradient, text tower`, async (t, values) => {
    const source = checkpoint(`clip-${name}`)
    const weights = new Weights(source)
    const heads = headsOf(name, source)
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

    const inputs = textInputs(values, name)
    const text = new Graph()
    const length = inputs.ids.shape[1]!
    const ids = text.input('ids', 'int64', [N, length])
    text.output('embedding', encodeText(ids, text.input('last', 'float32', [N, 1, length]), weights, heads.text))
    const [embedded] = await runGraph(text, inputs)
    close(t, embedded!['embedding'], values, `clip-${name}.text_embedding`)
  })
}

/** Pairs of printable symbols, as many as the vocabulary has merges: the edit below is given tokens, not texts. */
function syntheticMerges(vocabularySize: number): string {
  const symbols = Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i))
  const pairs = symbols.flatMap((a) => symbols.flatMap((b) => [`${a} ${b}</w>`, `${a} ${b}`]))
  return ['#version: 0.2', ...pairs.slice(0, vocabularySize - 514), ''].join('\n')
}

/** Those that take part in the edit. */
const edited = networks.filter((name) => golden?.tensors.has(`edit.target.${name}`))

/** The golden networks as a pack. */
async function goldenPack(values: Safetensors, place: string): Promise<void> {
  const path = (name: string) => join(folder, `${name}.safetensors`)
  const merges = join(place, 'merges.txt')
  const { vocabularySize } = describeClip(checkpoint(`clip-${edited[0]!}`).tensors)
  await writeFile(merges, syntheticMerges(vocabularySize))
  await importPack({
    name: 'golden',
    folder: join(place, 'pack'),
    autoencoder: path('vqgan'),
    clip: edited.map((name) => ({
      name,
      path: path(`clip-${name}`),
      heads: headsOf(name, checkpoint(`clip-${name}`)),
    })),
    trunk: path('vgg16'),
    linear: path('lpips'),
    merges,
    overrides: {
      image: { size: values.tensors.get('image')!.shape[1]!, background: 'white' },
      views: { padding: 'zeros' },
      normGroups: vqganOptions.normGroups,
    },
  })
}

/** What the released configuration sets, with the deterministic view in place of the random ones. */
const parameters = {
  preset: 'reference',
  views: 0,
  learningRate: 0.05,
  lambdaP: 0.15,
  lambdaZ: 0.05,
  lambdaS: 0.4,
  lambdaI: 0.2,
} as const

/** The edit's constants from the golden picture and tokens; `Engine.prepare` would take them from bytes and texts. */
async function goldenConstants(
  t: ExecutionContext,
  values: Safetensors,
  pack: Pack,
  specification: StepSpecification,
): Promise<EditConstants> {
  const [, height, width] = values.tensors.get('image')!.shape as [number, number, number]
  const inputs: Record<string, Tensor> = { image: batched(values, 'image') }
  const tokens: Record<string, Tensor> = {}
  for (const name of edited) {
    const { y, x } = centreView(height, width, pack.clip(name).config.imageResolution)
    const input = viewInputNames(name)
    inputs[input.y] = { shape: [1, 1, y.length], data: y }
    inputs[input.x] = { shape: [1, 1, x.length], data: x }
    const { ids, last } = textInputs(values, name)
    tokens[`ids.${name}`] = ids
    tokens[`last.${name}`] = last
  }
  const [prepared] = await runGraph(prepareGraph(pack, specification), inputs)
  const [texts] = await runGraph(textGraph(pack, specification), tokens)
  close(t, prepared!['z0'], values, 'vqgan.z0')
  const embeddings = edited.map((name) => {
    const [image, both] = [floats(prepared![names.embedding(name)]), floats(texts![names.embedding(name)])]
    const [sourceText, targetText] = [both.slice(0, image.length), both.slice(image.length, 2 * image.length)]
    const { lambdaI, lambdaS } = parameters
    const target = targetText.map((value, i) => value + lambdaI * image[i]! - lambdaS * sourceText[i]!)
    close(t, { shape: [target.length], data: target }, values, `edit.target.${name}`)
    return [name, { target, sourceText, targetText }] as const
  })
  const features = Array.from({ length: tapCount }, (_, tap) => {
    const { shape } = prepared![names.feature(tap)]!
    return { shape, data: floats(prepared![names.feature(tap)]) }
  })
  return { z0: floats(prepared!['z0']), embeddings: new Map(embeddings), features }
}

const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, i) => sum + value * b[i]!, 0)
const length = (vector: Float32Array) => Math.sqrt(dot(vector, vector))

goldenTest('the whole edit, step by step', (t, values) =>
  withFolder(async (place) => {
    await goldenPack(values, place)
    const engine = await Engine.open({ pack: join(place, 'pack'), cacheFolder: join(place, 'cache'), threads: 1 })
    const blank = { height: engine.size, width: engine.size, data: new Uint8Array(engine.size ** 2 * 3) }
    const initial = engine.begin({ picture: blank, source: 'source', target: 'target', parameters })
    const specification = specificationOf(initial.parameters)
    const constants = await goldenConstants(t, values, engine.pack, specification)
    const latents = values.read('edit.z')
    const size = constants.z0.length
    const steps = latents.length / size - 1
    const latent = (step: number) => latents.slice(step * size, (step + 1) * size)
    // The first step begins where z = z0 to the bit, the others at the golden latents.
    const edits = Array.from(
      { length: steps },
      (_, step) =>
        new Edit({ ...initial, step, z: step === 0 ? undefined : latent(step) }, specification, constants, []),
    )
    const starts = edits.map((edit) => edit.z)
    const reports = await engine.step(edits)
    await engine.close()

    for (const [step, { losses, similaritySource, similarityTarget }] of reports.entries()) {
      const found = {
        loss: losses.total,
        loss_clip: losses.clip,
        loss_lpips: losses.lpips!,
        loss_z: losses.latent!,
        sim_source: similaritySource,
        sim_target: similarityTarget,
      }
      for (const [name, value] of Object.entries(found)) {
        const error = Math.abs(value - values.read(`edit.${name}`)[step]!)
        t.true(error < tolerance, `${name} of step ${step}: ${error} beside the golden value`)
      }
    }
    const errors = edits.slice(1).map((edit, i) => {
      const expected = latent(i + 2)
      return length(edit.z.map((value, j) => value - expected[j]!)) / length(expected)
    })
    t.log(`latents: ${Math.max(...errors).toExponential(1)}`)
    errors.forEach((error, i) => t.true(error < 1e-5, `the latent after step ${i + 1}: relative error ${error}`))
    checkFirstStep(
      t,
      values,
      edits[0]!.z.map((value, j) => starts[0]![j]! - value),
      constants.z0,
    )
  }),
)

/**
 * At z = z0 the original has, besides our gradient g, that of its noise: n = λ_z/Σ‖z0^i‖ times the unit vectors of the
 * noise. Only directions are known, of g from our step and of g + n from the original's, so n must lie between the two:
 * n = a·(direction of g + n) − b·(direction of g) for positive a and b.
 */
function checkFirstStep(t: ExecutionContext, values: Safetensors, moved: Float32Array, z0: Float32Array): void {
  const area = z0.length / values.tensors.get('vqgan.z0')!.shape[1]!
  const lengths = (latent: Float32Array) => {
    const squares = new Float64Array(area)
    latent.forEach((value, i) => (squares[i % area]! += value ** 2))
    return squares.map(Math.sqrt)
  }
  const noise = values.read('edit.noise').slice(0, z0.length)
  const noiseLengths = lengths(noise)
  const total = lengths(z0).reduce((sum, value) => sum + value, 0)
  const n = noise.map((value, i) => (parameters.lambdaZ * value) / noiseLengths[i % area]! / total)
  const ours = moved.map((value) => value / length(moved))
  const theirs = values.read('edit.unit_gradient').slice(0, z0.length)
  // Least squares in the plane of the two unit vectors.
  const [cosine, p, q] = [dot(theirs, ours), dot(n, theirs), dot(n, ours)]
  const a = (p - cosine * q) / (1 - cosine ** 2)
  const b = (cosine * p - q) / (1 - cosine ** 2)
  const rest = length(n.map((value, i) => value - a * theirs[i]! + b * ours[i]!)) / length(n)
  t.log(`the first step: ${rest.toExponential(1)} of the noise's gradient is not explained`)
  t.true(a > 0 && b > 0 && rest < 0.05, `${a} ${b} ${rest}`)
}
