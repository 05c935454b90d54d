// The loop on fake devices: every race between what is wished of an edit and the step that is under way.
// Devices step when a test says so, the clock is a number, and nothing sleeps.

import test from 'ava'
import type { EditState } from '../../src/engine/edit.js'
import { invalidArgument } from '../../src/engine/errors.js'
import type { EditParameters } from '../../src/engine/parameters.js'
import {
  AdmissionError,
  type AdmissionRequest,
  type Outcome,
  type RunningEdit,
  graphKey,
} from '../../src/scheduler/api.js'
import { LiveEdit } from '../../src/scheduler/live-edit.js'
import type { SchedulerObserver } from '../../src/scheduler/observer.js'
import { Scheduler, type SchedulerOptions } from '../../src/scheduler/scheduler.js'
import { Random } from '../support/random.js'
import { FakeDevice, latent, newState, turn } from './fake-device.js'

interface Run {
  readonly edit: RunningEdit
  /** What its listener heard: `started`, step numbers, the end. */
  readonly heard: (string | number)[]
  readonly outcome: () => Outcome | undefined
}

class Stage {
  readonly devices: readonly FakeDevice[]
  readonly scheduler: Scheduler
  nowMs = 0

  constructor(options: Partial<SchedulerOptions> = {}, names: readonly string[] = ['a']) {
    this.devices = names.map((name) => new FakeDevice(name))
    this.scheduler = new Scheduler({
      devices: this.devices,
      resolve: (given) => {
        if (given.learningRate === -1) throw invalidArgument('learningRate', 'wrong')
        return given as EditParameters
      },
      now: () => this.nowMs,
      ...options,
    })
  }

  get device(): FakeDevice {
    return this.devices[0]!
  }

  submit(
    state: EditState = newState('cat'),
    request: Partial<AdmissionRequest> = {},
    onStep?: (step: number) => void,
  ): Run {
    const steps = state.parameters.steps
    const ticket = this.scheduler.admit({ tenant: 'x', priority: 'normal', bytes: 10, steps, ...request })
    const heard: (string | number)[] = []
    let outcome: Outcome | undefined
    const edit = this.scheduler.submit(ticket, state, {
      onStarted: () => heard.push('started'),
      onWarnings: (warnings) => heard.push(`warned ${warnings.join()}`),
      onRenewed: ({ target, step }) => heard.push(`renewed to ${target} at ${step}`),
      onStep: (report) => {
        heard.push(report.step)
        onStep?.(report.step)
      },
      onEnd: (end) => {
        heard.push(end.kind)
        outcome = end
      },
    })
    return { edit, heard, outcome: () => outcome }
  }

  /** Let the first device take steps until it has nothing to do. */
  async finish(): Promise<void> {
    for (let i = 0; i < 1_000 && this.device.batch !== undefined; i++) await this.device.step()
  }
}

function z(run: Run): number | undefined {
  return run.outcome()?.state.z?.[0]
}

test('an edit takes its steps and is drawn', async (t) => {
  const stage = new Stage()
  const run = stage.submit()
  t.is(stage.device.batch, undefined)
  await turn()
  t.deepEqual(run.heard, ['started'], 'the first step is under way')
  t.is(stage.scheduler.counts.bytes, 0)
  await stage.finish()
  t.deepEqual(run.heard, ['started', 'warned of cat', 0, 1, 2, 'completed'])
  t.is(z(run), latent('cat', 3))
  t.is(run.outcome()?.state.step, 3)
  t.deepEqual(
    stage.device.log.map(({ kind, items }) => `${kind} ${items.length}`),
    ['step 1', 'step 1', 'step 1', 'draw 1'],
    'and it was forgotten along with its drawing',
  )
  t.like(stage.scheduler.counts, { waiting: 0, running: 0, resting: 0, blocked: 0, bytes: 0 })
})

test('what devices do is told: steps, and drawings by themselves', async (t) => {
  const told: string[] = []
  const observer: SchedulerObserver = {
    onStep: ({ device, samples, stepMs }) => told.push(`${device} step ${samples} ${stepMs}`),
    onDrawn: ({ device, drawMs }) => told.push(`${device} draw ${drawMs}`),
  }
  const stage = new Stage({ observer })
  stage.submit(newState('cat', { steps: 1 }))
  await turn()
  await stage.device.step({ stepMs: 20 })
  await stage.device.step({ stepMs: 7 })
  await stage.finish()
  t.deepEqual(told, ['a step 1 20', 'a draw 7'])
})

