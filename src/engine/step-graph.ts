// The graphs of an edit: everything before the first step, one step, and the picture of a latent (FlexIT, figure 2).
// The step graph holds forward pass, losses, gradient, update and preview; a batch of edits goes through it at once.

import { gradient } from './graph/gradient.js'
import { Graph, type Value } from './graph/graph.js'
import * as op from './graph/ops.js'
import { N } from './graph/shape.js'
import { type Preset, descend, embeddingLoss, latentLoss, meanSimilarity } from './losses.js'
import * as clip from './networks/clip.js'
import { lpipsDistance, lpipsFeatures } from './networks/lpips.js'
import * as vqgan from './networks/vqgan.js'
import type { ClipNetwork, Pack } from './pack/pack.js'
import { type ViewOptions, views } from './views.js'

/** Everything that shapes the step graph of an edit: edits with the same specification can share a batch. */
export interface StepSpecification {
  readonly preset: Preset
  /** What is optimised: the latent of the autoencoder or the pixels themselves. */
  readonly space: 'latent' | 'pixels'
  /** Names of CLIP networks, in the pack's order. */
  readonly networks: readonly string[]
  /** Random views for each network and step; 0: the deterministic view. */
  readonly views: number
  /** Whether the graph has the LPIPS term, and the latent term. */
  readonly perceptual: boolean
  readonly latent: boolean
}

/** Shape of what is optimised, without the batch axis. */
export function variableShape(pack: Pack, space: StepSpecification['space']): readonly [number, number, number] {
  const { size } = pack.manifest.image
  if (space === 'pixels') return [3, size, size]
  const weights = pack.autoencoder()
  const [channels] = weights.shape('quant_conv.weight', [undefined, undefined, 1, 1]) as [number]
  const side = size / vqgan.downsamplingFactor(weights)
  return [channels, side, side]
}

/** Inputs and outputs by name, so that no string is written twice. */
export const names = {
  target: (network: string) => `target.${network}`,
  sourceText: (network: string) => `source_text.${network}`,
  targetText: (network: string) => `target_text.${network}`,
  embedding: (network: string) => `embedding.${network}`,
  feature: (tap: number) => `lpips.${tap}`,
} as const

/**
 * image [N, 3, S, S] in [0, 1] → `z0` (latent space only), `embedding.NAME` of the deterministic view, unit length
 * [N, E], and `lpips.I` where the specification has the perceptual term.
 */
export function prepareGraph(pack: Pack, specification: StepSpecification): Graph {
  const graph = new Graph()
  const image = imageInput(graph, pack)
  if (specification.space === 'latent') {
    const scaled = op.sub(op.mul(image, 2), 1)
    graph.output('z0', vqgan.encode(scaled, pack.autoencoder(), pack.manifest.autoencoder))
  }
  for (const network of selected(pack, specification)) {
    graph.output(names.embedding(network.name), meanEmbedding(image, network, deterministicViews(network)))
  }
  if (specification.perceptual) {
    perceptualFeatures(image, pack).forEach((feature, i) => graph.output(names.feature(i), feature))
  }
  return graph
}

/** `ids.NAME` [N, context] and `last.NAME` [N, 1, context] → `embedding.NAME` [N, E] of unit length. */
export function textGraph(pack: Pack, specification: StepSpecification): Graph {
  const graph = new Graph()
  for (const { name, weights, heads, config } of selected(pack, specification)) {
    graph.scope(name, () => {
      const { contextLength } = config
      const ids = graph.input(`ids.${name}`, 'int64', [N, contextLength])
      const last = graph.input(`last.${name}`, 'float32', [N, 1, contextLength])
      graph.output(names.embedding(name), op.unitNorm(clip.encodeText(ids, last, weights, heads.text), 1))
    })
  }
  return graph
}

/** z [N, C, h, w] → `preview` [N, S, S, 3] uint8. */
export function decodeGraph(pack: Pack): Graph {
  const graph = new Graph()
  const z = graph.input('z', 'float32', [N, ...variableShape(pack, 'latent')])
  graph.output('preview', toBytes(decode(z, pack)))
  return graph
}

/**
 * One optimisation step of N edits. Inputs, besides the views' (views.ts): `z`, `z0` [N, …]; `learning_rate`,
 * `lambda_p`, `lambda_z` [N]; for each network `target.`, `source_text.` and `target_text.NAME` [N, E]; `lpips.I`.
 * Outputs: `next` (z after the step), `preview` (the picture of z, before it) [N, S, S, 3] uint8, and [N] each: `loss`,
 * `loss_clip`, `loss_lpips`, `loss_latent` (without their λ), `similarity_source`, `similarity_target`.
 */
