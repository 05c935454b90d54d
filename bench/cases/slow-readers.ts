// Readers that stop, that take a byte a second, that vanish, and that never acknowledge: what they cost the server in
// memory, and the other edits in time. The rules of credit: proto/flexit/v1/editor.proto, StreamOptions.window_bytes.

import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Progress } from '../../src/cli/progress.js'
import { type ClientEditRequest, type EditRun, type FlexitClient, connect } from '../../src/client/client.js'
import type { EditEvent } from '../../src/proto/messages.js'
import { eventBytes } from '../../src/server/outbox.js'
import { cheap, request } from '../kit/edits.js'
import { type Illness, Relay } from '../kit/relay.js'
import type { Metrics } from '../kit/metrics.js'
import type { Report } from '../kit/report.js'
import { type ServerProcess, withServerProcess } from '../kit/server.js'
import { median } from '../kit/statistics.js'
import { Wire } from '../kit/wire.js'

const readers = 12
const rounds = 3
const settleMs = 2_500
const measureMs = 5_000
const steps = 1000
const windowBytes = 1024 ** 2

/** What an event counts for without pictures and latents, and what lies in the transport (src/server/writer.ts). */
const bareBytes = 128
const transportBytes = 1024 ** 2

/** Memory of a process that a heap of JavaScript takes and gives back as it likes. */
const heapBytes = 64 * 1024 ** 2

/** `silent`: reads everything and acknowledges nothing. */
const illnesses: readonly (Illness | 'silent')[] = ['stopped', 'trickle', 'vanished', 'silent']

/** What the slow ones ask for: far more than they take. */
const pictures = { previews: { every: 1, format: 'png', size: 512 }, windowBytes } as const
const wishes = { ...pictures, latents: { every: 1 } }
const losslessWishes = { ...pictures, latents: { every: 1, lossless: true } }

/** Sets edits going; what it returns ends them. */
type Begin = (server: ServerProcess, client: FlexitClient) => Promise<() => void>

interface Phase {
  /** Between two steps of the edit beside them, on the mean. */
  readonly stepMs: number
  readonly bufferedBytes: number
  /** Held by the heap of JavaScript and by its buffers. */
  readonly heldBytes: number
  readonly residentBytes: number
}

export async function run(report: Report, progress: Progress): Promise<void> {
  // Ended edits are remembered with what their readers did not take; here only those that live are of interest.
  await withServerProcess({ maxSteps: steps, finishedEdits: 1 }, async (server) => {
    const client = connect(server.address)
    let largestBytes = 0
    const slow = (wish: Partial<ClientEditRequest>): Begin => {
      return (on) => readSlowly(on, client, wish, (event) => (largestBytes = Math.max(largestBytes, eventBytes(event))))
    }
    const begins: Record<'read' | 'slow' | 'none' | 'held', Begin> = {
      read: readFast({}),
      slow: slow(wishes),
      none: () => Promise.resolve(() => undefined),
      held: slow(losslessWishes),
    }
    const phases: Record<keyof typeof begins, Phase[]> = { read: [], slow: [], none: [], held: [] }
    // The batch limit is found while the first edits run, and what pictures take to be made is taken.
    await phase(server, client, readFast(wishes))
    const before = await server.metrics()
    for (let round = 0; round < rounds; round++) {
      for (const name of ['read', 'slow', 'none', 'held'] as const) {
        phases[name].push(await phase(server, client, begins[name]))
        const done = Object.values(phases).reduce((sum, { length }) => sum + length, 0)
        progress.advance(done, 4 * rounds, [`${done}/${4 * rounds}`])
      }
    }
    progress.end()
    const after = await server.metrics()
    client.close()

    report.note(
      `${readers} slow readers: a quarter each ${illnesses.join(', ')}; an event has up to ${largestBytes} bytes`,
    )
    const mebibytes = (bytes: number) => bytes / 1024 ** 2
    const most = (of: (phase: Phase) => number, name: keyof typeof begins) =>
      mebibytes(Math.max(...phases[name].map(of)))
    // The window, the event that passes it, the newest one, and of all others that they happened.
    const bound = mebibytes(readers * (windowBytes + 2 * largestBytes + steps * bareBytes))
    const held = bound + mebibytes(readers * (transportBytes + largestBytes) + heapBytes)
    for (const name of ['slow', 'held'] as const) {
      const words = name === 'slow' ? 'slow readers' : 'lossless latents not read'
      report.figure(
        `${words}: buffered`,
        most((one) => one.bufferedBytes, name),
        'MiB',
        { atMost: bound },
      )
      const grown = (of: (phase: Phase) => number, first: number) => most(of, name) - mebibytes(first)
      report.figure(
        `${words}: growth of heap and buffers`,
        grown((one) => one.heldBytes, heldBytes(before)),
        'MiB',
        {
          atMost: held,
        },
      )
      const resident = before.sum('process_resident_memory_bytes')
      report.figure(
        `${words}: of the process, with what malloc keeps`,
        grown((one) => one.residentBytes, resident),
        'MiB',
      )
    }
    const dropped = after.sum('flexit_dropped_previews_total')
    report.figure('previews left out', dropped)
    report.figure('they would have been, about', mebibytes(dropped * largestBytes), 'MiB')
    const ratio = (name: 'slow' | 'held', to: 'read' | 'none') =>
      median(phases[name].map(({ stepMs }, round) => stepMs / phases[to][round]!.stepMs))
    report.figure('step of another edit beside them', median(phases.slow.map(({ stepMs }) => stepMs)), 'ms')
    report.figure('that, of it beside as many that are read', ratio('slow', 'read'), '', { atMost: 1.1 })
    report.figure('beside held edits, of it alone', ratio('held', 'none'), '', { atMost: 1.1 })
  })
}

