// `flexit health`: what it says of servers that are well, going away, or not there.
// The server is one of the tests', with the fake scheduler.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { serve, startEdit } from '../support-server/start.js'
import { flexit, newFolder, parseLines, root } from './support.js'

test('a server that takes edits is well', async (t) => {
  const { address } = await serve(t)
  const all = await flexit(['health', '--server', address])
  t.deepEqual(all, { code: 0, stdout: 'SERVING\n', stderr: '' })
  const { code } = await flexit(['health', '--service', 'flexit.v1.Editor'], {
    env: { FLEXIT_PORT: address.slice(10) },
  })
  t.is(code, 0, 'on this machine, at the port of the variable')
})

test('the server of this machine is asked as its variables say, over TLS too', async (t) => {
  const fixture = (name: string) => join(root, 'test', 'fixtures', 'tls', name)
  const [tlsCert, tlsKey, tlsClientCa] = [fixture('a.pem'), fixture('a.key'), fixture('a.pem')]
  const { server } = await serve(t, { options: { tlsCert, tlsKey, tlsClientCa } })
  const env = {
    FLEXIT_PORT: String(server.port),
    FLEXIT_TLS_CERT: tlsCert,
    FLEXIT_TLS_KEY: tlsKey,
    FLEXIT_TLS_CLIENT_CA: tlsClientCa,
  }
  t.deepEqual(await flexit(['health'], { env }), { code: 0, stdout: 'SERVING\n', stderr: '' })
  const elsewhere = await flexit(['health', '--server', `localhost:${server.port}`], { env })
  t.is(elsewhere.code, 1, 'what is named is asked as the flags say')
  const broken = await flexit(['health'], { env: { ...env, FLEXIT_TLS_CERT: fixture('a.key') } })
  t.is(broken.code, 2)
  t.regex(broken.stderr, /a\.key is not a certificate or key in PEM form/)
})

test('a server that drains takes no edits, and lives', async (t) => {
  const { address, peer, server, scheduler } = await serve(t, { allowed: 1, options: { drainMs: 600_000 } })
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  await stream.first('step')
  const drained = server.drain()
  const [editor, liveness] = await Promise.all([
    flexit(['health', '--server', address, '--service', 'flexit.v1.Editor']),
    flexit(['health', '--server', address, '--service', 'flexit.v1.Liveness']),
  ])
  t.is(editor.code, 1)
  t.is(editor.stdout, 'NOT_SERVING\n')
  t.regex(editor.stderr, /is not well: it says NOT_SERVING/)
  t.is(liveness.code, 0)
  scheduler.allow(10)
  stream.end()
  await drained
})

test('no server, no such service, and options that make no sense', async (t) => {
  const { address } = await serve(t)
  const [none, unknown, half, odd] = await Promise.all([
    flexit(['health', '--server', '127.0.0.1:1']),
    flexit(['health', '--server', address, '--service', 'flexit.v1.Nobody']),
    flexit(['health', '--server', address, '--tls-cert', 'cert.pem']),
    flexit(['health', '--server', 'localhost', '--timeout', '5']),
  ])
  t.is(none.code, 1)
  t.regex(none.stderr, /127\.0\.0\.1:1 is not well: .*ECONNREFUSED/)
  t.is(unknown.code, 2)
  t.regex(unknown.stderr, /has no service "flexit\.v1\.Nobody"/)
  t.is(half.code, 2)
  t.regex(half.stderr, /belong together/)
  t.is(odd.code, 2)
  t.regex(odd.stderr, /"localhost" is not HOST:PORT/)
})

test('SIGHUP has a server read its files again, and go on; all that it says is lines of JSON', async (t) => {
  const file = join(newFolder(), 'tokens.json')
  const write = (token: string) => writeFileSync(file, JSON.stringify({ tokens: [{ tenant: 'a', token }] }))
  write('the-token-of-before')
  const serving = ['serve', '--port', '0', '--metrics-port', '0', '--threads', '1', '--auth-file', file]
  let signals = 0
  const { code, signal, stderr } = await flexit(serving, {
    onOutput: (child, stdout) => {
      if (!stdout.includes('try it') || signals > 0) return
      signals = 1
      write('the-token-of-afterwards')
      child.kill('SIGHUP')
    },
    onError: (child, text) => {
      if (!text.includes('tokens reloaded') || signals > 1) return
      signals = 2
      child.kill('SIGTERM')
    },
  })
  t.is(signal, undefined, stderr)
  t.is(code, 0, stderr)
  const said = parseLines(stderr).map(({ msg }) => String(msg))
  t.true(said.some((msg) => msg.startsWith('going away')))
  t.is(said.at(-1), 'ended')
})