export function stepGraph(pack: Pack, specification: StepSpecification): Graph {
  const { preset, space, perceptual, latent } = specification
  const graph = new Graph()
  const shape = [N, ...variableShape(pack, space)]
  const z = graph.input('z', 'float32', shape)
  const z0 = graph.input('z0', 'float32', shape)
  const learningRate = graph.input('learning_rate', 'float32', [N])
  const image = space === 'latent' ? decode(z, pack) : z

  const networks = selected(pack, specification)
  const embeddings = networks.map((network) => meanEmbedding(image, network, randomViews(network, pack, specification)))
  const embeddingInputs = (name: (network: string) => string) =>
    networks.map((network, i) => graph.input(name(network.name), 'float32', embeddings[i]!.shape))
  const targets = embeddingInputs(names.target)
  const clipLoss = embeddingLoss(preset, embeddings, targets)
  graph.output('loss_clip', clipLoss)
  graph.output('similarity_source', meanSimilarity(embeddings, embeddingInputs(names.sourceText)))
  graph.output('similarity_target', meanSimilarity(embeddings, embeddingInputs(names.targetText)))

  let loss = clipLoss
  if (perceptual) {
    const features = perceptualFeatures(image, pack)
    const original = features.map((feature, i) => graph.input(names.feature(i), 'float32', feature.shape))
    const distance = lpipsDistance(features, original)
    graph.output('loss_lpips', distance)
    loss = op.add(loss, op.mul(graph.input('lambda_p', 'float32', [N]), distance))
  }
  if (latent) {
    const distance = latentLoss(preset, z, z0)
    graph.output('loss_latent', distance)
    loss = op.add(loss, op.mul(graph.input('lambda_z', 'float32', [N]), distance))
  }
  graph.output('loss', loss)

  const ones = op.add(op.mul(learningRate, 0), 1)
  const [gradZ] = gradient(loss, ones, [z])
  const next = descend(z, z0, gradZ!, learningRate)
  graph.output('next', space === 'pixels' ? op.clip(next, 0, 1) : next)
  graph.output('preview', toBytes(image))
  return graph
}

function imageInput(graph: Graph, pack: Pack): Value {
  const { size } = pack.manifest.image
  return graph.input('image', 'float32', [N, 3, size, size])
}

function selected(pack: Pack, { networks }: StepSpecification): ClipNetwork[] {
  return networks.map((name) => pack.clip(name))
}

function decode(z: Value, pack: Pack): Value {
  return op.softClamp(vqgan.decode(z, pack.autoencoder(), pack.manifest.autoencoder))
}

function perceptualFeatures(image: Value, pack: Pack): Value[] {
  const { trunk, linear } = pack.perceptual()
  return lpipsFeatures(image, trunk, linear, pack.manifest.perceptual)
}

function deterministicViews(network: ClipNetwork): ViewOptions {
  return { size: network.config.imageResolution, count: 1, rotate: false, padding: 'zeros' }
}

function randomViews(network: ClipNetwork, pack: Pack, specification: StepSpecification): ViewOptions {
  if (specification.views === 0) return deterministicViews(network)
  const { padding } = pack.manifest.views
  return { ...deterministicViews(network), count: specification.views, rotate: true, padding }
}

/** Unit embeddings of the views of each image, averaged and not made unit length again: [N, E]. */
function meanEmbedding(image: Value, network: ClipNetwork, options: ViewOptions): Value {
  return image.graph.scope(network.name, () => {
    const seen = clip.normaliseImage(views(image, network.name, options), network.mean, network.std)
    const embeddings = op.unitNorm(clip.encodeImage(seen, network.weights, network.heads.image), 1)
    if (options.count === 1) return embeddings
    const width = embeddings.shape[1]!
    return op.reshape(op.reduceMean(op.reshape(embeddings, [N, options.count, width]), [1]), [N, width])
  })
}

/** Pictures [N, 3, H, W] in [0, 1] → [N, H, W, 3] uint8, rounded. */
function toBytes(image: Value): Value {
  return op.cast(op.round(op.mul(op.clip(op.transpose(image, [0, 2, 3, 1]), 0, 1), 255)), 'uint8')
}
