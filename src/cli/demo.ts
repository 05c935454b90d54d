// `flexit demo`: an edit that needs nothing but the package: its own picture, with the networks that come with it.
// The picture is Noto Emoji's red apple (Google, Apache-2.0).

import { join, relative } from 'node:path'
import { Command } from 'commander'
import { shippedFolder } from '../engine/pack/locations.js'
import { interruptible } from './interruption.js'
import { beginEdit, engineMaker } from './maker.js'
import { withEngine } from './open-engine.js'
import { shellWord } from './parameters.js'
import { createProgress } from './progress.js'
import { runEdit } from './run-edit.js'

const folder = join('flexit-out', 'demo')
const files = {
  picture: join(folder, 'green-apple.png'),
  filmstrip: join(folder, 'filmstrip.png'),
  animation: join(folder, 'animation.webp'),
  latents: join(folder, 'green-apple.safetensors'),
}

export function demoCommand(): Command {
  return new Command('demo')
    .summary('edit a picture that comes with flexit')
    .description(`Turn a red apple into a green one, in ${folder}: seconds on a CPU, nothing is downloaded.`)
    .action(() => interruptible(demo))
}

async function demo(signal: AbortSignal): Promise<void> {
  const progress = createProgress({ quiet: false })
  const tiny = join(shippedFolder, 'tiny')
  await withEngine({ pack: tiny }, progress, async (engine) => {
    const maker = engineMaker(engine)
    const image = join(tiny, 'examples', 'red-apple.png')
    const edit = { source: 'red apple', target: 'green apple', parameters: {} }
    progress.say('"red apple" → "green apple", with the small networks that come with flexit')
    const state = await beginEdit(maker.pack, image, edit)
    const resumeCommand = (path: string) => `npx flexit edit --resume ${path}`
    const saved = { state, snapshots: new Map<number, Float32Array>() }
    await runEdit(
      { maker, saved, files, rescue: files.latents, saveEvery: 8, json: false, progress, resumeCommand },
      signal,
    )
  })
  progress.say(`
Look at ${files.filmstrip}, then try

  npx flexit edit ${nearby(join(tiny, 'examples', 'strawberry.png'))} --source strawberry --target grapes
  npx flexit edit --resume ${files.latents} --steps 160
  npx flexit models list`)
}

/** A path to be typed: from here, where that is shorter. */
function nearby(path: string): string {
  const fromHere = relative('.', path)
  return shellWord(fromHere.startsWith('..') ? path : fromHere)
}
