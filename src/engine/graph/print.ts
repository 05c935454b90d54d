// A graph as text, one node a line, for people and for snapshot tests.

import { type Graph, type Value, reachable } from './graph.js'
import { formatShape } from './shape.js'

/**
 * `name: dtype[shape] = Operation(inputs) {attributes}` for every node that an output needs, inputs first, outputs
 * last. Scalars are written as numbers.
 */
export function print(graph: Graph): string {
  const operand = (value: Value) =>
    value.constant instanceof Float32Array && value.shape.length === 0 ? String(value.constant[0]) : value.name
  const type = (value: Value) => `${value.dtype === 'float32' ? '' : value.dtype}${formatShape(value.shape)}`
  const nodes = reachable(graph, graph.outputs.values())
  const constants = new Set(
    nodes.flatMap((node) => node.inputs.filter((v) => v.constant !== undefined && v.shape.length > 0)),
  )
  return [
    ...graph.inputs.map((value) => `input ${value.name}: ${type(value)}`),
    ...[...constants].map((value) => `constant ${value.name}: ${type(value)}`),
    ...nodes.map((node) => {
      const attributes = JSON.stringify(node.attributes) === '{}' ? '' : ` ${JSON.stringify(node.attributes)}`
      const outputs = node.outputs.map((value) => `${value.name}: ${type(value)}`).join(', ')
      return `${outputs} = ${node.operation}(${node.inputs.map(operand).join(', ')})${attributes}`
    }),
    ...[...graph.outputs].map(([name, value]) => `output ${name}: ${type(value)} = ${operand(value)}`),
    '',
  ].join('\n')
}
