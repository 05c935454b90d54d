// 300 edits of 1 to 64 steps, most of them short, 36 under way at any time, over three replicas: until the last of them is
// asked for, the device of the busiest works at most 1.15 times as long as that of the least busy. After that nobody can
// balance: the longest edits take a third of the time, and end when they end. Steps alone are not all of the work: short
// edits are mostly preparation.

import type { Report } from '../../kit/report.js'
import type { Metrics } from '../../kit/metrics.js'
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
      let last: Promise<Metrics[]> | undefined
      let next = 0
      let completed = 0
      const begin = performance.now()
      const worker = async () => {
        for (let i = next++; i < count; i = next++) {
          if (next === count) last = look()
          const { latent } = await watch(client.edit(editOf(i, lengths[i]!)))
          if (latent !== undefined) completed++
        }
      }
      await Promise.all(Array.from({ length: atOnce }, worker))
      const [during, after] = [await last!, await look()]
      const grown = (name: string, to: readonly Metrics[]) =>
        to.map((metrics, i) => metrics.sum(name) - before[i]!.sum(name))
      report.figure('edits that completed', completed, `of ${count}`, { exactly: count })
      report.figure(
        'steps in all',
        lengths.reduce((sum, steps) => sum + steps, 0),
      )
      report.figure('they took', performance.now() - begin, 'ms')
      for (const [when, to] of [
        ['until the last edit was asked for', during],
        ['to the end', after],
      ] as const) {
        const steps = grown('flexit_steps_total', to)
        const work = grown('flexit_device_busy_seconds_total', to)
        report.note(`${when}:`)
        report.note(`steps of each replica: ${steps.join(', ')}`)
        report.figure('most / fewest steps', Math.max(...steps) / Math.min(...steps))
        report.note(`seconds that their devices worked: ${work.map((seconds) => seconds.toFixed(1)).join(', ')}`)
        const asked = to === after ? undefined : { atMost: 1.15 }
        report.figure('busiest / least busy replica', Math.max(...work) / Math.min(...work), '', asked)
      }
    })
  })
}
