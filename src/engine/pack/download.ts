// Downloads a file of a pack: resumed after broken connections, checked, and in its place only when whole.
// Follows RFC 9110 (Range, If-Range, Retry-After) and the Hugging Face hub's resolve addresses with their X-Linked headers.

import { basename, dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type ErrorCode, FlexitError, fileError, invalidArgument, systemErrorCode } from '../errors.js'
import { makeFolder } from '../files.js'
import { PartFile } from './part-file.js'

export interface Progress {
  /** The file's name without its folder. */
  readonly file: string
  readonly receivedBytes: number
  /** Undefined while nobody has said how long the file is. */
  readonly totalBytes: number | undefined
}

export interface DownloadOptions {
  /** Tried in order: `https://…`, `http://…`, or `hf://OWNER/REPO/PATH` on the hub. */
  readonly sources: readonly string[]
  readonly path: string
  readonly bytes?: number | undefined
  readonly sha256?: string | undefined
  readonly sha256Prefix?: string | undefined
  /** Sent to the hub's own address only. Default: `HF_TOKEN`. */
  readonly token?: string | undefined
  /** The hub's address. Default: `HF_ENDPOINT`, or https://huggingface.co. */
  readonly endpoint?: string | undefined
  readonly onProgress?: ((progress: Progress) => void) | undefined
  /** Stops the download; what has arrived stays for the next one. */
  readonly signal?: AbortSignal | undefined
  /** A connection that brings nothing for so long is given up, in milliseconds. Default 60 000. */
  readonly inactivityMs?: number | undefined
  /** The first pause before a source is asked again, in milliseconds; each further one is twice as long. Default 1000. */
  readonly retryDelayMs?: number | undefined
}

export interface Downloaded {
  readonly bytes: number
  readonly sha256: string
  /** The source that it came from. */
  readonly source: string
}

interface Expected {
  bytes: number | undefined
  sha256: string | undefined
}

/** Attempts in a row that bring no byte further than the ones before. */
const maximumAttempts = 5
const maximumRetryAfterMs = 60_000
const maximumRedirects = 10

/** A failure that may pass: the same source is asked again. */
class Transient extends Error {
  readonly retryAfterMs: number | undefined

  constructor(message: string, retryAfterMs?: number) {
    super(message)
    this.retryAfterMs = retryAfterMs
  }
}

/** A source that cannot give the file: the next one is tried. */
class SourceFailure extends Error {
  readonly code: ErrorCode
  readonly cure: string

  constructor(code: ErrorCode, message: string, cure: string, cause?: unknown) {
    super(message, { cause })
    this.code = code
    this.cure = cure
  }
}

/**
 * Download a file to `path` and return the size and sha256 found, so that a caller can record them. It grows in
 * `PATH.part`, from which a later call goes on, and is renamed when whole. Where no `sha256` is given, the one that the
 * hub states is held against it. Errors: DATA_LOSS (not the file expected; what arrived is deleted), UNAVAILABLE (network),
 * NOT_FOUND, FAILED_PRECONDITION (no access, no space), CANCELLED, INVALID_ARGUMENT (an address or token that cannot be).
 */
export async function downloadFile(options: DownloadOptions): Promise<Downloaded> {
  const { path, signal } = options
  const hub = readHub(options)
  await makeFolder(dirname(path)).catch((error: unknown) => {
    throw fileError(error, path, 'download to')
  })
  const part = await PartFile.open(`${path}.part`)
  const failures: SourceFailure[] = []
  try {
    for (const source of options.sources) {
      try {
        await downloadFrom(source, part, hub, options)
        await part.moveTo(path)
        return { bytes: part.bytes, sha256: part.sha256, source }
      } catch (error) {
        if (signal?.aborted) throw cancelled(path)
        if (!(error instanceof SourceFailure)) throw error
        failures.push(error)
      }
    }
  } finally {
    await part.close()
  }
  throw worstOf(failures, path)
}

