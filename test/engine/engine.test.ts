// An edit's bits depend on nothing but its state: not on its neighbours in the batch, on threads, on interruptions.
// And what an engine refuses.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import test, { type ExecutionContext } from 'ava'
import { Edit, type EditState } from '../../src/engine/edit.js'
import { type EditRequest, Engine, type EngineOptions } from '../../src/engine/engine.js'
import { FlexitError } from '../../src/engine/errors.js'
import { type EditParameters, specificationKey } from '../../src/engine/parameters.js'
import { readPicture } from '../../src/engine/picture.js'
import { Session } from '../../src/engine/runtime.js'
import { stepGraph } from '../../src/engine/step-graph.js'
import { type Trace, advance, bytesOf, randomPicture, requests, tinyPack } from '../support/edits.js'

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

const cacheFolder = await mkdtemp(join(tmpdir(), 'flexit-test-'))
const [one, two] = (await Promise.all(
  [1, 2].map((threads) => Engine.open({ pack: tinyPack, cacheFolder, threads })),
)) as [Engine, Engine]

test.after.always(async () => {
  await Promise.all([one.close(), two.close()])
  await rm(cacheFolder, { recursive: true })
})

const prepareAll = (engine: Engine, states: readonly EditState[]) =>
  Promise.all(states.map((state) => engine.prepare(state)))

function begin(engine: Engine, count: number, parameters: Partial<EditParameters>): EditState[] {
  return requests(engine.size, count, parameters).map((request) => engine.begin(request))
}

/** Each state by itself, from the start. */
async function alone(engine: Engine, states: readonly EditState[], steps: number): Promise<Trace[][]> {
  const traces = []
  for (const state of states) traces.push((await advance(engine, [await engine.prepare(state)], steps))[0]!)
  return traces
}

/** To the bit; `what` says which comparison failed. */
function same(t: ExecutionContext, actual: readonly Trace[], expected: readonly Trace[], what: string): void {
  t.is(actual.length, expected.length)
  actual.forEach(({ z, report }, step) => {
    t.true(z.equals(expected[step]!.z), `${what}: the latent after step ${step}`)
    t.deepEqual(report, expected[step]!.report, `${what}: the report of step ${step}`)
  })
}

const specifications: Readonly<Record<string, Partial<EditParameters>>> = {
  'the deterministic view': { views: 0 },
  'three random views': { views: 3 },
  'the losses of the paper, one network': { views: 1, preset: 'paper', networks: ['vit'] },
  pixels: { views: 1, space: 'pixels', networks: ['rn'] },
  'no regularisers': { views: 0, lambdaP: 0, lambdaZ: 0, networks: ['vit'] },
}

for (const [title, parameters] of Object.entries(specifications)) {
  test.serial(`a batch of four edits gives the bits of each alone: ${title}`, async (t) => {
    const states = begin(one, 4, parameters)
    const expected = await alone(one, states, 3)
    const actual = await advance(one, await prepareAll(one, states), 3)
    actual.forEach((trace, i) => same(t, trace, expected[i]!, `edit ${i}`))
    t.is(new Set(actual.map((trace) => trace.at(-1)!.z.toString('hex'))).size, 4, 'the edits differ')
  })
}

test.serial('batches of any size, and any number of threads, give the same bits', async (t) => {
  const states = begin(one, 5, { views: 1 })
  const expected = await alone(one, states, 2)
  for (const [engine, name] of [
    [one, 'one thread'],
    [two, 'two threads'],
  ] as const) {
    for (const size of [1, 2, 3, 5]) {
      const traces = await advance(engine, await prepareAll(engine, states.slice(-size)), 2)
      traces.forEach((trace, i) => same(t, trace, expected.at(i - size)!, `${name}, ${i} of ${size}`))
    }
  }
})

