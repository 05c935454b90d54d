// Pace: somebody watches an edit that has begun. Where more have begun than a batch takes, for they came from a server
// that went away, each of one tenant's takes a step now and then, while the first of them go on to their ends.

/** An edit that has begun, or was lost with its worker, and took no step for so long goes first among its tenant's. */
const stallMs = 1_000

/** An edit is not passed by those of its tenant that came so much later, though their graph runs. */
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

/** Whether an edit waits too long to be passed by another one. Where all wait alike, a running graph goes on. */
export function waitsLonger(edit: Pick<Pace, 'waitingSinceMs'>, other: Pick<Pace, 'waitingSinceMs'>): boolean {
  return other.waitingSinceMs - edit.waitingSinceMs >= patienceMs
}
