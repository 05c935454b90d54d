// The judge: networks that no edit optimises. A classifier, features for the Fréchet distances, and LPIPS, as ONNX files
// with a manifest (judge.json); FlexIT (CVPR 2022), section 4.1, has DeiT, Inception and LPIPS over AlexNet.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { z } from 'zod'
import { codecVersion, encodePicture } from '../engine/encode.js'
import { FlexitError, fileError } from '../engine/errors.js'
import { GraphCache, codeDigest } from '../engine/graph-cache.js'
import { Graph } from '../engine/graph/graph.js'
import { externalFiles } from '../engine/graph/onnx.js'
import { N } from '../engine/graph/shape.js'
import { type LpipsOptions, lpipsDistance, lpipsFeatures } from '../engine/networks/lpips.js'
import { Weights } from '../engine/networks/weights.js'
import { openCheckpoint } from '../engine/pack/checkpoint.js'
import type { TensorSource } from '../engine/pack/tensor-source.js'
import { type Picture, pictureToTensor, readPicture } from '../engine/picture.js'
import { type Device, Session, type Tensor, runtimeVersion } from '../engine/runtime.js'

/** Of what the code here makes of pictures and outputs, besides the engine's: to be raised with every change of it. */
const opinionFormat = 1

const fileName = z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9._-]*$/, 'a plain file name')
const rgb = z.tuple([z.number(), z.number(), z.number()])
const size = z.int().min(1).max(4096)

const file = {
  file: fileName,
  sha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/, 'a sha256 in lower-case hexadecimal')
    .optional(),
  bytes: z.int().nonnegative().optional(),
}

/** A network that sees one picture: RGB in [0, 1], as (x − mean) / std, [N, 3, size, size]. */
const seer = {
  ...file,
  input: z.string(),
  size,
  mean: rgb,
  std: rgb,
}

const classifier = z.strictObject({
  ...seer,
  logits: z.string(),
  features: z.string().optional(),
  feature_size: z.int().positive().optional(),
  /** Names of the outputs. Needed where queries name classes by label alone. */
  labels: z.array(z.string()).min(1).optional(),
})

const featureNetwork = z.strictObject({ ...seer, features: z.string(), feature_size: z.int().positive().optional() })

/** Inputs [N, 3, size, size], output [N]. */
const lpipsModel = z.strictObject({
  ...file,
  inputs: z.tuple([z.string(), z.string()]),
  size,
  /** What 0 and 1 become. */
  range: z.tuple([z.number(), z.number()]).default([0, 1]),
  output: z.string(),
})

/** LPIPS as a network of ours, from checkpoints of torchvision and PerceptualSimilarity. */
const lpipsNetwork = z.strictObject({
  trunk: z.enum(['alexnet', 'vgg16']),
  weights: fileName,
  linear: fileName,
  size,
  shift: rgb.default([-0.03, -0.088, -0.188]),
  scale: rgb.default([0.458, 0.448, 0.45]),
})

const judgeSchema = z
  .strictObject({
    format: z.literal(1),
    classifier,
    feature_classifier: featureNetwork.optional(),
    lpips: z.union([lpipsModel, lpipsNetwork]),
    licence: z.string().optional(),
    attribution: z.array(z.unknown()).optional(),
  })
  .refine((judge) => judge.classifier.features !== undefined || judge.feature_classifier !== undefined, {
    message: 'neither classifier nor feature_classifier has features',
  })

type JudgeManifest = z.infer<typeof judgeSchema>

export interface JudgeOptions {
  readonly device: Device
  readonly threads: number
  /** Where the graph of an LPIPS network of ours is kept. */
  readonly cacheFolder: string
}

/** What the judge says of some pictures, in their order. */
export interface Opinion {
  readonly logits: readonly Float32Array[]
  readonly features: readonly Float32Array[]
  /** LPIPS to the original. */
  readonly lpips: Float32Array
}

interface Networks {
  readonly classifier: Session
  /** Undefined where the classifier has the features. */
  readonly features: Session | undefined
  readonly lpips: Session
}

export class Judge {
  /** Names of the classifier's outputs. */
  readonly labels: readonly string[] | undefined
  /** sha256 of the manifest and the files, also of those that models keep weights in. */
  readonly digest: string
  /** What opinions depend on, besides the pictures: also code, what resizes pictures, ONNX Runtime and the kind of device. */
  readonly identity: readonly string[]
  readonly #manifest: JudgeManifest
  readonly #networks: Networks