test.serial('edits join and leave a batch at step boundaries, in any order', async (t) => {
  const states = begin(one, 3, { views: 1, networks: ['vit'] })
  const expected = await alone(one, states, 4)
  const [a, b, c] = (await prepareAll(one, states)) as [Edit, Edit, Edit]
  const traces = new Map<Edit, Trace[]>([a, b, c].map((edit) => [edit, []]))
  for (const batch of [[a], [a, b], [c, a], [b, c, a], [c, b], [b, c]]) {
    const reports = await one.step(batch)
    reports.forEach((report, i) => traces.get(batch[i]!)!.push({ z: bytesOf(batch[i]!.z), report }))
  }
  t.deepEqual(
    [a, b, c].map(({ step }) => step),
    [4, 4, 4],
  )
  for (const [i, trace] of [...traces.values()].entries()) same(t, trace, expected[i]!, `edit ${i}`)
})

test.serial('twelve steps are five, a save, and seven on another engine', async (t) => {
  for (const parameters of [{ views: 1 }, { views: 1, space: 'pixels', networks: ['vit'] }] as const) {
    const [state] = begin(one, 1, parameters)
    const [expected] = await alone(one, [state!], 12)
    const edit = await one.prepare(state!)
    const [before] = await advance(one, [edit], 5)
    const saved = structuredClone(edit.state)
    t.is(saved.step, 5)
    const [after] = await advance(two, [await two.prepare(saved)], 7)
    same(t, [...before!, ...after!], expected!, 'resumed')
  }
})

test.serial('two runs of an edit are equal; another seed is another edit', async (t) => {
  const [state] = begin(one, 1, { views: 1, networks: ['vit'] })
  const [first, second] = await alone(one, [state!, structuredClone(state!)], 3)
  same(t, second!, first!, 'the second run')
  const other = { ...state!, parameters: { ...state!.parameters, seed: 5 } }
  const [third] = await alone(one, [other], 3)
  t.false(third!.at(-1)!.z.equals(first!.at(-1)!.z))
})

test.serial('steps do not change the state that was taken before', async (t) => {
  const edit = await one.prepare(begin(one, 1, { views: 0, networks: ['vit'] })[0]!)
  const before = edit.state
  const copy = structuredClone(before)
  await one.step([edit])
  t.deepEqual(before, copy)
  t.notDeepEqual(edit.state.z, before.z)
})

test.serial('an edit does what it is for: its loss falls, its result is nearer to the target text', async (t) => {
  const picture = await readPicture(`${tinyPack}/examples/red-apple.png`, {
    height: one.size,
    width: one.size,
    background: 'white',
  })
  const parameters = { views: 1, steps: 20, seed: 1 }
  const edit = await one.prepare(one.begin({ picture, source: 'red apple', target: 'lemon', parameters }))
  const reports = []
  while (!edit.done) reports.push(...(await one.step([edit])))
  const [first, last] = [reports[0]!, reports.at(-1)!]
  t.true(last.losses.total < first.losses.total)
  t.true(last.similarityTarget > first.similarityTarget + 0.05)
  t.is(first.step, 0)
  t.is(last.step, 19)
  t.is(first.losses.latent, 0)
  t.deepEqual([last.preview.height, last.preview.width], [one.size, one.size])
  t.notDeepEqual((await one.picture(edit)).data, last.preview.data)
})

test.serial('the picture of a latent is the preview that the next step shows', async (t) => {
  for (const space of ['latent', 'pixels'] as const) {
    const edit = await one.prepare(begin(one, 1, { views: 0, networks: ['vit'], space })[0]!)
    await one.step([edit])
    const picture = await one.picture(edit)
    const [report] = await one.step([edit])
    t.deepEqual(picture, report!.preview)
  }
})

