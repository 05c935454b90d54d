// Edits of an evaluation by makers: servers over real ports, with the tests' own scheduler.
// What an editor owes: src/evaluation/editor.ts.

import test from 'ava'
import { makeBy, schedulerOf } from '../../src/cli/device-maker.js'
import { makerEditor } from '../../src/cli/maker-editor.js'
import { type PlacedMaker, makerPack } from '../../src/cli/maker.js'
import { remoteMaker } from '../../src/cli/remote-maker.js'
import { FlexitError } from '../../src/engine/errors.js'
import { resolveParameters } from '../../src/engine/parameters.js'
import type { EditJob, Editor, Latent, MadeEdit } from '../../src/evaluation/editor.js'
import { WireError } from '../../src/proto/status.js'
import { AdmissionError } from '../../src/scheduler/api.js'
import { FakeDevice } from '../scheduler/fake-device.js'
import { randomPicture } from '../support/edits.js'
import { FakeScheduler } from '../support-server/fake-scheduler.js'
import { latentLength, pack, serve } from '../support-server/start.js'

const { size } = pack.manifest.image

function job(target: string, at: readonly number[]): EditJob {
  const parameters = resolveParameters({ steps: at.at(-1)!, seed: 5 }, pack)
  return { name: 'query 3', picture: randomPicture(size, 1), source: 'apple', target, parameters, at }
}

/** All that the job asks for, or what is missing from a latent on. */
function make(editor: Editor, asked: EditJob, onStep: () => void = () => undefined, from?: Latent): Promise<MadeEdit> {
  const wanted = asked.at.filter((step) => from === undefined || step > from.step)
  return editor.edit(asked, { from, wanted, onStep })
}

const hexes = ({ pictures }: MadeEdit) => [...pictures].map(([step, picture]) => [step, hex(picture)])

const hex = ({ data }: { readonly data: Uint8Array }) => Buffer.from(data).toString('hex')

test('a server and a scheduler here give the same pictures, on the way and at the end', async (t) => {
  const { address, scheduler } = await serve(t)
  const remote = await remoteMaker({ server: address, priority: 'batch' })
  t.teardown(() => remote.close())
  const here = new FakeScheduler({ length: latentLength })
  const local: PlacedMaker = {
    pack: makerPack(pack),
    devices: 2,
    places: ['cpu'],
    make: (state, order) => makeBy(here, state, order),
    close: () => Promise.resolve(),
  }
  t.deepEqual(remote.pack.networks, local.pack.networks)
  // Pictures of another version of the server, or of other devices, are not taken for these.
  t.deepEqual(remote.places, [address, 'cpu', 'version 1.2.3'])
  const at = [0, 4, 6, 10]
  const made = []
  for (const maker of [remote, local]) {
    const editor = makerEditor(maker)
    t.deepEqual(editor.identity.slice(2), [pack.digest, ...maker.places])
    let steps = 0
    made.push(await make(editor, job('pear', at), () => steps++))
    t.is(steps, 10)
  }
  t.is(new Set(hexes(made[0]!).map(([, picture]) => picture)).size, 4)
  t.is(made[0]!.latent!.step, 10)
  t.deepEqual(made[1], made[0])
  const { picture, parameters } = scheduler.edits[0]!.state
  t.is(hex(picture), hex(job('pear', at).picture))
  t.like(parameters, { steps: 10, seed: 5 })
})

test('an edit goes on from its last latent, at a server, to the same pictures as at once', async (t) => {
  const { address } = await serve(t)
  const remote = await remoteMaker({ server: address, priority: 'batch' })
  t.teardown(() => remote.close())
  const editor = makerEditor(remote)
  const atOnce = await make(editor, job('pear', [0, 4, 10]))
  const { latent } = await make(editor, job('pear', [0, 4]))
  t.is(latent!.step, 4)
  let steps = 0
  const rest = await make(editor, job('pear', [0, 4, 10]), () => steps++, latent)
  t.is(steps, 6)
  t.deepEqual(hexes(rest), hexes(atOnce).slice(2))
  t.deepEqual(rest.latent, atOnce.latent)
})

