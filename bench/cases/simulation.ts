// The scheduler's decision at scale: 64 devices of known step time, thousands of waiting edits, a clock moved by events.
// Jain's index: Jain, Chiu, Hawe, "A quantitative measure of fairness", 1984.

import type { Priority } from '../../src/scheduler/api.js'
import { drawing } from '../../src/scheduler/device-state.js'
import { Heap } from '../../src/scheduler/heap.js'
import { type BatchLimit, unmeasured } from '../../src/scheduler/policies/batch-tuner.js'
import { Schedule, type ScheduleOptions } from '../../src/scheduler/schedule.js'
import { Random } from '../kit/random.js'
import { type Report, formatNumber } from '../kit/report.js'
import { percentile } from '../kit/statistics.js'

interface Simulation {
  readonly devices: number
  readonly waiting: number
  readonly tenants: number
  /** Batches to simulate. */
  readonly batches: number
  readonly priorities: readonly Priority[]
  readonly options?: ScheduleOptions
}

interface Event {
  readonly atMs: number
  readonly device: string
  readonly startedMs: number
  readonly entries: readonly { id: number; fresh: boolean }[]
  readonly key: string
}

interface Result {
  /** Time that devices were busy, of the time that there was. */
  readonly utilisation: number
  /** Time that devices prepared edits, of the time that they were busy. */
  readonly preparing: number
  readonly jain: number
  /** Times of the decisions, sorted. */
  readonly decisionUs: Float64Array
  readonly stepsPerSecond: number
  readonly meanBatch: number
  /** Of one device for each graph. */
  readonly limits: ReadonlyMap<string, BatchLimit>
}

const graphs = Array.from({ length: 12 }, (_, i) => `graph ${i}`)
const prepareMs = 120
const stepsOfEdit = 160

/** A step is a launch and a time for each sample; the fifth graph and every fifth after it gain nothing by batching. */
function stepMs(key: string, size: number): number {
  if (key === drawing) return 15 * size
  return Number(key.slice(6)) % 5 === 4 ? 55 * size : 40 + 15 * size
}

function simulate({ devices, waiting, tenants, batches, priorities, options = {} }: Simulation): Result {
  const schedule = new Schedule(options)
  const random = new Random(7)
  const edits = new Map<number, { tenant: number; key: string; left: number }>()
  const servedMs = new Float64Array(tenants)
  const decisionUs = new Float64Array(batches)
  const events = new Heap<Event>((a, b) => a.atMs < b.atMs)
  let nowMs = 0
  let nextId = 0
  let busyMs = 0
  let preparingMs = 0
  let samples = 0
  let steps = 0
  let decisions = 0

  // Every tenth tenant has ten times as many edits as the others; whenever one ends, its tenant sends another.
  const submit = (tenant: number) => {
    const id = nextId++
    const key = random.pick(graphs)
    const stepsLeft = Math.ceil(stepsOfEdit * (0.25 + random.next()))
    edits.set(id, { tenant, key, left: stepsLeft })
    const priority = priorities[tenant % priorities.length]!
    schedule.add({ id, tenant: `tenant ${tenant}`, priority, key, stepsLeft }, nowMs)
  }
  const perTenant = waiting / (tenants * 1.9)
  for (let tenant = 0; tenant < tenants; tenant++) {
    const count = Math.max(1, Math.round(tenant % 10 === 0 ? 10 * perTenant : perTenant))
    for (let i = 0; i < count; i++) submit(tenant)
  }

  const decide = (device: string) => {
    const from = performance.now()
    const batch = schedule.next(device, nowMs)
    decisionUs[decisions++] = (performance.now() - from) * 1_000
    if (batch === undefined) return
    const fresh = batch.key === drawing ? 0 : batch.entries.filter((entry) => entry.fresh).length
    const atMs = nowMs + stepMs(batch.key, batch.entries.length) + prepareMs * fresh
    events.push({ atMs, device, startedMs: nowMs, entries: batch.entries, key: batch.key })
  }
  const names = Array.from({ length: devices }, (_, i) => `device ${i}`)
  for (const name of names) schedule.addDevice(name)
  for (const name of names) decide(name)

  while (decisions < batches) {
    const event = events.peek()!
    events.delete(event)
    nowMs = event.atMs
    const { device, entries, key } = event
    const durationMs = nowMs - event.startedMs
    busyMs += durationMs
    const step = stepMs(key, entries.length)
    preparingMs += durationMs - step
    const times = { stepMs: step, prepareMs: durationMs - step }
    schedule.update(device, { kind: 'stepped', measured: true, ...times, unknown: [] }, nowMs)
    if (key !== drawing && entries.length > 0) {
      steps++
      samples += entries.length
    }
    for (const { id } of entries) {
      const edit = edits.get(id)!
      if (key === drawing) {
        edits.delete(id)
        submit(edit.tenant)
        continue
      }
      servedMs[edit.tenant]! += durationMs / entries.length
      if (--edit.left === 0) schedule.finish(id, nowMs)
    }
    decide(device)
  }
  return {
    utilisation: busyMs / (nowMs * devices),
    preparing: preparingMs / busyMs,
    limits: new Map(
      names.flatMap((name) => [...schedule.batchLimits(name)].filter(([, { why }]) => why !== unmeasured)),
    ),
    jain: jain(servedMs),
    decisionUs: decisionUs.sort(),
    stepsPerSecond: (1_000 * samples) / nowMs,
    meanBatch: samples / steps,
  }
}

