// Policies that stand alone: admission, deadlines, rates, and the heap below them.
// Clocks are numbers; nothing waits.

import test from 'ava'
import { AdmissionError } from '../../src/scheduler/api.js'
import { Heap } from '../../src/scheduler/heap.js'
import { Admission } from '../../src/scheduler/policies/admission.js'
import { BatchTuner } from '../../src/scheduler/policies/batch-tuner.js'
import { canFinish, rankOf } from '../../src/scheduler/policies/deadlines.js'
import { Rates } from '../../src/scheduler/policies/rates.js'
import { Random } from '../support/random.js'

function refusal(work: () => unknown): AdmissionError | undefined {
  try {
    work()
    return undefined
  } catch (error) {
    if (error instanceof AdmissionError) return error
    throw error
  }
}

test('edits are limited in all and for each tenant', (t) => {
  const admission = new Admission({ edits: 3, editsPerTenant: 2 })
  const first = admission.admit('x', 1, undefined)
  admission.admit('x', 1, undefined)
  t.is(refusal(() => admission.admit('x', 1, undefined))?.reason, 'edits of this tenant')
  admission.admit('y', 1, undefined)
  t.like(
    refusal(() => admission.admit('y', 1, undefined)),
    { reason: 'edits', code: 'RESOURCE_EXHAUSTED' },
  )
  admission.release(first)
  admission.release(first)
  admission.admit('x', 1, undefined)
  t.is(admission.used.edits, 3)
})

test('bytes are limited until an edit starts', (t) => {
  const admission = new Admission({ bytes: 100, bytesPerTenant: 60 })
  const first = admission.admit('x', 60, undefined)
  t.is(refusal(() => admission.admit('x', 1, undefined))?.reason, 'waiting bytes of this tenant')
  t.is(refusal(() => admission.admit('y', 41, undefined))?.reason, 'waiting bytes')
  admission.started(first)
  t.deepEqual(admission.used, { edits: 1, waiting: 0, bytes: 0 })
  const second = admission.admit('x', 60, undefined)
  admission.release(second)
  admission.release(first)
  t.deepEqual(admission.used, { edits: 0, waiting: 0, bytes: 0 })
})

test('waiting edits are limited until they start', (t) => {
  const admission = new Admission({ waiting: 2, waitingPerTenant: 1 })
  const first = admission.admit('x', 1, undefined)
  t.is(refusal(() => admission.admit('x', 1, undefined))?.reason, 'waiting edits of this tenant')
  admission.started(first)
  admission.started(first)
  admission.admit('x', 1, undefined)
  const third = admission.admit('y', 1, undefined)
  t.is(refusal(() => admission.admit('z', 1, undefined))?.reason, 'waiting edits')
  admission.release(third)
  admission.admit('z', 1, undefined)
  t.deepEqual(admission.used, { edits: 3, waiting: 2, bytes: 2 })
})

test('who is refused is told when a place is likely free, one after another', (t) => {
  const admission = new Admission({ edits: 1 })
  const place = admission.admit('x', 0, undefined)
  t.is(refusal(() => admission.admit('x', 0, undefined))?.retryAfterMs, 1_000)
  t.is(refusal(() => admission.admit('x', 0, 500))?.retryAfterMs, 1_000)
  t.is(refusal(() => admission.admit('x', 0, 500))?.retryAfterMs, 1_500)
  admission.release(place)
  admission.admit('x', 0, undefined)
  t.is(refusal(() => admission.admit('x', 0, 500))?.retryAfterMs, 1_500)
  t.is(refusal(() => admission.admit('x', 0, 1e9))?.retryAfterMs, 60_000)
  t.is(refusal(() => admission.admit('x', 0, 1e-9))?.retryAfterMs, 100)
})

test('refusals of one tenant put off no other one, and are forgotten as its edits end', (t) => {
  const admission = new Admission({ edits: 2, editsPerTenant: 1 })
  let place = admission.admit('greedy', 0, undefined)
  const told = (tenant: string, endEveryMs?: number) =>
    refusal(() => admission.admit(tenant, 0, endEveryMs))?.retryAfterMs
  for (let i = 0; i < 5_000; i++) told('greedy', 100)
  t.is(told('greedy', 100), 60_000)
  const other = admission.admit('other', 0, 100)
  t.is(told('third', 100), 100, 'at the limit of all')
  for (let i = 0; i < 5_000; i++) told('greedy', 100)
  t.is(told('fourth', 100), 300, 'the third one among tenants')
  admission.release(other)
  for (let i = 0; i < 599; i++) admission.release(admission.admit('other', 0, 100))
  t.is(told('greedy', 100), 60_000, 'places of others are not its own')
  for (let i = 0; i < 599; i++) {
    admission.release(place)
    place = admission.admit('greedy', 0, 100)
  }
  t.is(told('greedy', 100), 200, 'once the time that was told is over')
  admission.release(place)
  t.is(told('greedy', 100), undefined)
})

