// An open model pack: its manifest, its weights, its tokenizer.

import { createHash } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { FlexitError, fileError, invalidArgument, quoted } from '../errors.js'
import { Weights } from '../networks/weights.js'
import type { ClipConfig } from './architectures.js'
import { checkAutoencoder, checkHeads, checkLinear, wholeClip, wholeTrunk, wholeVqgan } from './check.js'
import { openCheckpoint } from './checkpoint.js'
import { clipHeads } from './describe.js'
import { type ClipEntry, type Manifest, manifestName, readManifest, requiredFiles } from './manifest.js'
import type { TensorSource } from './tensor-source.js'
import { Tokenizer } from './tokenizer.js'

/** One CLIP network of an open pack. */
export interface ClipNetwork {
  readonly name: string
  /** Position among all networks of the manifest, also those that are not there: it keys the random views. */
  readonly index: number
  readonly weights: Weights
  readonly mean: readonly number[]
  readonly std: readonly number[]
  readonly config: ClipConfig
  readonly heads: { readonly image: number; readonly text: number }
}

export class Pack {
  readonly folder: string
  readonly manifest: Manifest
  readonly tokenizer: Tokenizer
  /** Hash of its name and of all that shapes numbers: equal digests give equal edits, to those who name all parameters. */
  readonly digest: string
  readonly #sources: ReadonlyMap<string, TensorSource>
  readonly #networks = new Map<string, ClipNetwork>()
  readonly #verified = new Map<string, Promise<void>>()

  private constructor(
    folder: string,
    manifest: Manifest,
    tokenizer: Tokenizer,
    sources: ReadonlyMap<string, TensorSource>,
    digest: string,
  ) {
    this.folder = folder
    this.manifest = manifest
    this.tokenizer = tokenizer
    this.digest = digest
    this.#sources = sources
  }

  /**
   * Open a pack's folder. CLIP networks whose files are absent are left out. Errors: NOT_FOUND; FAILED_PRECONDITION (no
   * CLIP network is there); DATA_LOSS (a file of the wrong size, a manifest or weight file that is not valid, a network that
   * lacks a tensor, sizes and settings that do not belong together).
   */
  static async open(folder: string): Promise<Pack> {
    const manifest = await readManifest(folder)
    const needed = requiredFiles(manifest, [])
    const sources = new Map<string, TensorSource>()
    try {
      for (const file of new Set(requiredFiles(manifest, manifest.clip))) {
        if (await isPresent(folder, file, manifest, needed.includes(file))) {
          if (file !== manifest.tokenizer.merges) sources.set(file, await openCheckpoint(join(folder, file)))
        }
      }
      const { merges, vocabularySize } = manifest.tokenizer
      const path = join(folder, merges)
      const bytes = await readFile(path).catch((error: unknown) => {
        throw fileError(error, path, 'read')
      })
      const hashes = new Map([[merges, () => Promise.resolve(sha256(bytes))]])
      for (const [file, source] of sources) hashes.set(file, () => source.sha256())
      checkDigest(path, sha256(bytes), manifest.files[merges]?.sha256)
      const digest = await digestOf(manifest, hashes)
      const pack = new Pack(folder, manifest, Tokenizer.fromMerges(bytes, vocabularySize, path), sources, digest)
      pack.#checkImageNetworks()
      for (const name of pack.networkNames) pack.#checkVocabulary(name)
      if (pack.networkNames.length === 0) pack.clip(manifest.clip[0]!.name) // an error, with the cure
      return pack
    } catch (error) {
      for (const source of sources.values()) source.close()
      throw error
    }
  }

