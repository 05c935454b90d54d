// What the file of tokens says of tenants, and what happens when it is replaced while the server runs.
// Who is let in at all is tested in security.test.ts.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Metadata } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { AuthFile, openTenants } from '../../src/server/auth.js'
import { createLogger } from '../../src/server/logger.js'
import { fromStatus } from '../../src/proto/status.js'
import { serve, startEdit } from '../support-server/start.js'

const tokens = [
  { tenant: 'a', token: 'the-token-of-tenant-a' },
  { tenant: 'b', token: 'the-token-of-tenant-b' },
]

function fileOf(t: ExecutionContext) {
  const folder = mkdtempSync(join(tmpdir(), 'flexit-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'tokens.json')
  return { path, write: (contents: object) => writeFileSync(path, JSON.stringify(contents)) }
}

function bearer(token: string): Metadata {
  const metadata = new Metadata()
  metadata.set('authorization', `Bearer ${token}`)
  return metadata
}

test('a tenant has a weight, and no higher priority than it may have', async (t) => {
  const { path, write } = fileOf(t)
  write({ tokens, tenants: { a: { weight: 2.5, priority: 'normal' } } })
  const tenants = openTenants(path)
  t.deepEqual([tenants.weightOf('a'), tenants.weightOf('b'), tenants.weightOf('constructor')], [2.5, 1, 1])
  const { peer, scheduler } = await serve(t, { options: { authFile: path } })
  for (const { token } of tokens) {
    const stream = peer.edit(bearer(token))
    stream.send('1', { start: startEdit({ priority: 'PRIORITY_INTERACTIVE' }) })
    stream.send('2', { start: startEdit({ priority: 'PRIORITY_BATCH' }) })
    stream.send('3', { start: startEdit() })
    stream.end()
    await stream.over
  }
  t.deepEqual(
    scheduler.admitted.map(({ tenant, priority }) => `${tenant} ${priority}`),
    ['a normal', 'a batch', 'a normal', 'b interactive', 'b batch', 'b normal'],
  )
})

test('everyone is one tenant where there is no file', (t) => {
  const tenants = openTenants(undefined)
  t.is(tenants.authenticate(new Metadata()), 'default')
  t.is(tenants.weightOf('default'), 1)
  t.is(tenants.priorityOf('default', 'interactive'), 'interactive')
  t.false(tenants.reload())
})

test('tokens that are replaced count at once; a file that is none is passed over', async (t) => {
  const { path, write } = fileOf(t)
  write({ tokens })
  const lines: string[] = []
  const logger = createLogger('info', { write: (line: string) => void lines.push(line) })
  const { peer, server } = await serve(t, { options: { authFile: path }, logger })
  const warnings = () => lines.filter((line) => line.includes('cannot be used')).length
  const ask = (i: number) => peer.unary('GetServerInfo', {}, bearer(tokens[i]!.token))
  await ask(0)
  writeFileSync(path, '{"tokens"')
  server.reload()
  server.reload()
  t.is(warnings(), 1, 'it is said once')
  await ask(0)
  write({ tokens: [tokens[1]] })
  server.reload()
  await t.throwsAsync(ask(0), { message: /UNAUTHENTICATED/ })
  await ask(1)
  writeFileSync(path, '{"tokens"')
  server.reload()
  t.is(warnings(), 2, 'and anew after it was well')
})

test('a stream that is open starts and attaches nothing with a token that was taken out', async (t) => {
  const { path, write } = fileOf(t)
  write({ tokens })
  const { peer, server, scheduler } = await serve(t, { allowed: 1, options: { authFile: path } })
  const stream = peer.edit(bearer(tokens[0]!.token))
  stream.send('1', { start: startEdit() })
  await stream.first('step')
  const refused = async (contents: object) => {
    write(contents)
    server.reload()
    const before = stream.all.length
    stream.send('2', { start: startEdit() })
    const { failed, editId } = await stream.first('failed', (event) => stream.all.indexOf(event) >= before)
    t.deepEqual([editId, fromStatus(failed.status!).status], ['2', 'UNAUTHENTICATED'])
    stream.send('1', { attach: {} })
    const { rejected } = await stream.first('rejected', (event) => stream.all.indexOf(event) >= before)
    t.is(fromStatus(rejected.status!).status, 'UNAUTHENTICATED')
  }
  await refused({ tokens: [tokens[1]] })
  await refused({ tokens: [{ ...tokens[0]!, tenant: 'b' }] })
  scheduler.allow(10)
  await stream.first('completed')
  t.is(scheduler.edits.length, 1, 'what was under way went on')
  stream.end()
})

test('tenants that are described wrongly', (t) => {
  const { path, write } = fileOf(t)
  const wrong = [{ weight: 0 }, { weight: '2' }, { priority: 'high' }, { colour: 'red' }]
  for (const tenant of wrong) {
    write({ tokens, tenants: { a: tenant } })
    t.throws(() => new AuthFile(path), { code: 'INVALID_ARGUMENT', message: /at tenants\.a/ })
  }
})
