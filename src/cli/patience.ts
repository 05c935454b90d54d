// Many edits at once on a server that has no room for all of them: those that are refused come back.

import { setTimeout as sleep } from 'node:timers/promises'
import type { EditState } from '../engine/edit.js'
import type { FlexitError } from '../engine/errors.js'
import type { Ended } from './maker.js'

/**
 * Make an edit; where the server is full, come back when it says so, and go on from the last state. Until `signal`: then
 * the edit is cancelled. Errors: those of `make`.
 */
export async function patiently(
  state: EditState,
  signal: AbortSignal,
  make: (state: EditState) => Promise<Ended>,
): Promise<Ended> {
  for (;;) {
    const ended = await make(state)
    const error = ended.kind === 'failed' ? (ended.error as Partial<{ retryAfterMs: number }> & FlexitError) : undefined
    if (error?.code !== 'RESOURCE_EXHAUSTED' || error.retryAfterMs === undefined) return ended
    state = ended.state
    await sleep(error.retryAfterMs, undefined, { signal }).catch(() => undefined)
    if (signal.aborted) return { kind: 'cancelled', state }
  }
}
