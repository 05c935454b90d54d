// Tests of downloads against a local server that breaks connections, lies and redirects.
// No test waits for a clock: pauses are 1 ms, and a server that is to fail closes its connection.

import test, { type ExecutionContext } from 'ava'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { type IncomingMessage, type RequestListener, type ServerResponse, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { type ErrorCode, FlexitError } from '../../../src/engine/errors.js'
import { type DownloadOptions, type Progress, downloadFile } from '../../../src/engine/pack/download.js'

delete process.env['HF_TOKEN']
delete process.env['HF_ENDPOINT']

const temporary = await mkdtemp(join(tmpdir(), 'flexit-download-'))
test.after.always(() => rm(temporary, { recursive: true, force: true }))

const content = randomBytes(300_000)
const sha256 = createHash('sha256').update(content).digest('hex')
const bytes = content.length

async function serve(t: ExecutionContext, listener: RequestListener): Promise<{ url: string; requests: string[] }> {
  const requests: string[] = []
  const server = createServer((request, response) => {
    requests.push(`${request.url ?? ''} ${request.headers.range ?? 'whole'}`)
    listener(request, response)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests }
}

/** What an honest server does; with `limit`, it then leaves the client waiting for the rest. */
function send(request: IncomingMessage, response: ServerResponse, limit = Infinity, body = content, etag = '"1"') {
  const range = /^bytes=(\d+)-$/.exec(request.headers.range ?? '')
  const ifRange = request.headers['if-range']
  const from = range && (ifRange === undefined || ifRange === etag) ? Number(range[1]) : 0
  if (from > 0 && from >= body.length) {
    response.writeHead(416, { 'content-type': 'text/html' }).end('<p>416')
    return
  }
  const headers = { etag, 'content-length': body.length - from }
  if (from > 0)
    response.writeHead(206, { ...headers, 'content-range': `bytes ${from}-${body.length - 1}/${body.length}` })
  else response.writeHead(200, headers)
  if (from + limit >= body.length) response.end(body.subarray(from))
  else response.write(body.subarray(from, from + limit))
}

/** Breaks a held connection once the client has all that came over it: sooner, some of it could get lost on the way. */
class Cutter {
  #held: { response: ServerResponse; atBytes: number } | undefined

  hold(response: ServerResponse, atBytes: number): void {
    this.#held = { response, atBytes }
  }

  readonly onProgress = ({ receivedBytes }: Progress): void => {
    if (receivedBytes !== this.#held?.atBytes) return
    this.#held.response.destroy()
    this.#held = undefined
  }
}

/** A path in a new folder. */
async function target(): Promise<string> {
  return join(await mkdtemp(join(temporary, 'case-')), 'weights.bin')
}

/** Download one URL with everything known about it. */
const download = (url: string, path: string, options: Partial<DownloadOptions> = {}) =>
  downloadFile({ sources: [url], path, bytes, sha256, retryDelayMs: 1, ...options })

async function failure(t: ExecutionContext, promise: Promise<unknown>, path: string): Promise<FlexitError> {
  const error = await t.throwsAsync(promise, { instanceOf: FlexitError })
  t.false(existsSync(path), 'nothing half-done is in its place')
  t.truthy(error.cure)
  return error
}

test('a file arrives whole, with its size and sha256, and leaves nothing beside it', async (t) => {
  const { url } = await serve(t, send)
  const path = join(dirname(await target()), 'new', 'folder', 'weights.bin')
  const seen: Progress[] = []
  const options = { sources: [`${url}/f`], path, onProgress: (progress: Progress) => void seen.push(progress) }
  t.deepEqual(await downloadFile(options), { bytes, sha256, source: `${url}/f` })
  t.deepEqual(await readFile(path), content)
  t.deepEqual(await readdir(dirname(path)), ['weights.bin'])
  t.deepEqual(seen.at(0), { file: 'weights.bin', receivedBytes: 0, totalBytes: bytes })
  t.deepEqual(seen.at(-1), { file: 'weights.bin', receivedBytes: bytes, totalBytes: bytes })
})

test('an empty file is a file', async (t) => {
  const { url } = await serve(t, (request, response) => send(request, response, Infinity, Buffer.alloc(0)))
  const path = await target()
  t.is((await download(url, path, { bytes: 0, sha256: undefined })).bytes, 0)
  t.deepEqual(await readdir(dirname(path)), ['weights.bin'])
})

test('a file that comes compressed, unasked, is whole all the same', async (t) => {
  const body = Buffer.alloc(1_000_000, 'a line\n')
  const packed = gzipSync(body)
  const headers = { 'content-encoding': 'gzip', etag: '"1"' }
  const { url, requests } = await serve(t, (request, response) => {
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0)
    const range = from > 0 ? { 'content-range': `bytes ${from}-${packed.length - 1}/${packed.length}` } : {}
    const rest = packed.subarray(from)
    response.writeHead(from > 0 ? 206 : 200, { ...headers, ...range, 'content-length': rest.length }).end(rest)
  })
  const path = await target()
  t.is((await downloadFile({ sources: [url], path })).bytes, body.length)
  t.true((await readFile(path)).equals(body))

  // Nor is a range of it glued to a part.
  const other = await target()
  await writeFile(`${other}.part`, body.subarray(0, 100))
  const known = { bytes: body.length, sha256: createHash('sha256').update(body).digest('hex') }
  await downloadFile({ sources: [url], path: other, ...known, retryDelayMs: 1 })
  t.true((await readFile(other)).equals(body))
  t.deepEqual(requests, ['/ whole', '/ bytes=100-', '/ whole'])
})

test('a connection that breaks again and again is resumed where it broke', async (t) => {
  const cutter = new Cutter()
  let sent = 0
  const { url, requests } = await serve(t, (request, response) => {
    send(request, response, 40_000)
    cutter.hold(response, (sent += 40_000))
  })
  const path = await target()
  await download(url, path, { sha256: undefined, onProgress: cutter.onProgress })
  t.deepEqual(await readFile(path), content)
  t.deepEqual(requests, ['/ whole', ...[1, 2, 3, 4, 5, 6, 7].map((i) => `/ bytes=${i * 40_000}-`)])
})

test('a server that ignores ranges is read again from zero', async (t) => {
  const cutter = new Cutter()
  const { url, requests } = await serve(t, (request, response) => {
    const isFirst = request.headers.range === undefined
    delete request.headers.range
    send(request, response, isFirst ? 100_000 : Infinity)
    if (isFirst) cutter.hold(response, 100_000)
  })
  const path = await target()
  await download(url, path, { onProgress: cutter.onProgress })
  t.deepEqual(await readFile(path), content)
  t.deepEqual(requests, ['/ whole', '/ bytes=100000-'])
})

test('a server that ignores ranges and breaks at the same place for ever is given up', async (t) => {
  const cutter = new Cutter()
  const { url, requests } = await serve(t, (request, response) => {
    delete request.headers.range
    send(request, response, 100_000)
    cutter.hold(response, 100_000)
  })
  const path = await target()
  const error = await failure(t, download(url, path, { onProgress: cutter.onProgress }), path)
  t.is(error.code, 'UNAVAILABLE')
  t.is(requests.length, 5)
})

test('stopped by its signal, a download stays as a part, and a later one goes on', async (t) => {
  const { url, requests } = await serve(t, (request, response) => {
    if (request.headers.range) send(request, response)
    else response.writeHead(200, { etag: '"1"', 'content-length': bytes }).write(content.subarray(0, 100_000))
  })
  const path = await target()
  const controller = new AbortController()
  const onProgress = ({ receivedBytes }: Progress) => {
    if (receivedBytes === 100_000) controller.abort()
  }
  const error = await failure(t, download(url, path, { signal: controller.signal, onProgress }), path)
  t.is(error.code, 'CANCELLED')
  t.deepEqual(await readFile(`${path}.part`), content.subarray(0, 100_000))
  await download(url, path, { sha256: undefined })
  t.deepEqual(requests, ['/ whole', '/ bytes=100000-'])
  t.deepEqual(await readFile(path), content)
})

test('a signal that fires between two attempts stops the download', async (t) => {
  const controller = new AbortController()
  const { url } = await serve(t, (_, response) => {
    response.writeHead(503).end(() => setImmediate(() => controller.abort()))
  })
  const path = await target()
  const error = await failure(t, download(url, path, { signal: controller.signal, retryDelayMs: 3_600_000 }), path)
  t.is(error.code, 'CANCELLED')
})

test('a file that changed on the server is not glued to its old part', async (t) => {
  const old = randomBytes(bytes)
  const cutter = new Cutter()
  const { url, requests } = await serve(t, (request, response) => {
    if (request.headers.range) send(request, response)
    else {
      send(request, response, 100_000, old, '"old"')
      cutter.hold(response, 100_000)
    }
  })
  const path = await target()
  await download(url, path, { sha256: undefined, onProgress: cutter.onProgress })
  t.deepEqual(await readFile(path), content)
  t.deepEqual(requests, ['/ whole', '/ bytes=100000-'])
})

test('nor by a server that continues any range it is asked for', async (t) => {
  const cutter = new Cutter()
  const { url, requests } = await serve(t, (request, response) => {
    delete request.headers['if-range']
    const isFirst = requests.length === 1
    send(request, response, isFirst ? 100_000 : Infinity, isFirst ? randomBytes(bytes) : content, `"${isFirst}"`)
    if (isFirst) cutter.hold(response, 100_000)
  })
  const path = await target()
  await download(url, path, { sha256: undefined, onProgress: cutter.onProgress })
  t.deepEqual(await readFile(path), content)
  t.deepEqual(requests, ['/ whole', '/ bytes=100000-', '/ whole'])
})

test('a body without end is left once it is too long', async (t) => {
  const { url } = await serve(t, (_, response) => {
    const pour = () => {
      while (!response.destroyed && response.write(content)) continue
    }
    response.on('drain', pour)
    pour()
  })
  const path = await target()
  const error = await failure(t, download(url, path), path)
  t.is(error.code, 'DATA_LOSS')
  t.regex(error.message, /more bytes, expected 300000/)
})

test('a part of unknown origin grows only where the sha256 is known', async (t) => {
  const { url, requests } = await serve(t, send)
  const known = await target()
  await writeFile(`${known}.part`, content.subarray(0, 1000))
  await download(`${url}/known`, known)
  const unknown = await target()
  await writeFile(`${unknown}.part`, content.subarray(0, 1000))
  await writeFile(`${unknown}.part.json`, '{ garbage')
  await download(`${url}/unknown`, unknown, { sha256: undefined })
  t.deepEqual(requests, ['/known bytes=1000-', '/unknown whole'])
  t.deepEqual(await readFile(known), content)
  t.deepEqual(await readFile(unknown), content)
})

test('a part that is already whole needs no server', async (t) => {
  const path = await target()
  await writeFile(`${path}.part`, content)
  await download('http://127.0.0.1:9/', path)
  t.deepEqual(await readFile(path), content)
})

test('a part that is too long is thrown away', async (t) => {
  const { url, requests } = await serve(t, send)
  const path = await target()
  await writeFile(`${path}.part`, Buffer.concat([content, content]))
  await download(url, path)
  t.deepEqual(await readFile(path), content)
  t.is(requests.length, 2)
})

test('a part that is damaged is begun again before a source is blamed for it', async (t) => {
  const { url, requests } = await serve(t, send)
  const whole = await target()
  await writeFile(`${whole}.part`, randomBytes(bytes))
  t.is((await download(url, whole)).source, url)
  t.deepEqual(requests, ['/ whole'])
  const half = await target()
  await writeFile(`${half}.part`, randomBytes(bytes / 2))
  await download(url, half)
  t.deepEqual(requests.slice(1), [`/ bytes=${bytes / 2}-`, '/ whole'])
  for (const path of [whole, half]) t.deepEqual(await readFile(path), content)
})

test('what another source has sent is no fault of the one that goes on with it', async (t) => {
  const cutter = new Cutter()
  const wrong = randomBytes(bytes)
  const { url } = await serve(t, (request, response) => {
    if (request.url === '/right') send(request, response)
    else if (request.headers.range !== undefined) response.writeHead(404).end()
    else {
      send(request, response, 100_000, wrong)
      cutter.hold(response, 100_000)
    }
  })
  const path = await target()
  const sources = [`${url}/wrong`, `${url}/right`]
  const { source } = await download(url, path, { sources, onProgress: cutter.onProgress })
  t.is(source, `${url}/right`)
  t.deepEqual(await readFile(path), content)
})

test('wrong bytes are deleted and named', async (t) => {
  const wrong = randomBytes(bytes)
  const { url } = await serve(t, (request, response) => send(request, response, Infinity, wrong))
  const path = await target()
  const error = await failure(t, download(url, path), path)
  t.is(error.code, 'DATA_LOSS')
  t.true(error.message.includes(sha256))
  t.true(error.message.includes(createHash('sha256').update(wrong).digest('hex')))
  t.deepEqual(await readdir(dirname(path)), [])
})

test('the first digits of a sha256 are enough to refuse a file', async (t) => {
  const { url } = await serve(t, send)
  const path = await target()
  const known = { sha256: undefined, sha256Prefix: sha256.slice(0, 8) }
  await download(url, path, known)
  const other = await target()
  const digits = sha256.startsWith('0') ? '11111111' : '00000000'
  const error = await failure(t, download(url, other, { ...known, sha256Prefix: digits }), other)
  t.is(error.code, 'DATA_LOSS')
  t.regex(error.message, new RegExp(`${sha256}.*${digits}`))
})

const liars: [name: string, listener: RequestListener, code: ErrorCode, message: RegExp][] = [
  [
    'states too short a length',
    (_, response) => response.writeHead(200, { 'content-length': 1000 }).end(content.subarray(0, 1000)),
    'DATA_LOSS',
    /1000 bytes, expected 300000/,
  ],
  [
    'states a length that it does not send',
    (_, response) => {
      response.writeHead(200, { 'content-length': bytes }).write(content.subarray(0, 1000), () => response.destroy())
    },
    'UNAVAILABLE',
    /cannot reach 127/,
  ],
  [
    'sends more than the file, length unstated',
    (_, response) => response.writeHead(200).end(Buffer.concat([content, content])),
    'DATA_LOSS',
    /more bytes, expected 300000/,
  ],
  [
    'sends less than the file, length unstated',
    (_, response) => response.writeHead(200).end(content.subarray(0, 1000)),
    'UNAVAILABLE',
    /ended early/,
  ],
  [
    'sends a web page',
    (_, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<h1>Welcome to our Wi-Fi'),
    'UNAVAILABLE',
    /web page/,
  ],
  ['closes every connection', (request) => request.socket.destroy(), 'UNAVAILABLE', /cannot reach 127/],
  ['answers 503 for ever', (_, response) => response.writeHead(503).end(), 'UNAVAILABLE', /answers 503/],
  [
    'redirects in circles',
    (_, response) => response.writeHead(302, { location: '/again' }).end(),
    'UNAVAILABLE',
    /in circles/,
  ],
  [
    'redirects to a file',
    (_, response) => response.writeHead(302, { location: 'file:///etc/passwd' }).end(),
    'UNAVAILABLE',
    /redirects to no address/,
  ],
  ['has no such file', (_, response) => response.writeHead(404).end(), 'NOT_FOUND', /answers 404/],
  ['wants a token', (_, response) => response.writeHead(401).end(), 'FAILED_PRECONDITION', /answers 401.*HF_TOKEN/],
  ['forbids', (_, response) => response.writeHead(403).end(), 'FAILED_PRECONDITION', /answers 403.*HF_TOKEN/],
]
for (const [name, listener, code, message] of liars) {
  test(`a server that ${name}`, async (t) => {
    const { url } = await serve(t, listener)
    const path = await target()
    const error = await failure(t, download(`${url}/f?signature=secret`, path), path)
    t.is(error.code, code)
    t.regex(error.message, message)
    t.false(error.message.includes('secret'))
  })
}

test('a web page does not cost the part that has arrived', async (t) => {
  const { url } = await serve(t, (_, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<p>'))
  const path = await target()
  await writeFile(`${path}.part`, content.subarray(0, 1000))
  await failure(t, download(url, path), path)
  t.deepEqual(await readFile(`${path}.part`), content.subarray(0, 1000))
})

for (const status of [404, 410, 403]) {
  test(`the next source is asked after ${status}`, async (t) => {
    const { url, requests } = await serve(t, (request, response) => {
      if (request.url === '/first') response.writeHead(status).end()
      else send(request, response)
    })
    const path = await target()
    const { source } = await download('', path, { sources: [`${url}/first`, `${url}/second`] })
    t.is(source, `${url}/second`)
    t.deepEqual(requests, ['/first whole', '/second whole'])
  })
}

test('when all sources fail, each is told, and the gravest sets the code', async (t) => {
  const { url } = await serve(t, (request, response) => {
    if (request.url === '/gone') response.writeHead(404).end()
    else send(request, response, Infinity, randomBytes(bytes))
  })
  const path = await target()
  const error = await failure(t, download('', path, { sources: [`${url}/gone`, `${url}/wrong`] }), path)
  t.is(error.code, 'DATA_LOSS')
  t.regex(error.message, /gone answers 404; .*wrong has the sha256/)
})

test('a busy server is asked again, when it says so', async (t) => {
  const busy = [503, 429, 500]
  const { url, requests } = await serve(t, (request, response) => {
    const status = busy.shift()
    if (status === undefined) send(request, response)
    else response.writeHead(status, { 'retry-after': '0' }).end()
  })
  const path = await target()
  // An hour's pause: only Retry-After lets this end.
  await download(url, path, { retryDelayMs: 3_600_000 })
  t.is(requests.length, 4)
})

test('a connection that falls silent is given up and resumed', async (t) => {
  const { url, requests } = await serve(t, (request, response) => {
    if (request.headers.range) send(request, response)
    else response.writeHead(200, { etag: '"1"', 'content-length': bytes }).write(content.subarray(0, 1000))
  })
  const path = await target()
  // Long enough for the second answer on a busy machine, which must not seem silent too.
  await download(url, path, { inactivityMs: 5_000 })
  t.deepEqual(await readFile(path), content)
  t.is(requests.at(-1), '/ bytes=1000-')
})

test('the hub: address, token, and the hash in the headers of its redirect', async (t) => {
  const authorizations: (string | undefined)[] = []
  const cdn = await serve(t, (request, response) => {
    authorizations.push(request.headers.authorization)
    send(request, response)
  })
  const linked = { 'x-linked-etag': `"${sha256}"`, 'x-linked-size': String(bytes) }
  const hub = await serve(t, (request, response) => {
    authorizations.push(request.headers.authorization)
    const isRenamed = request.url?.startsWith('/new/') === true
    const location = isRenamed ? `${cdn.url}/blob?signature=secret` : '/new/repo/resolve/main/a%20folder/weights.bin'
    response.writeHead(isRenamed ? 302 : 307, { location, ...(isRenamed ? linked : {}) }).end()
  })
  const path = await target()
  const source = 'hf://owner/repo/a folder/weights.bin'
  const options = { sources: [source], path, endpoint: `${hub.url}/`, token: 'hf_token', retryDelayMs: 1 }
  t.deepEqual(await downloadFile(options), { bytes, sha256, source })
  t.deepEqual(hub.requests, [
    '/owner/repo/resolve/main/a%20folder/weights.bin whole',
    '/new/repo/resolve/main/a%20folder/weights.bin whole',
  ])
  t.deepEqual(authorizations, ['Bearer hf_token', 'Bearer hf_token', undefined])

  linked['x-linked-etag'] = `"${'0'.repeat(64)}"`
  const other = await target()
  const wrong = await failure(t, downloadFile({ ...options, path: other }), other)
  t.is(wrong.code, 'DATA_LOSS')
  t.regex(wrong.message, /expected 0{64}/)

  linked['x-linked-etag'] = '"0123456789012345678901234567890123456789"'
  linked['x-linked-size'] = '12'
  const short = await failure(t, downloadFile({ ...options, path: other }), other)
  t.is(short.code, 'DATA_LOSS')
  t.regex(short.message, /300000 bytes, expected 12/)
})

test('the token goes to no other address, and into no message', async (t) => {
  const authorizations: (string | undefined)[] = []
  const { url } = await serve(t, (request, response) => {
    authorizations.push(request.headers.authorization)
    response.writeHead(401).end()
  })
  const path = await target()
  const error = await failure(t, download(url, path, { token: 'hf_secret', endpoint: 'http://127.0.0.1:9' }), path)
  t.deepEqual(authorizations, [undefined])
  t.false(`${error.message} ${String(error.cure)} ${String(error.stack)}`.includes('hf_secret'))
  const unfit = await failure(t, download(url, path, { token: 'hf_sec\nret' }), path)
  t.is(unfit.code, 'INVALID_ARGUMENT')
  t.false(`${unfit.message} ${String(unfit.stack)}`.includes('hf_sec'))
})

const addresses = ['file:///etc/passwd', 'ftp://host/f', 'nonsense', 'http://user:password@127.0.0.1:9/f']
for (const address of addresses) {
  test(`only plain http and https are spoken: ${address}`, async (t) => {
    const path = await target()
    const asSource = await failure(t, download(address, path), path)
    const asEndpoint = await failure(t, download('hf://a/b/c', path, { endpoint: address }), path)
    t.deepEqual([asSource.code, asEndpoint.code], ['INVALID_ARGUMENT', 'INVALID_ARGUMENT'])
    t.false(`${asSource.message} ${asEndpoint.message}`.includes('password'))
  })
}

test('no network: the host is named, and what to do', async (t) => {
  const closed = createServer()
  await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve))
  const { port } = closed.address() as AddressInfo
  await new Promise((resolve) => closed.close(resolve))
  const path = await target()
  const error = await failure(t, download(`http://127.0.0.1:${port}/f`, path), path)
  t.is(error.code, 'UNAVAILABLE')
  t.true(error.message.includes(`cannot reach 127.0.0.1:${port}`))
  t.regex(error.cure!, /HF_ENDPOINT.*proxy.*copy weights\.bin by hand into /)
  t.true(error.cure!.includes(dirname(path)))
})

test('no sources', async (t) => {
  const path = await target()
  t.is((await failure(t, download('', path, { sources: [] }), path)).code, 'NOT_FOUND')
})

test('a full disk', async (t) => {
  if (!existsSync('/dev/full')) {
    t.log('skipped: this system has no /dev/full')
    t.pass()
    return
  }
  const { url, requests } = await serve(t, send)
  const path = await target()
  await symlink('/dev/full', `${path}.part`)
  const error = await failure(t, download('', path, { sources: [url, url] }), path)
  t.is(error.code, 'FAILED_PRECONDITION')
  t.regex(error.message, /no space left/)
  t.is(requests.length, 1)
})

test('a folder that cannot be', async (t) => {
  const file = await target()
  await writeFile(file, 'x')
  const path = join(file, 'weights.bin')
  const error = await failure(t, download('http://127.0.0.1:9/', path), path)
  t.regex(error.message, /weights\.bin/)
})
