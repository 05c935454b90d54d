// Workers killed at random during 100 edits on two devices: all end with the bits of solo runs.
// A thread at work ends where it next runs JavaScript (src/scheduler/worker-device.ts, `kill`).

import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from '../../src/client/client.js'
import { countSoloBits, request } from '../kit/edits.js'
import { Metrics } from '../kit/metrics.js'
import { Random } from '../kit/random.js'
import type { Report } from '../kit/report.js'
import { serveHere } from '../kit/server.js'

const edits = 100
const parameters = { steps: 12, views: 1 }

export async function run(report: Report): Promise<void> {
  const random = new Random(1)
  const server = await serveHere({ device: ['cpu', 'cpu:1'], logLevel: 'silent' })
  const client = connect(`127.0.0.1:${server.port}`)
  const requests = Array.from({ length: edits }, (_, i) => request(i, parameters))
  const work = { done: false }
  const results = Promise.allSettled(requests.map((one) => client.edit(one).result()))
  void results.then(() => (work.done = true))
  let kills = 0
  for (;;) {
    await sleep(500 + 1500 * random.next())
    if (work.done) break
    await server.killWorker(random.pick(server.devices))
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
  const latents = ended.map((one) => (one.status === 'fulfilled' ? one.value.point.latent : undefined))
  report.figure('edits with the bits of solo runs', await countSoloBits(requests, latents), '', { exactly: edits })
}
