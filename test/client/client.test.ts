// The client library against real servers: events, commands, and going on after what breaks.
// The schedulers are fake ones, whose steps are deterministic: the same bits mean that nothing was lost.

import { EventEmitter, once } from 'node:events'
import { rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, type Socket, createConnection, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ServerWritableStream } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import {
  type ClientEvent,
  type ConnectOptions,
  type EditRun,
  type EditSummary,
  connect,
} from '../../src/client/client.js'
import { FlexitError, invalidArgument } from '../../src/engine/errors.js'
import type { EditEvent } from '../../src/proto/messages.js'
import { toStatus } from '../../src/proto/status.js'
import { serveOnly } from '../support-server/serve-only.js'
import { apple, latentLength, latentShape, serve } from '../support-server/start.js'

const request = { image: apple, source: 'red apple', target: 'tangerine', parameters: { steps: 40, seed: 3 } }

async function collect(run: EditRun, each: (event: ClientEvent) => void | Promise<void> = () => undefined) {
  const events: ClientEvent[] = []
  for await (const event of run) {
    events.push(event)
    await each(event)
  }
  return events
}

/** Passes bytes on, until all its connections are cut; `hush`: no more of them back to those that are connected. */
async function startProxy(t: ExecutionContext, target: number) {
  const sockets = new Set<Socket>()
  const backs = new Set<() => void>()
  const proxy = createServer((socket) => {
    const onwards = createConnection(target, '127.0.0.1')
    for (const end of [socket, onwards]) sockets.add(end.on('error', () => undefined))
    socket.pipe(onwards).pipe(socket)
    backs.add(() => onwards.unpipe(socket).pause())
  })
  const hush = () => backs.forEach((stop) => stop())
  const cut = () => sockets.forEach((socket) => socket.destroy())
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    cut()
    proxy.close()
  })
  return { port: (proxy.address() as AddressInfo).port, hush, cut }
}

const stepsOf = (events: readonly ClientEvent[]) =>
  events.flatMap((event) => (event.kind === 'step' ? [event.step] : []))
const upTo = (count: number) => Array.from({ length: count }, (_, i) => i)

function latentOf(events: readonly ClientEvent[]): Float32Array {
  const last = events.at(-1)
  if (last?.kind !== 'completed') throw new Error(`it ended with ${last?.kind ?? 'nothing'}`)
  return last.point.latent!
}

test('an edit, its events and its result', async (t) => {
  const { address } = await serve(t)
  const client = connect(address)
  t.teardown(() => client.close())
  const events = await collect(client.edit({ ...request, previews: { every: 10 }, latents: { every: 20 } }))
  t.deepEqual([...new Set(events.map(({ kind }) => kind))], ['accepted', 'started', 'step', 'completed'])
  t.deepEqual(stepsOf(events), upTo(40))
  const steps = events.flatMap((event) => (event.kind === 'step' ? [event] : []))
  t.deepEqual(
    steps.filter(({ preview }) => preview !== undefined).map(({ step }) => step),
    [0, 10, 20, 30],
  )
  t.deepEqual(
    steps.filter(({ point }) => point !== undefined).map(({ point }) => point!.step),
    [20, 40],
  )
  const { picture, point } = await client.edit(request).result()
  t.is(picture.format, 'png')
  t.deepEqual(point.latent, latentOf(events), 'the same request gives the same bits')
})

test('the result of an edit: as often as it is asked for, beside a loop and after it', async (t) => {
  const { address } = await serve(t)
  const client = connect(address)
  t.teardown(() => client.close())
  const alone = client.edit(request)
  const [first, again] = await Promise.all([alone.result(), alone.result()])
  t.is(first, again)
  t.throws(() => alone[Symbol.asyncIterator](), { code: 'FAILED_PRECONDITION' })

  const run = client.edit(request)
  let beside: Promise<unknown> | undefined
  const events = await collect(run, ({ kind }) => {
    if (kind === 'started') beside = run.result()
  })
  t.deepEqual(stepsOf(events), upTo(40), 'no event was taken from the loop')
  const last: unknown = events.at(-1)
  t.is(await beside, last)
  t.true((await run.result()) === last)
  await t.throwsAsync(collect(run), { code: 'FAILED_PRECONDITION' })

  const looped = client.edit(request)
  await collect(looped)
  t.is((await looped.result()).kind, 'completed')

  const left = client.edit(request)
  for await (const event of left) if (event.kind === 'started') break
  await t.throwsAsync(left.result(), { code: 'CANCELLED' })
})

