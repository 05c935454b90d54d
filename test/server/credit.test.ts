// Slow readers: what is left out for them, what waits for them, and what always arrives.
// The rules are those of StreamOptions.window_bytes in proto/flexit/v1/editor.proto.

import { EventEmitter } from 'node:events'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Metadata } from '@grpc/grpc-js'
import test from 'ava'
import type { EditEvent, EditRequest } from '../../src/proto/messages.js'
import { type EditCall, serveEditStream } from '../../src/server/edit-stream.js'
import { Allowance } from '../../src/server/allowance.js'
import { resolveOptions } from '../../src/server/options.js'
import { type EditMessage, Outbox, type Sink } from '../../src/server/outbox.js'
import { FakeScheduler } from '../support-server/fake-scheduler.js'
import { Peer, kindOf } from '../support-server/peer.js'
import { latentLength, newDesk, serve, startEdit } from '../support-server/start.js'

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

/** An outbox whose events weigh as much as their previews, and how many previews it left out. */
function newOutbox() {
  const dropped: number[] = []
  const outbox = new Outbox(windowBytes, {
    onBytes: () => undefined,
    onDropped: () => dropped.push(1),
    onCredit: () => undefined,
  })
  const push = (sequence: number, preview?: () => Promise<number>, terminal = false) => {
    const head = { editId: 'a', sequence, droppedPreviews: 0 }
    const step = { step: 0, losses: null, similaritySource: 0, similarityTarget: 0 }
    const bare: EditEvent = terminal ? { ...head, failed: { status: null } } : { ...head, step }
    const format = 'PICTURE_FORMAT_PNG'
    const whole = async () => ({
      ...head,
      step: { ...step, preview: { format, data: new Uint8Array(await preview!()) } },
    })
    const pictures = preview === undefined ? {} : { pictures: { event: whole, estimatedBytes: windowBytes } }
    outbox.push({ sequence, bare, terminal, ...pictures } as EditMessage)
  }
  return { outbox, push, dropped }
}

/** What a sink was given, as `SEQUENCE` or with its preview `SEQUENCE+`; each write ends when the test lets it. */
function newSink(acknowledges: boolean) {
  const heard: string[] = []
  const writes: (() => void)[] = []
  const write = ({ sequence, step }: EditEvent) => {
    heard.push(`${sequence}${step?.preview == null ? '' : '+'}`)
    return new Promise<void>((resolve) => writes.push(resolve))
  }
  const sink: Sink = { acknowledges, write, ended: () => heard.push('ended'), lost: () => heard.push('lost') }
  const taken = async () => {
    for (const resolve of writes.splice(0)) resolve()
    await new Promise(setImmediate)
  }
  return { sink, heard, taken }
}

test('who takes over does not wait for what the reader before does not take', async (t) => {
  for (const acknowledges of [true, false]) {
    const { outbox, push } = newOutbox()
    const [before, after] = [newSink(acknowledges), newSink(acknowledges)]
    outbox.attach(before.sink, 0)
    for (const sequence of [1, 2]) push(sequence)
    t.deepEqual(before.heard, ['1'])
    outbox.attach(after.sink, 0)
    t.deepEqual(after.heard, ['1'])
    push(3, undefined, true)
    await before.taken()
    t.deepEqual(after.heard, ['1'], 'the old write moves nothing')
    const all = outbox.bytes
    for (let i = 0; i < 3; i++) await after.taken()
    t.deepEqual(after.heard, ['1', '2', '3', 'ended'], 'nothing is lost or told twice')
    t.deepEqual(before.heard, ['1', 'lost'])
    t.is(outbox.bytes, acknowledges ? 0 : all)
    outbox.acknowledge(3)
    t.is(outbox.bytes, 0)
  }
})

test('the credit of who takes over is its own', async (t) => {
  const { outbox, push } = newOutbox()
  const [before, after] = [newSink(false), newSink(false)]
  outbox.attach(before.sink, 0)
  push(1, () => Promise.resolve(windowBytes))
  await before.taken()
  push(2, () => Promise.resolve(windowBytes))
  t.deepEqual(before.heard, ['1+'])
  outbox.attach(after.sink, 0)
  await after.taken()
  await before.taken()
  await after.taken()
  t.deepEqual(after.heard, ['1+'], 'the window is full')
  outbox.acknowledge(1)
  await after.taken()
  t.deepEqual(after.heard, ['1+', '2+'])
  outbox.acknowledge(2)
  t.is(outbox.bytes, 0)
})

