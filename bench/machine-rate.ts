// What this machine reaches on one large convolution and one large matrix product: the yardstick of a step.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Graph, type Value } from '../src/engine/graph/graph.js'
import { writeOnnx } from '../src/engine/graph/onnx.js'
import * as op from '../src/engine/graph/ops.js'
import { N } from '../src/engine/graph/shape.js'
import { Session } from '../src/engine/runtime.js'
import { type OperationCount, countOperations } from './operation-count.js'

/** Operations per second. */
export type MachineRate = OperationCount

const noise = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(i))
const constant = (graph: Graph, name: string, shape: readonly number[]) =>
  graph.constant(name, shape, noise(shape.reduce((a, b) => a * b)))

async function rate(name: string, shape: readonly number[], build: (x: Value) => Value): Promise<OperationCount> {
  const graph = new Graph()
  graph.output('y', build(graph.input('x', 'float32', [N, ...shape])))
  const folder = await mkdtemp(join(tmpdir(), 'flexit-bench-'))
  try {
    const path = await writeOnnx(graph, folder, name)
    const session = await Session.create(path, { device: { kind: 'cpu', index: 0 }, threads: 0 })
    const x = { shape: [1, ...shape], data: noise(shape.reduce((a, b) => a * b)) }
    let best = Infinity
    for (let i = 0; i < 15; i++) {
      const start = performance.now()
      await session.run({ x })
      best = Math.min(best, (performance.now() - start) / 1000)
    }
    await session.release()
    const count = countOperations(graph, 1)
    return { convolution: count.convolution / best, matrixProduct: count.matrixProduct / best }
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** The best of 15 runs each: a 3×3 convolution of 256 channels at 72×72, and [400, 768]·[768, 3072]. */
export async function measureMachine(): Promise<MachineRate> {
  const convolution = await rate('convolution', [256, 72, 72], (x) => {
    const kernel = constant(x.graph, 'kernel', [256, 256, 3, 3])
    return op.conv(x, kernel, undefined, { padding: 1 })
  })
  const product = await rate('product', [400, 768], (x) => op.matmul(x, constant(x.graph, 'matrix', [768, 3072])))
  return { convolution: convolution.convolution, matrixProduct: product.matrixProduct }
}

/** Seconds that the operations would take at the machine's rate. */
export function idealSeconds(count: OperationCount, machine: MachineRate): number {
  return count.convolution / machine.convolution + count.matrixProduct / machine.matrixProduct
}
