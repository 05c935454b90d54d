// Pace: somebody watches an edit that has begun. Where more have begun than a batch takes, for they came from a server
// that went away, each of one tenant's takes a step now and then, while the first of them go on to their ends.

/** An edit that has begun and took no step for so long goes first among its tenant's. */
const stallMs = 1_000

export interface Pace {
  readonly begun: boolean
  /** When it took its last step, or came. */
  readonly waitingSinceMs: number
}

/** Whether an edit stands still for too long. */
export function stalls({ begun, waitingSinceMs }: Pace, nowMs: number): boolean {
  return begun && nowMs - waitingSinceMs >= stallMs
}
