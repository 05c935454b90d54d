// Edits over a real port: what comes, in which order, and what commands do to it.
// The scheduler is the fake one, which takes steps when the test lets it.

import test from 'ava'
import { variableShape } from '../../src/engine/step-graph.js'
import { decodeLatent } from '../../src/proto/codec.js'
import type { StreamOptions } from '../../src/proto/messages.js'
import { fromStatus } from '../../src/proto/status.js'
import { FakeScheduler } from '../support-server/fake-scheduler.js'
import { kindOf } from '../support-server/peer.js'
import { pack, serve, startEdit } from '../support-server/start.js'

const isPng = (bytes: Uint8Array) => Buffer.from(bytes).subarray(1, 4).toString() === 'PNG'
const isJpeg = (bytes: Uint8Array) => bytes[0] === 0xff && bytes[1] === 0xd8
const isWebp = (bytes: Uint8Array) => Buffer.from(bytes).subarray(8, 12).toString() === 'WEBP'

test('an edit from its start to its picture', async (t) => {
  const { peer } = await serve(t)
  const stream = peer.edit()
  stream.send('a', { start: startEdit({ stream: { previews: {}, latents: {} } }) })
  const { completed } = await stream.first('completed')
  stream.end()
  t.is(await stream.over, undefined)

  const kinds = stream.all.map(kindOf)
  t.deepEqual(kinds, ['accepted', 'started', 'step', 'step', 'step', 'step', 'step', 'completed'])
  t.deepEqual(
    stream.all.map(({ sequence }) => sequence),
    [1, 2, 3, 4, 5, 6, 7, 8],
  )
  t.true(stream.all.every(({ editId, droppedPreviews }) => editId === 'a' && droppedPreviews === 0))
  const { accepted } = await stream.first('accepted')
  t.is(accepted.parameters?.steps, 5)
  t.is(accepted.parameters?.seed, 7)
  t.is(accepted.parameters?.lambdaP, pack.manifest.defaults.lambdaP, 'defaults of the pack are told')
  t.is(accepted.estimatedStartMs, 10)
  t.is(accepted.estimatedDurationMs, undefined, 'what was not measured is not said')

  const steps = stream.all.flatMap(({ step }) => (step === undefined ? [] : [step]))
  t.deepEqual(
    steps.map(({ step }) => step),
    [0, 1, 2, 3, 4],
  )
  t.true(steps.every(({ preview }) => isJpeg(preview!.data)))
  t.is(steps[0]!.losses?.lpips, 0.5)
  t.is(steps[0]!.losses?.latent, undefined, 'a term that is left out is not sent')
  t.is(steps[4]!.resumePoint?.step, 5)
  t.deepEqual(steps[4]!.resumePoint, completed.resumePoint)
  t.true(isPng(completed.picture!.data))
  t.is(completed.statistics?.steps, 5)
})

test('several edits on one stream are told apart', async (t) => {
  const { peer } = await serve(t)
  const stream = peer.edit()
  for (const id of ['a', 'b', '']) stream.send(id, { start: startEdit({ parameters: { steps: 3 } }) })
  stream.end()
  t.is(await stream.over, undefined, 'the stream ends when its edits have ended')
  const ids = [...new Set(stream.all.map(({ editId }) => editId))]
  t.is(ids.length, 3)
  t.deepEqual(ids.slice(0, 2), ['a', 'b'])
  t.regex(ids[2]!, /^[0-9a-f-]{36}$/, 'the server chose an id')
  for (const id of ids) {
    const own = stream.all.filter(({ editId }) => editId === id)
    t.deepEqual(
      own.map(({ sequence }) => sequence),
      own.map((_, i) => i + 1),
    )
    t.is(kindOf(own.at(-1)!), 'completed')
  }
})

test('what is streamed is chosen', async (t) => {
  const { peer } = await serve(t)
  const stream = peer.edit()
  const picture = { format: 'PICTURE_FORMAT_JPEG', size: 32, quality: 50 } as const
  const latents = { every: 3, type: 'NUMBER_TYPE_FLOAT16' } as const
  const wish = { stepEvery: 0, previews: { every: 4, picture }, latents, result: { format: 'PICTURE_FORMAT_WEBP' } }
  stream.send('a', { start: startEdit({ parameters: { steps: 9 }, stream: wish as StreamOptions }) })
  const { completed } = await stream.first('completed')
  const steps = stream.all.flatMap(({ step }) => (step === undefined ? [] : [step]))
  t.deepEqual(
    steps.map(({ step, preview, resumePoint }) => [step, preview != null, resumePoint != null]),
    [
      [0, true, false],
      [2, false, true],
      [4, true, false],
      [5, false, true],
      [8, true, true],
    ],
  )
  t.is(steps[0]!.preview!.format, 'PICTURE_FORMAT_JPEG')
  const latent = steps[1]!.resumePoint!.latent!
  t.is(latent.type, 'NUMBER_TYPE_FLOAT16')
  t.is(latent.data.length, 2 * decodeLatent(latent).length)
  t.is(completed.resumePoint?.latent?.type, 'NUMBER_TYPE_FLOAT32', 'the last one can always be resumed')
  t.true(isWebp(completed.picture!.data))
  stream.end()
})

