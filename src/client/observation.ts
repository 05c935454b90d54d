// An edit that another program may have started, watched by its id, across broken connections and servers that go away.
// The protocol is proto/flexit/v1/editor.proto.

import { WireError } from '../proto/status.js'
import { findEdit } from './calls.js'
import { type Channel, clientClosed, givenUp } from './channel.js'
import { type ClientEvent, isTerminal, toClientEvent } from './events.js'
import { type Patience, nextTry } from './retry.js'
import { Told } from './told.js'
import { wrongAttachOptions } from './wrong-request.js'

export interface AttachOptions {
  /** Only events after this one (`EditSummary.sequence`). Default 0: the events so far, of steps only the last. */
  readonly afterSequence?: number | undefined
  /** Only this edit (`EditSummary.uid`), not another one that has the same id now. */
  readonly uid?: string | undefined
  /** Ends the watching: CANCELLED. The edit goes on. */
  readonly signal?: AbortSignal | undefined
}

/** The events of an edit up to its last one. Errors: as of `FlexitClient.attach`. */
export async function* observe(
  channel: Channel,
  id: string,
  options: AttachOptions,
  patience: Patience,
): AsyncGenerator<ClientEvent, void> {
  const wrong = wrongAttachOptions(options)
  if (wrong !== undefined) throw wrong
  const { uid, signal } = options
  let { afterSequence = 0 } = options
  let wireId = id
  let dropped = 0
  let heard = false
  let nextStep = 0
  const told = new Told()
  let attempt = 0
  let lostMs: number | undefined
  for (;;) {
    let error: WireError
    try {
      const { server, summary } = await findEdit(channel, id, { signal })
      if (uid !== undefined && summary.editId === id && summary.uid !== uid) throw anotherEdit(id, uid)
      if (summary.editId !== wireId) {
        ;[wireId, afterSequence, dropped] = [summary.editId, 0, 0]
        told.restart()
      }
      const isOver = summary.sequence <= afterSequence
      if (isOver && ['completed', 'cancelled', 'failed'].includes(summary.status)) return
      if (isOver && summary.status === 'handed_back') throw handedBack()
      for await (const message of channel.attach(server, { editId: wireId, afterSequence }, signal)) {
        heard = true
        attempt = 0
        lostMs = undefined
        afterSequence = message.sequence
        const event = toClientEvent(message, dropped)
        if (message.step !== undefined) dropped = message.droppedPreviews
        if (event === undefined || isRepeated(event)) continue
        yield event
        if (isTerminal(event)) return
      }
      error = broken()
    } catch (thrown) {
      if (!(thrown instanceof WireError)) throw thrown
      error = thrown
    }
    if (signal?.aborted === true) throw givenUp()
    if (channel.closed) throw clientClosed()
    // Its client may start it anew, where its server was lost.
    const passing = ['UNAVAILABLE', 'INTERNAL'].includes(error.status) || (heard && error.status === 'NOT_FOUND')
    if (!passing) throw error
    const nowMs = performance.now()
    lostMs ??= nowMs
    const tried = { attempt: attempt++, lostMs: nowMs - lostMs, heard, servers: 0 }
    const delayMs = nextTry(tried, error.retryAfterMs, patience)
    if (delayMs === undefined) throw error
    await channel.sleep(delayMs, signal)
  }

  /** What it says again where it was started anew. */
  function isRepeated(event: ClientEvent): boolean {
    if (event.kind !== 'step') return told.repeats(event)
    if (event.step < nextStep) return true
    nextStep = event.step + 1
    told.step()
    return false
  }
}

function anotherEdit(id: string, uid: string): WireError {
  const message = `the edit ${id} is another one than ${uid}`
  return new WireError({ code: 'NOT_FOUND', message, cure: 'It was forgotten: start it again.' })
}

function handedBack(): WireError {
  const message = 'the server went away and handed the edit back, and nobody goes on with it'
  return new WireError({ code: 'UNAVAILABLE', message, cure: 'Start it again.' })
}

function broken(): WireError {
  const message = 'the server ended the stream before the edit ended'
  return new WireError({ code: 'UNAVAILABLE', message, cure: 'Try again.' })
}
