// The operations of a graph: their attributes, and the types of their outputs.
// Semantics are those of ONNX opset 18 (https://onnx.ai/onnx/operators/) for the names that ONNX has; the others
// (`composites`) are ours and are written as ONNX operations when the graph is (see lowering.ts).

import type { DType, Value, ValueType } from './graph.js'
import {
  type Dim,
  type Shape,
  broadcast,
  equalDims,
  equalShapes,
  fixed,
  formatShape,
  normaliseAxis,
  product,
} from './shape.js'

type None = Readonly<Record<string, never>>

interface Reduction {
  /** Axes that are reduced to length 1; counted from the front. */
  readonly axes: readonly number[]
}

/** Attributes of every operation. */
export interface Attributes {
  // Element-wise, two operands, broadcast.
  Add: None
  Sub: None
  Mul: None
  Div: None
  Max: None
  Equal: None
  Greater: None
  // Element-wise, one operand.
  Neg: None
  Abs: None
  Sign: None
  Round: None
  Sqrt: None
  Reciprocal: None
  Sigmoid: None
  Tanh: None
  Relu: None
  Pow: { readonly exponent: number }
  Clip: { readonly min: number; readonly max: number }
  Cast: { readonly to: DType }
  /** `condition ? a : b`. */
  Where: None
  // Linear maps.
  MatMul: None
  /** x [N, C, H, W], weight [M, C, kh, kw], bias [M]?; pads: top, left, bottom, right. */
  Conv: { readonly pads: readonly [number, number, number, number]; readonly strides: readonly [number, number] }
  // Pooling, no padding.
  MaxPool: { readonly kernel: number; readonly stride: number }
  AveragePool: { readonly kernel: number }
  /** Every pixel becomes factor × factor pixels: ONNX Resize, nearest. */
  Upsample: { readonly factor: number }
  // Shapes.
  Reshape: { readonly shape: Shape }
  Transpose: { readonly permutation: readonly number[] }
  Concat: { readonly axis: number }
  Slice: { readonly axis: number; readonly start: number; readonly end: number }
  /** Zeros before and after along one axis. */
  Pad: { readonly axis: number; readonly before: number; readonly after: number }
  /** Axes of length 1 become the given static lengths; 1 keeps an axis as it is. */
  Expand: { readonly repeats: readonly number[] }
  // Reductions; reduced axes stay with length 1.
  ReduceSum: Reduction
  ReduceMean: Reduction
  ReduceMax: Reduction
  // Rows of a table [V, W] by ids [...]: [..., W].
  Gather: None
  /** out[…, i, …] = data[…, index[…, i, …], …] along `axis`; data and index have the same shape. */
  GatherElements: { readonly axis: number }
  /** Over the last axis. */
  Softmax: None
  /** Over the last axis; outputs y, mean, 1/standard deviation. */
  LayerNormalization: { readonly epsilon: number }

  // Composites.
  /** x [N, C, H, W], scale [C], bias [C]. */
  GroupNorm: { readonly groups: number; readonly epsilon: number }
  /** x·sigmoid(α·x): swish for α = 1, CLIP's QuickGELU for α = 1.702. */
  Silu: { readonly alpha: number }
  /** (sign(u)·tanh(|u|⁵)^(1/5) + 1) / 2. */
  SoftClamp: None
  /** x / (‖x‖₂ + ε) along one axis; zero vectors stay zero. */
  UnitNorm: { readonly axis: number; readonly epsilon: number }
  /** ‖x‖₂ along one axis, which stays with length 1. */
  L2Norm: { readonly axis: number }
  /** Σ x² of every sample: [N, C, …] → [N]. */
  SumSquares: None
  /** out[…, i, …] = x[…, i + shift, …] along `axis`, zero beyond the border; shift holds whole numbers as float32. */
  Shift: { readonly axis: number }
}

export type OperationName = keyof Attributes

type Inference<K extends OperationName> = (inputs: readonly Value[], attributes: Attributes[K]) => readonly ValueType[]

const float = (shape: Shape): readonly ValueType[] => [{ dtype: 'float32', shape }]

