// `flexit models import`: a pack from checkpoints on this machine, each checked to be the network it should be.
// Settings that the files do not tell come from a base pack.

import { join } from 'node:path'
import { Command, InvalidArgumentError } from 'commander'
import { invalidArgument } from '../../engine/errors.js'
import { type ClipImport, importPack, importSizes } from '../../engine/pack/import.js'
import { packPath, packsFolder, resolvePack } from '../../engine/pack/locations.js'
import { interruptible } from '../interruption.js'
import { parseCount, wholeNumber } from '../parameters.js'
import { createProgress } from '../progress.js'
import { writeProgress } from './write-progress.js'

interface ImportOptions {
  readonly autoencoder: string
  readonly clip: readonly { readonly name: string; readonly path: string }[]
  readonly heads?: ReadonlyMap<string, NonNullable<ClipImport['heads']>>
  readonly trunk: string
  readonly linear: string
  readonly merges: string
  readonly base?: string
  readonly licence?: string
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
    .option(
      '--heads <name=image,text>',
      "attention heads of a CLIP network's towers (default: those of the base's network of that name, or one for each 64 channels)",
      collectHeads,
    )
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
    .option('--licence <text>', 'of the networks (default: "That of the imported files.")')
    .option('--to <folder>', "the new pack's own folder (default: among the installed packs)")
    .option('--quiet', 'show only errors')
    .addHelpText('after', example)
    .action((name: string, options: ImportOptions) => interruptible((signal) => importFiles(name, options, signal)))
}

async function importFiles(name: string, options: ImportOptions, signal: AbortSignal): Promise<void> {
  const { autoencoder, trunk, linear, merges, base, size, normGroups, licence, to, quiet = false } = options
  const manifest = base === undefined ? undefined : (await resolvePack(base)).manifest
  const folder = to ?? join(packsFolder(), name)
  const progress = createProgress({ quiet })
  const overrides = {
    ...(size !== undefined && { image: { background: 'white', ...manifest?.image, size } }),
    ...(normGroups !== undefined && { normGroups }),
    ...(licence !== undefined && { licence }),
  }
  const onProgress = writeProgress(progress)
  const files = { autoencoder, clip: withHeads(options), trunk, linear, merges }
  const request = { ...files, name, folder, overrides, onProgress, signal, ...(manifest && { base: manifest }) }
  await importPack(request).finally(() => progress.end())
  progress.say(`imported ${name} into ${folder}; use it with --pack ${to === undefined ? name : packPath(to)}`)
}

/** Errors: INVALID_ARGUMENT (heads of a network that is not given). */
function withHeads({ clip, heads = new Map() }: ImportOptions): ClipImport[] {
  const stranger = [...heads.keys()].find((name) => clip.every((network) => network.name !== name))
  if (stranger !== undefined) {
    const cure = `Networks are ${clip.map(({ name }) => name).join(', ')}.`
    throw invalidArgument('heads', `there is no --clip called "${stranger}"`, cure)
  }
  return clip.map((network) => ({ ...network, ...(heads.has(network.name) && { heads: heads.get(network.name) }) }))
}

function collectHeads(text: string, before: NonNullable<ImportOptions['heads']> = new Map()) {
  const [, name, image, ofText] = /^([^=]+)=(\d+),(\d+)$/.exec(text) ?? []
  if (name === undefined) throw new InvalidArgumentError('Write NAME=IMAGE,TEXT, as ViT-B-32=12,8.')
  return new Map([...before, [name, { image: Number(image), text: Number(ofText) }]])
}

function collectNetworks(text: string, before: ImportOptions['clip'] = []): ImportOptions['clip'] {
  const [, name, path] = /^([^=]+)=(.+)$/.exec(text) ?? []
  if (name === undefined || path === undefined) throw new InvalidArgumentError('Write NAME=FILE.')
  return [...before, { name, path }]
}
