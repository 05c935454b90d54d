// The parameters of an edit as options of the command line; names, limits and defaults are the engine's.
// Symbols are those of FlexIT (CVPR 2022), section 3.

import { type Command, InvalidArgumentError, Option } from 'commander'
import { type EditParameters, limits } from '../engine/parameters.js'

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
    .option('--steps <n>', `optimisation steps ${range(1, steps, usualSteps)}`, parseNumber)
    .option('--seed <n>', 'of the random views; the same seed gives the same bits (default: 0)', parseNumber)
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
      parseNumber,
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

/** A whole number from 1 to `most`. */
export function countUpTo(most: number): (text: string) => number {
  return (text) => {
    const count = /^\d{1,15}$/.test(text) ? Number(text) : 0
    if (count < 1 || count > most) throw new InvalidArgumentError(`It is not a whole number from 1 to ${most}.`)
    return count
  }
}

export const parseCount = countUpTo(999_999_999)

/** Threads of a device. */
export const parseThreads = countUpTo(limits.threads)

export function parseList(text: string): string[] {
  const names = text.split(',').map((name) => name.trim())
  if (names.includes('')) throw new InvalidArgumentError('Separate names with one comma.')
  return names
}

/** A word as a shell takes it, quoted where it must be. */
export function shellWord(text: string): string {
  return /^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`
}
