// The decision under a hand-moved clock: who runs next, where, and with whom.
// Devices are imagined: a step takes as long as a test says.

import test, { type ExecutionContext } from 'ava'
import type { Priority } from '../../src/scheduler/api.js'
import { DeviceState, type Scheduled, drawing } from '../../src/scheduler/device-state.js'
import type { Share } from '../../src/scheduler/policies/fairness.js'
import { type Batch, type BatchOutcome, Schedule, type ScheduleOptions } from '../../src/scheduler/schedule.js'
import { Random } from '../support/random.js'

interface Wish {
  readonly tenant?: string
  readonly priority?: Priority
  readonly key?: string
  readonly stepsLeft?: number
  readonly deadlineMs?: number
  readonly underWayMs?: number
  readonly begun?: boolean
}

/** A schedule with its clock and its devices. */
class Stage {
  readonly schedule: Schedule
  nowMs = 0
  /** Steps taken, for each edit. */
  readonly taken = new Map<number, number>()
  #nextId = 1

  constructor(options: ScheduleOptions = {}, devices: readonly string[] = ['a']) {
    this.schedule = new Schedule(options)
    for (const device of devices) this.schedule.addDevice(device)
  }

  add({
    tenant = 'x',
    priority = 'normal',
    key = 'k',
    stepsLeft = 1_000,
    deadlineMs,
    underWayMs = 0,
    begun = false,
  }: Wish = {}): number {
    const id = this.#nextId++
    this.schedule.add({ id, tenant, priority, key, stepsLeft, deadlineMs, underWayMs, begun }, this.nowMs)
    return id
  }

  next(device = 'a'): Batch | undefined {
    return this.schedule.next(device, this.nowMs)
  }

  ids(device = 'a'): number[] {
    return this.next(device)?.entries.map(({ id }) => id) ?? []
  }

  end(outcome: Partial<BatchOutcome & { kind: 'stepped' }> = {}, device = 'a') {
    const stepped = { kind: 'stepped', measured: true, stepMs: 10, prepareMs: 0, unknown: [], ...outcome } as const
    return this.schedule.update(device, stepped, this.nowMs)
  }

  lose(device = 'a') {
    return this.schedule.update(device, { kind: 'lost', blameless: false }, this.nowMs)
  }

  /** Decide and take `count` steps. */
  run(count: number, stepMs: (batch: Batch) => number = () => 10, device = 'a'): void {
    for (let i = 0; i < count; i++) {
      const batch = this.next(device)
      if (batch === undefined) return
      const ms = stepMs(batch)
      this.nowMs += ms
      this.end({ stepMs: ms }, device)
      for (const { id } of batch.entries) this.taken.set(id, (this.taken.get(id) ?? 0) + 1)
    }
  }

  stepsOf(id: number): number {
    return this.taken.get(id) ?? 0
  }
}

const single = { maxBatch: 1 }

test('a batch has edits of one graph, up to the limit that was found', (t) => {
  const stage = new Stage({ maxBatch: 4 })
  for (let i = 0; i < 6; i++) stage.add({ key: i % 2 === 0 ? 'even' : 'odd', tenant: `tenant ${i}` })
  stage.run(60)
  for (let i = 0; i < 10; i++) {
    const batch = stage.next()!
    const parities = new Set(batch.entries.map(({ id }) => id % 2))
    t.is(parities.size, 1)
    t.is(batch.entries.length, 3)
    t.is(batch.key, parities.has(1) ? 'even' : 'odd')
    stage.end()
  }
})

test('an edit joins at a step boundary, prepared once', (t) => {
  const stage = new Stage()
  const first = stage.add()
  t.deepEqual(stage.next()?.entries, [{ id: first, fresh: true }])
  stage.add()
  t.throws(() => stage.next(), { message: /not idle/ })
  stage.end()
  t.deepEqual(stage.next()?.entries, [{ id: first, fresh: false }])
})

test('an edit that comes from another server keeps its place among those of its tenant', (t) => {
  const stage = new Stage(single)
  stage.nowMs = 10_000
  const waiting = stage.add()
  stage.nowMs = 20_000
  const begun = stage.add({ underWayMs: 15_000 })
  const later = stage.add({ underWayMs: 5_000 })
  t.deepEqual(stage.ids(), [begun])
  stage.schedule.remove(begun)
  stage.end()
  t.deepEqual(stage.ids(), [waiting])
  stage.schedule.remove(waiting)
  stage.end()
  t.deepEqual(stage.ids(), [later])
})

test('an edit that had begun elsewhere goes before those of its tenant that did not, and before no other tenant', (t) => {
  const stage = new Stage(single)
  const first = stage.add()
  t.deepEqual(stage.ids(), [first])
  stage.end()
  const waiting = stage.add()
  const moved = stage.add({ begun: true })
  const other = stage.add({ tenant: 'y' })
  stage.schedule.remove(first)
  t.deepEqual(stage.ids(), [other], 'this tenant had a step')
  stage.schedule.remove(other)
  stage.end()
  t.deepEqual(stage.ids(), [moved])
  stage.schedule.remove(moved)
  stage.end()
  t.deepEqual(stage.ids(), [waiting])
})

