// `flexit models import`: a pack from checkpoints on this machine, each checked to be the network it should be.
// Settings that the files do not tell come from a base pack.

import { join } from 'node:path'
import { Command, InvalidArgumentError } from 'commander'
import { importPack, importSizes } from '../../engine/pack/import.js'
import { packPath, packsFolder, resolvePack } from '../../engine/pack/locations.js'
import { interruptible } from '../interruption.js'
import { parseCount, wholeNumber } from '../parameters.js'
import { createProgress } from '../progress.js'
import { writeProgress } from './write-progress.js'

interface ImportOptions {
  readonly autoencoder: string
  readonly clip: readonly { readonly name: string; readonly path: string }[]
  readonly trunk: string
  readonly linear: string
  readonly merges: string
  readonly base?: string
  readonly size?: number
  readonly normGroups?: number
  readonly to?: string
  readonly quiet?: boolean
}

const example = `
Example:
  flexit models import mine --base imagenet --autoencoder last.ckpt --clip RN50=RN50.pt --clip ViT-B-32=ViT-B-32.pt \\
    --trunk vgg16-397923af.pth --linear vgg.pth --merges bpe_simple_vocab_16e6.txt.gz`

export function importCommand(): Command {
  return new Command('import')
    .description('Make a pack of checkpoints on this machine: safetensors or PyTorch files, which are not run.')
    .argument('<name>', 'how the new pack is called: lower-case letters, digits, dots, dashes, underscores')
    .requiredOption('--autoencoder <file>', "VQGAN, with the names of taming-transformers' checkpoints")
    .requiredOption('--clip <name=file>', "a CLIP network with the names of OpenAI's; may be repeated", collectNetworks)
    .requiredOption('--trunk <file>', 'VGG16 or AlexNet of torchvision, for LPIPS')
    .requiredOption('--linear <file>', 'linear layers of LPIPS v0.1')
    .requiredOption('--merges <file>', "CLIP's list of merges, plain or gzip")
    .option('--base <pack>', 'pack whose settings are taken over, where the files do not tell them')
    .option(
      '--size <pixels>',
      `height and width of pictures (${importSizes.least} to ${importSizes.most}; default: the base's)`,
      wholeNumber(importSizes.least, importSizes.most),
    )
    .option('--norm-groups <n>', "groups of the autoencoder's norms (default: the base's, or 32)", parseCount)
    .option('--to <folder>', "the new pack's own folder (default: among the installed packs)")
    .option('--quiet', 'show only errors')
    .addHelpText('after', example)
    .action((name: string, options: ImportOptions) => interruptible((signal) => importFiles(name, options, signal)))
}

async function importFiles(name: string, options: ImportOptions, signal: AbortSignal): Promise<void> {
  const { autoencoder, clip, trunk, linear, merges, base, size, normGroups, to, quiet = false } = options
  const manifest = base === undefined ? undefined : (await resolvePack(base)).manifest
  const folder = to ?? join(packsFolder(), name)
  const progress = createProgress({ quiet })
  const overrides = {
    ...(size !== undefined && { image: { background: 'white', ...manifest?.image, size } }),
    ...(normGroups !== undefined && { normGroups }),
  }
  const onProgress = writeProgress(progress)
  const files = { autoencoder, clip, trunk, linear, merges }
  const request = { ...files, name, folder, overrides, onProgress, signal, ...(manifest && { base: manifest }) }
  await importPack(request).finally(() => progress.end())
  progress.say(`imported ${name} into ${folder}; use it with --pack ${to === undefined ? name : packPath(to)}`)
}

function collectNetworks(text: string, before: ImportOptions['clip'] = []): ImportOptions['clip'] {
  const [, name, path] = /^([^=]+)=(.+)$/.exec(text) ?? []
  if (name === undefined || path === undefined) throw new InvalidArgumentError('Write NAME=FILE.')
  return [...before, { name, path }]
}
