// Steps per second through the server, previews and latents of every step streamed to a reading client, against the bare
// engine with the same batch, without what comes before and after the steps. Short rounds of both take turns, and of the
// steps of all rounds the faster half is compared: what else the machine does meanwhile slows steps of either, at random.

import { type FlexitClient, connect } from '../../src/client/client.js'
import type { Engine } from '../../src/engine/engine.js'
import { prepare, request, withEngine } from '../kit/edits.js'
import type { Report } from '../kit/report.js'
import { serveHere } from '../kit/server.js'
import { median, percentile } from '../kit/statistics.js'

const edits = 8
const steps = 30
const rounds = 14

export async function run(report: Report): Promise<void> {
  const server = await serveHere({ maxBatch: edits })
  const client = connect(`127.0.0.1:${server.port}`)
  await withEngine(async (engine) => {
    // The size of batches is found while the first edits run.
    for (let i = 0; i < 4; i++) await servedSteps(client)
    const served: number[] = []
    const bare: number[] = []
    const ratios: number[] = []
    for (let round = 0; round < rounds; round++) {
      const [through, alone] = [await servedSteps(client), await bareSteps(engine)]
      served.push(...through)
      bare.push(...alone)
      if (through.length > 0) ratios.push(median(alone) / median(through))
    }
    report.note(`${edits} edits, ${rounds} rounds of ${steps} steps: ${served.length} full batches`)
    report.figure('through the server, median', (1000 * edits) / median(served), 'steps/s')
    report.figure('of the bare engine, median of the rounds', median(ratios))
    const ratio = middleOfFaster(bare) / middleOfFaster(served)
    report.figure('of the bare engine, faster half of all steps', ratio, '', { atLeast: 0.95 })
  })
  client.close()
  await server.drain()
}

/** The median of the faster half. */
function middleOfFaster(times: readonly number[]): number {
  return percentile(Float64Array.from(times).sort(), 0.25)
}

/** Milliseconds between two full batches one after the other. */
async function servedSteps(client: FlexitClient): Promise<number[]> {
  const told: { readonly edit: number; readonly ms: number }[] = []
  const follow = async (edit: number) => {
    const run = client.edit({ ...request(edit, { steps }), previews: { every: 1 }, latents: { every: 1 } })
    for await (const event of run) {
      if (event.kind === 'step') told.push({ edit, ms: performance.now() })
      if (event.kind === 'failed') throw event.error
    }
  }
  await Promise.all(Array.from({ length: edits }, (_, edit) => follow(edit)))
  // A batch is over where an edit is told of again.
  const batches: { readonly seen: Set<number>; endMs: number }[] = []
  for (const { edit, ms } of told) {
    let batch = batches.at(-1)
    if (batch === undefined || batch.seen.has(edit)) batches.push((batch = { seen: new Set(), endMs: ms }))
    batch.seen.add(edit)
    batch.endMs = ms
  }
  return batches.flatMap(({ seen, endMs }, i) => {
    const before = batches[i - 1]
    return before?.seen.size === edits && seen.size === edits ? [endMs - before.endMs] : []
  })
}

/** Milliseconds of each step with all edits in a batch. */
async function bareSteps(engine: Engine): Promise<number[]> {
  const all = []
  for (let i = 0; i < edits; i++) all.push(await prepare(engine, request(i, { steps })))
  await engine.step(all)
  const times = []
  while (!all[0]!.done) {
    const start = performance.now()
    await engine.step(all)
    times.push(performance.now() - start)
  }
  return times
}