test('of more begun edits than a batch takes none stands still, and the first end first', (t) => {
  const stage = new Stage(single)
  const edits = Array.from({ length: 5 }, (_, i) => stage.add({ begun: i > 0, stepsLeft: 400 }))
  const last = new Map(edits.map((id) => [id, stage.nowMs]))
  let longestMs = 0
  for (let step = 0; step < 1_000; step++) {
    const [id] = stage.ids()
    longestMs = Math.max(longestMs, stage.nowMs - last.get(id!)!)
    stage.nowMs += 20
    last.set(id!, stage.nowMs)
    stage.taken.set(id!, stage.stepsOf(id!) + 1)
    stage.end({ stepMs: 20 })
  }
  t.true(longestMs <= 1_000 + 5 * 20, `${longestMs} ms`)
  const [waiting, first, ...others] = edits.map((id) => stage.stepsOf(id))
  t.is(waiting, 0, 'it did not begin: it waits')
  t.true(first! > 900, `${first} steps`)
  for (const steps of others) t.true(steps >= 18, `${steps} steps`)
})

test('… nor where a step takes longer than one may stand still', (t) => {
  const stage = new Stage(single)
  for (let i = 0; i < 4; i++) stage.add({ begun: true })
  stage.run(40, () => 6_000)
  for (let id = 1; id <= 4; id++) t.is(stage.stepsOf(id), 10)
})

test('a higher class goes first, from the next step on', (t) => {
  const stage = new Stage(single)
  const batch = stage.add({ priority: 'batch' })
  t.deepEqual(stage.ids(), [batch])
  stage.end()
  const interactive = stage.add({ priority: 'interactive' })
  const normal = stage.add()
  t.deepEqual(stage.ids(), [interactive])
  stage.schedule.remove(interactive)
  stage.end()
  t.deepEqual(stage.ids(), [normal])
  stage.schedule.remove(normal)
  stage.end()
  t.deepEqual(stage.ids(), [batch])
})

test('a tenant with a thousand edits does not slow one with a single edit', (t) => {
  const stage = new Stage(single)
  for (let i = 0; i < 1_000; i++) stage.add({ tenant: 'many' })
  stage.run(50)
  const one = stage.add({ tenant: 'one' })
  stage.run(100)
  t.true(Math.abs(stage.stepsOf(one) - 50) <= 1, `${stage.stepsOf(one)} of 100 steps`)
})

test('device time is shared by weight, whatever a step costs', (t) => {
  const stage = new Stage({ ...single, weightOf: (tenant) => (tenant === 'heavy' ? 3 : 1) })
  const heavy = stage.add({ tenant: 'heavy', key: 'slow' })
  const light = stage.add({ tenant: 'light', key: 'quick' })
  stage.run(600, ({ key }) => (key === 'slow' ? 40 : 5))
  const ratio = (stage.stepsOf(heavy) * 40) / (stage.stepsOf(light) * 5)
  t.true(Math.abs(ratio - 3) < 0.3, `ratio ${ratio.toFixed(2)}`)
})

test('tenants take turns, however many edits wait', (t) => {
  const stage = new Stage(single)
  const tenants = ['x', 'y', 'z'].map((tenant, i) =>
    Array.from({ length: 10 * (i + 1) }, () => stage.add({ tenant, key: `graph ${i % 2}` })),
  )
  for (let i = 0; i < 30; i++) {
    const [id] = stage.ids()
    stage.end()
    stage.taken.set(id!, 1)
    stage.schedule.remove(id!)
  }
  t.deepEqual(
    tenants.map((ids) => ids.filter((id) => stage.stepsOf(id) > 0).length),
    [10, 10, 10],
  )
})

test('a tenant that was away has saved up nothing, and one that comes and goes is forgiven nothing', (t) => {
  const stage = new Stage(single)
  const steady = stage.add({ tenant: 'steady' })
  stage.run(100)
  const late = stage.add({ tenant: 'late' })
  stage.run(40)
  t.true(Math.abs(stage.stepsOf(late) - 20) <= 1)

  const before = stage.stepsOf(steady)
  stage.schedule.remove(late)
  for (let i = 0; i < 40; i++) {
    const hopping = stage.add({ tenant: 'late' })
    stage.run(1)
    stage.schedule.remove(hopping)
  }
  t.true(Math.abs(stage.stepsOf(steady) - before - 20) <= 1, `${stage.stepsOf(steady) - before} of 40 steps`)
})

for (const when of ['while it waits', 'in its step']) {
  test(`a tenant that pauses ${when} saves up nothing`, (t) => {
    const stage = new Stage(single)
    const paused = stage.add({ tenant: 'paused' })
    const steady = stage.add({ tenant: 'steady' })
    if (when === 'in its step') t.deepEqual(stage.ids(), [paused])
    stage.schedule.block(paused, 'paused', true, 0)
    if (when === 'in its step') stage.end()
    stage.run(100)
    stage.schedule.block(paused, 'paused', false, stage.nowMs)
    stage.run(20)
    t.true(Math.abs(stage.stepsOf(paused) - 10) <= 1)
    t.true(Math.abs(stage.stepsOf(steady) - 110) <= 1)
  })
}

