// The client library: edits on a flexit server, from a program.
// The protocol is proto/flexit/v1/editor.proto.

import type { EditStatus, EditSummary, ListEditsResponse, ServerInfo } from '../proto/messages.js'
import { WireError } from '../proto/status.js'
import { Channel, type ChannelOptions, type Server } from './channel.js'
import { EditRun } from './edit-run.js'
import type { ClientEditRequest } from './request.js'
import { wrongOptions } from './wrong-request.js'

/** A server that did not answer is asked after the others for so long. */
const unreachableMs = 10_000

export { EditRun } from './edit-run.js'
export type { Balancing, ChannelOptions, TlsOptions } from './channel.js'
export type { AcceptedEvent, ClientEvent, CompletedEvent, EditPoint, EncodedPicture, StepEvent } from './events.js'
export type { ClientEditRequest, PictureRequest } from './request.js'
export type { EditParameters } from '../engine/parameters.js'
export type { EditSummary, ServerInfo } from '../proto/messages.js'
export { WireError } from '../proto/status.js'

export interface ConnectOptions extends ChannelOptions {
  /**
   * How long to look for a server that takes a new edit, while none can be reached or all are full or going away; how
   * long they ask to wait is respected. One that is silent has its share of it to answer, at least a second. 0: each is
   * asked once, and has ten seconds. Infinity: for ever. Default 10,000 ms.
   */
  readonly startMs?: number
  /** How long to try to reach a server again for an edit that one had, before it fails. Default 60,000 ms. */
  readonly reconnectMs?: number
}

export interface FlexitClient {
  /**
   * Start an edit, at once. Errors, also of the request, come as the event `failed`; a connection that breaks is mended, on
   * another server if need be, and the steps that are told neither repeat nor skip.
   */
  edit(request: ClientEditRequest): EditRun
  /** Packs, devices, limits, versions: of the first server that can be reached. Errors: WireError. */
  serverInfo(): Promise<ServerInfo>
  /**
   * Stop an edit that another program may have started. All servers of a list are asked, also for what goes on from it
   * since it was handed back or started anew; of several behind one name only one is, by chance. Errors: WireError
   * (NOT_FOUND).
   */
  cancelEdit(id: string): Promise<EditSummary>
  /**
   * How an edit stands, or what goes on from it: looked for as by `cancelEdit`. Errors: WireError (NOT_FOUND, or that of a
   * server that could not be asked).
   */
  getEdit(id: string): Promise<EditSummary>
  /** The caller's edits on each server, oldest first, all pages. Errors: WireError. */
  listEdits(): AsyncIterable<EditSummary>
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
    serverInfo: () => serverInfo(channel),
    cancelEdit: (editId) => cancelEdit(channel, editId),
    getEdit: (editId) => getEdit(channel, editId),
    listEdits: () => listEdits(channel),
    close: () => channel.close(),
  }
}

/** Errors: WireError, of the first server where none can be reached. */
async function serverInfo(channel: Channel): Promise<ServerInfo> {
  let unreachable: unknown
  for (const server of channel.servers) {
    try {
      return await channel.call<ServerInfo>('GetServerInfo', {}, server)
    } catch (error) {
      if (!(error instanceof WireError) || error.status !== 'UNAVAILABLE') throw error
      unreachable ??= error
      channel.avoid(server, unreachableMs)
    }
  }
  throw unreachable
}

/** The answer of the server that has the edit. Errors: WireError, of one that could not be asked or else NOT_FOUND. */
async function askAll<A>(channel: Channel, method: 'CancelEdit' | 'GetEdit', editId: string): Promise<A> {
  const answers = await Promise.allSettled(channel.servers.map((server) => channel.call<A>(method, { editId }, server)))
  const errors: unknown[] = []
  for (const answer of answers) {
    if (answer.status === 'fulfilled') return answer.value
    errors.push(answer.reason)
  }
  throw errors.find((error) => !(error instanceof WireError) || error.status !== 'NOT_FOUND') ?? errors[0]
}

/**
 * Errors: those of `askAll`, where no server has what goes on from the edit; of a server that cannot tell whether it has,
 * unless another one has the edit and did not hand it back.
 */
async function cancelEdit(channel: Channel, editId: string): Promise<EditSummary> {
  const errors: unknown[] = []
  const summary = await askAll<EditSummary>(channel, 'CancelEdit', editId).catch(
    (error: unknown) => void errors.push(error),
  )
  // A client that could not reach its server has started it anew, though that one may have it still or gave it up.
  const lists = await Promise.allSettled(
    channel.servers.map((server) => startedAnew(channel, server, editId, underWay)),
  )
  const ids = lists.flatMap((list) => (list.status === 'fulfilled' ? list.value.map(({ editId: id }) => id) : []))
  const cancelled = await Promise.all(ids.map((id) => askAll<EditSummary>(channel, 'CancelEdit', id)))
  // What was handed back most likely goes on: then a server that cannot tell is an error.
  const isDone = summary !== undefined && summary.status !== 'EDIT_STATUS_HANDED_BACK'
  if (!isDone) for (const list of lists) if (list.status === 'rejected') errors.push(list.reason)
  const last = cancelled.at(-1) ?? (errors.length === 0 ? summary : undefined)
  if (last === undefined) throw errors[0]
  return last
}

/** Errors: those of `askAll`, where no server has what goes on from the edit. */
async function getEdit(channel: Channel, editId: string): Promise<EditSummary> {
  const errors: unknown[] = []
  const summary = await askAll<EditSummary>(channel, 'GetEdit', editId).catch(
    (error: unknown) => void errors.push(error),
  )
  if (summary === undefined || movedOn.includes(summary.status)) {
    const lists = await Promise.allSettled(channel.servers.map((server) => startedAnew(channel, server, editId)))
    const anew = lists.flatMap((list) => (list.status === 'fulfilled' ? list.value : []))
    if (anew.length > 0) return anew.reduce((a, b) => (startOf(b) > startOf(a) ? b : a))
  }
  if (summary === undefined) throw errors[0]
  return summary
}

/** How an edit stands that its client may have started anew. */
const movedOn: readonly EditStatus[] = ['EDIT_STATUS_CANCELLED', 'EDIT_STATUS_HANDED_BACK']
const underWay: readonly EditStatus[] = ['EDIT_STATUS_PENDING', 'EDIT_STATUS_RUNNING', 'EDIT_STATUS_PAUSED']

/** A server's edits that an EditRun started in the place of `editId`; `states`: none are all. Errors: WireError. */
async function startedAnew(
  channel: Channel,
  server: Server,
  editId: string,
  states: readonly EditStatus[] = [],
): Promise<EditSummary[]> {
  const anew: EditSummary[] = []
  for await (const summary of listServer(channel, server, states)) {
    const { editId: id } = summary
    if (id.startsWith(`${editId}:`) && /^\d+$/.test(id.slice(editId.length + 1))) anew.push(summary)
  }
  return anew
}

/** The n of `ID:n`. */
function startOf({ editId }: EditSummary): number {
  return Number(editId.slice(editId.lastIndexOf(':') + 1))
}

async function* listEdits(channel: Channel): AsyncGenerator<EditSummary> {
  for (const server of channel.servers) yield* listServer(channel, server)
}

/** `states`: none are all. */
async function* listServer(
  channel: Channel,
  server: Server,
  states: readonly EditStatus[] = [],
): AsyncGenerator<EditSummary> {
  let pageToken = ''
  do {
    const page = await channel.call<ListEditsResponse>('ListEdits', { states, pageToken }, server)
    yield* page.edits
    pageToken = page.nextPageToken
  } while (pageToken !== '')
}
