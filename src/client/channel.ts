// The way to one of several servers: which one is next, with which secrets, and single calls.
// Built on grpc-js; retries are off, for long streams would keep everything they sent (grpc-node issue 2371).

import { readFileSync } from 'node:fs'
import {
  type ChannelCredentials,
  Client as GrpcClient,
  type ClientDuplexStream,
  Metadata,
  type ServiceError,
  credentials,
} from '@grpc/grpc-js'
import { fileError, invalidArgument } from '../engine/errors.js'
import { editorService } from '../proto/definition.js'
import type { EditEvent, EditRequest } from '../proto/messages.js'
import { WireError, fromStatus, parseStatus } from '../proto/status.js'

export interface TlsOptions {
  /** PEM file of authorities to trust. Default: those of Node. */
  readonly ca?: string
  /** PEM files of an own certificate and its key, for servers that ask for one. */
  readonly cert?: string
  readonly key?: string
}

export interface ChannelOptions {
  /** Default: plain text. */
  readonly tls?: TlsOptions | true
  /** Sent as `authorization: Bearer`. */
  readonly token?: string
  /** Probe a silent connection after so long. Default 20,000 ms. */
  readonly keepaliveMs?: number
}

/** So that a frame of a few hundred kB needs no round trips within it. */
const flowControlWindowBytes = 4 * 1024 ** 2

export class Channel {
  readonly #addresses: readonly string[]
  readonly #options: ChannelOptions
  readonly #credentials: ChannelCredentials
  readonly #clients = new Map<string, GrpcClient>()

  /** Errors: INVALID_ARGUMENT (no address), those of reading the files. */
  constructor(addresses: readonly string[], options: ChannelOptions) {
    if (addresses.length === 0 || addresses.some((address) => !/^\S+:\d{1,5}$/.test(address))) {
      const given = addresses.join(', ') || 'none'
      throw invalidArgument('server', `no server can be reached at: ${given}`, 'Name it as HOST:PORT.')
    }
    this.#addresses = addresses
    this.#options = options
    this.#credentials = options.tls === undefined ? credentials.createInsecure() : secure(options.tls)
  }

  /** How many servers there are to turn to. */
  get servers(): number {
    return this.#addresses.length
  }

  /** Open an `Edit` call to the `server`-th server, counted round and round. */
  openEdit(server: number): ClientDuplexStream<EditRequest, EditEvent> {
    const { path, requestSerialize, responseDeserialize } = editorService['Edit']!
    const deserialize = responseDeserialize as (bytes: Buffer) => EditEvent
    const client = this.#client(server)
    return client.makeBidiStreamRequest<EditRequest, EditEvent>(path, requestSerialize, deserialize, this.#metadata())
  }

  /** Ask the first server. Errors: WireError. */
  call<A>(method: 'CancelEdit' | 'GetEdit' | 'ListEdits' | 'GetServerInfo', request: object): Promise<A> {
    const { path, requestSerialize, responseDeserialize } = editorService[method]!
    const deserialize = responseDeserialize as (bytes: Buffer) => A
    return new Promise((resolve, reject) => {
      const onAnswer = (error: ServiceError | null, answer?: A) =>
        error === null ? resolve(answer!) : reject(callError(error))
      this.#client(0).makeUnaryRequest(path, requestSerialize, deserialize, request, this.#metadata(), onAnswer)
    })
  }

  close(): void {
    for (const client of this.#clients.values()) client.close()
    this.#clients.clear()
  }

  #client(server: number): GrpcClient {
    const address = this.#addresses[server % this.#addresses.length]!
    const known = this.#clients.get(address)
    if (known !== undefined) return known
    const client = new GrpcClient(address, this.#credentials, {
      'grpc.enable_retries': 0,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 5_000,
      'grpc.keepalive_time_ms': this.#options.keepaliveMs ?? 20_000,
      'grpc.keepalive_timeout_ms': 10_000,
      'grpc.max_receive_message_length': -1,
      'grpc-node.flow_control_window': flowControlWindowBytes,
      'grpc.use_local_subchannel_pool': 1,
    })
    this.#clients.set(address, client)
    return client
  }

  #metadata(): Metadata {
    const metadata = new Metadata()
    if (this.#options.token !== undefined) metadata.set('authorization', `Bearer ${this.#options.token}`)
    return metadata
  }
}

/** What ended a call, as one of our errors. */
export function callError(error: ServiceError): WireError {
  const status = parseStatus(error.metadata.get('grpc-status-details-bin')[0])
  const told = fromStatus(status ?? { code: error.code, message: error.details, details: [] })
  if (told.status !== 'UNAVAILABLE' || told.cure !== undefined) return told
  return new WireError({
    code: 'UNAVAILABLE',
    message: `the server cannot be reached: ${error.details}`,
    cure: 'Check its address, and that it runs: `npx flexit serve`.',
    cause: error,
  })
}

function secure(tls: TlsOptions | true): ChannelCredentials {
  const { ca, cert, key } = tls === true ? {} : tls
  const read = (path: string | undefined) => {
    try {
      return path === undefined ? null : readFileSync(path)
    } catch (error) {
      throw fileError(error, path!, 'read')
    }
  }
  return credentials.createSsl(read(ca), read(key), read(cert))
}
