// Who is let in: tokens and their tenants, TLS, client certificates, certificates that are replaced.
// Certificates are in test/fixtures/tls.

import { X509Certificate, createHash } from 'node:crypto'
import { once } from 'node:events'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Metadata, credentials, status as codes } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { connect } from '../../src/client/client.js'
import { AuthFile } from '../../src/server/auth.js'
import { CertificateFiles } from '../../src/server/certificate-files.js'
import { createLogger } from '../../src/server/logger.js'
import { Peer } from '../support-server/peer.js'
import { apple, serve, startEdit } from '../support-server/start.js'

const fixtures = fileURLToPath(new URL('../../../test/fixtures/tls/', import.meta.url))
const fixture = (name: string) => join(fixtures, name)

function folder(t: ExecutionContext): string {
  const path = mkdtempSync(join(tmpdir(), 'flexit-'))
  t.teardown(() => rmSync(path, { recursive: true }))
  return path
}

function authFile(t: ExecutionContext): string {
  const path = join(folder(t), 'tokens.json')
  const digest = createHash('sha256').update('the token of b, hashed').digest('hex')
  const tokens = [
    { tenant: 'a', token: 'the-token-of-a-plain' },
    { tenant: 'b', sha256: digest },
  ]
  writeFileSync(path, JSON.stringify({ tokens }))
  return path
}

function withHeader(name: string, value: string): Metadata {
  const metadata = new Metadata()
  metadata.set(name, value)
  return metadata
}

test('tokens are tenants; without one nothing is answered', async (t) => {
  const { peer, scheduler, address } = await serve(t, { options: { authFile: authFile(t) } })
  const a = withHeader('authorization', 'Bearer the-token-of-a-plain')
  const b = withHeader('x-api-key', 'the token of b, hashed')
  const refused = [new Metadata(), withHeader('authorization', 'Bearer no'), withHeader('authorization', 'Basic x')]
  for (const metadata of refused) {
    await t.throwsAsync(peer.unary('GetServerInfo', {}, metadata), { message: /UNAUTHENTICATED/ })
    t.is((await peer.edit(metadata).over)?.code, codes.UNAUTHENTICATED)
  }
  const stream = peer.edit(a)
  stream.send('same', { start: startEdit() })
  await stream.first('completed')
  t.is(scheduler.admitted[0]!.tenant, 'a')
  t.like(await peer.unary('ListEdits', {}, b), { edits: [] })
  await t.throwsAsync(peer.unary('GetEdit', { editId: 'same' }, b), { message: /NOT_FOUND/ })
  const other = peer.edit(b)
  other.send('same', { start: startEdit() })
  await other.first('completed')
  t.is(scheduler.admitted[1]!.tenant, 'b')
  for (const one of [stream, other]) one.end()

  const client = connect(address, { token: 'the-token-of-a-plain' })
  t.teardown(() => client.close())
  t.is((await client.getEdit('same')).status, 'completed')
  const stranger = connect(address, { token: 'wrong' })
  t.teardown(() => stranger.close())
  await t.throwsAsync(stranger.edit({ image: apple, source: 'a', target: 'b' }).result(), {
    message: /token is not known/,
  })
})

