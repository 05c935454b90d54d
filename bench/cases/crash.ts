// Workers killed at random during 100 edits on two devices: all end with the bits of solo runs.
// A worker lives for some batches first: edits that were in one that was lost run alone once, and whoever loses a second
// one then is taken for the cause (src/scheduler/schedule.ts).

import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from '../../src/client/client.js'
import { countSoloBits, request } from '../kit/edits.js'
import { Metrics } from '../kit/metrics.js'
import { Random } from '../kit/random.js'
import type { Report } from '../kit/report.js'
import { serveHere } from '../kit/server.js'

const edits = 100
const leastBatches = 30
const parameters = { steps: 16, views: 1 }

export async function run(report: Report): Promise<void> {
  const random = new Random(1)
  const server = await serveHere({ device: ['cpu', 'cpu:1'], logLevel: 'silent' })
  const client = connect(`127.0.0.1:${server.port}`)
  const requests = Array.from({ length: edits }, (_, i) => request(i, parameters))
  const working = new Set(requests)
  const results = Promise.allSettled(
    requests.map((one) =>
      client
        .edit(one)
        .result()
        .finally(() => working.delete(one)),
    ),
  )
  let kills = 0
  while (working.size > 0) {
    const device = random.pick(server.devices)
    const batches = async () => (await Metrics.read(server.metricsPort)).sum('flexit_executions_total', `"${device}"`)
    const enough = (await batches()) + leastBatches + random.below(leastBatches)
    while (working.size > 0 && (await batches()) < enough) await sleep(20)
    if (working.size === 0) break
    await server.killWorker(device)
    kills++
  }
  const ended = await results
  const lost = (await Metrics.read(server.metricsPort)).sum('flexit_worker_restarts_total')
  client.close()
  await server.drain()
  report.figure('times that a worker was killed', kills, '', { atLeast: 3 })
  report.figure('of these, with a batch under way', lost, '', { atLeast: 1 })
  const completed = ended.filter(({ status }) => status === 'fulfilled').length
  report.figure(`of ${edits} edits, completed`, completed, '', { exactly: edits })
  for (const one of ended) if (one.status === 'rejected') report.note(`an edit failed: ${String(one.reason)}`)
  const latents = ended.map((one) => (one.status === 'fulfilled' ? one.value.point.latent : undefined))
  report.figure('edits with the bits of solo runs', await countSoloBits(requests, latents), '', { exactly: edits })
}