test('a device has its next batch before listeners are told of the last', async (t) => {
  const stage = new Stage()
  const busy: boolean[] = []
  stage.submit(newState('cat'), {}, () => busy.push(stage.device.batch !== undefined))
  await turn()
  await stage.finish()
  t.deepEqual(busy, [true, true, true])
})

test('a resumed edit goes on from its state, and one that was complete is only drawn', async (t) => {
  const stage = new Stage()
  const at = (step: number) => ({ ...newState('cat'), step, z: Float32Array.of(latent('cat', step)) })
  const [middle, end] = [stage.submit(at(1)), stage.submit(at(3))]
  await turn()
  await stage.finish()
  t.deepEqual(middle.heard, ['started', 'warned of cat', 1, 2, 'completed'])
  t.deepEqual(end.heard, ['started', 'completed'])
  t.deepEqual([z(middle), z(end)], [latent('cat', 3), latent('cat', 3)])
})

test('an edit that is cancelled before it is prepared ends at once', async (t) => {
  const stage = new Stage({ maxBatch: 1 })
  const [first, second] = [stage.submit(), stage.submit()]
  await turn()
  second.edit.cancel()
  second.edit.cancel()
  t.deepEqual(second.heard, ['cancelled'])
  await stage.finish()
  t.deepEqual(first.heard, ['started', 'warned of cat', 0, 1, 2, 'completed'])
  t.deepEqual(second.heard, ['cancelled'])
})

test('an edit that is cancelled during a step ends with it, and its step is not reported', async (t) => {
  const freed: number[] = []
  const wasted: number[] = []
  const observer: SchedulerObserver = {
    onFreed: ({ cancelToFreedMs }) => freed.push(cancelToFreedMs),
    onStep: (event) => wasted.push(event.wasted),
  }
  const stage = new Stage({ observer })
  const run = stage.submit()
  await turn()
  await stage.device.step()
  run.edit.cancel()
  stage.nowMs = 7
  t.deepEqual(run.heard, ['started', 'warned of cat', 0])
  await stage.device.step()
  t.deepEqual(run.heard, ['started', 'warned of cat', 0, 'cancelled'])
  t.is(z(run), latent('cat', 1))
  t.deepEqual([freed, wasted], [[7], [0, 1]])
  for (const wish of [
    () => run.edit.cancel(),
    () => run.edit.accept(),
    () => run.edit.pause(),
    () => run.edit.hold(true),
  ]) {
    wish()
  }
  run.edit.update({ target: 'dog' })
  await stage.finish()
  t.is(run.heard.length, 4)
})

test('an edit is accepted at the step that it shows, twice as well as once', async (t) => {
  const stage = new Stage()
  const run = stage.submit(newState('cat', { steps: 9 }))
  await turn()
  await stage.device.step()
  await stage.device.step()
  run.edit.accept()
  run.edit.accept(5)
  await stage.finish()
  t.deepEqual(run.heard, ['started', 'warned of cat', 0, 1, 'completed'])
  t.is(z(run), latent('cat', 2))
})

test('an edit is accepted at a later step, and one that is past counts as now', async (t) => {
  const stage = new Stage()
  const later = stage.submit(newState('cat', { steps: 9 }))
  later.edit.accept(2)
  await turn()
  await stage.finish()
  t.deepEqual(later.heard, ['started', 'warned of cat', 0, 1, 'completed'])
  const past = stage.submit(newState('cat', { steps: 9 }))
  await turn()
  await stage.device.step()
  await stage.device.step()
  past.edit.accept(1)
  await stage.finish()
  t.is(z(past), latent('cat', 2))
})

test('of several accepts the earliest step counts', async (t) => {
  const stage = new Stage()
  const run = stage.submit(newState('cat', { steps: 9 }))
  run.edit.accept(6)
  run.edit.accept(7)
  await turn()
  await stage.device.step()
  await stage.device.step()
  run.edit.accept()
  await stage.finish()
  t.is(z(run), latent('cat', 2))
})

test('an update that comes after an accept comes too late', async (t) => {
  const stage = new Stage()
  const run = stage.submit(newState('cat', { steps: 9 }))
  await turn()
  await stage.device.step()
  run.edit.accept()
  t.like(run.edit.update({ target: 'horse' }), { target: 'cat', pending: false }, 'and says so')
  await stage.finish()
  t.like(run.outcome(), { kind: 'completed', state: { target: 'cat', step: 1 } })
})

