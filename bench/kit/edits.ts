// The edits that cases ask for: of one graph and many parameters, and the latents that they have when made alone.
// The picture is one of the embedded pack's examples.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { ClientEditRequest } from '../../src/client/client.js'
import type { Edit } from '../../src/engine/edit.js'
import { Engine } from '../../src/engine/engine.js'
import { cacheFolder, shippedFolder } from '../../src/engine/pack/locations.js'
import type { EditParameters } from '../../src/engine/parameters.js'
import { readPicture } from '../../src/engine/picture.js'

const targets = ['tangerine', 'green apple', 'tomato', 'lemon']

export const image = await readFile(join(shippedFolder, 'tiny', 'examples', 'red-apple.png'))

/** What a step costs least with: for cases that are about everything but the step. */
export const cheap: Partial<EditParameters> = { views: 1, networks: ['vit'], lambdaP: 0 }

/** The `i`-th edit. */
export function request(i: number, parameters: Partial<EditParameters>): ClientEditRequest {
  const own = { seed: i, learningRate: 0.03 + 0.001 * (i % 20), lambdaP: 0.1 + 0.01 * (i % 7) }
  return { image, source: 'red apple', target: targets[i % 4]!, parameters: { ...own, ...parameters } }
}

/** Run `work` with an engine of the embedded pack in this process, and close it. */
export async function withEngine<T>(work: (engine: Engine) => Promise<T>): Promise<T> {
  const engine = await Engine.open({ pack: join(shippedFolder, 'tiny'), cacheFolder: cacheFolder() })
  try {
    return await work(engine)
  } finally {
    await engine.close()
  }
}

export async function prepare(engine: Engine, { source, target, parameters }: ClientEditRequest): Promise<Edit> {
  const { size, pack } = engine
  const picture = await readPicture(image, { height: size, width: size, background: pack.manifest.image.background })
  return engine.prepare(engine.begin({ picture, source, target, parameters }))
}

/** How many of `latents` have the bits of the edits made alone, one after the other. */
export async function countSoloBits(
  requests: readonly ClientEditRequest[],
  latents: readonly (Float32Array | undefined)[],
): Promise<number> {
  return withEngine(async (engine) => {
    let equal = 0
    for (const [i, one] of requests.entries()) {
      const edit = await prepare(engine, one)
      while (!edit.done) await engine.step([edit])
      const { z } = edit
      if (latents[i]?.length === z.length && latents[i].every((value, j) => Object.is(value, z[j]))) equal++
    }
    return equal
  })
}
