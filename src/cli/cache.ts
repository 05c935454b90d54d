// `flexit cache`: the graphs that were built, which are safe to delete at any time.
// Only files that the graph cache writes are counted and deleted; not those that another process is writing.

import { readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { Command } from 'commander'
import { fileError, systemErrorCode } from '../engine/errors.js'
import { tensorFolder } from '../engine/graph/onnx.js'
import { cacheFolder, formatBytes } from '../engine/pack/locations.js'
import { counted } from './progress.js'

export function cacheCommand(): Command {
  const command = new Command('cache')
    .summary('show or clear the built graphs')
    .description(
      'Show where built graphs are kept ($FLEXIT_HOME, or $XDG_CACHE_HOME) and how large they are. They are built again when needed.',
    )
    .action(show)
  command.command('clear').description('Delete all built graphs.').action(clear)
  return command
}

/** A file under a temporary name that has not grown for so long was left behind. */
const abandonedMs = 10 * 60_000

async function show(): Promise<void> {
  const { graphs, bytes } = await contents(cacheFolder())
  console.log(`${cacheFolder()}\n${counted(graphs, 'graph')}, ${formatBytes(bytes)}`)
}

async function clear(): Promise<void> {
  const folder = cacheFolder()
  const { paths, graphs, bytes } = await contents(folder)
  for (const path of paths) {
    await rm(path, { force: true }).catch((error: unknown) => {
      throw fileError(error, path, 'delete')
    })
  }
  console.log(`deleted ${counted(graphs, 'graph')}, ${formatBytes(bytes)}, from ${folder}`)
}

interface Contents {
  readonly paths: readonly string[]
  readonly graphs: number
  readonly bytes: number
}

async function contents(folder: string): Promise<Contents> {
  const models = (await filesOf(folder)).filter((path) => /\.onnx(\.[0-9a-f]+\.tmp)?$/.test(path))
  const paths: string[] = []
  let graphs = 0
  let bytes = 0
  for (const path of [...models, ...(await filesOf(join(folder, tensorFolder)))]) {
    const found = await stat(path).catch((error: unknown) => {
      if (systemErrorCode(error) !== 'ENOENT') throw fileError(error, path, 'read')
    })
    const temporary = path.endsWith('.tmp')
    if (found === undefined || (temporary && Date.now() - found.mtimeMs < abandonedMs)) continue
    paths.push(path)
    bytes += found.size
    if (path.endsWith('.onnx')) graphs++
  }
  return { paths, graphs, bytes }
}

async function filesOf(folder: string): Promise<string[]> {
  try {
    const entries = await readdir(folder, { withFileTypes: true })
    return entries.filter((entry) => entry.isFile()).map((entry) => join(folder, entry.name))
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return []
    throw fileError(error, folder, 'read')
  }
}
