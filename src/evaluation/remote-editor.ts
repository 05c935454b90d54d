// Edits on servers, through the client library, which spreads them and mends broken connections.
// The picture is sent at the pack's size, so that a server sees the bits that a local edit would.

import { type FlexitClient, connect } from '../client/client.js'
import type { ChannelOptions } from '../client/channel.js'
import type { EditRun } from '../client/edit-run.js'
import { encodePicture } from '../engine/encode.js'
import { FlexitError } from '../engine/errors.js'
import type { Pack } from '../engine/pack/pack.js'
import { type Picture, readPicture } from '../engine/picture.js'
import type { EditJob, Editor } from './editor.js'

export interface RemoteEditorOptions extends ChannelOptions {
  readonly servers: readonly string[]
  readonly pack: Pack
}

const editsPerServer = 32

export class RemoteEditor implements Editor {
  readonly identity: readonly string[]
  readonly parallel: number
  readonly #clients: readonly FlexitClient[]
  readonly #pack: Pack
  readonly #runs = new Set<EditRun>()
  #next = 0

  private constructor(clients: readonly FlexitClient[], pack: Pack, versions: readonly string[]) {
    this.identity = ['server', ...versions, pack.digest]
    this.parallel = editsPerServer * clients.length
    this.#clients = clients
    this.#pack = pack
  }

  /** Connect, and compare packs. Errors: WireError; FAILED_PRECONDITION where a server has another version of the pack. */
  static async open({ servers, pack, ...options }: RemoteEditorOptions): Promise<RemoteEditor> {
    // Each begins with another server; if that goes away, its edits go on with the next.
    const clients = servers.map((_, i) => connect([...servers.slice(i), ...servers.slice(0, i)], options))
    try {
      const infos = await Promise.all(clients.map((client) => client.serverInfo()))
      for (const [i, { packs }] of infos.entries()) {
        if (packs.some(({ name, digest }) => name === pack.manifest.name && digest === pack.digest)) continue
        const served = packs.map(({ name }) => name).join(', ')
        throw new FlexitError({
          code: 'FAILED_PRECONDITION',
          field: 'server',
          message: `the server ${servers[i]!} does not have this version of the pack ${pack.manifest.name}; it serves ${served}`,
          cure: 'Give --pack the folder of the pack that the server has.',
        })
      }
      return new RemoteEditor(clients, pack, [...new Set(infos.map(({ version }) => version))].sort())
    } catch (error) {
      for (const client of clients) client.close()
      throw error
    }
  }

  async edit({ picture, source, target, parameters, at }: EditJob, onStep: () => void): Promise<Picture[]> {
    const client = this.#clients[this.#next++ % this.#clients.length]!
    const run = client.edit({
      image: await encodePicture(picture, { format: 'png' }),
      source,
      target,
      parameters,
      pack: this.#pack.manifest.name,
      previews: { format: 'png', every: at.reduce(greatestCommonDivisor) },
      result: { format: 'png' },
      // All previews of an edit, so that none is dropped.
      windowBytes: Math.min(2 ** 26, 2 ** 20 + at.length * 4 * picture.data.length),
      priority: 'batch',
    })
    this.#runs.add(run)
    try {
      return await this.#follow(run, at, onStep)
    } finally {
      this.#runs.delete(run)
    }
  }

  async #follow(run: EditRun, at: readonly number[], onStep: () => void): Promise<Picture[]> {
    const pictures: Picture[] = []
    const decode = (data: Uint8Array) => {
      const { size, background } = this.#pack.manifest.image
      return readPicture(data, { height: size, width: size, background })
    }
    for await (const event of run) {
      if (event.kind === 'step') {
        onStep()
        if (!at.includes(event.step)) continue
        if (event.preview === undefined) {
          throw new FlexitError({
            code: 'UNAVAILABLE',
            message: `the server left out the picture of step ${event.step}`,
            cure: 'Run the command again: it goes on with the edits that are missing.',
          })
        }
        pictures.push(await decode(event.preview.data))
      } else if (event.kind === 'completed') {
        pictures.push(await decode(event.picture.data))
      } else if (event.kind === 'failed') {
        if (event.error.code !== 'FAILED_PRECONDITION' || pictures.length === 0) throw event.error
      } else if (event.kind === 'cancelled') {
        throw new FlexitError({ code: 'CANCELLED', message: 'the edit was cancelled' })
      }
    }
    return pictures
  }

  stop(): void {
    for (const run of this.#runs) run.cancel()
  }

  close(): Promise<void> {
    for (const client of this.#clients) client.close()
    return Promise.resolve()
  }
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b)
}
