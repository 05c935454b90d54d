// Builds a model pack from checkpoints on this machine, after checking that each is the network that it is meant to be.
// Configurations come from the weights, as in openai/CLIP `build_model`; settings from a base manifest and overrides.

import { createReadStream } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { extname } from 'node:path'
import { fileError, invalidArgument } from '../errors.js'
import { clipTensors, lpipsTensors, tapWidths, trunkTensors, vqganTensors } from './architectures.js'
import type { ClipConfig, TensorMap, VqganConfig } from './architectures.js'
import { openCheckpoint } from './checkpoint.js'
import { checkTensors, clipHeads, describeClip, describeTrunk, describeVqgan, wrongCheckpoint } from './describe.js'
import { manifestSchema, type ClipEntry, type Manifest } from './manifest.js'
import { Tokenizer } from './tokenizer.js'
import { writePack, type NewFile, type WriteOptions } from './write-pack.js'

/** A CLIP checkpoint; what is left out comes from the base's network of the same name, or is OpenAI's. */
export interface ClipImport extends Partial<Omit<ClipEntry, 'name' | 'weights'>> {
  readonly name: string
  readonly path: string
}

/** Settings that differ from the base's. */
export interface ImportOverrides extends Partial<
  Pick<Manifest, 'description' | 'licence' | 'attribution' | 'image' | 'views' | 'defaults'>
> {
  readonly normGroups?: number
  readonly perceptual?: Partial<Pick<Manifest['perceptual'], 'shift' | 'scale'>>
}

export interface PackImport extends WriteOptions {
  readonly name: string
  /** Where the pack is written. */
  readonly folder: string
  /** Whose picture size and settings the pack takes; without it, `overrides.image` is needed. */
  readonly base?: Manifest
  /** Paths of checkpoints: safetensors or PyTorch. */
  readonly autoencoder: string
  readonly clip: readonly ClipImport[]
  readonly trunk: string
  readonly linear: string
  /** Path of the BPE merges, plain or gzip. */
  readonly merges: string
  readonly overrides?: ImportOverrides
}

/**
 * Check all files, copy them into `folder` and write `pack.json` last. Returns the manifest.
 * Errors: INVALID_ARGUMENT (a setting), NOT_FOUND (a file), DATA_LOSS (a file is not the network that it should be: names
 * file, tensor, expected and found), FAILED_PRECONDITION (the disk), CANCELLED.
 */
export async function importPack(request: PackImport): Promise<Manifest> {
  const { base, overrides = {} } = request
  const image = overrides.image ?? base?.image
  if (!image)
    throw invalidArgument('image', 'the size of the pictures is not given', 'Name a base pack, or set a size.')

  const autoencoder = await inspect(request.autoencoder, describeVqgan, vqganTensors)
  const clips: ClipConfig[] = []
  for (const { path } of request.clip) clips.push(await inspect(path, describeClip, clipTensors))
  const trunk = await inspect(request.trunk, describeTrunk, trunkTensors)
  await inspect(
    request.linear,
    () => tapWidths(trunk),
    (widths) => lpipsTensors(widths),
  )

  const entries = request.clip.map((clip) => clipEntry(clip, base))
  const manifest = {
    format: 1 as const,
    name: request.name,
    description: overrides.description ?? base?.description ?? 'Imported from files on this machine.',
    licence: overrides.licence ?? base?.licence ?? 'That of the imported files.',
    attribution: overrides.attribution ?? base?.attribution ?? [],
    image,
    autoencoder: {
      weights: `autoencoder${extension(request.autoencoder)}`,
      normGroups: overrides.normGroups ?? base?.autoencoder.normGroups ?? 32,
    },
    clip: entries,
    perceptual: {
      ...(base?.perceptual.trunk === trunk.kind ? base.perceptual : {}),
      ...overrides.perceptual,
      trunk: trunk.kind,
      weights: `${trunk.kind}${extension(request.trunk)}`,
      linear: `lpips${extension(request.linear)}`,
    },
    tokenizer: {
      merges: extname(request.merges) === '.gz' ? 'merges.txt.gz' : 'merges.txt',
      vocabularySize: sharedVocabulary(request.clip, clips),
    },
    views: overrides.views ?? base?.views ?? {},
    defaults: overrides.defaults ?? base?.defaults ?? {},
  }
  const checked = checkSettings(manifest)
  checkAutoencoder(checked, autoencoder)
  for (const [i, config] of clips.entries()) checkHeads(entries[i]!, config)
  await checkMerges(request.merges, manifest.tokenizer.vocabularySize)

  const files = await Promise.all([
    localFile(manifest.autoencoder.weights, request.autoencoder),
    ...request.clip.map((clip, i) => localFile(entries[i]!.weights, clip.path)),
    localFile(manifest.perceptual.weights, request.trunk),
    localFile(manifest.perceptual.linear, request.linear),
    localFile(manifest.tokenizer.merges, request.merges),
  ])
  return writePack(request.folder, checked, files, request)
}

