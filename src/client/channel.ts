// The way to one of several servers: which one is next, over which connection, with which secrets; and single calls.
// Built on grpc-js; retries are off, for long streams would keep everything they sent (grpc-node issue 2371).

import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { createSecureContext } from 'node:tls'
import {
  type ChannelCredentials,
  Client as GrpcClient,
  type ClientDuplexStream,
  Metadata,
  type ServiceError,
  type VerifyOptions,
  credentials,
} from '@grpc/grpc-js'
import { FlexitError, fileError, invalidArgument } from '../engine/errors.js'
import { editorService } from '../proto/definition.js'
import type { AttachRequest, EditEvent, EditRequest } from '../proto/messages.js'
import { WireError, fromStatus, parseStatus } from '../proto/status.js'

export interface TlsOptions {
  /** PEM file of authorities to trust. Default: those of Node. */
  readonly ca?: string | undefined
  /** PEM files of an own certificate and its key, for servers that ask for one. */
  readonly cert?: string | undefined
  readonly key?: string | undefined
}

/** How new edits are spread over servers. */
export type Balancing = 'pick_first' | 'round_robin' | 'weighted_round_robin'

export interface ChannelOptions {
  /** Default, and false: plain text. */
  readonly tls?: TlsOptions | boolean | undefined
  /** Sent as `authorization: Bearer`. */
  readonly token?: string | undefined
  /**
   * The server is asked so often whether it is there, and given up when nothing came for one and a half times as long.
   * More than 0; above 24 days it counts as that. Default 20,000 ms.
   */
  readonly keepaliveMs?: number | undefined
  /**
   * `pick_first`: all to the first that works. `round_robin`: of a list to the one with the fewest edits of this client,
   * of the addresses of one name in turn. `weighted_round_robin`: to the addresses of one name by the load that they
   * report. Default `round_robin`.
   */
  readonly balancing?: Balancing | undefined
}

/** Of a single call. */
export interface CallOptions {
  /** Gives the call up: CANCELLED. */
  readonly signal?: AbortSignal | undefined
  /** How long a server may take for an answer, before it counts as one that cannot be reached. Default 20,000 ms. */
  readonly timeoutMs?: number | undefined
}

type Call = ClientDuplexStream<EditRequest, EditEvent>

interface Connection {
  readonly client: GrpcClient
  calls: number
  /** Those of them on which something came. */
  answered: number
  /** When something was heard on any of its calls. */
  heardMs: number
}

/** An `Edit` call that was opened. */
export interface OpenedCall {
  readonly call: Call
  /** Others were on its connection: it may wait there, unseen, for one of them to end. */
  readonly shared: boolean
  /** To be told where nothing came on it in time. */
  readonly onUnanswered: () => void
}

/** One of the servers. */
export interface Server {
  readonly address: string
  readonly connections: Connection[]
  /** As many as it takes at once on a connection, as far as is known. */
  callsPerConnection: number
  /** It failed or was full: others are asked before it until then. */
  avoidUntilMs: number
}

/** So that a frame of a few hundred kB needs no round trips within it. */
const flowControlWindowBytes = 4 * 1024 ** 2

/** Servers and proxies take about 100 streams on a connection; the next one waits unseen. */
const usualCallsPerConnection = 64

/** A timer that is longer ends at once. */
const maxTimerMs = 2 ** 31 - 1

/** For single calls, which are answered at once. */
const callMs = 20_000

const policies: Readonly<Record<Balancing, object>> = {
  pick_first: { pick_first: {} },
  round_robin: { round_robin: {} },
  // Edits last for minutes: the load that a call reports at its end would be an old one.
  weighted_round_robin: {
    weighted_round_robin: {
      enable_oob_load_report: true,
      oob_load_reporting_period: '1s',
      blackout_period: '0s',
      weight_update_period: '0.5s',
    },
  },
}

export class Channel {
  readonly keepaliveMs: number
  readonly servers: readonly Server[]
  readonly #options: ChannelOptions
  readonly #balancing: Balancing
  readonly #credentials: ChannelCredentials
  readonly #calls = new Set<{ cancel(): void }>()
  readonly #end = new AbortController()
  #turn: number

  /** Errors: INVALID_ARGUMENT (no address, a policy that does not fit), those of reading the files. */
  constructor(addresses: readonly string[], options: ChannelOptions) {
    if (addresses.length === 0 || addresses.some((address) => !/^\S+:\d{1,5}$/.test(address))) {
      const given = addresses.join(', ') || 'none'
      throw invalidArgument('server', `no server can be reached at: ${given}`, 'Name it as HOST:PORT.')
    }
    const { keepaliveMs = 20_000, balancing = 'round_robin', tls } = options
    if (balancing === 'weighted_round_robin' && addresses.length > 1) {
      const cure = 'Give a name that stands for all of them (dns:///NAME:PORT), or ipv4:ADDRESS:PORT,ADDRESS:PORT.'
      throw invalidArgument('balancing', 'weighted_round_robin is for the addresses of one name, not for a list', cure)
    }
    this.keepaliveMs = Math.min(keepaliveMs, maxTimerMs)
    const callsPerConnection = usualCallsPerConnection
    this.servers = addresses.map((address) => ({ address, connections: [], callsPerConnection, avoidUntilMs: 0 }))
    this.#options = options
    this.#balancing = balancing
    this.#credentials = channelCredentials(tls)
    this.#turn = Math.floor(Math.random() * addresses.length)
  }

