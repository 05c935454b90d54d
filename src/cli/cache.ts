// `flexit cache`: the graphs that were built, which are safe to delete at any time.
// Only files that the graph cache writes are counted and deleted.

import { readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { Command } from 'commander'
import { fileError, systemErrorCode } from '../engine/errors.js'
import { tensorFolder } from '../engine/graph/onnx.js'
import { cacheFolder, formatBytes } from '../engine/pack/locations.js'

export function cacheCommand(): Command {
  const command = new Command('cache')
    .summary('show or clear the built graphs')
    .description('Show where built graphs are kept and how large they are. They are built again when needed.')
    .action(show)
  command.command('clear').description('Delete all built graphs.').action(clear)
  return command
}

async function show(): Promise<void> {
  const { graphs, bytes } = await contents(cacheFolder())
  console.log(`${cacheFolder()}\n${counted(graphs)}, ${formatBytes(bytes)}`)
}

async function clear(): Promise<void> {
  const folder = cacheFolder()
  const { paths, graphs, bytes } = await contents(folder)
  for (const path of paths) {
    await rm(path, { force: true }).catch((error: unknown) => {
      throw fileError(error, path, 'delete')
    })
  }
  console.log(`deleted ${counted(graphs)}, ${formatBytes(bytes)}, from ${folder}`)
}

function counted(graphs: number): string {
  return graphs === 1 ? '1 graph' : `${graphs} graphs`
}

interface Contents {
  readonly paths: readonly string[]
  readonly graphs: number
  readonly bytes: number
}

async function contents(folder: string): Promise<Contents> {
  const models = (await filesOf(folder)).filter((path) => /\.onnx(\.[0-9a-f]+\.tmp)?$/.test(path))
  const paths = [...models, ...(await filesOf(join(folder, tensorFolder)))]
  let bytes = 0
  for (const path of paths) bytes += (await stat(path)).size
  return { paths, graphs: models.length, bytes }
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
