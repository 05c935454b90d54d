// Slow readers: what is left out for them, what waits for them, and what always arrives.
// The rules are those of StreamOptions.window_bytes in proto/flexit/v1/editor.proto.

import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import test from 'ava'
import { Outbox } from '../../src/server/outbox.js'
import { kindOf } from '../support-server/peer.js'
import { serve, startEdit } from '../support-server/start.js'

const windowBytes = 64 * 1024
const steps = 40

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

test('without acknowledgements only the newest preview is kept, and another edit is not slowed', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 0 })
  const stream = peer.edit()
  const start = startEdit({
    parameters: { steps },
    stream: { previews: { picture: { format: 'PICTURE_FORMAT_PNG' } }, windowBytes },
  })
  stream.send('slow', { start })
  stream.send('reading', { start: { ...start, stream: { ...start.stream, windowBytes: 8 * 1024 ** 2 } } })
  for (const id of ['slow', 'reading']) await stream.first('started', ({ editId }) => editId === id)
  scheduler.allow(steps - 1)
  await stream.first('step', ({ editId, step }) => editId === 'reading' && step?.step === steps - 2)

  const seen = () => stream.all.filter(({ editId }) => editId === 'slow')
  const bytes = seen().reduce((sum, { step }) => sum + (step?.preview?.data.length ?? 0), 0)
  const one = seen().find(({ step }) => step?.preview)!.step!.preview!.data.length
  t.true(bytes > windowBytes / 2 && bytes <= windowBytes + one, `${bytes} bytes came, of a window of ${windowBytes}`)

  stream.send('slow', { acknowledge: { sequence: seen().at(-1)!.sequence } })
  const newest = await stream.first('step', ({ editId, step }) => editId === 'slow' && step?.step === steps - 2)
  t.truthy(newest.step.preview, 'the newest preview comes when there is credit')
  const without = seen().filter(({ step }) => step !== undefined && step.preview == null).length
  t.true(without > 10, 'older ones were left out')
  t.is(newest.droppedPreviews, without)
  t.deepEqual(
    seen().map(({ sequence }) => sequence),
    seen().map((_, i) => i + 1),
    'losses are never left out',
  )
  scheduler.allow(1)
  const end = await stream.first('completed', ({ editId }) => editId === 'slow')
  t.true(end.completed.picture!.data.length > 0)
  t.is(stream.all.filter(({ editId, droppedPreviews }) => editId === 'reading' && droppedPreviews > 0).length, 0)
  stream.end()
})

test('of what is not acknowledged, no raw preview but the newest is held', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 0 })
  const stream = peer.edit()
  stream.send('slow', { start: startEdit({ parameters: { steps }, stream: { previews: {}, windowBytes } }) })
  await stream.first('started')
  const watching = peer.stream('Attach', { editId: 'slow' })
  scheduler.allow(steps - 1)
  await watching.first('step', ({ step }) => step?.step === steps - 2)
  await stream.first('step', ({ step }) => step?.preview != null)
  const edit = scheduler.edits[0]!
  // A WeakRef that was made in this turn still holds.
  await new Promise((resolve) => setImmediate(resolve))
  collectGarbage()
  const held = edit.previews.flatMap((preview, step) => (preview.deref() === undefined ? [] : [step]))
  t.is(edit.previews.length, steps - 1)
  t.true(held.length <= 2, `the newest, and one that may be encoded just now: ${held.join()}`)
  watching.cancel()
  stream.cancel()
})

test('the end comes without any credit, and nothing after it', async (t) => {
  const { peer } = await serve(t)
  const stream = peer.edit()
  stream.send('a', {
    start: startEdit({
      parameters: { steps },
      stream: { previews: { picture: { format: 'PICTURE_FORMAT_PNG' } }, windowBytes },
    }),
  })
  stream.end()
  t.is(await stream.over, undefined)
  t.is(kindOf(stream.all.at(-1)!), 'completed')
  t.is(stream.all.filter(({ step }) => step !== undefined).length, steps)
})