/** What a call ends with whose request lacks its last byte: waiting for it would be holding the others. */
async function endOfHalf(session: ClientHttp2Session, path: string, bytes: number): Promise<unknown> {
  const headers = { ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers' }
  const call = session.request(headers, { endStream: false })
  const head = Buffer.alloc(5)
  head.writeUInt32BE(bytes, 1)
  call.write(Buffer.concat([head, Buffer.alloc(1000)]))
  const [answered] = (await once(call, 'response')) as [Record<string, unknown>]
  call.close()
  return Number(answered['grpc-status'])
}

test('of strangers no request is waited for', async (t) => {
  const { server } = await serve(t, { options: { authFile: authFile(t) } })
  const session = connectHttp2(`http://127.0.0.1:${server.port}`)
  t.teardown(() => session.destroy())
  for (const method of ['GetEdit', 'RunEdit', 'Edit', 'Attach']) {
    t.is(await endOfHalf(session, `/flexit.v1.Editor/${method}`, 1_000_000), codes.UNAUTHENTICATED, method)
  }
  const open = ['/grpc.health.v1.Health/Check', '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo']
  for (const path of open) t.is(await endOfHalf(session, path, 1_000_000), codes.RESOURCE_EXHAUSTED, path)
})

test('files of tokens that are none', (t) => {
  const path = join(folder(t), 'tokens.json')
  t.throws(() => new AuthFile(path), { code: 'NOT_FOUND' })
  const wrong = [
    '',
    '{}',
    '{"tokens":[]}',
    '{"tokens":[{"tenant":"a","token":"short"}]}',
    '{"tokens":[{"tenant":"a b","sha256":"00"}]}',
  ]
  for (const text of wrong) {
    writeFileSync(path, text)
    const error = t.throws(() => new AuthFile(path), { code: 'INVALID_ARGUMENT' })
    t.false(error.message.includes('short'), 'its contents are not told')
  }
  const tokens = [{ tenant: 'a', token: 'the-token-of-a-plain' }]
  writeFileSync(path, JSON.stringify({ tokens, tenants: { a: {}, nightli: {} } }))
  t.throws(() => new AuthFile(path), {
    code: 'INVALID_ARGUMENT',
    message: /tenants\.nightli: no token is of this tenant/,
  })
  writeFileSync(path, JSON.stringify({ tokens: [...tokens, { tenant: 'b', token: 'the-token-of-a-plain' }] }))
  t.throws(() => new AuthFile(path), {
    code: 'INVALID_ARGUMENT',
    message: /tokens\.1: its token is also of the tenant "a"$/,
  })
})

test('TLS, with certificates that are replaced while it runs', async (t) => {
  const path = folder(t)
  const [tlsCert, tlsKey] = [join(path, 'cert.pem'), join(path, 'key.pem')]
  const use = (name: string) => {
    copyFileSync(fixture(`${name}.pem`), tlsCert)
    copyFileSync(fixture(`${name}.key`), tlsKey)
  }
  use('a')
  const lines: string[] = []
  const logger = createLogger('info', { write: (line: string) => void lines.push(line) })
  const { server } = await serve(t, { options: { tlsCert, tlsKey }, logger })
  const address = `localhost:${server.port}`
  const measured = async () => {
    const text = await (await fetch(`http://127.0.0.1:${server.metricsPort}/metrics`)).text()
    const valueOf = (name: string) =>
      Number(
        text
          .split('\n')
          .find((line) => line.startsWith(`${name} `))
          ?.split(' ')[1],
      )
    return ['flexit_reload_failed{what="certificates"}', 'flexit_certificate_expiry_timestamp_seconds'].map(valueOf)
  }
  const endSeconds = (name: string) => Date.parse(new X509Certificate(readFileSync(fixture(name))).validTo) / 1000
  const ask = async (ca: string) => {
    const client = connect(address, { tls: { ca: fixture(ca) } })
    try {
      return (await client.serverInfo()).version
    } finally {
      client.close()
    }
  }
  t.is(await ask('a.pem'), '1.2.3')
  await t.throwsAsync(ask('b.pem'), { code: 'UNAVAILABLE' })
  const plain = new Peer(address)
  t.teardown(() => plain.close())
  await t.throwsAsync(plain.unary('GetServerInfo', {}), { message: /UNAVAILABLE/ })

  copyFileSync(fixture('b.pem'), tlsCert)
  server.reload()
  t.is(await ask('a.pem'), '1.2.3', 'a pair that is half replaced is not used')
  t.deepEqual(await measured(), [1, endSeconds('a.pem')])
  use('a')
  server.reload()
  t.deepEqual(await measured(), [0, endSeconds('a.pem')])
  t.regex(lines.at(-1)!, /can be used again/)
  use('b')
  server.reload()
  t.is(await ask('b.pem'), '1.2.3')
  await t.throwsAsync(ask('a.pem'), { code: 'UNAVAILABLE' })
  t.deepEqual(await measured(), [0, endSeconds('b.pem')])
})

test('mutual TLS', async (t) => {
  const options = { tlsCert: fixture('a.pem'), tlsKey: fixture('a.key'), tlsClientCa: fixture('client.pem') }
  const { server } = await serve(t, { options })
  const address = `localhost:${server.port}`
  const known = connect(address, {
    tls: { ca: fixture('a.pem'), cert: fixture('client.pem'), key: fixture('client.key') },
  })
  t.teardown(() => known.close())
  t.is((await known.serverInfo()).version, '1.2.3')
  const stranger = new Peer(address, credentials.createSsl(readFileSync(fixture('a.pem'))))
  t.teardown(() => stranger.close())
  await t.throwsAsync(stranger.unary('GetServerInfo', {}), { message: /UNAVAILABLE/ })
})

test('files that are no certificates, or do not belong together', (t) => {
  const [a, b] = [fixture('a.pem'), fixture('b.key')]
  t.throws(() => new CertificateFiles({ certificate: a, key: b }), { message: /is not the key of/ })
  t.throws(() => new CertificateFiles({ certificate: b, key: b }), { message: /PEM/ })
  t.throws(() => new CertificateFiles({ certificate: fixture('none'), key: b }), { code: 'NOT_FOUND' })
  const authorities = join(folder(t), 'authorities.pem')
  const use = (...blocks: string[]) => {
    writeFileSync(authorities, blocks.join('comment\n'))
    return () => new CertificateFiles({ certificate: a, key: fixture('a.key'), authorities })
  }
  const [one, other] = ['client.pem', 'b.pem'].map((name) => readFileSync(fixture(name), 'utf8')) as [string, string]
  t.notThrows(use(one, other))
  t.notThrows(use(one.replaceAll(' CERTIFICATE', ' TRUSTED CERTIFICATE'), other))
  const message = /certificate 2 in .*authorities\.pem is not a certificate/
  t.throws(use(one, other.replace(/M/, '?'), one), { code: 'INVALID_ARGUMENT', message })
  t.throws(use(one, other.slice(0, 300)), { code: 'INVALID_ARGUMENT', message })
  t.throws(use('# none'), { code: 'INVALID_ARGUMENT', message: /authorities\.pem is not/ })
})
