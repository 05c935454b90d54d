// The rest of the service over a real port: attaching, going away, errors, limits, and what is around it.
// The scheduler is the fake one.

import { randomBytes } from 'node:crypto'
import { type ServiceError, status as codes } from '@grpc/grpc-js'
import test from 'ava'
import { service as healthService } from 'grpc-health-check'
import { callError } from '../../src/client/channel.js'
import type { EditSummary, ListEditsResponse, ServerInfo, StartEdit } from '../../src/proto/messages.js'
import { fromStatus } from '../../src/proto/status.js'
import { createLogger } from '../../src/server/logger.js'
import { kindOf } from '../support-server/peer.js'
import { latentShape, pack, serve, startEdit } from '../support-server/start.js'

test('a broken stream: its edit goes on, is attached elsewhere, and nothing is missing', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 2 })
  const stream = peer.edit()
  stream.send('a', { start: startEdit({ stream: { previews: {} } }) })
  await stream.first('step', ({ step }) => step?.step === 1)
  stream.cancel()
  await stream.over
  scheduler.allow(10)
  await scheduler.edits[0]!.ended

  const other = peer.edit()
  other.send('a', { attach: { afterSequence: 3 } })
  await other.first('completed')
  t.deepEqual(
    other.all.map(({ sequence }) => sequence),
    [4, 5, 6, 7, 8],
  )
  t.true(
    other.all.every(({ step }) => step === undefined || step.preview != null),
    'previews too',
  )
  const again = peer.edit()
  again.send('a', { attach: { afterSequence: 7 } })
  await again.first('completed')
  t.is(again.all.length, 1, 'ended edits can be attached as well')
  again.send('a', { attach: { uid: 'another' } })
  t.is(fromStatus((await again.first('rejected')).rejected.status!).status, 'NOT_FOUND')
  for (const one of [other, again]) one.end()
})

test('an edit that is taken over leaves its first stream', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 1 })
  const [first, second] = [peer.edit(), peer.edit()]
  first.send('a', { start: startEdit() })
  await first.first('step')
  first.end()
  second.send('a', { attach: {} })
  t.is(await first.over, undefined, 'it has no edits left')
  scheduler.allow(10)
  await second.first('completed')
  t.deepEqual(second.all.map(kindOf), ['accepted', 'started', 'step', 'step', 'step', 'step', 'step', 'completed'])
  second.end()
})

test('RunEdit whose edit another stream takes over says so', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 1 })
  const run = peer.stream('RunEdit', { editId: 'a', start: startEdit() })
  await run.first('step')
  const other = peer.edit()
  other.send('a', { attach: {} })
  t.is((await run.over)?.code, codes.ABORTED)
  scheduler.allow(10)
  await other.first('completed')
  other.end()
})

test('without its client an edit is cancelled after the grace, unless it is to run on', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 1, options: { disconnectGraceMs: 0 } })
  const stream = peer.edit()
  const starts = { gone: startEdit(), alone: startEdit({ runOn: true }) }
  for (const [id, start] of Object.entries(starts)) {
    stream.send(id, { start })
    await stream.first('step', ({ editId }) => editId === id)
  }
  stream.cancel()
  await scheduler.edits[0]!.ended
  scheduler.allow(10)
  await scheduler.edits[1]!.ended
  const watching = [peer.stream('Attach', { editId: 'gone' }), peer.stream('Attach', { editId: 'alone' })]
  t.true((await watching[0]!.first('cancelled')).cancelled.abandoned)
  t.truthy(await watching[1]!.first('completed'))
})

test('an edit that is to run on, but was paused, is cancelled without its client as others are', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 1, options: { disconnectGraceMs: 0 } })
  const stream = peer.edit()
  stream.send('a', { start: startEdit({ runOn: true }) })
  await stream.first('step')
  stream.send('a', { pause: {} })
  stream.send('a', { update: { targetText: 'lemon' } })
  await stream.first('updated')
  stream.cancel()
  await scheduler.edits[0]!.ended
  t.true((await peer.stream('Attach', { editId: 'a' }).first('cancelled')).cancelled.abandoned)
})