test('… also one that comes during the step at which the edit ends', async (t) => {
  const stage = new Stage()
  for (const [step, target] of [
    [1, 'cat'],
    [2, 'horse'],
  ] as const) {
    const run = stage.submit(newState('cat', { steps: 9 }))
    await turn()
    run.edit.accept(step)
    t.like(run.edit.update({ target: 'horse' }), { target, pending: target === 'horse' })
    await stage.finish()
    t.like(run.outcome(), { kind: 'completed', state: { target, step } })
  }
})

for (const [when, step] of [
  ['now', undefined],
  ['after the step under way', 2],
] as const) {
  test(`an update that an accept overtakes is not in what the edit ends with: accepted ${when}`, async (t) => {
    const stage = new Stage()
    const run = stage.submit(newState('cat'))
    await turn()
    await stage.device.step()
    t.like(run.edit.update({ target: 'horse' }), { target: 'horse', pending: true })
    run.edit.accept(step)
    t.like(run.edit.update({ target: 'dog' }), { target: 'cat', pending: false })
    stage.scheduler.handBack()
    t.like(run.outcome(), { kind: 'handed-back', state: { target: 'cat', step: 1 } })
    t.false(run.heard.some((what) => String(what).startsWith('renewed')))
  })
}

test('an edit that is accepted before its first step is its input, drawn; even while it is paused', async (t) => {
  const stage = new Stage()
  const run = stage.submit()
  run.edit.pause()
  run.edit.accept()
  await turn()
  await stage.finish()
  t.deepEqual(run.heard, ['started', 'completed'])
  t.is(run.outcome()?.state.step, 0)
  t.is(z(run), latent('cat', 0))
})

test('an accepted edit can still be cancelled while it is drawn', async (t) => {
  const stage = new Stage()
  const run = stage.submit()
  run.edit.accept()
  await turn()
  t.is(stage.device.batch?.kind, 'draw')
  run.edit.cancel()
  await stage.finish()
  t.deepEqual(run.heard, ['started', 'cancelled'])
})

test('a paused edit keeps its step and waits; a held one as well', async (t) => {
  const stage = new Stage()
  const run = stage.submit()
  await turn()
  run.edit.pause()
  run.edit.pause()
  run.edit.hold(true)
  await stage.device.step()
  t.deepEqual(run.heard, ['started', 'warned of cat', 0])
  run.edit.resume()
  await turn()
  t.is(stage.device.batch, undefined)
  run.edit.hold(false)
  await turn()
  await stage.finish()
  t.is(z(run), latent('cat', 3))
})

test('an update counts from the next step on, and is prepared anew', async (t) => {
  const stage = new Stage()
  const run = stage.submit(newState('cat', { steps: 4 }))
  await turn()
  await stage.device.step()
  run.edit.update({ target: 'horse' })
  await stage.device.step()
  t.like(stage.device.batch, { items: [{ state: { target: 'horse', step: 2 } }] })
  await stage.finish()
  t.deepEqual(run.heard, [
    'started',
    'warned of cat',
    0,
    1,
    'renewed to horse at 2',
    'warned of horse',
    2,
    3,
    'completed',
  ])
  t.is(z(run), latent('horse', 2, latent('cat', 2)))
})

test('an update under the last step comes too late, and says so', async (t) => {
  const stage = new Stage()
  const run = stage.submit(newState('cat', { steps: 1 }))
  await turn()
  t.throws(() => run.edit.update({ target: 'horse' }), { message: /last step of the edit is under way/ })
  await stage.finish()
  t.is(z(run), latent('cat', 1))
})

test('an update where no step is under way is in force at once', async (t) => {
  const stage = new Stage()
  const run = stage.submit(newState('cat', { steps: 2 }))
  t.like(run.edit.update({ target: 'horse' }), { target: 'horse', pending: false })
  t.is(run.edit.state.target, 'horse')
  await turn()
  await stage.finish()
  t.is(z(run), latent('horse', 2))
})

test('an update can move an edit to another graph, and two updates add up', async (t) => {
  const stage = new Stage()
  const [run] = [stage.submit(newState('cat', { steps: 4 })), stage.submit()]
  await turn()
  await stage.device.step()
  run.edit.update({ parameters: { lambdaP: 0 } })
  run.edit.update({ target: 'horse' })
  await stage.finish()
  t.like(run.edit.state, { target: 'horse', parameters: { lambdaP: 0, lambdaZ: 0.05 } })
  t.is(run.outcome()?.kind, 'completed')
})

