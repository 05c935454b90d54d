// Saved edits: what is written comes back to the bit; what is damaged or hostile is refused by name.
// Files are made with the writer and then changed.

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type SavedEdit, readEditFile, writeEditFile } from '../../src/engine/edit-file.js'
import { FlexitError } from '../../src/engine/errors.js'
import { type TensorData, serialiseSafetensors } from '../../src/engine/pack/safetensors.js'

const shape = [2, 3, 3]
const latent = (first: number) => Float32Array.from({ length: 18 }, (_, i) => first + i / 7)
const parameters = {
  preset: 'reference',
  space: 'latent',
  steps: 64,
  learningRate: 0.05,
  lambdaP: 0.15,
  lambdaZ: 0.05,
  lambdaS: 0.4,
  lambdaI: 0.2,
  networks: ['rn', 'vit'],
  views: 3,
  seed: 7,
} as const
const saved: SavedEdit = {
  packName: 'tiny',
  state: {
    pack: 'ab'.repeat(32),
    parameters,
    source: 'a "café"\n\u0000 𝒙',
    target: '',
    picture: { height: 2, width: 4, data: Uint8Array.from({ length: 24 }, (_, i) => 10 * i) },
    step: 40,
    z: latent(-1e30),
    shape,
  },
  snapshots: new Map([
    [32, latent(5)],
    [0, latent(-0)],
    [16, latent(1e-40)],
  ]),
}

async function withPath(t: ExecutionContext, use: (path: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'flexit-edit-file-'))
  t.teardown(() => rm(folder, { recursive: true }))
  await use(join(folder, 'edit.safetensors'))
}

test('a saved edit comes back to the bit', async (t) => {
  await withPath(t, async (path) => {
    await writeEditFile(path, saved, shape)
    const { state, packName, snapshots } = readEditFile(path)
    t.is(packName, 'tiny')
    t.deepEqual(state, saved.state)
    t.deepEqual([...snapshots.keys()], [0, 16, 32])
    for (const [step, z] of saved.snapshots) t.deepEqual(snapshots.get(step), z)
  })
})

test('an edit before its first step has no latent', async (t) => {
  await withPath(t, async (path) => {
    const fresh = { ...saved, state: { ...saved.state, step: 0, z: undefined, shape: undefined }, snapshots: new Map() }
    await writeEditFile(path, fresh, shape)
    t.deepEqual(readEditFile(path).state, fresh.state)
  })
})

test('the same edit gives the same bytes', async (t) => {
  await withPath(t, async (path) => {
    await writeEditFile(path, saved, shape)
    const first = await readFile(path)
    await writeEditFile(path, { ...saved, snapshots: new Map([...saved.snapshots].reverse()) }, shape)
    t.deepEqual(await readFile(path), first)
  })
})

test('a bit that is not as it was written is seen, wherever it is', async (t) => {
  await withPath(t, async (path) => {
    await writeEditFile(path, saved, shape)
    const whole = await readFile(path)
    const { picture, z } = readEditFile(path).state
    const places = [z!, picture.data].map(({ buffer, byteOffset, byteLength }) =>
      whole.indexOf(Buffer.from(buffer, byteOffset, byteLength)),
    )
    places.push(whole.length - 1, whole.indexOf('seed\\":7') + 'seed\\":'.length)
    for (const at of places) {
      t.true(at > 0)
      await writeFile(
        path,
        whole.map((byte, i) => (i === at ? byte ^ 1 : byte)),
      )
      const error = t.throws(() => readEditFile(path), { instanceOf: FlexitError, code: 'DATA_LOSS' }, `byte ${at}`)
      t.regex(error.message, /it was altered/)
    }
  })
})

/** What a file is made of, to be changed: without a sha256, as earlier versions wrote it. */
function parts(): { metadata: Record<string, string>; tensors: Map<string, TensorData> } {
  const { pack, source, target, step, picture, z } = saved.state
  const state = JSON.stringify({ pack, packName: 'tiny', parameters, source, target, step })
  const f32 = (name: string, data: Float32Array): TensorData => ({ name, dtype: 'F32', shape, data })
  const tensors: TensorData[] = [
    f32('z', z!),
    f32('z.16', latent(1)),
    { name: 'picture', dtype: 'U8', shape: [2, 4, 3], data: picture.data },
  ]
  return { metadata: { format: 'flexit-edit/1', state }, tensors: new Map(tensors.map((t) => [t.name, t])) }
}

function withState(change: object): (all: ReturnType<typeof parts>) => void {
  return ({ metadata }) => {
    const state = JSON.parse(metadata['state']!) as object
    metadata['state'] = JSON.stringify({ ...state, ...change })
  }
}

