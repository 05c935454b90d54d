// Whether weight files hold whole the networks that they should, and whether a manifest's settings fit these.
// What a file is told to be comes from its shapes (describe.ts), what such a network has from architectures.ts.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileError, invalidArgument } from '../errors.js'
import { clipTensors, lpipsTensors, tapWidths, trunkTensors, vqganTensors } from './architectures.js'
import type { ClipConfig, TrunkConfig, VqganConfig } from './architectures.js'
import { openCheckpoint } from './checkpoint.js'
import { checkTensors, clipHeads, describeClip, describeTrunk, describeVqgan, wrongCheckpoint } from './describe.js'
import type { ClipEntry, Manifest } from './manifest.js'
import type { TensorSource } from './tensor-source.js'
import { Tokenizer } from './tokenizer.js'

/** Pixels of the smallest picture of which each trunk's last layer still sees one. */
const smallestPicture: Readonly<Record<TrunkConfig['kind'], number>> = { vgg16: 16, alexnet: 31 }

/** The autoencoder of a checkpoint that has all of it. Errors: DATA_LOSS, naming file and tensor. */
export function wholeVqgan({ tensors, path }: TensorSource): VqganConfig {
  const config = describeVqgan(tensors, path)
  checkTensors(tensors, vqganTensors(config), path)
  return config
}

/** The CLIP of a checkpoint that has all of it. Errors: DATA_LOSS, naming file and tensor. */
export function wholeClip({ tensors, path }: TensorSource): ClipConfig {
  const config = describeClip(tensors, path)
  checkTensors(tensors, clipTensors(config), path)
  return config
}

/** The trunk of LPIPS of a checkpoint that has all of it. Errors: DATA_LOSS, naming file and tensor. */
export function wholeTrunk({ tensors, path }: TensorSource, expected?: TrunkConfig['kind']): TrunkConfig {
  const config = describeTrunk(tensors, path)
  if (expected !== undefined && config.kind !== expected) {
    throw wrongCheckpoint(path, `it is ${config.kind}, expected ${expected}`)
  }
  checkTensors(tensors, trunkTensors(config), path)
  return config
}

/** Check the linear layers of LPIPS against their trunk. Errors: DATA_LOSS, naming file and tensor. */
export function checkLinear({ tensors, path }: TensorSource, trunk: TrunkConfig): void {
  checkTensors(tensors, lpipsTensors(tapWidths(trunk)), path)
}

/**
 * Check that a file of a pack is what its manifest takes it for, whatever its hash; for the linear layers of LPIPS their
 * trunk must be there too. Errors: DATA_LOSS, naming file and tensor; NOT_FOUND.
 */
export async function checkContent(folder: string, file: string, manifest: Manifest): Promise<void> {
  const { autoencoder, clip, perceptual, tokenizer } = manifest
  const path = join(folder, file)
  if (file === tokenizer.merges) return checkMerges(path, tokenizer.vocabularySize)
  await withCheckpoint(path, async (source) => {
    if (file === autoencoder.weights) wholeVqgan(source)
    if (clip.some(({ weights }) => file === weights)) wholeClip(source)
    if (file === perceptual.weights) wholeTrunk(source, perceptual.trunk)
    if (file === perceptual.linear) {
      const trunk = (other: TensorSource) => wholeTrunk(other, perceptual.trunk)
      checkLinear(source, await withCheckpoint(join(folder, perceptual.weights), trunk))
    }
  })
}

/** Errors: those of `openCheckpoint` and of `use`. */
export async function withCheckpoint<T>(path: string, use: (source: TensorSource) => T | Promise<T>): Promise<T> {
  const source = await openCheckpoint(path)
  try {
    return await use(source)
  } finally {
    source.close()
  }
}

/** A list that does not fit the vocabulary is an error of the tokenizer's. */
export async function checkMerges(path: string, vocabularySize: number): Promise<void> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw fileError(error, path, 'read')
  })
  Tokenizer.fromMerges(bytes, vocabularySize, path)
}

/** Whether the autoencoder and LPIPS take pictures of the manifest's size. Errors: INVALID_ARGUMENT. */
export function checkAutoencoder(
  { image, autoencoder, perceptual }: Omit<Manifest, 'files'>,
  { ch, chMult }: VqganConfig,
): void {
  const factor = 2 ** (chMult.length - 1)
  if (image.size % factor !== 0) {
    throw invalidArgument('image', `a picture of ${image.size} pixels cannot be halved to 1/${factor} of its size`)
  }
  const smallest = smallestPicture[perceptual.trunk]
  if (image.size < smallest) {
    throw invalidArgument(
      'image',
      `a picture of ${image.size} pixels is smaller than the ${smallest} of ${perceptual.trunk}`,
    )
  }
  if (ch % autoencoder.normGroups !== 0) {
    throw invalidArgument(
      'normGroups',
      `${autoencoder.normGroups} groups do not divide the autoencoder's ${ch} channels`,
      'State the number of groups of its GroupNorm layers.',
    )
  }
}

/** Whether a CLIP's towers can be divided into its attention heads. Errors: INVALID_ARGUMENT. */
export function checkHeads(entry: Pick<ClipEntry, 'name' | 'heads'>, config: ClipConfig): void {
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
