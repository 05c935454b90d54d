// How far from the input the judge wants a picture to be, before it takes it for the target: inputs that are crossfaded
// with the real drawings that RETRIEVE answers with. What edits cost in LPIPS is to be read beside it.
//   node dist/bench/crossfade.js [dev|test]        (default: dev; the embedded pack's queries and judge, one minute)

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { cacheFolder, requirePack } from '../src/engine/pack/locations.js'
import { Pack } from '../src/engine/pack/pack.js'
import type { Picture } from '../src/engine/picture.js'
import { parseDevice } from '../src/engine/runtime.js'
import { Judge } from '../src/evaluation/judge.js'
import { type Verdict, measure } from '../src/evaluation/metrics.js'
import { judgePictures } from '../src/evaluation/opinions.js'
import { type Half, readQueries } from '../src/evaluation/queries.js'
import { retrieve } from '../src/evaluation/references.js'
import { setScene } from '../src/evaluation/scene.js'
import { Store } from '../src/evaluation/store.js'

const shares = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]

function crossfade(from: Picture, to: Picture, share: number): Picture {
  return { ...from, data: from.data.map((value, i) => Math.round((1 - share) * value + share * to.data[i]!)) }
}

async function run(half: Half, store: Store): Promise<void> {
  const { folder } = await requirePack('tiny')
  const { manifest } = await Pack.open(folder)
  const beside = join(folder, 'evaluation')
  const judge = await Judge.open(join(beside, 'judge'), {
    device: parseDevice('cpu'),
    threads: 0,
    cacheFolder: cacheFolder(),
  })
  try {
    const set = await readQueries(join(beside, `queries-${half}.csv`), { labels: judge.labels, half })
    const scene = await setScene({
      set,
      judge,
      store,
      images: join(beside, 'images'),
      references: join(beside, 'references.csv'),
      size: manifest.image.size,
      background: manifest.image.background,
      signal: new AbortController().signal,
      onStage: () => undefined,
    })
    const classes = [...scene.classes.keys()]
    const verdicts: Verdict[][] = shares.map(() => [])
    for (const [i, query] of scene.queries.entries()) {
      const input = scene.inputs[i]!
      const real = await scene.read(retrieve(scene.references, query, 0))
      const pictures = shares.map((share) => crossfade(input, real, share))
      const judged = await judgePictures(scene, input, pictures, classes)
      for (const [row, verdict] of judged.entries()) verdicts[row]!.push(verdict)
    }
    console.log(`${scene.queries.length} queries\n`)
    console.log('share of the real drawing   LPIPS   accuracy %   CSFID')
    for (const [row, share] of shares.entries()) {
      const { lpips, accuracy, csfid } = measure(verdicts[row]!, scene.targets, scene.statistics, scene.inputs.keys())
      const cells = [lpips, accuracy, csfid].map((value) => value.toFixed(1))
      console.log(
        `${share.toFixed(1).padEnd(28)}${cells[0]!.padStart(5)}${cells[1]!.padStart(13)}${cells[2]!.padStart(8)}`,
      )
    }
  } finally {
    await judge.close()
  }
}

const half = process.argv[2] ?? 'dev'
if (half !== 'dev' && half !== 'test') throw new Error(`"${half}" is no half of the queries: dev or test`)
const folder = await mkdtemp(join(tmpdir(), 'flexit-crossfade-'))
try {
  await run(half, new Store(folder))
} finally {
  await rm(folder, { recursive: true, force: true })
}
