// kill -9 of a random replica every three seconds, never of the last one that serves, started again at once, ten times, with
// 100 edits under way, each of which begins again when it ends. All go on to the bits of undisturbed runs, and none waits for a
// step for longer than a drain may take.

import { setTimeout as sleep } from 'node:timers/promises'
import { Random } from '../../kit/random.js'
import type { Report } from '../../kit/report.js'
import { compare, drainMs, mixed, reportGaps, undisturbed, watchDuring } from '../edits.js'
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
    const serving = new Set(replicas)
    await withClient(way, replicas, folder, {}, async (client) => {
      const pairs = await watchDuring(client, requests, alone, async () => {
        for (let kills = 0; kills < killCount; kills++) {
          await sleep(everyMs)
          while (serving.size < 2) await Promise.race(starting)
          const replica = random.pick([...serving])
          serving.delete(replica)
          await replica.kill()
          const start: Promise<void> = replica.start().then(() => {
            serving.add(replica)
            starting.delete(start)
          })
          starting.add(start)
        }
      })
      compare(report, pairs)
      reportGaps(report, pairs, drainMs)
      await Promise.all(starting)
    })
  })
}