test('lossless latents make their edit wait, and none is lost', async (t) => {
  const { peer, scheduler } = await serve(t)
  const stream = peer.edit()
  const latents = { lossless: true }
  stream.send('a', { start: startEdit({ parameters: { steps: 100 }, stream: { latents, windowBytes } }) })
  await stream.first('started')
  stream.send('other', { start: startEdit({ parameters: { steps: 100 } }) })
  await stream.first('completed', ({ editId }) => editId === 'other')
  const own = () => stream.all.filter(({ editId }) => editId === 'a')
  const edit = scheduler.edits[0]!
  await edit.wasHeld
  t.true(edit.held)
  t.true(edit.state.step < 100, `it stands at step ${edit.state.step}`)

  let acknowledged = 0
  while (!own().some(({ completed }) => completed)) {
    acknowledged = own().at(-1)!.sequence
    stream.send('a', { acknowledge: { sequence: acknowledged } })
    await Promise.race([
      stream.first('step', ({ editId, sequence }) => editId === 'a' && sequence > acknowledged),
      stream.first('completed', ({ editId }) => editId === 'a'),
    ])
  }
  const points = own().flatMap(({ step }) => (step === undefined ? [] : [step.resumePoint?.step]))
  t.deepEqual(
    points,
    points.map((_, i) => i + 1),
  )
  t.is(points.length, 100)
  stream.end()
})

test('acknowledging what was not sent is no credit', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 0 })
  const stream = peer.edit()
  stream.send('a', {
    start: startEdit({ parameters: { steps: 200 }, stream: { latents: { lossless: true }, windowBytes } }),
  })
  await stream.first('started')
  stream.send('a', { acknowledge: { sequence: 2 ** 50 } })
  await peer.unary('GetServerInfo', {})
  scheduler.allow(200)
  const last = await stream.first('step', ({ step }) => step?.step === 0)
  t.truthy(last.step.resumePoint?.latent)
  await scheduler.edits[0]!.wasHeld
  t.true(scheduler.edits[0]!.held)
  t.true(scheduler.edits[0]!.state.step < 200)
  stream.cancel()
})

test('what a reader was being sent when another took over goes to the other', async (t) => {
  const outbox = new Outbox(windowBytes, {
    onBytes: () => undefined,
    onDropped: () => undefined,
    onCredit: () => undefined,
  })
  let onGone = () => {}
  const gone = new Promise<void>((resolve) => (onGone = resolve))
  const first = { acknowledges: true, write: () => gone, ended: () => undefined, lost: () => onGone() }
  outbox.attach(first, 0)
  const bare = { editId: 'a', sequence: 1, droppedPreviews: 0, failed: { status: null } }
  outbox.push({ sequence: 1, bare, terminal: true })
  const sent: number[] = []
  await new Promise<void>((resolve) => {
    const write = ({ sequence }: { readonly sequence: number }) => {
      sent.push(sequence)
      return Promise.resolve()
    }
    outbox.attach({ acknowledges: true, write, ended: resolve, lost: () => undefined }, 0)
  })
  t.deepEqual(sent, [1])
  t.is(outbox.bytes, 0)
})

test('lossless latents cannot be asked for by an edit that is to run on alone', async (t) => {
  const { peer } = await serve(t)
  const events = peer.stream('RunEdit', { start: startEdit({ stream: { latents: { lossless: true } }, runOn: true }) })
  const error = await events.over
  t.is(error?.code, 3)
})

test('RunEdit needs no acknowledgements, also for lossless latents', async (t) => {
  const { peer } = await serve(t)
  const start = startEdit({ parameters: { steps: 60 }, stream: { latents: { lossless: true }, windowBytes } })
  const events = peer.stream('RunEdit', { editId: 'a', start })
  t.is(await events.over, undefined)
  const points = events.all.flatMap(({ step }) => (step === undefined ? [] : [step.resumePoint?.step]))
  t.is(points.length, 60)
  t.is(kindOf(events.all.at(-1)!), 'completed')
})
