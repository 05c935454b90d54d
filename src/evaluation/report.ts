// An evaluation as text and as tables: Table 1 and figure 6 of FlexIT (CVPR 2022), and the verdict on every picture.
// Nothing in a file depends on when or how fast it was made: the same evaluation gives the same bytes.

import type { Estimate, Estimates } from './bootstrap.js'
import { formatCsv } from './csv.js'
import type { ClusterResult, Evaluation } from './evaluation.js'
import { type Measures, measureNames } from './metrics.js'
import type { Query } from './queries.js'

const headings: Readonly<Record<keyof Measures, string>> = {
  lpips: 'LPIPS ↓',
  accuracy: 'Acc. % ↑',
  csfid: 'CSFID ↓',
  sfid: 'SFID ↓',
  csfidMean: 'CSFID μ ↓',
  sfidMean: 'SFID μ ↓',
}

/** Table 1 for a terminal, with 95 % intervals. */
export function formatTable(rows: readonly { readonly name: string; readonly estimates: Estimates }[]): string {
  const cells = [
    ['', ...measureNames.map((name) => headings[name])],
    ...rows.map(({ name, estimates }) => [name, ...measureNames.map((measure) => formatEstimate(estimates[measure]))]),
  ]
  return align(cells)
}

/** Figure 6 for a terminal. */
export function formatClusters(clusters: readonly ClusterResult[]): string {
  const triple = (of: (result: ClusterResult) => [number, number, number]) => (result: ClusterResult) =>
    of(result).map(formatNumber).join(' / ')
  const csfid = triple(({ retrieve, edit, copy }) => [retrieve.csfid, edit.csfid, copy.csfid])
  const failures = triple(({ retrieve, edit, copy }) => [failureRate(retrieve), failureRate(edit), failureRate(copy)])
  return align([
    ['cluster', 'queries', 'CSFID: RETRIEVE / FlexIT / COPY', 'failures in %'],
    ...clusters.map((result) => [result.cluster, String(result.queries), csfid(result), failures(result)]),
  ])
}

export function failureRate({ accuracy }: Measures): number {
  return 100 - accuracy
}

/** A line for each row of Table 1. */
export function tableCsv({ rows }: Evaluation): string {
  return formatCsv(rows.map(({ name, steps, estimates }) => ({ method: name, steps, ...estimateColumns(estimates) })))
}

/** Each measure with the ends of its interval. */
export function estimateColumns(estimates: Estimates): Record<string, number> {
  const columns = measureNames.flatMap((name) => {
    const { value, interval } = estimates[name]
    return [[name, value] as const, [`${name}Low`, interval.low] as const, [`${name}High`, interval.high] as const]
  })
  return Object.fromEntries(columns)
}

export function clustersCsv({ clusters }: Evaluation): string {
  return formatCsv(
    clusters.map(({ cluster, queries, retrieve, edit, copy }) => ({
      cluster,
      queries,
      csfidRetrieve: retrieve.csfid,
      csfidEdit: edit.csfid,
      csfidCopy: copy.csfid,
      failuresRetrieve: failureRate(retrieve),
      failuresEdit: failureRate(edit),
      failuresCopy: failureRate(copy),
    })),
  )
}

/** A line for each picture that was judged. */
export function verdictsCsv(
  { rows }: Evaluation,
  queries: readonly Query[],
  classes: ReadonlyMap<number, string>,
): string {
  return formatCsv(
    queries.flatMap(({ id, image, source, target, targetClass, cluster }, i) =>
      rows.map(({ name, verdicts }) => {
        const { lpips, predicted } = verdicts[i]!
        const correct = predicted === targetClass ? 1 : 0
        return {
          query: id,
          image,
          source,
          target,
          cluster,
          method: name,
          lpips,
          judged: classes.get(predicted),
          correct,
        }
      }),
    ),
  )
}

/** Three digits that count. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return '–'
  const size = Math.abs(value)
  if (size >= 99.95 || value === 0) return value.toFixed(0)
  return size >= 0.01 ? value.toPrecision(size < 1 ? 2 : 3) : value.toExponential(1)
}

function formatEstimate({ value, interval }: Estimate): string {
  return `${formatNumber(value)} [${formatNumber(interval.low)}, ${formatNumber(interval.high)}]`
}

/** Columns of equal width; the first to the left. Names from files must not steer a terminal. */
function align(texts: readonly (readonly string[])[]): string {
  const cells = texts.map((row) => row.map((text) => text.replace(/\p{Cc}/gu, '\uFFFD')))
  const widths = cells[0]!.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)))
  const line = (row: readonly string[]) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  ')
  return cells.map((row) => `${line(row).trimEnd()}\n`).join('')
}