function withTensor(name: string, change: Partial<TensorData>): (all: ReturnType<typeof parts>) => void {
  return ({ tensors }) => {
    tensors.set(name, { name, dtype: 'F32', shape, data: latent(0), ...tensors.get(name), ...change })
  }
}

const wrong: readonly (readonly [title: string, change: (all: ReturnType<typeof parts>) => void, message: RegExp])[] = [
  ['no format', ({ metadata }) => delete metadata['format'], /not a saved edit of the format flexit-edit\/1/],
  ['a later format', ({ metadata }) => (metadata['format'] = 'flexit-edit/2'), /not a saved edit/],
  ['no state', ({ metadata }) => delete metadata['state'], /its state is not JSON/],
  ['a state that is no JSON', ({ metadata }) => (metadata['state'] = '{'), /its state is not JSON/],
  ['a state that is a list', ({ metadata }) => (metadata['state'] = '[]'), /the top level is wrong/],
  ['a pack that is no digest', withState({ pack: '../..' }), /in its state, pack is wrong: a sha256/],
  ['a pack name that is a path', withState({ packName: '../../etc' }), /in its state, packName is wrong/],
  ['a step before the first', withState({ step: -1 }), /in its state, step is wrong/],
  ['half a step', withState({ step: 1.5 }), /in its state, step is wrong/],
  ['a text that is a number', withState({ source: 5 }), /in its state, source is wrong/],
  ['a field too many', withState({ run: 'rm' }), /the top level is wrong: .*run/],
  ['a parameter out of range', withState({ parameters: { ...parameters, views: 1e9 } }), /parameters\.views is wrong/],
  ['a parameter missing', withState({ parameters: { ...parameters, seed: undefined } }), /parameters\.seed is wrong/],
  ['no picture', ({ tensors }) => tensors.delete('picture'), /it has no tensor picture/],
  ['a grey picture', withTensor('picture', { shape: [2, 12] }), /picture is U8 \[2, 12\], expected U8 \[…, …, 3\]/],
  ['no latent', ({ tensors }) => tensors.delete('z'), /it has no tensor z, though 40 steps were taken/],
  ['a latent of bytes', withTensor('z', { dtype: 'U8', shape: [72] }), /z is U8 \[72\], expected F32/],
  [
    'a latent with one NaN',
    withTensor('z', { data: latent(0).with(4, NaN) }),
    /its tensor z has values that are not finite/,
  ],
  [
    'a snapshot with infinity',
    withTensor('z.16', { data: latent(0).with(17, Infinity) }),
    /z\.16 has values that are not finite/,
  ],
  ['a snapshot of another shape', withTensor('z.16', { shape: [18] }), /z\.16 is F32 \[18\], expected F32 \[2, 3, 3\]/],
  ['a snapshot of a later step', withTensor('z.41', {}), /a tensor "z\.41" that no saved edit has/],
  ['a snapshot without number', withTensor('z.1e1', {}), /a tensor "z\.1e1" that no saved edit has/],
  ['a tensor of no edit', withTensor('weights', {}), /a tensor "weights" that no saved edit has/],
]

for (const [title, change, message] of wrong) {
  test(`refused: ${title}`, async (t) => {
    await withPath(t, async (path) => {
      const all = parts()
      await writeFile(path, Buffer.concat(serialiseSafetensors([...all.tensors.values()], all.metadata)))
      t.notThrows(() => readEditFile(path))
      change(all)
      await writeFile(path, Buffer.concat(serialiseSafetensors([...all.tensors.values()], all.metadata)))
      const error = t.throws(() => readEditFile(path), { instanceOf: FlexitError, message })
      t.is(error.code, 'DATA_LOSS')
      t.true(error.message.includes(path))
      t.regex(error.cure ?? '', /flexit edit --latents/)
    })
  })
}

test('a file cut anywhere, a hostile header, or no file is refused', async (t) => {
  await withPath(t, async (path) => {
    await writeEditFile(path, saved, shape)
    const whole = await readFile(path)
    for (const length of [0, 7, 8, 100, whole.length / 2, whole.length - 1]) {
      await writeFile(path, whole.subarray(0, length))
      const error = t.throws(
        () => readEditFile(path),
        { instanceOf: FlexitError, code: 'DATA_LOSS' },
        `${length} bytes`,
      )
      t.regex(error.cure ?? '', /flexit edit --latents/)
    }
    const header = Buffer.alloc(64, ' ')
    header.writeBigUInt64LE(2n ** 63n)
    await writeFile(path, header)
    t.throws(() => readEditFile(path), { instanceOf: FlexitError, code: 'DATA_LOSS' })
    await rm(path)
    t.throws(() => readEditFile(path), { instanceOf: FlexitError, code: 'NOT_FOUND' })
  })
})
