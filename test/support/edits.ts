// Edits with the embedded pack, for tests of the engine: requests that differ in everything that edits of one
// batch may differ in, and what their steps give.

import { fileURLToPath } from 'node:url'
import type { Edit, StepReport } from '../../src/engine/edit.js'
import type { EditRequest, Engine } from '../../src/engine/engine.js'
import type { EditParameters } from '../../src/engine/parameters.js'
import type { Picture } from '../../src/engine/picture.js'
import { Random } from './random.js'

/** Of the embedded pack; this file is three folders deep in the build. */
export const tinyPack = fileURLToPath(new URL('../../../models/tiny', import.meta.url))

/** A few soft discs of random colours on a plain ground. */
export function randomPicture(size: number, seed: number): Picture {
  const random = new Random(seed)
  const discs = Array.from({ length: 4 }, () => Array.from({ length: 6 }, () => random.uniform()))
  const data = new Uint8Array(size * size * 3)
  for (let i = 0; i < data.length; i++) {
    const [x, y, channel] = [(Math.floor(i / 3) % size) / size, Math.floor(i / 3 / size) / size, i % 3]
    let value = 0.8
    for (const [cx, cy, radius, ...colour] of discs) {
      const inside = 1 / (1 + Math.exp(40 * (Math.hypot(x - cx!, y - cy!) - 0.1 - 0.3 * radius!)))
      value += inside * (colour[channel]! - value)
    }
    data[i] = Math.round(255 * value)
  }
  return { height: size, width: size, data }
}

const texts = [
  ['cat', 'dog'],
  ['a red apple', 'a green apple'],
  ['rose', 'sunflower'],
  ['taxi', 'a blue car, seen from the side'],
  ['tiger face', 'lion face'],
] as const

/** Requests with the same specification and nothing else in common. */
export function requests(size: number, count: number, parameters: Partial<EditParameters>): EditRequest[] {
  return Array.from({ length: count }, (_, i) => {
    const [source, target] = texts[i % texts.length]!
    const weight = (value: number) => (value === 0 ? 0 : value * (1 + i / 2))
    return {
      picture: randomPicture(size, i + 1),
      source,
      target,
      parameters: {
        ...parameters,
        learningRate: 0.03 + 0.02 * i,
        lambdaP: weight(parameters.lambdaP ?? 0.15),
        lambdaZ: weight(parameters.lambdaZ ?? 0.05),
        lambdaI: 0.1 * i,
        lambdaS: 0.5 - 0.1 * i,
        seed: i * 2 ** 40 + i,
        steps: 20,
      },
    }
  })
}

/** Everything that a step gives, to be compared to the bit. */
export interface Trace {
  readonly z: Buffer
  readonly report: StepReport
}

export const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array): Buffer =>
  Buffer.from(buffer, byteOffset, byteLength)

/** Take edits `steps` steps further, in one batch; for each edit, what each step gave. */
export async function advance(engine: Engine, edits: readonly Edit[], steps: number): Promise<Trace[][]> {
  const traces: Trace[][] = edits.map(() => [])
  for (let step = 0; step < steps; step++) {
    const reports = await engine.step(edits)
    reports.forEach((report, i) => traces[i]!.push({ z: bytesOf(edits[i]!.z), report }))
  }
  return traces
}
