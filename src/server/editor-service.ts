// The service flexit.v1.Editor: who calls, and which part of the server answers.
// The protocol is proto/flexit/v1/editor.proto.

import type { Server, ServerUnaryCall, ServerWritableStream, UntypedHandleCall, sendUnaryData } from '@grpc/grpc-js'
import { FlexitError, invalidArgument } from '../engine/errors.js'
import type {
  AttachRequest,
  CancelEditRequest,
  EditEvent,
  EditStatus,
  EditSummary,
  GetEditRequest,
  ListEditsRequest,
  ListEditsResponse,
  RunEditRequest,
  ServerInfo,
} from '../proto/messages.js'
import { WireError } from '../proto/status.js'
import { Allowances } from './allowance.js'
import { type Tenants, unknownToken } from './auth.js'
import { boundedService, unreadOf } from './bounded-service.js'
import { onConnectionEnding } from './connection.js'
import type { EditDesk } from './edit-desk.js'
import { type EditCall, serveEditStream } from './edit-stream.js'
import type { Logger } from './logger.js'
import type { ServerOptions } from './options.js'
import type { Sink } from './outbox.js'
import { toServiceError } from './service-error.js'
import type { Session } from './session.js'
import { type EventCall, Writer } from './writer.js'

export interface EditorSetup {
  readonly desk: EditDesk
  readonly authenticate: Tenants['authenticate']
  readonly options: ServerOptions
  readonly logger: Logger
  /** What GetServerInfo answers, but for `draining`. */
  readonly info: Omit<ServerInfo, 'draining'>
}

const usualPageSize = 100
const maxPageSize = 1000
const statuses: readonly EditStatus[] = [
  'EDIT_STATUS_PENDING',
  'EDIT_STATUS_RUNNING',
  'EDIT_STATUS_PAUSED',
  'EDIT_STATUS_COMPLETED',
  'EDIT_STATUS_CANCELLED',
  'EDIT_STATUS_FAILED',
  'EDIT_STATUS_HANDED_BACK',
]

export class EditorService {
  readonly #desk: EditDesk
  readonly #authenticate: Tenants['authenticate']
  readonly #options: ServerOptions
  readonly #allowances: Allowances
  readonly #logger: Logger
  readonly #info: Omit<ServerInfo, 'draining'>

  readonly #streams = new Set<Promise<void>>()

  constructor({ desk, authenticate, options, logger, info }: EditorSetup) {
    this.#desk = desk
    this.#authenticate = authenticate
    this.#options = options
    this.#allowances = new Allowances(options.maxUnreadBytesPerTenant)
    this.#logger = logger
    this.#info = info
  }

  /** Resolves when no stream is open. */
  async quiet(): Promise<void> {
    while (this.#streams.size > 0) await Promise.all(this.#streams)
  }

  addToServer(server: Server): void {
    server.addService(boundedService, {
      Edit: this.#stream((call: EditCall, tenant) => this.#edit(call, tenant)),
      RunEdit: this.#stream((call: ServerWritableStream<RunEditRequest, EditEvent>, tenant) => this.#run(call, tenant)),
      Attach: this.#stream((call: ServerWritableStream<AttachRequest, EditEvent>, tenant) =>
        this.#attach(call, tenant),
      ),
      CancelEdit: this.#unary((request: CancelEditRequest, tenant) => this.#cancel(request, tenant)),
      GetEdit: this.#unary(({ editId }: GetEditRequest, tenant) => this.#desk.registry.get(tenant, editId).summary),
      ListEdits: this.#unary((request: ListEditsRequest, tenant) => this.#list(request, tenant)),
      GetServerInfo: this.#unary((): ServerInfo => ({ ...this.#info, draining: this.#desk.draining })),
    })
  }

  /** Errors of a handler end its call. */
  #stream(serve: (call: never, tenant: string) => Promise<void>): UntypedHandleCall {
    const handle = async (call: EventCall) => {
      try {
        const tenant = this.#authenticate(call.metadata)
        if ('request' in call) refuseUnread(call.request as object)
        await serve(call as never, tenant)
      } catch (error) {
        this.#logUnknown(error)
        call.emit('error', toServiceError(error))
      }
    }
    return ((call: EventCall) => {
      const handled = handle(call).finally(() => this.#streams.delete(handled))
      this.#streams.add(handled)
    }) as UntypedHandleCall
  }