test('cancel, accept, pause, resume and update', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 3 })
  const client = connect(address)
  t.teardown(() => client.close())
  const cancelled = client.edit({ ...request, id: 'mine' })
  const events = await collect(cancelled, ({ kind }) => {
    if (kind === 'step') cancelled.cancel()
  })
  t.is(events.at(-1)?.kind, 'cancelled')
  t.is((await client.getEdit('mine')).status, 'cancelled')

  const accepted = client.edit(request)
  const accept = await collect(accepted, (event) => {
    if (event.kind === 'step' && event.step === 2) {
      accepted.acceptAt(5)
      accepted.pause()
      accepted.update({ target: 'lemon' })
    }
    if (event.kind === 'updated') {
      scheduler.allow(100)
      accepted.resume()
    }
  })
  t.deepEqual(stepsOf(accept), upTo(5))
  t.true(accept.some((event) => event.kind === 'updated' && event.target === 'lemon'))
  const listed: string[] = []
  for await (const { editId, status } of client.listEdits()) listed.push(`${editId} ${status}`)
  t.deepEqual(listed, ['mine cancelled', `${accepted.id} completed`])
})

test('what a server and its edits say is in the forms that a request takes', async (t) => {
  const { address } = await serve(t)
  const client = connect(address)
  t.teardown(() => client.close())
  const { packs, limits } = await client.serverInfo()
  const { defaultParameters } = packs[0]!
  t.is(defaultParameters.preset, 'reference')
  t.deepEqual(
    Object.keys(defaultParameters).filter((name) => name.startsWith('_')),
    [],
  )
  t.is(limits.editsPerStream > 0, true)
  // Undefined is as good as left out.
  const seed: number | undefined = undefined
  const run = client.edit({ ...request, id: 'same', parameters: { ...defaultParameters, steps: 3, seed } })
  await run.result()
  t.like(await client.getEdit('same'), { editId: 'same', status: 'completed', step: 3, steps: 3 })
})

test('a single call ends with its signal, and a silent server is asked once, within its time', async (t) => {
  let asked = 0
  const address = await serveOnly(t, () => undefined, { GetEdit: () => asked++, ListEdits: () => asked++ })
  const client = connect(address)
  t.teardown(() => client.close())
  await t.throwsAsync(client.getEdit('mine', { timeoutMs: 3_000 }), {
    code: 'UNAVAILABLE',
    message: 'the server cannot be reached: it did not answer in time',
  })
  t.is(asked, 1)
  const stopping = new AbortController()
  const given = client.getEdit('mine', { signal: stopping.signal })
  stopping.abort()
  await t.throwsAsync(given, { code: 'CANCELLED' })
  await t.throwsAsync(client.serverInfo({ signal: stopping.signal }), { code: 'CANCELLED' })
  await t.throwsAsync(client.getEdit('mine', { timeoutMs: NaN }), { code: 'INVALID_ARGUMENT' })
})

test('a state goes on to the same bits', async (t) => {
  const { address } = await serve(t)
  const client = connect(address)
  t.teardown(() => client.close())
  const whole = await collect(client.edit({ ...request, latents: {} }))
  const middle = whole.find((event) => event.kind === 'step' && event.point?.step === 17)
  t.truthy(middle)
  const resumeFrom = middle?.kind === 'step' ? middle.point! : undefined
  const rest = await collect(client.edit({ ...request, resumeFrom: resumeFrom! }))
  t.deepEqual(stepsOf(rest), upTo(40).slice(17))
  t.deepEqual(latentOf(rest), latentOf(whole))

  const still = client.edit(request)
  still.acceptAt(0)
  const { point } = await still.result()
  t.like(point, { step: 0, latent: undefined })
  const saved = { ...point, latent: new Float32Array(latentLength), shape: [...latentShape] }
  for (const from of [point, saved]) {
    t.deepEqual(latentOf(await collect(client.edit({ ...request, resumeFrom: from }))), latentOf(whole))
  }
})

