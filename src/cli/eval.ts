// `flexit eval`: Table 1 and figure 6 of the paper, for any pack, on any queries.
// The protocol is FlexIT's (CVPR 2022), section 4.1.

import { join } from 'node:path'
import { Command } from 'commander'
import { writeFileAtomic } from '../engine/files.js'
import type { EditParameters } from '../engine/parameters.js'
import { type Evaluation, evaluate } from '../evaluation/evaluation.js'
import { galleryPage, plotClusters } from '../evaluation/gallery.js'
import { clustersCsv, formatClusters, formatTable, tableCsv, verdictsCsv } from '../evaluation/report.js'
import { sheet } from '../evaluation/sheet.js'
import {
  type EvaluationOptions,
  type OpenEvaluation,
  addEvaluationOptions,
  choiceSeed,
  editProgress,
  paper,
  parseSteps,
  sayFailed,
  stepsToJudge,
  usualLast,
  withEvaluation,
} from './evaluation.js'
import { interruptible } from './interruption.js'
import { addParameters, givenParameters, parseCount } from './parameters.js'

interface EvalOptions extends EvaluationOptions {
  readonly at?: number[]
  readonly steps?: number
  readonly gallery: number
  readonly sheet: number
}

/** Nothing was chosen by it. */
const half = 'test'

/** Where the paper looks, as far as the edits go. */
const usualSteps = [16, 32, 64, 160]

const files = `
Writes into --out: table1.txt, table1.csv, clusters.csv and clusters.svg (figure 6), verdicts.csv (a line for each
picture that was judged), results.json, gallery.html (successes and failures), sheet.png (queries by chance). The same
command gives the same bytes. Each query's views have a seed of their own: --seed plus its number. Ctrl-C stops; the
same command goes on.
`

export function evalCommand(): Command {
  const command = new Command('eval')
    .summary("measure a pack on queries: the paper's Table 1")
    .description('Edit all queries, have the results judged, and print Table 1 of the paper.')
  addEvaluationOptions(command, { out: 'flexit-out/eval', samples: 1000, half })
    .optionsGroup('Results:')
    .option('--at <a,b>', 'numbers of steps after which edits are judged (default: 16,32,64,160)', parseSteps)
    .option('--gallery <n>', 'successes, and as many failures, on the page', parseCount, 24)
    .option('--sheet <n>', 'queries on the sheet', parseCount, 48)
  return addParameters(command, usualLast)
    .addHelpText('after', `${files}${paper}`)
    .action((options: EvalOptions) => interruptible((signal) => run(options, signal)))
}

async function run(options: EvalOptions, signal: AbortSignal): Promise<void> {
  const at = stepsToJudge(options, usualSteps)
  const given = { ...givenParameters({ ...options }), steps: at.at(-1)! }
  await withEvaluation(
    options,
    { signal, resultsName: 'results.json', half },
    (pack) => pack.resolve(given),
    async (open, parameters) => {
      const { scene, editor, resampling, progress } = open
      const onEdits = editProgress(progress)
      const evaluation = await evaluate(scene, { editor, parameters, at, resampling, onEdits })
      progress.end()
      await writeResults(options, open, parameters, evaluation)
      const { failed, digest } = evaluation
      process.stdout.write(formatTable(evaluation.rows))
      sayFailed(progress, failed)
      progress.say(`${scene.queries.length} queries, ${scene.classes.size} classes to choose among; hash ${digest}`)
      progress.say(`more in ${options.out}`)
    },
  )
}

async function writeResults(
  { out, gallery, sheet: onSheet }: EvalOptions,
  { pack, set, judge, scene, resampling }: OpenEvaluation,
  parameters: EditParameters,
  evaluation: Evaluation,
): Promise<void> {
  const { queries, classes } = scene
  const { rows, clusters, failed, digest } = evaluation
  const title = `${pack.name}, ${queries.length} queries`
  const results = {
    pack: { name: pack.name, digest: pack.digest },
    judge: judge.digest,
    queries: { count: queries.length, digest: set.digest },
    classes: [...classes.values()],
    parameters,
    resampling,
    rows: rows.map(({ name, steps, estimates }) => ({ name, steps, ...estimates })),
    clusters,
    failed,
    digest,
  }
  const chosen = { queries, classes, seed: choiceSeed }
  const contents: Readonly<Record<string, string | Uint8Array>> = {
    'table1.txt': `${formatTable(rows)}\n${formatClusters(clusters)}`,
    'table1.csv': tableCsv(evaluation),
    'clusters.csv': clustersCsv(evaluation),
    'clusters.svg': plotClusters(evaluation),
    'verdicts.csv': verdictsCsv(evaluation, queries, classes),
    'results.json': `${JSON.stringify(results, undefined, 2)}\n`,
    'gallery.html': await galleryPage(evaluation, { ...chosen, title, count: gallery }),
    'sheet.png': await sheet(evaluation, { ...chosen, count: onSheet }),
  }
  for (const [name, content] of Object.entries(contents)) await writeFileAtomic(join(out, name), content)
}
