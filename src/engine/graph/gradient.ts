// Reverse-mode differentiation of a graph, into the same graph: one backward walk over the table of rules.

import type { Node, Value } from './graph.js'
import { reachable } from './graph.js'
import { gradientRules, type Rule } from './gradient-rules.js'
import * as op from './ops.js'
import { equalDims, equalShapes, formatShape, isBatch } from './shape.js'

/**
 * Vector-Jacobian products: for each variable x, (∂y/∂x)ᵀ·cotangent, of x's shape. The cotangent has y's shape; for a
 * vector of per-sample losses [N] pass ones. Weights are frozen: only paths from the variables are differentiated.
 * Errors: an operation on such a path that has no rule, by name; a variable that y does not depend on.
 */
export function gradient(y: Value, cotangent: Value, variables: readonly Value[]): Value[] {
  const { graph } = y
  const active = new Set<Value>(variables)
  const path: Node[] = []
  for (const node of reachable(graph, [y])) {
    if (!node.inputs.some((input) => active.has(input))) continue
    node.outputs.forEach((output) => active.add(output))
    path.push(node)
  }
  if (!equalShapes(cotangent.shape, y.shape)) {
    throw new Error(`the cotangent is ${formatShape(cotangent.shape)}, ${y.name} is ${formatShape(y.shape)}`)
  }
  const gradients = new Map<Value, Value>([[y, cotangent]])
  for (const node of path.reverse()) {
    const dY = gradients.get(node.outputs[0]!)
    if (dY === undefined) continue
    graph.scope(`${node.name}_grad`, () => {
      const contributions = applyRule(node, dY)
      node.inputs.forEach((input, i) => {
        const contribution = contributions[i]
        if (!active.has(input)) return
        if (contribution === undefined)
          throw new Error(`${node.operation} "${node.name}" has no gradient for ${input.name}`)
        const fitted = sumToShape(contribution, input)
        const known = gradients.get(input)
        gradients.set(input, known === undefined ? fitted : op.add(known, fitted))
      })
    })
  }
  return variables.map((variable) => {
    const result = gradients.get(variable)
    if (result === undefined) throw new Error(`${y.name} does not depend on ${variable.name}`)
    return result
  })
}

function applyRule(node: Node, dY: Value): readonly (Value | undefined)[] {
  // The table is typed per operation; a node carries the attributes of its own.
  const rule = gradientRules[node.operation] as Rule<typeof node.operation> | 'none'
  if (rule === 'none') throw new Error(`${node.operation} "${node.name}" has no gradient rule`)
  const { inputs, outputs, attributes } = node
  try {
    return rule({ inputs, outputs, attributes, dY })
  } catch (error) {
    throw new Error(
      `gradient of ${node.operation} "${node.name}": ${error instanceof Error ? error.message : String(error)}`,
      {
        cause: error,
      },
    )
  }
}

/** Undo broadcasting: sum over the axes along which `x` was repeated. */
function sumToShape(dX: Value, x: Value): Value {
  if (equalShapes(dX.shape, x.shape)) return dX
  const extra = dX.shape.length - x.shape.length
  const repeated = dX.shape.flatMap((dim, i) => (i < extra || !equalDims(dim, x.shape[i - extra]!) ? [i] : []))
  if (repeated.some((axis) => isBatch(dX.shape[axis]!))) {
    throw new Error(`${x.name} is shared by all samples of a batch: their gradients must not be added up`)
  }
  return op.reshape(op.reduceSum(dX, repeated), x.shape)
}