test('cancel ends one edit, once, and no other', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 2 })
  const stream = peer.edit()
  for (const id of ['a', 'b']) stream.send(id, { start: startEdit() })
  // Of both: steps are allowed to edits that have begun.
  for (const id of ['a', 'b']) await stream.first('step', ({ editId, step }) => editId === id && step?.step === 1)
  stream.send('a', { cancel: {} })
  stream.send('a', { cancel: {} })
  const { cancelled } = await stream.first('cancelled')
  t.is(cancelled.resumePoint?.step, 2, 'it can go on from there')
  t.false(cancelled.abandoned)
  for (const command of [{ cancel: {} }, { accept: {} }, { pause: {} }, { resume: {} }, { update: {} }]) {
    stream.send('a', command)
  }
  scheduler.allow(10)
  const { editId } = await stream.first('completed')
  t.is(editId, 'b')
  stream.end()
  await stream.over
  const own = stream.all.filter((event) => event.editId === 'a').map(kindOf)
  t.deepEqual(own, ['accepted', 'started', 'step', 'step', 'cancelled'], 'nothing follows')
})

test('accept ends an edit with the picture of a step', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 2 })
  const stream = peer.edit()
  for (const id of ['now', 'later']) stream.send(id, { start: startEdit() })
  for (const id of ['now', 'later']) await stream.first('step', ({ editId, step }) => editId === id && step?.step === 1)
  stream.send('now', { accept: {} })
  const now = await stream.first('completed')
  t.is(now.completed.resumePoint?.step, 2)
  stream.send('later', { accept: { step: 4 } })
  stream.send('later', { acknowledge: { sequence: 1 } })
  await peer.unary('GetEdit', { editId: 'later' })
  scheduler.allow(10)
  const later = await stream.first('completed', ({ editId }) => editId === 'later')
  t.is(later.completed.resumePoint?.step, 4)
  stream.end()
})

test('pause, update and resume', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 1 })
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  await stream.first('step')
  stream.send('a', { pause: {} })
  stream.send('a', { update: { targetText: 'lemon', parameters: { lambdaP: 0, steps: 3 } } })
  const { updated } = await stream.first('updated')
  t.is(updated.targetText, 'lemon')
  t.is(updated.parameters?.lambdaP, 0, 'zero is a value')
  t.is(updated.parameters?.seed, 7, 'what was not named stays')
  t.is(updated.resumePoint?.step, 1, 'where it goes on with them')
  t.is(updated.resumePoint?.latent?.type, 'NUMBER_TYPE_FLOAT32')
  t.like(await peer.unary('GetEdit', { editId: 'a' }), { status: 'EDIT_STATUS_PAUSED', step: 1, steps: 3 })
  scheduler.allow(10)
  t.is(stream.all.filter(({ step }) => step !== undefined).length, 1, 'no step while paused')
  stream.send('a', { resume: {} })
  const { completed } = await stream.first('completed')
  t.is(completed.resumePoint?.step, 3)
  stream.end()
})

test('an update goes with an edit that is handed back before its next step', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 1 })
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  await stream.first('step')
  stream.send('a', { pause: {} })
  stream.send('a', { update: { targetText: 'lemon' } })
  t.is((await stream.first('updated')).updated.targetText, 'lemon')
  scheduler.handBack()
  const { handedBack } = await stream.first('handedBack')
  t.like(handedBack.state, { targetText: 'lemon', resumePoint: { step: 1 } })
  stream.end()
})

test('an update of the space before the first step changes the shape of latents', async (t) => {
  const shape = variableShape(pack, 'pixels')
  const scheduler = new FakeScheduler({ length: shape.reduce((a, b) => a * b, 1), allowed: 0 })
  const { peer } = await serve(t, { scheduler })
  const stream = peer.edit()
  stream.send('a', { start: startEdit({ stream: { latents: {} } }) })
  await stream.first('started')
  stream.send('a', { update: { parameters: { space: 'SPACE_PIXELS' } } })
  await stream.first('updated')
  scheduler.allow(10)
  const { step } = await stream.first('step')
  t.deepEqual(step.resumePoint!.latent!.shape, [...shape])
  t.notThrows(() => decodeLatent(step.resumePoint!.latent!))
  const { completed } = await stream.first('completed')
  t.deepEqual(completed.resumePoint!.latent!.shape, [...shape])
  stream.end()
})

test('an update that is wrong changes nothing and says so', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 0, options: { maxSteps: 100 } })
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  await stream.first('started')
  const wrong = [{ targetText: '' }, { parameters: { steps: 0 } }, { parameters: { steps: 101 } }]
  for (const update of wrong) stream.send('a', { update })
  scheduler.allow(10)
  const { completed } = await stream.first('completed')
  t.is(completed.resumePoint?.step, 5)
  const rejected = stream.all.flatMap(({ rejected }) => (rejected?.status == null ? [] : [fromStatus(rejected.status)]))
  t.deepEqual(
    rejected.map(({ status, field }) => [status, field]),
    [
      ['INVALID_ARGUMENT', 'target'],
      ['INVALID_ARGUMENT', 'steps'],
      ['INVALID_ARGUMENT', 'steps'],
    ],
  )
  stream.end()
})

