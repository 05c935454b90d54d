// A guard for the whole engine: edits of the embedded pack reach what they are asked for, by their own measure and in the
// eyes of the pack's judge, which no edit optimises. Queries with a clear margin, from the development half.

import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { parse } from 'csv-parse/sync'
import { Engine } from '../../src/engine/engine.js'
import { shippedFolder } from '../../src/engine/pack/locations.js'
import { type Picture, readPicture } from '../../src/engine/picture.js'
import { Judge } from '../../src/evaluation/judge.js'

const queries = [
  ['emojione/rooster.png', 'rooster', 'baby chick'],
  ['emojione/tulip.png', 'tulip', 'sunflower'],
  ['emojione/ambulance.png', 'ambulance', 'taxi'],
  ['emojione/panda.png', 'panda', 'tiger face'],
  ['emojione/evergreen-tree.png', 'evergreen tree', 'maple leaf'],
] as const

const folder = join(shippedFolder, 'tiny')

/** With a folder of its own for graphs; closed with the test. */
async function openEngine(t: ExecutionContext): Promise<{ readonly engine: Engine; readonly cacheFolder: string }> {
  const cacheFolder = await mkdtemp(join(tmpdir(), 'flexit-pack-'))
  const engine = await Engine.open({ pack: folder, cacheFolder })
  t.teardown(async () => {
    await engine.close()
    await rm(cacheFolder, { recursive: true })
  })
  return { engine, cacheFolder }
}

test('edits become what they are asked for, and a judge says so', async (t) => {
  const { engine, cacheFolder } = await openEngine(t)
  const judge = await Judge.open(join(folder, 'evaluation', 'judge'), {
    device: { kind: 'cpu', index: 0 },
    threads: 1,
    cacheFolder,
  })
  t.teardown(() => judge.close())
  const csv = parse(await readFile(join(folder, 'evaluation', 'labels.csv')), { columns: true })
  const classes = (csv as { label: string }[]).map(({ label }) => label)
  const { size } = engine
  const pictures = await Promise.all(
    queries.map(([image]) =>
      readPicture(join(folder, 'evaluation', 'images', image), { height: size, width: size, background: 'white' }),
    ),
  )
  /** The arg max among the classes of the evaluation. */
  const verdict = async (picture: Picture) => {
    const { logits } = await judge.judge(picture, [picture])
    const of = (label: string) => logits[0]![judge.labels!.indexOf(label)]!
    return classes.reduce((best, label) => (of(label) > of(best) ? label : best))
  }

  const edits = []
  for (const [i, [, source, target]] of queries.entries()) {
    edits.push(await engine.prepare(engine.begin({ picture: pictures[i]!, source, target, parameters: { steps: 32 } })))
  }
  const first = await engine.step(edits)
  let last = first
  while (!edits[0]!.done) last = await engine.step(edits)
  for (const [i, [image, , target]] of queries.entries()) {
    t.not(await verdict(pictures[i]!), target, image)
    t.is(await verdict(await engine.picture(edits[i]!)), target, image)
    t.true(last[i]!.similarityTarget > 0.9, `${image}: ${last[i]!.similarityTarget}`)
    t.true(last[i]!.similarityTarget > first[i]!.similarityTarget + 0.1, `${image}: ${first[i]!.similarityTarget}`)
  }
})

test('colours are those that are asked for, also of plain drawings in nobody’s style', async (t) => {
  const { engine } = await openEngine(t)
  const options = { height: engine.size, width: engine.size, background: 'white', svg: true }
  const read = (name: string) => readPicture(join(folder, 'examples', name), options)
  const wanted = [
    ['drawn-by-hand/apple.svg', 'red apple', 'green apple', 'g'],
    ['strawberry.png', 'strawberry', 'blue strawberry', 'b'],
  ] as const
  const edits = []
  for (const [name, source, target] of wanted) {
    const asked = { picture: await read(name), source, target, parameters: { steps: 32 } }
    edits.push(await engine.prepare(engine.begin(asked)))
  }
  while (!edits[0]!.done) await engine.step(edits)
  for (const [i, [name, , target, strongest]] of wanted.entries()) {
    t.is(strongestChannel(await read(name)), 'r', name)
    t.is(strongestChannel(await engine.picture(edits[i]!)), strongest, `${name}: ${target}`)
  }
})

/** Of the middle ninth of a picture. */
function strongestChannel({ height, width, data }: Picture): string {
  const sums = { r: 0, g: 0, b: 0 }
  for (let y = Math.floor(height / 3); y < (2 * height) / 3; y++) {
    for (let x = Math.floor(width / 3); x < (2 * width) / 3; x++) {
      const at = 3 * (y * width + x)
      sums.r += data[at]!
      sums.g += data[at + 1]!
      sums.b += data[at + 2]!
    }
  }
  return Object.entries(sums).sort(([, a], [, b]) => b - a)[0]![0]
}