test('an update during a step says what will be in force, and is not lost when the edit ends before', async (t) => {
  const ends = {
    cancelled: (run: Run) => run.edit.cancel(),
    'handed-back': (_: Run, stage: Stage) => stage.scheduler.handBack(),
  }
  for (const [kind, end] of Object.entries(ends)) {
    const stage = new Stage()
    const run = stage.submit(newState('cat', { steps: 9 }))
    await turn()
    await stage.device.step()
    t.like(run.edit.update({ target: 'horse' }), { target: 'horse', parameters: { steps: 9 }, pending: true })
    t.like(run.edit.update({ parameters: { steps: 5 } }), { target: 'horse', parameters: { steps: 5 } })
    t.like(run.edit.state, { target: 'cat', parameters: { steps: 9 } }, 'the step under way does not have it')
    end(run, stage)
    await stage.finish()
    t.like(run.outcome(), { kind, state: { target: 'horse', parameters: { steps: 5 }, step: 1 } })
  }
})

test('a wrong update is refused, with the edit unchanged', async (t) => {
  const stage = new Stage()
  const run = stage.submit(newState('cat', { steps: 4 }))
  const refused = (change: Parameters<RunningEdit['update']>[0]) =>
    t.throws(() => run.edit.update(change), { code: 'INVALID_ARGUMENT' })
  await turn()
  refused({ parameters: { space: 'pixels' } })
  await stage.device.step()
  refused({ target: ' ' })
  refused({ target: 'dog', parameters: { learningRate: -1 } })
  refused({ parameters: { steps: 2 } })
  refused({ parameters: { space: 'pixels' } })
  await stage.finish()
  t.is(z(run), latent('cat', 4))
})

test('an update to fewer steps ends the edit there, one to more lets it go on', async (t) => {
  const stage = new Stage()
  const fewer = stage.submit(newState('cat', { steps: 9 }))
  const more = stage.submit(newState('cow', { steps: 2 }))
  await turn()
  fewer.edit.update({ parameters: { steps: 3 } })
  more.edit.update({ parameters: { steps: 5 } })
  await stage.finish()
  t.deepEqual([z(fewer), z(more)], [latent('cat', 3), latent('cow', 5)])
})

test('a failing edit fails alone, with its last state', async (t) => {
  const stage = new Stage({ maxBatch: 1 })
  const [first, second] = [stage.submit(), stage.submit()]
  await turn()
  await stage.device.step()
  await stage.device.step({ failing: stage.device.ids })
  await stage.finish()
  t.deepEqual(first.heard, ['started', 'warned of cat', 0, 'failed'])
  t.is(z(first), latent('cat', 1))
  t.is(second.outcome()?.kind, 'completed')
})

test('after a crash edits go on from their last state, to the same latents', async (t) => {
  const stage = new Stage({}, ['a', 'b'])
  const runs = ['cat', 'horse', 'elephant', 'ox'].map((target) => stage.submit(newState(target, { steps: 6 })))
  await turn()
  const random = new Random(2)
  /** Lost with a worker, and no step since: a second loss would be the end of them. */
  const struck = new Set<number>()
  let crashes = 0
  for (let i = 0; i < 400; i++) {
    const device = stage.devices[i % 2]!
    const { ids } = device
    if (device.batch === undefined) continue
    if (random.uniform() < 0.3 && ids.length > 0 && !ids.some((id) => struck.has(id))) {
      crashes++
      for (const id of ids) struck.add(id)
      await device.crash()
    } else {
      for (const id of ids) struck.delete(id)
      await device.step()
    }
  }
  t.true(crashes > 3)
  t.deepEqual(
    runs.map((run) => run.outcome()?.kind === 'completed' && z(run)),
    ['cat', 'horse', 'elephant', 'ox'].map((target) => latent(target, 6)),
  )
})

