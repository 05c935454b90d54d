// Ten times as many edits as can be made, arriving in an open loop: how many are made all the same, how soon the others
// are told, and that none is forgotten. Shed load early: https://sre.google/sre-book/handling-overload/

import type { Progress } from '../../src/cli/progress.js'
import { type LoadPlan, type LoadResult, runLoad } from '../load/run-load.js'
import { cheap, request } from '../kit/edits.js'
import type { Metrics } from '../kit/metrics.js'
import type { Report } from '../kit/report.js'
import { withServerProcess } from '../kit/server.js'

const waiting = 16
const times = 10
const seconds = 15
const warmUpSeconds = 5
const parameters = { ...cheap, steps: 30 }

export async function run(report: Report, progress: Progress): Promise<void> {
  await withServerProcess({ maxWaitingEdits: waiting }, async (server) => {
    const load = (what: string, arrivals: LoadPlan['arrivals'], from: number) =>
      runLoad({
        servers: [server.address],
        arrivals,
        request: (i) => request(from + i, parameters),
        seconds: warmUpSeconds + seconds,
        warmUpSeconds,
        onProgress: ({ sent, seconds: passed }) =>
          progress.advance(passed, warmUpSeconds + seconds, [what, `${sent} edits sent`]),
      })
    const capacity = await load('capacity', { kind: 'closed', edits: waiting }, 0)
    progress.end()
    const before = await server.metrics()
    const perSecond = times * capacity.editsPerSecond
    const result = await load('overload', { kind: 'open', perSecond, seed: 1 }, capacity.sent)
    progress.end()
    const after = await server.metrics()

    report.note(`edits of ${parameters.steps} steps; ${waiting} may wait; the load generator shares the processor`)
    report.figure('capacity, closed loop', capacity.editsPerSecond, 'edits/s')
    report.figure('offered', perSecond, 'edits/s')
    report.figure('sent later than due, p99', result.lateMs.p99, 'ms')
    report.figure('goodput, of capacity', result.editsPerSecond / capacity.editsPerSecond, '', { atLeast: 0.9 })
    tellRefusals(report, result)
    report.figure('edits without an end', result.lost, '', { exactly: 0 })
    const failed = [...result.failed.values()].reduce((sum, count) => sum + count, 0)
    report.figure('edits that failed', failed, '', { exactly: 0 })
    const ends = ended(after) - ended(before)
    report.figure('ends and refusals in the server, less edits sent', ends - result.sent, '', { exactly: 0 })
  })
}

function tellRefusals(report: Report, { refused }: LoadResult): void {
  report.figure('refused', refused.get('RESOURCE_EXHAUSTED')?.count ?? 0, '', { atLeast: 1 })
  for (const [status, { p50, p99, max }] of refused) {
    report.figure(`refusal ${status}, p50`, p50, 'ms')
    report.figure(`refusal ${status}, p99`, p99, 'ms', { atMost: 50 })
    report.figure(`refusal ${status}, max`, max, 'ms')
  }
}

function ended(metrics: Metrics): number {
  return metrics.sum('flexit_edits_finished_total') + metrics.sum('flexit_edits_rejected_total')
}
