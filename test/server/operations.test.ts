// The server's ends and edges: what is logged, the last event, draining, limits of connections.
// What clients see of edits is tested in edit-stream.test.ts and service.test.ts.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { type Settings, connect } from 'node:http2'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Metadata } from '@grpc/grpc-js'
import type { MethodDefinition } from '@grpc/proto-loader'
import test from 'ava'
import { service as healthService } from 'grpc-health-check'
import type { EditState } from '../../src/engine/edit.js'
import { FlexitError } from '../../src/engine/errors.js'
import { editorService } from '../../src/proto/definition.js'
import { fromStatus } from '../../src/proto/status.js'
import type { EditListener, RunningEdit, Ticket } from '../../src/scheduler/api.js'
import { createLogger, grpcLogger } from '../../src/server/logger.js'
import { launchServer } from '../../src/server/launch.js'
import { resolveOptions } from '../../src/server/options.js'
import { farewellMs } from '../../src/server/server.js'
import { FakeScheduler } from '../support-server/fake-scheduler.js'
import { kindOf } from '../support-server/peer.js'
import { apple, latentLength, serve, startEdit } from '../support-server/start.js'

const length = latentLength

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

// Serial: what other tests hold would count. The calls are plain HTTP/2: a client of grpc-js keeps copies in this process.
test.serial('calls do not hold the decoded requests of edits that have started', async (t) => {
  const { peer, address } = await serve(t, { allowed: 1 })
  const session = connect(`http://${address}`)
  t.teardown(() => session.destroy())
  const image = Buffer.concat([apple, Buffer.alloc(4 * 1024 ** 2)])
  const begin = async (method: 'Edit' | 'RunEdit', editId: string) => {
    const { path, requestSerialize } = editorService[method]!
    const message = requestSerialize({ editId, start: startEdit({ image }) })
    const head = Buffer.alloc(5)
    head.writeUInt32BE(message.length, 1)
    const headers = { ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers' }
    const stream = session.request(headers, { endStream: false })
    // In pieces, each a copy: the client's own stream keeps what it wrote last.
    const frame = Buffer.concat([head, message])
    for (let at = 0; at < frame.length; at += 65_536) {
      const piece = Buffer.from(frame.subarray(at, at + 65_536))
      if (!stream.write(piece)) await new Promise((resolve) => stream.once('drain', resolve))
    }
    if (method === 'RunEdit') stream.end()
    await new Promise((resolve) => stream.once('data', resolve))
    await peer.stream('Attach', { editId }).first('step')
  }
  const held = async () => {
    // Once more than needed: buffers are freed on a thread of their own after a collection, and counted by the next.
    for (let i = 0; i < 4; i++) {
      collectGarbage()
      await new Promise(setImmediate)
    }
    return process.memoryUsage().arrayBuffers
  }
  await begin('RunEdit', 'warm')
  const beforeBytes = await held()
  for (const id of ['a', 'b', 'c']) {
    await begin('Edit', `edit-${id}`)
    await begin('RunEdit', `run-${id}`)
  }
  const bytes = (await held()) - beforeBytes
  // One for each call, in pieces: the decoder of grpc-js (1.14) lets go of a message when the next one begins.
  t.true(bytes < 7 * image.length, `${bytes} bytes are held`)
})

test('logs have ids and numbers, and nothing that clients send', async (t) => {
  const lines: string[] = []
  const logger = createLogger('debug', { write: (line: string) => void lines.push(line) })
  const { peer, server } = await serve(t, { logger, allowed: 3 })
  const metadata = new Metadata()
  metadata.set('authorization', 'Bearer my-secret-token')
  const stream = peer.edit(metadata)
  const texts = { sourceText: 'my secret source', targetText: 'my secret target' }
  stream.send('cancelled-one', { start: startEdit(texts) })
  stream.send('failed-one', { start: startEdit({ ...texts, targetText: 'explode' }) })
  stream.send('refused-one', {
    start: startEdit({ ...texts, image: Buffer.from('my secret picture'), priority: 7 as never }),
  })
  stream.send('broken-one', { start: startEdit({ ...texts, image: Buffer.from('my secret picture') }) })
  await stream.first('step')
  stream.send('cancelled-one', { cancel: {} })
  await stream.first('cancelled')
  for (const id of ['failed-one', 'broken-one']) await stream.first('failed', ({ editId }) => editId === id)
  stream.cancel()
  await stream.over
  await server.drain()
  const all = lines.join('')
  for (const secret of ['secret', 'Bearer', 'red apple']) t.false(all.includes(secret), secret)
  const said = lines.map((line) => JSON.parse(line) as Record<string, unknown>)
  const of = (editId: string) => said.filter((line) => line['editId'] === editId).map(({ msg }) => msg)
  t.deepEqual(of('cancelled-one'), ['edit accepted', 'edit ended'])
  t.deepEqual(of('failed-one'), ['edit accepted', 'edit failed', 'edit ended'])
  t.deepEqual(of('refused-one'), ['edit refused'])
  t.deepEqual(of('broken-one'), ['edit accepted', 'edit ended'])
  const codes = said.filter(({ msg }) => msg === 'edit ended').map(({ editId, code }) => [editId, code])
  t.deepEqual(Object.fromEntries(codes), {
    'cancelled-one': undefined,
    'failed-one': 'INTERNAL',
    'broken-one': 'INVALID_ARGUMENT',
  })
  t.deepEqual(
    said.filter(({ editId }) => editId === undefined).map(({ msg }) => msg),
    ['draining', 'ended'],
  )
})

test('errors are logged without what foreign ones carry', (t) => {
  const lines: string[] = []
  const logger = createLogger('info', { write: (line: string) => void lines.push(line) })
  const cause = Object.assign(new Error('inner'), { input: 'a payload' })
  logger.error({ err: Object.assign(new Error('outer', { cause }), { code: 'EINVAL', input: 'a payload' }) }, 'oops')
  logger.error({ err: 'a text' }, 'oops')
  const [first, second] = lines.map((line) => JSON.parse(line) as { err: { message: string; code?: string } })
  t.like(first!.err, { message: 'outer: inner', code: 'EINVAL' })
  t.is(second!.err.message, 'a text')
  t.false(lines.join('').includes('payload'))
})

test('what grpc-js logs goes into the log', (t) => {
  const lines: string[] = []
  const logger = createLogger('info', { write: (line: string) => void lines.push(line) })
  grpcLogger(logger).error!('a %s', 'word', { code: 7 })
  grpcLogger(logger).debug!('nothing')
  t.is(lines.length, 1)
  t.like(JSON.parse(lines[0]!), { level: 50, msg: 'grpc: a word { code: 7 }' })
})

const onFullDisk = existsSync('/dev/full') ? test : test.skip

onFullDisk('a log on a full disk loses lines, says how many once it can, and holds nothing up', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'flexit-'))
  const full = openSync('/dev/full', 'w')
  t.teardown(() => {
    closeSync(full)
    rmSync(folder, { recursive: true })
  })
  const path = join(folder, 'log')
  const begin = `
    import { closeSync, openSync } from 'node:fs'
    import { createLogger, grpcLogger } from ${JSON.stringify(new URL('../../src/server/logger.js', import.meta.url).href)}
    const logger = createLogger('info')
    logger.info('lost')
    logger.info('lost too')`
  const exitCode = async (rest: string) => {
    const args = ['--input-type=module', '--eval', `${begin}\n${rest}`]
    // The limit is for a process that hangs.
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', full], timeout: 60_000, killSignal: 9 })
    return ((await once(child, 'exit')) as [number | null])[0]
  }
  t.is(await exitCode('process.exit(7)'), 7)
  // Lines have been tried when nothing is left to do; the file takes the freed number of stderr.
  const room = `process.once('beforeExit', () => {
    closeSync(2)
    openSync(${JSON.stringify(path)}, 'w')
    logger.info('written')
  })`
  t.is(await exitCode(room), 0)
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n')
  t.like(JSON.parse(lines[0]!), { msg: 'written' })
  t.like(JSON.parse(lines[1]!), { level: 40, lines: 2, msg: 'lines of the log could not be written' })
})

