// Devices with threads of their own: the bits of edits do not depend on batches, devices, or workers that are lost.
// The networks are those of models/tiny; progress is awaited by messages, never by time.

import { execFile } from 'node:child_process'
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import type { EditState } from '../../src/engine/edit.js'
import { Engine } from '../../src/engine/engine.js'
import { FlexitError } from '../../src/engine/errors.js'
import { type EditParameters, resolveParameters } from '../../src/engine/parameters.js'
import type { Outcome } from '../../src/scheduler/api.js'
import type { SchedulerObserver } from '../../src/scheduler/observer.js'
import type { DeviceResult } from '../../src/scheduler/device.js'
import { Scheduler } from '../../src/scheduler/scheduler.js'
import { WorkerDevice, shareThreads } from '../../src/scheduler/worker-device.js'
import { copyPack } from '../support/packs.js'

type Stepped = DeviceResult & { readonly kind: 'done' }

const pack = 'models/tiny'
let cacheFolder: string
let engine: Engine
let devices: WorkerDevice[]
let expected: Float32Array[]

test.before(async () => {
  cacheFolder = await mkdtemp(join(tmpdir(), 'flexit-scheduler-'))
  engine = await Engine.open({ pack, cacheFolder, threads: 1 })
  expected = []
  for (const i of wishes.keys()) expected.push(await solo(begin(i)))
  devices = await Promise.all([0, 1].map(open))
})

test.after.always(async () => {
  await Promise.all(devices.map((device) => device.close()))
  await engine.close()
  await rm(cacheFolder, { recursive: true, force: true })
})

function open(index: number): Promise<WorkerDevice> {
  return WorkerDevice.open({ packs: [pack], cacheFolder, threads: 1, device: { kind: 'cpu', index } })
}

/** Different in every parameter that may differ within a batch, and some in their graph. */
const wishes: readonly (Partial<EditParameters> & { readonly target: string })[] = [
  { target: 'a taxi', steps: 3, seed: 1 },
  { target: 'a rose', steps: 4, seed: 2, learningRate: 0.1 },
  { target: 'an apple', steps: 2, seed: 3, lambdaP: 0.3 },
  { target: 'a strawberry', steps: 3, seed: 4, lambdaS: 0.1 },
  { target: 'a tiger', steps: 3, seed: 5, lambdaI: 0 },
  { target: 'a ball', steps: 3, seed: 6, lambdaZ: 0.2 },
  { target: 'a red rose', steps: 3, seed: 7, lambdaP: 0, networks: ['vit'] },
  { target: 'a yellow taxi', steps: 2, seed: 8, lambdaP: 0, networks: ['vit'] },
]

function begin(i: number): EditState {
  const { target, ...parameters } = wishes[i]!
  const data = Uint8Array.from({ length: engine.size ** 2 * 3 }, (_, at) => (at * (i + 3) * 7 + (at >> 5)) % 256)
  const picture = { height: engine.size, width: engine.size, data }
  return engine.begin({ picture, source: 'a thing', target, parameters })
}

/** The latent of an edit that has the engine to itself. */
async function solo(state: EditState): Promise<Float32Array> {
  const edit = await engine.prepare(state)
  while (!edit.done) await engine.step([edit])
  return edit.z
}

function newScheduler(on: readonly WorkerDevice[], observer: SchedulerObserver = {}): Scheduler {
  return new Scheduler({ devices: on, observer, resolve: (given) => resolveParameters(given, engine.pack) })
}

test('what edits will ask for is made ready, and nothing else', async (t) => {
  const { parameters } = begin(6)
  const doing: string[] = []
  const device = await WorkerDevice.open({
    packs: [pack],
    cacheFolder,
    threads: 1,
    device: { kind: 'cpu', index: 0 },
    usual: parameters,
    onProgress: (what) => doing.push(what),
  })
  const atFirst = doing.splice(0)
  const state = begin(6)
  const { results } = (await device.run({ kind: 'step', items: [{ id: 1, state }], forget: [] })) as Stepped
  t.is(results[0]!.kind, 'stepped')
  t.true(atFirst.length > 0)
  t.deepEqual(doing, [], 'a step of such an edit finds all that it needs')
  await device.close()
})

/** Run an edit to its end; `onStep` is called after each of its steps. */
function run(
  scheduler: Scheduler,
  state: EditState,
  onStep: (step: number) => void = () => undefined,
): Promise<Outcome> {
  const ticket = scheduler.admit({ tenant: 'a', priority: 'normal', bytes: 1, steps: state.parameters.steps })
  return new Promise((resolve) => {
    scheduler.submit(ticket, state, {
      onStarted: () => undefined,
      onStep: (_, { step }) => onStep(step),
      onEnd: resolve,
    })
  })
}

function sameBits(t: ExecutionContext, outcomes: readonly Outcome[], of: readonly number[]): void {
  outcomes.forEach((outcome, i) => {
    t.is(outcome.kind, 'completed')
    t.deepEqual(Buffer.from(outcome.state.z!.buffer), Buffer.from(expected[of[i]!]!.buffer), `edit ${of[i]!}`)
  })
}

test.serial('eight edits over two devices have the bits of solo runs', async (t) => {
  const scheduler = newScheduler(devices)
  const outcomes = await Promise.all(wishes.map((_, i) => run(scheduler, begin(i))))
  sameBits(
    t,
    outcomes,
    wishes.map((_, i) => i),
  )
  const [first] = outcomes
  t.deepEqual(first!.kind === 'completed' && first!.picture.data.length, engine.size ** 2 * 3)
})