test('tenants that are refused at a limit of all come back one after another, and again', (t) => {
  const admission = new Admission({ edits: 1 })
  let place = admission.admit('lucky', 0, undefined)
  const tenants = Array.from({ length: 50 }, (_, i) => `tenant ${i}`)
  const told = (tenant: string) => refusal(() => admission.admit(tenant, 0, 100))?.retryAfterMs
  t.deepEqual(
    tenants.map(told),
    tenants.map((_, i) => 100 * (i + 1)),
  )
  for (const tenant of tenants) {
    admission.release(place)
    place = admission.admit('lucky', 0, 100)
    t.is(told(tenant), 5_000, 'somebody else had the place')
  }
  for (let i = 0; i < 50; i++) {
    admission.release(place)
    place = admission.admit('lucky', 0, 100)
  }
  t.is(told('tenant 0'), 100, 'who does not come back is forgotten')
})

test('a place of a tenant that has a part of the edits becomes free as seldom', (t) => {
  const admission = new Admission({ editsPerTenant: 1 })
  admission.admit('x', 0, undefined)
  for (let i = 0; i < 9; i++) admission.admit(`other ${i}`, 0, undefined)
  t.is(refusal(() => admission.admit('x', 0, 100))?.retryAfterMs, 1_000)
  t.is(refusal(() => admission.admit('x', 0, 100))?.retryAfterMs, 2_000)
  const larger = new Admission({ editsPerTenant: 5 })
  for (let i = 0; i < 10; i++) larger.admit(i < 5 ? 'x' : 'y', 0, undefined)
  t.is(refusal(() => larger.admit('x', 0, 100))?.retryAfterMs, 200)
})

test('who must begin first goes first', (t) => {
  const arrivedMs = 1_000
  const plain = rankOf({ arrivedMs, deadlineMs: undefined, durationMs: 5_000 })
  t.true(rankOf({ arrivedMs, deadlineMs: 20_000, durationMs: 5_000 }) < plain)
  t.true(
    rankOf({ arrivedMs, deadlineMs: 20_000, durationMs: 5_000 }) <
      rankOf({ arrivedMs, deadlineMs: 20_000, durationMs: undefined }),
  )
  t.is(rankOf({ arrivedMs, deadlineMs: 1e9, durationMs: 5_000 }), plain)
})

test('a deadline can be met or not', (t) => {
  t.true(canFinish(1_000, 2_000, 3_000))
  t.false(canFinish(1_000, 2_001, 3_000))
  t.true(canFinish(undefined, undefined, 1))
  t.true(canFinish(undefined, 2, 1))
  t.true(canFinish(2, undefined, 1))
  t.false(canFinish(undefined, undefined, 0))
})

test('rates follow what is measured', (t) => {
  const rates = new Rates()
  t.deepEqual([rates.of('a'), rates.all.sampleMs, rates.endEveryMs], [undefined, undefined, undefined])
  for (let i = 0; i < 100; i++) {
    rates.recordStep('a', 4, 80)
    rates.recordEnd(50 * i)
  }
  rates.recordStep('b', 1, 120)
  const [a, b] = [rates.of('a'), rates.of('b')]
  t.deepEqual([a?.stepMs, a?.sampleMs, rates.endEveryMs], [80, 20, 50])
  t.deepEqual([b?.stepMs, b?.sampleMs, rates.all.sampleMs], [120, 120, 30])
  for (let i = 0; i < 256; i++) rates.recordStep(`c${i}`, 1, 1)
  t.is(rates.of('b'), undefined, 'what was long not used is forgotten')
})

/** Take `count` steps of the batches that a tuner asks for; a step of n edits takes `stepMs(n, i)`. */
function tune(tuner: BatchTuner, count: number, stepMs: (size: number, i: number) => number, available = 64): number[] {
  return Array.from({ length: count }, (_, i) => {
    const size = Math.min(tuner.limit(available), available)
    tuner.record(size, stepMs(size, i))
    return size
  })
}