test('a tenant whose edit was drawn saves up nothing either', (t) => {
  const stage = new Stage(single)
  const first = stage.add({ tenant: 'late' })
  const steady = stage.add({ tenant: 'steady' })
  stage.run(2)
  stage.schedule.finish(first, stage.nowMs)
  stage.run(101)
  const second = stage.add({ tenant: 'late' })
  stage.run(20)
  t.true(Math.abs(stage.stepsOf(second) - 10) <= 1)
  t.true(Math.abs(stage.stepsOf(steady) - 111) <= 1)
})

test('a step under which a graph was built is no measure, and charged to nobody', (t) => {
  const stage = new Stage(single)
  const edits = [stage.add({ tenant: 'first' }), stage.add({ tenant: 'second' })]
  t.deepEqual(stage.ids(), [edits[0]])
  stage.end({ measured: false, stepMs: 100_000 })
  t.is(stage.schedule.batchLimits('a').get('k')?.stepMs.size ?? 0, 0)
  stage.run(20)
  for (const id of edits) t.true(Math.abs(stage.stepsOf(id) - 10) <= 1)
})

test('a tenant pays once for a step that its edits take together, and for preparing them', (t) => {
  const stage = new Stage({ maxBatch: 4 })
  for (let i = 0; i < 4; i++) stage.add({ tenant: 'many', key: 'shared' })
  stage.add({ tenant: 'one', key: 'own' })
  const gotMs = new Map<string, number>()
  for (let i = 0; i < 400; i++) {
    const { key, entries } = stage.next()!
    const prepareMs = entries.some(({ fresh }) => fresh) ? 1_000 : 0
    gotMs.set(key, (gotMs.get(key) ?? 0) + 10 + prepareMs)
    stage.end({ stepMs: 10, prepareMs })
  }
  t.true(Math.abs(gotMs.get('shared')! - gotMs.get('own')!) <= 20)
})

test('what waits too long rises by a class: nothing starves', (t) => {
  const stage = new Stage({ ...single, ageMs: 1_000 })
  const patient = stage.add({ tenant: 'patient', priority: 'batch' })
  stage.add({ tenant: 'busy', priority: 'interactive' })
  stage.run(199)
  t.is(stage.stepsOf(patient), 0)
  stage.run(10)
  t.true(stage.stepsOf(patient) > 0)
})

test('what is prepared rises too', (t) => {
  const stage = new Stage({ ...single, ageMs: 1_000 })
  const patient = stage.add({ tenant: 'patient', priority: 'normal' })
  stage.run(1)
  stage.add({ tenant: 'busy', priority: 'interactive' })
  stage.run(120)
  t.true(stage.stepsOf(patient) > 5)
})

test("a deadline goes before the tenant's other edits, not before another tenant's", (t) => {
  const stage = new Stage(single)
  stage.add({ tenant: 'x', stepsLeft: 1 })
  stage.run(1)
  const other = stage.add({ tenant: 'y' })
  stage.add({ tenant: 'x' })
  const urgent = stage.add({ tenant: 'x', deadlineMs: 100 })
  t.deepEqual(stage.ids(), [other])
  stage.end({ stepMs: 15 })
  stage.schedule.remove(1)
  t.deepEqual(stage.ids(), [urgent])
})

test('the batch limit grows while that pays, and steps back where it does not', (t) => {
  const pays = new Stage({ maxBatch: 16 })
  const not = new Stage({ maxBatch: 16 })
  for (const stage of [pays, not]) for (let i = 0; i < 32; i++) stage.add()
  pays.run(60, ({ entries }) => 40 + 5 * entries.length)
  not.run(60, ({ entries }) => 20 * entries.length)
  t.is(pays.next()?.entries.length, 16)
  t.is(not.next()?.entries.length, 1)
  t.like(pays.schedule.batchLimits('a').get('k'), { limit: 16, why: '16 is the largest batch that is allowed' })
  t.like(not.schedule.batchLimits('a').get('k'), {
    limit: 1,
    why: 'a batch of 2 has 1.00 times the throughput of one of 1',
  })
})

test('a batch that does not fit into memory is halved and tried again, and stays within that', (t) => {
  const stage = new Stage({ maxBatch: 16 })
  for (let i = 0; i < 32; i++) stage.add()
  let most = 0
  for (let i = 0; i < 3_000; i++) {
    const { length } = stage.next()!.entries
    if (length > 6) t.deepEqual(stage.schedule.update('a', { kind: 'out-of-memory' }, 0).failed, [])
    else stage.end({ stepMs: 40 + length })
    most = i < 60 ? 0 : Math.max(most, length)
  }
  t.is(most, 4)
})

test('an edit that alone does not fit into memory fails, once the device has let go of all others', (t) => {
  const stage = new Stage(single)
  const rest = stage.add({ tenant: 'y' })
  stage.run(1)
  stage.schedule.block(rest, 'paused', true, 0)
  const big = stage.add()
  t.deepEqual(stage.ids(), [big])
  t.deepEqual(stage.schedule.update('a', { kind: 'out-of-memory' }, 0), { failed: [], deviceOut: false })
  t.deepEqual(stage.next(), { key: 'k', entries: [{ id: big, fresh: true }], forget: [rest, big] })
  t.deepEqual(stage.schedule.update('a', { kind: 'out-of-memory' }, 0).failed, [big])
  t.deepEqual(stage.ids(), [])
  stage.schedule.block(rest, 'paused', false, 0)
  stage.end()
  t.deepEqual(stage.next()?.entries, [{ id: rest, fresh: true }])
})

