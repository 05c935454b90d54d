// Composites written as ONNX operations. Every form here gives a sample the same bits alone and in a batch on ONNX
// Runtime's CPU provider. Its sums do not by themselves: over a middle axis they depend on the batch's size, and over
// the last axes on where in memory a row begins.

import { Graph, type Node, type Value, reachable } from './graph.js'
import { groupStatistics, softClampLimit } from './gradient-rules.js'
import type { Attributes, OperationName } from './operations.js'
import * as op from './ops.js'
import { fixed, product } from './shape.js'

type Lowering<K extends OperationName> = (inputs: readonly Value[], attributes: Attributes[K]) => Value

const lowerings: { readonly [K in OperationName]?: Lowering<K> } = {
  GroupNorm: ([x, scale, bias], { groups, epsilon }) => {
    const { centred, inverse } = groupStatistics(x!, groups, epsilon)
    const channels = fixed(x!.shape[1]!)
    const slope = op.mul(inverse, op.reshape(scale!, [1, groups, channels / groups]))
    const scaled = op.mul(centred, op.reshape(slope, [x!.shape[0]!, channels, 1, 1]))
    return op.add(scaled, op.reshape(bias!, [1, channels, 1, 1]))
  },
  Silu: ([x], { alpha }) => op.mul(x!, op.sigmoid(alpha === 1 ? x! : op.mul(x!, alpha))),
  SoftClamp: ([u]) => {
    const root = op.pow(op.tanh(op.pow(op.clip(op.abs(u!), 0, softClampLimit), 5)), 0.2)
    return op.mul(op.add(op.mul(op.sign(u!), root), 1), 0.5)
  },
  UnitNorm: ([x], { axis, epsilon }) => op.div(x!, op.max(op.add(op.l2Norm(x!, axis), epsilon), 1e-30)),
  L2Norm: ([x], { axis }) => op.sqrt(op.reduceSum(op.mul(x!, x!), [axis])),
  // In two levels: float32 sums over a whole feature map at once would lose digits.
  SumSquares: ([x]) => {
    const rows = op.reshape(x!, [x!.shape[0]!, x!.shape[1] ?? 1, product(x!.shape.slice(2))])
    return op.reshape(op.reduceSum(op.reduceSum(op.mul(rows, rows), [2]), [1]), [x!.shape[0]!])
  },
  Shift: ([x, by], { axis }) => {
    const length = fixed(x!.shape[axis]!)
    const shape = x!.shape.map((_, i) => (i === axis ? length : 1))
    const positions = x!.graph.constant(
      'positions',
      shape,
      Float32Array.from({ length }, (_, i) => i),
    )
    const source = op.add(positions, by!)
    const clipped = op.clip(source, 0, length - 1)
    const inside = op.cast(op.equal(source, clipped), 'float32')
    const repeats = x!.shape.map((dim, i) => (clipped.shape[i] === 1 ? fixed(dim) : 1))
    const index = op.expand(op.cast(clipped, 'int64'), repeats)
    return op.mul(op.gatherElements(x!, index, axis), inside)
  },
  ReduceSum: ([x], { axes }) => (areLast(axes, x!) ? sumOfPadded(x!, axes) : sumOverMiddle(x!, axes)),
  ReduceMean: ([x], { axes }) => op.mul(op.reduceSum(x!, axes), 1 / lengthOf(axes, x!)),
}

/** Float32 in the vectors (SSE, NEON) that ONNX Runtime adds: rows of whole vectors all begin where a vector does. */
const vectorLength = 4

const lengthOf = (axes: readonly number[], x: Value): number => op.staticSize(axes.map((axis) => x.shape[axis]!))

const areLast = (axes: readonly number[], { shape }: Value): boolean =>
  axes.every((axis, i) => axis === shape.length - axes.length + i)

const reduced = (axes: readonly number[], { shape }: Value) => shape.map((dim, i) => (axes.includes(i) ? 1 : dim))

/** The last axes as one, with zeros up to a whole number of vectors. */
function sumOfPadded(x: Value, axes: readonly number[]): Value {
  const length = lengthOf(axes, x)
  const rows = op.reshape(x, [product(x.shape.slice(0, axes[0])), length])
  const padded = op.pad(rows, 1, 0, Math.ceil(length / vectorLength) * vectorLength - length)
  return op.reshape(op.reduceSum(padded, [1]), reduced(axes, x))
}

/** Axes with others behind them: [outer, reduced, inner] as ones [1, reduced] × [reduced, inner], a run at a time. */
function sumOverMiddle(x: Value, axes: readonly number[]): Value {
  const gap = axes.findIndex((axis, i) => i > 0 && axis !== axes[i - 1]! + 1)
  if (gap > 0) return op.reduceSum(op.reduceSum(x, axes.slice(gap)), axes.slice(0, gap))
  const length = lengthOf(axes, x)
  const matrices = op.reshape(x, [product(x.shape.slice(0, axes[0])), length, product(x.shape.slice(axes.at(-1)! + 1))])
  const ones = x.graph.constant('ones', [1, length], new Float32Array(length).fill(1))
  return op.reshape(op.matmul(ones, matrices), reduced(axes, x))
}

/** Whether ONNX Runtime's own reduction can be used. */
function isInvariant(node: Node): boolean {
  const { axes } = node.attributes as Attributes['ReduceSum']
  const x = node.inputs[0]!
  return areLast(axes, x) && lengthOf(axes, x) % vectorLength === 0
}

function loweringOf(node: Node): Lowering<OperationName> | undefined {
  if ((node.operation === 'ReduceSum' || node.operation === 'ReduceMean') && isInvariant(node)) return undefined
  // The table is typed per operation; a node carries the attributes of its own.
  return lowerings[node.operation] as Lowering<OperationName> | undefined
}

/**
 * The same function in ONNX operations only: a new graph with the same inputs and outputs, without nodes that no
 * output needs. Nodes that several composites have in common are built once.
 */
export function lower(graph: Graph): Graph {
  let current = graph
  for (;;) {
    const [next, changed] = lowerOnce(current)
    if (!changed) return next
    current = next
  }
}

function lowerOnce(graph: Graph): [Graph, boolean] {
  const result = new Graph()
  const values = new Map<Value, Value>()
  for (const input of graph.inputs) values.set(input, result.input(input.name, input.dtype, input.shape))
  const mapped = (value: Value): Value => {
    const known = values.get(value)
    if (known !== undefined) return known
    const data = value.constant!
    const isScalar = value.shape.length === 0 && data instanceof Float32Array
    const copy = isScalar ? result.scalar(data[0]!) : result.constant(value.name, value.shape.map(fixed), data)
    values.set(value, copy)
    return copy
  }
  let changed = false
  for (const node of reachable(graph, graph.outputs.values())) {
    const inputs = node.inputs.map(mapped)
    const lowering = loweringOf(node)
    if (lowering !== undefined) {
      changed = true
      const { attributes } = node
      values.set(
        node.outputs[0]!,
        result.scope(node.name, () => lowering(inputs, attributes)),
      )
    } else {
      const outputs = result.apply(node.operation, inputs, node.attributes, node.name)
      node.outputs.forEach((output, i) => values.set(output, outputs[i]!))
    }
  }
  for (const [name, value] of graph.outputs) result.output(name, mapped(value))
  return [result, changed]
}
