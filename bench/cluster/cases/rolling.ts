// A rolling restart: three replicas, each drained and started again before the next, while 100 edits are under way, each of
// which begins again when it ends. None may fail or lose a step, all end with the bits of undisturbed runs, and none is
// without a replica, or waits for a step, for longer than the drain time.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Report } from '../../kit/report.js'
import { summarise } from '../../kit/statistics.js'
import { compare, drainMs, mixed, reportGaps, undisturbed, watchDuring } from '../edits.js'
import { type Replica, nameOf, withReplicas } from '../replica.js'
import { type Way, withClient } from '../way.js'

export const rolling = (way: Way) => async (report: Report, folder: string) => {
  await withReplicas(3, { drainMs, disconnectGraceMs: 5_000 }, async (replicas) => {
    const requests = mixed(100)
    const alone = await undisturbed(replicas, requests)
    await withClient(way, replicas, folder, {}, async (client) => {
      const pairs = await watchDuring(client, requests, alone, async () => {
        await sleep(2_000)
        for (const replica of replicas) {
          const { code, ms } = await replica.drain()
          report.figure(`exit code of ${replica.address}`, code ?? Number.NaN, '', { exactly: 0 })
          report.figure('from SIGTERM to its end', ms, 'ms', { atMost: drainMs + 5_000 })
          await replica.start()
        }
      })
      compare(report, pairs)
      reportMoves(report, replicas)
      reportGaps(report, pairs, drainMs)
    })
  })
}

/** From the log of one replica, where an edit was handed back, to that of another, where it was accepted. */
function reportMoves(report: Report, replicas: readonly Replica[]): void {
  const log = replicas.flatMap((replica) => replica.log).sort((a, b) => a.time - b.time)
  const leftAt = new Map<string, number>()
  const moves: number[] = []
  for (const line of log) {
    if (line.outcome === 'handed_back') leftAt.set(nameOf(line), line.time)
    const left = leftAt.get(nameOf(line))
    if (line.msg !== 'edit accepted' || left === undefined) continue
    moves.push(line.time - left)
    leftAt.delete(nameOf(line))
  }
  report.figure('edits handed back', moves.length + leftAt.size, '', { atLeast: 1 })
  report.figure('of these, accepted by another replica', moves.length, '', { exactly: moves.length + leftAt.size })
  report.figure('from handed back to accepted, p50', summarise(moves).p50, 'ms')
  report.figure('from handed back to accepted, max', summarise(moves).max, 'ms', { atMost: drainMs })
}