test('edits are divided among idle devices', (t) => {
  const stage = new Stage({ maxBatch: 8 }, ['a', 'b'])
  for (let i = 0; i < 40; i++) stage.add({ stepsLeft: 10_000 })
  stage.run(100)
  for (let id = 5; id <= 40; id++) stage.schedule.remove(id)
  for (let id = 1; id <= 4; id++) stage.schedule.renew(id, 'k', 100, 0)
  t.is(stage.ids('a').length, 2)
  t.is(stage.ids('b').length, 1)
})

test('an edit stays on its device; an idle one takes those that wait, then those that rest elsewhere if it pays', (t) => {
  const stage = new Stage(single, ['a', 'b'])
  const [first, second, third] = [stage.add(), stage.add({ tenant: 'y' }), stage.add({ tenant: 'z' })]
  stage.run(3)
  t.is(stage.schedule.counts.resident, 3)
  stage.next('a')
  const fresh = stage.add({ tenant: 'v' })
  t.deepEqual(stage.next('b')?.entries, [{ id: fresh, fresh: true }])
  stage.end({ prepareMs: 100 }, 'b')
  stage.schedule.remove(fresh)
  const stolen = stage.next('b')!
  t.is(stolen.entries.length, 1)
  t.true([first, second, third].includes(stolen.entries[0]!.id))
  t.true(stolen.entries[0]!.fresh)
  stage.end({}, 'a')
  t.deepEqual(stage.next('a')!.forget, [stolen.entries[0]!.id])
})

test('a batch is divided as soon as another device has nothing to do, unless few steps are left', (t) => {
  for (const [prepareMs, kept] of [
    [10, 4],
    [35_000, 8],
    [1e6, 8],
  ] as const) {
    const stage = new Stage({ maxBatch: 8 })
    for (let i = 0; i < 8; i++) stage.add()
    stage.next()
    stage.end({ prepareMs })
    stage.run(100, ({ entries }) => 40 + entries.length)
    stage.schedule.addDevice('b')
    t.deepEqual(stage.ids('b'), [], 'none rests')
    const here = stage.ids('a')
    t.is(here.length, kept)
    const there = stage.ids('b')
    t.is(there.length > 0, kept < 8)
    t.false(there.some((id) => here.includes(id)))
  }
})

test('an edit with few steps left is not moved', (t) => {
  const stage = new Stage(single, ['a', 'b'])
  const probe = stage.add({ tenant: 'probe' })
  stage.next('b')
  stage.end({ prepareMs: 1_000 }, 'b')
  stage.schedule.remove(probe)
  stage.run(1, undefined, 'b')
  stage.add({ stepsLeft: 22 })
  stage.add({ tenant: 'y', stepsLeft: 22 })
  stage.run(4)
  stage.next('a')
  t.is(stage.next('b'), undefined)
})

test('a device keeps no more edits prepared than allowed: blocked ones give up their place first', (t) => {
  const stage = new Stage({ ...single, maxResidents: 2 })
  const [first, second] = [stage.add(), stage.add({ tenant: 'y' })]
  stage.run(2)
  stage.schedule.block(second, 'held', true, 0)
  const third = stage.add({ tenant: 'z' })
  t.deepEqual(stage.next(), { key: 'k', entries: [{ id: third, fresh: true }], forget: [second] })
  stage.end()
  stage.schedule.block(second, 'held', false, 0)
  t.deepEqual(stage.next()?.entries, [{ id: first, fresh: false }])
})

test('what is prepared goes on for a while before what is not, but not for long', (t) => {
  const stage = new Stage(single)
  stage.add()
  stage.next()
  stage.end({ prepareMs: 50 })
  const other = stage.add({ tenant: 'y' })
  let steps = 0
  while (!stage.ids().includes(other)) {
    stage.end()
    steps++
  }
  t.true(Math.abs(steps - 20) <= 6, `${steps} steps of 10 ms, where preparing takes 50 ms`)
})

test('of what is prepared the most urgent goes first, and before what is more urgent but not prepared', (t) => {
  const stage = new Stage(single)
  const first = stage.add()
  t.deepEqual(stage.ids(), [first])
  stage.schedule.block(first, 'paused', true, 0)
  stage.end()
  const urgent = stage.add({ deadlineMs: 100 })
  t.deepEqual(stage.ids(), [urgent])
  stage.end()
  stage.schedule.block(first, 'paused', false, 0)
  t.deepEqual(stage.ids(), [urgent])
  stage.end()
  stage.add({ deadlineMs: 50, begun: true })
  t.deepEqual(stage.ids(), [urgent])
})

test('where preparing is dear, tenants take turns after long stretches', (t) => {
  const stage = new Stage({ ...single, maxResidents: 1 })
  for (const tenant of ['x', 'y', 'z']) stage.add({ tenant, stepsLeft: 1e6 })
  let prepared = 0
  for (let i = 0; i < 3_000; i++) {
    const fresh = stage.next()!.entries[0]!.fresh
    if (fresh) prepared++
    stage.end({ prepareMs: fresh ? 30 : 0 })
    stage.taken.set(0, prepared)
  }
  t.true(prepared > 20 && prepared * 30 < 0.15 * 3_000 * 10, `prepared ${prepared} times`)
})

