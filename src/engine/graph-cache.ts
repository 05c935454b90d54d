// Built graphs on disk, under a hash of everything that shaped them; shared by processes, safe to delete at any time.

import { createHash } from 'node:crypto'
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { FlexitError, systemErrorCode } from './errors.js'
import type { Graph } from './graph/graph.js'
import { isWhole, writeOnnx } from './graph/onnx.js'
import { BrokenModelError } from './runtime.js'

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
   * The model file of a graph, built and written if it is not there yet, or not as it was written. `parts` are the texts
   * that shape it, besides the code. Errors: FAILED_PRECONDITION where the folder cannot be written, and what `build` throws.
   */
  async file(name: string, parts: readonly string[], build: () => Graph | Promise<Graph>): Promise<string> {
    const path = join(this.folder, `${keyOf(name, parts)}.onnx`)
    if (await isWhole(path)) return path
    return this.#rebuild(name, parts, build)
  }

  /** What `load` makes of that file; where the file turns out to be broken, of a new one. Errors: also those of `load`. */
  async use<T>(
    name: string,
    parts: readonly string[],
    build: () => Graph | Promise<Graph>,
    load: (path: string) => Promise<T>,
  ): Promise<T> {
    const path = await this.file(name, parts, build)
    try {
      return await load(path)
    } catch (error) {
      // A device that is no CPU does not tell a broken file from a broken driver.
      if (!(error instanceof BrokenModelError) && (await isWhole(path))) throw error
      return load(await this.#rebuild(name, parts, build))
    }
  }

  #unwritable(error: unknown): unknown {
    if (!(error instanceof FlexitError)) return error
    if (!['EACCES', 'EPERM', 'EROFS'].includes(systemErrorCode(error.cause) ?? '')) return error
    const { code, message } = error
    const cure = `Built graphs are kept in ${this.folder}: make it writable, or name another place with FLEXIT_HOME or XDG_CACHE_HOME.`
    return new FlexitError({ code, message, cure, cause: error })
  }

  async #rebuild(name: string, parts: readonly string[], build: () => Graph | Promise<Graph>): Promise<string> {
    const graph = await build()
    return writeOnnx(graph, this.folder, keyOf(name, parts)).catch((error: unknown) => {
      throw this.#unwritable(error)
    })
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