async function phase(server: ServerProcess, client: FlexitClient, begin: Begin): Promise<Phase> {
  const end = await begin(server, client)
  // Else those that came before it would end first, where not all fit into a batch.
  const witness = client.edit({ ...request(0, { ...cheap, steps }), priority: 'interactive' })
  const times: number[] = []
  const from = performance.now() + settleMs
  let [bufferedBytes, heldMost, residentBytes] = [0, 0, 0]
  const look = async () => {
    const metrics = await server.metrics()
    bufferedBytes = Math.max(bufferedBytes, metrics.sum('flexit_buffered_bytes'))
    heldMost = Math.max(heldMost, heldBytes(metrics))
    residentBytes = Math.max(residentBytes, metrics.sum('process_resident_memory_bytes'))
  }
  const looking = setInterval(() => void look(), 500)
  for await (const event of witness) {
    const now = performance.now()
    if (event.kind === 'failed') throw event.error
    if (event.kind === 'step' && now >= from) times.push(now)
    if (now >= from + measureMs) witness.cancel()
  }
  clearInterval(looking)
  end()
  while ((await server.metrics()).sum('flexit_edits') > 0) await sleep(50)
  return { stepMs: (times.at(-1)! - times[0]!) / (times.length - 1), bufferedBytes, heldBytes: heldMost, residentBytes }
}

function heldBytes(metrics: Metrics): number {
  return metrics.sum('nodejs_heap_size_used_bytes') + metrics.sum('nodejs_external_memory_bytes')
}

/** As many edits, which are read at once. */
const readFast =
  (wish: Partial<ClientEditRequest>): Begin =>
  (_, client) => {
    const edits = Array.from({ length: readers }, (_, i) => {
      return client.edit({ ...request(i + 1, { ...cheap, steps }), ...wish })
    })
    const read = async (edit: EditRun) => {
      for await (const event of edit) if (event.kind === 'failed') throw event.error
    }
    const reading = Promise.all(edits.map(read))
    return Promise.resolve(() => {
      for (const edit of edits) edit.cancel()
      void reading
    })
  }

/** Resolves when all of them have begun and gone bad. */
async function readSlowly(
  server: ServerProcess,
  client: FlexitClient,
  wish: Partial<ClientEditRequest>,
  onEvent: (event: EditEvent) => void,
): Promise<() => void> {
  const sick = Array.from({ length: readers }, async (_, i) => {
    const illness = illnesses[i % illnesses.length]!
    const relay = illness === 'silent' ? undefined : await Relay.start(server.port)
    const id = randomUUID()
    let begun: () => void = () => undefined
    const stepped = new Promise<void>((resolve) => (begun = resolve))
    const wire = new Wire(relay === undefined ? server.address : `127.0.0.1:${relay.port}`, (event) => {
      onEvent(event)
      if (event.step !== undefined) begun()
    })
    wire.start(id, { ...request(i + 1, { ...cheap, steps }), ...wish })
    await stepped
    if (illness !== 'silent') relay!.sicken(illness)
    return { id, wire, relay }
  })
  const all = await Promise.all(sick)
  return () => {
    for (const { id, wire, relay } of all) {
      void client.cancelEdit(id)
      wire.close()
      relay?.close()
    }
  }
}