test('paused and held edits do not run, for as long as there is a reason', (t) => {
  const stage = new Stage()
  const id = stage.add()
  stage.schedule.block(id, 'paused', true, 0)
  stage.schedule.block(id, 'paused', true, 0)
  stage.schedule.block(id, 'held', true, 0)
  t.is(stage.next(), undefined)
  stage.schedule.block(id, 'paused', false, 0)
  t.is(stage.next(), undefined)
  stage.schedule.block(id, 'held', false, 0)
  t.deepEqual(stage.ids(), [id])
  stage.schedule.block(id, 'paused', true, 0)
  stage.end()
  t.is(stage.next(), undefined)
  t.is(stage.schedule.counts.blocked, 1)
  stage.schedule.block(id, 'paused', false, 0)
  t.deepEqual(stage.next()?.entries, [{ id, fresh: false }])
})

test('an edit removed during its step does not come back, and its device forgets it', (t) => {
  const stage = new Stage()
  const id = stage.add()
  stage.next()
  stage.schedule.remove(id)
  stage.schedule.remove(id)
  stage.end()
  t.deepEqual(stage.next(), { key: drawing, entries: [], forget: [id] })
  stage.end()
  t.is(stage.next(), undefined)
  t.deepEqual(stage.schedule.counts, { waiting: 0, suspect: 0, resident: 0, running: 0, blocked: 0 })
})

test('a picture is drawn before anything else, on any device, even of a paused edit', (t) => {
  const stage = new Stage(single, ['a', 'b'])
  const id = stage.add({ priority: 'batch' })
  stage.run(1)
  stage.schedule.block(id, 'paused', true, 0)
  stage.add({ priority: 'interactive' })
  stage.schedule.finish(id, 0)
  stage.schedule.block(id, 'held', true, 0)
  t.deepEqual(stage.next('b'), { key: drawing, entries: [{ id, fresh: true }], forget: [] })
  stage.end({}, 'b')
  t.is(stage.next('b')?.entries.length, 1)
})

test('an edit that changed is prepared anew, in its new graph', (t) => {
  const stage = new Stage()
  const id = stage.add()
  stage.run(1)
  stage.schedule.renew(id, 'other', 5, 0)
  t.deepEqual(stage.next(), { key: 'other', entries: [{ id, fresh: true }], forget: [id] })
  t.throws(() => stage.schedule.renew(id, 'k', 5, 0), { message: /not at a step boundary/ })
})

test('after a crash each edit of the batch runs alone; who crashes alone again fails, the others go on', (t) => {
  const stage = new Stage({ maxBatch: 4 })
  for (let i = 0; i < 4; i++) stage.add({ tenant: `tenant ${i}` })
  stage.run(30)
  const culprit = 3
  const { length } = stage.ids()
  t.is(length, 4)
  t.deepEqual(stage.lose(), { failed: [], deviceOut: false })
  const alone: number[] = []
  for (let i = 0; i < 4; i++) {
    const { entries } = stage.next()!
    t.is(entries.length, 1)
    t.true(entries[0]!.fresh)
    alone.push(entries[0]!.id)
    if (entries[0]!.id === culprit) t.deepEqual(stage.lose(), { failed: [culprit], deviceOut: false })
    else stage.end()
  }
  t.deepEqual(alone.sort(), [1, 2, 3, 4])
  stage.run(30)
  t.deepEqual(stage.ids().sort(), [1, 2, 4])
})

test('an edit that was lost with its worker runs alone, also where others wait to begin', (t) => {
  const stage = new Stage({ maxBatch: 4 })
  const lost = [stage.add(), stage.add()]
  stage.run(30)
  t.deepEqual(stage.ids(), lost)
  stage.lose()
  for (let i = 0; i < 4; i++) stage.add()
  t.deepEqual(stage.ids(), [lost[0]])
})

test('an edit that was lost on its first step has its turn, though others keep coming, and rises with age', (t) => {
  const stage = new Stage({ maxBatch: 4 })
  const add = () => stage.add({ priority: 'interactive' })
  add()
  stage.run(50)
  const lost = add()
  t.true(stage.ids().includes(lost))
  stage.lose()
  for (let i = 0; i < 400 && stage.stepsOf(lost) === 0; i++) {
    if (i % 20 === 0) add()
    stage.run(1, ({ entries }) => {
      for (const { id } of entries) if (stage.stepsOf(id) === 100) stage.schedule.remove(id)
      return 100
    })
  }
  t.true(stage.stepsOf(lost) > 0)

  const aged = new Stage({ ...single, ageMs: 100 })
  const low = aged.add({ priority: 'batch', tenant: 'y' })
  t.deepEqual(aged.ids(), [low])
  aged.lose()
  aged.add({ priority: 'interactive' })
  aged.run(60)
  t.true(aged.stepsOf(low) > 0)
})