test('an edit of a scheduler here waits for a watcher that takes long', async (t) => {
  const here = new FakeScheduler({ length: latentLength })
  let goOn: () => void = () => undefined
  const gate = new Promise<void>((resolve) => (goOn = resolve))
  const told: (number | string)[] = []
  const watcher = {
    onStarted: () => told.push('started'),
    onNote: () => undefined,
    onStep: async ({ step }: { readonly step: number }) => {
      told.push(step)
      await gate
    },
  }
  const { picture, source, target, parameters } = job('pear', [40])
  const state = { pack: pack.digest, picture, source, target, parameters, step: 0, z: undefined }
  const ended = makeBy(here, state, { watcher, signal: new AbortController().signal })
  const [edit] = here.edits
  await Promise.race([edit!.wasHeld, edit!.ended])
  t.true(edit!.held)
  t.true(edit!.state.step < 10)
  t.deepEqual(told, ['started', 0])
  goOn()
  t.is((await ended).kind, 'completed')
  t.false(edit!.held)
  t.deepEqual(told, ['started', ...Array.from({ length: 40 }, (_, step) => step)])
})

test('a scheduler here takes as many edits as it is given', (t) => {
  const scheduler = schedulerOf([new FakeDevice('cpu')], pack)
  const request = { tenant: '', priority: 'normal', bytes: 0, steps: 1 } as const
  t.notThrows(() => {
    for (let i = 0; i <= 10_000; i++) scheduler.admit(request)
  })
})

test('an error of the server is the edit’s, a stop cancels', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 2 })
  const maker = await remoteMaker({ server: address, priority: 'batch' })
  t.teardown(() => maker.close())
  const editor = makerEditor(maker)
  await t.throwsAsync(make(editor, job('explode', [4])), { message: /it exploded/ })
  let steps = 0
  const stopped = make(editor, job('pear', [0, 8]), () => {
    steps++
    if (steps === 2) editor.stop()
  })
  await t.throwsAsync(stopped, { code: 'CANCELLED' })
  await scheduler.edits[1]!.ended
})

test('an edit that is no longer finite gives the pictures that it has; any other failure is an error', async (t) => {
  const failing = (code: 'FAILED_PRECONDITION' | 'INTERNAL' | 'UNAUTHENTICATED', pictures: number): PlacedMaker => ({
    pack: makerPack(pack),
    devices: 1,
    places: ['cpu'],
    make: async (state, { watcher }) => {
      const report = { losses: { total: 1, clip: 1, lpips: 1, latent: 1 }, similaritySource: 0, similarityTarget: 0 }
      for (let step = 0; step < pictures; step++) {
        await watcher.onStep({ ...report, step, preview: state.picture }, undefined)
      }
      return { kind: 'failed', error: new WireError({ code, message: 'failed' }), state }
    },
    close: () => Promise.resolve(),
  })
  const edit = (maker: PlacedMaker) => make(makerEditor(maker), job('pear', [0, 1, 2, 3]))
  const { pictures, latent } = await edit(failing('FAILED_PRECONDITION', 2))
  t.deepEqual([[...pictures.keys()], latent], [[0, 1], undefined])
  await t.throwsAsync(edit(failing('FAILED_PRECONDITION', 0)), { message: 'query 3: failed' })
  await t.throwsAsync(edit(failing('INTERNAL', 2)), { code: 'INTERNAL', message: 'query 3: failed' })
  // To the program as FAILED_PRECONDITION, but nothing that the edit's numbers did.
  await t.throwsAsync(edit(failing('UNAUTHENTICATED', 2)), { message: 'failed' })
})

