// What of a request is looked at here: what JavaScript lets pass and the wire would change or leave out without a word;
// and the options of a client. Whether a value makes sense is the server's to say.

import type { EditParameters } from '../engine/parameters.js'
import { WireError } from '../proto/status.js'
import type { CallOptions, TlsOptions } from './channel.js'
import type { ConnectOptions } from './client.js'
import type { AttachOptions } from './observation.js'
import type { ClientEditRequest, PictureRequest } from './request.js'

/** What a value should be; undefined: it is that. */
type Check = (value: unknown) => string | undefined
type Checks<T> = Readonly<Record<keyof T, Check | NestedChecks>>
interface NestedChecks {
  readonly fields: Readonly<Record<string, Check | NestedChecks>>
  /** Before the names of its fields, in errors. */
  readonly prefix: string
}

const uint32 = 2 ** 32 - 1
/** More than any server takes. */
const maxTextLength = 65_536
/** Of networks, of their names. */
const maxListLength = 256
const aText = `a text of at most ${maxTextLength} characters`
const aPicture = 'the bytes of a picture file, as a Buffer or another Uint8Array'

const number: Check = (value) => (typeof value === 'number' && !Number.isNaN(value) ? undefined : 'a number')
const text: Check = (value) => (typeof value === 'string' && value.length <= maxTextLength ? undefined : aText)
const flag: Check = (value) => (typeof value === 'boolean' ? undefined : 'true or false')
const names: Check = (value) =>
  isList(value, (one) => typeof one === 'string' && one.length <= maxListLength)
    ? undefined
    : `a list of at most ${maxListLength} texts, of at most ${maxListLength} characters`
const numbers: Check = (value) =>
  isList(value, (one) => whole(uint32)(one) === undefined)
    ? undefined
    : `a list of at most ${maxListLength} whole numbers`
const bytes: Check = (value) => (value instanceof Uint8Array ? undefined : aPicture)
const abortSignal: Check = (value) => (value instanceof AbortSignal ? undefined : 'the signal of an AbortController')
const floats: Check = (value) => (value instanceof Float32Array ? undefined : 'a Float32Array')

function isList(value: unknown, holds: (one: unknown) => boolean): boolean {
  return Array.isArray(value) && value.length <= maxListLength && value.every(holds)
}

function whole(most: number): Check {
  return (value) =>
    Number.isInteger(value) && (value as number) >= 0 && (value as number) <= most
      ? undefined
      : `a whole number from 0 to ${most}`
}

function oneOf(...names: readonly string[]): Check {
  return (value) => (names.some((name) => name === value) ? undefined : names.join(' or '))
}

const parameterFields: Checks<EditParameters> = {
  preset: oneOf('paper', 'reference'),
  space: oneOf('latent', 'pixels'),
  steps: whole(uint32),
  learningRate: number,
  lambdaP: number,
  lambdaZ: number,
  lambdaS: number,
  lambdaI: number,
  networks: names,
  views: whole(uint32),
  seed: whole(Number.MAX_SAFE_INTEGER),
}

const pictureFields: Checks<PictureRequest> = {
  format: oneOf('png', 'webp', 'jpeg'),
  quality: whole(uint32),
  size: whole(uint32),
}

const every = whole(uint32)
// As a server names them: `steps`, not `parameters.steps`.
const parameters = { fields: parameterFields, prefix: '' }

const requestFields: Checks<ClientEditRequest> = {
  image: bytes,
  source: text,
  target: text,
  parameters,
  resumeFrom: {
    fields: { step: whole(uint32), latent: floats, shape: numbers, packDigest: text },
    prefix: 'resumeFrom.',
  },
  id: text,
  pack: text,
  stepEvery: every,
  previews: { fields: { ...pictureFields, every }, prefix: 'previews.' },
  latents: { fields: { every, type: oneOf('float32', 'float16'), lossless: flag }, prefix: 'latents.' },
  result: { fields: pictureFields, prefix: 'result.' },
  windowBytes: whole(uint32),
  priority: oneOf('interactive', 'normal', 'batch'),
  deadlineMs: number,
  runOn: flag,
  signal: abortSignal,
}

/** What may stand in a header. */
const tokenText: Check = (value) =>
  typeof value === 'string' && value.length <= maxTextLength && /^[ -~]*$/.test(value)
    ? undefined
    : 'a text of visible ASCII characters on one line'
const duration: Check = (value) => (typeof value === 'number' && value >= 0 ? undefined : 'milliseconds, at least 0')
const interval: Check = (value) => (typeof value === 'number' && value > 0 ? undefined : 'milliseconds, more than 0')

const tlsFields: Checks<TlsOptions> = { ca: text, cert: text, key: text }