test('where a device computes nothing at all, no edit is blamed', (t) => {
  const stage = new Stage({ maxLosses: 3 })
  for (let i = 0; i < 2; i++) stage.add()
  const outs = [1, 2, 3].map(() => {
    t.true(stage.ids().length > 0)
    return stage.schedule.update('a', { kind: 'lost', blameless: true }, stage.nowMs)
  })
  t.deepEqual(outs.at(-1), { failed: [], deviceOut: true })
  t.is(stage.schedule.counts.suspect, 0)
})

const crowdedOut = test.macro((t: ExecutionContext, others: number) => {
  const stage = new Stage({ maxBatch: 4 })
  const add = (key: string) => stage.add({ key, priority: 'interactive', stepsLeft: 50 })
  // They are of the usual graph too, and stay.
  for (let i = 0; i < others; i++) stage.add({ key: 'usual', priority: 'interactive', tenant: 'y', stepsLeft: 1e6 })
  const ends = (batch: Batch) => {
    for (const { id } of batch.entries) if (stage.stepsOf(id) === 49) stage.schedule.remove(id)
    return 100
  }
  add('usual')
  stage.run(10, ends)
  const other = add('other')
  for (let i = 0; i < 400 && stage.stepsOf(other) === 0; i++) {
    if (i % 30 === 0) add('usual')
    stage.run(1, ends)
  }
  t.true(stage.stepsOf(other) > 0)
})

test('a graph whose edits keep coming does not lock out another one of the same tenant', crowdedOut, 0)
test('… nor where another tenant shares its batches', crowdedOut, 1)

const hidden = test.macro((t: ExecutionContext, options: ScheduleOptions, count: number, usual: Wish) => {
  const stage = new Stage(options)
  for (let i = 0; i < count; i++) stage.add({ key: 'usual', stepsLeft: 1e6, ...usual })
  stage.run(100, () => 100)
  const other = stage.add({ key: 'other' })
  const sinceMs = stage.nowMs
  while (stage.stepsOf(other) === 0 && stage.nowMs < sinceMs + 30_000) stage.run(1, () => 100)
  t.true(stage.nowMs - sinceMs <= 5_300, `${stage.nowMs - sinceMs} ms`)
})

test(
  'a graph has its turn though edits wait that rank before: of the graph that runs, more than a batch takes',
  hidden,
  {},
  17,
  {},
)
test('… or that have begun', hidden, {}, 40, { begun: true })
test('… or that have a deadline', hidden, {}, 40, { deadlineMs: 50_000 })
test('… or where batches do not pay', hidden, single, 3, {})

test('who of a tenant goes first does not depend on who is compared first', (t) => {
  const random = new Random(7)
  const below = (n: number) => Math.floor(random.uniform() * n)
  const nowMs = 100_000
  for (let round = 0; round < 20_000; round++) {
    const device = new DeviceState('a', 2)
    const share: Share = { level: 1, tenant: 'x', virtualMs: 0, active: 3, order: 0 }
    const edits = Array.from({ length: 3 }, (_, id): Scheduled => {
      const here = below(2) === 0
      return {
        id,
        key: `graph ${below(3)}`,
        stepsLeft: 10,
        begun: here || below(2) === 0,
        rank: below(1_000),
        waitingSinceMs: nowMs - below(12_000),
        share,
        place: here ? 'resident' : 'waiting',
        device: here ? device : undefined,
        blocks: new Set(),
        strikes: 0,
        lostOn: undefined,
        leaving: false,
      }
    })
    device.decide([], nowMs - below(10_000))
    for (const edit of edits) if (below(2) === 0) device.lead(edit)
    device.decide(edits, nowMs)
    const [a, b, c] = edits
    const first = device.better(device.better(a, b), c)
    t.is(device.better(device.better(b, c), a), first)
    t.is(device.better(device.better(c, a), b), first)
  }
})

test('graphs of one tenant take turns: an edit waits for no other one to end, and switches are rare', (t) => {
  const stage = new Stage()
  const [long, other] = [stage.add({ key: 'long' }), stage.add({ key: 'other' })]
  const last = new Map<number, number>()
  let longestMs = 0
  let switches = 0
  let key = ''
  for (let step = 0; step < 1_000; step++) {
    const batch = stage.next()!
    if (batch.key !== key) switches++
    key = batch.key
    stage.nowMs += 100
    stage.end({ stepMs: 100 })
    for (const { id } of batch.entries) {
      longestMs = Math.max(longestMs, stage.nowMs - (last.get(id) ?? 0))
      last.set(id, stage.nowMs)
      stage.taken.set(id, stage.stepsOf(id) + 1)
    }
  }
  t.true(longestMs <= 5_300, `${longestMs} ms`)
  t.true(switches <= 21, `${switches} switches in 100 s`)
  for (const id of [long, other]) t.true(stage.stepsOf(id) >= 450, `${stage.stepsOf(id)} of 1,000 steps`)
})

test('… and many of them, too, where a step takes longer than a turn', (t) => {
  const stage = new Stage()
  for (let i = 0; i < 5; i++) stage.add({ key: `graph ${i}` })
  stage.run(50, () => 7_000)
  for (let id = 1; id <= 5; id++) t.is(stage.stepsOf(id), 10)
})

