// Errors as google.rpc.Status, between the program's form and the wire's. https://google.aip.dev/193
// The server writes them, the client reads them; nobody else translates.

import { status as codes } from '@grpc/grpc-js'
import { type ErrorCode, FlexitError, type FlexitErrorOptions } from '../engine/errors.js'
import { messageType } from './definition.js'
import type { Status } from './messages.js'

/** Codes that only the wire knows, beside those of the program. */
export type WireCode =
  ErrorCode | 'ABORTED' | 'ALREADY_EXISTS' | 'UNAUTHENTICATED' | 'DEADLINE_EXCEEDED' | 'UNIMPLEMENTED'

/** Of which kind, and which: `edit`, `a1`. */
export interface Resource {
  readonly type: string
  readonly name: string
}

export interface WireErrorOptions extends Omit<FlexitErrorOptions, 'code'> {
  readonly code: WireCode
  /** When trying again may help. */
  readonly retryAfterMs?: number | undefined
  readonly resource?: Resource | undefined
}

/** An error that goes, or came, over the wire. `code` is the nearest of the program's, `status` the wire's own. */
export class WireError extends FlexitError {
  readonly status: WireCode
  readonly retryAfterMs: number | undefined
  readonly resource: Resource | undefined

  constructor(options: WireErrorOptions) {
    super({ ...options, code: programCode(options.code) })
    this.name = 'WireError'
    this.status = options.code
    this.retryAfterMs = options.retryAfterMs
    this.resource = options.resource
  }
}

function programCode(code: WireCode): ErrorCode {
  switch (code) {
    case 'ABORTED':
    case 'ALREADY_EXISTS':
    case 'UNAUTHENTICATED':
    case 'UNIMPLEMENTED':
      return 'FAILED_PRECONDITION'
    case 'DEADLINE_EXCEEDED':
      return 'CANCELLED'
    default:
      return code
  }
}

const retryInfo = messageType<{ retryDelay: { seconds: number; nanos: number } | null }>('google.rpc.RetryInfo')
const errorInfo = messageType<{ reason: string; domain: string; metadata: Record<string, string> }>(
  'google.rpc.ErrorInfo',
)
const badRequest = messageType<{ fieldViolations: { field: string; description: string }[] }>('google.rpc.BadRequest')
const resourceInfo = messageType<{ resourceType: string; resourceName: string }>('google.rpc.ResourceInfo')
const statusType = messageType<Status>('google.rpc.Status')
const domain = 'flexit'

/** Fields whose path in a StartEdit or an UpdateCommand is not their name in the program, the client library's requests. */
const fieldPaths: Readonly<Record<string, string>> = {
  source: 'source_text',
  target: 'target_text',
  preset: 'parameters.preset',
  space: 'parameters.space',
  steps: 'parameters.steps',
  learningRate: 'parameters.learning_rate',
  lambdaP: 'parameters.lambda_p',
  lambdaZ: 'parameters.lambda_z',
  lambdaS: 'parameters.lambda_s',
  lambdaI: 'parameters.lambda_i',
  networks: 'parameters.networks',
  views: 'parameters.views',
  seed: 'parameters.seed',
  'resumeFrom.step': 'resume_from.step',
  'resumeFrom.latent': 'resume_from.latent',
  'resumeFrom.latent.type': 'resume_from.latent.type',
  'resumeFrom.packDigest': 'resume_from.pack_digest',
  stepEvery: 'stream.step_every',
  'previews.every': 'stream.previews.every',
  'previews.format': 'stream.previews.picture.format',
  'previews.quality': 'stream.previews.picture.quality',
  'previews.size': 'stream.previews.picture.size',
  'latents.every': 'stream.latents.every',
  'latents.type': 'stream.latents.type',
  'result.format': 'stream.result.format',
  'result.quality': 'stream.result.quality',
  'result.size': 'stream.result.size',
  windowBytes: 'stream.window_bytes',
  deadlineMs: 'deadline_ms',
  runOn: 'run_on',
  id: 'edit_id',
}

function wireField(field: string): string {
  return fieldPaths[field] ?? field
}

function programField(path: string): string {
  return Object.keys(fieldPaths).find((field) => fieldPaths[field] === path) ?? path
}

