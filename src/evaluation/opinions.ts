// What the judge says, kept in the store: of the pictures of a query, and of the real pictures of a class.
// The class that is predicted is the arg max among the evaluation's classes (FlexIT, section 4.1).

import { createHash } from 'node:crypto'
import { invalidArgument } from '../engine/errors.js'
import type { Picture } from '../engine/picture.js'
import type { Judge } from './judge.js'
import { FeatureSums, type ReferenceStatistics, type Verdict, statisticsOf } from './metrics.js'
import type { References } from './references.js'
import type { Store } from './store.js'

/** Real pictures that the judge sees at a time. */
const batchSize = 32

export interface Bench {
  readonly judge: Judge
  readonly store: Store
}

/**
 * Verdicts on pictures that were made of `original`, among `classes`. Errors: those of the judge and of the store;
 * INVALID_ARGUMENT where the judge has fewer outputs than the classes need.
 */
export async function judgePictures(
  { judge, store }: Bench,
  original: Picture,
  pictures: readonly Picture[],
  classes: readonly number[],
): Promise<Verdict[]> {
  const key = keyOf(judge, 'pictures', [original, ...pictures])
  const names = ['lpips', 'logits', 'features'] as const
  let arrays = await store.readArrays(key, names)
  if (arrays === undefined) {
    const { lpips, logits, features } = await judge.judge(original, pictures)
    arrays = { lpips: Float64Array.from(lpips), logits: joined(logits), features: joined(features) }
    await store.writeArrays(key, arrays)
  }
  const { lpips, logits, features } = arrays
  const outputs = logits.length / pictures.length
  const beyond = classes.find((id) => id >= outputs)
  if (beyond !== undefined) {
    throw invalidArgument('queries', `the judge has ${outputs} outputs, and a class of the queries is ${beyond}`)
  }
  const row = (data: Float64Array, i: number) => {
    const width = data.length / pictures.length
    return Float32Array.from(data.subarray(i * width, (i + 1) * width))
  }
  return pictures.map((_, i) => ({
    lpips: lpips[i]!,
    predicted: argMax(row(logits, i), classes),
    features: row(features, i),
  }))
}

/**
 * Feature statistics of real pictures. `read` reads a picture at the pack's size; `onWork` is told how many classes are
 * done, between any two pieces of work. Errors: those of reading, of the judge, of the store and of `onWork`.
 */
export async function judgeReferences(
  { judge, store }: Bench,
  { statistics }: References,
  read: (path: string) => Promise<Picture>,
  onWork: (done: number) => Promise<void> | void,
): Promise<ReferenceStatistics> {
  const sums = new Map<number, FeatureSums>()
  for (const [id, paths] of statistics) {
    sums.set(id, await classSums({ judge, store }, paths, read, () => onWork(sums.size)))
  }
  return statisticsOf(sums)
}

async function classSums(
  { judge, store }: Bench,
  paths: readonly string[],
  read: (path: string) => Promise<Picture>,
  onWork: () => Promise<void> | void,
): Promise<FeatureSums> {
  const pictures = []
  for (const path of paths) {
    await onWork()
    pictures.push(await read(path))
  }
  const key = keyOf(judge, 'class', pictures)
  const known = await store.readArrays(key, ['sum', 'squares'])
  if (known !== undefined) return new FeatureSums(pictures.length, known.sum, known.squares)
  let sums: FeatureSums | undefined
  for (let i = 0; i < pictures.length; i += batchSize) {
    await onWork()
    for (const features of await judge.features(pictures.slice(i, i + batchSize))) {
      sums ??= FeatureSums.empty(features.length)
      sums.add(features)
    }
  }
  await store.writeArrays(key, { sum: sums!.sum, squares: sums!.squares })
  return sums!
}

function keyOf(judge: Judge, what: string, pictures: readonly Picture[]): string {
  const hash = createHash('sha256').update(JSON.stringify([what, judge.identity]))
  for (const { height, width, data } of pictures) hash.update(`${height} ${width} `).update(data)
  return hash.digest('hex')
}

function joined(rows: readonly Float32Array[]): Float64Array {
  return Float64Array.from(rows.flatMap((row) => [...row]))
}

function argMax(logits: Float32Array, classes: readonly number[]): number {
  return classes.reduce((best, id) => (logits[id]! > logits[best]! ? id : best))
}