test('an edit that goes on ends early where it would have at once, and for no other reason', async (t) => {
  /** Its numbers are no longer finite at step 4; `isFull`: or the disk is full, whatever the step. */
  const failing = (isFull: boolean): PlacedMaker => ({
    pack: makerPack(pack),
    devices: 1,
    places: ['cpu'],
    make: async (state, { watcher }) => {
      const report = { losses: { total: 1, clip: 1, lpips: 1, latent: 1 }, similaritySource: 0, similarityTarget: 0 }
      for (let step = state.step; step < 4 && !isFull; step++) {
        await watcher.onStep({ ...report, step, preview: state.picture }, undefined)
      }
      return { kind: 'failed', error: new FlexitError({ code: 'FAILED_PRECONDITION', message: 'failed' }), state }
    },
    close: () => Promise.resolve(),
  })
  const latent = { step: 4, z: new Float32Array(latentLength) }
  let steps = 0
  const goOn = (isFull: boolean) => make(makerEditor(failing(isFull)), job('pear', [0, 4, 8]), () => steps++, latent)
  t.deepEqual(await goOn(false), { pictures: new Map(), latent: undefined })
  t.is(steps, 0)
  await t.throwsAsync(goOn(true), { code: 'FAILED_PRECONDITION', message: 'query 3: failed' })
})

test('an edit that somebody else cancels at the server is no stop', async (t) => {
  const cancelled: PlacedMaker = {
    pack: makerPack(pack),
    devices: 1,
    places: ['cpu'],
    make: (state) => Promise.resolve({ kind: 'cancelled', state }),
    close: () => Promise.resolve(),
  }
  const edit = make(makerEditor(cancelled), job('pear', [0, 4]))
  await t.throwsAsync(edit, { code: 'UNAVAILABLE', message: /somebody else cancelled/ })
})

/** A server that is full the first time that it is asked, after `taken` steps. */
function fullMaker(taken: number, retryAfterMs: number, onRefused: () => void = () => undefined) {
  const begun: number[] = []
  const maker: PlacedMaker = {
    pack: makerPack(pack),
    devices: 1,
    places: ['cpu'],
    make: async (state, { watcher, signal }) => {
      if (signal.aborted) return { kind: 'cancelled', state }
      begun.push(state.step)
      const last = begun.length === 1 ? taken : state.parameters.steps
      const report = { losses: { total: 1, clip: 1, lpips: 1, latent: 1 }, similaritySource: 0, similarityTarget: 0 }
      for (let step = state.step; step < last; step++) {
        await watcher.onStep({ ...report, step, preview: randomPicture(size, step) }, undefined)
      }
      const { steps } = state.parameters
      if (begun.length > 1) return { kind: 'completed', picture: randomPicture(size, steps), state }
      setImmediate(onRefused)
      const options = {
        code: 'RESOURCE_EXHAUSTED',
        message: 'the queue is full',
        reason: 'edits',
        retryAfterMs,
      } as const
      // Its last latent is of one step before.
      return { kind: 'failed', error: new AdmissionError(options), state: { ...state, step: Math.max(0, taken - 1) } }
    },
    close: () => Promise.resolve(),
  }
  return { maker, begun }
}

test('where the server is full, an edit comes back when it says so; no picture and no step counts twice', async (t) => {
  for (const taken of [0, 3]) {
    const { maker, begun } = fullMaker(taken, 1)
    let steps = 0
    const made = await make(makerEditor(maker), job('pear', [0, 2, 4]), () => steps++)
    t.deepEqual(
      hexes(made),
      [0, 2, 4].map((step) => [step, hex(randomPicture(size, step))]),
    )
    t.deepEqual(begun, [0, Math.max(0, taken - 1)])
    t.is(steps, 4)
  }
})

test('a stop ends the wait for a server that is full', async (t) => {
  const { maker, begun } = fullMaker(0, 3_600_000, () => editor.stop())
  const editor = makerEditor(maker)
  await t.throwsAsync(make(editor, job('pear', [0, 4])), { code: 'CANCELLED' })
  t.deepEqual(begun, [0])
})
