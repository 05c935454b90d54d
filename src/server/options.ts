// Options of the server: from flags, the environment and a file, in that order, checked together.
// Names: `--max-image-bytes`, `FLEXIT_MAX_IMAGE_BYTES` and `"maxImageBytes"` are one option.

import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { FlexitError, fileError } from '../engine/errors.js'
import { limits } from '../engine/limits.js'
import { formatDevice, parseDevice } from '../engine/runtime.js'

const MiB = 1024 ** 2
/** Texts are taken as the other commands take them: digits alone. */
const count = (least: number, most: number) => {
  const error = `Use a whole number from ${least} to ${most}.`
  return z.preprocess(
    (value) => (typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value),
    z.number({ error }).refine((value) => Number.isInteger(value) && value >= least && value <= most, { error }),
  )
}
const port = count(0, 65_535)
const milliseconds = count(0, 2 ** 31 - 1)
const path = z.string().min(1)
const list = z.preprocess((value) => (typeof value === 'string' ? value.split(',') : value), z.array(z.string().trim()))

/** Every option, with its default; `description` is its help. */
export const serverOptionsSchema = z.strictObject({
  host: z.string().min(1).default('127.0.0.1').describe('address to listen on; 0.0.0.0 for every network'),
  port: port.default(50_051).describe('of gRPC; 0: any that is free'),
  metricsPort: port.default(9_464).describe('of the metrics over HTTP; 0: any that is free'),
  pack: list
    .pipe(z.array(z.string().min(1)).min(1))
    .refine((packs) => new Set(packs).size === packs.length, 'A pack is named twice.')
    .default(['tiny'])
    .describe('name or path of a pack: see `flexit models list`; several by repeating it, the first is the usual one'),
  device: list
    .pipe(
      z
        .array(z.string().refine(isDevice, 'Use cpu, cpu:1, cuda:0, tensorrt:0 or webgpu.').transform(deviceName))
        .min(1),
    )
    .refine((devices) => new Set(devices).size === devices.length, 'A device is named twice.')
    .default(['cpu'])
    .describe('cpu, cpu:1, cuda:0, tensorrt:0, webgpu; several by repeating it'),
  threads: count(0, limits.threads).default(0).describe('of each CPU device; 0: the cores, shared equally'),
  tlsCert: path.optional().describe('PEM file of the certificate chain: turns TLS on; read again when it changes'),
  tlsKey: path.optional().describe('PEM file of its private key'),
  tlsClientCa: path.optional().describe('PEM file of authorities: clients must show a certificate by one of them'),
  authFile: path
    .optional()
    .describe('JSON file of tokens and their tenants, read again when it changes; without it everyone is let in'),
  otlpEndpoint: z
    .url({ protocol: /^https?$/, error: 'Use a URL like http://localhost:4318.' })
    .optional()
    .describe('URL of an OpenTelemetry collector for traces, http://localhost:4318'),
  orca: z
    .preprocess(fromText, z.boolean({ error: 'Use true or false.' }))
    .default(false)
    .describe('true: report the load to clients that balance by it (weighted_round_robin)'),
  logLevel: z
    .enum(['fatal', 'error', 'warn', 'info', 'debug', 'silent'])
    .default('info')
    .describe('fatal, error, warn, info, debug or silent'),
  maxImageBytes: count(1024, 512 * MiB)
    .default(16 * MiB)
    .describe('largest picture file, in bytes'),
  maxImagePixels: count(1, 1e9).default(50_000_000).describe('largest picture, width times height'),
  maxTextLength: count(1, limits.textLength).default(1000).describe('longest text, in characters'),
  maxSteps: count(1, limits.steps).default(1000).describe('most steps of an edit'),
  maxEdits: count(1, 1_000_000).default(1_000).describe('most edits that have not ended'),
  maxEditsPerTenant: count(1, 1_000_000).optional().describe('of these, of one tenant; left out: all'),
  maxWaitingEdits: count(1, 1_000_000).optional().describe('most edits before their first step; left out: --max-edits'),
  maxWaitingEditsPerTenant: count(1, 1_000_000).optional().describe('of these, of one tenant; left out: all'),
  maxWaitingBytes: count(1024, 2 ** 40)
    .default(512 * MiB)
    .describe('most bytes of requests whose edits wait for their first step'),
  maxWaitingBytesPerTenant: count(1024, 2 ** 40)
    .optional()
    .describe('of these, of one tenant; left out: all'),
  maxBatch: count(1, 1024).default(16).describe('most edits that take a step together; fewer where that is faster'),
  maxResidents: count(1, 10_000).default(32).describe('most edits that a device keeps prepared, at least --max-batch'),
  ageMs: count(1, 2 ** 31 - 1)
    .default(60_000)
    .describe('an edit that waits so long for a step rises by one class of priority'),
  maxEditsPerStream: count(1, 10_000)
    .default(64)
    .describe('most edits of a stream that have not ended, to start another'),
  maxStreamsPerConnection: count(1, 10_000)
    .default(100)
    .describe('most calls at once on a connection; below 64 the client library is slow to find room'),
  maxWindowBytes: count(64 * 1024, 1024 * MiB)
    .default(16 * MiB)
    .describe('most bytes on the way to a reader that did not acknowledge'),
  maxUnreadBytesPerTenant: count(16 * MiB, 2 ** 40)
    .default(128 * MiB)
    .describe(
      'most bytes that streams of one tenant leave unread; events of more than 16 KiB, results too, wait then, until those who take nothing for half a minute are dropped',
    ),
  disconnectGraceMs: milliseconds.default(30_000).describe('how long the edits of a broken stream go on'),
  drainMs: milliseconds
    .default(20_000)
    .describe('how long the end may take; in its last quarter (2 to 5 s) edits are handed back'),
  idleStreamMs: milliseconds
    .default(600_000)
    .describe('a stream without edits and commands is ended after this; 0: never'),
  finishedEdits: count(1, 1_000_000).default(256).describe('how many ended edits are remembered'),
  finishedMs: milliseconds.default(600_000).describe('how long ended edits are remembered'),
  keepaliveMs: count(1_000, 2 ** 31 - 1)
    .default(30_000)
    .describe('connections are probed when nothing was heard for so long'),
  maxConnectionAgeMs: milliseconds.default(0).describe('connections are ended after this, to spread load; 0: never'),
  maxConnectionAgeGraceMs: milliseconds
    .default(60_000)
    .describe('time for the calls of a connection that is ended; edits that it leaves unfinished are handed back'),
})

