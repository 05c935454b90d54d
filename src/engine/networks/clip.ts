// CLIP's towers (https://github.com/openai/CLIP, clip/model.py): ModifiedResNet with attention pooling, vision
// transformer, text transformer. Layers and widths are read off the weights; BatchNorm is folded.

import { type Graph, type Value } from '../graph/graph.js'
import { transposed } from '../graph/arrays.js'
import * as op from '../graph/ops.js'
import { type Dim, fixed } from '../graph/shape.js'
import { attention, joinHeads, layerNorm, linear, splitHeads, transformer } from './layers.js'
import type { Weights } from './weights.js'

const isTransformer = (weights: Weights) => weights.has('visual.proj')

/** The image tower: normalised images [N, 3, R, R] → embeddings [N, E], not of unit length. */
export function encodeImage(image: Value, weights: Weights, heads: number): Value {
  return image.graph.scope('visual', () =>
    isTransformer(weights)
      ? visionTransformer(image, weights.at('visual'), heads)
      : modifiedResNet(image, weights.at('visual'), heads),
  )
}

/**
 * The text tower: ids [N, context] int64 and, in `last` [N, 1, context], a 1 at the end token of each text → embeddings
 * [N, E], not of unit length.
 */
export function encodeText(ids: Value, last: Value, weights: Weights, heads: number): Value {
  const { graph } = ids
  return graph.scope('text', () => {
    const length = fixed(ids.shape[1]!)
    const table = weights.constant(graph, 'token_embedding.weight', [undefined, undefined])
    const width = fixed(table.shape[1]!)
    const positions = weights.constant(graph, 'positional_embedding', [length, width])
    const mask = new Float32Array(length ** 2)
    for (let i = 0; i < length; i++) mask.fill(-Infinity, i * length + i + 1, (i + 1) * length)
    const causal = graph.constant('causal_mask', [length, length], mask)
    let x = op.add(op.gather(table, ids), positions)
    x = graph.scope('transformer', () => transformer(x, weights.at('transformer'), heads, causal))
    const end = op.reshape(op.matmul(last, layerNorm(x, weights, 'ln_final')), [ids.shape[0]!, width])
    return op.matmul(end, weights.constant(graph, 'text_projection', [width, undefined]))
  })
}

function visionTransformer(image: Value, weights: Weights, heads: number): Value {
  const { graph } = image
  const [width, , patch] = weights.shape('conv1.weight', [undefined, 3, undefined, undefined]) as [
    number,
    number,
    number,
  ]
  const tokens = patchEmbedding(image, weights, width, patch)
  // The class token is a row of zeros before the patches, to which its embedding is added with the positions.
  const length = fixed(tokens.shape[1]!) + 1
  weights.shape('class_embedding', [width])
  weights.shape('positional_embedding', [length, width])
  const positions = graph.constant('positional_embedding', [length, width], () => {
    const table = weights.read('positional_embedding').slice()
    weights.read('class_embedding').forEach((value, i) => (table[i]! += value))
    return table
  })
  let x = layerNorm(op.add(op.pad(tokens, 1, 1, 0), positions), weights, 'ln_pre')
  x = graph.scope('transformer', () => transformer(x, weights.at('transformer'), heads))
  const classToken = op.reshape(op.slice(x, 1, 0, 1), [x.shape[0]!, width])
  return op.matmul(layerNorm(classToken, weights, 'ln_post'), weights.constant(graph, 'proj', [width, undefined]))
}

/** A convolution whose stride is its kernel, as a matrix product: [N, 3, R, R] → [N, (R/p)², width]. */
function patchEmbedding(image: Value, weights: Weights, width: number, patch: number): Value {
  const [n, channels, height, breadth] = image.shape as readonly [Dim, Dim, Dim, Dim]
  const [rows, columns] = [fixed(height) / patch, fixed(breadth) / patch]
  const size = fixed(channels) * patch ** 2
  const split = op.reshape(image, [n, channels, rows, patch, columns, patch])
  const patches = op.reshape(op.transpose(split, [0, 2, 4, 1, 3, 5]), [n, rows * columns, size])
  const kernel = weights.constant(image.graph, 'conv1.weight', [width, 3, patch, patch])
  const matrix = image.graph.derivedConstant(kernel, 'matrix', [size, width], (data) => transposed(data, width, size))
  return op.matmul(patches, matrix, 'conv1')
}

