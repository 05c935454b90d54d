// LPIPS v0.1 (https://github.com/richzhang/PerceptualSimilarity, lpips/lpips.py) over torchvision's VGG16 or AlexNet.

import { FlexitError } from '../errors.js'
import type { Value } from '../graph/graph.js'
import * as op from '../graph/ops.js'
import { fixed } from '../graph/shape.js'
import { channelConstant } from './clip.js'
import { conv2d } from './layers.js'
import type { Weights } from './weights.js'

export interface LpipsOptions {
  readonly trunk: 'vgg16' | 'alexnet'
  readonly shift: readonly number[]
  readonly scale: readonly number[]
}

type TrunkLayer =
  | {
      readonly layer: 'conv'
      readonly index: number
      readonly stride: number
      readonly padding: number
      readonly tap: boolean
    }
  | { readonly layer: 'pool'; readonly kernel: number; readonly stride: number }

const conv = (index: number, padding = 1, tap = false, stride = 1): TrunkLayer => ({
  layer: 'conv',
  index,
  stride,
  padding,
  tap,
})
const tap = (index: number, padding = 1, stride = 1): TrunkLayer => conv(index, padding, true, stride)
const pool = (kernel: number, stride: number): TrunkLayer => ({ layer: 'pool', kernel, stride })

/** `features.N` of torchvision's networks; a tap is read after the ReLU behind its convolution. */
const trunks: Readonly<Record<LpipsOptions['trunk'], readonly TrunkLayer[]>> = {
  vgg16: [
    ...[conv(0), tap(2), pool(2, 2)],
    ...[conv(5), tap(7), pool(2, 2)],
    ...[conv(10), conv(12), tap(14), pool(2, 2)],
    ...[conv(17), conv(19), tap(21), pool(2, 2)],
    ...[conv(24), conv(26), tap(28)],
  ],
  alexnet: [tap(0, 2, 4), pool(3, 2), tap(3, 2), pool(3, 2), tap(6), tap(8), tap(10)],
}

/** How many feature maps the distance compares. */
export const tapCount = 5

/**
 * What LPIPS compares: unit feature vectors times the square roots of the linear layers' weights, so that the distance
 * is a plain sum of squares. image [N, 3, H, W] in [0, 1] → five maps [N, C, h, w].
 */
export function lpipsFeatures(image: Value, trunk: Weights, linear: Weights, options: LpipsOptions): Value[] {
  const { graph } = image
  return graph.scope('lpips', () => {
    // ((2x − 1) − shift) / scale
    const slope = channelConstant(
      graph,
      'slope',
      options.scale.map((s) => 2 / s),
    )
    const offset = channelConstant(
      graph,
      'offset',
      options.scale.map((s, i) => (-1 - options.shift[i]!) / s),
    )
    let x = op.add(op.mul(image, slope), offset)
    const taps: Value[] = []
    for (const layer of trunks[options.trunk]) {
      if (layer.layer === 'pool') {
        x = op.maxPool(x, layer.kernel, layer.stride)
        continue
      }
      const { index, stride, padding } = layer
      x = op.relu(conv2d(x, trunk, `features.${index}`, { stride, padding }))
      if (layer.tap) taps.push(weighted(op.unitNorm(x, 1, 1e-10), linear, `lin${taps.length}.model.1.weight`))
    }
    return taps
  })
}

/** LPIPS distance of each sample [N] from the features of two images. */
export function lpipsDistance(features: readonly Value[], others: readonly Value[]): Value {
  return op.sum(
    features.map((feature, i) => {
      const area = op.staticSize(feature.shape.slice(2))
      return op.mul(op.sumSquares(op.sub(feature, others[i]!)), 1 / area)
    }),
  )
}

/** Times √w by channel. */
function weighted(feature: Value, linear: Weights, name: string): Value {
  const channels = fixed(feature.shape[1]!)
  linear.shape(name, [1, channels, 1, 1])
  const roots = feature.graph.constant(`${name}.sqrt`, [1, channels, 1, 1], () => linear.read(name).map(squareRoot))
  return op.mul(feature, roots)
}

function squareRoot(weight: number): number {
  if (weight >= 0) return Math.sqrt(weight)
  throw new FlexitError({
    code: 'DATA_LOSS',
    message: `an LPIPS linear layer has the weight ${weight}; they are never negative`,
    cure: 'Use the linear layers of LPIPS v0.1.',
  })
}
