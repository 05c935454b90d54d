// Packs of random weights in the exact shapes of the real ones: for tests, benchmarks and machines without the downloads.
// Weights keep activations in range by He's rule (https://arxiv.org/abs/1502.01852): variance = gain / fan-in.

import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { FlexitError, invalidArgument } from '../errors.js'
import { clipTensors, lpipsTensors, PACK_ARCHITECTURES, sizeOf } from './architectures.js'
import { tapWidths, trunkTensors, vqganTensors, type TensorMap } from './architectures.js'
import { encodeF16 } from './float16.js'
import { shippedFolder } from './locations.js'
import { readManifest, type ClipEntry, type Manifest } from './manifest.js'
import { serialiseSafetensors } from './safetensors.js'
import { elementBytes } from './tensor-bytes.js'
import { writePack, type NewFile, type WriteOptions } from './write-pack.js'

export interface SynthesisOptions extends WriteOptions {
  /** The same seed gives the same files. */
  readonly seed?: number | undefined
  /** CLIP networks by name, also optional ones; without it, all that are not optional. */
  readonly networks?: readonly string[] | undefined
}

/**
 * Write a pack of random weights to `folder`, in the shapes and with the settings of `pack` (`imagenet` or `tiny`, or
 * such a manifest); its name is `synth-` and the original's. Returns its manifest.
 * Errors: NOT_FOUND (no such pack), INVALID_ARGUMENT (`networks`), FAILED_PRECONDITION (the disk), CANCELLED.
 */
export async function synthesisePack(
  pack: string | Manifest,
  folder: string,
  { seed = 0, networks, ...writing }: SynthesisOptions = {},
): Promise<Manifest> {
  const name = typeof pack === 'string' ? pack : pack.name
  const architecture = Object.hasOwn(PACK_ARCHITECTURES, name) ? PACK_ARCHITECTURES[name] : undefined
  if (!architecture) {
    throw unknownShapes(`a pack "${name}"`, `Choose one of ${Object.keys(PACK_ARCHITECTURES).join(', ')}.`)
  }
  const base = typeof pack === 'string' ? await readManifest(join(shippedFolder, pack)) : pack
  const clip = chosenNetworks(base, networks).map((entry) => ({
    ...entry,
    weights: `clip-${entry.name}.safetensors`,
    optional: false,
  }))
  const { vocabularySize } = base.tokenizer
  const { trunk } = architecture
  const manifest = {
    ...base,
    name: `synth-${name}`,
    description: `Random weights in the shapes of "${name}": runs as it does, edits nothing.`,
    licence: 'CC0-1.0',
    attribution: [],
    autoencoder: { ...base.autoencoder, weights: 'autoencoder.safetensors' },
    clip,
    perceptual: {
      ...base.perceptual,
      trunk: trunk.kind,
      weights: `${trunk.kind}.safetensors`,
      linear: 'lpips.safetensors',
    },
    tokenizer: { merges: 'merges.txt', vocabularySize },
  }
  const files = [
    weightFile(manifest.autoencoder.weights, vqganTensors(architecture.autoencoder), seed),
    ...clip.map(({ name, weights }) => {
      const config = architecture.clip[name]
      if (!config)
        throw unknownShapes(`a network "${name}"`, `Choose from ${Object.keys(architecture.clip).join(', ')}.`)
      return weightFile(weights, clipTensors(config), seed)
    }),
    weightFile(manifest.perceptual.weights, trunkTensors(trunk), seed),
    weightFile(manifest.perceptual.linear, lpipsTensors(tapWidths(trunk)), seed),
    textFile(manifest.tokenizer.merges, syntheticMerges(vocabularySize)),
  ]
  return writePack(folder, manifest, files, writing)
}

function unknownShapes(what: string, cure: string): FlexitError {
  return new FlexitError({ code: 'NOT_FOUND', message: `the shapes of ${what} are not known`, cure })
}

function chosenNetworks(base: Manifest, names: readonly string[] | undefined): ClipEntry[] {
  if (!names) return base.clip.filter((entry) => !entry.optional)
  const known = base.clip.map((entry) => entry.name)
  const unknown = names.find((name) => !known.includes(name))
  if (unknown !== undefined || names.length === 0) {
    throw invalidArgument(
      'networks',
      unknown === undefined ? 'no network is named' : `pack "${base.name}" has no network "${unknown}"`,
      `Choose from ${known.join(', ')}.`,
    )
  }
  return base.clip.filter((entry) => names.includes(entry.name))
}