export type ServerOptions = z.infer<typeof serverOptionsSchema>
export type OptionName = keyof ServerOptions

export const optionNames = Object.keys(serverOptionsSchema.shape) as OptionName[]

/** `maxSteps` → `max-steps`. */
export function flagName(name: OptionName): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}

/** `maxSteps` → `FLEXIT_MAX_STEPS`. */
export function variableName(name: OptionName): string {
  return `FLEXIT_${flagName(name).replaceAll('-', '_').toUpperCase()}`
}

/** Of the program's other commands. */
const otherVariables = ['FLEXIT_HOME', 'FLEXIT_TOKEN', 'FLEXIT_DEBUG']
/** What Kubernetes tells pods of a Service that is called flexit, or flexit-something: by its name, or by its value. */
const serviceLink = /^FLEXIT_(\w+_)?(SERVICE_(HOST|PORT)|PORT_\d+_)/
const serviceAddress = /^(tcp|udp|sctp):\/\//

/** Names of ours that are none: a misspelt FLEXIT_AUTH_FILE would leave the server open. */
function strangers(environment: OptionSources['environment']): string[] {
  const known = [...optionNames.map(variableName), ...otherVariables]
  const isLink = (name: string) => serviceLink.test(name) || serviceAddress.test(environment[name] ?? '')
  return Object.keys(environment).filter((name) => name.startsWith('FLEXIT_') && !known.includes(name) && !isLink(name))
}