test.serial('pixels start at the picture and stay within [0, 1]', async (t) => {
  const parameters = { views: 0, networks: ['vit'], space: 'pixels', learningRate: 2, steps: 3 } as const
  const picture = randomPicture(one.size, 1)
  const edit = await one.prepare(one.begin({ picture, source: 'cat', target: 'dog', parameters }))
  const [first] = await one.step([edit])
  t.deepEqual(first!.preview, picture)
  await one.step([edit])
  t.true(edit.z.every((value) => value >= 0 && value <= 1))
  t.true(edit.z.some((value) => value === 0 || value === 1))
})

test.serial('a λ of zero leaves its term out of the specification and of the graph', async (t) => {
  const of = async (parameters: Partial<EditParameters>) => {
    const edit = await one.prepare(begin(one, 1, { views: 0, networks: ['vit'], ...parameters })[0]!)
    const { nodes, inputs } = stepGraph(one.pack, edit.specification)
    const [report] = await one.step([edit])
    return {
      edit,
      losses: report!.losses,
      names: [...nodes, ...inputs].map(({ name }) => name),
    }
  }
  const both = await of({})
  t.true(both.names.some((name) => name.startsWith('lpips')))
  t.true(both.names.includes('lambda_z'))
  const none = await of({ lambdaP: 0, lambdaZ: 0 })
  t.like(none.edit.specification, { perceptual: false, latent: false })
  t.deepEqual(none.edit.constants.features, [])
  t.false(none.names.some((name) => name.includes('lpips') || name.startsWith('lambda')))
  t.deepEqual([none.losses.lpips, none.losses.latent], [undefined, undefined])
  t.is(none.losses.total, none.losses.clip)
  t.not(specificationKey(none.edit.specification), specificationKey(both.edit.specification))
})

const poisons: Readonly<Record<string, (z: Float32Array) => Float32Array>> = {
  'values beyond float32 on the way': (z) => z.map(() => 1e30),
  NaN: (z) => z.map((value, i) => (i === 7 ? NaN : value)),
}

for (const [title, poison] of Object.entries(poisons)) {
  test.serial(`an edit that is no longer finite fails alone, at its last latent: ${title}`, async (t) => {
    const states = begin(one, 3, { views: 1, networks: ['vit'] })
    const expected = await alone(one, states, 3)
    const edits = await prepareAll(one, states)
    const before = await advance(one, edits, 1)
    const ill = edits[1]!
    ill.advance(poison(ill.z))
    const poisoned = ill.z
    const reports = await one.step(edits)
    t.is(reports[1]!.failure?.code, 'FAILED_PRECONDITION')
    t.true(reports[1]!.failure!.message.includes('step 2'))
    t.is(ill.failure, reports[1]!.failure)
    t.true(ill.done)
    t.is(ill.z, poisoned)
    t.is(ill.step, 2)
    const healthy = [edits[0]!, edits[2]!]
    const second = reports.filter((_, i) => i !== 1).map((report, i) => ({ z: bytesOf(healthy[i]!.z), report }))
    const third = await advance(one, healthy, 1)
    for (const [i, edit] of [0, 2].entries()) {
      same(t, [...before[edit]!, second[i]!, ...third[i]!], expected[edit]!, `edit ${edit}`)
    }
    await t.throwsAsync(one.step(edits), { message: /done/ })
  })
}

test.serial('where the very first step is not finite, damaged graphs are named too', async (t) => {
  const { state, specification, constants } = await one.prepare(begin(one, 1, { views: 0, networks: ['vit'] })[0]!)
  const cureAt = async (step: number) => {
    const ill = new Edit({ ...state, step, z: state.z.map(() => NaN) }, specification, constants, [])
    return (await one.step([ill]))[0]!.failure?.cure ?? ''
  }
  t.regex(await cureAt(0), /flexit cache clear/)
  t.notRegex(await cureAt(1), /cache/)
})

