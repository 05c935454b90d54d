// Built graphs on disk, under a hash of everything that shaped them; shared by processes, safe to delete at any time.

import { createHash } from 'node:crypto'
import { readFileSync, readdirSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Graph } from './graph/graph.js'
import { writeOnnx } from './graph/onnx.js'

/** Hash of the compiled code that builds graphs: a new version of it never meets the graphs of an old one. */
export const codeDigest = digestOf(
  ['.', 'graph', 'networks', 'pack'].flatMap((folder) => {
    const path = fileURLToPath(new URL(`./${folder}/`, import.meta.url))
    const files = readdirSync(path).filter((file) => file.endsWith('.js'))
    return files.sort().map((file) => readFileSync(join(path, file)))
  }),
)

export class GraphCache {
  readonly folder: string

  constructor(folder: string) {
    this.folder = folder
  }

  /**
   * The model file of a graph, built and written if it is not there yet. `parts` are the texts that shape it, besides
   * the code. Errors: FAILED_PRECONDITION where the folder cannot be written, and what `build` throws.
   */
  async file(name: string, parts: readonly string[], build: () => Graph | Promise<Graph>): Promise<string> {
    const path = join(this.folder, `${keyOf(name, parts)}.onnx`)
    if ((await stat(path).catch(() => undefined)) !== undefined) return path
    return this.rebuild(name, parts, build)
  }

  /** The same, whatever is there. */
  async rebuild(name: string, parts: readonly string[], build: () => Graph | Promise<Graph>): Promise<string> {
    return writeOnnx(await build(), this.folder, keyOf(name, parts))
  }
}

function keyOf(name: string, parts: readonly string[]): string {
  return `${name}-${digestOf([codeDigest, ...parts]).slice(0, 32)}`
}

function digestOf(parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(String(part.length)).update(':').update(part)
  return hash.digest('hex')
}
