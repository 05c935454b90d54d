// Deadlines: who goes first among the edits of one tenant, and whether an edit can finish in time at all.
// Least slack first; an edit without a deadline counts as one that should begin within `patienceMs`.
// What comes from another server arrived when it was first asked for.

const patienceMs = 60_000

export interface Timing {
  readonly arrivedMs: number
  /** When the caller gives up. */
  readonly deadlineMs: number | undefined
  /** Of all steps, by what was measured; undefined: nothing was. */
  readonly durationMs: number | undefined
}

/** The latest time at which an edit should begin: the least goes first. A deadline never passes another tenant. */
export function rankOf({ arrivedMs, deadlineMs, durationMs }: Timing): number {
  const latest = arrivedMs + patienceMs
  return deadlineMs === undefined ? latest : Math.min(latest, deadlineMs - (durationMs ?? 0))
}

/** Whether an edit that begins in `startMs` and takes `durationMs` ends within `leftMs`; unmeasured, it may. */
export function canFinish(startMs: number | undefined, durationMs: number | undefined, leftMs: number): boolean {
  if (leftMs <= 0) return false
  return startMs === undefined || durationMs === undefined || startMs + durationMs <= leftMs
}
