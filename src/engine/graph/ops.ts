// Functions from values to values: how networks, losses and gradient rules add nodes to a graph.

import type { DType, Value } from './graph.js'
import { type Dim, type Shape, equalDims, equalShapes, fixed, normaliseAxis } from './shape.js'

/** A value, or a number that becomes a float32 scalar. */
export type Operand = Value | number

function pair(a: Operand, b: Operand): [Value, Value] {
  const graph = typeof a !== 'number' ? a.graph : typeof b !== 'number' ? b.graph : undefined
  if (graph === undefined) throw new Error('one operand must be a value of a graph')
  return [typeof a === 'number' ? graph.scalar(a) : a, typeof b === 'number' ? graph.scalar(b) : b]
}

function binary(operation: 'Add' | 'Sub' | 'Mul' | 'Div' | 'Max' | 'Equal' | 'Greater') {
  return (a: Operand, b: Operand, name?: string): Value => {
    const [p, q] = pair(a, b)
    return p.graph.apply(operation, [p, q], {}, name)[0]!
  }
}

type Unary =
  | 'Neg'
  | 'Abs'
  | 'Sign'
  | 'Round'
  | 'Sqrt'
  | 'Reciprocal'
  | 'Sigmoid'
  | 'Tanh'
  | 'Relu'
  | 'Softmax'
  | 'SoftClamp'
  | 'SumSquares'

function unary(operation: Unary) {
  return (x: Value, name?: string): Value => x.graph.apply(operation, [x], {}, name)[0]!
}

export const add = binary('Add')
export const sub = binary('Sub')
export const mul = binary('Mul')
export const div = binary('Div')
export const max = binary('Max')
export const equal = binary('Equal')
export const greater = binary('Greater')
export const neg = unary('Neg')
export const abs = unary('Abs')
export const sign = unary('Sign')
export const round = unary('Round')
export const sqrt = unary('Sqrt')
export const reciprocal = unary('Reciprocal')
export const sigmoid = unary('Sigmoid')
export const tanh = unary('Tanh')
export const relu = unary('Relu')
/** Over the last axis. */
export const softmax = unary('Softmax')
export const softClamp = unary('SoftClamp')
/** Σ x² of every sample: [N, C, …] → [N]. */
export const sumSquares = unary('SumSquares')

export const pow = (x: Value, exponent: number): Value => x.graph.apply('Pow', [x], { exponent })[0]!
export const clip = (x: Value, lowest: number, highest: number): Value =>
  x.graph.apply('Clip', [x], { min: lowest, max: highest })[0]!
export const cast = (x: Value, to: DType): Value => (x.dtype === to ? x : x.graph.apply('Cast', [x], { to })[0]!)
export const silu = (x: Value, alpha = 1): Value => x.graph.apply('Silu', [x], { alpha })[0]!

export function where(condition: Value, a: Operand, b: Operand): Value {
  const [p, q] = [a, b].map((o) => (typeof o === 'number' ? condition.graph.scalar(o) : o)) as [Value, Value]
  return condition.graph.apply('Where', [condition, p, q], {})[0]!
}

/** Sum of one or more values of shapes that broadcast. */
export function sum(values: readonly Value[]): Value {
  return values.reduce((a, b) => add(a, b))
}

export function matmul(a: Value, b: Value, name?: string): Value {
  return a.graph.apply('MatMul', [a, b], {}, name)[0]!
}

export interface ConvOptions {
  readonly stride?: number
  /** The same on all sides, or top, left, bottom, right. */
  readonly padding?: number | readonly [number, number, number, number]
  readonly name?: string
}

/** x [N, C, H, W], weight [M, C, kh, kw], bias [M] → [N, M, H', W']. */
export function conv(x: Value, weight: Value, bias?: Value, options: ConvOptions = {}): Value {
  const { stride = 1, padding = 0, name } = options
  const pads = typeof padding === 'number' ? ([padding, padding, padding, padding] as const) : padding
  const inputs = bias === undefined ? [x, weight] : [x, weight, bias]
  return x.graph.apply('Conv', inputs, { pads, strides: [stride, stride] }, name)[0]!
}

export const maxPool = (x: Value, kernel: number, stride = kernel): Value =>
  x.graph.apply('MaxPool', [x], { kernel, stride })[0]!