/** Ask one source until `part` is whole and right. Errors: SourceFailure; FlexitError for what no other source can mend. */
async function downloadFrom(source: string, part: PartFile, hub: Hub, options: DownloadOptions): Promise<void> {
  const url = sourceUrl(source, hub)
  const { bytes, sha256 } = options
  const expected: Expected = { bytes, sha256 }
  let furthest = part.bytes
  let failures = 0
  for (;;) {
    try {
      const isWhole = sha256 !== undefined && part.bytes > 0 && part.bytes === bytes
      if (!isWhole) await attempt(source, url, part, hub, expected, options)
      if (await verify(part, source, url, expected, options)) return
      furthest = 0
    } catch (error) {
      if (options.signal?.aborted || error instanceof SourceFailure || error instanceof FlexitError) throw error
      if (part.bytes > furthest) failures = 0
      furthest = Math.max(furthest, part.bytes)
      failures += 1
      if (failures >= maximumAttempts) throw unreachable(error, url, options.path)
      const pauseMs = (options.retryDelayMs ?? 1000) * 2 ** (failures - 1) * (0.5 + Math.random() / 2)
      const retryAfterMs = error instanceof Transient ? error.retryAfterMs : undefined
      await sleep(retryAfterMs ?? pauseMs, undefined, options.signal ? { signal: options.signal } : {})
    }
  }
}

/** One request, its body added to `part`. Any error but SourceFailure and FlexitError may pass. */
async function attempt(
  source: string,
  url: URL,
  part: PartFile,
  hub: Hub,
  expected: Expected,
  options: DownloadOptions,
): Promise<void> {
  const inactivity = new AbortController()
  const inactivityMs = options.inactivityMs ?? 60_000
  const timer = setTimeout(() => {
    inactivity.abort(new Transient(`nothing arrived for ${inactivityMs / 1000} seconds`))
  }, inactivityMs)
  const signals = options.signal ? [options.signal, inactivity.signal] : [inactivity.signal]
  try {
    // A part of unknown origin may grow only where the sha256 will tell whether it was the same file.
    const validator = part.validatorOf(source)
    const resumes = part.bytes > 0 && (validator !== undefined || options.sha256 !== undefined)
    const headers: Record<string, string> = { 'accept-encoding': 'identity', 'user-agent': 'flexit' }
    if (resumes) headers['range'] = `bytes=${part.bytes}-`
    if (resumes && validator !== undefined) headers['if-range'] = validator

    const response = await follow(url, headers, hub, expected, AbortSignal.any(signals))
    const total = await prepare(response, resumes, source, part)
    const totalBytes = expected.bytes ?? total
    if (total !== undefined && total !== totalBytes) {
      await response.body?.cancel()
      await part.clear()
      throw wrongFile(url, `${total} bytes`, `${totalBytes}`)
    }
    const file = basename(options.path)
    options.onProgress?.({ file, receivedBytes: part.bytes, totalBytes })
    for await (const chunk of response.body ?? []) {
      timer.refresh()
      await part.append(chunk as Uint8Array)
      if (totalBytes !== undefined && part.bytes > totalBytes) break
      options.onProgress?.({ file, receivedBytes: part.bytes, totalBytes })
    }
    if (totalBytes !== undefined && part.bytes < totalBytes) throw new Transient('the connection ended early')
  } finally {
    clearTimeout(timer)
  }
}

/** Make `part` ready for the body of `response`; returns the whole file's length where the server states it. */
async function prepare(
  response: Response,
  resumes: boolean,
  source: string,
  part: PartFile,
): Promise<number | undefined> {
  const { status, headers } = response
  const etag = headers.get('etag') ?? undefined
  // A captive portal answers 200 with its own page: what has arrived must survive that.
  const isPage = headers.get('content-type')?.startsWith('text/html') === true
  if (response.ok && isPage) {
    await response.body?.cancel()
    throw new Transient('a web page came in place of the file')
  }
  // Some servers compress all the same: what they say of lengths and ranges is then not of the bytes that `fetch` gives.
  const isPlain = ['identity', null].includes(headers.get('content-encoding'))
  if (status === 200) {
    const validator = etag?.startsWith('"') ? etag : headers.get('last-modified')
    await part.restart(source, isPlain ? (validator ?? undefined) : undefined)
    return isPlain ? numberOf(headers.get('content-length')) : undefined
  }
  const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get('content-range') ?? '')
  const known = part.validatorOf(source)
  const isSame = etag === undefined || known === undefined || !known.startsWith('"') || etag === known
  if (status === 206 && isPlain && resumes && Number(range?.[1]) === part.bytes && isSame) return numberOf(range?.[2])
  await response.body?.cancel()
  await part.clear()
  throw new Transient(`it answered ${status} to a range that it cannot continue`)
}

