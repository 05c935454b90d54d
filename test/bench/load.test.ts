// The load generator and the attacks, on a server whose steps cost nothing.
// What is counted is known beforehand; times are only there.

import test from 'ava'
import { attacks } from '../../bench/kit/attacks.js'
import { Random } from '../../bench/kit/random.js'
import { RawConnection, frame } from '../../bench/kit/raw-call.js'
import { describeLoad, describeSweep, sweepToJson, toJson } from '../../bench/load/print.js'
import { type LoadPlan, runLoad } from '../../bench/load/run-load.js'
import { runSweep } from '../../bench/load/sweep.js'
import type { ClientEditRequest } from '../../src/client/client.js'
import { apple, serve } from '../support-server/start.js'

const request = (i: number): ClientEditRequest => ({
  image: apple,
  source: 'red apple',
  target: 'tangerine',
  parameters: { steps: 3, seed: i },
  previews: { every: 1 },
})

const planFor = (address: string): Omit<LoadPlan, 'arrivals'> => ({ servers: [address], request })

test('a closed loop makes its edits and times all of them', async (t) => {
  const { address, scheduler } = await serve(t)
  const result = await runLoad({ ...planFor(address), arrivals: { kind: 'closed', edits: 3 }, edits: 7 })
  t.like(result, { sent: 7, completed: 7, cut: 0, lost: 0 })
  t.deepEqual(scheduler.edits.map(({ state }) => state.parameters.seed).sort(), [0, 1, 2, 3, 4, 5, 6])
  t.deepEqual([...result.refused, ...result.failed], [])
  const { queueMs, firstPreviewMs, interStepMs, endToEndMs, lateMs } = result
  t.deepEqual(
    [queueMs, firstPreviewMs, interStepMs, endToEndMs, lateMs].map(({ count }) => count),
    [7, 7, 14, 7, 7],
  )
  t.true(result.editsPerSecond > 0 && result.stepsPerSecond > result.editsPerSecond)
  t.regex(describeLoad(result).join('\n'), /^7 sent: 7 completed\ngoodput .*\n.*p50.*\n +queue/)
  t.like(JSON.parse(JSON.stringify(toJson(result))), { completed: 7, refused: {}, endToEndMs: { count: 7 } })
})

test('an open loop counts who is refused, and cancels who is left when it is stopped', async (t) => {
  const { address } = await serve(t, { allowed: 0, places: 1 })
  const stop = new AbortController()
  const result = await runLoad({
    ...planFor(address),
    arrivals: { kind: 'open', perSecond: 1000, seed: 1 },
    edits: 5,
    signal: stop.signal,
    onProgress: ({ ended }) => {
      if (ended === 4) stop.abort()
    },
  })
  t.like(result, { sent: 5, completed: 0, cut: 1, lost: 0 })
  t.deepEqual(
    [...result.refused].map(([status, { count }]) => [status, count]),
    [['RESOURCE_EXHAUSTED', 4]],
  )
  t.regex(describeLoad(result).join('\n'), /1 cut off at the end\n[^]*refused: RESOURCE_EXHAUSTED/)
})

test('an edit that fails on its way is not one that was refused', async (t) => {
  const { address } = await serve(t)
  const failing = (i: number) => ({ ...request(i), target: 'explode' })
  const result = await runLoad({
    ...planFor(address),
    request: failing,
    arrivals: { kind: 'closed', edits: 1 },
    edits: 2,
  })
  t.deepEqual([...result.failed], [['INTERNAL', 2]])
  t.is(result.refused.size, 0)
})

test('a load that is stopped before it began sends nothing', async (t) => {
  const { address, scheduler } = await serve(t)
  const result = await runLoad({
    ...planFor(address),
    arrivals: { kind: 'closed', edits: 2 },
    signal: AbortSignal.abort(),
  })
  t.is(result.sent, 0)
  t.is(scheduler.admitted.length, 0)
})

test('a sweep offers parts of the capacity that it found', async (t) => {
  const { address } = await serve(t)
  const told: string[] = []
  const options = { edits: 2, seed: 1, seconds: 0.2, onPoint: (what: string) => told.push(what) }
  const sweep = await runSweep(planFor(address), options)
  t.is(told.length, sweep.points.length + 1)
  for (const { part, offeredPerSecond } of sweep.points) {
    t.is(offeredPerSecond, part * sweep.capacity.editsPerSecond)
  }
  t.is(describeSweep(sweep).length, sweep.points.length + 3)
  t.like(JSON.parse(JSON.stringify(sweepToJson(sweep))), { capacity: { lost: 0 } })
})

test('every attack is answered, and the server goes on', async (t) => {
  const { server, peer } = await serve(t)
  for (const { name, make } of attacks) {
    const connection = new RawConnection(server.port)
    const { answer, message } = await connection.call(await make(new Random(1)))
    connection.close()
    t.not(answer, 'no answer', name)
    t.notRegex(message, /should not/, name)
  }
  t.like(await peer.unary('GetServerInfo', {}), { draining: false })
})

test('a message that lies about its size is seen through', async (t) => {
  const { server } = await serve(t)
  const connection = new RawConnection(server.port)
  t.teardown(() => connection.close())
  const body = frame(Buffer.from('x'), { declared: 2 ** 32 - 1 })
  t.is((await connection.call({ method: 'GetServerInfo', body })).answer, 'RESOURCE_EXHAUSTED')
  const empty = frame(Buffer.alloc(0))
  t.is((await connection.call({ method: 'GetServerInfo', body: empty })).answer, 'OK')
  t.is((await connection.call({ method: 'Nothing', body: empty })).answer, 'UNIMPLEMENTED')
})