/** An error as it is sent. What is not a FlexitError is a bug of ours: its words stay here. */
export function toStatus(error: unknown): Status {
  if (!(error instanceof FlexitError)) {
    return { code: codes.INTERNAL, message: 'something went wrong in the server that should not', details: [] }
  }
  const { field, cure } = error
  const message = sendable(error.message)
  const name: WireCode = error instanceof WireError ? error.status : error.code
  const { retryAfterMs, resource } = error as Partial<Pick<WireError, 'retryAfterMs' | 'resource'>>
  const details: Status['details'] = []
  const add = <T extends object>(type: { serialize(value: T): Buffer }, typeName: string, value: T) =>
    details.push({ type_url: `type.googleapis.com/google.rpc.${typeName}`, value: type.serialize(value) })

  if (field !== undefined)
    add(badRequest, 'BadRequest', { fieldViolations: [{ field: wireField(field), description: message }] })
  if (retryAfterMs !== undefined) {
    const seconds = Math.floor(retryAfterMs / 1000)
    const nanos = Math.round((retryAfterMs - 1000 * seconds) * 1e6)
    add(retryInfo, 'RetryInfo', { retryDelay: { seconds, nanos } })
  }
  if (resource !== undefined) {
    add(resourceInfo, 'ResourceInfo', { resourceType: resource.type, resourceName: resource.name })
  }
  const metadata: Record<string, string> = cure === undefined ? {} : { cure: sendable(cure) }
  add(errorInfo, 'ErrorInfo', { reason: name, domain, metadata })
  return { code: codes[name], message, details }
}

/** The bytes of a status, for the trailer `grpc-status-details-bin`. */
export function serialiseStatus(status: Status): Buffer {
  return statusType.serialize(status)
}

/** The status of a trailer `grpc-status-details-bin`; undefined where it has none that can be read. */
export function parseStatus(bytes: unknown): Status | undefined {
  if (!(bytes instanceof Buffer)) return undefined
  try {
    return statusType.deserialize(bytes)
  } catch {
    return undefined
  }
}

/** A status that was received, with what those of its details say that can be read. */
export function fromStatus({ code, message, details }: Status): WireError {
  const told = details.map((detail) => {
    try {
      return fromDetail(detail, message)
    } catch {
      return {}
    }
  })
  return new WireError(Object.assign({ code: nameOf(code), message }, ...told) as WireErrorOptions)
}

/** What a detail says of the error that has `message`. Errors: those of protobufjs, where it is no message. */
function fromDetail({ type_url: url, value }: Status['details'][number], message: string): Partial<WireErrorOptions> {
  const bytes = Buffer.from(value)
  switch (url.replace(/^.*\//, '')) {
    case 'google.rpc.BadRequest': {
      const [violation] = badRequest.deserialize(bytes).fieldViolations
      if (violation === undefined) return {}
      const { field: path } = violation
      const field = programField(path)
      return { field, message: message.startsWith(`${path} `) ? `${field}${message.slice(path.length)}` : message }
    }
    case 'google.rpc.RetryInfo': {
      const { seconds = 0, nanos = 0 } = retryInfo.deserialize(bytes).retryDelay ?? {}
      return { retryAfterMs: seconds * 1000 + nanos / 1e6 }
    }
    case 'google.rpc.ResourceInfo': {
      const { resourceType, resourceName } = resourceInfo.deserialize(bytes)
      return { resource: { type: resourceType, name: resourceName } }
    }
    case 'google.rpc.ErrorInfo': {
      const { cure } = errorInfo.deserialize(bytes).metadata
      return cure === undefined ? {} : { cure }
    }
    default:
      return {}
  }
}

const wireCodes: readonly WireCode[] = [
  'INVALID_ARGUMENT',
  'NOT_FOUND',
  'FAILED_PRECONDITION',
  'RESOURCE_EXHAUSTED',
  'DATA_LOSS',
  'UNAVAILABLE',
  'CANCELLED',
  'INTERNAL',
  'ABORTED',
  'ALREADY_EXISTS',
  'UNAUTHENTICATED',
  'DEADLINE_EXCEEDED',
  'UNIMPLEMENTED',
]

function nameOf(code: codes): WireCode {
  return wireCodes.find((name) => codes[name] === code) ?? 'INTERNAL'
}

/** A message is sent up to four times in headers; one of 64 kB makes nghttp2 send nothing more on that connection. */
const maxTextLength = 1000

/** Halves of surrogate pairs have no UTF-8, and would make grpc-js throw. */
function sendable(text: string): string {
  const short = text.length > maxTextLength ? `${text.slice(0, maxTextLength)}…` : text
  return short.replace(/\p{Surrogate}/gu, '\uFFFD')
}