/** What a checkpoint is, having checked that it holds all that such a network has. */
async function inspect<T>(
  path: string,
  describe: (tensors: TensorMap, where: string) => T,
  required: (config: T) => TensorMap,
): Promise<T> {
  const source = await openCheckpoint(path)
  try {
    const config = describe(source.tensors, path)
    checkTensors(source.tensors, required(config), path)
    return config
  } finally {
    source.close()
  }
}

function clipEntry({ path, ...settings }: ClipImport, base: Manifest | undefined) {
  const known = base?.clip.find((entry) => entry.name === settings.name)
  return { ...known, optional: false, ...settings, weights: `clip-${settings.name}${extension(path)}` }
}

/** The one vocabulary of all networks: they are given the same tokens. */
function sharedVocabulary(clips: readonly ClipImport[], configs: readonly ClipConfig[]): number {
  const size = configs[0]?.vocabularySize
  if (size === undefined) throw invalidArgument('clip', 'no CLIP network is given', 'Name at least one.')
  const other = configs.findIndex((config) => config.vocabularySize !== size)
  if (other < 0) return size
  throw wrongCheckpoint(
    clips[other]!.path,
    `its vocabulary has ${configs[other]!.vocabularySize} symbols, that of ${clips[0]!.path} ${size}`,
  )
}

/** The manifest's own rules, before anything is written: here a wrong value is the caller's, not a damaged file's. */
function checkSettings(settings: object): Omit<Manifest, 'files'> {
  const parsed = manifestSchema.omit({ files: true }).safeParse(settings)
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!
    throw invalidArgument(path.join('.'), `${path.join('.')}: ${message}`)
  }
  const names = parsed.data.clip.map((entry) => entry.name)
  const twice = names.find((name, i) => names.indexOf(name) < i)
  if (twice !== undefined) throw invalidArgument('clip', `two networks are named "${twice}"`, 'Give each its own name.')
  return parsed.data
}

function checkAutoencoder({ image, autoencoder }: Omit<Manifest, 'files'>, { ch, chMult }: VqganConfig): void {
  const factor = 2 ** (chMult.length - 1)
  if (image.size % factor !== 0) {
    throw invalidArgument('image', `a picture of ${image.size} pixels cannot be halved to 1/${factor} of its size`)
  }
  if (ch % autoencoder.normGroups !== 0) {
    throw invalidArgument(
      'normGroups',
      `${autoencoder.normGroups} groups do not divide the autoencoder's ${ch} channels`,
      'State the number of groups of its GroupNorm layers.',
    )
  }
}

function checkHeads(entry: Pick<ClipEntry, 'name' | 'heads'>, config: ClipConfig): void {
  const heads = clipHeads(config, entry.heads)
  const imageWidth = typeof config.visionLayers === 'number' ? config.visionWidth : config.visionWidth * 32
  const fits = (count: number, width: number) =>
    width % count === 0 && (entry.heads !== undefined || width === count * 64)
  if (fits(heads.image, imageWidth) && fits(heads.text, config.transformerWidth)) return
  throw invalidArgument(
    'heads',
    `the towers of "${entry.name}" are ${imageWidth} (image) and ${config.transformerWidth} (text) wide, ` +
      (entry.heads ? `not divisible by ${heads.image} and ${heads.text} heads` : 'no multiples of 64'),
    'State how many attention heads each tower has.',
  )
}

/** A list that does not fit the vocabulary is an error of the tokenizer's. */
async function checkMerges(path: string, vocabularySize: number): Promise<void> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw fileError(error, path, 'read')
  })
  Tokenizer.fromMerges(bytes, vocabularySize, path)
}

async function localFile(name: string, path: string): Promise<NewFile> {
  const { size } = await stat(path).catch((error: unknown) => {
    throw fileError(error, path, 'read')
  })
  return { name, bytes: size, chunks: () => createReadStream(path, { highWaterMark: 2 ** 20 }) }
}

/** The ending of a file's name, where it is a plain one. */
function extension(path: string): string {
  return /\.[A-Za-z0-9]+$/.exec(path)?.[0].toLowerCase() ?? ''
}