/** Ends every edit again and again, and lets it step after its end. */
class Insistent extends FakeScheduler {
  override submit(ticket: Ticket, state: EditState, listener: EditListener): RunningEdit {
    const error = new FlexitError({ code: 'INTERNAL', message: 'too late' })
    let last: (() => void) | undefined
    return super.submit(ticket, state, {
      onStarted: () => listener.onStarted(),
      onStep: (report, after) => {
        last = () => listener.onStep(report, after)
        last()
      },
      onEnd: (outcome) => {
        listener.onEnd(outcome)
        listener.onEnd(outcome)
        last?.()
        listener.onEnd({ kind: 'failed', error, state })
        setImmediate(() => listener.onEnd({ kind: 'cancelled', state }))
      },
    })
  }
}

test('an edit ends once, and nothing follows its last event', async (t) => {
  const { peer, server } = await serve(t, { scheduler: new Insistent({ length }) })
  const stream = peer.edit()
  stream.send('a', { start: startEdit({ parameters: { steps: 2 } }) })
  stream.send('b', { start: startEdit({ targetText: 'explode' }) })
  stream.end()
  t.is(await stream.over, undefined)
  const kinds = (id: string) => stream.all.filter(({ editId }) => editId === id).map(kindOf)
  t.deepEqual(kinds('a'), ['accepted', 'started', 'step', 'step', 'completed'])
  t.deepEqual(kinds('b'), ['accepted', 'started', 'failed'])
  const text = await (await fetch(`http://127.0.0.1:${server.metricsPort}/metrics`)).text()
  for (const labels of ['outcome="completed",code="OK"', 'outcome="failed",code="INTERNAL"']) {
    t.true(text.includes(`flexit_edits_finished_total{${labels},pack="tiny"} 1\n`), labels)
  }
})

