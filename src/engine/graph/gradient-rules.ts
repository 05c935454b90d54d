// The table of differentiation: for every operation, the gradients of its inputs in terms of other operations.
// dY is the gradient of the loss with respect to the (first) output; a row returns dX for each input, in order, or
// undefined for an input that has none. Un-broadcasting is the walker's business (gradient.ts).

import { flipped, transposed } from './arrays.js'
import type { Value } from './graph.js'
import type { Attributes, OperationName } from './operations.js'
import * as op from './ops.js'
import { fixed } from './shape.js'

export interface RuleContext<K extends OperationName> {
  readonly inputs: readonly Value[]
  readonly outputs: readonly Value[]
  readonly attributes: Attributes[K]
  readonly dY: Value
}

export type Rule<K extends OperationName> = (context: RuleContext<K>) => readonly (Value | undefined)[]

/** Has no derivative, or one that is zero almost everywhere, or is never on a path from a variable to a loss. */
const none = 'none'

/** Smallest divisor: keeps a quotient finite where its numerator is exactly zero. */
const tiny = 1e-30

const first = ({ inputs }: { readonly inputs: readonly Value[] }): Value => inputs[0]!

function requireConstant(value: Value, what: string): void {
  if (value.constant === undefined) throw new Error(`the gradient needs ${what} to be constant (weights are frozen)`)
}

export const gradientRules: { readonly [K in OperationName]: Rule<K> | typeof none } = {
  // y = a + b: dA = dY, dB = dY
  Add: ({ dY }) => [dY, dY],
  // y = a − b: dA = dY, dB = −dY
  Sub: ({ dY }) => [dY, op.neg(dY)],
  // y = a·b: dA = dY·b, dB = dY·a
  Mul: ({ inputs: [a, b], dY }) => [op.mul(dY, b!), op.mul(dY, a!)],
  // y = a/b: dA = dY/b, dB = −dY·y/b
  Div: ({ inputs: [, b], outputs: [y], dY }) => {
    const quotient = op.div(dY, b!)
    return [quotient, op.neg(op.mul(quotient, y!))]
  },
  Max: none,
  Equal: none,
  Greater: none,
  // y = −x: dX = −dY
  Neg: ({ dY }) => [op.neg(dY)],
  Abs: none,
  Sign: none,
  Round: none,
  Sqrt: none,
  Reciprocal: none,
  Sigmoid: none,
  Tanh: none,
  // y = max(x, 0): dX = 0 where y = 0, else dY
  Relu: ({ outputs: [y], dY }) => [op.where(op.equal(y!, 0), 0, dY)],
  Pow: none,
  Clip: none,
  Cast: none,
  Where: none,
  // Y = A·B: dA = dY·Bᵀ, dB = Aᵀ·dY
  MatMul: ({ inputs: [a, b], dY }) => [
    op.matmul(dY, matrixTranspose(b!)),
    a!.constant === undefined && b!.constant !== undefined ? undefined : op.matmul(matrixTranspose(a!), dY),
  ],
  // Y = X ⋆ W: dX = (dY, dilated by the stride) ⋆ W flipped in space with its channels exchanged
  Conv: (context) => [convInputGradient(context), undefined, undefined],
  // dX = dY where x is the maximum of its window, the first one in row-major order if it is so twice
  MaxPool: (context) => [maxPoolGradient(context)],
  // y = mean of the window: dX = dY/k² all over the window
  AveragePool: ({ inputs: [x], attributes: { kernel }, dY }) => [
    padToShape(op.mul(op.upsample(dY, kernel), 1 / kernel ** 2), x!),
  ],
  // dX = sum of dY over the copies
  Upsample: ({ attributes: { factor }, dY }) => [op.mul(op.averagePool(dY, factor), factor ** 2)],
  Reshape: (context) => [op.reshape(context.dY, first(context).shape)],
  Transpose: ({ attributes: { permutation }, dY }) => [
    op.transpose(
      dY,
      permutation.map((_, axis) => permutation.indexOf(axis)),
    ),
  ],
  Concat: ({ inputs, attributes: { axis }, dY }) => {
    let start = 0
    return inputs.map((x) => {
      const end = start + fixed(x.shape[axis]!)
      const part = op.slice(dY, axis, start, end)
      start = end
      return part
    })
  },
  Slice: ({ inputs: [x], attributes: { axis, start, end }, dY }) => [
    op.pad(dY, axis, start, fixed(x!.shape[axis]!) - end),
  ],
  Pad: ({ inputs: [x], attributes: { axis, before }, dY }) => [
    op.slice(dY, axis, before, before + fixed(x!.shape[axis]!)),
  ],
  // A broadcast: its adjoint is the un-broadcasting of the walker
  Expand: ({ dY }) => [dY],
  // y = Σ x: dX = dY, repeated
  ReduceSum: ({ inputs: [x], attributes: { axes }, dY }) => [repeated(dY, x!, axes)],
  // y = Σ x / n: dX = dY/n, repeated
  ReduceMean: ({ inputs: [x], attributes: { axes }, dY }) => {
    const count = op.staticSize(axes.map((axis) => x!.shape[axis]!))
    return [repeated(op.mul(dY, 1 / count), x!, axes)]
  },
  ReduceMax: none,
  Gather: none,
  GatherElements: none,
  // dX = y·(dY − Σ dY·y)
  Softmax: ({ outputs: [y], dY }) => [op.mul(y!, op.sub(dY, op.reduceSum(op.mul(dY, y!), [-1])))],
  // x̂ = (x − m)/σ, g = dY·scale: dX = (g − mean g − x̂·mean(g·x̂))/σ
  LayerNormalization: ({ inputs: [x, scale], outputs: [, mean, inverse], dY }) => {
    const xHat = op.mul(op.sub(x!, mean!), inverse!)
    const g = op.mul(dY, scale!)
    const projection = op.mul(xHat, op.reduceMean(op.mul(g, xHat), [-1]))
    return [op.mul(op.sub(op.sub(g, op.reduceMean(g, [-1])), projection), inverse!), undefined, undefined]
  },
  GroupNorm: (context) => [groupNormGradient(context), undefined, undefined],
  // s = sigmoid(αx), y = x·s: dX = dY·(s + α·(y − y·s))
  Silu: ({ inputs: [x], outputs: [y], attributes: { alpha }, dY }) => {
    const s = op.sigmoid(alpha === 1 ? x! : op.mul(x!, alpha))
    const slope = op.sub(y!, op.mul(y!, s))
    return [op.mul(dY, op.add(s, alpha === 1 ? slope : op.mul(slope, alpha)))]
  },
  // a = |u|⁵: dU = dY/2·(a/tanh a)^(4/5)·(1 − tanh² a), with a/tanh a → 1 as a → 0
  SoftClamp: ({ inputs: [u], dY }) => {
    const a = op.pow(op.clip(op.abs(u!), 0, softClampLimit), 5)
    const t = op.tanh(a)
    const ratio = op.where(op.greater(a, 1e-6), op.div(a, op.max(t, tiny)), 1)
    return [op.mul(op.mul(dY, 0.5), op.mul(op.pow(ratio, 0.8), op.sub(1, op.mul(t, t))))]
  },
  // n = ‖x‖, y = x/(n + ε): dX = (dY − y·Σ(dY·y)·(n + ε)/n)/(n + ε), and 0 where n = 0
  UnitNorm: ({ inputs: [x], outputs: [y], attributes: { axis, epsilon }, dY }) => {
    const n = op.l2Norm(x!, axis)
    const divisor = op.add(n, epsilon)
    const along = op.mul(op.reduceSum(op.mul(dY, y!), [axis]), op.div(divisor, op.max(n, tiny)))
    const inverse = op.div(op.sign(n), op.max(divisor, tiny))
    return [op.mul(op.sub(dY, op.mul(y!, along)), inverse)]
  },
  // y = ‖x‖: dX = dY·x/y, and 0 where x = 0
  L2Norm: ({ inputs: [x], outputs: [y], dY }) => [op.mul(x!, op.div(dY, op.max(y!, tiny)))],
  // y = Σ x²: dX = 2·dY·x
  SumSquares: ({ inputs: [x], dY }) => [op.mul(x!, op.perSample(op.mul(dY, 2), x!.shape.length))],
  // The adjoint of moving by s is moving by −s: every pixel goes back to where it came from
  Shift: ({ inputs: [, by], attributes: { axis }, dY }) => [op.shift(dY, op.neg(by!), axis), undefined],
}

