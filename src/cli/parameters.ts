// The parameters of an edit as options of the command line; names, limits and defaults are the engine's.
// Symbols are those of FlexIT (CVPR 2022), section 3.

import { type Command, InvalidArgumentError, Option } from 'commander'
import { limits } from '../engine/limits.js'
import type { EditParameters } from '../engine/parameters.js'

export const parameterKeys = [
  'steps',
  'seed',
  'learningRate',
  'lambdaP',
  'lambdaZ',
  'lambdaS',
  'lambdaI',
  'networks',
  'views',
  'preset',
  'space',
] as const satisfies (keyof EditParameters)[]

/**
 * Add an option for every parameter. None has a default here: what is left out comes from the pack. `usualSteps`: what the
 * help says of --steps.
 */
export function addParameters(command: Command, usualSteps = 'tiny: 64, imagenet: 160'): Command {
  const { steps, views, lambda, learningRate } = limits
  const range = (from: number, to: number, pack: string) => `(${from} to ${to}; ${pack})`
  return command
    .optionsGroup('Parameters of the method (what is left out comes from the pack):')
    .option('--steps <n>', `optimisation steps ${range(1, steps, usualSteps)}`, whole.steps)
    .option('--seed <n>', 'of the random views; the same seed gives the same bits (default: 0)', whole.seed)
    .option(
      '--learning-rate <x>',
      `step length, in norms of the first latent (up to ${learningRate}; 0.05)`,
      parseNumber,
    )
    .option(
      '--lambda-p <x>',
      `keep the look: weight of LPIPS to the input ${range(0, lambda, 'tiny: 0.025, imagenet: 0.15')}`,
      parseNumber,
    )
    .option('--lambda-z <x>', `keep the latent: weight of its distance ${range(0, lambda, '0.05')}`, parseNumber)
    .option('--lambda-s <x>', `away from the source text: its weight ${range(0, lambda, '0.4')}`, parseNumber)
    .option(
      '--lambda-i <x>',
      `towards the input picture: its weight ${range(0, lambda, 'tiny: 0.1, imagenet: 0.2')}`,
      parseNumber,
    )
    .option('--networks <a,b>', 'CLIP networks by name (tiny: rn,vit)', parseList)
    .option(
      '--views <n>',
      `random views per network and step, 0: none ${range(0, views, 'tiny: 6, imagenet: 8')}`,
      whole.views,
    )
    .addOption(
      new Option('--preset <name>', "losses of the paper's equations or of its release (reference)").choices([
        'paper',
        'reference',
      ]),
    )
    .addOption(new Option('--space <name>', 'what is optimised (latent)').choices(['latent', 'pixels']))
}

/** The parameters that were given. */
export function givenParameters(options: Readonly<Record<string, unknown>>): Partial<EditParameters> {
  const given = parameterKeys.filter((key) => options[key] !== undefined).map((key) => [key, options[key]])
  return Object.fromEntries(given) as Partial<EditParameters>
}

export function parseNumber(text: string): number {
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)) throw new InvalidArgumentError('It is not a number.')
  return Number(text)
}

/** A whole number from `least` to `most`, in digits alone. */
export function wholeNumber(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : NaN
    if (value >= least && value <= most) return value
    throw new InvalidArgumentError(`It is not a whole number from ${least} to ${most}.`)
  }
}

/** A whole number from 1 to `most`. */
export const countUpTo = (most: number) => wholeNumber(1, most)

/** Of the parameters that are whole numbers. The engine holds those in digits against the range, with an error of its own. */
const whole = {
  steps: wholeParameter(1, limits.steps),
  seed: wholeParameter(0, Number.MAX_SAFE_INTEGER),
  views: wholeParameter(0, limits.views),
} as const

function wholeParameter(least: number, most: number): (text: string) => number {
  const parse = wholeNumber(least, most)
  return (text) => (/^-?\d+$/.test(text) ? Number(text) : parse(text))
}

/** A parameter that is a number, as its option takes it. */
export function parseNumberOf(key: (typeof parameterKeys)[number], text: string): number {
  return (key in whole ? whole[key as keyof typeof whole] : parseNumber)(text)
}

export const parseCount = countUpTo(999_999_999)

/** Threads of a device. */
export const parseThreads = countUpTo(limits.threads)

export function parseList(text: string): string[] {
  const names = text.split(',').map((name) => name.trim())
  if (names.includes('')) throw new InvalidArgumentError('Separate names with one comma.')
  return withoutTwins(names)
}

/** The names. Errors: InvalidArgumentError where two are the same. */
export function withoutTwins(names: string[]): string[] {
  const twice = names.find((name, i) => names.indexOf(name) < i)
  if (twice !== undefined) throw new InvalidArgumentError(`${twice} is named twice: name each once.`)
  return names
}

/** A word as a shell takes it, quoted where it must be. */
export function shellWord(text: string): string {
  return /^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`
}
