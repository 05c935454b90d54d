// What may come while an edit ends: the session alone, with a scheduler that takes steps when the test lets it.

import { Metadata } from '@grpc/grpc-js'
import test from 'ava'
import type { EditEvent, StartEdit } from '../../src/proto/messages.js'
import { FakeScheduler } from '../support-server/fake-scheduler.js'
import { kindOf } from '../support-server/peer.js'
import { latentLength, newDesk, startEdit } from '../support-server/start.js'

/** An edit that has begun, and what its reader hears. */
async function begin(changes: Partial<StartEdit> = {}) {
  const scheduler = new FakeScheduler({ length: latentLength, allowed: 0 })
  const session = newDesk(scheduler).start('x', 'a', startEdit(changes), new Metadata())
  const heard: EditEvent[] = []
  let onEnd = () => {}
  let onStarted = () => {}
  const ended = new Promise<void>((resolve) => (onEnd = resolve))
  const started = new Promise<void>((resolve) => (onStarted = resolve))
  const write = (event: EditEvent) => {
    heard.push(event)
    if (event.started !== undefined) onStarted()
    return Promise.resolve()
  }
  session.attach({ acknowledges: true, write, ended: onEnd, lost: () => undefined }, 0)
  await started
  return { session, scheduler, edit: scheduler.edits[0]!, heard, ended }
}

test('a cancel that comes while a hand-back is encoded is a cancel', async (t) => {
  const { session, scheduler, edit, heard, ended } = await begin()
  scheduler.handBack()
  await edit.ended
  t.is(session.status, 'EDIT_STATUS_RUNNING')
  session.cancel()
  await ended
  t.deepEqual(heard.map(kindOf), ['accepted', 'started', 'cancelled'])
  t.false(heard.at(-1)!.cancelled!.abandoned)
  t.is(session.status, 'EDIT_STATUS_CANCELLED')
})

test('so is one that the scheduler had not obeyed when it handed all back', async (t) => {
  const { session, scheduler, heard, ended } = await begin()
  session.cancel()
  scheduler.handBack()
  await ended
  t.deepEqual(heard.map(kindOf), ['accepted', 'started', 'cancelled'])
})

test('so is one that comes while an edit of an old connection is handed back', async (t) => {
  const { session, edit, heard, ended } = await begin()
  await session.handBack()
  await edit.ended
  session.cancel()
  await ended
  t.deepEqual(heard.map(kindOf), ['accepted', 'started', 'cancelled'])
})

test('updates that wait for a step are bounded, and the last answer alone has the state', async (t) => {
  const { session, scheduler, heard, ended } = await begin()
  scheduler.allow(1)
  const updates = Array.from({ length: 70 }, (_, i) => session.update({ target: `lemon ${i}` }, i + 1))
  const results = await Promise.allSettled(updates)
  t.is(results.filter(({ status }) => status === 'fulfilled').length, 64)
  t.like(results.at(-1), { reason: { code: 'RESOURCE_EXHAUSTED' } })
  scheduler.allow(10)
  await ended
  const answers = heard.flatMap(({ updated }) => (updated === undefined ? [] : [updated]))
  t.deepEqual(
    answers.map(({ number }) => number),
    Array.from({ length: 64 }, (_, i) => i + 1),
  )
  t.deepEqual([...new Set(answers.map(({ targetText }) => targetText))], ['lemon 63'], 'what is in force of them all')
  t.is(answers.filter(({ resumePoint }) => resumePoint != null).length, 1)
  t.truthy(answers.at(-1)!.resumePoint)

  const told: EditEvent[] = []
  await new Promise<void>((resolve) => {
    const write = (event: EditEvent) => Promise.resolve(void told.push(event))
    session.observe({ acknowledges: true, write, ended: resolve, lost: () => undefined }, 0)
  })
  const late = told.flatMap(({ updated }) => (updated === undefined ? [] : [updated]))
  t.deepEqual(
    late.map(({ number, resumePoint }) => [number, resumePoint]),
    [57, 58, 59, 60, 61, 62, 63, 64].map((number) => [number, null]),
    'who watches later hears of the last few, without states',
  )
})

test('a cancel that comes while the picture of an edit is encoded comes too late', async (t) => {
  const { session, scheduler, edit, heard, ended } = await begin()
  scheduler.allow(10)
  await edit.ended
  session.cancel()
  await ended
  t.is(kindOf(heard.at(-1)!), 'completed')
})

test('of what comes while a watcher does not read, its window is kept, and the end', async (t) => {
  const steps = 1_000
  const { session, scheduler, heard, ended } = await begin({
    parameters: { steps },
    stream: { windowBytes: 64 * 1024 },
  })
  const watched: EditEvent[] = []
  let read = () => {}
  const reading = new Promise<void>((resolve) => (read = resolve))
  const write = (event: EditEvent) => {
    watched.push(event)
    return reading
  }
  const over = new Promise<void>((resolve) => {
    session.observe({ acknowledges: true, write, ended: resolve, lost: () => undefined }, 0)
  })
  scheduler.allow(steps)
  await ended
  read()
  await over
  t.true(heard.length > steps)
  t.true(watched.length > 100 && watched.length < 600, `${watched.length} events`)
  t.is(kindOf(watched.at(-1)!), 'completed')
})