test('an update that comes again, with its number, is in force once', async (t) => {
  const { peer } = await serve(t, { allowed: 0 })
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  stream.send('a', { update: { targetText: 'lemon', number: 7 } })
  await stream.first('updated')
  const again = peer.edit()
  again.send('a', { attach: {} })
  again.send('a', { update: { targetText: 'lemon', number: 7 } })
  again.send('a', { update: { parameters: { steps: 0 }, number: 8 } })
  again.send('a', { update: { targetText: 'pear', number: 9 } })
  await again.first('updated', ({ updated }) => updated?.targetText === 'pear')
  const numbers = again.all.flatMap(({ updated }) => (updated === undefined ? [] : [updated.number]))
  t.deepEqual(numbers, [7, 9], 'the first is the replay')
  const many = Array.from({ length: 300 }, (_, i) => ({ targetText: `lemon ${i}`, number: 10 + i }))
  for (const update of [...many, ...many, { targetText: 'plum', number: 1000 }]) again.send('a', { update })
  await again.first('updated', ({ updated }) => updated?.targetText === 'plum')
  t.is(again.all.filter(({ updated }) => updated !== undefined).length, 2 + 300 + 1)
  t.is((await again.first('rejected')).rejected.updateNumber, 8)
  again.cancel()
})

test('of an edit that has ended no preview is kept', async (t) => {
  const { peer } = await serve(t)
  const stream = peer.edit()
  stream.send('a', { start: startEdit({ stream: { previews: {} } }) })
  const { step } = await stream.first('step', ({ step }) => step?.step === 4)
  t.not(step.preview, null)
  await stream.first('completed')
  const observer = peer.stream('Attach', { editId: 'a' })
  await observer.over
  t.deepEqual(observer.all.map(kindOf), ['accepted', 'started', 'step', 'completed'])
  t.is(observer.all[2]!.step!.preview, null)
  stream.end()
})

test('observers hear what there is and what comes, and do not disturb', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 3 })
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  await stream.first('step', ({ step }) => step?.step === 2)
  const watching = [peer.stream('Attach', { editId: 'a' }), peer.stream('Attach', { editId: 'a', afterSequence: 4 })]
  await Promise.all(watching.map((one) => one.first('step')))
  const gone = peer.stream('Attach', { editId: 'a' })
  await gone.first('step')
  gone.cancel()
  scheduler.allow(10)
  await stream.first('completed')
  for (const one of watching) t.is(await one.over, undefined)
  t.deepEqual(
    watching.map(({ all }) => all.map(({ sequence }) => sequence)),
    [
      [1, 2, 5, 6, 7, 8],
      [5, 6, 7, 8],
    ],
  )
  stream.end()
  const nowhere = await peer.stream('Attach', { editId: 'b' }).over
  t.is(nowhere?.code, codes.NOT_FOUND)
})

test('RunEdit: its deadline ends the edit, and errors are the call’s', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 1 })
  const events = peer.stream('RunEdit', { editId: 'a', start: startEdit({ deadlineMs: 1 }) })
  const { failed } = await events.first('failed')
  t.is(fromStatus(failed.status!).status, 'DEADLINE_EXCEEDED')
  t.is(scheduler.admitted[0]!.deadlineMs, 1)
  t.is(await events.over, undefined)
  const timely = peer.stream(
    'RunEdit',
    { start: startEdit({ deadlineMs: 10 ** 9 }) },
    { deadline: Date.now() + 10 ** 6 },
  )
  await timely.first('step')
  t.true(scheduler.admitted[1]!.deadlineMs! <= 10 ** 6, 'the earlier of the two')
  timely.cancel()
  const wrong = await peer.stream('RunEdit', { start: null }).over
  t.is(wrong?.code, codes.INVALID_ARGUMENT)
  // Headers of 64 kB would silence the connection.
  const networks = ['ü'.repeat(100_000)]
  const long = await peer.stream('RunEdit', { start: startEdit({ parameters: { networks } }) }).over
  t.is(long?.code, codes.INVALID_ARGUMENT)
  t.true(long!.details.length < 1100)
})

