// The losses of FlexIT (section 3, equations 2 to 5), in the form of the paper and in that of its public release.

import type { Value } from './graph/graph.js'
import * as op from './graph/ops.js'
import { type Dim, fixed } from './graph/shape.js'

export type Preset = 'paper' | 'reference'

/**
 * Embedding loss [N] of the mean embeddings of k networks [N, E_i] against their targets [N, E_i].
 * paper: ‖C(D(z)) − P‖₂² over the concatenated embeddings (equation 2).
 * reference: −⟨C_i(D(z)), P_i⟩, averaged over the networks.
 */
export function embeddingLoss(preset: Preset, embeddings: readonly Value[], targets: readonly Value[]): Value {
  if (preset === 'paper') return op.sum(embeddings.map((e, i) => op.sumSquares(op.sub(e, targets[i]!))))
  return op.neg(meanSimilarity(embeddings, targets))
}

/** ⟨a_i, b_i⟩, averaged over the networks: [N]. */
export function meanSimilarity(a: readonly Value[], b: readonly Value[]): Value {
  return op.mul(op.sum(a.map((embedding, i) => op.sumPerSample(op.mul(embedding, b[i]!)))), 1 / a.length)
}

/** Of Σ ‖z0^i‖₂: less than one pixel that is not black gives. Its inverse, times λ, must stay finite in the gradient of a norm. */
const leastLatent = 1e-5

/**
 * Latent loss [N]: Σ_i ‖z^i − z0^i‖₂ over spatial positions (equation 4), in the reference divided by Σ_i ‖z0^i‖₂.
 * z and z0 [N, C, h, w].
 */
export function latentLoss(preset: Preset, z: Value, z0: Value): Value {
  const distance = op.sumPerSample(op.l2Norm(op.sub(z, z0), 1))
  if (preset === 'paper') return distance
  return op.div(distance, op.max(op.sumPerSample(op.l2Norm(z0, 1)), leastLatent))
}

/**
 * One step of normalised gradient descent: z − μ·‖z0‖₂·g/‖g‖₂, norms over the whole latent of a sample; a gradient
 * that is zero leaves z where it is. learningRate [N].
 */
export function descend(z: Value, z0: Value, gradient: Value, learningRate: Value): Value {
  const [n, ...rest] = z.shape as readonly [Dim, ...Dim[]]
  const size = rest.reduce<number>((product, dim) => product * fixed(dim), 1)
  const flat = op.reshape(gradient, [n, size])
  // Scaled by its largest entry first, so that no square under- or overflows.
  const scaled = op.div(flat, op.max(op.reduceMax(op.abs(flat), [1]), 1e-30))
  const unit = op.reshape(op.unitNorm(scaled, 1), z.shape)
  const length = op.mul(learningRate, op.sqrt(op.sumSquares(z0)))
  return op.sub(z, op.mul(unit, op.perSample(length, z.shape.length)))
}