  get closed(): boolean {
    return this.#end.signal.aborted
  }

  /** Where an edit should go now: if there is a choice, not to a server that is to be avoided. */
  choose(): Server {
    const nowMs = performance.now()
    const free = this.servers.filter((server) => server.avoidUntilMs <= nowMs)
    if (free.length === 0) return this.servers.reduce((a, b) => (b.avoidUntilMs < a.avoidUntilMs ? b : a))
    if (this.#balancing === 'pick_first') return free[0]!
    this.#turn += 1
    const turned = free.map((_, i) => free[(this.#turn + i) % free.length]!)
    return turned.reduce((a, b) => (callsOf(b) < callsOf(a) ? b : a))
  }

  /** Ask others before this one, for so long. */
  avoid(server: Server, ms: number): void {
    server.avoidUntilMs = performance.now() + ms
  }

  /** Open an `Edit` call. Errors: CANCELLED, once the channel is closed. */
  openEdit(server: Server): OpenedCall {
    const { path, requestSerialize, responseDeserialize } = editorService['Edit']!
    const deserialize = responseDeserialize as (bytes: Buffer) => EditEvent
    const connection = this.#connection(server)
    const metadata = this.#metadata()
    const openedMs = performance.now()
    const call: Call = connection.client.makeBidiStreamRequest(path, requestSerialize, deserialize, metadata)
    const shared = connection.calls > 0
    connection.calls += 1
    this.#calls.add(call)
    let heard = 0
    call.on('data', () => {
      connection.answered += 1 - heard
      connection.heardMs = performance.now()
      heard = 1
    })
    call.on('status', () => {
      connection.calls -= 1
      connection.answered -= heard
      this.#calls.delete(call)
      if (connection.calls === 0) this.#drop(server, connection)
    })
    return { call, shared, onUnanswered: () => learnLimit(server, connection, openedMs) }
  }

  /** Watch an edit until its last event, or until nobody asks for the next one. Errors: WireError. */
  async *attach(server: Server, request: AttachRequest, signal?: AbortSignal): AsyncGenerator<EditEvent, void> {
    const { path, requestSerialize, responseDeserialize } = editorService['Attach']!
    const deserialize = responseDeserialize as (bytes: Buffer) => EditEvent
    const connection = this.#connection(server)
    const metadata = this.#metadata()
    const call = connection.client.makeServerStreamRequest(path, requestSerialize, deserialize, request, metadata)
    connection.calls += 1
    this.#calls.add(call)
    call.on('status', () => {
      connection.calls -= 1
      this.#calls.delete(call)
      if (connection.calls === 0) this.#drop(server, connection)
    })
    // Of a call that was left, nobody else hears.
    call.on('error', () => undefined)
    const stop = () => call.cancel()
    signal?.addEventListener('abort', stop)
    try {
      for await (const event of call) yield event as EditEvent
    } catch (error) {
      throw callError(error as ServiceError)
    } finally {
      signal?.removeEventListener('abort', stop)
      call.cancel()
    }
  }

  /** Ask one server. Errors: WireError. */
  call<A>(
    method: 'CancelEdit' | 'GetEdit' | 'ListEdits' | 'GetServerInfo',
    request: object,
    server: Server,
    { signal, timeoutMs = callMs }: CallOptions = {},
  ): Promise<A> {
    const { path, requestSerialize, responseDeserialize } = editorService[method]!
    const deserialize = responseDeserialize as (bytes: Buffer) => A
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) throw givenUp()
      const { client } = this.#connection(server)
      const onAnswer = (error: ServiceError | null, answer?: A) => {
        signal?.removeEventListener('abort', stop)
        if (error === null) resolve(answer!)
        else reject(callError(error))
      }
      const options = { deadline: Date.now() + Math.min(timeoutMs, maxTimerMs) }
      const metadata = this.#metadata()
      const call = client.makeUnaryRequest(path, requestSerialize, deserialize, request, metadata, options, onAnswer)
      const stop = () => {
        reject(givenUp())
        call.cancel()
      }
      signal?.addEventListener('abort', stop)
    })
  }

  /** Wait for `ms`, or until `signal` or the end of the channel. */
  async sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
    const end = this.#end.signal
    const either = signal === undefined ? end : AbortSignal.any([signal, end])
    await sleep(Math.min(ms, maxTimerMs), undefined, { signal: either }).catch(() => undefined)
  }