test('how long a new edit waits for the turn of its graph: while other graphs of its tenant have theirs everywhere', (t) => {
  const stage = new Stage({}, ['a', 'b'])
  const { schedule } = stage
  const turnInMs = (...wish: [string, Priority, string]) => schedule.turnInMs(...wish, stage.nowMs)
  const begin = (device: string, wish: Wish) => {
    const id = stage.add(wish)
    t.deepEqual(stage.ids(device), [id])
    return id
  }
  begin('a', { key: 'long' })
  t.is(turnInMs('x', 'normal', 'other'), 0, 'a device has nothing to do')
  const short = begin('b', { key: 'short', stepsLeft: 30 })
  stage.end({ stepMs: 100 }, 'a')
  stage.end({ stepMs: 100 }, 'b')
  t.is(turnInMs('x', 'normal', 'other'), 2_900, 'until the last step of the short one')
  schedule.renew(short, 'short', 300, 0)
  stage.ids('b')
  stage.ids('a')
  t.is(turnInMs('x', 'normal', 'other'), 5_000)
  t.is(turnInMs('x', 'normal', 'long'), 0, 'it joins')
  t.is(turnInMs('y', 'normal', 'other'), 0, 'tenants take turns at once')
  t.is(turnInMs('x', 'interactive', 'other'), 0, 'it goes first')
  schedule.block(short, 'paused', true, 0)
  stage.end({}, 'b')
  t.is(turnInMs('x', 'normal', 'other'), 0)
})

test('… and until the turn of those of its graph, which it joins', (t) => {
  const stage = new Stage()
  const { schedule } = stage
  const turnInMs = (priority: Priority = 'normal') => schedule.turnInMs('x', priority, 'other', stage.nowMs)
  stage.add({ key: 'long' })
  stage.run(10, () => 100)
  t.is(stage.ids().length, 1)
  t.is(turnInMs(), 5_000)
  const first = stage.add({ key: 'other' })
  stage.nowMs += 4_000
  t.is(turnInMs(), 1_000, 'the first has waited')
  schedule.block(first, 'paused', true, stage.nowMs)
  t.is(turnInMs(), 5_000)
  schedule.block(first, 'paused', false, stage.nowMs)
  stage.nowMs += 6_000
  t.is(turnInMs(), 0, 'its turn is next')
  schedule.remove(first)

  const more = stage.add({ key: 'other', priority: 'interactive' })
  t.is(turnInMs(), 0, 'it goes before all of this class')
  schedule.remove(more)
  const theirs = stage.add({ key: 'other', tenant: 'y' })
  t.is(turnInMs(), 0, 'tenants take turns at once')
  schedule.block(theirs, 'held', true, stage.nowMs)
  t.is(turnInMs(), 5_000)
})

test('a device that keeps failing is taken out, and its edits go on elsewhere', (t) => {
  const stage = new Stage({ ...single, maxLosses: 3 }, ['bad', 'good'])
  for (let i = 0; i < 3; i++) stage.add({ tenant: `tenant ${i}` })
  const failed: number[] = []
  let deviceOut = false
  for (let i = 0; i < 3; i++) {
    t.is(stage.ids('bad').length, 1)
    const result = stage.lose('bad')
    failed.push(...result.failed)
    deviceOut = result.deviceOut
  }
  t.deepEqual(failed, [], 'one loss each: a suspect does not run again where it was lost')
  t.true(deviceOut)
  stage.run(30, undefined, 'good')
  for (const id of [1, 2, 3]) t.true(stage.stepsOf(id) > 5)
})

test('an edit that a replaced worker does not know is sent again', (t) => {
  const stage = new Stage()
  const id = stage.add()
  stage.run(1)
  t.deepEqual(stage.next()?.entries, [{ id, fresh: false }])
  stage.end({ unknown: [id] })
  t.deepEqual(stage.next()?.entries, [{ id, fresh: true }])
})

test('about how many edits are before a new one: tenants take turns', (t) => {
  const stage = new Stage()
  for (let i = 0; i < 100; i++) stage.add({ tenant: 'many' })
  stage.add({ tenant: 'few' })
  stage.add({ tenant: 'few', priority: 'interactive' })
  t.is(stage.schedule.ahead('new', 'normal'), 3)
  t.is(stage.schedule.ahead('few', 'normal'), 4)
  t.is(stage.schedule.ahead('many', 'normal'), 102)
  t.is(stage.schedule.ahead('new', 'interactive'), 1)
  stage.schedule.announce('late', 'interactive', 1)
  t.is(stage.schedule.ahead('new', 'interactive'), 2)
  t.is(stage.schedule.ahead('new', 'normal'), 4)
  stage.schedule.announce('late', 'interactive', -1)
  t.is(stage.schedule.ahead('new', 'normal'), 3)
  t.deepEqual(stage.ids(), [102])
  t.is(stage.schedule.ahead('new', 'normal'), 2, 'what runs is not before it')
})

