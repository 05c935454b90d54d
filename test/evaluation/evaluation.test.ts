// Whole evaluations in a small world of colours (support.ts): rows, resuming, stopping, sweeps, what is written.
// No network of a pack is needed: the editor mixes colours.

import { readFile, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import sharp from 'sharp'
import { writePicture } from '../../src/engine/encode.js'
import { FlexitError } from '../../src/engine/errors.js'
import { serialiseSafetensors } from '../../src/engine/pack/safetensors.js'
import { makeEdits } from '../../src/evaluation/edits.js'
import { jobKey } from '../../src/evaluation/editor.js'
import { type Evaluation, evaluate } from '../../src/evaluation/evaluation.js'
import { galleryPage, plotClusters } from '../../src/evaluation/gallery.js'
import {
  clustersCsv,
  formatClusters,
  formatNumber,
  formatTable,
  tableCsv,
  verdictsCsv,
} from '../../src/evaluation/report.js'
import { type Scene, jobsOf } from '../../src/evaluation/scene.js'
import { sheet } from '../../src/evaluation/sheet.js'
import { Store } from '../../src/evaluation/store.js'
import { figurePlan, gridPlan, plotSweep, sweep } from '../../src/evaluation/sweep.js'
import { withFolder } from '../support/graphs.js'
import {
  type Colour,
  MixingEditor,
  colours,
  judgeManifest,
  makeWorld,
  parameters,
  plain,
  withScene,
} from './support.js'

const resampling = { samples: 50, seed: 0 }
const options = { parameters, at: [2, 4], resampling, onEdits: () => undefined }

/** An evaluation in a new world. */
async function withEvaluation(
  use: (evaluation: Evaluation, scene: Scene, folder: string) => Promise<void> | void,
  editor = new MixingEditor(),
): Promise<void> {
  await withFolder(async (folder) => {
    await makeWorld(folder)
    await withScene(folder, async (scene) => {
      await use(await evaluate(scene, { ...options, editor }), scene, folder)
    })
  })
}

const near = (actual: number, expected: number) => Math.abs(actual - expected) < 0.02 * Math.max(1, Math.abs(expected))

test('Table 1: the baselines and the edits on their way', async (t) => {
  await withEvaluation(({ rows, clusters, failed }) => {
    t.deepEqual(
      rows.map(({ name, steps }) => [name, steps]),
      [
        ['COPY', undefined],
        ['ENCODE', undefined],
        ['RETRIEVE', undefined],
        ['FlexIT, 2 steps', 2],
        ['FlexIT, 4 steps', 4],
      ],
    )
    const column = (name: 'lpips' | 'accuracy' | 'csfid' | 'sfid') => rows.map(({ estimates }) => estimates[name].value)
    // Inputs have the level 0.8, encoded 0.72; the target's colour is 1. Half way: 0.36 of the source, 0.5 of the target.
    const lpips = [0, 0.08 ** 2, 0.8 ** 2 + 1, 0.44 ** 2 + 0.5 ** 2, 0.8 ** 2 + 1].map((sum) => (100 * sum) / 3)
    column('lpips').forEach((value, i) => t.true(near(value, lpips[i]!), `LPIPS ${i}: ${value}, ${lpips[i]!}`))
    t.deepEqual(column('accuracy'), [0, 0, 100, 100, 100])
    // Real pictures of a class but the validation one: mean 0.7, deviation 0.1 · √2 in their channel. RETRIEVE: 1.
    t.true(near(column('csfid')[2]!, 0.3 ** 2 + 0.02))
    // COPY of two sources in another colour: mean 0.4, deviation 0.8 / √2 in each; the target's channel is dark.
    const other = 0.4 ** 2 + 0.32
    t.true(near(column('csfid')[0]!, 0.7 ** 2 + 0.02 + 2 * other))
    t.true(column('sfid')[0]! < 0.05)
    t.is(failed, 0)
    t.is(clusters.length, 1)
    t.like(clusters[0], { cluster: 'colours', queries: 6 })
    t.is(clusters[0]!.edit.csfid, rows[4]!.estimates.csfid.value)
  })
})

test('the same evaluation again makes no edit, and gives the same bytes', async (t) => {
  await withEvaluation(async (first, scene, folder) => {
    const editor = new MixingEditor()
    const again = await evaluate(scene, { ...options, editor })
    t.deepEqual(editor.made, [])
    t.is(again.digest, first.digest)
    t.is(tableCsv(again), tableCsv(first))

    // Without the opinions, and with a damaged picture, they are made again.
    const edits = join(folder, 'store', 'edits')
    const [damaged] = await readdir(edits)
    const path = join(edits, damaged!, '2.png')
    const bytes = await readFile(path)
    await writeFile(path, bytes.subarray(0, bytes.length - 20))
    const opinions = join(folder, 'store', 'opinions')
    for (const name of await readdir(opinions)) await writeFile(join(opinions, name), 'damaged')
    const mended = await evaluate(scene, { ...options, editor })
    t.is(editor.made.length, 1)
    t.is(mended.digest, first.digest)
  })
})

test('other numbers of steps go on from what is there, and give the same pictures as at once', async (t) => {
  await withEvaluation(async (first, scene, folder) => {
    const editor = new MixingEditor()
    const fewer = await evaluate(scene, { ...options, editor, at: [2] })
    t.is(editor.steps, 0)
    t.deepEqual((await fewer.pictures(0)).at(-1), (await first.pictures(0)).at(-2))

    const more = await evaluate(scene, { ...options, editor, at: [2, 4, 6] })
    t.is(editor.steps, 6 * 2)
    await withScene(
      folder,
      async (fresh) => {
        const atOnce = await evaluate(fresh, { ...options, editor, at: [2, 4, 6] })
        t.is(editor.steps, 6 * (2 + 6))
        t.is(atOnce.digest, more.digest)
      },
      { store: 'another' },
    )

    // A latent that is damaged is none.
    const edits = join(folder, 'store', 'edits')
    for (const edit of await readdir(edits)) {
      for (const step of [4, 6]) await writeFile(join(edits, edit, `${step}.safetensors`), 'damaged')
    }
    editor.steps = 0
    const anew = await evaluate(scene, { ...options, editor, at: [8] })
    t.is(editor.steps, 6 * 8)
    t.is(anew.rows.length, 4)
  })
})

test('what the store holds is taken without a sum, but not where it is another than its sum', (t) =>
  withFolder(async (folder) => {
    const store = new Store(folder)
    const [z, sum] = [Float32Array.of(1, 2, 3), Float64Array.of(4, 5)]
    await store.writeLatent('key', { step: 2, z })
    await store.writeArrays('key', { sum })
    t.deepEqual(await store.readLatent('key', 9), { step: 2, z })
    t.deepEqual(await store.readArrays('key', ['sum']), { sum })

    const files = [join(folder, 'edits', 'key', '2.safetensors'), join(folder, 'opinions', 'key.safetensors')]
    for (const path of files) {
      const bytes = await readFile(path)
      bytes[bytes.length - 3]! ^= 1
      await writeFile(path, bytes)
    }
    t.is(await store.readLatent('key', 9), undefined)
    t.is(await store.readArrays('key', ['sum']), undefined)

    const tensors = [
      { name: 'z', dtype: 'F32', shape: [3], data: z },
      { name: 'sum', dtype: 'F64', shape: [2], data: sum },
    ] as const
    for (const [i, path] of files.entries()) await writeFile(path, Buffer.concat(serialiseSafetensors([tensors[i]!])))
    t.deepEqual(await store.readLatent('key', 9), { step: 2, z })
    t.deepEqual(await store.readArrays('key', ['sum']), { sum })
  }))

test('what shapes an edit is in its key', (t) => {
  const editor = new MixingEditor()
  const job = { name: 'query 1', picture: plain('red'), source: 'red', target: 'blue', parameters, at: [0, 4] }
  const others = [
    { ...job, picture: plain('red', 254) },
    { ...job, source: 'a red' },
    { ...job, target: 'green' },
    { ...job, parameters: { ...parameters, seed: 8 } },
    { ...job, parameters: { ...parameters, lambdaS: 0 } },
  ]
  const keys = [job, ...others].map((one) => jobKey(editor, one))
  t.is(new Set(keys).size, keys.length)
  t.is(jobKey(editor, { ...job, name: 'query 2', picture: plain('red') }), keys[0]!)
  // More steps are the same edit, gone on with.
  t.is(jobKey(editor, { ...job, parameters: { ...parameters, steps: 9 }, at: [0, 9] }), keys[0]!)
  t.not(jobKey(Object.assign(new MixingEditor(), { identity: ['other'] }), job), keys[0]!)
})

test('each query’s views have a seed of their own', async (t) => {
  await withFolder(async (folder) => {
    await makeWorld(folder)
    const seeds = await withScene(folder, (scene) =>
      Promise.resolve(jobsOf(scene, parameters, [0, 3]).map((job) => [job.parameters.seed, job.parameters.steps])),
    )
    t.deepEqual(seeds, [[7, 3], [8, 3], [9, 3], [10, 3], [11, 3], [12, 3]]) // prettier-ignore
  })
})

test('seeds that are no seeds, and pictures for RETRIEVE that cannot be read, are told of before the edits', async (t) => {
  await withFolder(async (folder) => {
    await makeWorld(folder)
    const editor = new MixingEditor()
    await withScene(folder, async (scene) => {
      const large = { ...parameters, seed: Number.MAX_SAFE_INTEGER - 2 }
      await t.throwsAsync(evaluate(scene, { ...options, editor, parameters: large }), {
        code: 'INVALID_ARGUMENT',
        message: /^seed 9007199254740989 and the number of query 3 add up to more than 2\^53 − 1/,
      })
      await writeFile(join(folder, 'images', 'blue-255.png'), 'no picture')
      await t.throwsAsync(evaluate(scene, { ...options, editor }), { message: /blue-255\.png/ })
    })
    t.deepEqual(editor.made, [])
  })
})

test('a stop keeps the edits that are made, and the next run goes on with the others', async (t) => {
  await withFolder(async (folder) => {
    await makeWorld(folder)
    const controller = new AbortController()
    const editor = new MixingEditor()
    let begun = 0
    editor.before = () => {
      begun++
      if (begun < 4) return
      controller.abort()
      throw new FlexitError({ code: 'CANCELLED', message: 'stopped' })
    }
    const stopped = withScene(folder, (scene) => evaluate(scene, { ...options, editor }), { signal: controller.signal })
    await t.throwsAsync(stopped, { code: 'CANCELLED', message: /^after [23] of 6 edits, which are kept$/ })
    t.true(editor.stopped > 0)
    const made = editor.made.length

    const next = new MixingEditor()
    const told: number[] = []
    const onEdits = ({ edits }: { readonly edits: number }) => told.push(edits)
    await withScene(folder, (scene) => evaluate(scene, { ...options, editor: next, onEdits }))
    t.is(made + next.made.length, 6)
    t.is(told.at(-1), 6)
  })
})

test('an error of the editor ends the evaluation', async (t) => {
  await withFolder(async (folder) => {
    await makeWorld(folder)
    const editor = new MixingEditor()
    editor.before = ({ target }) => {
      if (target === 'blue') throw new FlexitError({ code: 'UNAVAILABLE', message: 'gone' })
    }
    const failing = withScene(folder, (scene) => evaluate(scene, { ...options, editor }))
    await t.throwsAsync(failing, { code: 'UNAVAILABLE', message: 'gone' })
    t.is(editor.stopped, 1)
  })
})

test('equal edits are made once', async (t) => {
  await withFolder(async (folder) => {
    await makeWorld(folder)
    const editor = new MixingEditor()
    await withScene(folder, async (scene) => {
      const [job] = jobsOf(scene, parameters, [0, 4])
      const { store, signal } = scene
      const edits = await makeEdits([job!, job!], { editor, store, signal, onProgress: () => undefined })
      t.deepEqual(edits[0], edits[1])
    })
    t.is(editor.made.length, 1)
  })
})

test('of an edit that ended early the last picture counts', async (t) => {
  const editor = new MixingEditor()
  editor.missing = 1
  await withEvaluation(async ({ rows, failed, pictures }) => {
    t.is(failed, 6)
    t.deepEqual(rows[4]!.estimates, rows[3]!.estimates)
    const [, , , middle, last] = await pictures(0)
    t.deepEqual(middle, last)
  }, editor)
})

test('in the space of pixels nothing is encoded', async (t) => {
  await withFolder(async (folder) => {
    await makeWorld(folder)
    const pixels = { ...options, parameters: { ...parameters, space: 'pixels' as const }, editor: new MixingEditor() }
    const { rows } = await withScene(folder, (scene) => evaluate(scene, pixels))
    t.deepEqual(
      rows.map(({ name }) => name),
      ['COPY', 'RETRIEVE', 'FlexIT, 2 steps', 'FlexIT, 4 steps'],
    )
  })
})

test('ImageNet’s form of the protocol: ids, folders, networks apart', async (t) => {
  await withFolder(async (folder) => {
    await makeWorld(folder)
    const rows = [',path,source,source_id,target,target_id,is_test']
    const targets = { red: 'green', green: 'blue', blue: 'red' } as const
    for (const [source, target] of Object.entries(targets) as [Colour, Colour][]) {
      const [from, to] = [colours[source], colours[target]]
      rows.push(`${10 + from},n${source}/1.png,${source},${from},${target},${to},True`)
      for (const place of ['images', 'train']) {
        await writePicture(join(folder, place, `n${source}`, '1.png'), plain(source))
        await writePicture(join(folder, place, `n${source}`, '2.png'), plain(source, 204))
      }
    }
    await writeFile(join(folder, 'imagenet.csv'), rows.join('\n'))
    const editor = new MixingEditor()
    const world = { queries: 'imagenet.csv', references: 'train' }
    const { rows: table } = await withScene(folder, (scene) => evaluate(scene, { ...options, editor }), world)
    t.deepEqual(
      table.map(({ estimates }) => estimates.accuracy.value),
      [0, 0, 100, 100, 100],
    )
    t.deepEqual(editor.made.sort(), ['blue', 'green', 'red'])
  })
})

test('a class that is no output of the judge is told of', async (t) => {
  await withFolder(async (folder) => {
    await makeWorld(folder)
    const { classifier } = judgeManifest() as Record<string, object>
    const manifest = judgeManifest({ classifier: { ...classifier, labels: undefined } })
    await writeFile(join(folder, 'judge', 'judge.json'), JSON.stringify(manifest))
    await writeFile(join(folder, 'ids.csv'), 'path,source,source_id,target,target_id\nred-204.png,red,0,mauve,7')
    await writeFile(join(folder, 'mauve.csv'), 'path,class_id\nblue-204.png,7')
    const editor = new MixingEditor()
    editor.edit = ({ picture }, { wanted }) =>
      Promise.resolve({ pictures: new Map(wanted.map((step) => [step, picture])), latent: undefined })
    const world = { queries: 'ids.csv', references: 'mauve.csv' }
    await t.throwsAsync(
      withScene(folder, (scene) => evaluate(scene, { ...options, editor }), world),
      { code: 'INVALID_ARGUMENT', message: /the judge has 4 outputs, and a class of the queries is 7/ },
    )
  })
})

test('tables, plots, the page and the sheet', async (t) => {
  await withEvaluation(async (evaluation, { queries, classes }) => {
    const table = formatTable(evaluation.rows)
    t.regex(table, /LPIPS ↓ +Acc\. % ↑ +CSFID ↓ +SFID ↓/)
    t.regex(table, /^FlexIT, 4 steps .* 100 \[100, 100\]/m)
    t.regex(formatClusters(evaluation.clusters), /^colours +6 .* 0 \/ 0 \/ 100$/m)
    t.true(tableCsv(evaluation).startsWith('method,steps,lpips,lpipsLow,lpipsHigh,'))
    t.is(clustersCsv(evaluation).trim().split('\n').length, 2)
    const lines = verdictsCsv(evaluation, queries, classes).trim().split('\n')
    t.is(lines.length, 1 + 6 * 5)
    t.true(lines.some((line) => /^0,green-204\.png,green,red,colours,"FlexIT, 4 steps",0\.\d+,red,1$/.test(line)))

    const chosen = { queries, classes, count: 4, seed: 0 }
    const page = await galleryPage(evaluation, { ...chosen, title: 'a <title> & more' })
    t.regex(page, /<h1>a &lt;title&gt; &amp; more<\/h1>/)
    t.regex(page, /The judge names the target: 4 of 6/)
    t.regex(page, /The judge names something else: 0 of 0/)
    t.is(page.match(/data:image\/webp;base64,/g)!.length, 4 * 5)
    t.is(page.match(/<small>query \d, \w+-204\.png<\/small>/g)!.length, 4)
    t.is(page.match(/alt="(?:COPY|ENCODE|RETRIEVE|FlexIT, \d steps): \w+ → \w+"/g)!.length, 4 * 5)
    t.deepEqual([page.match(/class="yes">✓ /g)!.length, page.match(/class="no">✗ /g)!.length], [4 * 3, 4 * 2])
    t.true(page.includes('<title>CSFID and failures by cluster</title>'))
    t.notRegex(page, /https?:(?!\/\/www\.w3\.org)/)
    t.is(await galleryPage(evaluation, { ...chosen, title: 'a <title> & more' }), page)

    const picture = sharp(await sheet(evaluation, { queries, count: 4, seed: 0 }))
    const { width, height } = await picture.metadata()
    t.deepEqual({ width, height }, { width: 8 + 4 * (256 + 8 + 8), height: 8 + 128 + 36 + 8 + 8 })
    // The letters are the only black.
    t.is((await picture.stats()).channels[0]!.min, 0)
    t.true(plotClusters(evaluation).includes('>colours</text>'))
  })
})

test('names from files do not steer a terminal', (t) => {
  const same = { lpips: 0, accuracy: 0, csfid: 0, sfid: 0, csfidMean: 0, sfidMean: 0 }
  const cluster = { cluster: '\x1b[2Jpets\x07\n', queries: 1, retrieve: same, edit: same, copy: same }
  const [, line, ...rest] = formatClusters([cluster]).split('\n')
  t.true(line!.startsWith('\uFFFD[2Jpets\uFFFD\uFFFD '), line)
  t.deepEqual(rest, [''])
})

test('numbers keep the digits that count', (t) => {
  const shown = [0, 0.00123, 0.0567, 0.5, 1.234, 12.34, 99.97, 1234.5, -3.14159, NaN].map(formatNumber)
  t.deepEqual(shown, ['0', '1.2e-3', '0.057', '0.50', '1.23', '12.3', '100', '1235', '-3.14', '–'])
})

test('a grid is all combinations', (t) => {
  const { settings, plot } = gridPlan([
    { parameter: 'learningRate', values: [0.02, 0.05] },
    { parameter: 'networks', values: [['rn'], ['rn', 'vit']] },
  ])
  t.is(plot, 'curves')
  t.deepEqual(
    settings.map(({ name }) => name),
    [
      'learningRate=0.02 networks=rn',
      'learningRate=0.02 networks=rn+vit',
      'learningRate=0.05 networks=rn',
      'learningRate=0.05 networks=rn+vit',
    ],
  )
  t.deepEqual(settings[3]!.parameters, { learningRate: 0.05, networks: ['rn', 'vit'] })
})

test('the settings of the paper’s figures', (t) => {
  const plan = (figure: 7 | 9 | 10 | 11) => figurePlan(figure, { ...parameters, networks: ['a', 'b'] }, ['a', 'b', 'c'])
  t.deepEqual(
    plan(7).settings.map((setting) => setting.parameters),
    [
      { lambdaP: 0, lambdaZ: 0, lambdaI: 0 },
      { lambdaP: 0.15, lambdaZ: 0, lambdaI: 0 },
      { lambdaP: 0, lambdaZ: 0.05, lambdaI: 0 },
      { lambdaP: 0, lambdaZ: 0, lambdaI: 0.2 },
      {},
    ],
  )
  const views = plan(9)
  t.deepEqual(
    views.lines.map(({ name }) => name),
    ['a', 'b', 'c', 'a+b', 'a+b+c'],
  )
  t.deepEqual(views.settings[views.lines[3]!.settings[2]!]!.parameters, { networks: ['a', 'b'], views: 8 })
  t.deepEqual(
    plan(10).settings.map((setting) => setting.parameters.space),
    ['latent', 'pixels'],
  )
  const weights = plan(11)
  t.is(weights.settings.length, 1 + 4 * 4)
  const line = weights.lines[0]!.settings.map((i) => weights.settings[i]!.parameters.lambdaP ?? 'as it is')
  t.deepEqual(line, [0, 0.075, 'as it is', 0.3, 0.6])
  t.throws(() => figurePlan(11, { ...parameters, lambdaZ: 0 }, ['a']), { message: /lambdaZ is 0/ })
})

test('a sweep measures every setting after every step, and compares each with the first', async (t) => {
  await withFolder(async (folder) => {
    await makeWorld(folder)
    const plan = gridPlan([{ parameter: 'seed', values: [1, 2, 1] }])
    const all = plan.settings.map((setting) => ({ ...parameters, ...setting.parameters }))
    const editor = new MixingEditor()
    const results = await withScene(folder, (scene) => sweep(scene, { ...options, editor, plan, parameters: all }))
    // Seeds are the parameters' plus the query's id: 1 and 2 overlap, but not for the same query.
    t.is(editor.made.length, 12)
    t.deepEqual(
      results.map(({ curve }) => curve.map(({ steps }) => steps)),
      [
        [0, 2, 4],
        [0, 2, 4],
        [0, 2, 4],
      ],
    )
    t.is(results[0]!.curve[2]!.estimates.accuracy.value, 100)
    t.deepEqual(results[2]!.difference.csfid, { value: 0, interval: { low: 0, high: 0 } })

    const svg = plotSweep(plan, results)
    t.regex(svg, /^<svg [^>]+>\n/)
    t.is(svg.match(/<path d="M[^"]+" fill="none" stroke="#(0072b2|d55e00)"/g)!.length, 6)
    for (const label of ['seed=1', 'CSFID', 'accuracy in %', 'LPIPS']) t.true(svg.includes(`>${label}</text>`), label)
    t.notRegex(svg, /NaN|Infinity/)
  })
})

test('plots of lines have the axis and the dot of their plan', async (t) => {
  await withFolder(async (folder) => {
    await makeWorld(folder)
    const plan = figurePlan(9, parameters, ['vit'])
    const all = plan.settings.map((setting) => ({ ...parameters, ...setting.parameters }))
    const editor = new MixingEditor()
    const results = await withScene(folder, (scene) => sweep(scene, { ...options, editor, plan, parameters: all }))
    const svg = plotSweep(plan, results)
    for (const label of ['0', '1', '8', '32', 'views per network and step, d']) t.true(svg.includes(`>${label}</text>`))
    t.is(plotSweep({ ...plan, dot: 0 }, results).match(/r="6"/g)!.length, 2)
    t.is(editor.made.length, 4 * 6)
  })
})
