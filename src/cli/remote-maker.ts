// Edits made by servers: what travels is the picture at the pack's size, and the state; the bits are those of here.
// The client library mends connections and goes on elsewhere (src/client/edit-run.ts).

import {
  type ClientEvent,
  type EditPoint,
  type FlexitClient,
  type PackInfo,
  type StepEvent,
  connect,
} from '../client/client.js'
import type { EditState } from '../engine/edit.js'
import { encodePicture } from '../engine/encode.js'
import { FlexitError, invalidArgument } from '../engine/errors.js'
import { type EditParameters, checkParameters } from '../engine/parameters.js'
import { type Picture, readPicture } from '../engine/picture.js'
import type { Ended, MakerPack, Order, PlacedMaker } from './maker.js'
import { type RemoteOptions, connectionOf } from './remote.js'

export interface RemoteChoice extends RemoteOptions {
  readonly server: string
  /** Name of a pack of the server's. Default: its first. */
  readonly pack?: string | undefined
  readonly priority: 'interactive' | 'batch'
}

/**
 * Ask the servers what they have, and leave edits to them. Errors: those of the addresses and of TLS; UNAVAILABLE (none
 * can be reached); NOT_FOUND (they do not have the pack).
 */
export async function remoteMaker(choice: RemoteChoice): Promise<PlacedMaker> {
  const servers = choice.server.split(',').map((address) => address.trim())
  const client = connect(servers, connectionOf(choice))
  try {
    const { packs, devices, version } = await client.serverInfo()
    const pack = remotePack(packs, choice.pack)
    return {
      pack,
      devices: devices.length * servers.length,
      // Of several servers the first that answers stands for all.
      places: [
        ...new Set([...servers, `version ${version}`, ...devices.map((name) => name.replace(/:\d+$/, ''))]),
      ].sort(),
      make: (state, order) => follow(client, { pack, priority: choice.priority }, state, order),
      close: () => {
        client.close()
        return Promise.resolve()
      },
    }
  } catch (error) {
    client.close()
    throw error
  }
}

function remotePack(packs: readonly PackInfo[], wanted: string | undefined): MakerPack {
  const info = wanted === undefined ? packs[0] : packs.find(({ name }) => name === wanted)
  if (info === undefined) {
    const names = packs.map(({ name }) => name).join(', ')
    const message = `the server has no pack "${wanted ?? ''}"; it has ${names}`
    throw new FlexitError({ code: 'NOT_FOUND', field: 'pack', message, cure: 'Name one of these, or leave it out.' })
  }
  const { name, digest, imageSize: size, imageBackground, latentShape, networks } = info
  const defaults = info.defaultParameters as EditParameters
  return {
    name,
    digest,
    size,
    background: imageBackground === '' ? 'white' : imageBackground,
    networks,
    shape: (space) => (space === 'pixels' ? [3, size, size] : latentShape),
    resolve: (given) => {
      const parameters = checkParameters({ ...defaults, ...given })
      const unknown = parameters.networks.find((network) => !networks.includes(network))
      if (unknown !== undefined) {
        const cure = `Choose among ${networks.join(', ')}.`
        throw invalidArgument('networks', `the pack ${name} has no network "${unknown}"`, cure)
      }
      return { ...parameters, networks: networks.filter((network) => parameters.networks.includes(network)) }
    },
  }
}

async function follow(
  client: FlexitClient,
  { pack, priority }: { readonly pack: MakerPack; readonly priority: RemoteChoice['priority'] },
  state: EditState,
  { watcher, signal, previewEvery, stateEvery }: Order,
): Promise<Ended> {
  const { source, target, parameters, picture, step, z } = state
  const run = client.edit({
    image: await encodePicture(picture, { format: 'png' }),
    source,
    target,
    parameters,
    pack: pack.name,
    // Also before the first step: the server compares the pack.
    resumeFrom: { step, latent: z, shape: state.shape ?? pack.shape(parameters.space), packDigest: state.pack },
    ...(previewEvery === undefined ? {} : { previews: { format: 'png', every: previewEvery } }),
    ...(stateEvery === undefined ? {} : { latents: { every: stateEvery, lossless: true } }),
    result: { format: 'png' },
    priority,
  })
  const stop = () => run.cancel()
  signal.addEventListener('abort', stop)
  if (signal.aborted) stop()
  const at = (point: EditPoint | undefined): EditState =>
    point === undefined ? state : { ...state, step: point.step, z: point.latent }
  try {
    for await (const event of run) {
      if (event.kind === 'completed') {
        return { kind: 'completed', picture: await decode(event.picture.data, picture), state: at(event.point) }
      }
      if (event.kind === 'cancelled') return { kind: 'cancelled', state: at(event.point) }
      if (event.kind === 'failed') return { kind: 'failed', error: event.error, state: at(event.point) }
      if (event.kind === 'step') await watcher.onStep(...(await watched(event, picture, at)))
      else tell(watcher, event)
    }
    throw new Error('the edit ended without saying how')
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

async function watched(
  { step, losses, similaritySource, similarityTarget, preview, point }: StepEvent,
  size: Picture,
  at: (point: EditPoint) => EditState,
) {
  const drawn = preview === undefined ? undefined : await decode(preview.data, size)
  const taken = { step, losses, similaritySource, similarityTarget, preview: drawn }
  return [taken, point === undefined ? undefined : at(point)] as const
}

function tell(watcher: Order['watcher'], event: ClientEvent): void {
  if (event.kind === 'started') watcher.onStarted()
  else if (event.kind === 'warning') watcher.onNote(event.message)
  else if (event.kind === 'accepted' && event.position > 0) watcher.onNote(`${event.position} edits are before it`)
  else if (event.kind === 'resumed') {
    watcher.onNote(`the connection was lost and is mended; going on with step ${event.step}`)
  }
}

/** A PNG of the server's has the pack's size. */
function decode(data: Uint8Array, { height, width }: Picture): Promise<Picture> {
  return readPicture(data, { height, width, background: 'white' })
}