/** |u| beyond which tanh(|u|⁵) is 1 in float32; keeps |u|⁵ finite. */
export const softClampLimit = 4

function matrixTranspose(matrix: Value): Value {
  if (matrix.constant === undefined || matrix.shape.length !== 2) return op.transposeLast(matrix)
  const [rows, columns] = matrix.shape.map(fixed) as [number, number]
  return matrix.graph.derivedConstant(matrix, 'transposed', [columns, rows], (data) => transposed(data, rows, columns))
}

/** dY with its reduced axes as long as those of `x` again. */
function repeated(dY: Value, x: Value, axes: readonly number[]): Value {
  return op.expand(
    dY,
    x.shape.map((dim, i) => (axes.includes(i) ? fixed(dim) : 1)),
  )
}

/** Zeros at the bottom and right, where a pooling left a remainder of `x` out. */
function padToShape(dX: Value, x: Value): Value {
  const missing = (axis: number) => fixed(x.shape[axis]!) - fixed(dX.shape[axis]!)
  return op.pad(op.pad(dX, 2, 0, missing(2)), 3, 0, missing(3))
}

function convInputGradient({ inputs: [x, weight], attributes, dY }: RuleContext<'Conv'>): Value {
  requireConstant(weight!, 'the weight of a convolution')
  const [top, left] = attributes.pads
  const [stride] = attributes.strides
  if (attributes.strides[1] !== stride) throw new Error('the gradient needs equal strides')
  const shape = weight!.shape.map(fixed) as [number, number, number, number]
  const [m, c, kh, kw] = shape
  const kernel = weight!.graph.derivedConstant(weight!, 'flipped', [c, m, kh, kw], (data) => flipped(data, shape))
  const dilated = stride === 1 ? dY : dilate(dY, stride)
  const [height, width] = [fixed(x!.shape[2]!), fixed(x!.shape[3]!)]
  const bottom = height - fixed(dilated.shape[2]!) + top
  const right = width - fixed(dilated.shape[3]!) + left
  const pads = [kh - 1 - top, kw - 1 - left, bottom, right] as const
  const padding = pads.map((length) => Math.max(length, 0)) as [number, number, number, number]
  return op.conv(cropped(dilated, pads), kernel, undefined, { padding })
}