test('an edit that brings a worker down twice is failed alone', async (t) => {
  const lost: string[] = []
  const stage = new Stage({ observer: { onWorkerLost: ({ device }) => lost.push(device) } })
  const runs = Array.from({ length: 4 }, () => stage.submit(newState('cat', { steps: 40 })))
  await turn()
  for (let i = 0; i < 20; i++) await stage.device.step()
  const before = stage.device.ids
  t.true(before.length > 1)
  const [culprit] = before
  await stage.device.crash()
  while (stage.device.batch !== undefined) {
    if (stage.device.ids.includes(culprit!)) {
      t.deepEqual(stage.device.ids, [culprit])
      await stage.device.crash()
    } else await stage.device.step()
  }
  const kinds = runs.map((run) => run.outcome()?.kind).sort()
  t.deepEqual(kinds, ['completed', 'completed', 'completed', 'failed'])
  const failed = runs.map((run) => run.outcome()).find((outcome) => outcome?.kind === 'failed')
  t.regex(failed?.kind === 'failed' ? failed.error.message : '', /brought a worker down twice/)
  t.deepEqual(lost, ['a', 'a'])
})

test('an edit whose first step is lost has started, once, and its warnings come with the step that is taken', async (t) => {
  const stage = new Stage()
  const run = stage.submit()
  await turn()
  await stage.device.crash()
  t.deepEqual(run.heard, ['started'])
  await stage.finish()
  t.deepEqual(run.heard, ['started', 'warned of cat', 0, 1, 2, 'completed'])
})

test('a cancel during a step that crashes is a cancel', async (t) => {
  const stage = new Stage()
  const run = stage.submit()
  await turn()
  run.edit.cancel()
  await stage.device.crash()
  t.deepEqual(run.heard, ['started', 'cancelled'])
  t.is(stage.device.batch, undefined)

  const again = stage.submit()
  await turn()
  await stage.device.crash()
  again.edit.cancel()
  await stage.device.crash()
  t.deepEqual(again.heard, ['started', 'cancelled'], 'it starts once')
})

test('a device that keeps crashing is taken out; when none is left, edits are handed back', async (t) => {
  const out: string[] = []
  const stage = new Stage({ maxLosses: 2, observer: { onDeviceOut: ({ device }) => out.push(device) } }, ['a', 'b'])
  const runs = Array.from({ length: 6 }, () => stage.submit())
  await turn()
  await stage.devices[1]!.crash()
  await stage.devices[1]!.crash()
  t.deepEqual(out, ['b'])
  t.deepEqual(
    stage.scheduler.devices.map(({ status }) => status),
    ['busy', 'out'],
  )
  await stage.device.crash()
  await stage.device.crash()
  t.deepEqual(out, ['b', 'a'])
  const kinds = new Set(runs.map((run) => run.outcome()?.kind))
  t.deepEqual([...kinds].sort(), ['failed', 'handed-back'], 'one was lost on both devices')
  t.throws(() => stage.submit(), { instanceOf: AdmissionError, code: 'UNAVAILABLE' })
})

test('a device that computes nothing is taken out, and fails no edit', async (t) => {
  const out: string[] = []
  const stage = new Stage({ maxLosses: 2, observer: { onDeviceOut: ({ device }) => out.push(device) } }, ['a', 'b'])
  const runs = Array.from({ length: 6 }, () => stage.submit())
  await turn()
  await stage.devices[1]!.break()
  await stage.devices[1]!.break()
  t.deepEqual(out, ['b'])
  await stage.finish()
  t.true(runs.every((run) => run.outcome()?.kind === 'completed'))
})

test('a worker that was replaced while idle gets its edits again', async (t) => {
  const stage = new Stage()
  const run = stage.submit()
  await turn()
  await stage.device.step()
  stage.device.forgetAll()
  await stage.finish()
  t.is(z(run), latent('cat', 3))
})

test('a batch that does not fit into memory is tried again in halves', async (t) => {
  const stage = new Stage()
  const runs = Array.from({ length: 8 }, () => stage.submit(newState('cat', { steps: 20 })))
  await turn()
  let refused = 0
  for (let i = 0; i < 500 && stage.device.batch !== undefined; i++) {
    if (stage.device.batch.kind === 'step' && stage.device.ids.length > 2) {
      refused++
      await stage.device.runOutOfMemory()
    } else await stage.device.step()
  }
  t.is(refused, 1)
  for (const run of runs) t.is(z(run), latent('cat', 20))
})

test('an edit that alone does not fit into memory fails', async (t) => {
  const stage = new Stage()
  const run = stage.submit()
  await turn()
  await stage.device.runOutOfMemory()
  t.like(run.outcome(), { kind: 'failed', error: { code: 'RESOURCE_EXHAUSTED' } })
})

