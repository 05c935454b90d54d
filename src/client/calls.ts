// Single calls of a client, to one of its servers or to all of them.
// The protocol is proto/flexit/v1/editor.proto.

import type * as wire from '../proto/messages.js'
import { WireError } from '../proto/status.js'
import { type EditSummary, type ServerInfo, toServerInfo, toSummary } from './answers.js'
import type { CallOptions, Channel, Server } from './channel.js'

/** A server that did not answer is asked after the others for so long. */
const unreachableMs = 10_000

/** How an edit stands that its client may have started anew. */
const movedOn: readonly EditSummary['status'][] = ['cancelled', 'handed_back']
const underWay: readonly wire.EditStatus[] = ['EDIT_STATUS_PENDING', 'EDIT_STATUS_RUNNING', 'EDIT_STATUS_PAUSED']

/** An edit, and which server has it. */
export interface PlacedEdit {
  readonly server: Server
  readonly summary: EditSummary
}

interface Asked {
  /** Of the server that has the edit. */
  readonly placed: PlacedEdit | undefined
  /** Of one that could not be asked, or else NOT_FOUND; undefined where one has the edit. */
  readonly error: Error | undefined
  /** Why a server cannot be reached. */
  readonly silent: ReadonlyMap<Server, WireError>
}

/** Errors: WireError, of the first server where none can be reached. */
export async function serverInfo(channel: Channel, options: CallOptions): Promise<ServerInfo> {
  let unreachable: WireError | undefined
  for (const server of channel.servers) {
    try {
      return toServerInfo(await channel.call<wire.ServerInfo>('GetServerInfo', {}, server, options))
    } catch (error) {
      if (!isUnreachable(error)) throw error
      unreachable ??= error
      channel.avoid(server, unreachableMs)
    }
  }
  throw unreachable!
}

/**
 * Errors: those of `askAll`, where no server has what goes on from the edit; of a server that cannot tell whether it has,
 * unless another one has the edit and did not hand it back.
 */
export async function cancelEdit(channel: Channel, editId: string, options: CallOptions): Promise<EditSummary> {
  const { placed, error, silent } = await askAll(channel, channel.servers, 'CancelEdit', editId, options)
  const errors = error === undefined ? [] : [error]
  // A client that could not reach its server has started it anew, though that one may have it still or gave it up.
  const lists = await startedAnew(channel, silent, editId, options, underWay)
  const anew = lists.flatMap((list) => (list.status === 'fulfilled' ? list.value : []))
  const reached = channel.servers.filter((server) => !silent.has(server))
  const cancelled = await Promise.all(
    anew.map(({ summary: { editId: id } }) => askAll(channel, reached, 'CancelEdit', id, options)),
  )
  const failed = cancelled.find((asked) => asked.placed === undefined)
  if (failed !== undefined) throw failed.error!
  // What was handed back most likely goes on: then a server that cannot tell is an error.
  const isDone = placed !== undefined && placed.summary.status !== 'handed_back'
  if (!isDone) for (const list of lists) if (list.status === 'rejected') errors.push(list.reason as Error)
  const last = cancelled.at(-1)?.placed ?? (errors.length === 0 ? placed : undefined)
  if (last === undefined) throw errors[0]!
  return last.summary
}

/** Where an edit is, or what goes on from it. Errors: those of `askAll`, where no server has it. */
export async function findEdit(channel: Channel, editId: string, options: CallOptions): Promise<PlacedEdit> {
  const { placed, error, silent } = await askAll(channel, channel.servers, 'GetEdit', editId, options)
  if (placed === undefined || movedOn.includes(placed.summary.status)) {
    const lists = await startedAnew(channel, silent, editId, options)
    const anew = lists.flatMap((list) => (list.status === 'fulfilled' ? list.value : []))
    if (anew.length > 0) return anew.reduce((a, b) => (startOf(b.summary) > startOf(a.summary) ? b : a))
  }
  if (placed === undefined) throw error!
  return placed
}

/** The edits of each server in turn. */
export async function* listEdits(channel: Channel, options: CallOptions): AsyncGenerator<EditSummary> {
  for (const server of channel.servers) yield* listServer(channel, server, options)
}

async function askAll(
  channel: Channel,
  servers: readonly Server[],
  method: 'CancelEdit' | 'GetEdit',
  editId: string,
  options: CallOptions,
): Promise<Asked> {
  const errors: Error[] = []
  const silent = new Map<Server, WireError>()
  const ask = async (server: Server): Promise<PlacedEdit | undefined> => {
    try {
      return { server, summary: toSummary(await channel.call(method, { editId }, server, options)) }
    } catch (error) {
      errors.push(error as Error)
      if (isUnreachable(error)) silent.set(server, error)
      return undefined
    }
  }
  const answers = await Promise.all(servers.map(ask))
  const placed = answers.find((answer) => answer !== undefined)
  const told = errors.find((error) => !(error instanceof WireError) || error.status !== 'NOT_FOUND') ?? errors[0]
  return { placed, error: placed === undefined ? told : undefined, silent }
}

/**
 * Each server's edits that an EditRun started in the place of `editId`, or why it cannot tell; those that are silent are
 * not asked again. `states`: none are all.
 */
function startedAnew(
  channel: Channel,
  silent: ReadonlyMap<Server, WireError>,
  editId: string,
  options: CallOptions,
  states: readonly wire.EditStatus[] = [],
): Promise<PromiseSettledResult<PlacedEdit[]>[]> {
  const list = async (server: Server): Promise<PlacedEdit[]> => {
    const unreachable = silent.get(server)
    if (unreachable !== undefined) throw unreachable
    const anew: PlacedEdit[] = []
    for await (const summary of listServer(channel, server, options, states)) {
      const { editId: id } = summary
      if (id.startsWith(`${editId}:`) && /^\d+$/.test(id.slice(editId.length + 1))) anew.push({ server, summary })
    }
    return anew
  }
  return Promise.allSettled(channel.servers.map(list))
}

/** The n of `ID:n`. */
function startOf({ editId }: EditSummary): number {
  return Number(editId.slice(editId.lastIndexOf(':') + 1))
}

/** `states`: none are all. */
async function* listServer(
  channel: Channel,
  server: Server,
  options: CallOptions,
  states: readonly wire.EditStatus[] = [],
): AsyncGenerator<EditSummary> {
  let pageToken = ''
  do {
    const page = await channel.call<wire.ListEditsResponse>('ListEdits', { states, pageToken }, server, options)
    yield* page.edits.map(toSummary)
    pageToken = page.nextPageToken
  } while (pageToken !== '')
}

function isUnreachable(error: unknown): error is WireError {
  return error instanceof WireError && error.status === 'UNAVAILABLE'
}
