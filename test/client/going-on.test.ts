// The client library where servers come and go: what the application sees is one edit, to the same bits.
// The schedulers are fake ones, whose steps are deterministic.

import { writeFile } from 'node:fs/promises'
import { type Socket, type AddressInfo, createConnection, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Metadata, status as codes } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import {
  type ClientEvent,
  type ConnectOptions,
  type EditRun,
  type EditSummary,
  connect,
} from '../../src/client/client.js'
import { callError } from '../../src/client/channel.js'
import { toDeadline } from '../../src/client/request.js'
import { answerWithin, nextTry } from '../../src/client/retry.js'
import type { StartEdit } from '../../src/proto/messages.js'
import { WireError, toStatus } from '../../src/proto/status.js'
import { serveOnly } from '../support-server/serve-only.js'
import { apple, serve, startEdit } from '../support-server/start.js'

const request = { image: apple, source: 'red apple', target: 'tangerine', parameters: { steps: 40, seed: 3 } }
const unreachable = '127.0.0.1:1'

async function collect(run: EditRun, each: (event: ClientEvent) => void = () => undefined) {
  const events: ClientEvent[] = []
  for await (const event of run) {
    events.push(event)
    each(event)
  }
  return events
}

function clientOf(t: ExecutionContext, servers: string | string[], options: ConnectOptions = {}) {
  const client = connect(servers, options)
  t.teardown(() => client.close())
  return client
}

const stepsOf = (events: readonly ClientEvent[]) =>
  events.flatMap((event) => (event.kind === 'step' ? [event.step] : []))
const countOf = (events: readonly ClientEvent[], kind: ClientEvent['kind']) =>
  events.filter((event) => event.kind === kind).length
const all = Array.from({ length: 40 }, (_, i) => i)

function latentOf(events: readonly ClientEvent[]): Float32Array {
  const last = events.at(-1)
  if (last?.kind !== 'completed') throw new Error(`it ended with ${last?.kind ?? 'nothing'}`)
  return last.point.latent!
}

test('of three servers one drains and one is killed: every edit is one stream of steps, to the same bits', async (t) => {
  const [first, second, third] = [await serve(t, { allowed: 13 }), await serve(t, { allowed: 21 }), await serve(t)]
  const whole = await collect(clientOf(t, third.address).edit(request))
  // One after the other: edits of the first go to the second, and from there to the third.
  const servers = [first, second, third].map(({ address }) => address)
  const client = clientOf(t, servers, { balancing: 'pick_first' })
  let drained = false
  const edits = await Promise.all(
    all.slice(0, 6).map(() =>
      collect(client.edit(request), (event) => {
        if (event.kind !== 'step') return
        if (event.step === 12 && !drained) void first.server.drain()
        drained ||= event.step === 12
        if (event.step === 33) second.server.kill()
      }),
    ),
  )
  for (const events of edits) {
    t.deepEqual(stepsOf(events), all, 'steps neither repeat nor skip')
    t.deepEqual(latentOf(events), latentOf(whole))
    t.is(countOf(events, 'accepted'), 1)
    t.is(countOf(events, 'started'), 1)
    t.true(countOf(events, 'resumed') >= 1)
  }
})

test('a list of servers: each new edit goes to the one with the fewest', async (t) => {
  const servers = [await serve(t, { allowed: 0 }), await serve(t, { allowed: 0 }), await serve(t, { allowed: 0 })]
  const client = clientOf(
    t,
    servers.map(({ address }) => address),
  )
  const edits = Array.from({ length: 9 }, () => client.edit(request).result())
  await Promise.all(servers.flatMap(({ peer }) => [peer.unary('GetServerInfo', {})]))
  for (const { scheduler } of servers) scheduler.allow(40)
  await Promise.all(edits)
  t.deepEqual(
    servers.map(({ scheduler }) => scheduler.edits.length),
    [3, 3, 3],
  )
})

test('more edits than a connection takes are all under way', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 0, options: { maxStreamsPerConnection: 64 } })
  const client = clientOf(t, address)
  const short = { ...request, parameters: { steps: 1 } }
  const edits = Array.from({ length: 70 }, () => client.edit(short))
  const iterators = edits.map((edit) => edit[Symbol.asyncIterator]())
  const accepted = iterators.map(async (iterator) => (await iterator.next()).value)
  for (const event of await Promise.all(accepted)) t.is(event?.kind, 'accepted')
  t.is(scheduler.admitted.length, 70)
  await Promise.all(iterators.map(async (iterator) => iterator.return?.()))
})