  private constructor(manifest: JudgeManifest, digest: string, { kind }: Device, networks: Networks) {
    this.labels = manifest.classifier.labels
    this.digest = digest
    this.identity = [digest, String(opinionFormat), codeDigest, codecVersion, runtimeVersion, kind]
    this.#manifest = manifest
    this.#networks = networks
  }

  /** Open the folder of a judge. Errors: NOT_FOUND, DATA_LOSS (a manifest that is not valid, a file that was altered). */
  static async open(folder: string, options: JudgeOptions): Promise<Judge> {
    const manifest = await readManifest(join(folder, 'judge.json'))
    const { classifier, feature_classifier: features, lpips } = manifest
    const digests = []
    const isOurs = 'trunk' in lpips
    const models = [classifier, ...(features === undefined ? [] : [features]), ...(isOurs ? [] : [lpips])]
    for (const model of models) {
      digests.push(await checkFile(folder, model))
      for (const file of await externalFiles(join(folder, model.file))) digests.push(await checkFile(folder, { file }))
    }
    const weights = isOurs ? [lpips.weights, lpips.linear] : []
    for (const file of weights) digests.push(await checkFile(folder, { file }))
    const digest = createHash('sha256')
      .update(JSON.stringify([manifest, digests]))
      .digest('hex')
    const opened: Session[] = []
    const open = async (opening: Promise<Session>) => {
      const session = await opening
      opened.push(session)
      return session
    }
    const openFile = ({ file }: { readonly file: string }) => open(openSession(join(folder, file), options))
    try {
      return new Judge(manifest, digest, options.device, {
        classifier: await openFile(classifier),
        features: features === undefined ? undefined : await openFile(features),
        lpips: await (isOurs ? open(buildLpips(folder, lpips, digest, options)) : openFile(lpips)),
      })
    } catch (error) {
      for (const session of opened) await session.release()
      throw error
    }
  }

  /** Judge pictures made of `original`. All of them are one batch: the same batch gives the same bits. */
  async judge(original: Picture, pictures: readonly Picture[]): Promise<Opinion> {
    const { logits, features } = await this.#see(pictures)
    const { lpips } = this.#manifest
    const [first, second, output, range] =
      'trunk' in lpips ? (['a', 'b', 'distance', [0, 1]] as const) : [...lpips.inputs, lpips.output, lpips.range]
    const [low, high] = range
    const toRange = { mean: [-low, -low, -low], std: [1, 1, 1], scale: high - low }
    const results = await run(this.#networks.lpips, 'lpips', {
      [first]: await batch(Array<Picture>(pictures.length).fill(original), lpips.size, toRange),
      [second]: await batch(pictures, lpips.size, toRange),
    })
    return {
      logits,
      features,
      lpips: new Float32Array(rows(results, output, pictures.length, 1).flatMap((row) => [...row])),
    }
  }

  /** Features of pictures of their own. */
  async features(pictures: readonly Picture[]): Promise<readonly Float32Array[]> {
    return (await this.#see(pictures)).features
  }

  async close(): Promise<void> {
    const { classifier, features, lpips } = this.#networks
    for (const session of [classifier, features, lpips]) await session?.release()
  }

  async #see(pictures: readonly Picture[]): Promise<Omit<Opinion, 'lpips'>> {
    const { classifier, feature_classifier: other } = this.#manifest
    const { length } = pictures
    const seen = await run(this.#networks.classifier, 'classifier', {
      [classifier.input]: await batch(pictures, classifier.size, { ...classifier, scale: 1 }),
    })
    const logits = rows(seen, classifier.logits, length, classifier.labels?.length)
    if (other === undefined)
      return { logits, features: rows(seen, classifier.features!, length, classifier.feature_size) }
    const results = await run(this.#networks.features!, 'feature_classifier', {
      [other.input]: await batch(pictures, other.size, { ...other, scale: 1 }),
    })
    return { logits, features: rows(results, other.features, length, other.feature_size) }
  }
}

async function readManifest(path: string): Promise<JudgeManifest> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    throw fileError(error, path, 'read')
  })
  const reject = (what: string, cause: unknown) =>
    new FlexitError({
      code: 'DATA_LOSS',
      message: `${path} is not a valid manifest of a judge: ${what}`,
      cure: 'See training/README.md for its format.',
      cause,
    })
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (error) {
    throw reject(error instanceof Error ? error.message : String(error), error)
  }
  const parsed = judgeSchema.safeParse(json)
  if (parsed.success) return parsed.data
  const issues = parsed.error.issues.map((issue) => `${issue.path.join('.') || '(top)'}: ${issue.message}`)
  throw reject(issues.join('; '), parsed.error)
}

