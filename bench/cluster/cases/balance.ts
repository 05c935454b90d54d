// 300 edits of 1 to 64 steps, most of them short, 36 under way at any time, over three replicas: the busiest has at most
// 1.15 times the steps of the least busy.

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
      const stepsOf = async () =>
        Promise.all(replicas.map(async (replica) => (await replica.metrics()).sum('flexit_steps_total')))
      const before = await stepsOf()
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
      const work = (await stepsOf()).map((steps, i) => steps - before[i]!)
      report.figure('edits that completed', completed, `of ${count}`, { exactly: count })
      report.figure(
        'steps in all',
        lengths.reduce((sum, steps) => sum + steps, 0),
      )
      report.figure('they took', performance.now() - begin, 'ms')
      report.note(`steps of each replica: ${work.join(', ')}`)
      report.figure('busiest / least busy replica', Math.max(...work) / Math.min(...work), '', { atMost: 1.15 })
    })
  })
}
