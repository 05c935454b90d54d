// The parameters of an edit: defaults, limits, and what of them shapes its graph.

import { z } from 'zod'
import { FlexitError, invalidArgument } from './errors.js'
import { limits, numbersSchema } from './limits.js'
import type { Preset } from './losses.js'
import type { Pack } from './pack/pack.js'
import type { StepSpecification } from './step-graph.js'

/** What an edit is asked to do. Everything else about it follows from the pack. */
export interface EditParameters {
  /** Form of the losses: the paper's equations or the public release. */
  readonly preset: Preset
  readonly space: 'latent' | 'pixels'
  /** Optimisation steps, N. */
  readonly steps: number
  /** μ, in units of ‖z0‖₂. */
  readonly learningRate: number
  /** Weight of the LPIPS distance to the input. */
  readonly lambdaP: number
  /** Weight of the latent distance to the input. */
  readonly lambdaZ: number
  /** Weight of the source text in the target point, subtracted. */
  readonly lambdaS: number
  /** Weight of the input image in the target point. */
  readonly lambdaI: number
  /** CLIP networks by name, in the pack's order. */
  readonly networks: readonly string[]
  /** Random views for each network and step; 0: one deterministic view. */
  readonly views: number
  /** Of the random views. */
  readonly seed: number
}

/** Parameters as they are asked for: what is left out, or undefined, comes from the pack and the preset. */
export type GivenParameters = { readonly [K in keyof EditParameters]?: EditParameters[K] | undefined }

const { views, ...weights } = numbersSchema.shape

/** All parameters, none left out. Their order is also that in which they are saved. */
export const parametersSchema = z.strictObject({
  preset: z.enum(['paper', 'reference']),
  space: z.enum(['latent', 'pixels']),
  ...weights,
  networks: z.array(z.string()).min(1),
  views,
  seed: z.int().min(0).max(Number.MAX_SAFE_INTEGER),
})

/** Both presets name the same numbers (FlexIT section 4.2, and the released configuration); they differ in the losses. */
const presetDefaults = {
  steps: 160,
  learningRate: 0.05,
  lambdaP: 0.15,
  lambdaZ: 0.05,
  lambdaS: 0.4,
  lambdaI: 0.2,
  views: 8,
} as const

/**
 * Fill in defaults (those given here, then the pack's, then the preset's) and check every value. Networks are put into
 * the pack's order. Errors: INVALID_ARGUMENT, naming the first parameter that is wrong; see `Pack.clip` for networks.
 */
export function resolveParameters(given: GivenParameters, pack: Pack): EditParameters {
  const candidate = {
    preset: 'reference',
    space: 'latent',
    networks: pack.defaultNetworks,
    seed: 0,
    ...presetDefaults,
    ...defined(pack.manifest.defaults),
    ...defined(given),
  }
  const parameters = checkParameters(candidate)
  if (parameters.lambdaP > 0 && pack.manifest.perceptual.trunk !== 'vgg16') {
    throw invalidArgument(
      'lambdaP',
      `the perceptual network of the pack ${pack.manifest.name} is ${pack.manifest.perceptual.trunk}, which has no gradient`,
      'Set lambdaP to 0, or use a pack with VGG16.',
    )
  }
  const wanted = new Set(parameters.networks)
  for (const name of wanted) pack.clip(name)
  const networks = pack.manifest.clip.map((entry) => entry.name).filter((name) => wanted.has(name))
  return { ...parameters, networks }
}

/** Check parameters without a pack, none left out. Errors: INVALID_ARGUMENT, naming the first that is wrong. */
export function checkParameters(candidate: Readonly<Record<keyof EditParameters, unknown>>): EditParameters {
  const parsed = parametersSchema.safeParse(candidate)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  const field = issue!.code === 'unrecognized_keys' ? issue.keys[0]! : String(issue!.path[0])
  const given = (candidate as Record<string, unknown>)[field]
  // JSON has no numbers that are not finite.
  const value = typeof given === 'number' ? String(given) : JSON.stringify(given)
  throw new FlexitError({
    code: 'INVALID_ARGUMENT',
    field,
    message: `${field} cannot be ${value}: ${issue!.message}`,
    cure: ranges[field] ?? 'See `flexit edit --help`.',
  })
}

const ranges: Readonly<Record<string, string>> = {
  preset: 'Use paper or reference.',
  space: 'Use latent or pixels.',
  steps: `Use a whole number from 1 to ${limits.steps}.`,
  learningRate: `Use a number above 0, at most ${limits.learningRate}; 0.05 is usual.`,
  lambdaP: `Use a number from 0 to ${limits.lambda}; 0.15 is usual.`,
  lambdaZ: `Use a number from 0 to ${limits.lambda}; 0.05 is usual.`,
  lambdaS: `Use a number from 0 to ${limits.lambda}; 0.4 is usual.`,
  lambdaI: `Use a number from 0 to ${limits.lambda}; 0.2 is usual.`,
  networks: 'Name at least one network of the pack.',
  views: `Use a whole number from 0 (no augmentation) to ${limits.views}.`,
  seed: 'Use a whole number from 0 to 2^53 − 1.',
}

export function defined<T extends object>(values: T): Partial<T> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Partial<T>
}

/** What of the parameters shapes the graph. A λ of zero leaves its term out, so that it costs nothing. */
export function specificationOf(parameters: EditParameters): StepSpecification {
  const { preset, space, networks, views, lambdaP, lambdaZ } = parameters
  return { preset, space, networks, views, perceptual: lambdaP > 0, latent: lambdaZ > 0 }
}

/** Equal for edits that can share a batch. */
export function specificationKey(specification: StepSpecification): string {
  const { preset, space, networks, views, perceptual, latent } = specification
  return JSON.stringify([preset, space, networks, views, perceptual, latent])
}

/** A text of an edit, as it will be used. Errors: INVALID_ARGUMENT for one that is empty or too long. */
export function checkText(text: string, field: 'source' | 'target'): string {
  if (text.trim() === '') {
    const role = field === 'source' ? 'what is in the picture' : 'what it should become'
    throw new FlexitError({
      code: 'INVALID_ARGUMENT',
      field,
      message: `the ${field} text is empty`,
      cure: `Say ${role}, for example "${field === 'source' ? 'cat' : 'dog'}".`,
    })
  }
  const length = lengthOf(text)
  if (length > limits.textLength) {
    throw new FlexitError({
      code: 'INVALID_ARGUMENT',
      field,
      message: `the ${field} text has ${length} characters, at most ${limits.textLength} are allowed`,
      cure: 'Shorten it: CLIP reads a sentence or two.',
    })
  }
  return text
}

/** Characters of a text as other languages count them too: code points, not halves of surrogate pairs. */
export function lengthOf(text: string): number {
  return Array.from(text).length
}
