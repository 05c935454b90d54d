// Builds a model pack from checkpoints on this machine, after checking that each is the network that it is meant to be.
// Configurations come from the weights, as in openai/CLIP `build_model`; settings from a base manifest and overrides.

import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { extname } from 'node:path'
import { fileError, invalidArgument } from '../errors.js'
import type { ClipConfig } from './architectures.js'
import { checkAutoencoder, checkHeads, checkLinear, checkMerges } from './check.js'
import { wholeClip, wholeTrunk, wholeVqgan, withCheckpoint } from './check.js'
import { wrongCheckpoint } from './describe.js'
import { manifestSchema, type ClipEntry, type Manifest } from './manifest.js'
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
  readonly normGroups?: number | undefined
  readonly perceptual?: Partial<Pick<Manifest['perceptual'], 'shift' | 'scale'>> | undefined
}

export interface PackImport extends WriteOptions {
  readonly name: string
  /** Where the pack is written. */
  readonly folder: string
  /** Whose picture size and settings the pack takes; without it, `overrides.image` is needed. */
  readonly base?: Manifest | undefined
  /** Paths of checkpoints: safetensors or PyTorch. */
  readonly autoencoder: string
  readonly clip: readonly ClipImport[]
  readonly trunk: string
  readonly linear: string
  /** Path of the BPE merges, plain or gzip. */
  readonly merges: string
  readonly overrides?: ImportOverrides | undefined
}

/** Heights and widths of pictures, in pixels, that a pack can be imported for: beyond, no machine has the memory for a step. */
export const importSizes = { least: 16, most: 2048 } as const

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

  checkRequest(request, image.size)
  const autoencoder = await withCheckpoint(request.autoencoder, wholeVqgan)
  const clips: ClipConfig[] = []
  for (const { path } of request.clip) clips.push(await withCheckpoint(path, wholeClip))
  const trunk = await withCheckpoint(request.trunk, (source) => wholeTrunk(source))
  await withCheckpoint(request.linear, (source) => checkLinear(source, trunk))

  const entries = request.clip.map((clip) => clipEntry(clip, base))
  const manifest = {
    format: 1 as const,
    name: request.name,
    // The base's texts tell of its own networks.
    description:
      overrides.description ??
      `Imported from files on this machine${base === undefined ? '' : `, with the settings of ${base.name}`}.`,
    licence: overrides.licence ?? 'That of the imported files.',
    attribution: overrides.attribution ?? [],
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

/** What can be told before the files are read, with cures that the manifest's own rules do not have. */
function checkRequest({ name, clip }: PackImport, size: number): void {
  const { name: packName, clip: networks } = manifestSchema.shape
  if (!packName.safeParse(name).success) {
    const cure = 'Use lower-case letters, digits, dots, dashes and underscores, with a letter or a digit first.'
    throw invalidArgument('name', `no pack can be called "${name}"`, cure)
  }
  const wrong = clip.findIndex((entry) => !networks.element.shape.name.safeParse(entry.name).success)
  if (wrong >= 0) {
    const cure = 'Use letters, digits, dots, dashes and underscores, with a letter or a digit first.'
    throw invalidArgument(`clip.${wrong}.name`, `no network can be called "${clip[wrong]!.name}"`, cure)
  }
  const { least, most } = importSizes
  // What is too small is the networks' to say.
  if (size <= most) return
  const cure = `Use a whole number of pixels from ${least} to ${most}.`
  throw invalidArgument('image.size', `pictures cannot be ${size} pixels high and wide`, cure)
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
