// A small world to evaluate in: pictures of one colour, a judge that knows colours, an editor that mixes them.
// The judge is made with our own graph builder: logits and features are the means of the channels, LPIPS is the mean
// squared difference.

import { createHash } from 'node:crypto'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writePicture } from '../../src/engine/encode.js'
import { Graph } from '../../src/engine/graph/graph.js'
import { writeOnnx } from '../../src/engine/graph/onnx.js'
import * as op from '../../src/engine/graph/ops.js'
import { N } from '../../src/engine/graph/shape.js'
import type { EditParameters } from '../../src/engine/parameters.js'
import type { Picture } from '../../src/engine/picture.js'
import type { EditJob, EditOrder, Editor, MadeEdit } from '../../src/evaluation/editor.js'
import { Judge } from '../../src/evaluation/judge.js'
import { readQueries } from '../../src/evaluation/queries.js'
import { type Scene, setScene } from '../../src/evaluation/scene.js'
import { Store } from '../../src/evaluation/store.js'

export const size = 4

export const parameters: EditParameters = {
  preset: 'reference',
  space: 'latent',
  steps: 4,
  learningRate: 0.05,
  lambdaP: 0.15,
  lambdaZ: 0.05,
  lambdaS: 0.4,
  lambdaI: 0.2,
  networks: ['vit'],
  views: 1,
  seed: 7,
}

export const colours = { red: 0, green: 1, blue: 2 } as const
export type Colour = keyof typeof colours

/** One channel at `level`, the others dark. */
export function plain(colour: Colour, level = 255): Picture {
  const data = new Uint8Array(3 * size * size)
  for (let i = colours[colour]; i < data.length; i += 3) data[i] = level
  return { height: size, width: size, data }
}

export function judgeManifest(changes: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  const sees = { input: 'image', size, mean: [0, 0, 0], std: [1, 1, 1] }
  return {
    format: 1,
    classifier: {
      ...sees,
      file: 'classifier.onnx',
      logits: 'logits',
      features: 'features',
      labels: ['red', 'green', 'blue', 'grey'],
    },
    lpips: { file: 'lpips.onnx', inputs: ['a', 'b'], size, output: 'distance' },
    ...changes,
  }
}

/** Write a judge's models, and its manifest. */
export async function writeJudge(folder: string, manifest = judgeManifest()): Promise<void> {
  const shape = [N, 3, size, size]
  const classifier = new Graph()
  const channels = op.reshape(op.reduceMean(classifier.input('image', 'float32', shape), [2, 3]), [N, 3])
  classifier.output('features', channels)
  // Grey loses against any colour, and wins in the dark.
  const grey = op.add(op.mul(op.reduceMean(channels, [1]), 0), 0.1)
  classifier.output('logits', op.concat([channels, grey], 1))
  await writeOnnx(classifier, folder, 'classifier')

  const lpips = new Graph()
  const [a, b] = [lpips.input('a', 'float32', shape), lpips.input('b', 'float32', shape)]
  lpips.output('distance', op.mul(op.sumSquares(op.sub(a, b)), 1 / (3 * size * size)))
  await writeOnnx(lpips, folder, 'lpips')
  await writeFile(join(folder, 'judge.json'), JSON.stringify(manifest))
}

export async function sha256Of(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex')
}

export function openJudge(folder: string): Promise<Judge> {
  return Judge.open(folder, { device: { kind: 'cpu', index: 0 }, threads: 1, cacheFolder: join(folder, 'cache') })
}

/** Mixes the input with the target's colour, more at every step; its encoder loses a tenth of the light. */
export class MixingEditor implements Editor {
  readonly identity: readonly string[] = ['mixing']
  readonly parallel = 2
  /** Targets of the edits that were made, in order. */
  readonly made: string[] = []
  stopped = 0
  /** Called before each edit. */
  before: (job: EditJob) => void | Promise<void> = () => undefined
  /** Pictures of an edit that are left out at its end. */
  missing = 0
  /** Steps that were taken. */
  steps = 0

  async edit(job: EditJob, { from, wanted, onStep }: EditOrder): Promise<MadeEdit> {
    const { picture, target, parameters: of } = job
    await this.before(job)
    this.made.push(target)
    const first = from?.step ?? 0
    for (let step = first; step < of.steps; step++) {
      this.steps++
      onStep()
    }
    const aim = plain(target as Colour)
    // What was mixed before counts: from another latent other pictures come.
    const begun = from === undefined ? 0 : from.z[0]!
    const mixed = (step: number) => begun + (step - first) / parameters.steps
    const mix = (step: number) => (value: number, i: number) =>
      Math.round(0.9 * value + mixed(step) * (aim.data[i]! - 0.9 * value))
    const given = wanted.slice(0, wanted.length - this.missing)
    const pictures = new Map(given.map((step) => [step, { ...picture, data: picture.data.map(mix(step)) }]))
    const latent = this.missing > 0 ? undefined : { step: of.steps, z: Float32Array.of(mixed(of.steps)) }
    return { pictures, latent }
  }

  stop(): void {
    this.stopped++
  }
}

/** Levels of the real pictures of each colour. */
export const levels = [255, 204, 153]

/** Two queries for each of three targets, real pictures, a judge; `folder` is theirs alone. */
export async function makeWorld(folder: string): Promise<void> {
  const rows = ['image,source,target,cluster']
  const references = ['image,label,split']
  for (const colour of Object.keys(colours) as Colour[]) {
    for (const [i, level] of levels.entries()) {
      await writePicture(join(folder, 'images', `${colour}-${level}.png`), plain(colour, level))
      references.push(`${colour}-${level}.png,${colour},${i === 0 ? 'validation' : 'train'}`)
    }
    for (const source of Object.keys(colours)) {
      if (source !== colour) rows.push(`${source}-204.png,${source},${colour},colours`)
    }
  }
  await writeFile(join(folder, 'queries.csv'), rows.join('\n'))
  await writeFile(join(folder, 'references.csv'), references.join('\n'))
  await mkdir(join(folder, 'judge'), { recursive: true })
  await writeJudge(join(folder, 'judge'))
}

/** The scene of a world; the judge is closed when `use` is done. */
export async function withScene<T>(
  folder: string,
  use: (scene: Scene) => Promise<T>,
  changes: Partial<Record<'references' | 'queries' | 'store', string>> & { readonly signal?: AbortSignal } = {},
): Promise<T> {
  const judge = await openJudge(join(folder, 'judge'))
  try {
    const set = await readQueries(join(folder, changes.queries ?? 'queries.csv'), { labels: judge.labels })
    const scene = await setScene({
      set,
      judge,
      store: new Store(join(folder, changes.store ?? 'store')),
      images: join(folder, 'images'),
      references: join(folder, changes.references ?? 'references.csv'),
      size,
      background: 'white',
      signal: changes.signal ?? new AbortController().signal,
      onStage: () => undefined,
    })
    return await use(scene)
  } finally {
    await judge.close()
  }
}