test.serial('the largest learning rate leaves an edit finite, or fails it at a finite latent', async (t) => {
  const [request] = requests(one.size, 1, { views: 0, networks: ['vit'] })
  const parameters = { ...request!.parameters, learningRate: 10, steps: 6 }
  const edit = await one.prepare(one.begin({ ...request!, parameters }))
  while (!edit.done) await one.step([edit])
  t.true(edit.z.every(Number.isFinite))
  t.true(edit.step === 6 || edit.failure !== undefined)
})

test.serial('edits that are done, there twice or of other kinds are not stepped; no edits are no work', async (t) => {
  const [a, b] = await Promise.all([
    one.prepare(begin(one, 1, { views: 0, networks: ['vit'] })[0]!),
    one.prepare(begin(one, 1, { views: 1, networks: ['vit'] })[0]!),
  ])
  const wrong = { instanceOf: FlexitError, code: 'INVALID_ARGUMENT' } as const
  await t.throwsAsync(one.step([a, b]), { ...wrong, message: /different specifications/ })
  await t.throwsAsync(one.step([a, a]), { ...wrong, message: /an edit twice/ })
  t.is(a.step, 0)
  a.fail(new FlexitError({ code: 'INTERNAL', message: 'it is over' }))
  const error = await t.throwsAsync(one.step([a]), { instanceOf: FlexitError, code: 'FAILED_PRECONDITION' })
  t.truthy(error.cure)
  t.deepEqual(await one.step([]), [])
})

test.serial('an edit takes one step at a time; a second call is refused and changes nothing', async (t) => {
  const states = begin(one, 2, { views: 1, networks: ['vit'] })
  const expected = await alone(one, states, 2)
  const [a, b] = (await prepareAll(one, states)) as [Edit, Edit]
  const [[report], ...refused] = await Promise.all([
    one.step([a]),
    ...[one, two].map((engine) => t.throwsAsync(engine.step([b, a]), { instanceOf: FlexitError })),
  ])
  for (const { code, message } of refused) {
    t.is(code, 'FAILED_PRECONDITION')
    t.regex(message, /another call/)
  }
  t.deepEqual([a.step, b.step], [1, 0])
  const first = { z: bytesOf(a.z), report: report! }
  const [second] = await advance(one, [a], 1)
  same(t, [first, ...second!], expected[0]!, 'the edit')
  same(t, (await advance(one, [b], 2))[0]!, expected[1]!, 'the other')
})

test.serial('equal texts, a black picture and a long text are edits like others', async (t) => {
  const black = { height: one.size, width: one.size, data: new Uint8Array(one.size ** 2 * 3) }
  const parameters = { views: 1, steps: 2 }
  const long = 'dog '.repeat(500)
  for (const [source, target] of [
    ['cat', 'cat'],
    ['cat', long],
  ] as const) {
    const edit = await one.prepare(one.begin({ picture: black, source, target, parameters }))
    t.is(edit.warnings.length, target === long ? 1 : 0)
    while (!edit.done) await one.step([edit])
    t.is(edit.failure, undefined)
  }
})

test.serial('states that do not fit are refused, naming what does not', async (t) => {
  const [state] = begin(one, 1, { views: 0, networks: ['vit'] })
  const edit = await one.prepare(state!)
  const good = edit.state
  const cases: readonly [Partial<EditState>, RegExp][] = [
    [{ pack: '0'.repeat(64) }, /another pack/],
    [{ picture: randomPicture(one.size - 1, 1) }, /picture is 63 × 63, expected 64 × 64/],
    [{ picture: { ...good.picture, data: good.picture.data.slice(3) } }, /picture/],
    [{ step: -1 }, /step -1/],
    [{ step: 0.5 }, /step 0\.5/],
    [{ step: 21 }, /step 21 is not one of 20/],
    [{ shape: [8, 32, 8] }, /latent is 8 × 32 × 8, expected 32 × 8 × 8/],
    [{ z: good.z.slice(1) }, /latent has \d+ values, expected/],
    [{ z: good.z.map((value, i) => (i === 3 ? NaN : value)) }, /not finite/],
    [{ z: good.z.map((value, i) => (i === 3 ? -Infinity : value)) }, /not finite/],
    [{ source: ' ' }, /source text is empty/],
    [{ target: 'x'.repeat(5000) }, /5000 characters/],
  ]
  for (const [change, message] of cases) {
    const error = await t.throwsAsync(one.prepare({ ...good, ...change }), { instanceOf: FlexitError, message })
    t.is(error.code, 'INVALID_ARGUMENT')
    t.truthy(error.cure)
  }
  await t.notThrowsAsync(one.prepare({ ...good, step: 20, shape: [32, 8, 8] }))
})