test('a server that is full: the next one at once, or an error that says when to come back', async (t) => {
  const [full, free] = [await serve(t, { places: 0 }), await serve(t)]
  const both = clientOf(t, [full.address, free.address], { balancing: 'pick_first', startMs: 60_000 })
  t.is((await both.edit(request).result()).statistics.steps, 40)
  const only = clientOf(t, full.address, { startMs: 1_000 })
  await t.throwsAsync(only.edit(request).result(), { code: 'RESOURCE_EXHAUSTED' })
  t.is((await both.edit(request).result()).statistics.steps, 40, 'the full one is not asked first again')
})

test('an edit that runs on without its client is watched by another one, to its picture', async (t) => {
  const [other, own] = [await serve(t), await serve(t, { allowed: 11 })]
  const starting = clientOf(t, own.address)
  await collect(starting.edit({ ...request, id: 'mine', runOn: true }), (event) => {
    if (event.kind === 'step' && event.step === 10) starting.close()
  })
  const watching = clientOf(t, [other.address, own.address])
  const { uid, sequence } = await watching.getEdit('mine')
  for await (const event of watching.attach('mine')) if (event.kind === 'accepted') break
  const closing = clientOf(t, own.address)
  const closed = async () => {
    for await (const event of closing.attach('mine')) if (event.kind === 'step') closing.close()
  }
  await t.throwsAsync(closed(), { code: 'CANCELLED', message: 'the client was closed' })
  const events: ClientEvent[] = []
  for await (const event of watching.attach('mine', { uid })) {
    events.push(event)
    if (event.kind === 'step' && event.step === 10) own.scheduler.allow(100)
  }
  t.deepEqual([countOf(events, 'accepted'), countOf(events, 'started')], [1, 1])
  t.deepEqual(stepsOf(events), [...new Set(stepsOf(events))])
  const last = events.at(-1)
  t.is(last?.kind === 'completed' ? last.picture.format : undefined, 'png')

  const later: ClientEvent[] = []
  for await (const event of watching.attach('mine', { afterSequence: sequence })) later.push(event)
  t.deepEqual(later.at(-1), last)
  t.is(countOf(later, 'accepted'), 0)
  const nobody = (id: string, options = {}) => watching.attach(id, options)[Symbol.asyncIterator]().next()
  await t.throwsAsync(nobody('nowhere'), { code: 'NOT_FOUND' })
  await t.throwsAsync(nobody('mine', { uid: 'another' }), { code: 'NOT_FOUND' })
  await t.throwsAsync(nobody('mine', { signal: AbortSignal.abort() }), { code: 'CANCELLED' })
  await t.throwsAsync(nobody('mine', { afterSequence: NaN }), { code: 'INVALID_ARGUMENT' })
})

test('who watches an edit follows it to where it goes on', async (t) => {
  const [first, second] = [await serve(t, { allowed: 13 }), await serve(t)]
  const servers = [first.address, second.address]
  const client = clientOf(t, servers, { balancing: 'pick_first' })
  const watching = clientOf(t, servers)
  // Of its length every start warns.
  const run = client.edit({ ...request, target: 'tangerine '.repeat(20), id: 'mine' })
  const ended = run.result()
  const watched: ClientEvent[] = []
  while ((await watching.getEdit('mine').catch(() => undefined))?.step !== 13)
    await first.peer.unary('GetServerInfo', {})
  for await (const event of watching.attach('mine')) {
    watched.push(event)
    if (event.kind === 'step' && event.step === 12) void first.server.drain()
  }
  t.is((await ended).statistics.steps, 27)
  t.deepEqual(latentOf(watched), (await ended).point.latent)
  for (const kind of ['accepted', 'started', 'warning'] as const) t.is(countOf(watched, kind), 1)
  t.is(stepsOf(watched)[0], 12)
})

test('a token that is not known is not tried again', async (t) => {
  const authFile = join(tmpdir(), `flexit-going-on-${process.pid}.json`)
  await writeFile(authFile, JSON.stringify({ tokens: [{ tenant: 'a', token: 'a-token-that-is-known' }] }))
  const { address } = await serve(t, { options: { authFile } })
  const wrong = clientOf(t, address, { token: 'a-token-that-is-not-known', startMs: 3_600_000 })
  t.like(await collect(wrong.edit(request)), [{ kind: 'failed', error: { status: 'UNAUTHENTICATED' } }])
  t.is((await clientOf(t, address, { token: 'a-token-that-is-known' }).edit(request).result()).statistics.steps, 40)
})