const connectFields: Checks<ConnectOptions> = {
  tls: (value) => (isObject(value) || flag(value) === undefined ? undefined : 'true, false or an object'),
  token: tokenText,
  keepaliveMs: interval,
  balancing: oneOf('pick_first', 'round_robin', 'weighted_round_robin'),
  startMs: duration,
  reconnectMs: duration,
}

/** What is wrong with the addresses or the options of a client: INVALID_ARGUMENT, naming the first; or undefined. */
export function wrongOptions(servers: unknown, options: unknown): WireError | undefined {
  const addresses: unknown[] = Array.isArray(servers) ? servers : [servers]
  const other = addresses.find((address) => typeof address !== 'string')
  if (other !== undefined || servers === undefined)
    return wrong('servers', shown(other), 'HOST:PORT, or a list of them')
  const error = wrongIn('options', options, { fields: connectFields, prefix: '' })
  if (error !== undefined) return error
  const { tls } = options as ConnectOptions
  if (!isObject(tls)) return undefined
  const { cert, key } = tls
  const alone = (cert === undefined) !== (key === undefined)
  const lone = () => wrong(cert === undefined ? 'tls.cert' : 'tls.key', 'missing', 'both cert and key, or neither')
  return wrongIn('tls', tls, { fields: tlsFields, prefix: 'tls.' }) ?? (alone ? lone() : undefined)
}

/** What is wrong with the options of a single call, as of a request. */
export function wrongCallOptions(options: unknown): WireError | undefined {
  const fields: Checks<CallOptions> = { signal: abortSignal, timeoutMs: interval }
  return wrongIn('options', options, { fields, prefix: '' })
}

/** What is wrong with the options of `attach`, as of a request. */
export function wrongAttachOptions(options: unknown): WireError | undefined {
  const afterSequence = whole(Number.MAX_SAFE_INTEGER)
  const fields: Checks<AttachOptions> = { afterSequence, uid: text, signal: abortSignal }
  return wrongIn('options', options, { fields, prefix: '' })
}

/** What is wrong with the step of `acceptAt`, as of a request. */
export function wrongStep(step: unknown): WireError | undefined {
  return wrongIn('accept', { step }, { fields: { step: whole(uint32) }, prefix: '' })
}

/** What is wrong with a request: INVALID_ARGUMENT, naming the first field; or undefined. */
export function wrongRequest(request: ClientEditRequest): WireError | undefined {
  if (!isObject(request)) return wrong('request', shown(request), 'an object')
  const given: Partial<ClientEditRequest> = request
  const missing = (['image', 'source', 'target'] as const).find((name) => given[name] === undefined)
  if (missing !== undefined) return wrong(missing, 'missing', missing === 'image' ? aPicture : aText)
  const { resumeFrom } = given
  const stepless = isObject(resumeFrom) && (resumeFrom as Partial<typeof resumeFrom>).step === undefined
  if (stepless) return wrong('resumeFrom.step', 'missing', 'the step that its latent was taken after')
  return wrongIn('request', request, { fields: requestFields, prefix: '' })
}

/** What is wrong with an update, as of a request. */
export function wrongUpdate(change: object): WireError | undefined {
  return wrongIn('update', change, { fields: { target: text, parameters }, prefix: '' })
}

function wrongIn(name: string, values: unknown, { fields, prefix }: NestedChecks): WireError | undefined {
  if (!isObject(values)) return wrong(name, shown(values), 'an object')
  for (const [key, value] of Object.entries(values) as [string, unknown][]) {
    if (value === undefined) continue
    const field = prefix + key
    const check = Object.hasOwn(fields, key) ? fields[key] : undefined
    if (check === undefined) return unknownField(field, Object.keys(fields))
    if (typeof check === 'object') {
      const error = wrongIn(field, value, check)
      if (error !== undefined) return error
      continue
    }
    const expected = check(value)
    // A token stands in no message.
    const given = check === tokenText ? 'something else' : shown(value)
    if (expected !== undefined) return wrong(field, given, expected)
  }
  return undefined
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

function wrong(field: string, given: string, expected: string): WireError {
  const message = `${field} is ${given}`
  return new WireError({ code: 'INVALID_ARGUMENT', field, message, cure: `Use ${expected}.` })
}

function unknownField(field: string, known: readonly string[]): WireError {
  const message = `${JSON.stringify(field)} is not known here`
  const cure = `Leave it out, or use one of ${known.join(', ')}.`
  return new WireError({ code: 'INVALID_ARGUMENT', field, message, cure })
}

/** What may be long is told by its kind. */
function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value)
  if (typeof value === 'number' || typeof value === 'boolean' || value == null) return String(value)
  return Array.isArray(value) ? 'a list' : `of the kind ${typeof value}`
}