test('a flood of updates whose answers are not acknowledged is refused', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 0 })
  const stream = peer.edit()
  stream.send('a', { start: startEdit({ stream: { windowBytes: 64 * 1024 } }) })
  await stream.first('started')
  for (let i = 0; i < 1000; i++) stream.send('a', { update: { targetText: `pear ${i}` } })
  const { rejected } = await stream.first('rejected')
  t.is(fromStatus(rejected.status!).status, 'RESOURCE_EXHAUSTED')
  scheduler.allow(10)
  await stream.first('completed')
  const watching = peer.stream('Attach', { editId: 'a' })
  await watching.over
  t.true(watching.all.length < 15, 'observers hear of the last ones')
  stream.end()
})

test('attaching an edit to its own stream repeats what was not acknowledged', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 1 })
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  await stream.first('step')
  stream.send('a', { attach: { afterSequence: 2 } })
  await stream.first('step', () => stream.all.filter(({ step }) => step?.step === 0).length === 2)
  scheduler.allow(10)
  stream.end()
  t.is(await stream.over, undefined)
  const numbers = stream.all.map(({ sequence }) => sequence)
  t.deepEqual(numbers, [1, 2, 3, 3, 4, 5, 6, 7, 8])
})

test('attaching to an edit whose end was acknowledged repeats its end', async (t) => {
  const { peer } = await serve(t)
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  const { sequence } = await stream.first('completed')
  stream.send('a', { acknowledge: { sequence } })
  stream.send('a', { ping: {} })
  await stream.first('pong')
  t.is(await peer.stream('RunEdit', { editId: 'b', start: startEdit() }).over, undefined)

  const late = peer.edit()
  for (const [id, afterSequence] of [
    ['a', 0],
    ['a', sequence],
    ['b', 0],
    ['b', 3],
  ] as const) {
    const before = late.all.length
    late.send(id, { attach: { afterSequence } })
    const again = await late.first('completed', (event) => late.all.indexOf(event) >= before)
    t.like(again, { editId: id, sequence })
    t.is(late.all.length, before + 1)
  }
  late.end()
  t.is(await late.over, undefined, 'nothing is waited for')
  stream.end()
})

test('watching an edit from its end on ends at once', async (t) => {
  const { peer } = await serve(t)
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  const { sequence } = await stream.first('completed')
  for (const afterSequence of [sequence, sequence + 5]) {
    const watching = peer.stream('Attach', { editId: 'a', afterSequence })
    t.is(await watching.over, undefined)
    t.deepEqual(watching.all, [])
  }
  stream.end()
})

test('commands for edits that are not there are answered, and touch none that is', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 0 })
  const [stream, other] = [peer.edit(), peer.edit()]
  stream.send('a', { start: startEdit() })
  await stream.first('started')
  for (let i = 0; i < 200; i++) other.send('a', { cancel: {} })
  for (const command of [{ accept: {} }, { pause: {} }, { acknowledge: { sequence: 5 } }, { attach: {} }]) {
    other.send('nowhere', command)
  }
  other.send('x', {})
  other.end()
  t.is(await other.over, undefined)
  const errors = other.all.map(({ rejected, sequence }) => {
    t.is(sequence, 0)
    return fromStatus(rejected!.status!)
  })
  t.is(errors.length, 205)
  t.true(errors.slice(0, 204).every(({ status }) => status === 'NOT_FOUND'))
  t.deepEqual(errors[0]!.resource, { type: 'edit', name: 'a' })
  t.is(errors[204]!.status, 'INVALID_ARGUMENT')
  scheduler.allow(10)
  await stream.first('completed')
  stream.end()
})

test('an id is used once', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 0 })
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  stream.send('a', { start: startEdit({ targetText: 'plum' }) })
  const { rejected, sequence } = await stream.first('rejected')
  t.is(sequence, 0)
  t.is(fromStatus(rejected.status!).status, 'ALREADY_EXISTS')
  await stream.first('started')
  scheduler.allow(10)
  await stream.first('completed')
  stream.send('a', { start: startEdit() })
  await peer.unary('GetServerInfo', {})
  t.is(scheduler.edits.length, 1)
  for (const id of ['with space', 'ü', 'x'.repeat(129), '../a']) stream.send(id, { start: startEdit() })
  stream.end()
  await stream.over
  const invalid = stream.all.slice(-4).map((event) => fromStatus(event.rejected!.status!).status)
  t.deepEqual(invalid, Array(4).fill('INVALID_ARGUMENT'))
  t.is(stream.all.filter(({ rejected }) => rejected !== undefined).length, 6)
})