function require(condition: boolean, message: string): void {
  if (!condition) throw new Error(message)
}

function elementWise(inputs: readonly Value[]): readonly ValueType[] {
  const [a, b] = inputs as readonly [Value, Value]
  require(a.dtype === b.dtype, 'operands of different types')
  return [{ dtype: a.dtype, shape: broadcast(a.shape, b.shape) }]
}

function comparison(inputs: readonly Value[]): readonly ValueType[] {
  return [{ dtype: 'bool', shape: elementWise(inputs)[0]!.shape }]
}

function unary(inputs: readonly Value[]): readonly ValueType[] {
  return [{ dtype: inputs[0]!.dtype, shape: inputs[0]!.shape }]
}

function reduction(inputs: readonly Value[], { axes }: Reduction): readonly ValueType[] {
  const x = inputs[0]!
  for (const axis of axes) normaliseAxis(axis, x.shape.length)
  return [{ dtype: x.dtype, shape: x.shape.map((dim, i) => (axes.includes(i) ? 1 : dim)) }]
}

function sizeAfter(size: Dim, kernel: number, stride: number, padding: number): number {
  return Math.floor((fixed(size) + padding - kernel) / stride) + 1
}

/** A copy of `shape` in which `axis` has another length. */
function withAxis(shape: Shape, axis: number, dim: Dim): Shape {
  normaliseAxis(axis, shape.length)
  return shape.map((old, i) => (i === axis ? dim : old))
}

