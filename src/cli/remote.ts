// `flexit edit … --server HOST:PORT`: the same edit, made by a server.
// The picture and the parameters travel; packs, devices and saved edits stay where they are.

import { readFile } from 'node:fs/promises'
import type { Command } from 'commander'
import { type ClientEvent, type EditRun, type FlexitClient, type StepEvent, connect } from '../client/client.js'
import { animation, filmstrip, pictureFormat } from '../engine/encode.js'
import { FlexitError, fileError, invalidArgument } from '../engine/errors.js'
import { writeFileAtomic } from '../engine/files.js'
import type { EditParameters } from '../engine/parameters.js'
import { type Picture, readPicture } from '../engine/picture.js'
import type { Progress } from './progress.js'

export interface RemoteOptions {
  readonly server?: string
  readonly token?: string
  readonly tls?: boolean
  readonly tlsCa?: string
  readonly preview?: string
}

export interface RemoteEdit {
  readonly image: string
  readonly source: string
  readonly target: string
  readonly pack: string | undefined
  readonly parameters: Partial<EditParameters>
  readonly files: {
    readonly picture: string
    readonly filmstrip?: string | undefined
    readonly animation?: string | undefined
  }
  readonly json: boolean
  readonly progress: Progress
}

/** Frames of a filmstrip or an animation, about. */
const frames = 40

export function addRemoteOptions(command: Command): Command {
  return command
    .optionsGroup('On a server:')
    .option('--server <host:port>', 'let a server do it: see `flexit serve`; several, separated by commas')
    .option('--preview <file>', 'with --server: the newest preview, again and again: .png, .webp or .jpg')
    .option('--token <text>', 'of the server (default: $FLEXIT_TOKEN)')
    .option('--tls', 'speak TLS with the server')
    .option('--tls-ca <file>', 'PEM file of the authority to trust; means --tls')
}

/**
 * Have an edit made by a server and write its files. Errors: those of the server and of the connection; CANCELLED after
 * `signal`, with the edit cancelled on the server.
 */
export async function runRemoteEdit(edit: RemoteEdit, remote: RemoteOptions, signal: AbortSignal): Promise<void> {
  const { server = '', token = process.env['FLEXIT_TOKEN'], tls = false, tlsCa } = remote
  const image = await readFile(edit.image).catch((error: unknown) => {
    throw fileError(error, edit.image, 'read')
  })
  const client = connect(server.split(','), {
    ...(token === undefined ? {} : { token }),
    ...(tlsCa !== undefined ? { tls: { ca: tlsCa } } : tls ? { tls: true } : {}),
  })
  try {
    const run = client.edit({
      image,
      source: edit.source,
      target: edit.target,
      parameters: edit.parameters,
      ...(edit.pack === undefined ? {} : { pack: edit.pack }),
      ...(await previewsFor(edit, remote, client)),
      result: { format: pictureFormat(edit.files.picture) },
      priority: 'interactive',
    })
    const stop = () => run.cancel()
    signal.addEventListener('abort', stop)
    if (signal.aborted) stop()
    try {
      await follow(run, edit, remote)
    } finally {
      signal.removeEventListener('abort', stop)
    }
  } finally {
    client.close()
  }
}

/** Frames are wanted without loss; a preview to look at in the format of its file. */
async function previewsFor({ files, parameters }: RemoteEdit, { preview }: RemoteOptions, client: FlexitClient) {
  if (files.filmstrip !== undefined || files.animation !== undefined) {
    const { packs } = await client.serverInfo()
    const steps = parameters.steps ?? packs[0]?.defaultParameters?.steps ?? frames
    return { previews: { format: 'png', every: preview === undefined ? Math.ceil(steps / frames) : 1 } } as const
  }
  return preview === undefined ? {} : { previews: { format: pictureFormat(preview) } }
}

async function follow(run: EditRun, edit: RemoteEdit, { server, preview }: RemoteOptions): Promise<void> {
  const { progress, files } = edit
  const shown: Picture[] = []
  let steps = edit.parameters.steps ?? 0
  for await (const event of run) {
    if (edit.json) printLine(event)
    switch (event.kind) {
      case 'accepted':
        steps = event.parameters.steps ?? steps
        progress.say(
          `${JSON.stringify(edit.source)} → ${JSON.stringify(edit.target)} on ${server ?? ''}, ${steps} steps`,
        )
        if (event.position > 0) progress.say(`${event.position} edits are before it`)
        break
      case 'step':
        progress.advance(event.step + 1, steps, details(event, steps))
        if (event.preview !== undefined) {
          if (preview !== undefined) await writeFileAtomic(preview, event.preview.data)
          if (files.filmstrip !== undefined || files.animation !== undefined)
            shown.push(await decode(event.preview.data))
        }
        break
      case 'warning':
        progress.say(`note: ${event.message}`)
        break
      case 'resumed':
        progress.say(`the connection was lost and is mended; going on with step ${event.step}`)
        break
      case 'completed':
        progress.end()
        await writeFileAtomic(files.picture, event.picture.data)
        if (files.filmstrip !== undefined)
          await writeFileAtomic(files.filmstrip, await filmstrip(shown, { columns: 10 }))
        if (files.animation !== undefined) {
          await writeFileAtomic(files.animation, await animation(shown, { frameMs: 120, holdLastMs: 2000 }))
        }
        for (const [kind, path] of Object.entries({ ...files, preview })) {
          if (path !== undefined) progress.say(`  ${kind.padEnd(9)} ${path}`)
        }
        break
      case 'cancelled':
        progress.end()
        throw new FlexitError({ code: 'CANCELLED', message: `after step ${event.point?.step ?? 0} of ${steps}` })
      case 'failed':
        progress.end()
        throw event.error
    }
  }
}

/** Options that mean something only where the edit is made here. Errors: INVALID_ARGUMENT. */
export function checkRemote(options: Readonly<Record<string, unknown>>): void {
  const local = ['resume', 'latents', 'saveEvery', 'device', 'threads'].find((name) => options[name] !== undefined)
  if (local === undefined) return
  const flag = `--${local.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
  throw invalidArgument(local, `${flag} cannot be given with --server`, 'Leave one of them out.')
}

function details({ step, losses, similarityTarget }: StepEvent, steps: number): string[] {
  return [`${step + 1}/${steps}`, `loss ${losses.total.toFixed(3)}`, `target ${similarityTarget.toFixed(3)}`]
}

/** The size of a picture of the server's is its own. */
async function decode(data: Uint8Array): Promise<Picture> {
  const png = Buffer.from(data)
  const [width, height] = [png.readUInt32BE(16), png.readUInt32BE(20)]
  return readPicture(data, { width, height, background: 'white' })
}

/** Without pictures and latents. */
function printLine(event: ClientEvent): void {
  if (event.kind === 'step') {
    const { step, losses, similaritySource, similarityTarget } = event
    print({ event: 'step', step, losses, similaritySource, similarityTarget })
  } else if (event.kind === 'completed') print({ event: 'result', step: event.point.step, ...event.statistics })
  else if (event.kind === 'accepted') print({ event: 'accepted', uid: event.uid, position: event.position })
}

function print(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}