test('a way to the server that swallows everything: the edit goes on at another', async (t) => {
  const [first, second] = [await serve(t, { allowed: 13 }), await serve(t)]
  const sockets: Socket[] = []
  let swallows = false
  const relay = createServer((socket) => {
    const onwards = createConnection(Number(first.address.split(':')[1]), '127.0.0.1')
    for (const end of [socket, onwards]) sockets.push(end.on('error', () => undefined))
    if (!swallows) socket.pipe(onwards).pipe(socket)
  })
  await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    relay.close()
  })
  const whole = await collect(clientOf(t, second.address).edit(request))
  const servers = [`127.0.0.1:${(relay.address() as AddressInfo).port}`, second.address]
  const client = clientOf(t, servers, { balancing: 'pick_first', keepaliveMs: 400 })
  const events = await collect(client.edit(request), (event) => {
    if (event.kind !== 'step' || event.step !== 12) return
    swallows = true
    for (const socket of sockets) socket.unpipe().pause()
  })
  t.deepEqual(stepsOf(events), all)
  t.deepEqual(latentOf(events), latentOf(whole))
})

test('pings are answered, and a client that does not keep its promise loses its stream, but not its edit', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 0 })
  const stream = peer.edit()
  stream.send('nowhere', { ping: {} })
  t.is((await stream.first('pong')).editId, 'nowhere')
  stream.send('a', { start: startEdit() })
  await stream.first('started')
  stream.send('', { ping: { everyMs: 20 } })
  t.is((await stream.over)?.code, 14)
  const again = peer.edit()
  again.send('a', { attach: {} })
  scheduler.allow(5)
  t.truthy(await again.first('completed'))
  again.end()
})

test('an edit that no server has heard of yet is not tried twice at the one that cannot be reached', async (t) => {
  const { address } = await serve(t)
  const client = clientOf(t, [unreachable, address], { balancing: 'pick_first', startMs: 0 })
  t.is((await client.edit(request).result()).statistics.steps, 40)
})

test('an edit that ends every server that takes it is given up', async (t) => {
  const servers = await Promise.all(all.slice(0, 10).map(() => serve(t, { allowed: 0 })))
  const addresses = servers.map(({ address }) => address)
  const client = clientOf(t, addresses, { balancing: 'pick_first' })
  const killed = new Set<object>()
  const events = await collect(client.edit(request), ({ kind }) => {
    if (kind !== 'accepted' && kind !== 'resumed') return
    for (const { server, scheduler } of servers) {
      if (scheduler.asked > 0 && !killed.has(server)) server.kill()
      if (scheduler.asked > 0) killed.add(server)
    }
  })
  t.like(events.at(-1), { kind: 'failed', error: { status: 'INTERNAL' } })
  t.is(killed.size, 8, 'the other two are spared')
})

test('a paused edit is not to blame for servers that end', async (t) => {
  const servers = await Promise.all(all.slice(0, 10).map(() => serve(t, { allowed: 0 })))
  const addresses = servers.map(({ address }) => address)
  const run = clientOf(t, addresses, { balancing: 'pick_first' }).edit(request)
  run.pause()
  const killed = new Set<object>()
  const events = await collect(run, ({ kind }) => {
    if (kind !== 'accepted' && kind !== 'resumed') return
    for (const { server, scheduler } of servers.slice(0, -1)) {
      if (scheduler.asked > 0 && !killed.has(server)) server.kill()
      if (scheduler.asked > 0) killed.add(server)
    }
    if (servers.at(-1)!.scheduler.asked > 0) run.cancel()
  })
  t.is(killed.size, 9)
  t.is(events.at(-1)?.kind, 'cancelled')
})

test('cancelling and closing do not wait for what a full server asks for', async (t) => {
  const { address, peer, scheduler } = await serve(t, { places: 0, retryAfterMs: 3_600_000 })
  const patient = { startMs: 36_000_000 }
  const [first, second] = [clientOf(t, address, patient), clientOf(t, address, patient)]
  const [cancelled, closed] = [first.edit(request), second.edit(request)]
  const events = [collect(cancelled), collect(closed)]
  while (scheduler.asked < 2) await peer.unary('GetServerInfo', {})
  cancelled.cancel()
  second.close()
  t.like(await events[0], [{ kind: 'cancelled' }])
  t.like(await events[1], [{ kind: 'failed', error: { status: 'CANCELLED' } }])

  const third = clientOf(t, address, patient)
  const late = third.edit(request)
  while (scheduler.asked < 3) await peer.unary('GetServerInfo', {})
  third.close()
  t.like(await collect(late), [{ kind: 'failed', error: { status: 'CANCELLED' } }], 'closed before anybody waited')
})