test('what is encoded for who takes over keeps its picture, though the encoding for the one before ends', async (t) => {
  const { outbox, push, dropped } = newOutbox()
  const [before, after] = [newSink(false), newSink(false)]
  let [onFirst, onSecond] = [() => {}, () => {}]
  const first = new Promise<number>((resolve) => (onFirst = () => resolve(1)))
  const second = new Promise<number>((resolve) => (onSecond = () => resolve(1)))
  const asked = [Promise.resolve(1), first]
  outbox.attach(before.sink, 0)
  push(1, () => asked.shift()!)
  await before.taken()
  push(2, () => second)
  await before.taken()
  outbox.attach(after.sink, 0)
  onSecond()
  await before.taken()
  push(3, () => Promise.resolve(1))
  t.is(dropped.length, 1, 'of the second one only')
  onFirst()
  for (let i = 0; i < 4; i++) await after.taken()
  t.deepEqual(after.heard, ['1+', '2', '3+'])
  t.deepEqual(before.heard, ['1+', 'lost'])
})

test('an edit is taken over from a client that reads no more', async (t) => {
  const { peer, scheduler, address } = await serve(t, { allowed: 0 })
  const stream = peer.edit()
  const previews = { picture: { format: 'PICTURE_FORMAT_PNG', size: 512 } } as const
  const start = startEdit({ parameters: { steps }, stream: { previews, windowBytes: 8 * 1024 ** 2 } })
  stream.send('a', { start })
  await stream.first('started')
  stream.pause()
  scheduler.allow(steps)
  const other = new Peer(address)
  t.teardown(() => other.close())
  await other.stream('Attach', { editId: 'a' }).first('completed')
  const again = other.edit()
  again.send('a', { attach: { afterSequence: 2 } })
  await again.first('completed')
  t.deepEqual(
    again.all.map(({ sequence }) => sequence),
    Array.from({ length: steps + 1 }, (_, i) => i + 3),
  )
  again.end()
  stream.cancel()
})

/** A call whose client reads nothing until the test lets it. */
class UnreadCall extends EventEmitter {
  readonly metadata = new Metadata()
  readonly written: EditEvent[] = []
  readonly #requests: AsyncIterable<EditRequest>
  #taken: (() => void)[] = []

  constructor(requests: AsyncIterable<EditRequest>) {
    super()
    this.#requests = requests
  }

  iterator(): AsyncIterable<EditRequest> {
    return this.#requests
  }

  write(event: EditEvent, taken: () => void): void {
    this.written.push(event)
    this.#taken.push(taken)
    this.emit('written', event)
  }

  end(): void {
    this.emit('finish')
  }

  read(): void {
    for (const taken of this.#taken.splice(0)) taken()
  }
}

test('what is attached again and again does not pile up for a client that does not read', async (t) => {
  const scheduler = new FakeScheduler({ length: latentLength })
  let onCompleted = () => {}
  const completed = new Promise<void>((resolve) => (onCompleted = resolve))
  async function* requests(): AsyncGenerator<EditRequest> {
    const result = { format: 'PICTURE_FORMAT_PNG', size: 2048 } as const
    yield { editId: 'a', start: startEdit({ stream: { result } }) }
    await completed
    for (let i = 0; i < 10; i++) yield { editId: 'a', attach: { afterSequence: 7 } }
  }
  const call = new UnreadCall(requests())
  call.on('written', (event: EditEvent) => {
    if (event.completed !== undefined) onCompleted()
  })
  const options = resolveOptions({ flags: {}, environment: {} })
  void serveEditStream(call as unknown as EditCall, {
    desk: newDesk(scheduler),
    options,
    tenant: 'x',
    allowance: new Allowance(Infinity, Infinity),
    authenticate: () => undefined,
  })
  await completed
  const { sequence, completed: last } = call.written.at(-1)!
  t.is(sequence, 8)
  t.true(last!.picture!.data.length > 1024 ** 2)
  const pictures = () => call.written.filter((event) => event.completed !== undefined).length
  for (const expected of [1, 2, 3]) {
    for (let i = 0; i < 10; i++) await new Promise(setImmediate)
    t.is(pictures(), expected)
    call.read()
  }
  call.end()
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

test('a client that half-closed its stream cannot acknowledge: what the transport takes makes room', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 0 })
  const start = startEdit({ parameters: { steps: 60 }, stream: { latents: { lossless: true }, windowBytes } })
  const stream = peer.edit()
  stream.send('a', { start })
  await stream.first('started')
  scheduler.allow(60)
  // More than the window came, and the edit waits.
  await stream.first('step', ({ step }) => step!.resumePoint!.step * latentLength * 4 >= windowBytes)
  stream.end()
  t.is(await stream.over, undefined)
  t.is(stream.all.filter(({ step }) => step?.resumePoint != null).length, 60)
  t.is(kindOf(stream.all.at(-1)!), 'completed')

  const atOnce = peer.edit()
  atOnce.send('b', { start })
  atOnce.end()
  await atOnce.first('started')
  scheduler.allow(60)
  t.is(await atOnce.over, undefined)
  t.is(kindOf(atOnce.all.at(-1)!), 'completed')
})
