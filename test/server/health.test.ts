// What the server says of its health while devices fail, nothing moves, and it drains.
// The clock is moved by hand.

import { Client, Server, ServerCredentials, credentials } from '@grpc/grpc-js'
import type { MethodDefinition } from '@grpc/proto-loader'
import test, { type ExecutionContext } from 'ava'
import { service } from 'grpc-health-check'
import { type Condition, Health, livenessService, stalledAfterMs } from '../../src/server/health.js'

const check = service['Check'] as MethodDefinition<{ service: string }, { status: string }>
const well: Condition = { workingDevices: 2, dueEdits: 3, slots: 2, progress: 10 }

async function served(t: ExecutionContext) {
  const health = new Health()
  const server = new Server()
  health.addToServer(server)
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  )
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure())
  t.teardown(() => {
    client.close()
    server.forceShutdown()
  })
  const ask = (name: string) =>
    new Promise<string>((resolve, reject) =>
      client.makeUnaryRequest(
        check.path,
        check.requestSerialize,
        check.responseDeserialize,
        { service: name },
        (e, a) => (e === null ? resolve(a!.status) : reject(e)),
      ),
    )
  const says = async () => {
    const said = await Promise.all(['', 'flexit.v1.Editor', livenessService].map(ask))
    // What the port of the metrics tells.
    const own = [health.takesEdits, health.takesEdits, health.alive].map((well) => (well ? yes : no))
    return said.every((status, i) => status === own[i]) ? said : [said, own]
  }
  return { health, says }
}

const [yes, no] = ['SERVING', 'NOT_SERVING']

test('a server takes edits from the first moment', async (t) => {
  const { health, says } = await served(t)
  t.deepEqual(await says(), [yes, yes, yes])
  health.look(well, 0)
  t.deepEqual(await says(), [yes, yes, yes])
})

test('one that drains lives', async (t) => {
  const { health, says } = await served(t)
  health.drain()
  health.look(well, 1e9)
  t.deepEqual(await says(), [no, no, yes])
})

test('without a device it is dead; with one left it is not', async (t) => {
  const { health, says } = await served(t)
  health.look({ ...well, workingDevices: 1 }, 0)
  t.deepEqual(await says(), [yes, yes, yes])
  health.look({ ...well, workingDevices: 0, dueEdits: 0 }, 1)
  t.deepEqual(await says(), [no, no, no])
})

test('a scheduler that does nothing though edits are due is dead until it moves', async (t) => {
  const { health, says } = await served(t)
  health.look(well, 1000)
  health.look(well, 999 + stalledAfterMs)
  t.deepEqual(await says(), [yes, yes, yes])
  health.look(well, 1000 + stalledAfterMs)
  t.deepEqual(await says(), [no, no, no])
  health.look({ ...well, progress: 11 }, 1001 + stalledAfterMs)
  t.deepEqual(await says(), [yes, yes, yes])
})

test('a scheduler without edits may do nothing for ever, and the time begins with the next edit', async (t) => {
  const { health, says } = await served(t)
  const idle = { ...well, dueEdits: 0 }
  health.look(idle, 0)
  health.look(idle, 10 * stalledAfterMs)
  health.look(well, 11 * stalledAfterMs - 1)
  t.deepEqual(await says(), [yes, yes, yes])
  health.look(well, 11 * stalledAfterMs)
  t.deepEqual(await says(), [no, no, no])
})