/** Without the borders whose padding (top, left, bottom, right) is negative, which ONNX does not allow. */
function cropped(x: Value, pads: readonly [number, number, number, number]): Value {
  const [top, left, bottom, right] = pads.map((length) => Math.max(-length, 0)) as [number, number, number, number]
  const rows = op.slice(x, 2, top, fixed(x.shape[2]!) - bottom)
  return op.slice(rows, 3, left, fixed(x.shape[3]!) - right)
}

/** Zeros between the elements: [N, C, H, W] → [N, C, H·stride, W·stride]. */
function dilate(x: Value, stride: number): Value {
  const [height, width] = [fixed(x.shape[2]!) * stride, fixed(x.shape[3]!) * stride]
  const mask = new Float32Array(height * width)
  for (let i = 0; i < height; i += stride) for (let j = 0; j < width; j += stride) mask[i * width + j] = 1
  return op.mul(op.upsample(x, stride), x.graph.constant('dilation', [1, 1, height, width], mask))
}

function maxPoolGradient({
  inputs: [x],
  outputs: [y],
  attributes: { kernel, stride },
  dY,
}: RuleContext<'MaxPool'>): Value {
  if (kernel !== stride) throw new Error('the gradient needs windows that do not overlap')
  const [height, width] = [fixed(y!.shape[2]!) * kernel, fixed(y!.shape[3]!) * kernel]
  const inside = op.slice(op.slice(x!, 2, 0, height), 3, 0, width)
  // Equal maxima in one window (flat regions): the earliest has the highest rank and takes the gradient.
  const ranks = new Float32Array(height * width)
  for (let i = 0; i < height; i++)
    for (let j = 0; j < width; j++) ranks[i * width + j] = kernel ** 2 - (i % kernel) * kernel - (j % kernel)
  const rank = x!.graph.constant('rank', [1, 1, height, width], ranks)
  const isMaximum = op.cast(op.equal(inside, op.upsample(y!, kernel)), 'float32')
  const ranked = op.mul(isMaximum, rank)
  const chosen = op.cast(op.equal(ranked, op.upsample(op.maxPool(ranked, kernel), kernel)), 'float32')
  return padToShape(op.mul(chosen, op.upsample(dY, kernel)), x!)
}

// x̂ = (x − m)/σ within a group of L values, g = dY·scale: dX = (g − mean g − x̂·mean(g·x̂))/σ
// The two means are taken channel by channel first, so that dY·scale is never written out.
function groupNormGradient({ inputs: [x, scale], attributes, dY }: RuleContext<'GroupNorm'>): Value {
  const { groups } = attributes
  const [n, channels, height, width] = x!.shape
  const size = (fixed(channels!) / groups) * fixed(height!) * fixed(width!)
  const { centred, inverse } = groupStatistics(x!, groups, attributes.epsilon)
  const perGroup = (perChannel: Value) => {
    const weighted = op.mul(perChannel, op.reshape(scale!, [1, groups, fixed(channels!) / groups]))
    return op.mul(op.reduceSum(weighted, [2]), 1 / size)
  }
  const channelSum = (values: Value) => {
    const rows = op.reshape(values, [n!, channels!, fixed(height!) * fixed(width!)])
    return op.reshape(op.reduceSum(rows, [2]), [n!, groups, fixed(channels!) / groups])
  }
  const meanG = perGroup(channelSum(dY))
  const meanGXHat = op.mul(perGroup(channelSum(op.mul(dY, centred))), op.mul(inverse, inverse))
  const toChannels = (perGroupValue: Value) =>
    op.reshape(op.expand(perGroupValue, [1, 1, fixed(channels!) / groups]), [n!, channels!, 1, 1])
  const scaled = op.mul(dY, op.mul(toChannels(inverse), op.reshape(scale!, [1, channels!, 1, 1])))
  const linear = op.mul(centred, toChannels(op.mul(inverse, meanGXHat)))
  return op.sub(op.sub(scaled, linear), toChannels(op.mul(inverse, meanG)))
}

/** x − mean [N, C, H, W] and 1/√(variance + ε) [N, groups, 1], each group of channels by itself. */
export function groupStatistics(x: Value, groups: number, epsilon: number): { centred: Value; inverse: Value } {
  const rows = op.reshape(x, [x.shape[0]!, groups, op.staticSize(x.shape.slice(1)) / groups])
  const centred = op.sub(rows, op.reduceMean(rows, [2]))
  const variance = op.reduceMean(op.mul(centred, centred), [2])
  return { centred: op.reshape(centred, x.shape), inverse: op.reciprocal(op.sqrt(op.add(variance, epsilon))) }
}