  #unary(answer: (request: never, tenant: string) => object): UntypedHandleCall {
    const handle = (call: ServerUnaryCall<never, object>, callback: sendUnaryData<object>) => {
      try {
        const tenant = this.#authenticate(call.metadata)
        refuseUnread(call.request)
        callback(null, answer(call.request, tenant))
      } catch (error) {
        this.#logUnknown(error)
        callback(toServiceError(error))
      }
    }
    return handle as UntypedHandleCall
  }

  #logUnknown(error: unknown): void {
    if (!(error instanceof FlexitError)) this.#logger.error({ err: error }, 'a call failed unexpectedly')
  }

  async #edit(call: EditCall, tenant: string): Promise<void> {
    const authenticate = () => {
      // A stream may outlive its token.
      if (this.#authenticate(call.metadata) !== tenant) throw unknownToken()
    }
    const allowance = this.#allowances.of(tenant)
    await serveEditStream(call, { desk: this.#desk, options: this.#options, tenant, allowance, authenticate })
  }

  async #run(call: ServerWritableStream<RunEditRequest, EditEvent>, tenant: string): Promise<void> {
    const session = this.#begin(call, tenant)
    const writer = new Writer(call, this.#allowances.of(tenant))
    const sink = transportSink(writer)
    const stopWatching = onConnectionEnding(call, this.#options, () => {
      // Not one that another stream has taken over, nor one that needs no stream.
      if (!writer.over && !session.runsOn) void session.handBack()
    })
    session.attach(sink, 0)
    await writer.closed
    stopWatching()
    session.detach(sink)
  }

  /**
   * Start the edit of a call. Not part of `#run`, whose frame lives as long as its call and would hold the image.
   * Errors: INVALID_ARGUMENT (no start), and those of `EditDesk.newId` and `EditDesk.start`.
   */
  #begin(call: ServerWritableStream<RunEditRequest, EditEvent>, tenant: string): Session {
    const { editId = '', start } = call.request
    if (start === null) throw invalidArgument('start', 'the request has no start', 'Set it.')
    // grpc-js keeps the request until the call ends; admission counts its image only until the edit starts.
    call.request.start = null
    const deadlineMs = earlier(start.deadlineMs, timeLeftMs(call))
    const request = { ...start, ...(deadlineMs === undefined ? {} : { deadlineMs }) }
    return this.#desk.start(tenant, this.#desk.newId(tenant, editId), request, call.metadata)
  }

  async #attach(call: ServerWritableStream<AttachRequest, EditEvent>, tenant: string): Promise<void> {
    const { editId, afterSequence = 0 } = call.request
    const session = this.#desk.registry.get(tenant, editId)
    const writer = new Writer(call, this.#allowances.of(tenant))
    const stop = session.observe(transportSink(writer), afterSequence)
    await writer.closed
    stop()
  }

  #cancel({ editId, uid }: CancelEditRequest, tenant: string): EditSummary {
    const session = this.#desk.registry.get(tenant, editId, uid)
    session.cancel()
    return session.summary
  }

  #list({ states = [], pageSize = 0, pageToken = '' }: ListEditsRequest, tenant: string): ListEditsResponse {
    if (!/^\d{0,15}$/.test(pageToken)) {
      throw invalidArgument('page_token', 'the page token is not one of ours', 'Leave it empty for the first page.')
    }
    const from = Number(pageToken)
    const all = this.#desk.registry.of(tenant).filter((session) => session.index >= from)
    const asked = new Set(states)
    if (states.some((state) => !statuses.includes(state))) {
      const cure = `Use ${statuses.join(', ')}, or leave it empty for all.`
      throw invalidArgument('states', 'states has a value that is not known here', cure)
    }
    const wanted = all.filter(({ status }) => asked.size === 0 || asked.has(status))
    const size = Math.min(pageSize === 0 ? usualPageSize : pageSize, maxPageSize)
    const next = wanted[size]
    return {
      edits: wanted.slice(0, size).map((session) => session.summary),
      nextPageToken: next === undefined ? '' : String(next.index),
    }
  }
}

/** Errors: INVALID_ARGUMENT, for a request that was too large to be read. */
function refuseUnread(request: object): void {
  const unread = unreadOf(request)
  if (unread !== undefined) throw unread.error
}

/** A stream whose reader cannot acknowledge: what the transport took counts. */
function transportSink(writer: Writer): Sink {
  return {
    acknowledges: true,
    write: (event, bytes) => writer.write(event, bytes),
    ended: () => writer.end(),
    lost: () => {
      const message = 'another stream has attached to the edit, and has its events'
      writer.fail(new WireError({ code: 'ABORTED', message, cure: 'Read on there, or watch the edit with Attach.' }))
    },
  }
}

/** Until the deadline of a call; undefined where it has none. */
function timeLeftMs(call: ServerWritableStream<RunEditRequest, EditEvent>): number | undefined {
  const deadline = call.getDeadline()
  const leftMs = deadline instanceof Date ? deadline.getTime() - Date.now() : deadline - Date.now()
  return Number.isFinite(leftMs) ? Math.max(Math.round(leftMs), 0) : undefined
}

function earlier(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined ? b : b === undefined ? a : Math.min(a, b)
}