test('what is wrong with a request is an event, with its field and its cure', async (t) => {
  const { address } = await serve(t)
  const client = connect(address)
  t.teardown(() => client.close())
  const [event] = await collect(client.edit({ ...request, parameters: { steps: 0 } }))
  t.like(event, { kind: 'failed', error: { status: 'INVALID_ARGUMENT', field: 'steps' } })
  await t.throwsAsync(client.edit({ ...request, image: Buffer.from('no picture') }).result(), {
    code: 'INVALID_ARGUMENT',
    message: /looks like text/,
  })
  await t.throwsAsync(client.getEdit('nowhere'), { code: 'NOT_FOUND' })
})

test('an edit id that is not allowed fails the edit, and nothing is sent', async (t) => {
  const { address, scheduler } = await serve(t)
  const client = connect(address)
  t.teardown(() => client.close())
  for (const id of ['my edit', 'a/b', '', 'x'.repeat(121)]) {
    const run = client.edit({ ...request, id })
    run.cancel()
    const events = await collect(run)
    t.is(events.length, 1)
    t.like(events[0], { kind: 'failed', error: { status: 'INVALID_ARGUMENT', field: 'id' } })
    await t.throwsAsync(client.edit({ ...request, id }).result(), { code: 'INVALID_ARGUMENT' })
  }
  t.is(scheduler.admitted.length, 0)
  const longest = client.edit({ ...request, id: 'x'.repeat(120) })
  t.is((await longest.result()).statistics.steps, 40)
})

test('options that are wrong are refused when the client is made, and no message holds the token', async (t) => {
  const file = join(tmpdir(), `flexit-no-pem-${process.pid}`)
  await writeFile(file, 'no certificate')
  t.teardown(() => rm(file))
  const wrong: [string | undefined, unknown][] = [
    ['token', { token: 'secret\n' }],
    ['token', { token: 12345 }],
    ['balancing', { balancing: 'foo' }],
    ['tls.key', { tls: { cert: file } }],
    ['tls.cert', { tls: { key: file } }],
    ['tls', { tls: 'yes' }],
    ['tls', { tls: null }],
    ['tls', { tls: { cert: file, key: file } }],
    ['tls.pem', { tls: { pem: file } }],
    ['startMs', { startMs: NaN }],
    ['startMs', { startMs: -1 }],
    ['reconnectMs', { reconnectMs: '5' }],
    ['keepaliveMs', { keepaliveMs: 0 }],
    ['patience', { patience: 5 }],
    ['options', null],
  ]
  for (const [field, options] of wrong) {
    const error = t.throws(() => connect('localhost:1', options as ConnectOptions), { instanceOf: FlexitError })
    t.like(error, { code: 'INVALID_ARGUMENT', field })
    t.notRegex(`${error.message} ${error.cure}`, /secret|12345/)
  }
  for (const servers of [undefined, null, 5, [5], [undefined], []]) {
    t.throws(() => connect(servers as unknown as string), { code: 'INVALID_ARGUMENT' })
  }
})

test('an endless patience ends no edit', async (t) => {
  const { address } = await serve(t)
  const client = connect(address, { tls: false, keepaliveMs: Infinity, startMs: Infinity, reconnectMs: Infinity })
  t.teardown(() => client.close())
  t.is((await client.edit(request).result()).statistics.steps, 40)
})

test('what is no request at all fails the edit', async (t) => {
  const client = connect('127.0.0.1:1')
  t.teardown(() => client.close())
  for (const none of [undefined, null, 5]) {
    const events = await collect(client.edit(none as unknown as typeof request))
    t.is(events.length, 1)
    t.like(events[0], { kind: 'failed', error: { status: 'INVALID_ARGUMENT', field: 'request' } })
  }
})

test('a step to accept that is no step is rejected, and the edit goes on', async (t) => {
  const { address } = await serve(t)
  const client = connect(address)
  t.teardown(() => client.close())
  const run = client.edit(request)
  for (const step of [NaN, 'x', 2.5, -1, 2 ** 32]) run.acceptAt(step as number)
  const events = await collect(run)
  const rejected = events.flatMap((event) => (event.kind === 'rejected' ? [event.error.field] : []))
  t.deepEqual(rejected, Array(5).fill('step'))
  t.is(events.at(-1)?.kind, 'completed')
  t.deepEqual(stepsOf(events), upTo(40))
})

