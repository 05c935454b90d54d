// The load at which a server bends: capacity in a closed loop, then open loops at growing parts of it.
// After the open-loop sweeps that serving benchmarks print: offered load against goodput and times.

import { type LoadPlan, type LoadResult, runLoad } from './run-load.js'

export interface SweepPoint {
  /** Offered load, of the capacity. */
  readonly part: number
  readonly offeredPerSecond: number
  readonly result: LoadResult
  /** Edits completed, of those offered. */
  readonly kept: number
}

export interface Sweep {
  readonly capacity: LoadResult
  readonly points: readonly SweepPoint[]
  /** The most that was offered and kept; undefined where nothing was. */
  readonly knee: SweepPoint | undefined
}

export interface SweepOptions {
  /** Edits at once, for the capacity. */
  readonly edits: number
  readonly seed: number
  /** Of each measurement. */
  readonly seconds: number
  readonly onPoint: (what: string) => void
}

const parts = [0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.2]

/** Completed, of offered, from which on a load counts as kept: some edits are always under way at the end. */
const enough = 0.9

/** Errors: those of `runLoad`. */
export async function runSweep(plan: Omit<LoadPlan, 'arrivals'>, options: SweepOptions): Promise<Sweep> {
  const { edits, seed, seconds, onPoint } = options
  const warmUpSeconds = seconds / 4
  const timed = { ...plan, edits: undefined, seconds: seconds + warmUpSeconds, warmUpSeconds }
  onPoint(`capacity: ${edits} edits at once`)
  const capacity = await runLoad({ ...timed, arrivals: { kind: 'closed', edits } })
  const points: SweepPoint[] = []
  for (const part of parts) {
    if (plan.signal?.aborted === true || capacity.editsPerSecond === 0) break
    const perSecond = part * capacity.editsPerSecond
    onPoint(`${Math.round(100 * part)} % of capacity: ${perSecond.toPrecision(3)} edits/s`)
    const result = await runLoad({ ...timed, arrivals: { kind: 'open', perSecond, seed } })
    points.push({ part, offeredPerSecond: perSecond, result, kept: result.editsPerSecond / perSecond })
  }
  return { capacity, points, knee: points.filter(({ kept }) => kept >= enough).at(-1) }
}