test('how many steps are before a new edit: those of its tenant and graph that have begun and want them', (t) => {
  const stage = new Stage({ maxBatch: 2 })
  const before = (tenant: string, priority: Priority, key: string, position = 0) =>
    stage.schedule.stepsBefore(tenant, priority, key, position)
  for (const stepsLeft of [30, 10, 20]) stage.add({ begun: true, stepsLeft })
  t.is(before('x', 'normal', 'k'), 2 * 20)
  t.is(before('x', 'normal', 'k', 1), 2 * 30)
  t.is(before('x', 'normal', 'k', 9), 2 * 30)
  t.is(before('x', 'batch', 'k'), 2 * 20)
  t.is(before('x', 'interactive', 'k'), 0)
  t.is(before('y', 'normal', 'k'), 0)
  t.is(before('x', 'normal', 'other'), 0)
  stage.schedule.block(1, 'paused', true, 0)
  t.is(before('x', 'normal', 'k'), 2 * 10)
  stage.schedule.block(2, 'paused', true, 0)
  t.is(before('x', 'normal', 'k'), 0)
  t.is(before('x', 'normal', 'k', 1), 20)
})

test('whatever happens, edits are in one batch at a time, devices know what they are thought to know, and all end', (t) => {
  const random = new Random(5)
  const below = (n: number) => Math.floor(random.uniform() * n)
  const devices = ['a', 'b', 'c']
  const stage = new Stage({ maxBatch: 4, maxResidents: 5, ageMs: 500, maxLosses: 1e9 }, devices)
  const { schedule } = stage
  const alive = new Map<number, { key: string; left: number; drawing: boolean; running: boolean }>()
  const knows = new Map(devices.map((device) => [device, new Set<number>()]))
  const batches = new Map<string, Batch>()
  const priorities = ['interactive', 'normal', 'batch'] as const

  const settle = (device: string, calm: boolean) => {
    const { key, entries } = batches.get(device)!
    batches.delete(device)
    stage.nowMs += 1 + below(20)
    const fate = calm ? 9 : below(40)
    let failed: number[] = []
    if (fate === 0) {
      knows.get(device)!.clear()
      failed = stage.lose(device).failed
    } else if (fate === 1) failed = schedule.update(device, { kind: 'out-of-memory' }, stage.nowMs).failed
    else stage.end({ stepMs: 5 + 2 * entries.length, prepareMs: 3 * entries.filter((e) => e.fresh).length }, device)
    for (const { id } of entries) {
      const edit = alive.get(id)
      if (edit === undefined) continue
      edit.running = false
      if (failed.includes(id) || (fate > 1 && key === drawing)) alive.delete(id)
      else if (fate > 1 && --edit.left === 0) {
        schedule.finish(id, stage.nowMs)
        edit.drawing = true
      }
    }
  }
  const start = (device: string): boolean => {
    const batch = stage.next(device)
    if (batch === undefined) return false
    const known = knows.get(device)!
    for (const id of batch.forget) known.delete(id)
    for (const { id, fresh } of batch.entries) {
      const edit = alive.get(id)!
      t.false(edit.running)
      t.is(batch.key, edit.drawing ? drawing : edit.key)
      if (!edit.drawing) t.is(fresh, !known.has(id))
      if (!edit.drawing) known.add(id)
      edit.running = true
    }
    t.true(known.size <= 5 + 4)
    batches.set(device, batch)
    return true
  }
  const resting = () => [...alive].filter(([, edit]) => !edit.running && !edit.drawing).map(([id]) => id)

  for (let i = 0; i < 20_000; i++) {
    const device = devices[below(3)]!
    const ids = [...alive.keys()]
    const id = ids[below(ids.length)]
    switch (below(11)) {
      case 0: {
        if (alive.size > 60) break
        const key = `graph ${below(3)}`
        const left = 1 + below(12)
        const wish = { key, stepsLeft: left, tenant: `tenant ${below(4)}`, priority: priorities[below(3)]! }
        alive.set(stage.add(wish), { key, left, drawing: false, running: false })
        break
      }
      case 1:
        if (id !== undefined && below(4) === 0) {
          schedule.remove(id)
          alive.delete(id)
        }
        break
      case 2:
        if (id !== undefined) schedule.block(id, below(2) === 0 ? 'paused' : 'held', below(3) === 0, stage.nowMs)
        break
      case 3: {
        const changed = resting()[0]
        if (changed === undefined) break
        const key = `graph ${below(3)}`
        schedule.renew(changed, key, alive.get(changed)!.left, stage.nowMs)
        for (const known of knows.values()) known.delete(changed)
        alive.get(changed)!.key = key
        break
      }
      default:
        if (batches.has(device)) settle(device, false)
        else start(device)
    }
    const { counts } = schedule
    t.is(schedule.hasWork, counts.waiting + counts.suspect + counts.resident > 0)
    t.is(
      counts.running,
      [...batches.values()].reduce((sum, batch) => sum + batch.entries.length, 0),
    )
  }
  for (const id of alive.keys())
    for (const why of ['paused', 'held'] as const) schedule.block(id, why, false, stage.nowMs)
  for (let left = 5_000; left > 0 && (alive.size > 0 || batches.size > 0); left--) {
    for (const device of devices) {
      if (batches.has(device)) settle(device, true)
      start(device)
    }
  }
  t.is(alive.size, 0)
  t.deepEqual(schedule.counts, { waiting: 0, suspect: 0, resident: 0, running: 0, blocked: 0 })
})
