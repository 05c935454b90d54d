// kill -9 of a random replica every three seconds, started again at once, ten times, with 100 edits under way: each begins
// again when it ends. All go on to the bits of undisturbed runs.

import { setTimeout as sleep } from 'node:timers/promises'
import { Random } from '../../kit/random.js'
import type { Report } from '../../kit/report.js'
import { compare, mixed, reportGaps, undisturbed, watchDuring } from '../edits.js'
import { withReplicas } from '../replica.js'
import { type Way, withClient } from '../way.js'

const everyMs = 3_000
const killCount = 10

export const kill = (way: Way) => async (report: Report, folder: string) => {
  await withReplicas(3, { disconnectGraceMs: 5_000 }, async (replicas) => {
    const requests = mixed(100)
    const alone = await undisturbed(replicas, requests)
    const random = new Random(1)
    const starting = new Set<Promise<void>>()
    await withClient(way, replicas, folder, {}, async (client) => {
      const pairs = await watchDuring(client, requests, alone, async () => {
        for (let kills = 0; kills < killCount; kills++) {
          await sleep(everyMs)
          const replica = random.pick(replicas)
          await replica.kill()
          starting.add(replica.start().catch(() => undefined))
        }
      })
      compare(report, pairs)
      reportGaps(report, pairs)
      await Promise.all(starting)
    })
  })
}
