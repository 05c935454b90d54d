// The client library: edits on a flexit server, from a program.
// The protocol is proto/flexit/v1/editor.proto.

import type { EditSummary, ListEditsResponse, ServerInfo } from '../proto/messages.js'
import { Channel, type ChannelOptions } from './channel.js'
import { EditRun } from './edit-run.js'
import type { ClientEditRequest } from './request.js'

export { EditRun } from './edit-run.js'
export type { ChannelOptions, TlsOptions } from './channel.js'
export type { AcceptedEvent, ClientEvent, CompletedEvent, EditPoint, EncodedPicture, StepEvent } from './events.js'
export type { ClientEditRequest, PictureRequest } from './request.js'
export { WireError } from '../proto/status.js'

export interface ConnectOptions extends ChannelOptions {
  /** How long to try to reach a server again before an edit fails. Default 60,000 ms. */
  readonly reconnectMs?: number
}

export interface FlexitClient {
  /**
   * Start an edit, at once. Errors of the request come as the event `failed`; a connection that breaks is mended, on
   * another server if need be, and the steps that are told neither repeat nor skip.
   */
  edit(request: ClientEditRequest): EditRun
  /** Packs, devices, limits, versions. Errors: WireError. */
  serverInfo(): Promise<ServerInfo>
  /** Stop an edit that another program may have started. Errors: WireError (NOT_FOUND). */
  cancelEdit(id: string): Promise<EditSummary>
  /** Errors: WireError (NOT_FOUND). */
  getEdit(id: string): Promise<EditSummary>
  /** The caller's edits, oldest first, all pages. Errors: WireError. */
  listEdits(): AsyncIterable<EditSummary>
  /** Close the connections. Edits under way lose theirs. */
  close(): void
}

/**
 * A client of one server (`HOST:PORT`), or of several that serve the same pack. Connects when first used.
 * Errors: INVALID_ARGUMENT (addresses), those of reading the files of TLS.
 */
export function connect(servers: string | readonly string[], options: ConnectOptions = {}): FlexitClient {
  const channel = new Channel(typeof servers === 'string' ? [servers] : servers, options)
  const { reconnectMs = 60_000 } = options
  return {
    edit: (request) => new EditRun(channel, request, { reconnectMs }),
    serverInfo: () => channel.call<ServerInfo>('GetServerInfo', {}),
    cancelEdit: (editId) => channel.call<EditSummary>('CancelEdit', { editId }),
    getEdit: (editId) => channel.call<EditSummary>('GetEdit', { editId }),
    listEdits: () => listEdits(channel),
    close: () => channel.close(),
  }
}

async function* listEdits(channel: Channel): AsyncGenerator<EditSummary> {
  let pageToken = ''
  do {
    const page = await channel.call<ListEditsResponse>('ListEdits', { pageToken })
    yield* page.edits
    pageToken = page.nextPageToken
  } while (pageToken !== '')
}
