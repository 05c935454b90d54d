// How an edit ends, and which frames are kept of it, with a maker whose steps cost nothing.
// The files of edits of real ones: edit.test.ts, remote.test.ts.

import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import sharp from 'sharp'
import { type EditFiles, EditRecord } from '../../src/cli/edit-record.js'
import { type Maker, beginEdit, makerPack } from '../../src/cli/maker.js'
import { createProgress } from '../../src/cli/progress.js'
import { runEdit } from '../../src/cli/run-edit.js'
import type { EditState } from '../../src/engine/edit.js'
import { readEditFile } from '../../src/engine/edit-file.js'
import { FlexitError } from '../../src/engine/errors.js'
import type { Picture } from '../../src/engine/picture.js'
import { latentLength, pack } from '../support-server/start.js'
import { newFolder, strawberry } from './support.js'

const usual = makerPack(pack)
const losses = { total: 0, clip: 0, lpips: undefined, latent: undefined }
const report = { losses, similaritySource: 0, similarityTarget: 0 }

/** A picture of each step, unlike those before and after it. */
function pictureOf(step: number): Picture {
  return { height: 48, width: 48, data: new Uint8Array(48 * 48 * 3).fill(step % 251) }
}

/** Takes every step at once, of a pack whose pictures pass for `size` pixels high. */
function fakeMaker(size = usual.size): Maker {
  return {
    pack: { ...usual, size },
    devices: 1,
    async make(state, { watcher, signal }) {
      let { step, z } = state
      watcher.onStarted()
      for (; step < state.parameters.steps; step++) {
        if (signal.aborted) return { kind: 'cancelled', state: { ...state, step, z } }
        z = new Float32Array(latentLength).fill(step)
        await watcher.onStep({ step, ...report, preview: pictureOf(step) }, { ...state, step: step + 1, z })
      }
      return { kind: 'completed', picture: pictureOf(step), state: { ...state, step, z } }
    },
    close: () => Promise.resolve(),
  }
}

async function begun(steps: number): Promise<EditState> {
  const state = await beginEdit(usual, strawberry, { source: 'a', target: 'b', parameters: { steps } })
  return { ...state, picture: pictureOf(0) }
}

async function runFake(folder: string, files: Partial<EditFiles>, more: { readonly preview?: string } = {}) {
  const all = { picture: join(folder, 'a.png'), ...files }
  const run = { maker: fakeMaker(), saved: { state: await begun(5), snapshots: new Map() }, files: all, ...more }
  const rest = { rescue: join(folder, 'a.safetensors'), saveEvery: 2, json: false }
  const told = { progress: createProgress({ quiet: true }), resumeCommand: (path: string) => `resume ${path}` }
  return runEdit({ ...run, ...rest, ...told }, new AbortController().signal)
}

test('where the way cannot be written, the result is, and the edit is saved', async (t) => {
  const folder = newFolder()
  await mkdir(join(folder, 'strip.png'))
  const error = await t.throwsAsync(runFake(folder, { filmstrip: join(folder, 'strip.png') }), {
    instanceOf: FlexitError,
  })
  const [result, saved] = ['a.png', 'a.safetensors'].map((name) => join(folder, name)) as [string, string]
  t.regex(error.message, /strip\.png: it is a folder; the result is in /)
  t.true(error.message.endsWith(`; the result is in ${result}, the edit in ${saved}`))
  t.is(error.cure, `Name a file.\nThen go on with: resume ${saved}`)
  t.is((await sharp(await readFile(result)).metadata()).width, 48)
  t.is(readEditFile(saved).state.step, 5)
})

test('an edit stops where a file on its way cannot be written, and is saved', async (t) => {
  const folder = newFolder()
  await writeFile(join(folder, 'file'), '')
  const error = await t.throwsAsync(runFake(folder, {}, { preview: join(folder, 'file', 'preview.png') }), {
    instanceOf: FlexitError,
  })
  const saved = join(folder, 'a.safetensors')
  t.true(error.message.endsWith(`a part of the path is not a folder; the edit is saved in ${saved}`), error.message)
  t.is(readEditFile(saved).state.step, 1)
  t.deepEqual((await readdir(folder)).sort(), ['a.safetensors', 'file'])
})

/** Everything that is written of an edit of so many steps, each of them saved. */
async function wayOf(steps: number, files: Omit<EditFiles, 'picture'>, size: number) {
  const folder = newFolder()
  const state = await begun(steps)
  const at = (name: string | undefined) => (name === undefined ? undefined : join(folder, name))
  const paths = { picture: join(folder, 'a.png'), filmstrip: at(files.filmstrip), animation: at(files.animation) }
  const maker = fakeMaker(size)
  const record = new EditRecord({ maker, saved: { state, snapshots: new Map() }, files: paths, saveEvery: 1 })
  await record.begin()
  const watcher = {
    onStarted: () => undefined,
    onNote: () => undefined,
    onStep: record.add.bind(record),
  }
  const ended = await maker.make(state, { watcher, signal: new AbortController().signal })
  if (ended.kind === 'completed') await record.finish(ended.picture, ended.state)
  return { folder, wishes: record.wishes }
}

test('of thousands of saved steps a strip and an animation show as many as can be encoded', async (t) => {
  const film = { filmstrip: 'strip.png', animation: 'moving.webp' }
  // Large pictures leave room for few: 51 on a strip, 17 of each kind in an animation.
  const { folder } = await wayOf(1000, film, 2000)
  const strip = await sharp(join(folder, 'strip.png')).metadata()
  t.deepEqual([strip.width, strip.height], [9 * 200 - 8, 6 * 200 - 8], 'steps 0, 20, … 1000')
  const moving = await sharp(join(folder, 'moving.webp'), { pages: -1 }).metadata()
  t.is(moving.pages, 1 + 16 + 1, 'steps 0, 59, … 944, 1000')
})

test('every saved step that fits is asked for', async (t) => {
  const every = async (steps: number, files: Omit<EditFiles, 'picture'>, size: number, saveEvery: number) => {
    const all = { picture: 'a.png', ...files }
    const saved = { state: await begun(steps), snapshots: new Map<number, Float32Array>() }
    return new EditRecord({ maker: fakeMaker(size), saved, files: all, saveEvery }).wishes.previewEvery
  }
  const [strip, moving] = [{ filmstrip: 'b.png' }, { animation: 'b.webp' }]
  for (const size of [64, 288]) {
    t.is(await every(1000, strip, size, 1), 1)
    t.is(await every(1000, strip, size, 50), 50)
    t.is(await every(160, moving, size, 16), 1)
    t.is(await every(1000, moving, size, 50), 1, 'of 7 and 50')
    t.is(await every(10_000, moving, size, 1), 63)
  }
  t.is(await every(10_000, strip, 64, 1), 3)
  t.is(await every(10_000, strip, 288, 1), 10)
  t.is(await every(10_000, strip, 288, 3), 12)
})
