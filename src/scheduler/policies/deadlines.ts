// Deadlines: who goes first among the edits of one tenant, and whether an edit can finish in time at all.
// Least slack first; an edit without a deadline counts as one that should begin within `patienceMs`, and one that goes
// on from another server as one that should have begun already: somebody saw its steps, and waits for the next.

const patienceMs = 60_000

export interface Timing {
  readonly arrivedMs: number
  /** It took steps elsewhere. */
  readonly resumed?: boolean | undefined
  /** When the caller gives up. */
  readonly deadlineMs: number | undefined
  /** Of all steps, by what was measured; undefined: nothing was. */
  readonly durationMs: number | undefined
}

/** The latest time at which an edit should begin: the least goes first. A deadline never passes another tenant. */
export function rankOf({ arrivedMs, resumed = false, deadlineMs, durationMs }: Timing): number {
  const latest = arrivedMs + (resumed ? 0 : patienceMs)
  return deadlineMs === undefined ? latest : Math.min(latest, deadlineMs - (durationMs ?? 0))
}

/** Whether an edit that begins in `startMs` and takes `durationMs` ends within `leftMs`; unmeasured, it may. */
export function canFinish(startMs: number | undefined, durationMs: number | undefined, leftMs: number): boolean {
  if (leftMs <= 0) return false
  return startMs === undefined || durationMs === undefined || startMs + durationMs <= leftMs
}