  close(): void {
    for (const source of this.#sources.values()) source.close()
  }

  /** CLIP networks whose weights are here, in the manifest's order. */
  get networkNames(): string[] {
    return this.manifest.clip.filter((entry) => this.#sources.has(entry.weights)).map((entry) => entry.name)
  }

  /** The networks that an edit uses unless told otherwise. */
  get defaultNetworks(): string[] {
    return this.manifest.clip.filter((entry) => !entry.optional).map((entry) => entry.name)
  }

  autoencoder(): Weights {
    return new Weights(this.#source(this.manifest.autoencoder.weights))
  }

  perceptual(): { trunk: Weights; linear: Weights } {
    const { weights, linear } = this.manifest.perceptual
    return { trunk: new Weights(this.#source(weights)), linear: new Weights(this.#source(linear)) }
  }

  /** A CLIP network by name. Errors: INVALID_ARGUMENT, FAILED_PRECONDITION where its weights are not here. */
  clip(name: string): ClipNetwork {
    const network = this.#networks.get(name) ?? this.#describe(name)
    this.#networks.set(name, network)
    return network
  }

  #describe(name: string): ClipNetwork {
    const index = this.manifest.clip.findIndex((entry) => entry.name === name)
    const entry = this.manifest.clip[index]
    if (entry === undefined) {
      const known = this.manifest.clip.map((e) => e.name).join(', ')
      throw invalidArgument(
        'networks',
        `the pack ${this.manifest.name} has no network ${quoted(name)}`,
        `Choose among ${known}.`,
      )
    }
    const source = this.#source(entry.weights, entry)
    const config = wholeClip(source)
    this.#settings(() => checkHeads(entry, config))
    const { mean, std, heads } = entry
    return { name, index, weights: new Weights(source), mean, std, config, heads: clipHeads(config, heads) }
  }

  /**
   * Compare the files that hold the autoencoder, the perceptual network and the given CLIP networks with the sha256 of
   * the manifest, once for each that is right: the open files, which the weights are read from. Errors: DATA_LOSS.
   */
  async verify(networks: readonly string[]): Promise<void> {
    const entries = this.manifest.clip.filter((entry) => networks.includes(entry.name))
    for (const file of requiredFiles(this.manifest, entries)) {
      if (file === this.manifest.tokenizer.merges) continue // compared when it was read
      await (this.#verified.get(file) ?? this.#check(file))
    }
  }

  #check(file: string): Promise<void> {
    const checking = checkSource(this.#source(file), this.manifest.files[file]?.sha256)
    this.#verified.set(file, checking)
    checking.catch(() => this.#verified.delete(file))
    return checking
  }

  #source(file: string, entry?: ClipEntry): TensorSource {
    const source = this.#sources.get(file)
    if (source !== undefined) return source
    throw new FlexitError({
      code: 'FAILED_PRECONDITION',
      message: `the weights of ${entry?.name ?? file} (${file}) are not in ${this.folder}`,
      cure: `Run \`npx flexit models pull ${this.manifest.name}${entry === undefined ? '' : ` --networks ${entry.name}`}\`.`,
    })
  }

  #checkImageNetworks(): void {
    const { autoencoder, perceptual } = this.manifest
    const config = wholeVqgan(this.#source(autoencoder.weights))
    this.#settings(() => checkAutoencoder(this.manifest, config))
    checkLinear(this.#source(perceptual.linear), wholeTrunk(this.#source(perceptual.weights), perceptual.trunk))
  }

  /** A setting that would be a wrong argument of an import is damage of a manifest that is there. */
  #settings(check: () => void): void {
    try {
      check()
    } catch (error) {
      if (!(error instanceof FlexitError)) throw error
      throw new FlexitError({
        code: 'DATA_LOSS',
        message: `${join(this.folder, manifestName)} does not fit the networks: ${error.message}`,
        cure: 'Restore the file, or build the pack again with `flexit models import`.',
        cause: error,
      })
    }
  }

  #checkVocabulary(network: string): void {
    const { vocabularySize } = this.clip(network).config
    if (vocabularySize === this.tokenizer.vocabularySize) return
    throw new FlexitError({
      code: 'DATA_LOSS',
      message: `${this.folder}: the network ${network} knows ${vocabularySize} tokens, the tokenizer has ${this.tokenizer.vocabularySize}`,
      cure: 'Use the tokenizer that the network was trained with.',
    })
  }
}

async function isPresent(folder: string, file: string, manifest: Manifest, required: boolean): Promise<boolean> {
  const path = join(folder, file)
  const found = await stat(path).catch((error: unknown) => {
    if (required) throw fileError(error, path, 'open')
  })
  if (found === undefined) return false
  const { bytes } = manifest.files[file]!
  if (bytes === undefined || bytes === found.size) return true
  throw new FlexitError({
    code: 'DATA_LOSS',
    message: `${path} has ${found.size} bytes, expected ${bytes}: it is ${found.size < bytes ? 'truncated' : 'not the right file'}`,
    cure: 'Restore the file, or delete it and pull the pack again with `npx flexit models pull`.',
  })
}

/** Files stand for what is in them. The name is part of it, as packs that are served together are told apart by theirs. */
async function digestOf(manifest: Manifest, hashes: ReadonlyMap<string, () => Promise<string>>): Promise<string> {
  // A network that is not there may have none.
  const contents = async (file: string) => manifest.files[file]?.sha256 ?? (await hashes.get(file)?.()) ?? null
  const { name, image, autoencoder, clip, perceptual, tokenizer, views } = manifest
  const networks = []
  for (const { name, weights, mean, std, heads } of clip) {
    networks.push([name, await contents(weights), mean, std, heads?.image, heads?.text])
  }
  const { trunk, shift, scale } = perceptual
  const shaping = [
    ['flexit-pack/2', name, image.size, image.background],
    [await contents(autoencoder.weights), autoencoder.normGroups],
    networks,
    [trunk, await contents(perceptual.weights), await contents(perceptual.linear), shift, scale],
    [await contents(tokenizer.merges), tokenizer.vocabularySize],
    views.padding,
  ]
  return sha256(JSON.stringify(shaping))
}

function sha256(bytes: Uint8Array | string): string {
  return createHash('sha256').update(bytes).digest('hex')
}

async function checkSource(source: TensorSource, expected: string | undefined): Promise<void> {
  if (expected !== undefined) checkDigest(source.path, await source.sha256(), expected)
}

function checkDigest(path: string, found: string, expected: string | undefined): void {
  if (expected === undefined || found === expected) return
  throw new FlexitError({
    code: 'DATA_LOSS',
    message: `${path} was altered: its sha256 is ${found}, expected ${expected}`,
    cure: 'Restore the file, or delete it and pull the pack again with `npx flexit models pull`.',
  })
}