/**
 * GET with redirects followed by hand: the token goes to the hub's own origin only, and the hub states what a file is in
 * the headers of its redirect. What they say is added to `expected`. Returns a response of status 200, 206 or 416.
 */
async function follow(
  from: URL,
  headers: Record<string, string>,
  hub: Hub,
  expected: Expected,
  signal: AbortSignal,
): Promise<Response> {
  let url = from
  for (let redirects = 0; redirects <= maximumRedirects; redirects++) {
    const authorization = hub.token && url.origin === hub.url.origin ? { authorization: `Bearer ${hub.token}` } : {}
    const response = await fetch(url, { headers: { ...headers, ...authorization }, redirect: 'manual', signal })
    expected.bytes ??= numberOf(response.headers.get('x-linked-size'))
    // Small files of the hub are not linked: their tag is a git hash, of 40 digits.
    expected.sha256 ??= /^"?([0-9a-f]{64})"?$/.exec(response.headers.get('x-linked-etag') ?? '')?.[1]
    if ([200, 206, 416].includes(response.status)) return response
    await response.body?.cancel()
    const location = response.headers.get('location')
    if (![301, 302, 303, 307, 308].includes(response.status) || location === null) throw refused(response, url)
    const target = parseUrl(location, url)
    if (!target) throw new SourceFailure('UNAVAILABLE', `${shown(url)} redirects to no address`, 'Try again later.')
    url = target
  }
  throw new SourceFailure('UNAVAILABLE', `${shown(from)} redirects in circles`, 'Try again later.')
}

function refused(response: Response, url: URL): Transient | SourceFailure {
  const { status } = response
  const answer = `${shown(url)} answers ${status}`
  if (status === 408 || status === 429 || status >= 500) {
    const after = response.headers.get('retry-after')
    const afterMs = after === null ? NaN : /^\d+$/.test(after) ? Number(after) * 1000 : Date.parse(after) - Date.now()
    return new Transient(
      answer,
      Number.isNaN(afterMs) ? undefined : Math.min(Math.max(afterMs, 0), maximumRetryAfterMs),
    )
  }
  if (status === 401 || status === 403) {
    const cure = 'Set HF_TOKEN to a token of the hub that may read this file, and accept its terms on its page.'
    return new SourceFailure('FAILED_PRECONDITION', `${answer}: no access without a fitting HF_TOKEN`, cure)
  }
  return new SourceFailure('NOT_FOUND', answer, 'The file may have moved: look for a newer version of flexit.')
}

/**
 * Whether `part` is the file; one that is not is deleted. False where it is to be begun again: some of it was left by an
 * earlier download, or by another source. Errors: SourceFailure where all of it came from this source.
 */
async function verify(
  part: PartFile,
  source: string,
  url: URL,
  expected: Expected,
  options: DownloadOptions,
): Promise<boolean> {
  const { bytes, sha256 } = part
  const prefix = options.sha256Prefix ?? ''
  let failure: SourceFailure | undefined
  if (expected.bytes !== undefined && bytes !== expected.bytes) {
    failure = wrongFile(url, bytes > expected.bytes ? 'more bytes' : `${bytes} bytes`, `${expected.bytes}`)
  } else if (expected.sha256 !== undefined && sha256 !== expected.sha256) {
    failure = wrongFile(url, `the sha256 ${sha256}`, expected.sha256)
  } else if (!sha256.startsWith(prefix)) {
    failure = wrongFile(url, `the sha256 ${sha256}`, `${prefix}…`)
  }
  if (failure === undefined) return true
  const isToBlame = part.begunBy === source
  await part.clear()
  if (isToBlame) throw failure
  return false
}

