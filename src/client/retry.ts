// When to try again after a server could not be reached or took no edit, and when to give up.
// Backoff with jitter, so that clients do not come back all at once: https://sre.google/sre-book/addressing-cascading-failures/

export interface Patience {
  /** How long to look for a server that takes a new edit. */
  readonly startMs: number
  /** How long to try to reach a server again for an edit that one had. */
  readonly reconnectMs: number
}

export interface Tried {
  /** Attempts since the last success, from 0. */
  readonly attempt: number
  /** Since the first of them. */
  readonly lostMs: number
  /** A server had the edit. */
  readonly heard: boolean
  readonly servers: number
}

const leastMs = 50
const mostMs = 5_000

/** No server is given less to answer; and this much where each is asked once. */
const leastAnswerMs = 1_000
const onceAnswerMs = 10_000

/**
 * Milliseconds within which a server has to be heard of after a new edit was sent to it: the same for each that was not
 * asked yet. `shared`: it may have to be asked again, over another connection.
 */
export function answerWithin(
  { attempt, lostMs, servers }: Pick<Tried, 'attempt' | 'lostMs' | 'servers'>,
  shared: boolean,
  { startMs, leftMs }: { readonly startMs: number; readonly leftMs: number },
): number {
  const shares = Math.max(1, servers - attempt) + (shared ? 1 : 0)
  const patienceMs = startMs === 0 ? onceAnswerMs : (startMs - lostMs) / shares
  return Math.max(leastAnswerMs, Math.min(patienceMs, leftMs))
}

/**
 * Milliseconds until the next attempt; undefined: there is to be none. Each server is asked at least once. A server that
 * asks for more patience than there is for a new edit is believed at once.
 */
export function nextTry(
  { attempt, lostMs, heard, servers }: Tried,
  retryAfterMs: number | undefined,
  { startMs, reconnectMs }: Patience,
  random = Math.random(),
): number | undefined {
  const leftMs = (heard ? reconnectMs : startMs) - lostMs
  const unasked = !heard && attempt + 1 < servers
  if (leftMs <= 0 && !unasked) return undefined
  const backoffMs = Math.min(leastMs * 2 ** attempt, mostMs) * (0.5 + random / 2)
  if (retryAfterMs === undefined || unasked) return Math.min(backoffMs, Math.max(leftMs, leastMs))
  if (!heard && retryAfterMs > leftMs) return undefined
  return Math.min(Math.max(retryAfterMs * (1 + random / 4), backoffMs), leftMs)
}
