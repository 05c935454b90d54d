// The autoencoder of taming-transformers (https://github.com/CompVis/taming-transformers, taming/modules/diffusionmodules/model.py),
// used without its codebook: the latent stays continuous. Levels, blocks and attention are read off the weights.

import type { Value } from '../graph/graph.js'
import * as op from '../graph/ops.js'
import { type Dim, fixed } from '../graph/shape.js'
import { conv2d } from './layers.js'
import type { Weights } from './weights.js'

const normEpsilon = 1e-6

export interface VqganOptions {
  /** Groups of every GroupNorm: 32 in the original. */
  readonly normGroups: number
}

/** Pixels per latent position along each axis. */
export function downsamplingFactor(weights: Weights): number {
  return 2 ** (weights.count('encoder.down', 'block.0.norm1.weight') - 1)
}

/** quant_conv(encoder(image)): image [N, 3, H, W], nominally in [−1, 1] → z [N, embed_dim, H/f, W/f]. */
export function encode(image: Value, weights: Weights, options: VqganOptions): Value {
  const encoder = weights.at('encoder')
  const features = image.graph.scope('encoder', () => {
    const levels = encoder.count('down', 'block.0.norm1.weight')
    let h = conv2d(image, encoder, 'conv_in', { padding: 1 })
    for (let level = 0; level < levels; level++) {
      h = blocks(h, encoder.at(`down.${level}`), `down.${level}`, options)
      if (encoder.has(`down.${level}.downsample.conv.weight`)) {
        // The original pads with zeros at the bottom and right only.
        h = conv2d(h, encoder, `down.${level}.downsample.conv`, { stride: 2, padding: [0, 0, 1, 1] })
      }
    }
    h = middle(h, encoder.at('mid'), options)
    return conv2d(op.silu(norm(h, encoder, 'norm_out', options)), encoder, 'conv_out', { padding: 1 })
  })
  return conv2d(features, weights, 'quant_conv')
}

/** decoder(post_quant_conv(z)): z [N, embed_dim, h, w] → image [N, 3, h·f, w·f], nominally in [−1, 1], not clamped. */
export function decode(z: Value, weights: Weights, options: VqganOptions): Value {
  const decoder = weights.at('decoder')
  const start = conv2d(z, weights, 'post_quant_conv')
  return z.graph.scope('decoder', () => {
    let h = middle(conv2d(start, decoder, 'conv_in', { padding: 1 }), decoder.at('mid'), options)
    for (let level = decoder.count('up', 'block.0.norm1.weight') - 1; level >= 0; level--) {
      h = blocks(h, decoder.at(`up.${level}`), `up.${level}`, options)
      if (decoder.has(`up.${level}.upsample.conv.weight`)) {
        h = conv2d(op.upsample(h, 2), decoder, `up.${level}.upsample.conv`, { padding: 1 })
      }
    }
    return conv2d(op.silu(norm(h, decoder, 'norm_out', options)), decoder, 'conv_out', { padding: 1 })
  })
}

/** The residual blocks of a level, each followed by attention where the weights have it. */
function blocks(h: Value, weights: Weights, name: string, options: VqganOptions): Value {
  return h.graph.scope(name, () => {
    const count = weights.count('block', 'norm1.weight')
    for (let i = 0; i < count; i++) {
      h = residualBlock(h, weights.at(`block.${i}`), `block.${i}`, options)
      if (weights.has(`attn.${i}.norm.weight`)) h = attentionBlock(h, weights.at(`attn.${i}`), `attn.${i}`, options)
    }
    return h
  })
}

function middle(h: Value, weights: Weights, options: VqganOptions): Value {
  return h.graph.scope('mid', () => {
    h = residualBlock(h, weights.at('block_1'), 'block_1', options)
    h = attentionBlock(h, weights.at('attn_1'), 'attn_1', options)
    return residualBlock(h, weights.at('block_2'), 'block_2', options)
  })
}

function residualBlock(x: Value, weights: Weights, name: string, options: VqganOptions): Value {
  return x.graph.scope(name, () => {
    const first = conv2d(op.silu(norm(x, weights, 'norm1', options)), weights, 'conv1', { padding: 1 })
    const second = conv2d(op.silu(norm(first, weights, 'norm2', options)), weights, 'conv2', { padding: 1 })
    return op.add(weights.has('nin_shortcut.weight') ? conv2d(x, weights, 'nin_shortcut') : x, second)
  })
}

/** One head over all positions; its projections are 1×1 convolutions. */
function attentionBlock(x: Value, weights: Weights, name: string, options: VqganOptions): Value {
  return x.graph.scope(name, () => {
    const [n, c, height, width] = x.shape as readonly [Dim, Dim, Dim, Dim]
    const positions = fixed(height) * fixed(width)
    const normed = norm(x, weights, 'norm', options)
    const [q, k, v] = ['q', 'k', 'v'].map((part) => op.reshape(conv2d(normed, weights, part), [n, c, positions]))
    const scores = op.matmul(op.transposeLast(op.mul(q!, fixed(c) ** -0.5)), k!)
    const attended = op.matmul(v!, op.transposeLast(op.softmax(scores)))
    return op.add(x, conv2d(op.reshape(attended, x.shape), weights, 'proj_out'))
  })
}

function norm(x: Value, weights: Weights, name: string, { normGroups }: VqganOptions): Value {
  const channels = fixed(x.shape[1]!)
  const scale = weights.constant(x.graph, `${name}.weight`, [channels])
  return op.groupNorm(x, scale, weights.constant(x.graph, `${name}.bias`, [channels]), normGroups, normEpsilon)
}