/** A safetensors file whose tensors are drawn one at a time, just before each is written. */
function weightFile(file: string, tensors: TensorMap, seed: number): NewFile {
  const planned = [...tensors]
    .map(([name, { dtype, shape }]) => {
      const count = sizeOf(shape)
      const stored = dtype === 'I64' ? 'I64' : count < SMALL ? 'F32' : 'F16'
      return { name, dtype: stored, shape, count } as const
    })
    .sort((a, b) => elementBytes[b.dtype] - elementBytes[a.dtype])
  const byteLength = ({ dtype, count }: (typeof planned)[number]) => count * elementBytes[dtype]
  // The header needs sizes only, so all tensors share one buffer, in which each is drawn in its turn.
  const shared = new ArrayBuffer(Math.max(...planned.map(byteLength)))
  const views = planned.map((tensor) => ({ ...tensor, data: new Uint8Array(shared, 0, byteLength(tensor)) }))
  const [header, ...parts] = serialiseSafetensors(views, { seed: String(seed) })

  function* chunks() {
    yield header!
    for (const [i, { name, dtype, shape, count }] of planned.entries()) {
      const range = dtype === 'I64' ? undefined : weightRange(name, shape)
      if (!range) parts[i]!.fill(0)
      else if (dtype === 'F32') fillUniform(new Float32Array(shared, 0, count), levels(range), hash(seed, file, name))
      else fillUniform(new Uint16Array(shared, 0, count), encodeF16(levels(range)), hash(seed, file, name))
      yield parts[i]!
    }
  }
  return { name: file, bytes: views.reduce((sum, { data }) => sum + data.byteLength, header!.byteLength), chunks }
}

/** Tensors below this size are stored in float32: they cost nothing and vectors of biases and norms stay exact. */
const SMALL = 4096

type Range = readonly [low: number, high: number]

const symmetric = (bound: number): Range => [-bound, bound]

/** ±√(3·gain / fan-in) has the variance gain / fan-in. `[outputs, inputs, …]`, as PyTorch keeps its weights. */
const scaled = (gain: number) => (shape: readonly number[]) =>
  symmetric(Math.sqrt((3 * gain * shape[0]!) / sizeOf(shape)))

/** What each weight is drawn from; the first pattern that fits its name decides. */
const RULES: readonly (readonly [pattern: RegExp, range: (shape: readonly number[]) => Range])[] = [
  [/^logit_scale$/, () => [Math.log(100), Math.log(100)]],
  [/\.running_mean$/, () => symmetric(0.05)],
  [/\.running_var$/, () => [0.8, 1.2]],
  [/^lin\d\.model\.1\.weight$/, () => [0, 0.4]],
  [/embedding/, () => symmetric(0.035)],
  [/bias$/, () => symmetric(0.02)],
  // The last norm of a residual branch, kept small so that 26 blocks do not multiply.
  [/^visual\.layer\d\.\d+\.bn3\.weight$/, () => [0.2, 0.3]],
  [/(norm\d?|norm_out|ln_\w+|bn\d|downsample\.1)\.weight$/, () => [0.9, 1.1]],
  // Projections are `[inputs, outputs]`.
  [/^(text_projection|visual\.proj)$/, ([inputs]) => symmetric(Math.sqrt(3 / inputs!))],
  // Swish leaves about a third of the variance: the decoder's pictures have a deviation of 0.4 around grey.
  [/^decoder\.conv_out\.weight$/, scaled(0.5)],
  // Behind these comes a ReLU or its like, which takes half.
  [/(^features|^visual\..*conv\d|downsample\.0|\.c_fc|block[._]\d\.conv\d)/, scaled(2)],
  [/weight$/, scaled(1)],
]

/** The range that a tensor's values are drawn from, evenly. Errors: INTERNAL where no rule fits its name. */
export function weightRange(name: string, shape: readonly number[]): Range {
  const rule = RULES.find(([pattern]) => pattern.test(name))
  if (!rule) throw new FlexitError({ code: 'INTERNAL', message: `no rule says how to draw "${name}"` })
  return rule[1](shape)
}

const LEVEL_BITS = 12

/** The values that a tensor takes: the middles of 2^12 equal parts of the range. */
function levels([low, high]: Range): Float32Array {
  const count = 2 ** LEVEL_BITS
  return Float32Array.from({ length: count }, (_, i) => low + ((high - low) * (i + 0.5)) / count)
}

/** Fill `target` with values of `table`, picked by Marsaglia's xorshift32 from a seed that is not zero. */
function fillUniform(target: Float32Array | Uint16Array, table: Float32Array | Uint16Array, seed: number): void {
  const mask = table.length - 1
  let state = seed
  for (let i = 0; i < target.length; i += 2) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    target[i] = table[state & mask]!
    // Beyond an odd length, this writes nowhere.
    target[i + 1] = table[(state >>> (32 - LEVEL_BITS)) & mask]!
  }
}

function hash(seed: number, file: string, tensor: string): number {
  return createHash('sha256').update(`${seed}/${file}/${tensor}`).digest().readInt32LE() || 1
}

function textFile(name: string, text: string): NewFile {
  const bytes = Buffer.from(text)
  return { name, bytes: bytes.byteLength, chunks: () => [bytes] }
}

/** Merges for a vocabulary: pairs of printable symbols at the end of words, then elsewhere. No two make the same symbol. */
function syntheticMerges(vocabularySize: number): string {
  const printable = Array.from({ length: 256 }, (_, byte) => byte)
    .filter((byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173))
    .map((byte) => String.fromCharCode(byte))
  const merges = ['</w>', ''].flatMap((end) => printable.flatMap((a) => printable.map((b) => `${a} ${b}${end}`)))
  return ['#version: synthetic', ...merges.slice(0, vocabularySize - 514), ''].join('\n')
}
