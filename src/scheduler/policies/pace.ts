// Pace: somebody watches an edit that has begun. Where more have begun than a batch takes, for they came from a server
// that went away, each of one tenant's takes a step now and then, while the first of them go on to their ends.

/** An edit that has begun and took no step for so long goes first among its tenant's. */
const stallMs = 1_000

/** An edit that waits for so long is not passed any more by later ones of its tenant whose graph runs. */
const patienceMs = 5_000

export interface Pace {
  readonly begun: boolean
  /** Workers that were lost with it: it had its turn, and got nothing. */
  readonly strikes: number
  /** When it took its last step, or came. */
  readonly waitingSinceMs: number
}

/** Whether an edit stands still for too long. */
export function stalls({ begun, strikes, waitingSinceMs }: Pace, nowMs: number): boolean {
  return (begun || strikes > 0) && nowMs - waitingSinceMs >= stallMs
}

/** Whether the batch of another graph is to take in no more edits, so that this one gets its turn. */
export function isImpatient({ waitingSinceMs }: Pick<Pace, 'waitingSinceMs'>, nowMs: number): boolean {
  return nowMs - waitingSinceMs >= patienceMs
}