test('a drain ends with the last edit, though a watcher of health stays', async (t) => {
  const { peer, scheduler, server } = await serve(t, { allowed: 1, options: { drainMs: 10 ** 9 } })
  const watch = healthService['Watch'] as MethodDefinition<{ service: string }, { status: string }>
  const watcher = peer.client.makeServerStreamRequest(watch.path, watch.requestSerialize, watch.responseDeserialize, {
    service: '',
  })
  const statuses: string[] = []
  const gone = new Promise<void>((resolve) => watcher.once('error', () => resolve()).once('end', () => resolve()))
  watcher.on('data', ({ status }: { status: string }) => statuses.push(status))
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  await stream.first('step')
  const drained = server.drain()
  stream.send('b', { start: startEdit() })
  const refusal = fromStatus((await stream.first('failed', ({ editId }) => editId === 'b')).failed.status!)
  t.like(refusal, { status: 'UNAVAILABLE', retryAfterMs: 250 })
  scheduler.allow(10)
  await stream.first('completed', ({ editId }) => editId === 'a')
  t.is(await stream.over, undefined)
  await drained
  await gone
  t.deepEqual(statuses, ['SERVING', 'NOT_SERVING'])
})

test('probes that speak no gRPC hear of health over HTTP', async (t) => {
  const { peer, scheduler, server } = await serve(t, { allowed: 1, options: { drainMs: 10 ** 9 } })
  const ask = async (path: string, method = 'GET') =>
    (await fetch(`http://127.0.0.1:${server.metricsPort}${path}`, { method })).status
  t.deepEqual(await Promise.all([ask('/ready'), ask('/live?x'), ask('/live', 'HEAD')]), [200, 200, 200])
  t.deepEqual(await Promise.all([ask('/ready', 'POST'), ask('/toString'), ask('/')]), [404, 404, 404])
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  await stream.first('step')
  const drained = server.drain()
  t.deepEqual(await Promise.all([ask('/ready'), ask('/live')]), [503, 200])
  scheduler.allow(10)
  await stream.over
  await drained
})