test('what the wire would change or leave out fails the edit, and nothing is sent', async (t) => {
  const { address, scheduler } = await serve(t)
  const client = connect(address)
  t.teardown(() => client.close())
  const wrong: [string, object][] = [
    ['image', { image: 'apple.png' }],
    ['image', { image: undefined }],
    ['source', { source: 5 }],
    ['preset', { parameters: { preset: 'Paper' } }],
    ['steps', { parameters: { steps: 2.7 } }],
    ['steps', { parameters: { steps: -1 } }],
    ['seed', { parameters: { seed: 1.5 } }],
    ['lambdaZ', { parameters: { lambdaZ: '0.1' } }],
    ['networks', { parameters: { networks: 'rn50' } }],
    ['networks', { parameters: { networks: Array(257).fill('rn') } }],
    ['networks', { parameters: { networks: ['r'.repeat(257)] } }],
    ['step', { parameters: { step: 3 } }],
    ['toString', { parameters: { toString: 3 } }],
    ['parameters', { parameters: 'steps' }],
    ['resumeFrom.step', { resumeFrom: { latent: new Float32Array(1), shape: [1], packDigest: '' } }],
    ['resumeFrom.latent', { resumeFrom: { step: 1, latent: [1], shape: [1], packDigest: '' } }],
    ['stepEvery', { stepEvery: 0.5 }],
    ['previews.format', { previews: { format: 'gif' } }],
    ['latents.type', { latents: { type: 'f16' } }],
    ['windowBytes', { windowBytes: -5 }],
    ['priority', { priority: 'urgent' }],
    ['deadlineMs', { deadlineMs: NaN }],
    ['preview', { preview: { every: 3 } }],
  ]
  for (const [field, changes] of wrong) {
    const events = await collect(client.edit({ ...request, ...changes }))
    t.is(events.length, 1)
    t.like(events[0], { kind: 'failed', error: { status: 'INVALID_ARGUMENT', field } })
  }
  t.is(scheduler.admitted.length, 0)
  const run = client.edit({ ...request, priority: 'batch', windowBytes: 2 ** 20, deadlineMs: Infinity })
  t.is((await run.result()).statistics.steps, 40)
})

test('an update that the wire would change is rejected, and the edit goes on', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 1 })
  const client = connect(address)
  t.teardown(() => client.close())
  const run = client.edit(request)
  const events = await collect(run, (event) => {
    if (event.kind === 'started') run.update({ parameters: { steps: 41.5 } })
    if (event.kind === 'rejected') scheduler.allow(100)
    // While nothing else is to come.
    if (event.kind === 'step' && event.step === 0) setImmediate(() => run.update({ target: 5 as unknown as string }))
  })
  const rejected = events.filter(({ kind }) => kind === 'rejected')
  t.like(rejected, [{ error: { status: 'INVALID_ARGUMENT', field: 'steps' } }, { error: { field: 'target' } }])
  t.is(events.at(-1)?.kind, 'completed')
  t.deepEqual(stepsOf(events), upTo(40))
})

test('a server that allows fewer ids fails the edit', async (t) => {
  const address = await serveOnly(t, ({ editId = '', start }, call) => {
    if (start === undefined) return
    const status = toStatus(invalidArgument('edit_id', 'the edit id is too long'))
    call.write({ editId, sequence: 0, droppedPreviews: 0, rejected: { status } })
  })
  const client = connect(address)
  t.teardown(() => client.close())
  const events = await collect(client.edit(request))
  t.is(events.length, 1)
  t.like(events[0], { kind: 'failed', error: { status: 'INVALID_ARGUMENT', field: 'id' } })
})

