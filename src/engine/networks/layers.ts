// Layers that several networks share, in the key layouts of PyTorch's modules.

import type { Value } from '../graph/graph.js'
import { transposed } from '../graph/arrays.js'
import * as op from '../graph/ops.js'
import { type Dim, fixed } from '../graph/shape.js'
import type { ExpectedShape, Weights } from './weights.js'

/** torch.nn.Conv2d with a bias: x [N, C, H, W]. */
export function conv2d(x: Value, weights: Weights, name: string, options: op.ConvOptions = {}): Value {
  const kernel = weights.constant(x.graph, `${name}.weight`, [undefined, fixed(x.shape[1]!), undefined, undefined])
  const bias = weights.constant(x.graph, `${name}.bias`, [fixed(kernel.shape[0]!)])
  return op.conv(x, kernel, bias, { ...options, name })
}

/** torch.nn.Linear: x […, in] → […, out]. */
export function linear(x: Value, weights: Weights, name: string): Value {
  const matrix = weights.transposed(x.graph, `${name}.weight`, [undefined, fixed(x.shape.at(-1)!)])
  const bias = weights.constant(x.graph, `${name}.bias`, [fixed(matrix.shape[1]!)])
  return op.add(op.matmul(x, matrix, name), bias)
}

/** torch.nn.LayerNorm over the last axis. */
export function layerNorm(x: Value, weights: Weights, name: string): Value {
  const width: ExpectedShape = [fixed(x.shape.at(-1)!)]
  const scale = weights.constant(x.graph, `${name}.weight`, width)
  return op.layerNormalization(x, scale, weights.constant(x.graph, `${name}.bias`, width), 1e-5)[0]
}

/** Softmax(q·kᵀ/√d)·v for each head: q [N, heads, L, d], k and v [N, heads, M, d]; mask [L, M] is added. */
export function attention(q: Value, k: Value, v: Value, mask?: Value): Value {
  const scores = op.matmul(op.mul(q, fixed(q.shape.at(-1)!) ** -0.5), op.transposeLast(k))
  return op.matmul(op.softmax(mask === undefined ? scores : op.add(scores, mask)), v)
}

/** [N, L, W] → [N, heads, L, W / heads]. */
export function splitHeads(x: Value, heads: number): Value {
  const [n, length, width] = x.shape as readonly [Dim, Dim, Dim]
  return op.transpose(op.reshape(x, [n, length, heads, fixed(width) / heads]), [0, 2, 1, 3])
}

/** [N, heads, L, d] → [N, L, heads·d]. */
export function joinHeads(x: Value): Value {
  const [n, heads, length, size] = x.shape as readonly [Dim, Dim, Dim, Dim]
  return op.reshape(op.transpose(x, [0, 2, 1, 3]), [n, length, fixed(heads) * fixed(size)])
}

/**
 * CLIP's transformer: residual attention blocks with QuickGELU (openai/CLIP, clip/model.py, ResidualAttentionBlock).
 * x [N, L, W]; mask [L, L] is added to the attention scores.
 */
export function transformer(x: Value, weights: Weights, heads: number, mask?: Value): Value {
  const { graph } = x
  const width = fixed(x.shape[2]!)
  const blocks = weights.count('resblocks', 'ln_1.weight')
  for (let i = 0; i < blocks; i++) {
    x = graph.scope(`resblocks.${i}`, () => {
      const block = weights.at(`resblocks.${i}`)
      const normed = layerNorm(x, block, 'ln_1')
      const [q, k, v] = ([0, 1, 2] as const).map((part) => splitHeads(inProjection(normed, block, part, width), heads))
      const attended = op.add(x, linear(joinHeads(attention(q!, k!, v!, mask)), block, 'attn.out_proj'))
      const hidden = op.silu(linear(layerNorm(attended, block, 'ln_2'), block, 'mlp.c_fc'), 1.702)
      return op.add(attended, linear(hidden, block, 'mlp.c_proj'))
    })
  }
  return x
}

/** One of the three projections that torch.nn.MultiheadAttention keeps in one matrix: query, key, value. */
function inProjection(x: Value, weights: Weights, part: 0 | 1 | 2, width: number): Value {
  const name = (['q', 'k', 'v'] as const)[part]
  weights.shape('attn.in_proj_weight', [3 * width, width])
  weights.shape('attn.in_proj_bias', [3 * width])
  const rows = (data: Float32Array, size: number) => data.subarray(part * width * size, (part + 1) * width * size)
  const matrix = x.graph.constant(`attn.${name}_proj.weight`, [width, width], () =>
    transposed(rows(weights.read('attn.in_proj_weight'), width), width, width),
  )
  const bias = x.graph.constant(`attn.${name}_proj.bias`, [width], () =>
    rows(weights.read('attn.in_proj_bias'), 1).slice(),
  )
  return op.add(op.matmul(x, matrix, `attn.${name}_proj`), bias)
}