test('after a loss an edit goes on from where its update came into force', async (t) => {
  const latent = { shape: [1], type: 'NUMBER_TYPE_FLOAT32', data: new Uint8Array(4) } as const
  const pointAt = (step: number) => ({ step, packDigest: 'pack', latent: { ...latent, shape: [1] } })
  const starts: StartEdit[] = []
  const updates: (number | undefined)[] = []
  const address = await serveOnly(t, ({ editId = '', start, update, attach }, call) => {
    const head = { editId, sequence: 1, droppedPreviews: 0 }
    if (start !== undefined) starts.push(start)
    if (update !== undefined) updates.push(update.number)
    if (start !== undefined && starts.length === 1) {
      const step = { step: 7, losses: null, similaritySource: 0, similarityTarget: 0, resumePoint: pointAt(8) }
      call.write({ ...head, accepted: { uid: 'x', position: 0, parameters: { steps: 40 } } })
      call.write({ ...head, sequence: 2, step })
    } else if (start !== undefined) {
      call.write({ ...head, cancelled: { resumePoint: null, abandoned: false } })
    } else if (attach !== undefined) {
      const error = new WireError({ code: 'NOT_FOUND', message: 'no such edit' })
      call.write({ ...head, sequence: 0, rejected: { status: toStatus(error) } })
    } else if (update !== undefined) {
      const { number = 0 } = update
      const updated = { targetText: 'lemon', parameters: { steps: 50 }, number, resumePoint: pointAt(11) }
      call.write({ ...head, sequence: 3, updated })
      call.end()
    }
  })
  const run = clientOf(t, address).edit(request)
  await collect(run, ({ kind }) => {
    if (kind === 'step') run.update({ target: 'lemon' })
  })
  t.is(starts.length, 2)
  t.like(starts[1], { targetText: 'lemon', parameters: { steps: 50 }, resumeFrom: { step: 11 } })
  t.deepEqual(updates, [1], 'what was answered is not asked for again')
})

test('a deadline as the wire takes it', (t) => {
  t.deepEqual([undefined, Infinity, 0.2, 250.4, 5e9].map(toDeadline), [undefined, undefined, 1, 250, 2 ** 32 - 1])
})

test('a call that is not answered in time has not reached its server', (t) => {
  const error = Object.assign(new Error('late'), {
    code: codes.DEADLINE_EXCEEDED,
    details: 'late',
    metadata: new Metadata(),
  })
  t.is(callError(error).status, 'UNAVAILABLE')
})

test('an edit that somebody else cancels is not started again', async (t) => {
  const { address, peer, scheduler } = await serve(t, { allowed: 5 })
  const run = clientOf(t, address).edit({ ...request, id: 'mine' })
  const events = await collect(run, (event) => {
    if (event.kind === 'step' && event.step === 4) void peer.unary('CancelEdit', { editId: 'mine' })
  })
  t.is(events.at(-1)?.kind, 'cancelled')
  t.is(scheduler.edits.length, 1)
})

const cancelsWhereItGoesOn = test.macro(async (t: ExecutionContext, isFirstThere: boolean) => {
  const [first, second] = [await serve(t, { allowed: 5 }), await serve(t, { allowed: 5 })]
  const client = clientOf(t, [first.address, second.address], { balancing: 'pick_first' })
  const asking = isFirstThere ? client : clientOf(t, ['127.0.0.1:1', second.address])
  // Another edit has a name that is alike.
  const other = client.edit({ ...request, id: 'mine:or-not' })
  const iterator = other[Symbol.asyncIterator]()
  for (const kind of ['accepted', 'started'] as const) t.is((await iterator.next()).value?.kind, kind)
  let answer: Promise<EditSummary> | undefined
  const events = await collect(client.edit({ ...request, id: 'mine' }), (event) => {
    if (event.kind !== 'step') return
    if (event.step === 4) first.scheduler.edits[1]!.handBack()
    if (event.step === 9) answer = asking.cancelEdit('mine')
  })
  t.is((await answer)?.editId, 'mine:1')
  t.is(events.at(-1)?.kind, 'cancelled')
  t.is(second.scheduler.edits[0]!.state.step, 10)
  t.is((await client.getEdit(other.id)).status, 'running')
  other.cancel()
})