test('parameters that only a newer server knows are left out', async (t) => {
  const newer = { preset: 7 as unknown as 'PRESET_PAPER', networks: [], steps: 3 }
  const address = await serveOnly(t, ({ editId = '', start }, call) => {
    if (start === undefined) return
    call.write({ editId, sequence: 1, droppedPreviews: 0, accepted: { uid: 'x', position: 0, parameters: newer } })
    call.write({ editId, sequence: 2, droppedPreviews: 0, cancelled: { resumePoint: null, abandoned: false } })
  })
  const client = connect(address)
  t.teardown(() => client.close())
  const events = await collect(client.edit(request))
  t.like(events[0], { kind: 'accepted', parameters: { steps: 3 } })
  t.is(events.at(-1)?.kind, 'cancelled')
})

test('an event that cannot be read fails the edit, and cancels it where it goes on', async (t) => {
  const latent = { shape: [2, 2], type: 'NUMBER_TYPE_FLOAT32' as const, data: new Uint8Array(3) }
  const resumePoint = { step: 1, latent, packDigest: '' }
  const wrong: Partial<EditEvent>[] = [
    { cancelled: { resumePoint, abandoned: true } },
    { updated: { targetText: 'b', parameters: null, resumePoint, number: 1 } },
    { handedBack: { state: { image: apple, sourceText: 'a', targetText: 'b', parameters: null, resumePoint } } },
    { completed: { picture: null, resumePoint: null, statistics: null } },
  ]
  for (const event of wrong) {
    const cancelled = new EventEmitter()
    const isCancelled = once(cancelled, 'cancelled')
    const address = await serveOnly(t, ({ editId = '', start, cancel }, call) => {
      if (cancel !== undefined) cancelled.emit('cancelled')
      if (start !== undefined) call.write({ editId, sequence: 1, droppedPreviews: 0, ...event })
    })
    const client = connect(address)
    t.teardown(() => client.close())
    const run = client.edit(request)
    const events = await collect(run)
    t.like(events.at(-1), { kind: 'failed', error: { status: 'DATA_LOSS' } })
    await t.throwsAsync(run.result(), { message: /^the server sent what cannot be read: / })
    if (event.updated !== undefined) await isCancelled
  }
})

test('an event that cannot be read ends the watching with an error, and is not passed over', async (t) => {
  const summary = {
    editId: 'mine',
    uid: 'x',
    status: 'EDIT_STATUS_RUNNING',
    step: 0,
    steps: 2,
    sequence: 1,
    createTimeMs: 0,
  }
  const attach = (call: ServerWritableStream<unknown, EditEvent>) => {
    call.write({ editId: 'mine', sequence: 1, droppedPreviews: 0, started: {} })
    call.write({
      editId: 'mine',
      sequence: 2,
      droppedPreviews: 0,
      completed: { picture: null, resumePoint: null, statistics: null },
    })
    call.end()
  }
  const address = await serveOnly(t, () => undefined, {
    GetEdit: (_: unknown, answer: (error: null, summary: object) => void) => answer(null, summary),
    Attach: attach,
  })
  const client = connect(address)
  t.teardown(() => client.close())
  const kinds: string[] = []
  const watching = async () => {
    for await (const { kind } of client.attach('mine')) kinds.push(kind)
  }
  await t.throwsAsync(watching(), { code: 'DATA_LOSS' })
  t.deepEqual(kinds, ['started'])
})

test('patience is for a server that cannot be reached, not for an edit that waits through several connections', async (t) => {
  let attached = 0
  const address = await serveOnly(t, ({ editId = '', start, attach }, call) => {
    const head = { editId, sequence: 1, droppedPreviews: 0 }
    if (start !== undefined) call.write({ ...head, accepted: { uid: 'x', position: 0, parameters: null } })
    else if (attach === undefined) return
    else if (attached++ < 5) call.write({ ...head, sequence: 0, pong: {} })
    else call.write({ ...head, sequence: 2, cancelled: { resumePoint: null, abandoned: false } })
    call.end()
  })
  const client = connect(address, { reconnectMs: 1 })
  t.teardown(() => client.close())
  const events = await collect(client.edit(request))
  t.deepEqual(
    events.map(({ kind }) => kind),
    ['accepted', 'resumed', 'cancelled'],
  )
})