test('admission: limits, deadlines, tickets', async (t) => {
  const refused: string[] = []
  const stage = new Stage({ limits: { edits: 2 }, observer: { onRefused: ({ reason }) => refused.push(reason) } })
  const key = graphKey('', newState('cat').parameters)
  const request = { tenant: 'x', priority: 'normal', bytes: 1, steps: 100, key } as const
  const unused = stage.scheduler.admit(request)
  t.like(unused, { position: 0, estimatedStartMs: undefined, estimatedDurationMs: undefined })
  stage.submit()
  t.throws(() => stage.scheduler.admit(request), { instanceOf: AdmissionError, code: 'RESOURCE_EXHAUSTED' })
  unused.release()
  unused.release()
  t.throws(() => stage.scheduler.submit(unused, newState('cat'), {} as never))
  await turn()
  await stage.device.step({ stepMs: 50 })
  const ticket = stage.scheduler.admit({ ...request, deadlineMs: 5_000 })
  t.like(ticket, { position: 0, estimatedStartMs: 0, estimatedDurationMs: 5_000 })
  ticket.release()
  t.throws(() => stage.scheduler.admit({ ...request, deadlineMs: 4_999 }), {
    code: 'FAILED_PRECONDITION',
    message: /4\.9|5\.0 s/,
  })
  t.throws(() => stage.scheduler.admit({ ...request, deadlineMs: 0 }), { code: 'FAILED_PRECONDITION' })
  t.deepEqual(refused, ['edits', 'deadline', 'deadline'])
})

test('a ticket is good for one edit, which keeps its place', async (t) => {
  const stage = new Stage({ limits: { edits: 1 } })
  const request = { tenant: 'x', priority: 'normal', bytes: 1, steps: 3 } as const
  const ticket = stage.scheduler.admit(request)
  const heard: string[] = []
  const listener = { onStarted: () => undefined, onStep: () => undefined, onEnd: () => heard.push('end') }
  stage.scheduler.submit(ticket, newState('cat'), listener)
  t.throws(() => stage.scheduler.submit(ticket, newState('cat'), listener))
  ticket.release()
  t.throws(() => stage.scheduler.admit(request), { code: 'RESOURCE_EXHAUSTED' })
  await turn()
  await stage.finish()
  t.deepEqual(heard, ['end'])
  stage.scheduler.admit(request).release()
})

test('an edit whose deadline is near goes first', async (t) => {
  const stage = new Stage({ maxBatch: 1 })
  const [first, urgent] = [stage.submit(), stage.submit(newState('dog'), { deadlineMs: 100 })]
  await turn()
  await stage.device.step()
  t.deepEqual([first.heard, urgent.heard], [[], ['started', 'warned of dog', 0]])
})

test('edits that were admitted and did not come yet count as before others', async (t) => {
  const stage = new Stage({ maxBatch: 1 })
  const key = graphKey('', newState('cat').parameters)
  const request = { tenant: 'x', priority: 'normal', bytes: 1, steps: 10, key } as const
  stage.submit(newState('cat', { steps: 1 }))
  await turn()
  while (stage.device.batch !== undefined) await stage.device.step({ stepMs: 50 })
  const tickets = [0, 1, 2].map(() => stage.scheduler.admit({ ...request, deadlineMs: 1_500 }))
  t.deepEqual(
    tickets.map(({ position, estimatedStartMs }) => [position, estimatedStartMs]),
    [
      [0, 0],
      [1, 500],
      [2, 1_000],
    ],
  )
  t.throws(() => stage.scheduler.admit({ ...request, deadlineMs: 1_500 }), { code: 'FAILED_PRECONDITION' })
  tickets[0]!.release()
  tickets[0]!.release()
  t.is(stage.scheduler.admit({ ...request, deadlineMs: 1_500 }).position, 2)
  t.is(stage.scheduler.admit({ ...request, tenant: 'y' }).position, 1, 'tenants take turns')
  t.is(stage.scheduler.admit({ ...request, priority: 'interactive' }).position, 0)
})