test('an edit that was handed back is cancelled where it goes on', cancelsWhereItGoesOn, true)
test('… also where the server that handed it back is gone', cancelsWhereItGoesOn, false)

test('of an edit that was handed back is told how it stands where it goes on', async (t) => {
  const [first, second] = [await serve(t, { allowed: 0 }), await serve(t)]
  const [before, after] = [first.peer.edit(), second.peer.edit()]
  before.send('mine', { start: startEdit() })
  await before.first('started')
  const client = clientOf(t, [first.address, second.address])
  t.is((await client.getEdit('mine')).editId, 'mine')
  first.scheduler.handBack()
  await before.first('handedBack')
  for (const id of ['mine:or-not', 'mine:2', 'mine:10']) after.send(id, { start: startEdit() })
  for (const id of ['mine:2', 'mine:10']) await after.first('completed', ({ editId }) => editId === id)
  t.like(await client.getEdit('mine'), { editId: 'mine:10', status: 'completed' })
  t.is((await clientOf(t, second.address).getEdit('mine')).editId, 'mine:10', 'also where nobody knows it any more')
})

test('an edit that its client has left is cancelled, and what was started in its place, too', async (t) => {
  const [first, second] = [await serve(t, { allowed: 0 }), await serve(t, { allowed: 0 })]
  const [left, anew] = [first.peer.edit(), second.peer.edit()]
  left.send('mine', { start: startEdit() })
  anew.send('mine:1', { start: startEdit() })
  await Promise.all([left.first('started'), anew.first('started')])
  const client = clientOf(t, [first.address, second.address])
  t.is((await client.cancelEdit('mine')).editId, 'mine:1')
  t.truthy(await left.first('cancelled'))
  t.truthy(await anew.first('cancelled'))
})

test('an edit that is cancelled is no error though another server is gone', async (t) => {
  const { address, peer } = await serve(t, { allowed: 0 })
  const stream = peer.edit()
  stream.send('mine', { start: startEdit() })
  await stream.first('started')
  const client = clientOf(t, [unreachable, address])
  t.is((await client.cancelEdit('mine')).editId, 'mine')
  t.truthy(await stream.first('cancelled'))
})

test('an edit that was handed back is no success while one server cannot tell whether it goes on there', async (t) => {
  const { address, peer, scheduler } = await serve(t, { allowed: 0 })
  const stream = peer.edit()
  stream.send('mine', { start: startEdit() })
  await stream.first('started')
  scheduler.handBack()
  await stream.first('handedBack')
  t.is((await clientOf(t, address).cancelEdit('mine')).status, 'handed_back')
  await t.throwsAsync(clientOf(t, [unreachable, address]).cancelEdit('mine'), { code: 'UNAVAILABLE' })
})

test('a client that is closed ends its edits', async (t) => {
  const { address } = await serve(t, { allowed: 5 })
  const client = clientOf(t, address)
  const events = await collect(client.edit(request), (event) => {
    if (event.kind === 'step' && event.step === 4) client.close()
  })
  t.like(events.at(-1), { kind: 'failed', error: { status: 'CANCELLED' } })
  t.like(await collect(client.edit(request)), [{ kind: 'failed', error: { status: 'CANCELLED' } }])
})

test('the deadline also counts while no server can be reached', async (t) => {
  const client = clientOf(t, unreachable, { startMs: 3_600_000 })
  const events = await collect(client.edit({ ...request, deadlineMs: 200 }))
  t.like(events, [{ kind: 'failed', error: { status: 'DEADLINE_EXCEEDED' } }])
})