test('no server: an error, after every address was tried', async (t) => {
  const client = connect(['127.0.0.1:1', '127.0.0.1:2'], { startMs: 0 })
  t.teardown(() => client.close())
  const events = await collect(client.edit(request))
  t.is(events.length, 1)
  t.like(events[0], { kind: 'failed', error: { status: 'UNAVAILABLE' } })
  t.throws(() => connect('nowhere'), { code: 'INVALID_ARGUMENT' })
})

test('a server that drains hands the edit back, and it goes on at the next to the same bits', async (t) => {
  const [first, second] = [await serve(t, { allowed: 13 }), await serve(t)]
  const alone = connect(second.address)
  const client = connect([first.address, second.address], { balancing: 'pick_first' })
  t.teardown(() => {
    alone.close()
    client.close()
  })
  const whole = await collect(alone.edit(request))

  let drained: Promise<void> | undefined
  const events = await collect(client.edit(request), (event) => {
    if (event.kind === 'step' && event.step === 12) drained = first.server.drain()
  })
  await drained
  t.deepEqual(stepsOf(events), upTo(40), 'steps neither repeat nor skip')
  t.deepEqual(
    events.flatMap((event) => (event.kind === 'resumed' ? [event.step] : [])),
    [13],
  )
  t.deepEqual(latentOf(events), latentOf(whole))
  t.deepEqual(
    second.scheduler.admitted.map(({ begun }) => begun),
    [false, true],
  )
})

test('a server that is gone: from the last latent, on another one, to the same bits', async (t) => {
  const [first, second] = [await serve(t, { allowed: 21 }), await serve(t)]
  const alone = connect(second.address)
  const client = connect([first.address, second.address], { balancing: 'pick_first' })
  t.teardown(() => {
    alone.close()
    client.close()
  })
  const whole = await collect(alone.edit(request))
  const events = await collect(client.edit(request), (event) => {
    if (event.kind === 'step' && event.step === 20) first.server.kill()
  })
  t.deepEqual(stepsOf(events), upTo(40))
  t.deepEqual(latentOf(events), latentOf(whole))
  t.is(second.scheduler.edits[1]!.first, 16, 'it went on from the last latent, not from the beginning')
})

test('a connection that breaks: the same edit is attached again', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 11 })
  const proxy = await startProxy(t, Number(address.split(':')[1]))
  const client = connect(`127.0.0.1:${proxy.port}`)
  t.teardown(() => client.close())
  const events = await collect(client.edit(request), (event) => {
    if (event.kind === 'step' && event.step === 10) {
      proxy.cut()
      scheduler.allow(100)
    }
  })
  t.deepEqual(stepsOf(events), upTo(40))
  t.is(events.filter(({ kind }) => kind === 'accepted').length, 1)
  t.deepEqual(
    events.flatMap((event) => (event.kind === 'resumed' ? [event.step] : [])),
    [11],
  )
  t.is(scheduler.edits.length, 1, 'it was not started twice')
})

test('an edit that somebody else cancels after its connection broke is not started again', async (t) => {
  const { address, scheduler, peer } = await serve(t, { allowed: 11 })
  const proxy = await startProxy(t, Number(address.split(':')[1]))
  const client = connect(`127.0.0.1:${proxy.port}`)
  t.teardown(() => client.close())
  const events = await collect(client.edit({ ...request, id: 'mine' }), async (event) => {
    if (event.kind === 'step' && event.step === 10) {
      proxy.cut()
      scheduler.allow(1)
    }
    if (event.kind === 'resumed') await peer.unary('CancelEdit', { editId: 'mine' })
  })
  t.is(events.at(-1)?.kind, 'cancelled')
  t.is(scheduler.edits.length, 1)
})

test('an edit whose server gave it up while the connection was broken goes on', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 11, options: { disconnectGraceMs: 0 } })
  const proxy = await startProxy(t, Number(address.split(':')[1]))
  const client = connect(`127.0.0.1:${proxy.port}`)
  t.teardown(() => client.close())
  const events = await collect(client.edit(request), async (event) => {
    if (event.kind !== 'step' || event.step !== 10) return
    proxy.cut()
    await scheduler.edits[0]!.ended
    scheduler.allow(100)
  })
  t.is(events.at(-1)?.kind, 'completed')
  t.deepEqual(stepsOf(events), upTo(40))
  t.is(scheduler.edits.length, 2)
})