/** The sha256 of a file. Errors: NOT_FOUND; DATA_LOSS where it is not the one that the manifest names. */
async function checkFile(
  folder: string,
  { file, sha256 }: { readonly file: string; readonly sha256?: string | undefined },
): Promise<string> {
  const path = join(folder, file)
  const hash = createHash('sha256')
  await pipeline(createReadStream(path), hash).catch((error: unknown) => {
    throw fileError(error, path, 'read')
  })
  const found = hash.digest('hex')
  if (sha256 === undefined || sha256 === found) return found
  throw new FlexitError({
    code: 'DATA_LOSS',
    message: `${path} is not the file that judge.json names: its sha256 is ${found}`,
    cure: 'Restore the file, or correct judge.json.',
  })
}

async function openSession(path: string, { device, threads }: JudgeOptions): Promise<Session> {
  try {
    return await Session.create(path, { device, threads })
  } catch (error) {
    if (!(error instanceof FlexitError) || error.code !== 'DATA_LOSS') throw error
    throw new FlexitError({ code: 'DATA_LOSS', message: error.message, cure: 'Export it again as ONNX.', cause: error })
  }
}

/** An LPIPS network of ours: `a` and `b` [N, 3, size, size] in [0, 1] → `distance` [N]. */
async function buildLpips(
  folder: string,
  options: LpipsOptions & { readonly weights: string; readonly linear: string; readonly size: number },
  digest: string,
  { cacheFolder, device, threads }: JudgeOptions,
): Promise<Session> {
  const opened: TensorSource[] = []
  const openWeights = async (file: string) => {
    const source = await openCheckpoint(join(folder, file))
    opened.push(source)
    return new Weights(source)
  }
  try {
    const trunk = await openWeights(options.weights)
    const linear = await openWeights(options.linear)
    const build = () => {
      const graph = new Graph()
      const shape = [N, 3, options.size, options.size]
      const [a, b] = ['a', 'b'].map((name) =>
        lpipsFeatures(graph.input(name, 'float32', shape), trunk, linear, options),
      )
      graph.output('distance', lpipsDistance(a!, b!))
      return graph
    }
    const load = (path: string) => Session.create(path, { device, threads })
    return await new GraphCache(cacheFolder).use('judge-lpips', [digest], build, load)
  } finally {
    for (const source of opened) source.close()
  }
}

interface Normalisation {
  readonly mean: readonly number[]
  readonly std: readonly number[]
  readonly scale: number
}

/** Pictures as [N, 3, size, size]: (scale · x − mean) / std. */
async function batch(pictures: readonly Picture[], size: number, { mean, std, scale }: Normalisation): Promise<Tensor> {
  const area = size * size
  const data = new Float32Array(pictures.length * 3 * area)
  for (const [i, picture] of pictures.entries()) {
    const tensor = pictureToTensor(await fit(picture, size))
    for (let j = 0; j < tensor.length; j++) {
      const channel = Math.floor(j / area)
      data[i * tensor.length + j] = (scale * tensor[j]! - mean[channel]!) / std[channel]!
    }
  }
  return { shape: [pictures.length, 3, size, size], data }
}

/** As `readPicture` fits pictures from files. */
async function fit(picture: Picture, size: number): Promise<Picture> {
  if (picture.height === size && picture.width === size) return picture
  const png = await encodePicture(picture, { format: 'png' })
  return readPicture(png, { height: size, width: size, background: 'white' })
}

async function run(session: Session, name: string, inputs: Readonly<Record<string, Tensor>>) {
  try {
    return await session.run(inputs)
  } catch (error) {
    throw misfit(`the judge's ${name} does not run: ${error instanceof Error ? error.message : String(error)}`, error)
  }
}

/** An output by sample. */
function rows(outputs: Readonly<Record<string, Tensor>>, name: string, count: number, length?: number): Float32Array[] {
  const { data } = outputs[name] ?? {}
  if (!(data instanceof Float32Array)) {
    throw misfit(`the judge has no float32 output "${name}"; it has ${Object.keys(outputs).join(', ')}`)
  }
  const width = data.length / count
  if (!Number.isInteger(width) || (length !== undefined && width !== length)) {
    throw misfit(
      `the judge's output "${name}" has ${width} values for a picture, expected ${length ?? 'a whole number'}`,
    )
  }
  if (!data.every(Number.isFinite)) throw misfit(`the judge's output "${name}" has values that are not finite`)
  return Array.from({ length: count }, (_, i) => data.slice(i * width, (i + 1) * width))
}

function misfit(message: string, cause?: unknown): FlexitError {
  return new FlexitError({
    code: 'FAILED_PRECONDITION',
    message,
    cure: 'Compare the names and sizes in judge.json with those of the model files.',
    cause,
  })
}
