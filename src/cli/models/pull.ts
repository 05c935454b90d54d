// `flexit models pull`: downloads a pack; what an earlier pull has begun is gone on with.
// One bar for each file; Ctrl-C keeps what has arrived.

import { Command } from 'commander'
import { FlexitError } from '../../engine/errors.js'
import { pullPack } from '../../engine/pack/pull.js'
import { interruptible } from '../interruption.js'
import { parseList } from '../parameters.js'
import { createProgress } from '../progress.js'
import { fileProgress } from './file-progress.js'

interface PullOptions {
  readonly networks?: string[]
  readonly to?: string
  readonly quiet?: boolean
}

export function pullCommand(): Command {
  return new Command('pull')
    .description('Download the files of a pack and check them. Files that are there and right are not fetched again.')
    .argument('<pack>', 'name, or path (./FOLDER) of a folder with a pack.json')
    .option('--networks <a,b>', 'CLIP networks by name (default: all that are not optional)', parseList)
    .option('--to <folder>', "the pack's own folder (default: among the installed packs)")
    .option('--quiet', 'show only errors')
    .action((pack: string, options: PullOptions) => interruptible((signal) => pull(pack, options, signal)))
}

async function pull(pack: string, { networks, to, quiet = false }: PullOptions, signal: AbortSignal): Promise<void> {
  const progress = createProgress({ quiet })
  try {
    const { onProgress } = fileProgress(progress)
    const { folder, downloaded } = await pullPack(pack, { networks, to, signal, onProgress })
    progress.end()
    const count = downloaded.length
    const what = count === 0 ? 'nothing to download' : `${count} ${count === 1 ? 'file' : 'files'} downloaded`
    progress.say(`${pack} is ready in ${folder} (${what})`)
  } catch (error) {
    if (!(error instanceof FlexitError) || error.code !== 'CANCELLED') throw error
    const message = 'what has arrived is kept'
    throw new FlexitError({ code: 'CANCELLED', message, cure: 'Give the same command again to go on.', cause: error })
  } finally {
    progress.end()
  }
}