test('where all places are taken by edits of its tenant a new one waits for the first of them to end', async (t) => {
  const stage = new Stage({ maxBatch: 2 })
  const key = graphKey('', newState('cat').parameters)
  const request = { tenant: 'x', priority: 'normal', bytes: 1, steps: 10, key } as const
  const runs = [60, 40].map((steps) => stage.submit(newState('cat', { steps })))
  await turn()
  for (let i = 0; i < 20; i++) await stage.device.step({ stepMs: 50 * stage.device.ids.length })
  const left = Math.min(...runs.map(({ edit: { state } }) => state.parameters.steps - state.step))
  t.true(left > 10)
  t.is(stage.scheduler.admit(request).estimatedStartMs, left * 100, 'both take so many steps')
  t.is(stage.scheduler.admit({ ...request, tenant: 'y' }).estimatedStartMs, 10 * 50, 'after the one above')
  t.throws(() => stage.scheduler.admit({ ...request, deadlineMs: left * 100 }), { code: 'FAILED_PRECONDITION' })
  const accepted = stage.submit(newState('cat', { steps: 900 }), { tenant: 'z' })
  accepted.edit.accept(1)
  await stage.finish()
  t.is(stage.scheduler.admit({ ...request, tenant: 'z' }).estimatedStartMs! < 900 * 50, true, 'not its other 899 steps')
})

test('an edit of another graph of its tenant waits for its turn, and is told so', async (t) => {
  const stage = new Stage()
  stage.submit(newState('cat', { steps: 2 }))
  await turn()
  await stage.finish()
  const key = graphKey('', newState('cat').parameters)
  stage.submit(newState('cat', { steps: 900, views: 8 }))
  await turn()
  await stage.device.step({ stepMs: 50 })
  const request = { tenant: 'x', priority: 'normal', bytes: 1, steps: 10, key } as const
  t.is(stage.scheduler.admit(request).estimatedStartMs, 5_000)
  t.throws(() => stage.scheduler.admit({ ...request, deadlineMs: 4_000 }), {
    code: 'FAILED_PRECONDITION',
    message: /wait for about 5\.0 s/,
  })
})

test('a deadline is judged by the steps of its own pack and graph', async (t) => {
  const stage = new Stage()
  const slow = { ...newState('cat'), pack: 'large' }
  stage.submit(slow)
  await turn()
  for (let i = 0; i < 4; i++) await stage.device.step({ stepMs: 6_000 })
  const request = { tenant: 'x', priority: 'normal', bytes: 1, steps: 64, deadlineMs: 60_000 } as const
  const key = graphKey('tiny', slow.parameters)
  const unmeasured = stage.scheduler.admit({ ...request, key })
  t.like(unmeasured, { estimatedStartMs: undefined, estimatedDurationMs: undefined })
  unmeasured.release()
  t.throws(() => stage.scheduler.admit({ ...request, key: graphKey('large', slow.parameters) }), {
    code: 'FAILED_PRECONDITION',
  })
  stage.submit({ ...slow, pack: 'tiny' })
  await turn()
  await stage.device.step({ stepMs: 50 })
  const measured = stage.scheduler.admit({ ...request, key })
  t.is(measured.estimatedDurationMs, 3_200)
  measured.release()
  t.throws(() => stage.scheduler.admit({ ...request, key, deadlineMs: 3_000 }), { code: 'FAILED_PRECONDITION' })
})

test('after steps of many edits together a deadline is judged as if an edit had them alone', async (t) => {
  const stage = new Stage({ maxBatch: 16 })
  for (let i = 0; i < 16; i++) stage.submit(newState('cat', { steps: 100 }))
  await turn()
  while (stage.device.batch !== undefined) await stage.device.step({ stepMs: 10 + 2 * stage.device.ids.length })
  const key = graphKey('', newState('cat').parameters)
  const request = { tenant: 'x', priority: 'normal', bytes: 1, steps: 100, key } as const
  const told = stage.scheduler.admit(request)
  t.true(told.estimatedDurationMs! > 1_300, 'what is told is of steps like the last ones')
  told.release()
  t.notThrows(() => stage.scheduler.admit({ ...request, deadlineMs: 1_300 }), 'alone it takes 1,200 ms')
  t.throws(() => stage.scheduler.admit({ ...request, deadlineMs: 100 }), {
    code: 'FAILED_PRECONDITION',
    message: /at least/,
  })
})

test('who is refused comes back at the rate at which edits end', async (t) => {
  const stage = new Stage({ limits: { edits: 2 }, maxBatch: 1 })
  for (let i = 0; i < 2; i++) {
    stage.nowMs += 300
    stage.submit().edit.cancel()
  }
  const waiting = [stage.submit(), stage.submit()]
  t.like(
    t.throws(() => stage.submit(), { instanceOf: AdmissionError }),
    { retryAfterMs: 300 },
  )
  t.is(stage.scheduler.counts.bytes, 20)
  await turn()
  await stage.device.step()
  t.is(stage.scheduler.counts.bytes, 10, 'the request of an edit that has started is not held')
  await stage.finish()
  t.true(waiting.every((run) => run.outcome()?.kind === 'completed'))
})

