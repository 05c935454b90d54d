// What a device's thread makes of sessions that fail: whether it is the edit, the device or the memory.
// The sessions are those of models/tiny; faults are put before them, in this thread.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import type { EditState } from '../../src/engine/edit.js'
import { Engine } from '../../src/engine/engine.js'
import { FlexitError } from '../../src/engine/errors.js'
import type { EditParameters } from '../../src/engine/parameters.js'
import { Session } from '../../src/engine/runtime.js'
import { DeviceThread } from '../../src/scheduler/device-thread.js'
import type { Reply } from '../../src/scheduler/messages.js'
import { tinyPack } from '../support/edits.js'

let cacheFolder: string
let engine: Engine
let thread: DeviceThread
const run = Object.getOwnPropertyDescriptor(Session.prototype, 'run')!
const create = Object.getOwnPropertyDescriptor(Session, 'create')!

test.before(async () => {
  cacheFolder = await mkdtemp(join(tmpdir(), 'flexit-thread-'))
  engine = await Engine.open({ pack: tinyPack, cacheFolder, threads: 1 })
})

test.beforeEach(() => {
  thread = newThread()
})

test.afterEach.always(async () => {
  mend()
  await thread.handle({ kind: 'close' })
})

test.after.always(async () => {
  await engine.close()
  await rm(cacheFolder, { recursive: true })
})

function newThread(): DeviceThread {
  const killSwitch = new Int32Array(new SharedArrayBuffer(4))
  const setup = { packs: [tinyPack], device: { kind: 'cpu', index: 0 }, threads: 1, cacheFolder, killSwitch } as const
  return new DeviceThread(setup, () => undefined)
}

function state(parameters: Partial<EditParameters> = {}): EditState {
  const data = Uint8Array.from({ length: engine.size ** 2 * 3 }, (_, i) => (i * 7) % 256)
  const picture = { height: engine.size, width: engine.size, data }
  return engine.begin({ picture, source: 'a', target: 'b', parameters })
}

function step(items: readonly { readonly id: number; readonly state?: EditState }[]): Promise<Reply> {
  return thread.handle({ kind: 'run', batch: { kind: 'step', items, forget: [] } })
}

const kindsOf = (reply: Reply) => (reply.kind === 'done' ? reply.results.map(({ kind }) => kind) : reply.kind)

type Inputs = Parameters<Session['run']>[0]

/** Sessions throw what `fault` gives for their inputs. */
function breakSessions(fault: (inputs: Inputs) => Error | undefined): void {
  Session.prototype.run = function (this: Session, inputs) {
    const error = fault(inputs)
    return error === undefined ? (run.value as Session['run']).call(this, inputs) : Promise.reject(error)
  }
}

function mend(): void {
  Object.defineProperty(Session.prototype, 'run', run)
  Object.defineProperty(Session, 'create', create)
}

const isStep = (inputs: Inputs) => 'z0' in inputs
const full = () => new Error('Failed to allocate memory for requested buffer')

test.serial('a graph that does not run fails its edit, and the device goes on', async (t) => {
  const hasTwoViews = (inputs: Inputs) => inputs['views.vit.x']?.shape[1] === 2
  breakSessions((inputs) => (hasTwoViews(inputs) ? new Error('there is no kernel for it') : undefined))
  t.deepEqual(kindsOf(await step([{ id: 1, state: state({ views: 2 }) }])), ['failed'])
  t.deepEqual(kindsOf(await step([{ id: 2, state: state() }])), ['stepped'])
})

test.serial('where a plain edit does not run either it is the device, also where no session can be made', async (t) => {
  breakSessions(() => new Error('CUDA failure 700: an illegal memory access was encountered'))
  t.is(kindsOf(await step([{ id: 1, state: state() }])), 'failed')
  thread = newThread()
  Session.create = () => Promise.reject(new FlexitError({ code: 'FAILED_PRECONDITION', message: 'no device' }))
  t.is(kindsOf(await step([{ id: 1, state: state() }])), 'failed')
})

test.serial('a wrong edit does not make anybody doubt the device', async (t) => {
  let ran = 0
  breakSessions(() => {
    ran += 1
    return undefined
  })
  t.deepEqual(kindsOf(await step([{ id: 1, state: { ...state(), pack: 'another' } }])), ['failed'])
  t.is(ran, 0)
})

test.serial('graphs that are not needed make room; what does not fit even so is told', async (t) => {
  t.deepEqual(kindsOf(await step([{ id: 1, state: state({ views: 2 }) }])), ['stepped'])
  let failures = 1
  breakSessions((inputs) => (isStep(inputs) && failures-- > 0 ? full() : undefined))
  t.deepEqual(kindsOf(await step([{ id: 2, state: state() }])), ['stepped'])
  failures = Infinity
  t.is(kindsOf(await step([{ id: 2 }])), 'out-of-memory')
  failures = 0
  const last = await step([{ id: 2 }])
  t.like(last, { kind: 'done', results: [{ kind: 'stepped', report: { step: 1 } }] }, 'no step was lost')
})

test.serial('edits that stepped before the memory ran out are not a step ahead', async (t) => {
  const items = [0, 1].map((id) => ({ id, state: state() }))
  let alone = 0
  breakSessions((inputs) => {
    if (!isStep(inputs)) return undefined
    if (inputs['z']!.shape[0]! > 1) return new Error('CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED')
    alone += 1
    return alone % 2 === 0 ? full() : undefined
  })
  t.is(kindsOf(await step(items)), 'out-of-memory')
  mend()
  t.deepEqual(kindsOf(await step([{ id: 0 }])), ['unknown'])
  t.like(await step([items[0]!]), { kind: 'done', results: [{ kind: 'stepped', report: { step: 0 } }] })
})