function modifiedResNet(image: Value, weights: Weights, heads: number): Value {
  const { graph } = image
  let x = op.relu(foldedConv(image, weights, 'conv1', 'bn1', { stride: 2, padding: 1 }))
  x = op.relu(foldedConv(x, weights, 'conv2', 'bn2', { padding: 1 }))
  x = op.averagePool(op.relu(foldedConv(x, weights, 'conv3', 'bn3', { padding: 1 })), 2)
  for (const layer of [1, 2, 3, 4]) {
    const blocks = weights.count(`layer${layer}`, 'conv1.weight')
    for (let i = 0; i < blocks; i++) {
      const name = `layer${layer}.${i}`
      x = graph.scope(name, () => bottleneck(x, weights.at(name), layer > 1 && i === 0 ? 2 : 1))
    }
  }
  return graph.scope('attnpool', () => attentionPool(x, weights.at('attnpool'), heads))
}

function bottleneck(x: Value, weights: Weights, stride: 1 | 2): Value {
  const reduce = (value: Value) => (stride === 1 ? value : op.averagePool(value, stride))
  let y = op.relu(foldedConv(x, weights, 'conv1', 'bn1'))
  y = reduce(op.relu(foldedConv(y, weights, 'conv2', 'bn2', { padding: 1 })))
  y = foldedConv(y, weights, 'conv3', 'bn3')
  const shortcut = weights.has('downsample.0.weight')
    ? foldedConv(reduce(x), weights, 'downsample.0', 'downsample.1')
    : x
  return op.relu(op.add(y, shortcut))
}

/** Attention with one query, the mean of all positions: [N, C, H, W] → [N, embedDim]. */
function attentionPool(x: Value, weights: Weights, heads: number): Value {
  const [n, c, height, width] = x.shape as readonly [Dim, Dim, Dim, Dim]
  const positions = fixed(height) * fixed(width)
  const tokens = op.transpose(op.reshape(x, [n, c, positions]), [0, 2, 1])
  const all = op.concat([op.reduceMean(tokens, [1]), tokens], 1)
  const table = weights.constant(x.graph, 'positional_embedding', [positions + 1, fixed(c)])
  const embedded = op.add(all, table)
  const q = splitHeads(linear(op.slice(embedded, 1, 0, 1), weights, 'q_proj'), heads)
  const [k, v] = ['k_proj', 'v_proj'].map((name) => splitHeads(linear(embedded, weights, name), heads))
  const pooled = linear(joinHeads(attention(q, k!, v!)), weights, 'c_proj')
  return op.reshape(pooled, [n, pooled.shape[2]!])
}

const batchNormEpsilon = 1e-5

/** A convolution without bias and the frozen BatchNorm behind it, as one convolution. */
function foldedConv(x: Value, weights: Weights, name: string, batchNorm: string, options: op.ConvOptions = {}): Value {
  const { graph } = x
  const shape = weights.shape(`${name}.weight`, [undefined, fixed(x.shape[1]!), undefined, undefined])
  const channels = shape[0]!
  const norm = weights.at(batchNorm)
  for (const tensor of ['weight', 'bias', 'running_mean', 'running_var']) norm.shape(tensor, [channels])
  const scales = () => {
    const [gamma, variance] = [norm.read('weight'), norm.read('running_var')]
    return gamma.map((value, i) => value / Math.sqrt(variance[i]! + batchNormEpsilon))
  }
  const kernel = graph.constant(`${name}.weight`, shape, () => {
    const [data, scale] = [weights.read(`${name}.weight`), scales()]
    const size = data.length / channels
    for (let c = 0; c < channels; c++) for (let i = 0; i < size; i++) data[c * size + i]! *= scale[c]!
    return data
  })
  const bias = graph.constant(`${name}.bias`, [channels], () => {
    const [mean, beta, scale] = [norm.read('running_mean'), norm.read('bias'), scales()]
    return beta.map((value, i) => value - mean[i]! * scale[i]!)
  })
  return op.conv(x, kernel, bias, { ...options, name })
}

/** (image − mean) / std by channel: images [N, 3, H, W] in [0, 1]. */
export function normaliseImage(image: Value, mean: readonly number[], std: readonly number[]): Value {
  const { graph } = image
  const slope = channelConstant(
    graph,
    'std_inverse',
    std.map((s) => 1 / s),
  )
  return op.add(
    op.mul(image, slope),
    channelConstant(
      graph,
      'mean_scaled',
      mean.map((m, i) => -m / std[i]!),
    ),
  )
}

/** [1, C, 1, 1]. */
export function channelConstant(graph: Graph, name: string, values: readonly number[]): Value {
  return graph.constant(name, [1, values.length, 1, 1], Float32Array.from(values))
}