test('a batch limit that was settled on a busy machine is tried again', (t) => {
  const tuner = new BatchTuner(2, 1.05)
  tune(tuner, 20, (size) => (size === 1 ? 10 : 30))
  t.is(tuner.describe().limit, 1)
  tune(tuner, 100, () => 10)
  t.is(tuner.describe().limit, 2)
  tune(tuner, 1_000, (size) => 10 * size)
  t.is(tuner.describe().limit, 1, 'one that was settled too large, too')
  const free = new BatchTuner(16, 1.05)
  tune(free, 500, (size) => 10 * Math.max(1, size - 3))
  t.is(free.describe().limit, 4)
  tune(free, 4_000, (size) => 10 * size)
  t.is(free.describe().limit, 1, '… though a larger one is allowed')
  const busy = new BatchTuner(16, 1.05)
  tune(busy, 100, (size) => (size <= 2 ? 10 : 10 * size))
  t.is(busy.describe().limit, 2)
  tune(busy, 1_000, () => 10)
  t.is(busy.describe().limit, 16)
})

test('a step of a size that was not measured is expected to take as long as one of the nearest size', (t) => {
  const tuner = new BatchTuner(16, 1.05)
  t.is(tuner.estimateMs(1), undefined)
  for (const size of [8, 1, 4]) tuner.record(size, 10 * size)
  t.deepEqual(
    [1, 2, 3, 5, 7, 16].map((size) => tuner.estimateMs(size)),
    [10, 10, 40, 40, 80, 80],
  )
})

test('the batch limit is found in noise that is larger than what a batch wins', (t) => {
  const random = new Random(5)
  const noisy = (winUpTo: number) => (size: number) => {
    const ms = 30 * Math.min(size, winUpTo) ** 0.7 * (size / Math.min(size, winUpTo))
    return ms * (1 + (random.uniform() < 0.5 ? random.uniform() : 0))
  }
  for (const best of [1, 4, 16]) {
    const tuner = new BatchTuner(16, 1.05)
    tune(tuner, 4_000, noisy(best))
    const { limit, why } = tuner.describe()
    t.is(limit, best, why)
  }
})

test('sizes are compared only while there are enough edits for both', (t) => {
  const tuner = new BatchTuner(16, 1.05)
  t.deepEqual(new Set(tune(tuner, 50, () => 10, 3)), new Set([1, 2, 3]))
  t.is(tuner.describe().limit, 2)
  tune(tuner, 50, () => 10, 64)
  t.is(tuner.describe().limit, 16)
})

test('the largest batch that is allowed is tried, whatever its size', (t) => {
  for (const largest of [3, 6, 12]) {
    const tuner = new BatchTuner(largest, 1.05)
    tune(tuner, 100, (size) => 60 + 40 * size)
    t.is(tuner.describe().limit, largest)
    tune(tuner, 4_000, (size) => (size === largest ? 100 : 20) * size)
    t.true(tuner.describe().limit < largest)
  }
  const tuner = new BatchTuner(6, 1.05)
  tune(tuner, 100, (size) => (size === 1 ? 10 : 4 + 4 * size))
  t.like(tuner.describe(), { limit: 6, why: 'a batch of 6 has 1.07 times the throughput of one of 4' })
})

test('after a shortage of memory the largest power of two below is the limit, until memory is tried again', (t) => {
  const tuner = new BatchTuner(16, 1.05)
  let refused = 0
  const drive = (count: number, available: number, fits: number) => {
    for (let i = 0; i < count; i++) {
      const size = Math.min(tuner.limit(available), available)
      if (size <= fits) tuner.record(size, 100 + size)
      else {
        refused++
        tuner.halve(size)
      }
    }
    return tuner.describe()
  }
  t.like(drive(30, 3, 2), { limit: 2, why: 'a batch of 3 does not fit into memory' })
  t.like(drive(200, 16, 2), { limit: 2, why: 'a batch of 2 has 1.98 times the throughput of one of 1' })
  drive(40_000, 16, 2)
  t.is(refused, 2, 'it is tried rarely')
  t.is(drive(200_000, 16, 16).limit, 16, 'and found to be there again')
})

test('a heap gives its items in order, whatever is moved and taken out meanwhile', (t) => {
  const random = new Random(3)
  const heap = new Heap<{ rank: number }>((a, b) => a.rank < b.rank)
  const items = new Set<{ rank: number }>()
  for (let i = 0; i < 3_000; i++) {
    const [any] = [...items].slice(Math.floor(random.uniform() * items.size))
    const what = random.uniform()
    if (what < 0.5 || any === undefined) {
      const item = { rank: Math.floor(random.uniform() * 100) }
      items.add(item)
      heap.push(item)
    } else if (what < 0.75) {
      any.rank = Math.floor(random.uniform() * 100)
      heap.update(any)
    } else {
      items.delete(any)
      heap.delete(any)
      heap.delete(any)
      heap.update(any)
    }
    t.is(heap.size, items.size)
    t.is(heap.peek()?.rank, items.size === 0 ? undefined : Math.min(...[...items].map(({ rank }) => rank)))
  }
})
