// The cost of one optimisation step: graph building, loading, memory, seconds, and the share of the machine's own rate.
//   node dist/bench/step-cost.js [PACK FOLDER] [VIEWS×BATCH …]        (default: a synthetic imagenet pack, 1×1 1×2 8×1 8×2)
// Every case runs in a process of its own, so that its memory is its own; the rate is measured in that process too.

import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { makeFolder } from '../src/engine/files.js'
import { Engine } from '../src/engine/engine.js'
import { cacheFolder } from '../src/engine/pack/locations.js'
import { synthesisePack } from '../src/engine/pack/synth.js'
import { specificationOf } from '../src/engine/parameters.js'
import { stepGraph } from '../src/engine/step-graph.js'
import { idealSeconds, measureMachine } from './machine-rate.js'
import { countOperations } from './operation-count.js'

const seconds = (start: number) => (performance.now() - start) / 1000
const giga = (n: number) => (n / 1e9).toFixed(0)

async function measureCase(folder: string, views: number, batch: number): Promise<void> {
  await makeFolder(cacheFolder())
  const cache = await mkdtemp(join(cacheFolder(), 'bench-'))
  const phases: string[] = []
  const starts: number[] = []
  const engine = await Engine.open({
    pack: folder,
    cacheFolder: cache,
    onProgress: (doing) => {
      phases.push(doing)
      starts.push(performance.now())
    },
  })
  try {
    const before = await measureMachine()
    const { size } = engine
    const picture = {
      height: size,
      width: size,
      data: Uint8Array.from({ length: size ** 2 * 3 }, (_, i) => (i * 37) & 255),
    }
    const edits = []
    for (let seed = 0; seed < batch; seed++) {
      const state = engine.begin({ picture, source: 'cat', target: 'dog', parameters: { views, seed } })
      edits.push(await engine.prepare(state))
    }
    const first = performance.now()
    await engine.step(edits)
    const building =
      (starts[phases.indexOf('loading the step graph')]! - starts[phases.indexOf('building the step graph')]!) / 1000
    const loadingAndFirst = seconds(first) - building
    // The second run allocates by the pattern of the first: it is not yet like those that follow.
    await engine.step(edits)
    const times = []
    for (let i = 0; i < 4; i++) {
      const start = performance.now()
      await engine.step(edits)
      times.push(seconds(start))
    }
    times.sort((a, b) => a - b)
    // A shared machine has its moments: its rate is the better of before and after.
    const after = await measureMachine()
    const machine = {
      convolution: Math.max(before.convolution, after.convolution),
      matrixProduct: Math.max(before.matrixProduct, after.matrixProduct),
    }
    const median = (times[1]! + times[2]!) / 2
    const count = countOperations(stepGraph(engine.pack, specificationOf(edits[0]!.parameters)), batch)
    const ratio = idealSeconds(count, machine) / median
    const peak = process.resourceUsage().maxRSS / 2 ** 20
    console.log(
      `views ${views}, batch ${batch}: build ${building.toFixed(1)} s, load and first step ${loadingAndFirst.toFixed(1)} s, ` +
        `peak memory ${peak.toFixed(1)} GiB, step ${median.toFixed(2)} s (best ${times[0]!.toFixed(2)}), ` +
        `${giga(count.convolution + count.matrixProduct)} GFLOP = ${giga((count.convolution + count.matrixProduct) / median)} GFLOP/s; ` +
        `machine: convolution ${giga(machine.convolution)}, product ${giga(machine.matrixProduct)} GFLOP/s; ` +
        `share of the machine's rate ${(100 * ratio).toFixed(0)} %`,
    )
  } finally {
    await engine.close()
    await rm(cache, { recursive: true })
  }
}

const [folder, ...cases] = process.argv.slice(2)
if (folder !== undefined && cases.length === 1) {
  const [views, batch] = cases[0]!.split(/[x×]/).map(Number) as [number, number]
  await measureCase(folder, views, batch)
} else {
  const pack = folder ?? join(cacheFolder(), 'synth-imagenet')
  if (!existsSync(join(pack, 'pack.json'))) {
    console.log(`making a pack of random weights in ${pack}`)
    await synthesisePack('imagenet', pack)
  }
  for (const one of cases.length > 0 ? cases : ['1×1', '1×2', '8×1', '8×2']) {
    execFileSync(process.execPath, [fileURLToPath(import.meta.url), pack, one], { stdio: 'inherit' })
  }
}
