// Runs graphs in tests: written to a folder of their own, run once on the CPU.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Graph } from '../../src/engine/graph/graph.js'
import { writeOnnx } from '../../src/engine/graph/onnx.js'
import { Session, type Tensor } from '../../src/engine/runtime.js'

/** A folder that is gone when `use` is done. */
export async function withFolder<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'flexit-test-'))
  try {
    return await use(folder)
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** A session of `graph` on the CPU, released when `use` is done. */
export async function withSession<T>(graph: Graph, threads: number, use: (session: Session) => Promise<T>): Promise<T> {
  return withFolder(async (folder) => {
    const path = await writeOnnx(graph, folder, 'test')
    const session = await Session.create(path, { device: { kind: 'cpu', index: 0 }, threads })
    try {
      return await use(session)
    } finally {
      await session.release()
    }
  })
}

/** Outputs of `graph` for each set of inputs, on one thread. */
export async function runGraph(
  graph: Graph,
  ...runs: readonly Readonly<Record<string, Tensor>>[]
): Promise<Record<string, Tensor>[]> {
  return withSession(graph, 1, async (session) => {
    const results = []
    for (const inputs of runs) results.push(await session.run(inputs))
    return results
  })
}

export function floats(tensor: Tensor | undefined): Float32Array {
  if (!(tensor?.data instanceof Float32Array)) throw new Error('not a float32 tensor')
  return tensor.data
}

/** Largest absolute difference, in units of the largest magnitude of `expected`. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} values, expected ${expected.length}`)
  let [difference, magnitude] = [0, 0]
  for (let i = 0; i < expected.length; i++) {
    difference = Math.max(difference, Math.abs(actual[i]! - expected[i]!))
    magnitude = Math.max(magnitude, Math.abs(expected[i]!))
    if (Number.isNaN(actual[i]!)) return NaN
  }
  return difference / magnitude
}