test.serial('a worker that is lost during a step is replaced, and the bits stay the same', async (t) => {
  const [device] = devices
  const lost: string[] = []
  const scheduler = newScheduler([device!], { onWorkerLost: (event) => lost.push(event.device) })
  let killed: Promise<void> | undefined
  const [first, second] = await Promise.all([
    // Listeners are told of a step when the next one is under way.
    run(scheduler, begin(1), (step) => {
      if (step === 1) killed = device!.kill()
    }),
    run(scheduler, begin(0)),
  ])
  t.not(killed, undefined)
  await killed
  sameBits(t, [first, second], [1, 0])
  t.deepEqual(lost, ['cpu'])
})

test.serial('a worker that is lost while idle has forgotten its edits, and gets them again', async (t) => {
  const [device] = devices
  const state = begin(2)
  const prepared = await device!.run({ kind: 'step', items: [{ id: 1, state }], forget: [] })
  t.like(prepared, { kind: 'done', results: [{ kind: 'stepped', id: 1, report: { step: 0 } }] })
  await device!.kill()
  const after = await device!.run({ kind: 'step', items: [{ id: 1 }], forget: [] })
  t.like(after, { kind: 'done', results: [{ kind: 'unknown', id: 1 }] })
})

test.serial('an edit that cannot be prepared fails alone', async (t) => {
  const [device] = devices
  const good = begin(2)
  const items = [
    { id: 1, state: { ...good, pack: 'another' } },
    { id: 2, state: good },
  ]
  const result = await device!.run({ kind: 'step', items, forget: [] })
  t.like(result, {
    kind: 'done',
    results: [
      { kind: 'failed', id: 1 },
      { kind: 'stepped', id: 2 },
    ],
  })
  const [failed] = result.kind === 'done' ? result.results : []
  t.true(failed?.kind === 'failed' && failed.error instanceof FlexitError && failed.error.code === 'INVALID_ARGUMENT')
})

test.serial('a picture is drawn from a state alone, and from z0 where no step was taken', async (t) => {
  const [device] = devices
  const fresh = begin(3)
  const edit = await engine.prepare(fresh)
  const z0 = edit.z
  await engine.step([edit])
  const items = [
    { id: 1, state: fresh },
    { id: 2, state: edit.state },
  ]
  const result = await device!.run({ kind: 'draw', items, forget: [] })
  const [first, second] = result.kind === 'done' ? result.results : []
  t.true(first?.kind === 'drawn' && second?.kind === 'drawn')
  if (first?.kind !== 'drawn' || second?.kind !== 'drawn') return
  t.deepEqual(first.z, z0)
  t.deepEqual(second.picture.data, (await engine.picture(edit)).data)
})

test.serial('a pack that is away for a while is opened again when it is back', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'flexit-away-'))
  const [here, away] = [await copyPack(folder, 'here'), join(folder, 'away')]
  const device = await WorkerDevice.open({ packs: [here], cacheFolder, threads: 1, device: { kind: 'cpu', index: 4 } })
  const nothing = { kind: 'draw', items: [], forget: [] } as const
  await rename(here, away)
  await device.kill()
  t.like(await device.run(nothing), { kind: 'broken', error: { code: 'NOT_FOUND' } })
  await rename(away, here)
  t.is((await device.run(nothing)).kind, 'done')
  await device.close()
  await rm(folder, { recursive: true })
})

test.serial('a worker that hangs is given up', async (t) => {
  // A pack whose manifest is a pipe that nobody writes to: reading it does not end.
  const hanging = await mkdtemp(join(tmpdir(), 'flexit-hanging-'))
  const pipe = join(hanging, 'pack.json')
  await promisify(execFile)('mkfifo', [pipe])
  const device = { kind: 'cpu', index: 2 } as const
  const opening = WorkerDevice.open({ packs: [hanging], cacheFolder, threads: 1, device, hangAfterMs: 200 })
  await t.throwsAsync(opening, { instanceOf: FlexitError, message: /cpu:2 was lost: no sign of it for 0.2 s/ })
  await writeFile(pipe, '')
  await rm(hanging, { recursive: true })
})

test.serial('a pack that is not there is an error at start', async (t) => {
  const opening = WorkerDevice.open({
    packs: ['models/nowhere'],
    cacheFolder,
    threads: 1,
    device: { kind: 'cpu', index: 3 },
  })
  await t.throwsAsync(opening, { instanceOf: FlexitError, code: 'NOT_FOUND' })
})

test('CPU devices share the cores', (t) => {
  const cpu = { kind: 'cpu', index: 0 } as const
  t.deepEqual(shareThreads([cpu, cpu, { kind: 'cuda', index: 0 }], 8), [4, 4, 1])
  t.deepEqual(shareThreads([cpu, cpu, cpu], 2), [1, 1, 1])
})

test.serial('a process with an open device exits cleanly once the device is closed, also during a batch', async (t) => {
  const script = `
    import { WorkerDevice } from ${JSON.stringify(new URL('../../src/scheduler/worker-device.js', import.meta.url))}
    const [pack, cacheFolder] = process.argv.slice(1)
    const device = await WorkerDevice.open({ packs: [pack], cacheFolder, threads: 1, device: { kind: 'cpu', index: 0 } })
    const batch = device.run({ kind: 'step', items: [], forget: [] })
    await device.close()
    console.log('closed after', (await batch).kind)
    // It would wait for them.
    if (process.getActiveResourcesInfo().includes('Timeout')) throw new Error('there are timers left')`
  const child = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script, pack, cacheFolder])
  t.is(child.stdout, 'closed after done\n')
  t.is(child.stderr, '')
})