const inference: { readonly [K in OperationName]: Inference<K> } = {
  Add: elementWise,
  Sub: elementWise,
  Mul: elementWise,
  Div: elementWise,
  Max: elementWise,
  Equal: comparison,
  Greater: comparison,
  Neg: unary,
  Abs: unary,
  Sign: unary,
  Round: unary,
  Sqrt: unary,
  Reciprocal: unary,
  Sigmoid: unary,
  Tanh: unary,
  Relu: unary,
  Pow: unary,
  Clip: unary,
  Cast: (inputs, { to }) => [{ dtype: to, shape: inputs[0]!.shape }],
  Where: (inputs) => {
    const [condition, a, b] = inputs as readonly [Value, Value, Value]
    require(condition.dtype === 'bool', 'the condition must be bool')
    return float(broadcast(condition.shape, broadcast(a.shape, b.shape)))
  },
  MatMul: (inputs) => {
    const [a, b] = inputs as readonly [Value, Value]
    require(a.shape.length >= 2 && b.shape.length >= 2, 'operands need two axes or more')
    require(equalDims(a.shape.at(-1)!, b.shape.at(-2)!), 'inner axes differ')
    return float([...broadcast(a.shape.slice(0, -2), b.shape.slice(0, -2)), a.shape.at(-2)!, b.shape.at(-1)!])
  },
  Conv: (inputs, { pads, strides }) => {
    const [x, weight] = inputs as readonly [Value, Value]
    require(x.shape.length === 4 && weight.shape.length === 4, 'two axes of space expected')
    require(equalDims(x.shape[1]!, weight.shape[1]!), 'channels of input and weight differ')
    const [kh, kw] = [fixed(weight.shape[2]!), fixed(weight.shape[3]!)]
    const height = sizeAfter(x.shape[2]!, kh, strides[0], pads[0] + pads[2])
    const width = sizeAfter(x.shape[3]!, kw, strides[1], pads[1] + pads[3])
    return float([x.shape[0]!, weight.shape[0]!, height, width])
  },
  MaxPool: (inputs, { kernel, stride }) => {
    const [n, c, h, w] = inputs[0]!.shape as readonly [Dim, Dim, Dim, Dim]
    return float([n, c, sizeAfter(h, kernel, stride, 0), sizeAfter(w, kernel, stride, 0)])
  },
  AveragePool: (inputs, { kernel }) => {
    const [n, c, h, w] = inputs[0]!.shape as readonly [Dim, Dim, Dim, Dim]
    return float([n, c, sizeAfter(h, kernel, kernel, 0), sizeAfter(w, kernel, kernel, 0)])
  },
  Upsample: (inputs, { factor }) => {
    const [n, c, h, w] = inputs[0]!.shape as readonly [Dim, Dim, Dim, Dim]
    return float([n, c, fixed(h) * factor, fixed(w) * factor])
  },
  Reshape: (inputs, { shape }) => {
    const x = inputs[0]!
    require(equalDims(product(x.shape), product(shape)), `cannot become ${formatShape(shape)}`)
    return [{ dtype: x.dtype, shape }]
  },
  Transpose: (inputs, { permutation }) => {
    const x = inputs[0]!
    require(new Set(permutation).size === x.shape.length, 'not a permutation of the axes')
    return [{ dtype: x.dtype, shape: permutation.map((axis) => x.shape[axis]!) }]
  },
  Concat: (inputs, { axis }) => {
    const first = inputs[0]!
    for (const other of inputs) {
      require(equalShapes(withAxis(first.shape, axis, 1), withAxis(other.shape, axis, 1)), 'shapes differ')
    }
    const length = inputs.reduce((sum, value) => sum + fixed(value.shape[axis]!), 0)
    return [{ dtype: first.dtype, shape: withAxis(first.shape, axis, length) }]
  },
  Slice: (inputs, { axis, start, end }) => {
    const x = inputs[0]!
    require(0 <= start &&
      start < end &&
      end <= fixed(x.shape[axis]!), `[${start}, ${end}) is not a range of axis ${axis}`)
    return [{ dtype: x.dtype, shape: withAxis(x.shape, axis, end - start) }]
  },
  Pad: (inputs, { axis, before, after }) => {
    const x = inputs[0]!
    return float(withAxis(x.shape, axis, fixed(x.shape[axis]!) + before + after))
  },
  Expand: (inputs, { repeats }) => {
    const x = inputs[0]!
    require(repeats.length === x.shape.length, 'one length for each axis expected')
    return [{ dtype: x.dtype, shape: broadcast(x.shape, repeats) }]
  },
  ReduceSum: reduction,
  ReduceMean: reduction,
  ReduceMax: reduction,
  Gather: (inputs) => {
    const [table, ids] = inputs as readonly [Value, Value]
    require(ids.dtype === 'int64' && table.shape.length === 2, 'a table and int64 ids expected')
    return float([...ids.shape, table.shape[1]!])
  },
  GatherElements: (inputs) => {
    const [data, index] = inputs as readonly [Value, Value]
    require(index.dtype === 'int64' && equalShapes(data.shape, index.shape), 'int64 indices of the same shape expected')
    return float(data.shape)
  },
  Softmax: unary,
  LayerNormalization: (inputs) => {
    const x = inputs[0]!
    const statistics = withAxis(x.shape, x.shape.length - 1, 1)
    return [...float(x.shape), ...float(statistics), ...float(statistics)]
  },
  GroupNorm: (inputs, { groups }) => {
    const x = inputs[0]!
    require(x.shape.length === 4 && fixed(x.shape[1]!) % groups === 0, `channels cannot be split into ${groups} groups`)
    return float(x.shape)
  },
  Silu: unary,
  SoftClamp: unary,
  UnitNorm: (inputs, { axis }) => float(withAxis(inputs[0]!.shape, axis, inputs[0]!.shape[axis]!)),
  L2Norm: (inputs, { axis }) => float(withAxis(inputs[0]!.shape, axis, 1)),
  SumSquares: (inputs) => float([inputs[0]!.shape[0]!]),
  Shift: (inputs, { axis }) => {
    const [x, shift] = inputs as readonly [Value, Value]
    require(equalDims(shift.shape[axis]!, 1), 'a shift is the same along its axis')
    require(equalShapes(broadcast(x.shape, shift.shape), x.shape), 'the shift does not fit the value')
    return float(x.shape)
  },
}

/** Types of the outputs of an operation. Errors: operands that do not fit. */
export function infer<K extends OperationName>(
  operation: K,
  inputs: readonly Value[],
  attributes: Attributes[K],
): readonly ValueType[] {
  return inference[operation](inputs, attributes)
}

/** Every operation, for tests that must not forget one. */
export const operationNames = Object.keys(inference) as readonly OperationName[]