/** The address of what takes connections and never says a word. */
async function silentServer(t: ExecutionContext) {
  const sockets: Socket[] = []
  const server = createServer((socket) => sockets.push(socket.on('error', () => undefined)))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** Longer than the tests: silence alone gives nothing up. */
const never = 3_600_000

test('the patience for a new edit also ends where a server is silent', async (t) => {
  const silent = await silentServer(t)
  const run = clientOf(t, silent, { keepaliveMs: never, startMs: 1_000 }).edit(request)
  t.like(await collect(run), [{ kind: 'failed', error: { status: 'UNAVAILABLE' } }])
})

test('a server that is silent leaves time for the next one', async (t) => {
  const [silent, { address }] = [await silentServer(t), await serve(t)]
  const options = { keepaliveMs: never, startMs: 2_000, balancing: 'pick_first' } as const
  t.is((await clientOf(t, [silent, address], options).edit(request).result()).statistics.steps, 40)
})

test('the deadline also counts while a server is silent, before its first word and after', async (t) => {
  const patient = { keepaliveMs: never, startMs: never }
  const late = [{ kind: 'failed', error: { status: 'DEADLINE_EXCEEDED' } }]
  const silent = await silentServer(t)
  t.like(await collect(clientOf(t, silent, patient).edit({ ...request, deadlineMs: 100 })), late)

  const address = await serveOnly(t, ({ editId = '', start }, call) => {
    if (start === undefined) return
    call.write({ editId, sequence: 1, droppedPreviews: 0, accepted: { uid: 'x', position: 0, parameters: null } })
  })
  const events = await collect(clientOf(t, address, patient).edit({ ...request, deadlineMs: 100 }))
  t.like(events.slice(-1), late)
})

test('how long a server has to answer', (t) => {
  const tried = { attempt: 0, lostMs: 0, servers: 1 }
  const patience = { startMs: 10_000, leftMs: Infinity }
  t.is(answerWithin(tried, false, patience), 10_000)
  t.is(answerWithin({ ...tried, servers: 4 }, false, patience), 2_500, 'others are to have as much')
  t.is(answerWithin({ attempt: 3, lostMs: 7_500, servers: 4 }, false, patience), 2_500)
  t.is(answerWithin({ attempt: 9, lostMs: 4_000, servers: 4 }, false, patience), 6_000)
  t.is(answerWithin(tried, true, patience), 5_000, 'it may have to be asked again')
  t.is(answerWithin(tried, false, { startMs: 0, leftMs: Infinity }), 10_000)
  t.is(answerWithin(tried, false, { startMs: 1, leftMs: Infinity }), 1_000)
  t.is(answerWithin(tried, false, { ...patience, leftMs: 3_000 }), 3_000)
})

test('where a connection takes fewer calls than is usual, the others go on on connections of their own', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 0, options: { maxStreamsPerConnection: 3 } })
  const client = clientOf(t, address, { startMs: 4_000, keepaliveMs: never })
  const edits = all.slice(0, 10).map(() => client.edit(request))
  const accepted = edits.map(async (edit) => (await edit[Symbol.asyncIterator]().next()).value?.kind)
  t.deepEqual(new Set(await Promise.all(accepted)), new Set(['accepted']))
  t.is(scheduler.admitted.length, 10, 'none was started twice')
})

test('weighted balancing is for the addresses of one name', (t) => {
  const balancing = 'weighted_round_robin'
  t.throws(() => connect([unreachable, '127.0.0.1:2'], { balancing }), { code: 'INVALID_ARGUMENT', message: /list/ })
  t.notThrows(() => connect('ipv4:127.0.0.1:1,127.0.0.1:2', { balancing }).close())
})

test('when to try again', (t) => {
  const patience = { startMs: 10_000, reconnectMs: 60_000 }
  const tried = { attempt: 0, lostMs: 0, heard: true, servers: 1 }
  t.is(nextTry(tried, undefined, patience, 1), 50)
  t.is(nextTry(tried, undefined, patience, 0), 25, 'with jitter')
  t.is(nextTry({ ...tried, attempt: 3 }, undefined, patience, 1), 400, 'more each time')
  t.is(nextTry({ ...tried, attempt: 30 }, undefined, patience, 1), 5_000, 'up to a limit')
  t.is(nextTry(tried, 2_000, patience, 0), 2_000, 'what the server asks for is respected')
  t.is(nextTry(tried, 2_000, patience, 1), 2_500, 'with jitter')
  t.is(nextTry({ ...tried, lostMs: 59_000 }, 2_000, patience, 0), 1_000, 'once more before the end')
  t.is(nextTry({ ...tried, lostMs: 60_000 }, undefined, patience), undefined)
  t.is(nextTry({ ...tried, heard: false }, 11_000, patience), undefined, 'longer than there is patience')
  t.is(nextTry({ ...tried, heard: false, lostMs: 10_000 }, undefined, patience), undefined)
  const once = { startMs: 0, reconnectMs: 0 }
  t.is(nextTry({ ...tried, heard: false, servers: 2 }, 11_000, once, 1), 50, 'each server is asked once')
  t.is(nextTry({ ...tried, heard: false, servers: 2, attempt: 1 }, undefined, once), undefined)
})