export const averagePool = (x: Value, kernel: number): Value => x.graph.apply('AveragePool', [x], { kernel })[0]!
export const upsample = (x: Value, factor: number): Value => x.graph.apply('Upsample', [x], { factor })[0]!

export function reshape(x: Value, shape: Shape, name?: string): Value {
  return equalShapes(x.shape, shape) ? x : x.graph.apply('Reshape', [x], { shape }, name)[0]!
}

export function transpose(x: Value, permutation: readonly number[]): Value {
  return permutation.every((axis, i) => axis === i) ? x : x.graph.apply('Transpose', [x], { permutation })[0]!
}

/** The last two axes exchanged. */
export function transposeLast(x: Value): Value {
  const rank = x.shape.length
  const permutation = x.shape.map((_, i) => (i < rank - 2 ? i : 2 * rank - 3 - i))
  return transpose(x, permutation)
}

export const concat = (values: readonly Value[], axis: number): Value =>
  values[0]!.graph.apply('Concat', values, { axis })[0]!

/** Elements [start, end) of an axis. */
export function slice(x: Value, axis: number, start: number, end: number): Value {
  return start === 0 && end === x.shape[axis] ? x : x.graph.apply('Slice', [x], { axis, start, end })[0]!
}

export function pad(x: Value, axis: number, before: number, after: number): Value {
  return before === 0 && after === 0 ? x : x.graph.apply('Pad', [x], { axis, before, after })[0]!
}

export function expand(x: Value, repeats: readonly number[]): Value {
  const unchanged = repeats.every((length, i) => length === 1 || equalDims(length, x.shape[i]!))
  return unchanged ? x : x.graph.apply('Expand', [x], { repeats })[0]!
}

function reduce(operation: 'ReduceSum' | 'ReduceMean' | 'ReduceMax') {
  /** Reduced axes stay with length 1. */
  return (x: Value, axes: readonly number[]): Value => {
    const positive = axes.map((axis) => normaliseAxis(axis, x.shape.length)).sort((a, b) => a - b)
    return x.graph.apply(operation, [x], { axes: positive })[0]!
  }
}

export const reduceSum = reduce('ReduceSum')
export const reduceMean = reduce('ReduceMean')
export const reduceMax = reduce('ReduceMax')

/** Sum over every axis but the first: [N, …] → [N]. */
export function sumPerSample(x: Value): Value {
  const flat = reshape(x, [x.shape[0]!, staticSize(x.shape.slice(1))])
  return reshape(reduceSum(flat, [1]), [x.shape[0]!])
}

/** [N] → [N, 1, …] of the given rank, to be broadcast over samples. */
export function perSample(x: Value, rank: number): Value {
  return reshape(x, [x.shape[0]!, ...Array<number>(rank - 1).fill(1)])
}

export const gather = (table: Value, ids: Value): Value => table.graph.apply('Gather', [table, ids], {})[0]!
export const gatherElements = (x: Value, index: Value, axis: number): Value =>
  x.graph.apply('GatherElements', [x, index], { axis })[0]!

/** y = (x − mean) / √(variance + ε) · scale + bias over the last axis, with mean and 1/√(variance + ε). */
export function layerNormalization(
  x: Value,
  scale: Value,
  bias: Value,
  epsilon: number,
): readonly [Value, Value, Value] {
  return x.graph.apply('LayerNormalization', [x, scale, bias], { epsilon }) as readonly [Value, Value, Value]
}

export const groupNorm = (x: Value, scale: Value, bias: Value, groups: number, epsilon: number): Value =>
  x.graph.apply('GroupNorm', [x, scale, bias], { groups, epsilon })[0]!

export const unitNorm = (x: Value, axis: number, epsilon = 0): Value =>
  x.graph.apply('UnitNorm', [x], { axis: normaliseAxis(axis, x.shape.length), epsilon })[0]!
export const l2Norm = (x: Value, axis: number): Value =>
  x.graph.apply('L2Norm', [x], { axis: normaliseAxis(axis, x.shape.length) })[0]!
export const shift = (x: Value, by: Value, axis: number): Value =>
  x.graph.apply('Shift', [x, by], { axis: normaliseAxis(axis, x.shape.length) })[0]!

/** Product of static axis lengths. */
export function staticSize(dims: readonly Dim[]): number {
  return dims.reduce<number>((size, dim) => size * fixed(dim), 1)
}
