// Throughput of the scheduler on this CPU with the batches that it finds best, against batches of one. Rounds of both take
// turns on two devices with a thread for each core, of which one works at a time.

import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import type { EditState } from '../../src/engine/edit.js'
import type { Engine } from '../../src/engine/engine.js'
import { cacheFolder, shippedFolder } from '../../src/engine/pack/locations.js'
import { resolveParameters } from '../../src/engine/parameters.js'
import { Scheduler } from '../../src/scheduler/scheduler.js'
import { WorkerDevice } from '../../src/scheduler/worker-device.js'
import { prepare, request, withEngine } from '../kit/edits.js'
import type { Report } from '../kit/report.js'
import { median } from '../kit/statistics.js'

const edits = 8
const steps = 40
const rounds = 6

export async function run(report: Report): Promise<void> {
  await withEngine(async (engine) => {
    const states: EditState[] = []
    for (let i = 0; i < edits; i++) states.push((await prepare(engine, request(i, { steps }))).state)
    const tuned = await open(engine, 0, {})
    const single = await open(engine, 1, { maxBatch: 1 })
    // The limit is found while the first edits run.
    await rate(tuned, states)
    await rate(tuned, states)
    await rate(single, states)
    const ratios: number[] = []
    for (let round = 0; round < rounds; round++) ratios.push((await rate(tuned, states)) / (await rate(single, states)))
    const [device] = tuned.devices
    for (const { limit, why } of device!.batchLimits.values()) report.note(`batch limit ${limit}: ${why}`)
    report.figure('with batching, of the rate without: median', median(ratios), '', { atLeast: 0.97 })
    report.note('that is "at least the same" less what rounds differ by; the limits are those of this run')
    await tuned.close()
    await single.close()
  })
}

async function open({ pack }: Engine, index: number, options: { readonly maxBatch?: number }): Promise<Scheduler> {
  const device = await WorkerDevice.open({
    device: { kind: 'cpu', index },
    packs: [join(shippedFolder, 'tiny')],
    threads: availableParallelism(),
    cacheFolder: cacheFolder(),
  })
  return new Scheduler({ devices: [device], resolve: (given) => resolveParameters(given, pack), ...options })
}

/** Steps per second, between the first step that is told of and the last. */
async function rate(scheduler: Scheduler, states: readonly EditState[]): Promise<number> {
  let first = Infinity
  const ends = states.map((state) => {
    const ticket = scheduler.admit({ tenant: 'bench', priority: 'normal', bytes: 1, steps })
    return new Promise<void>((resolve, reject) => {
      scheduler.submit(ticket, state, {
        onStarted: () => undefined,
        onStep: () => (first = Math.min(first, performance.now())),
        onEnd: (outcome) => (outcome.kind === 'completed' ? resolve() : reject(new Error(`an edit ${outcome.kind}`))),
      })
    })
  })
  await Promise.all(ends)
  return (1000 * (states.length * steps - 1)) / (performance.now() - first)
}