test('an edit that was given up and started anew is cancelled where it goes on', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 11, options: { disconnectGraceMs: 0 } })
  const proxy = await startProxy(t, Number(address.split(':')[1]))
  const [client, asking] = [connect(`127.0.0.1:${proxy.port}`), connect(address)]
  t.teardown(() => {
    client.close()
    asking.close()
  })
  let answer: Promise<EditSummary> | undefined
  const events = await collect(client.edit({ ...request, id: 'mine' }), async (event) => {
    if (event.kind !== 'step') return
    if (event.step === 10) {
      proxy.cut()
      await scheduler.edits[0]!.ended
    }
    if (event.step === 18) answer = asking.cancelEdit('mine')
  })
  t.is(events.at(-1)?.kind, 'cancelled')
  t.is((await answer)?.editId, 'mine:1')
})

test('an edit whose client is closed before it hears of a hand-back fails', async (t) => {
  const { address, scheduler, peer } = await serve(t, { allowed: 0 })
  const client = connect(address)
  const run = client.edit({ ...request, id: 'mine' })
  const iterator = run[Symbol.asyncIterator]()
  t.is((await iterator.next()).value?.kind, 'accepted')
  scheduler.handBack()
  await peer.stream('Attach', { editId: 'mine' }).first('handedBack')
  // On the same connection: what the server sent before has come.
  t.is((await client.getEdit('mine')).status, 'handed_back')
  client.close()
  const events: ClientEvent[] = []
  for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) events.push(next.value)
  t.like(events.at(-1), { kind: 'failed', error: { status: 'CANCELLED' } })
})

test('what was paused and is resumed while the connection is broken goes on', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 11 })
  const proxy = await startProxy(t, Number(address.split(':')[1]))
  const client = connect(`127.0.0.1:${proxy.port}`)
  t.teardown(() => client.close())
  const run = client.edit(request)
  const events = await collect(run, (event) => {
    if (event.kind === 'step' && event.step === 10) {
      run.pause()
      // Its answer says that the pause before it arrived.
      run.update({ target: 'lemon' })
    }
    if (event.kind !== 'updated') return
    scheduler.allow(100)
    proxy.cut()
    run.resume()
  })
  t.is(events.at(-1)?.kind, 'completed')
  t.deepEqual(stepsOf(events), upTo(40))
  t.is(scheduler.edits.length, 1, 'it was attached again')
})

test('the answer to an update that is lost with its connection comes once', async (t) => {
  const { address, peer, scheduler } = await serve(t, { allowed: 11 })
  const proxy = await startProxy(t, Number(address.split(':')[1]))
  const client = connect(`127.0.0.1:${proxy.port}`)
  t.teardown(() => client.close())
  const run = client.edit({ ...request, id: 'mine' })
  const events = await collect(run, async (event) => {
    if (event.kind !== 'step' || event.step !== 10) return
    proxy.hush()
    run.update({ target: 'lemon' })
    await peer.stream('Attach', { editId: 'mine' }).first('updated')
    proxy.cut()
    scheduler.allow(100)
  })
  t.is(events.at(-1)?.kind, 'completed')
  t.deepEqual(
    events.flatMap((event) => (event.kind === 'updated' ? [event.target] : [])),
    ['lemon'],
  )
})

test('cancelling while no server can be reached ends the edit here', async (t) => {
  const { address, server } = await serve(t, { allowed: 13 })
  const client = connect(address)
  t.teardown(() => client.close())
  const run = client.edit(request)
  const events = await collect(run, (event) => {
    if (event.kind !== 'step' || event.step !== 12) return
    server.kill()
    run.cancel()
  })
  const last = events.at(-1)
  t.is(last?.kind, 'cancelled')
  if (last?.kind === 'cancelled') t.is(last.point?.step, 8, 'with the last latent that came')
})

test('a loop that is left cancels its edit', async (t) => {
  const { address, scheduler, peer } = await serve(t, { allowed: 1 })
  const client = connect(address)
  t.teardown(() => client.close())
  const run = client.edit(request)
  for await (const event of run) if (event.kind === 'step') break
  const watching = peer.stream('Attach', { editId: run.id })
  t.truthy(await watching.first('cancelled'))
  t.is(scheduler.edits[0]!.state.step, 1)
})

