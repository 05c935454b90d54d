// 300 edits of 1 to 64 steps, most of them short, 24 under way at any time, over three replicas with equal shares of the
// processor: the device of the busiest works at most 1.15 times as long as that of the least busy.

import type { ClientEditRequest } from '../../../src/client/client.js'
import { cheap, request } from '../../kit/edits.js'
import type { Metrics } from '../../kit/metrics.js'
import { Random } from '../../kit/random.js'
import type { Report } from '../../kit/report.js'
import { CpuShare } from '../cpu-share.js'
import { scaled, watch } from '../edits.js'
import { type Replica, withReplicas } from '../replica.js'
import { type Way, withClient } from '../way.js'

const count = scaled(300)
const atOnce = Math.min(count, 24)
/** Of a core: the balancer and the client need the rest of two. */
const cores = 0.5

/** Steps that keep the device busier than the preparation does, as those of real models. */
const editOf = (i: number, steps: number): ClientEditRequest => request(i, { ...cheap, steps })

export const balance = (way: Way) => async (report: Report, folder: string) => {
  const shares: CpuShare[] = []
  try {
    await withReplicas(3, {}, async (replicas) => {
      try {
        for (const [i, { pid }] of replicas.entries()) shares.push(await CpuShare.create(String(i), cores, pid))
      } catch (error) {
        report.note(
          `replicas share the processor as they can, for control groups are not ours to make: ${String(error)}`,
        )
      }
      await measure(report, folder, way, replicas)
    })
  } finally {
    for (const share of shares) await share.remove()
  }
}

async function measure(report: Report, folder: string, way: Way, replicas: readonly Replica[]): Promise<void> {
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
      const grown = (name: string) => to.map((metrics, i) => metrics.sum(name) - before[i]!.sum(name))
      const steps = grown('flexit_steps_total')
      const work = grown('flexit_device_busy_seconds_total')
      report.note(`${when}:`)
      report.note(`steps of each replica: ${steps.join(', ')}`)
      report.figure('most / fewest steps', Math.max(...steps) / Math.min(...steps))
      report.note(`seconds that their devices worked: ${work.map((seconds) => seconds.toFixed(1)).join(', ')}`)
      report.figure('busiest / least busy replica', Math.max(...work) / Math.min(...work), '', { atMost: 1.15 })
    }
  })
}
