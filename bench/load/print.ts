// Results of loads, in words and as JSON.
// Percentiles are those of bench/kit/statistics.ts.

import { formatNumber } from '../kit/report.js'
import type { Summary } from '../kit/statistics.js'
import type { LoadResult } from './run-load.js'
import type { Sweep } from './sweep.js'

/** Lines. */
export function describeLoad(result: LoadResult): string[] {
  const { sent, completed, cut, lost, seconds, editsPerSecond, stepsPerSecond } = result
  const times: [string, Summary][] = [
    ['queue', result.queueMs],
    ['first preview', result.firstPreviewMs],
    ['inter-step', result.interStepMs],
    ['end to end', result.endToEndMs],
    ['sent late by', result.lateMs],
  ]
  const refused = [...result.refused].map(([status, times]): [string, Summary] => [`refused: ${status}`, times])
  return [
    `${sent} sent: ${completed} completed${note(cut, 'cut off at the end')}${note(lost, 'WITHOUT AN END')}`,
    ...[...result.failed].map(([status, count]) => `failed: ${count} ${status}`),
    `goodput ${formatNumber(editsPerSecond)} edits/s, ${formatNumber(stepsPerSecond)} steps/s, over ${formatNumber(seconds)} s`,
    row('ms', ['p50', 'p90', 'p99', 'max', 'count']),
    ...[...times, ...refused].flatMap(([name, of]) => (of.count === 0 ? [] : [row(name, cells(of))])),
  ]
}

/** Lines: a row for each load. */
export function describeSweep({ capacity, points, knee }: Sweep): string[] {
  const head = ['edits/s', 'kept', 'queue p50', 'p99', 'end p50', 'p99', 'refused']
  const rows = points.map(({ part, offeredPerSecond, kept, result: { queueMs, endToEndMs, refused } }) => {
    const count = [...refused.values()].reduce((sum, { count }) => sum + count, 0)
    const times = [queueMs.p50, queueMs.p99, endToEndMs.p50, endToEndMs.p99]
    return row(`${Math.round(100 * part)} % of capacity`, [offeredPerSecond, kept, ...times, count].map(cell))
  })
  return [
    `capacity in a closed loop: ${formatNumber(capacity.editsPerSecond)} edits/s, ${formatNumber(capacity.stepsPerSecond)} steps/s`,
    row('times in ms', head),
    ...rows,
    knee === undefined
      ? 'no load was kept up with'
      : `the knee: ${formatNumber(knee.offeredPerSecond)} edits/s, ${formatNumber(100 * knee.part)} % of capacity`,
  ]
}

/** A result as plain values. */
export function toJson(result: LoadResult): object {
  return { ...result, refused: Object.fromEntries(result.refused), failed: Object.fromEntries(result.failed) }
}

export function sweepToJson({ capacity, points, knee }: Sweep): object {
  return {
    capacity: toJson(capacity),
    points: points.map(({ result, ...point }) => ({ ...point, result: toJson(result) })),
    knee: knee === undefined ? null : { part: knee.part, offeredPerSecond: knee.offeredPerSecond },
  }
}

function note(count: number, what: string): string {
  return count === 0 ? '' : `, ${count} ${what}`
}

function cells({ p50, p90, p99, max, count }: Summary): string[] {
  return [p50, p90, p99, max, count].map(cell)
}

function cell(value: number): string {
  return Number.isNaN(value) ? '-' : formatNumber(value)
}

function row(name: string, values: readonly string[]): string {
  return `  ${name.padEnd(28)}${values.map((value) => value.padStart(10)).join('')}`
}
