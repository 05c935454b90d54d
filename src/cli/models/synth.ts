// `flexit models synth`: a pack of random weights in the shapes of a real one, for load tests and for machines without it.
// It runs as the real one does and edits nothing.

import { join } from 'node:path'
import { Command } from 'commander'
import { packPath, packsFolder } from '../../engine/pack/locations.js'
import { synthesisePack } from '../../engine/pack/synth.js'
import { interruptible } from '../interruption.js'
import { parseList, wholeNumber } from '../parameters.js'
import { createProgress } from '../progress.js'
import { writeProgress } from './write-progress.js'

interface SynthOptions {
  readonly to?: string
  readonly seed?: number
  readonly networks?: string[]
  readonly quiet?: boolean
}

export function synthCommand(): Command {
  return new Command('synth')
    .description('Make a pack of random weights, called synth-PACK: it costs what the real one costs, and edits nothing.')
    .argument('<pack>', 'tiny or imagenet')
    .option('--to <folder>', "the new pack's own folder (default: among the installed packs)")
    .option('--seed <n>', 'the same seed gives the same files (default: 0)', wholeNumber(0, Number.MAX_SAFE_INTEGER))
    .option('--networks <a,b>', 'CLIP networks by name (default: all that are not optional)', parseList)
    .option('--quiet', 'show only errors')
    .action((pack: string, options: SynthOptions) => interruptible((signal) => synth(pack, options, signal)))
}

async function synth(
  pack: string,
  { to, seed, networks, quiet = false }: SynthOptions,
  signal: AbortSignal,
): Promise<void> {
  const folder = to ?? join(packsFolder(), `synth-${pack}`)
  const progress = createProgress({ quiet })
  const onProgress = writeProgress(progress)
  const options = { onProgress, signal, ...(seed !== undefined && { seed }), ...(networks && { networks }) }
  const { name } = await synthesisePack(pack, folder, options).finally(() => progress.end())
  progress.say(`made ${name} in ${folder}; use it with --pack ${to === undefined ? name : packPath(to)}`)
}
