// Pace: somebody watches an edit that has begun. Where more have begun than a batch takes, for they came from a server
// that went away, each of one tenant's takes a step now and then, while the first of them go on to their ends.
// Graphs of one tenant take turns, which are long against a switch: an edit of another graph waits for its turn only.

/** An edit that has begun, or was lost with its worker, and took no step for so long goes first among its tenant's. */
const stallMs = 1_000

/** An edit is not passed by those that came so much later; and so long a turn of a graph lasts at least. */
export const patienceMs = 5_000

export interface Pace {
  readonly begun: boolean
  /** Workers that were lost with it: it had its turn, and got nothing. */
  readonly strikes: number
  /** When it took its last step, or came. */
  readonly waitingSinceMs: number
}

/** 0: an edit does not stand still for too long. Else it grows with how long, slowly, so that rank decides among most. */
export function stillness({ begun, strikes, waitingSinceMs }: Pace, nowMs: number): number {
  const waitedMs = nowMs - waitingSinceMs
  return (begun || strikes > 0) && waitedMs >= stallMs ? 1 + Math.floor(waitedMs / patienceMs) : 0
}

/** Whether a graph that has gone first since `sinceMs` has had its turn, for an edit of another graph. */
export function hadItsTurn(sinceMs: number, other: Pick<Pace, 'waitingSinceMs'>, nowMs: number): boolean {
  return nowMs - Math.max(sinceMs, other.waitingSinceMs) >= patienceMs
}

/** Whether an edit waits too long to be passed by another one. */
export function waitsLonger(edit: Pick<Pace, 'waitingSinceMs'>, other: Pick<Pace, 'waitingSinceMs'>): boolean {
  return other.waitingSinceMs - edit.waitingSinceMs >= patienceMs
}
