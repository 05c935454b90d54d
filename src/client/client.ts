// The client library: edits on a flexit server, from a program.
// The protocol is proto/flexit/v1/editor.proto.

import type { EditSummary, ServerInfo } from './answers.js'
import { cancelEdit, findEdit, listEdits, serverInfo } from './calls.js'
import { type CallOptions, Channel, type ChannelOptions } from './channel.js'
import { EditRun } from './edit-run.js'
import type { ClientEvent } from './events.js'
import { type AttachOptions, observe } from './observation.js'
import type { ClientEditRequest } from './request.js'
import { wrongCallOptions, wrongOptions } from './wrong-request.js'

export type { EditChange, EditRun } from './edit-run.js'
export type { EditStatus, EditSummary, PackInfo, ServerInfo, ServerLimits } from './answers.js'
export type { Balancing, CallOptions, ChannelOptions, TlsOptions } from './channel.js'
export type {
  AcceptedEvent,
  CancelledEvent,
  ClientEvent,
  CompletedEvent,
  EditPoint,
  EncodedPicture,
  FailedEvent,
  RejectedEvent,
  ResumedEvent,
  StartedEvent,
  StepEvent,
  TerminalEvent,
  UpdatedEvent,
  WarningEvent,
} from './events.js'
export type { AttachOptions } from './observation.js'
export type { ClientEditRequest, PictureRequest } from './request.js'
export type { EditParameters, GivenParameters } from '../engine/parameters.js'
export { type ErrorCode, FlexitError } from '../engine/errors.js'
export { type Resource, type WireCode, WireError } from '../proto/status.js'

export interface ConnectOptions extends ChannelOptions {
  /**
   * How long to look for a server that takes a new edit, while none can be reached or all are full or going away; how
   * long they ask to wait is respected. One that is silent has its share of it to answer, at least a second. 0: each is
   * asked once, and has ten seconds. Infinity: for ever. Default 10,000 ms.
   */
  readonly startMs?: number | undefined
  /** How long to try to reach a server again for an edit that one had, before it fails. Default 60,000 ms. */
  readonly reconnectMs?: number | undefined
}

export interface FlexitClient {
  /**
   * Start an edit, at once. Errors, also of the request, come as the event `failed`; a connection that breaks is mended, on
   * another server if need be, and the steps that are told neither repeat nor skip.
   */
  edit(request: ClientEditRequest): EditRun
  /**
   * Watch an edit that another program may have started, by its id, to its last event; leaving the loop leaves the edit
   * alone. It is looked for as by `getEdit`, and again where its connection breaks or it goes on elsewhere, as long as an
   * edit of this client would be. A server never waits for who watches: previews may be left out, and events before the
   * present step. Errors, of the iteration: WireError (NOT_FOUND; UNAVAILABLE, also where nobody goes on with what was
   * handed back; CANCELLED, by its signal).
   */
  attach(id: string, options?: AttachOptions): AsyncIterable<ClientEvent>
  /** Packs, devices, limits, versions: of the first server that can be reached. Errors: WireError. */
  serverInfo(options?: CallOptions): Promise<ServerInfo>
  /**
   * Stop an edit that another program may have started. All servers of a list are asked, also for what goes on from it
   * since it was handed back or started anew; of several behind one name only one is, by chance. Errors: WireError
   * (NOT_FOUND).
   */
  cancelEdit(id: string, options?: CallOptions): Promise<EditSummary>
  /**
   * How an edit stands, or what goes on from it: looked for as by `cancelEdit`. Errors: WireError (NOT_FOUND, or that of a
   * server that could not be asked).
   */
  getEdit(id: string, options?: CallOptions): Promise<EditSummary>
  /** The caller's edits on each server, oldest first, all pages. Errors: WireError. */
  listEdits(options?: CallOptions): AsyncIterable<EditSummary>
  /** Close the connections. Edits under way fail here with CANCELLED; their server gives them up after a grace. */
  close(): void
}

/**
 * A client of one server (`HOST:PORT`), of a load balancer, of all addresses of a name (`dns:///NAME:PORT`) or of a list
 * of servers; they serve the same pack. Connects when first used.
 * Errors: INVALID_ARGUMENT (addresses, options, what the files of TLS hold), those of reading these files.
 */
export function connect(servers: string | readonly string[], options: ConnectOptions = {}): FlexitClient {
  const wrong = wrongOptions(servers, options)
  if (wrong !== undefined) throw wrong
  const channel = new Channel(typeof servers === 'string' ? [servers] : servers, options)
  const { startMs = 10_000, reconnectMs = 60_000 } = options
  const patience = { startMs, reconnectMs }
  return {
    edit: (request) => new EditRun(channel, request, patience),
    attach: (id, attachOptions = {}) => observe(channel, id, attachOptions, patience),
    serverInfo: async (call) => serverInfo(channel, checked(call)),
    cancelEdit: async (id, call) => cancelEdit(channel, id, checked(call)),
    getEdit: async (id, call) => (await findEdit(channel, id, checked(call))).summary,
    listEdits: (call) => listEdits(channel, checked(call)),
    close: () => channel.close(),
  }
}

/** Errors: INVALID_ARGUMENT. */
function checked(options: CallOptions = {}): CallOptions {
  const wrong = wrongCallOptions(options)
  if (wrong !== undefined) throw wrong
  return options
}
