// 300 edits of 1 to 64 steps, most of them short, 36 under way at any time, over three replicas: the device of the busiest
// works at most 1.15 times as long as that of the least busy. Steps alone are not all of the work: short edits are mostly
// preparation.

import type { Report } from '../../kit/report.js'
import { Random } from '../../kit/random.js'
import { editOf, scaled, watch } from '../edits.js'
import { withReplicas } from '../replica.js'
import { type Way, withClient } from '../way.js'

const count = scaled(300)
const atOnce = Math.min(count, 36)

export const balance = (way: Way) => async (report: Report, folder: string) => {
  await withReplicas(3, {}, async (replicas) => {
    const random = new Random(7)
    const lengths = Array.from({ length: count }, () => Math.floor(2 ** (6 * random.next()) + 0.5))
    await withClient(way, replicas, folder, {}, async (client) => {
      // Let connections and load reports come.
      await Promise.all(replicas.map((_, i) => watch(client.edit(editOf(i, 1)))))
      const look = () => Promise.all(replicas.map((replica) => replica.metrics()))
      const before = await look()
      let next = 0
      let completed = 0
      const begin = performance.now()
      const worker = async () => {
        for (let i = next++; i < count; i = next++) {
          const { latent } = await watch(client.edit(editOf(i, lengths[i]!)))
          if (latent !== undefined) completed++
        }
      }
      await Promise.all(Array.from({ length: atOnce }, worker))
      const after = await look()
      const grown = (name: string) => after.map((metrics, i) => metrics.sum(name) - before[i]!.sum(name))
      const steps = grown('flexit_steps_total')
      const work = grown('flexit_device_busy_seconds_total')
      report.figure('edits that completed', completed, `of ${count}`, { exactly: count })
      report.figure(
        'steps in all',
        lengths.reduce((sum, steps) => sum + steps, 0),
      )
      report.figure('they took', performance.now() - begin, 'ms')
      report.note(`steps of each replica: ${steps.join(', ')}`)
      report.figure('most / fewest steps', Math.max(...steps) / Math.min(...steps))
      report.note(`seconds that their devices worked: ${work.map((seconds) => seconds.toFixed(1)).join(', ')}`)
      report.figure('busiest / least busy replica', Math.max(...work) / Math.min(...work), '', { atMost: 1.15 })
    })
  })
}
