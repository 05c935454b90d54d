// Floating-point operations of a graph: two for each multiply-accumulate of its convolutions and matrix products.

import { type Graph, type Node, reachable } from '../src/engine/graph/graph.js'
import { type Dim, isBatch } from '../src/engine/graph/shape.js'

export interface OperationCount {
  readonly convolution: number
  readonly matrixProduct: number
}

export function countOperations(graph: Graph, batch: number): OperationCount {
  const size = (dims: readonly Dim[]) => dims.reduce<number>((n, d) => n * (isBatch(d) ? d.factor * batch : d), 1)
  const total = (operation: 'Conv' | 'MatMul', perOutput: (node: Node) => number) =>
    reachable(graph, graph.outputs.values())
      .filter((node) => node.operation === operation)
      .reduce((sum, node) => sum + 2 * size(node.outputs[0]!.shape) * perOutput(node), 0)
  return {
    convolution: total('Conv', (node) => size(node.inputs[1]!.shape.slice(1))),
    matrixProduct: total('MatMul', (node) => size(node.inputs[0]!.shape.slice(-1))),
  }
}