test('requests that are wrong in JavaScript are refused when an edit begins, naming the field', (t) => {
  const picture = randomPicture(one.size, 1)
  const good = { picture, source: 'cat', target: 'dog' }
  const cases: readonly (readonly [request: unknown, field: string, message: RegExp])[] = [
    [undefined, 'request', /cannot begin from missing/],
    [{ ...good, picture: randomPicture(2, 1) }, 'picture', /the picture is 2 × 2, expected 64 × 64/],
    [{ ...good, picture: { ...picture, data: picture.data.slice(3) } }, 'picture', /12285 values, expected 12288/],
    [{ ...good, picture: { ...picture, data: [...picture.data] } }, 'picture', /data is an array/],
    [{ ...good, picture: 'apple.png' }, 'picture', /the picture is a string/],
    [{ picture, source: 'cat' }, 'target', /the target text is missing/],
    [{ ...good, source: 5 }, 'source', /the source text is a number/],
    [{ ...good, steps: 5 }, 'steps', /steps lies beside the parameters/],
    [{ ...good, parameters: null }, 'parameters', /the parameters are null/],
  ]
  for (const [request, field, message] of cases) {
    const error = t.throws(() => one.begin(request as EditRequest), { instanceOf: FlexitError, message })
    t.like(error, { code: 'INVALID_ARGUMENT', field })
    t.truthy(error.cure)
  }
  t.notThrows(() => one.begin({ ...good, parameters: undefined }))
  t.is(one.begin({ ...good, parameters: { steps: undefined, seed: 3 } }).parameters.seed, 3)
})

test('options that are wrong in JavaScript are refused when an engine is opened', async (t) => {
  const good = { pack: tinyPack, cacheFolder }
  const cases: readonly (readonly [options: object, field: string, cure: RegExp])[] = [
    [{ ...good, device: 'cuda:0' }, 'device', /parseDevice\('cuda:0'\)/],
    [{ ...good, device: { kind: 'gpu', index: 0 } }, 'device', /parseDevice/],
    [{ ...good, device: { kind: 'cuda' } }, 'device', /parseDevice/],
    [{ ...good, device: null }, 'device', /parseDevice/],
    [{ pack: tinyPack }, 'cacheFolder', /cacheFolder\(\)/],
    [{ cacheFolder }, 'pack', /requirePack/],
  ]
  for (const [options, field, cure] of cases) {
    const error = await t.throwsAsync(Engine.open(options as EngineOptions), { instanceOf: FlexitError })
    t.like(error, { code: 'INVALID_ARGUMENT', field })
    t.regex(error.cure ?? '', cure)
  }
  const unset = { device: undefined, threads: undefined, onProgress: undefined }
  const engine = await Engine.open({ ...good, ...unset })
  await engine.close()
})

test.serial('warming up makes the first step ready', async (t) => {
  await t.notThrowsAsync(one.warmUp({ views: 0, networks: ['vit'] }))
})

test.serial('graphs that are not needed are let go, and come back as they were', async (t) => {
  const states = [1, 2, 3].map((views) => begin(one, 1, { views, networks: ['vit'], lambdaP: 0 })[0]!)
  const traces = await alone(one, states, 1)
  t.true(await one.trim())
  t.false(await one.trim())
  const again = await alone(one, states, 1)
  again.forEach((trace, i) => same(t, trace, traces[i]!, `edit ${i}`))
})