test('a signal cancels its edit; aborted before, nothing is sent', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 1 })
  const client = connect(address)
  t.teardown(() => client.close())
  const stopping = new AbortController()
  const { signal } = stopping
  const events = await collect(client.edit({ ...request, signal }), ({ kind }) => {
    if (kind === 'step') stopping.abort()
  })
  t.is(events.at(-1)?.kind, 'cancelled')
  t.deepEqual(await collect(client.edit({ ...request, signal })), [{ kind: 'cancelled', point: undefined }])
  t.is(scheduler.admitted.length, 1)
})

test('an iterator that is left before its first event cancels its edit, too', async (t) => {
  const { address, scheduler, peer } = await serve(t, { allowed: 0 })
  const client = connect(address)
  t.teardown(() => client.close())
  const run = client.edit(request)
  while (scheduler.asked < 1) await peer.unary('GetServerInfo', {})
  t.true((await run[Symbol.asyncIterator]().return?.())?.done)
  t.truthy(await peer.stream('Attach', { editId: run.id }).first('cancelled'))
})

test('an iterator that is left while it waits does not wait for its next event', async (t) => {
  // It does not even take note of the cancel.
  const address = await serveOnly(t, ({ editId = '', start }, call) => {
    if (start === undefined) return
    call.write({ editId, sequence: 1, droppedPreviews: 0, accepted: { uid: 'x', position: 0, parameters: null } })
  })
  const client = connect(address)
  t.teardown(() => client.close())
  const iterator = client.edit(request)[Symbol.asyncIterator]()
  t.is((await iterator.next()).value?.kind, 'accepted')
  const next = iterator.next()
  t.true((await iterator.return?.())?.done)
  t.true((await next).done)
})

test('an edit that ends while nobody takes its events keeps no stream', async (t) => {
  const closed = new EventEmitter()
  const address = await serveOnly(t, ({ editId = '', cancel }, call) => {
    if (cancel === undefined) return
    call.on('end', () => closed.emit('closed'))
    const cancelled = { resumePoint: null, abandoned: false }
    call.write({ editId, sequence: 1, droppedPreviews: 0, cancelled })
  })
  const client = connect(address, { keepaliveMs: 3_600_000 })
  t.teardown(() => client.close())
  const end = once(closed, 'closed')
  const run = client.edit(request)
  run.cancel()
  await end
  t.like(await collect(run), [{ kind: 'cancelled' }], 'they can be taken later')
})

test('previews that were left out are told, though not every step is', async (t) => {
  const address = await serveOnly(t, ({ editId = '', start }, call) => {
    if (start === undefined) return
    const step = { losses: null, similaritySource: 0, similarityTarget: 0 }
    const dropped = [0, 2, 2, 5, 6]
    dropped.forEach((droppedPreviews, i) => {
      call.write({ editId, sequence: i + 1, droppedPreviews, step: { ...step, step: i } })
    })
    call.write({ editId, sequence: 6, droppedPreviews: 6, cancelled: { resumePoint: null, abandoned: false } })
  })
  const client = connect(address)
  t.teardown(() => client.close())
  const events = await collect(client.edit({ ...request, stepEvery: 2, previews: { every: 2 } }))
  t.deepEqual(
    events.flatMap((event) => (event.kind === 'step' ? [[event.step, event.droppedPreviews]] : [])),
    [
      [0, 0],
      [2, 2],
      [4, 4],
    ],
  )
})

test('an application that is slow hears of every loss and the newest preview', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 0 })
  const client = connect(address)
  t.teardown(() => client.close())
  const run = client.edit({ ...request, previews: { format: 'png' }, windowBytes: 64 * 1024 })
  let dropped = 0
  const events = await collect(run, async (event) => {
    if (event.kind === 'started') {
      scheduler.allow(40)
      await scheduler.edits[0]!.ended
    }
    if (event.kind === 'step') dropped += event.droppedPreviews
  })
  t.deepEqual(stepsOf(events), upTo(40))
  const bare = events.filter((event) => event.kind === 'step' && event.preview === undefined).length
  t.true(bare > 10, `${bare} previews were left out`)
  t.is(dropped, bare)
})