export interface OptionSources {
  readonly flags: Readonly<Record<string, unknown>>
  readonly environment: Readonly<Record<string, string | undefined>>
  /** A JSON file. */
  readonly file?: string | undefined
}

/**
 * Put the sources together and check every value. Errors: INVALID_ARGUMENT, with everything that is wrong and where it
 * comes from; those of reading the file.
 */
export function resolveOptions({ flags, environment, file }: OptionSources): ServerOptions {
  const fromFile = file === undefined ? {} : readOptionsFile(file)
  const given: Record<string, unknown> = { ...fromFile }
  const origins = new Map(Object.keys(fromFile).map((key) => [key, `${key} in ${file ?? ''}`]))
  for (const name of optionNames) {
    const [flag, variable] = [flags[name], environment[variableName(name)]]
    if (flag !== undefined) origins.set(name, `--${flagName(name)}`)
    else if (variable !== undefined) origins.set(name, variableName(name))
    else continue
    given[name] = flag === undefined ? variable : flag
  }
  const parsed = serverOptionsSchema.safeParse(given)
  const problems = [
    ...(parsed.success ? together(parsed.data) : parsed.error.issues.map((issue) => describe(issue, origins))),
    ...strangers(environment).map((name) => `${name}: there is no such option`),
  ]
  if (parsed.success && problems.length === 0) return parsed.data
  throw new FlexitError({
    code: 'INVALID_ARGUMENT',
    field: 'options',
    message: `the server cannot start with these options:\n  ${problems.join('\n  ')}`,
    cure: 'See `flexit serve --help` and `flexit serve --print-config`.',
  })
}

function describe(issue: z.core.$ZodIssue, origins: ReadonlyMap<string, string>): string {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => `${origins.get(key) ?? key}: there is no such option`).join('\n  ')
  }
  const name = String(issue.path[0])
  return `${origins.get(name) ?? name}: ${issue.message}`
}

/** Options that are wrong together. */
function together(options: ServerOptions): string[] {
  const { port, metricsPort, tlsCert, tlsKey, tlsClientCa, maxBatch, maxResidents, maxImageBytes } = options
  const problems: string[] = []
  if (port === metricsPort && port !== 0) problems.push('--port and --metrics-port are the same')
  if (maxResidents < maxBatch) problems.push('--max-residents is less than --max-batch')
  for (const name of ['maxWaitingBytes', 'maxWaitingBytesPerTenant'] as const) {
    const bytes = options[name] ?? Infinity
    if (bytes < maxImageBytes) problems.push(`--${flagName(name)} is less than --max-image-bytes`)
  }
  if ((tlsCert === undefined) !== (tlsKey === undefined)) problems.push('--tls-cert and --tls-key belong together')
  if (tlsClientCa !== undefined && tlsCert === undefined)
    problems.push('--tls-client-ca needs --tls-cert and --tls-key')
  return problems
}

function readOptionsFile(file: string): Record<string, unknown> {
  try {
    return z.record(z.string(), z.unknown()).parse(JSON.parse(readFileSync(file, 'utf8')))
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof z.ZodError) {
      throw new FlexitError({
        code: 'INVALID_ARGUMENT',
        field: 'config',
        message: `${file} is not a JSON object: ${error.message}`,
        cure: 'Write it as `flexit serve --print-config` does.',
        cause: error,
      })
    }
    throw fileError(error, file, 'read')
  }
}

/** Flags and variables are texts. */
function fromText(value: unknown): unknown {
  return value === 'true' ? true : value === 'false' ? false : value
}

/** `cpu:0` → `cpu`. */
function deviceName(text: string): string {
  return isDevice(text) ? formatDevice(parseDevice(text)) : text
}

function isDevice(text: string): boolean {
  try {
    parseDevice(text)
    return true
  } catch {
    return false
  }
}
