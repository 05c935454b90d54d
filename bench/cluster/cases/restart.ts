// The only server is killed, and started again at its address after two seconds: its edits go on from the last latents.

import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from '../../../src/client/client.js'
import type { Report } from '../../kit/report.js'
import { compare, mixed, pair, reportGaps, undisturbed, watchAll } from '../edits.js'
import { withReplicas } from '../replica.js'

export async function restart(report: Report): Promise<void> {
  await withReplicas(1, {}, async (replicas) => {
    const [replica] = replicas
    const requests = mixed(20)
    const alone = await undisturbed(replicas, requests)
    const client = connect(replica!.address)
    try {
      const watched = watchAll(client, requests)
      await sleep(2_000)
      await replica!.kill()
      await sleep(2_000)
      await replica!.start()
      const disturbed = await watched
      const pairs = pair(disturbed, alone)
      compare(report, pairs)
      reportGaps(report, pairs)
    } finally {
      client.close()
    }
  })
}