test('GetEdit, ListEdits and CancelEdit tell pending, running, ended and unknown apart', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 1 })
  const stream = peer.edit()
  for (const id of ['a', 'b', 'c']) stream.send(id, { start: startEdit() })
  for (const id of ['a', 'b', 'c']) await stream.first('step', ({ editId }) => editId === id)
  const cancel = { editId: 'b', uid: (await stream.first('accepted', ({ editId }) => editId === 'b')).accepted.uid }
  await t.throwsAsync(peer.unary('CancelEdit', { ...cancel, uid: 'of an older one' }), {
    message: /NOT_FOUND.*another one now/,
  })
  await peer.unary('CancelEdit', cancel)
  await stream.first('cancelled')
  t.like(await peer.unary('CancelEdit', cancel), { status: 'EDIT_STATUS_CANCELLED' }, 'once more is no error')

  t.like(await peer.unary('GetEdit', { editId: 'a' }), {
    status: 'EDIT_STATUS_RUNNING',
    step: 1,
    steps: 5,
    sequence: 3,
  })
  const list = (request: object) => peer.unary<ListEditsResponse>('ListEdits', request)
  const ids = (edits: readonly EditSummary[]) => edits.map(({ editId }) => editId).join(' ')
  t.is(ids((await list({})).edits), 'a b c')
  t.is(ids((await list({ states: ['EDIT_STATUS_RUNNING'] })).edits), 'a c')
  const page = await list({ pageSize: 2 })
  t.is(ids(page.edits), 'a b')
  const last = await list({ pageSize: 2, pageToken: page.nextPageToken })
  t.is(ids(last.edits), 'c')
  t.is(last.nextPageToken, '')
  await t.throwsAsync(list({ pageToken: 'x' }), { message: /INVALID_ARGUMENT/ })
  for (const state of [0, 99]) await t.throwsAsync(list({ states: [state] }), { message: /INVALID_ARGUMENT/ })
  const error = await t.throwsAsync<ServiceError>(peer.unary('GetEdit', { editId: 'nowhere' }))
  t.deepEqual(callError(error).resource, { type: 'edit', name: 'nowhere' })
  const long = 'a'.repeat(128)
  t.is(callError(await t.throwsAsync<ServiceError>(peer.unary('GetEdit', { editId: long }))).resource?.name, long)
  scheduler.allow(10)
  stream.end()
  await stream.over
})

