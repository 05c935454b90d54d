// Long edits on two replicas, and a third one that joins: with a limit on the age of connections they move to it, and
// nothing is lost.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Report } from '../../kit/report.js'
import { compare, editOf, pair, reportGaps, undisturbed, watchAll } from '../edits.js'
import { withReplicas } from '../replica.js'
import { withClient } from '../way.js'

export async function connectionAge(report: Report, folder: string): Promise<void> {
  const options = { maxConnectionAgeMs: 4_000, maxConnectionAgeGraceMs: 4_000, disconnectGraceMs: 2_000 }
  await withReplicas(3, options, async (replicas) => {
    const requests = Array.from({ length: 12 }, (_, i) => editOf(i, 700))
    const alone = await undisturbed(replicas, requests)
    const late = replicas[2]!
    await late.kill()
    await withClient('haproxy', replicas, folder, {}, async (client) => {
      const watched = watchAll(client, requests)
      await sleep(2_000)
      await late.start()
      const disturbed = await watched
      const steps = await Promise.all(
        replicas.map(async (replica) => (await replica.metrics()).sum('flexit_steps_total')),
      )
      const pairs = pair(disturbed, alone)
      compare(report, pairs)
      reportGaps(report, pairs)
      report.note(`steps of each replica, those before the case included: ${steps.join(', ')}`)
      report.figure('steps of the replica that joined', steps[2]!, '', { atLeast: 300 })
    })
  })
}