test.serial('a graph that is let go while a step of it runs is freed after the step', async (t) => {
  const states = [1, 2].map((views) => begin(one, 1, { views, networks: ['vit'], lambdaP: 0 })[0]!)
  const expected = await alone(one, states, 2)
  const edits = await prepareAll(one, states)
  for (const edit of edits) await one.step([edit])
  const reports = await Promise.all([...edits.map((edit) => one.step([edit])), one.trim()])
  edits.forEach((edit, i) => t.true(bytesOf(edit.z).equals(expected[i]![1]!.z), `edit ${i}`))
  t.is(reports.at(-1), true)
})

test.serial('a batch is put together once, and kept no longer than it is needed', async (t) => {
  const run = Object.getOwnPropertyDescriptor(Session.prototype, 'run')!
  const seen: WeakRef<object>[] = []
  Session.prototype.run = function (this: Session, inputs) {
    if ('learning_rate' in inputs) seen.push(new WeakRef(inputs['z0']!.data))
    return (run.value as Session['run']).call(this, inputs)
  }
  t.teardown(() => Object.defineProperty(Session.prototype, 'run', run))
  const engine = await Engine.open({ pack: tinyPack, cacheFolder, threads: 1 })
  t.teardown(() => engine.close())
  const batch = async (steps: number) => {
    const given = requests(one.size, 2, { views: 0, networks: ['vit'], lambdaP: 0 })
    const states = given.map((request) => engine.begin({ ...request, parameters: { ...request.parameters, steps } }))
    return prepareAll(engine, states)
  }
  const held = async () => {
    // A reference that was followed holds until the end of its turn.
    await new Promise(setImmediate)
    collectGarbage()
    return seen.map((ref) => ref.deref() !== undefined)
  }

  const edits = await batch(3)
  await engine.step(edits)
  await engine.step(edits)
  t.is(seen[0]!.deref(), seen[1]!.deref())
  t.deepEqual(await held(), [true, true], 'while it goes on')
  await engine.trim()
  t.deepEqual(await held(), [false, false], 'memory ran out')
  await engine.step(edits)
  t.deepEqual([edits[0]!.done, await held()], [true, [false, false, false]], 'it is done')

  seen.length = 0
  const stepped = async () => {
    const edits = await batch(3)
    await engine.step(edits)
    return edits.map((edit) => new WeakRef(edit))
  }
  const refs = await stepped()
  t.deepEqual([await held(), refs.map((ref) => ref.deref())], [[false], [undefined, undefined]], 'its edits are gone')
})

test.serial('closing waits for what is under way; afterwards nothing is loaded again', async (t) => {
  const options = { pack: tinyPack, cacheFolder, threads: 1 }
  const loaded: string[] = []
  const engine = await Engine.open({ ...options, onProgress: (doing) => loaded.push(doing) })
  const states = begin(one, 2, { views: 0, networks: ['vit'] })
  const expected = await alone(one, states, 1)
  const edit = await engine.prepare(states[0]!)
  const [[report], other] = await Promise.all([
    engine.step([edit]),
    engine.prepare(states[1]!),
    engine.close(),
    engine.close(),
  ])
  same(t, [{ z: bytesOf(edit.z), report: report! }], expected[0]!, 'the step under way')
  t.is(other.step, 0)

  loaded.length = 0
  const closed = { instanceOf: FlexitError, code: 'FAILED_PRECONDITION', message: /the engine was closed/ } as const
  await t.throwsAsync(engine.prepare(states[0]!), closed)
  await t.throwsAsync(engine.step([edit]), closed)
  await t.throwsAsync(engine.picture(edit), closed)
  await t.throwsAsync(engine.warmUp(), closed)
  t.deepEqual(loaded, [])
  await t.notThrowsAsync(one.step([edit]), 'the edit goes on with another engine')
})