test('handing back: no more edits, and those that did not end go on elsewhere', async (t) => {
  const stage = new Stage({ maxBatch: 1 })
  const quick = stage.submit(newState('cat', { steps: 1 }))
  const slow = stage.submit(newState('horse', { steps: 100 }))
  const late = stage.scheduler.admit({ tenant: 'x', priority: 'normal', bytes: 1, steps: 1 })
  await turn()
  for (let i = 0; i < 6; i++) await stage.device.step()
  t.is(quick.outcome()?.kind, 'completed')
  stage.scheduler.handBack()
  t.throws(() => stage.submit(), { instanceOf: AdmissionError, code: 'UNAVAILABLE' })
  t.is(slow.outcome()?.kind, 'handed-back')
  const { step } = slow.outcome()!.state
  t.is(z(slow), latent('horse', step))
  const ends: string[] = []
  stage.scheduler.submit(late, newState('cat'), {
    onStarted: () => undefined,
    onStep: () => undefined,
    onEnd: ({ kind }) => ends.push(kind),
  })
  t.deepEqual(ends, [])
  await turn()
  t.deepEqual(ends, ['handed-back'])
})

test('closing waits for the batch under way, and then closes devices', async (t) => {
  const stage = new Stage()
  const run = stage.submit()
  await turn()
  const closing = stage.scheduler.close()
  t.is(run.outcome()?.kind, 'handed-back')
  await turn()
  t.false(stage.device.closed)
  await stage.device.step()
  await closing
  t.true(stage.device.closed)
  t.deepEqual(run.heard, ['started', 'handed-back'])
})

test('what one listener does to another edit is told after what had happened to that', async (t) => {
  const stage = new Stage()
  let cancels = false
  const state = newState('cat', { steps: 1_000 })
  let during: string | number | undefined
  const first = stage.submit(state, {}, () => {
    if (cancels) second.edit.cancel()
    during = second.heard.at(-1)
  })
  const second = stage.submit(state)
  await turn()
  while (stage.device.ids.length < 2) await stage.device.step()
  second.edit.pause()
  cancels = true
  await stage.device.step()
  t.not(during, 'cancelled', 'no listener is called within another')
  t.deepEqual(second.heard.slice(-2), [second.edit.state.step - 1, 'cancelled'])
  t.is(first.outcome(), undefined)
})

test('a thousand cancels at random moments: each ends its edit at the next boundary, and touches no other', async (t) => {
  const stage = new Stage({}, ['a', 'b', 'c'])
  const random = new Random(4)
  const runs: (Run & { readonly target: string; cancelled: boolean })[] = []
  const live = () => runs.filter((run) => run.outcome() === undefined)
  const busy = (edit: RunningEdit) => edit instanceof LiveEdit && stage.devices.some(({ ids }) => ids.includes(edit.id))
  let cancels = 0
  while (cancels < 1_000 || live().length > 0) {
    while (cancels < 1_000 && live().length < 20) {
      const target = 'x'.repeat(1 + Math.floor(random.uniform() * 9))
      runs.push({
        ...stage.submit(newState(target, { steps: 1 + Math.floor(random.uniform() * 8) })),
        target,
        cancelled: false,
      })
    }
    await turn()
    const all = live()
    const victim = all[Math.floor(random.uniform() * all.length)]
    if (victim !== undefined && cancels < 1_000 && !victim.cancelled) {
      victim.cancelled = true
      victim.edit.cancel()
      cancels++
    }
    for (const device of stage.devices) {
      if (device.batch === undefined) continue
      await device.step()
      t.false(live().some(({ edit, cancelled }) => cancelled && !busy(edit)))
    }
  }
  for (const run of runs) {
    t.is(run.outcome()?.kind, run.cancelled ? 'cancelled' : 'completed')
    t.is(run.heard.filter((event) => event === 'cancelled' || event === 'completed').length, 1)
    t.true(['cancelled', 'completed'].includes(String(run.heard.at(-1))))
    if (!run.cancelled) t.is(z(run), latent(run.target, run.edit.state.parameters.steps))
  }
  t.like(stage.scheduler.counts, { waiting: 0, running: 0, resting: 0, blocked: 0, bytes: 0 })
})
