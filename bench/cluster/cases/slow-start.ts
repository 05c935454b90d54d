// The beginning and the end of a replica: not ready until the first edit would run; NOT_SERVING as soon as SIGTERM comes;
// edits under way end or move within the drain time; exit code 0.

import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from '../../../src/client/client.js'
import { image } from '../../kit/edits.js'
import type { Report } from '../../kit/report.js'
import { compare, mixed, pair, undisturbed, watch, watchAll } from '../edits.js'
import type { Health } from '../health.js'
import { type Replica, withReplicas } from '../replica.js'
import { withClient } from '../way.js'

const drainMs = 5_000

export async function slowStart(report: Report, folder: string): Promise<void> {
  await withReplicas(3, { drainMs, disconnectGraceMs: 5_000 }, async (replicas) => {
    await beginning(report, replicas[0]!)
    const requests = mixed(40)
    const alone = await undisturbed(replicas, requests)
    await withClient('haproxy', replicas, folder, {}, async (client) => {
      const watched = watchAll(client, requests)
      await sleep(1_500)
      await ending(report, replicas[0]!)
      compare(report, pair(await watched, alone))
    })
  })
}

async function beginning(report: Report, replica: Replica): Promise<void> {
  await replica.kill()
  const begin = performance.now()
  replica.spawn()
  const seen = new Set<Health>()
  for (let health = await replica.health(); health !== 'SERVING'; health = await replica.health()) {
    seen.add(health)
    await sleep(20)
  }
  report.figure('from start to SERVING', performance.now() - begin, 'ms')
  report.note(`before that it was: ${[...seen].join(', ')}`)
  // With the pack's own parameters, for which a server warms up.
  const client = connect(replica.address)
  const firstStep = async () => {
    const begun = performance.now()
    let ms = NaN
    const edit = client.edit({ image, source: 'red apple', target: 'tangerine', parameters: { steps: 3 } })
    await watch(edit, () => (ms = Number.isNaN(ms) ? performance.now() - begun : ms))
    return ms
  }
  const first = await firstStep()
  const second = await firstStep()
  client.close()
  report.figure('first step of an edit, at once', first, 'ms')
  report.figure('first step of the edit after it', second, 'ms')
  report.figure('the first edit waited longer by', first - second, 'ms', { atMost: 1_000 })
}

async function ending(report: Report, replica: Replica): Promise<void> {
  const begin = performance.now()
  const drained = replica.drain()
  while ((await replica.health()) === 'SERVING') await sleep(5)
  report.figure('from SIGTERM to NOT_SERVING', performance.now() - begin, 'ms', { atMost: 500 })
  const { code, ms } = await drained
  report.figure('from SIGTERM to its end', ms, 'ms', { atMost: drainMs + 5_000 })
  report.figure('exit code', code ?? NaN, '', { exactly: 0 })
}