  /** End all calls, for good. */
  close(): void {
    this.#end.abort()
    for (const call of this.#calls) call.cancel()
    for (const { connections } of this.servers) for (const { client } of connections.splice(0)) client.close()
  }

  /** One that has room for another call. */
  #connection({ address, connections, callsPerConnection }: Server): Connection {
    if (this.closed) throw clientClosed()
    const room = connections.find(({ calls }) => calls < callsPerConnection)
    if (room !== undefined) return room
    const { keepaliveMs } = this
    const client = new GrpcClient(address, this.#credentials, {
      'grpc.enable_retries': 0,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 5_000,
      'grpc.keepalive_time_ms': keepaliveMs,
      'grpc.keepalive_timeout_ms': Math.min(10_000, keepaliveMs / 2),
      'grpc.max_receive_message_length': -1,
      'grpc.service_config': JSON.stringify({ loadBalancingConfig: [policies[this.#balancing]] }),
      'grpc.service_config_disable_resolution': 1,
      'grpc-node.flow_control_window': flowControlWindowBytes,
      'grpc.use_local_subchannel_pool': 1,
    })
    const connection = { client, calls: 0, answered: 0, heardMs: 0 }
    connections.push(connection)
    return connection
  }

  /** One connection stays, for the next call. */
  #drop({ connections }: Server, connection: Connection): void {
    if (connections.length <= 1 || !connections.includes(connection)) return
    connections.splice(connections.indexOf(connection), 1)
    connection.client.close()
  }

  #metadata(): Metadata {
    const metadata = new Metadata()
    if (this.#options.token !== undefined) metadata.set('authorization', `Bearer ${this.#options.token}`)
    return metadata
  }
}

/**
 * A call that is not answered while others of its connection are waits for its turn: the next ones go on connections of their
 * own. Where none was answered since it was opened, it is the network, or the server.
 */
function learnLimit(server: Server, { answered, heardMs }: Connection, openedMs: number): void {
  if (answered > 0 && heardMs > openedMs) server.callsPerConnection = Math.min(server.callsPerConnection, answered)
}

function callsOf({ connections }: Server): number {
  return connections.reduce((sum, { calls }) => sum + calls, 0)
}

/** By the signal of a call. */
export function givenUp(): WireError {
  return new WireError({ code: 'CANCELLED', message: 'the call was given up, by its signal' })
}

export function clientClosed(): WireError {
  return new WireError({ code: 'CANCELLED', message: 'the client was closed', cure: 'Close it after its edits.' })
}

/** What ended a call, as one of our errors. */
export function callError(error: ServiceError): WireError {
  const status = parseStatus(error.metadata.get('grpc-status-details-bin')[0])
  const told = fromStatus(status ?? { code: error.code, message: error.details, details: [] })
  // Without details it is not the server that speaks, but grpc-js or a proxy.
  const broken = ['UNAVAILABLE', 'INTERNAL', 'CANCELLED', 'DEADLINE_EXCEEDED'].includes(told.status)
  if (!broken || status !== undefined) return told
  const isLate = told.status === 'DEADLINE_EXCEEDED'
  const why = isLate ? 'it did not answer in time' : withoutWrapping(error.details)
  const isTls = /ssl|tls|certificate|self.signed/i.test(why)
  return new WireError({
    code: 'UNAVAILABLE',
    message: `the server cannot be reached: ${why}`,
    cure: isTls
      ? 'Check that it speaks TLS, and the certificates: whom to trust (--tls-ca), and what to show (--tls-cert, --tls-key).'
      : 'Check its address, that it runs (`npx flexit serve`), and whether it speaks TLS (--tls).',
    cause: error,
  })
}

/** What grpc-js puts around the words of the last attempt, once for each policy. */
function withoutWrapping(details: string): string {
  const inner = /^(?:\w+: )?No connection established\. Last error: (.*?)(?:\.? Resolution note: *)?$/s.exec(
    details,
  )?.[1]
  if (inner !== undefined) return withoutWrapping(inner)
  return details
    .replace(/\s+/g, ' ')
    .replace(/ \(\d{4}-\d\d-\d\dT[\d:.]+Z\)/, '')
    .trim()
}

/** Plain text, or TLS with what the files hold. Errors: those of reading the files, INVALID_ARGUMENT (what they hold). */
export function channelCredentials(tls: TlsOptions | boolean = false, verify?: VerifyOptions): ChannelCredentials {
  if (tls === false) return credentials.createInsecure()
  const { ca, cert, key } = tls === true ? {} : tls
  const read = (path: string | undefined) => {
    try {
      return path === undefined ? null : readFileSync(path)
    } catch (error) {
      throw fileError(error, path!, 'read')
    }
  }
  const files = { ca: read(ca), key: read(key), cert: read(cert) }
  try {
    createSecureContext({ ca: files.ca ?? undefined, key: files.key ?? undefined, cert: files.cert ?? undefined })
    return credentials.createSsl(files.ca, files.key, files.cert, verify)
  } catch (error) {
    const message = `the certificates of TLS cannot be used: ${error instanceof Error ? error.message : String(error)}`
    const cure = 'Give PEM files, and the key of the certificate.'
    throw new FlexitError({ code: 'INVALID_ARGUMENT', field: 'tls', message, cure, cause: error })
  }
}
