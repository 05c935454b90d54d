// Confidence intervals by the bootstrap over queries: seeded, so that the same verdicts give the same intervals.
// Efron and Tibshirani, An Introduction to the Bootstrap (1993); random numbers: Philox4x32-10.

import { uniforms } from '../engine/random.js'
import { type Measures, type ReferenceStatistics, type Verdict, measure, measureNames } from './metrics.js'

export interface Interval {
  readonly low: number
  readonly high: number
}

export interface Estimate {
  readonly value: number
  /** 95 %. */
  readonly interval: Interval
}

export type Estimates = Readonly<Record<keyof Measures, Estimate>>

export interface Resampling {
  /** How many samples; more give steadier ends of the intervals. */
  readonly samples: number
  readonly seed: number
}

/** Table 1's columns of one row, and what they are in resampled sets of queries. */
export interface Measured {
  readonly measures: Measures
  readonly resampled: readonly Measures[]
}

/** Queries of each resampled set, as indices: as many as there are, drawn with replacement. */
export function resample(queries: number, { samples, seed }: Resampling): Uint32Array[] {
  return Array.from({ length: samples }, (_, sample) => {
    const random = uniforms(seed, sample, 0, 0)
    return Uint32Array.from({ length: queries }, () => Math.floor(random.next().value * queries))
  })
}

/** Rows that are measured with the same `sets` can be compared query by query. */
export function measureAll(
  verdicts: readonly Verdict[],
  targets: readonly number[],
  reference: ReferenceStatistics,
  sets: readonly Uint32Array[],
): Measured {
  return {
    measures: measure(verdicts, targets, reference, verdicts.keys()),
    resampled: sets.map((indices) => measure(verdicts, targets, reference, indices)),
  }
}

/** Estimates with 95 % intervals; none of the measures is below 0, and an accuracy is at most 100. */
export function estimates(measured: Measured): Estimates {
  return estimate(measured, (name) => [0, name === 'accuracy' ? 100 : Infinity])
}

/** The same of the difference between two rows, query by query: `a` − `b`. */
export function differences(a: Measured, b: Measured): Estimates {
  const subtract = (x: Measures, y: Measures) =>
    Object.fromEntries(measureNames.map((name) => [name, x[name] - y[name]])) as unknown as Measures
  const resampled = a.resampled.map((one, i) => subtract(one, b.resampled[i]!))
  return estimate({ measures: subtract(a.measures, b.measures), resampled }, () => [-Infinity, Infinity])
}

function estimate(
  { measures, resampled }: Measured,
  range: (name: keyof Measures) => readonly [least: number, most: number],
): Estimates {
  const entries = measureNames.map((name) => {
    const value = measures[name]
    const { low, high } = centredInterval(
      value,
      resampled.map((one) => one[name]),
    )
    const [least, most] = range(name)
    return [name, { value, interval: { low: Math.max(low, least), high: Math.min(high, most) } }] as const
  })
  return Object.fromEntries(entries) as Record<keyof Measures, Estimate>
}

/**
 * The middle 95 % of `resampled`, moved so that their mean lies on `value`: a Fréchet distance of a resampled set is
 * larger than that of the set (its pictures repeat), and a plain percentile interval would not hold the estimate.
 */
export function centredInterval(value: number, resampled: readonly number[]): Interval {
  if (resampled.length === 0) return { low: NaN, high: NaN }
  const sorted = Float64Array.from(resampled).sort()
  const mean = sorted.reduce((sum, x) => sum + x, 0) / sorted.length
  return { low: value + quantile(sorted, 0.025) - mean, high: value + quantile(sorted, 0.975) - mean }
}

/** Linear between the two nearest. */
function quantile(sorted: Float64Array, part: number): number {
  const place = part * (sorted.length - 1)
  const first = Math.floor(place)
  const next = sorted[Math.min(first + 1, sorted.length - 1)]!
  return sorted[first]! + (place - first) * (next - sorted[first]!)
}

/** `count` of `items`, in an order by chance; all of them where there are fewer. */
export function choose<T>(items: readonly T[], count: number, seed: number): T[] {
  const random = uniforms(seed, 0, 0, 0)
  const left = [...items]
  const chosen: T[] = []
  while (chosen.length < count && left.length > 0) {
    chosen.push(...left.splice(Math.floor(random.next().value * left.length), 1))
  }
  return chosen
}
