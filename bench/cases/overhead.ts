// Steps per second through the server, previews and latents of every step streamed to a reading client, against the bare
// engine with the same batch: full ones, without what comes before and after the steps. Rounds of both take turns, so that a busy machine slows both.

import { type FlexitClient, connect } from '../../src/client/client.js'
import type { Engine } from '../../src/engine/engine.js'
import { prepare, request, withEngine } from '../kit/edits.js'
import { Metrics } from '../kit/metrics.js'
import type { Report } from '../kit/report.js'
import { serveHere } from '../kit/server.js'
import { median } from '../kit/statistics.js'

const edits = 8
const steps = 60
const rounds = 6

export async function run(report: Report): Promise<void> {
  const server = await serveHere({ maxBatch: edits })
  const client = connect(`127.0.0.1:${server.port}`)
  await withEngine(async (engine) => {
    // The size of batches is found while the first edits run.
    for (let i = 0; i < 2; i++) await serverRate(client)
    const ratios: number[] = []
    const served: number[] = []
    const batches: number[] = []
    for (let round = 0; round < rounds; round++) {
      const before = await Metrics.read(server.metricsPort)
      const through = await serverRate(client)
      const after = await Metrics.read(server.metricsPort)
      const grown = (name: string) => after.sum(name) - before.sum(name)
      const batch = Math.round(grown('flexit_samples_total') / grown('flexit_executions_total'))
      served.push(through)
      batches.push(batch)
      ratios.push(through / (await bareRate(engine)))
    }
    report.note(`${edits} edits; batches of ${[...new Set(batches)].join(', ')} on the mean, as the server chose them`)
    report.figure('through the server, median of the rounds', median(served), 'steps/s')
    report.figure('of the bare engine with all in a batch, median', median(ratios), '', { atLeast: 0.95 })
    report.figure('the same, worst round', Math.min(...ratios))
  })
  client.close()
  await server.drain()
}

/** With full batches: all edits, by the median time between two steps of one. */
async function serverRate(client: FlexitClient): Promise<number> {
  const told = await Promise.all(
    Array.from({ length: edits }, async (_, i) => {
      const times: number[] = []
      const edit = client.edit({ ...request(i, { steps }), previews: { every: 1 }, latents: { every: 1 } })
      for await (const event of edit) {
        if (event.kind === 'step') times.push(performance.now())
        if (event.kind === 'failed') throw event.error
      }
      return times
    }),
  )
  const gaps = told.flatMap((times) => times.slice(1).map((time, i) => time - times[i]!))
  return (1000 * edits) / median(gaps)
}

async function bareRate(engine: Engine): Promise<number> {
  const all = []
  for (let i = 0; i < edits; i++) all.push(await prepare(engine, request(i, { steps })))
  await engine.step(all)
  const times = []
  while (!all[0]!.done) {
    const start = performance.now()
    await engine.step(all)
    times.push(performance.now() - start)
  }
  return (1000 * edits) / median(times)
}