test('ports that others have are told before anything is loaded', async (t) => {
  const { server } = await serve(t)
  const launch = (flags: object) => {
    const free = { port: 0, metricsPort: 0, logLevel: 'silent', pack: ['/nowhere'] }
    return launchServer(resolveOptions({ flags: { ...free, ...flags }, environment: {} }), { version: '1.2.3' })
  }
  await t.throwsAsync(launch({ port: server.port }), { message: /^cannot listen for gRPC on 127/ })
  await t.throwsAsync(launch({ metricsPort: server.metricsPort }), { message: /^cannot listen for metrics on 127/ })
  await t.throwsAsync(launch({}), { code: 'NOT_FOUND' })
})

/** Hands nothing back: its device hangs. */
class Deaf extends FakeScheduler {
  override handBack(): void {
    return undefined
  }
}

test('a drain ends in time also where edits do not', async (t) => {
  const { peer, server } = await serve(t, { scheduler: new Deaf({ length, allowed: 0 }) })
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  await stream.first('started')
  await server.drain()
  t.truthy(await stream.over)
  t.deepEqual([0, 8_000, 12_000, 20_000, 10 ** 6].map(farewellMs), [2_000, 2_000, 3_000, 5_000, 5_000])
})

test('edits of a connection that has reached its age are handed back', async (t) => {
  const options = { maxConnectionAgeMs: 100, maxConnectionAgeGraceMs: 5_000 }
  const { peer } = await serve(t, { allowed: 1, options })
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  const { handedBack } = await stream.first('handedBack')
  t.is(handedBack.state?.resumePoint?.step, 1)
  t.is(await stream.over, undefined)

  const { peer: another } = await serve(t, { allowed: 1, options })
  const run = another.stream('RunEdit', { start: startEdit() })
  t.is((await run.first('handedBack')).handedBack.state?.resumePoint?.step, 1)
  t.is(await run.over, undefined)
})

test('an edit that is to run on outlives the age of its connection', async (t) => {
  const options = { maxConnectionAgeMs: 100, maxConnectionAgeGraceMs: 2_000 }
  const { peer } = await serve(t, { allowed: 1, options })
  const [stream, run] = [peer.edit(), peer.stream('RunEdit', { editId: 'c', start: startEdit({ runOn: true }) })]
  stream.send('a', { start: startEdit() })
  stream.send('b', { start: startEdit({ runOn: true }) })
  t.is((await stream.first('handedBack')).editId, 'a')
  t.is(await stream.over, undefined, 'for its client to attach again')
  t.truthy(await run.over, 'it is cut off with its connection')
  const ends = [...stream.all, ...run.all].filter(({ handedBack, cancelled }) => handedBack ?? cancelled)
  t.deepEqual(
    ends.map(({ editId }) => editId),
    ['a'],
  )
  for (const editId of ['b', 'c']) t.like(await peer.unary('GetEdit', { editId }), { status: 'EDIT_STATUS_RUNNING' })
})

test('calls of a connection are limited, and silent connections are probed', async (t) => {
  const { address } = await serve(t, { options: { maxStreamsPerConnection: 3, keepaliveMs: 1000 } })
  const session = connect(`http://${address}`)
  t.teardown(() => session.destroy())
  const settings = new Promise<number | undefined>((resolve) =>
    session.once('remoteSettings', ({ maxConcurrentStreams }: Settings) => resolve(maxConcurrentStreams)),
  )
  const pinged = new Promise<Buffer>((resolve) => session.once('ping', resolve))
  t.is(await settings, 3)
  t.is((await pinged).length, 8)
})

test('a stream without edits and commands is ended', async (t) => {
  const { peer } = await serve(t, { options: { idleStreamMs: 1 } })
  t.is(await peer.edit().over, undefined)
})