test('what is wrong with a start is said, with its field', async (t) => {
  const { peer, scheduler } = await serve(t, { options: { maxImageBytes: 100_000, maxTextLength: 50, maxSteps: 100 } })
  const [channels, height, width] = latentShape
  const size = channels * height * width
  const resume = (changes: object) => ({
    resumeFrom: {
      step: 1,
      packDigest: pack.digest,
      latent: { shape: [...latentShape], type: 'NUMBER_TYPE_FLOAT32' as const, data: Buffer.alloc(4 * size) },
      ...changes,
    },
  })
  const latent = (changes: object) => resume({ latent: { ...resume({}).resumeFrom.latent, ...changes } })
  const cases: [string, Partial<StartEdit>][] = [
    ['image', { image: Buffer.alloc(0) }],
    ['image', { image: Buffer.alloc(100_001) }],
    ['image', { image: randomBytes(1000) }],
    ['image', { image: Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>') }],
    ['source', { sourceText: ' ' }],
    ['target', { targetText: '' }],
    ['target', { targetText: 'x'.repeat(51) }],
    ['target', { targetText: '🍎'.repeat(51) }],
    ['steps', { parameters: { steps: 0 } }],
    ['steps', { parameters: { steps: 101 } }],
    ['learningRate', { parameters: { learningRate: NaN } }],
    ['lambdaP', { parameters: { lambdaP: Infinity } }],
    ['networks', { parameters: { networks: ['nope'] } }],
    ['seed', { parameters: { seed: 2 ** 60 } }],
    ['preset', { parameters: { preset: 7 as never } }],
    ['priority', { priority: 9 as never }],
    ['pack', { pack: 'another' }],
    ['previews.every', { stream: { previews: { every: 0 } } }],
    ['previews.size', { stream: { previews: { picture: { size: 100_000 } } } }],
    ['result.quality', { stream: { result: { quality: 0 } } }],
    ['windowBytes', { stream: { windowBytes: 1 } }],
    ['resumeFrom.step', resume({ step: 6 })],
    ['resumeFrom.step', resume({ step: 0 })],
    ['resumeFrom.latent', resume({ latent: null })],
    ['resumeFrom.packDigest', resume({ packDigest: 'f'.repeat(64) })],
    ['resumeFrom.packDigest', resume({ packDigest: 'zz' })],
    ['resumeFrom.latent', latent({ shape: [4_000_000_000, 4_000_000_000, 4_000_000_000] })],
    ['resumeFrom.latent', latent({ data: Buffer.alloc(3) })],
    ['resumeFrom.latent', latent({ data: Buffer.alloc(4 * size, 0xff) })],
    ['resumeFrom.latent', latent({ type: 'NUMBER_TYPE_FLOAT16' })],
    ['resumeFrom.latent.type', latent({ type: 9 })],
  ]
  const stream = peer.edit()
  cases.forEach(([, changes], i) => stream.send(String(i), { start: startEdit(changes) }))
  stream.end()
  t.is(await stream.over, undefined)
  cases.forEach(([field], i) => {
    const own = stream.all.filter(({ editId }) => editId === String(i))
    const error = fromStatus(own.at(-1)!.failed!.status!)
    t.is(error.status, field === 'pack' ? 'NOT_FOUND' : 'INVALID_ARGUMENT', error.message)
    t.is(error.field, field)
    t.truthy(error.cure)
    t.is(own.filter((event) => event.failed !== undefined).length, 1)
  })
  const cures = cases.map((_, i) =>
    fromStatus(stream.all.filter(({ editId }) => editId === String(i)).at(-1)!.failed!.status!),
  )
  t.false(
    cures.some(({ message, cure }) => `${message} ${cure}`.includes('--')),
    'no flags of the command line',
  )
  t.like(cures[2], { cure: 'Give a JPEG, PNG, WebP, AVIF, GIF or TIFF picture.' })
  const steps = cures.filter(({ field }) => field === 'steps').map(({ cure }) => cure)
  t.deepEqual(steps, ['Use 1 to 100.', 'Use 1 to 100.'])
  const short = peer.edit()
  short.send('short', { start: startEdit({ targetText: '🍎'.repeat(50) }) })
  short.send('capital', {
    start: startEdit({ ...resume({ packDigest: pack.digest.toUpperCase(), latent: null, step: 0 }) }),
  })
  short.end()
  t.is(await short.over, undefined)
  t.is(short.all.filter((event) => event.completed !== undefined).length, 2)
  t.is(scheduler.edits.length, 2)
  t.is(scheduler.released, 2, 'the places of pictures that could not be read are free again')
})

test('a full queue says when to try again, before any picture is decoded', async (t) => {
  const { peer } = await serve(t, { places: 1, allowed: 0, options: { maxEditsPerStream: 2 } })
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  stream.send('b', { start: startEdit({ image: Buffer.from('no picture at all') }) })
  const { failed, sequence } = await stream.first('failed')
  t.is(sequence, 1)
  const error = fromStatus(failed.status!)
  t.is(error.status, 'RESOURCE_EXHAUSTED')
  t.is(error.retryAfterMs, 1500)
  const run = await peer.stream('RunEdit', { start: startEdit() }).over
  t.is(callError(run!).retryAfterMs, 1500)
  stream.cancel()
})

test('what goes wrong inside is told without its words', async (t) => {
  const { peer } = await serve(t)
  const events = peer.stream('RunEdit', { start: startEdit({ targetText: 'explode' }) })
  const { failed } = await events.first('failed')
  t.is(fromStatus(failed.status!).status, 'INTERNAL')
})

test('more edits than a stream may have', async (t) => {
  const { peer } = await serve(t, { allowed: 0, options: { maxEditsPerStream: 2 } })
  const stream = peer.edit()
  for (const id of ['a', 'b', 'c']) stream.send(id, { start: startEdit() })
  const { editId, failed } = await stream.first('failed')
  t.is(editId, 'c')
  t.is(fromStatus(failed.status!).status, 'RESOURCE_EXHAUSTED')
  stream.cancel()
})

test('random bytes and messages that are too large end their call and nothing else', async (t) => {
  const { peer, scheduler } = await serve(t, { allowed: 0, options: { maxImageBytes: 1024 } })
  const stream = peer.edit()
  stream.send('a', { start: startEdit({ image: Buffer.alloc(4 * 1024 ** 2) }) })
  t.is((await stream.over)?.code, codes.RESOURCE_EXHAUSTED)
  for (let i = 0; i < 30; i++) {
    const call = peer.client.makeBidiStreamRequest<Buffer, Buffer>(
      '/flexit.v1.Editor/Edit',
      (bytes) => bytes,
      (bytes) => bytes,
    )
    const over = new Promise<void>((resolve) => {
      call.on('error', () => resolve())
      call.on('end', () => resolve())
    })
    call.on('data', () => undefined)
    call.write(Buffer.concat([randomBytes(i), Buffer.from([0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]), randomBytes(i)]))
    call.end()
    await over
  }
  const lone = Buffer.from([0x0a, 0x03, 0xed, 0xa0, 0x80])
  const error = await new Promise<ServiceError | null>((resolve) =>
    peer.client.makeUnaryRequest(
      '/flexit.v1.Editor/GetEdit',
      () => lone,
      (bytes) => bytes,
      {},
      resolve,
    ),
  )
  t.is(error?.code, codes.NOT_FOUND, 'an id that is not UTF-8')
  const odd = peer.edit()
  odd.send('a', { start: startEdit({ image: Buffer.alloc(9), targetText: 'a ca\ufffd' }) })
  odd.send('b'.repeat(100_000), { cancel: {} })
  const failure = fromStatus((await odd.first('failed')).failed.status!)
  t.like(failure, {
    status: 'INVALID_ARGUMENT',
    field: 'target',
    message: 'the target text has bytes that are no UTF-8',
  })
  const rejection = (await odd.first('rejected')).rejected.status!
  t.true(JSON.stringify(rejection).length < 2000)
  odd.cancel()
  t.is(scheduler.edits.length, 0)
  t.is((await peer.unary<ServerInfo>('GetServerInfo', {})).version, '1.2.3')
})

test('health, reflection, information and metrics', async (t) => {
  const { peer, server } = await serve(t)
  const { Check } = healthService
  const health = (service: string) =>
    new Promise((resolve) =>
      peer.client.makeUnaryRequest(
        Check!.path,
        Check!.requestSerialize,
        Check!.responseDeserialize,
        { service },
        (error, answer) => resolve(error?.code ?? (answer as { status: string }).status),
      ),
    )
  t.deepEqual(await Promise.all(['', 'flexit.v1.Editor', 'nothing'].map(health)), [
    'SERVING',
    'SERVING',
    codes.NOT_FOUND,
  ])

  const reflection = peer.client.makeBidiStreamRequest<Buffer, Buffer>(
    '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
    (bytes) => bytes,
    (bytes) => bytes,
  )
  // list_services = "", field 7
  reflection.write(Buffer.from([0x3a, 0x00]))
  const services = await new Promise<Buffer>((resolve) => reflection.once('data', resolve))
  reflection.on('error', () => undefined)
  reflection.cancel()
  t.true(services.includes('flexit.v1.Editor'))
  t.true(services.includes('grpc.health.v1.Health'))

  const info = await peer.unary<ServerInfo>('GetServerInfo', {})
  t.like(info, { version: '1.2.3', devices: ['cpu'], draining: false })
  t.like(info.packs[0], { name: 'tiny', imageSize: 64, imageBackground: 'white', latentShape: [...latentShape] })

  await peer.stream('RunEdit', { start: startEdit({ stream: { previews: {} } }) }).over
  await new Promise((resolve) =>
    peer.client.makeUnaryRequest(
      '/flexit.v1.Editor/Nothing',
      () => Buffer.alloc(0),
      (bytes) => bytes,
      {},
      resolve,
    ),
  )
  const url = `http://127.0.0.1:${server.metricsPort}`
  const text = await (await fetch(`${url}/metrics`)).text()
  for (const line of [
    'flexit_steps_total{pack="tiny"} 5',
    'flexit_edits{state="running"} 0',
    'flexit_edits_finished_total{outcome="completed",code="OK",pack="tiny"} 1',
    'flexit_first_preview_seconds_count{pack="tiny"} 1',
    'flexit_inter_step_seconds_count{pack="tiny"} 4',
    'flexit_buffered_bytes 0',
    'flexit_grpc_handled_total{grpc_method="flexit.v1.Editor/RunEdit",grpc_type="server_stream",grpc_code="OK"} 1',
  ]) {
    t.true(text.includes(`${line}\n`), line)
  }
  t.false(text.includes('Nothing'), 'no label that a caller chose')
  t.is((await fetch(url)).status, 404)
  t.is((await fetch(`${url}/metrics?name=flexit`)).status, 200)
  t.is((await fetch(`${url}/metrics`, { method: 'HEAD' })).status, 200)
})

test('draining: not serving, no new edits, the others finish or are handed back', async (t) => {
  const lines: string[] = []
  const logger = createLogger('info', { write: (line: string) => void lines.push(line) })
  const { peer, scheduler, server } = await serve(t, { allowed: 1, options: { drainMs: 0 }, logger })
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  await stream.first('step')
  const drained = server.drain()
  stream.send('b', { start: startEdit() })
  const { handedBack } = await stream.first('handedBack')
  const { failed } = await stream.first('failed')
  t.like(fromStatus(failed.status!), { status: 'UNAVAILABLE', retryAfterMs: 250 })
  t.true(lines.some((line) => line.includes('"reason":"draining"')))
  t.is(await stream.over, undefined)
  await drained
  const { resumePoint, parameters, image, targetText } = handedBack.state!
  t.is(resumePoint?.step, 1)
  t.is(parameters?.seed, 7)
  t.is(targetText, 'tangerine')
  t.true(image.length > 100)
  t.is(scheduler.edits.length, 1)
  await t.notThrowsAsync(server.drain(), 'twice is once')
})
