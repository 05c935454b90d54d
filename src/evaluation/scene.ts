// What edits are judged against, whatever their parameters: queries with their pictures, real pictures, the judge.
// FlexIT (CVPR 2022), section 4.1.

import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { FlexitError, invalidArgument } from '../engine/errors.js'
import type { EditParameters } from '../engine/parameters.js'
import { type Picture, readPicture } from '../engine/picture.js'
import type { EditJob } from './editor.js'
import type { ReferenceStatistics } from './metrics.js'
import { type Bench, judgeReferences } from './opinions.js'
import type { Query, QuerySet } from './queries.js'
import { type FindReferencesOptions, type References, findReferences } from './references.js'

export interface SceneOptions extends Bench, FindReferencesOptions {
  readonly set: QuerySet
  /** Height and width of the pack's pictures, and what transparent pictures are laid on. */
  readonly size: number
  readonly background: string
  readonly signal: AbortSignal
  readonly onStage: OnStage
}

/** Work of a known length: "real pictures", 12 of 100. */
export type OnStage = (what: string, done: number, total: number) => void

export interface Scene extends Bench {
  readonly queries: readonly Query[]
  readonly classes: ReadonlyMap<number, string>
  /** The input of each query. */
  readonly inputs: readonly Picture[]
  /** The target class of each query. */
  readonly targets: readonly number[]
  readonly references: References
  readonly statistics: ReferenceStatistics
  readonly read: (path: string) => Promise<Picture>
  readonly signal: AbortSignal
  readonly onStage: OnStage
}

/**
 * Read the pictures and judge the real ones. Errors: those of reading pictures, of the judge and of the store;
 * INVALID_ARGUMENT for a target without real pictures; CANCELLED.
 */
export async function setScene(options: SceneOptions): Promise<Scene> {
  const { set, size, background, images, judge, store, signal, onStage } = options
  const { queries, classes } = set
  const references = await findReferences(set, options)
  const read = (path: string) => readPicture(path, { height: size, width: size, background })
  const known = new Map<string, Picture>()
  const inputs = []
  for (const { image } of queries) {
    onStage('pictures of queries', inputs.length, queries.length)
    await breathe(signal)
    const picture = known.get(image) ?? (await read(join(images, image)))
    known.set(image, picture)
    inputs.push(picture)
  }
  const total = references.statistics.size
  const statistics = await judgeReferences({ judge, store }, references, read, async (done) => {
    onStage('classes of real pictures', done, total)
    await breathe(signal)
  })
  const targets = queries.map(({ targetClass }) => targetClass)
  return { judge, store, queries, classes, inputs, targets, references, statistics, read, signal, onStage }
}

/**
 * An edit of each query. Every query has a seed of its own: the parameters' plus its id. Errors: INVALID_ARGUMENT where
 * that is no seed.
 */
export function jobsOf({ queries, inputs }: Scene, parameters: EditParameters, at: readonly number[]): EditJob[] {
  return queries.map(({ id, image, source, target }, i) => ({
    name: `query ${id} (${image})`,
    picture: inputs[i]!,
    source,
    target,
    parameters: { ...parameters, steps: at.at(-1)!, seed: seedOf(parameters.seed, id) },
    at,
  }))
}

function seedOf(seed: number, id: number): number {
  if (Number.isSafeInteger(seed + id)) return seed + id
  const message = `seed ${seed} and the number of query ${id} add up to more than 2^53 − 1, the largest seed`
  throw invalidArgument('seed', message, 'Use a smaller one.')
}

/** Let signals be heard between two pieces of work that block. Errors: CANCELLED. */
export async function breathe(signal: AbortSignal): Promise<void> {
  await setImmediate()
  if (!signal.aborted) return
  throw new FlexitError({
    code: 'CANCELLED',
    message: 'while pictures were judged; what was judged is kept',
    cure: 'Run the same command again: it goes on.',
  })
}