function jain(values: Float64Array): number {
  const sum = values.reduce((a, b) => a + b, 0)
  return sum ** 2 / (values.length * values.reduce((a, b) => a + b * b, 0))
}

const mixed: readonly Priority[] = ['interactive', 'normal', 'batch']
const base = { devices: 64, tenants: 100, batches: 60_000, priorities: mixed }

export function run(report: Report): Promise<void> {
  const decision = (what: string, { decisionUs }: Result, mostUs = Infinity) => {
    report.figure(`${what}: a decision, p50`, percentile(decisionUs, 0.5), 'µs')
    const asked = mostUs === Infinity ? undefined : { atMost: mostUs }
    report.figure(`${what}: a decision, p99`, percentile(decisionUs, 0.99), 'µs', asked)
  }
  const busy = (what: string, { utilisation, preparing }: Result) => {
    report.figure(`${what}: devices busy`, utilisation, '', { atLeast: 0.98 })
    report.figure(`${what}: of it, preparing edits`, preparing)
  }

  const scale = simulate({ ...base, waiting: 10_000 })
  report.note(`64 devices, 10,000 waiting edits of 100 tenants in 3 classes and ${graphs.length} graphs`)
  busy('mixed', scale)
  decision('mixed', scale, 200)
  report.figure('mixed: mean batch', scale.meanBatch)

  const equal = simulate({ ...base, waiting: 10_000, batches: 120_000, priorities: ['normal'] })
  report.note('100 equal tenants in one class, every tenth with ten times as many edits')
  busy('equal', equal)
  report.figure("equal: Jain's index", equal.jain, '', { atLeast: 0.99 })
  decision('equal', equal, 200)

  for (const waiting of [1_000, 3_000, 10_000, 30_000, 100_000]) {
    decision(`${formatNumber(waiting)} waiting`, simulate({ ...base, waiting, batches: 30_000 }))
  }

  const single = simulate({ ...base, waiting: 10_000, options: { maxBatch: 1 } })
  report.figure('without batching', single.stepsPerSecond, 'steps/s')
  report.figure('with batching', scale.stepsPerSecond, 'steps/s')
  report.figure('with, of without', scale.stepsPerSecond / single.stepsPerSecond, '', { atLeast: 1 })
  for (const key of [graphs[0]!, graphs[4]!]) {
    const { limit, why } = equal.limits.get(key) ?? { limit: 1, why: unmeasured }
    report.note(`${key}: batch limit ${limit}: ${why}`)
  }
  return Promise.resolve()
}