function wrongFile(url: URL, found: string, expected: string): SourceFailure {
  const message = `${shown(url)} has ${found}, expected ${expected}`
  return new SourceFailure('DATA_LOSS', message, 'Download it again; if that fails too, look for a newer flexit.')
}

function unreachable(error: unknown, url: URL, path: string): SourceFailure {
  const cause = error instanceof Error && error.cause !== undefined ? error.cause : error
  const because = (cause instanceof Error && cause.message) || (systemErrorCode(cause) ?? String(cause))
  const what = error instanceof Transient ? 'get it from' : 'reach'
  return new SourceFailure(
    'UNAVAILABLE',
    `cannot ${what} ${url.host} (${because})`,
    'Check the network, HF_ENDPOINT and the proxy (Node uses one with NODE_USE_ENV_PROXY=1, from 22.21 on), or copy ' +
      `${basename(path)} by hand into ${dirname(path)}.`,
    error,
  )
}

/** What to tell of several sources: wrong bytes before a network that is down, that before a file that is not there. */
function worstOf(failures: readonly SourceFailure[], path: string): FlexitError {
  const order: ErrorCode[] = ['DATA_LOSS', 'UNAVAILABLE', 'FAILED_PRECONDITION', 'NOT_FOUND']
  const worst = order.flatMap((code) => failures.find((failure) => failure.code === code) ?? [])[0]
  const what = failures.map((failure) => failure.message).join('; ') || 'no source is given'
  return new FlexitError({
    code: worst?.code ?? 'NOT_FOUND',
    message: `cannot download ${basename(path)}: ${what}`,
    cure: worst?.cure ?? `Copy the file by hand to ${path}.`,
    cause: worst?.cause,
  })
}

function cancelled(path: string): FlexitError {
  return new FlexitError({
    code: 'CANCELLED',
    message: `the download of ${basename(path)} was stopped`,
    cure: 'Start it again: it goes on where it was.',
  })
}

interface Hub {
  readonly url: URL
  readonly token: string | undefined
}

function readHub(options: DownloadOptions): Hub {
  const url = parseUrl(options.endpoint ?? (process.env['HF_ENDPOINT'] || 'https://huggingface.co'))
  if (!url)
    throw invalidArgument('HF_ENDPOINT', 'HF_ENDPOINT is no plain http or https address', 'Correct or unset it.')
  const token = (options.token ?? process.env['HF_TOKEN'])?.trim()
  // fetch would print an unfit header in its error.
  if (token && !/^[\x21-\x7e]+$/.test(token)) {
    throw invalidArgument('HF_TOKEN', 'HF_TOKEN holds characters that no token has', 'Set it again, or unset it.')
  }
  return { url, token }
}

function sourceUrl(source: string, hub: Hub): URL {
  const onHub = /^hf:\/\/([^/]+\/[^/]+)\/(.+)$/.exec(source)
  const path = onHub && `${onHub[1]!}/resolve/main/${onHub[2]!.split('/').map(encodeURIComponent).join('/')}`
  const url = parseUrl(path ? `${hub.url.href.replace(/\/$/, '')}/${path}` : source)
  if (!url)
    throw invalidArgument('sources', 'a source is no plain http, https or hf address', 'Correct it in pack.json.')
  return url
}

/** Undefined for what is not http or https, or holds a password (which no message may repeat). */
function parseUrl(text: string, base?: URL): URL | undefined {
  if (!URL.canParse(text, base?.href)) return undefined
  const url = new URL(text, base)
  return /^https?:$/.test(url.protocol) && url.username === '' && url.password === '' ? url : undefined
}

/** An address without its query, which may be a signature that gives access. */
function shown(url: URL): string {
  return url.origin + url.pathname
}

function numberOf(text: string | null | undefined): number | undefined {
  return text && /^\d+$/.test(text) ? Number(text) : undefined
}
