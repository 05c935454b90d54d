// `flexit sweep`: parameters over a grid, and figures 7, 9, 10 and 11 of the paper.
// The protocol is FlexIT's (CVPR 2022), sections 4.1 to 4.4.

import { join } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { invalidArgument } from '../engine/errors.js'
import { writeFileAtomic } from '../engine/files.js'
import type { EditParameters } from '../engine/parameters.js'
import { formatCsv } from '../evaluation/csv.js'
import { estimateColumns, formatTable } from '../evaluation/report.js'
import {
  type Axis,
  type Figure,
  type SettingResult,
  type SweepPlan,
  figurePlan,
  figures,
  gridPlan,
  plotSweep,
  sweep,
} from '../evaluation/sweep.js'
import {
  type EvaluationOptions,
  type OpenEvaluation,
  addEvaluationOptions,
  editProgress,
  paper,
  parseSteps,
  sayFailed,
  stepsToJudge,
  usualLast,
  withEvaluation,
} from './evaluation.js'
import { interruptible } from './interruption.js'
import type { MakerPack } from './maker.js'
import { addParameters, givenParameters, parameterKeys, parseNumberOf, withoutTwins } from './parameters.js'

interface SweepOptions extends EvaluationOptions {
  readonly at?: number[]
  readonly steps?: number
  readonly grid?: Axis[]
  readonly figure?: string
}

interface Planned {
  readonly plan: SweepPlan
  /** Of each setting. */
  readonly parameters: readonly EditParameters[]
}

/** Parameters that were chosen on the test half would flatter it. */
const half = 'dev'

/** Points of a curve. */
const usualSteps = [4, 8, 16, 32, 64, 96, 128, 160]

const notes = `
Writes into --out: sweep.csv (a line for each setting and number of steps), differences.csv (each setting minus the
first, after the last step, query by query), sweep.svg (the curves), sweep.json. Figures: 7, each regularizer alone and
all; 9, networks and views; 10, latent against raw pixels; 11, each weight at multiples of what it is. Parameters that
are given are the same for all settings. The development half is for this: what was chosen on the test half says nothing
of other queries.

Examples:
  flexit sweep --figure 7 --limit 100
  flexit sweep --grid learning-rate=0.02,0.05 --grid networks=rn,vit,rn+vit --at 16,32,64
`

export function sweepCommand(): Command {
  const command = new Command('sweep')
    .summary("measure parameters over a grid: the paper's figures")
    .description('Edit all queries with each of several settings, and have the results judged.')
    .addOption(
      new Option('--figure <n>', 'settings of a figure of the paper').choices(figures.map(String)).conflicts('grid'),
    )
    .option('--grid <name=a,b>', 'values of a parameter, of networks as a+b; several are combined', parseAxis)
  addEvaluationOptions(command, { out: 'flexit-out/sweep', samples: 200, half })
    .optionsGroup('Results:')
    .option(
      '--at <a,b>',
      `numbers of steps after which edits are judged (default: ${usualSteps.join(',')})`,
      parseSteps,
    )
  return addParameters(command, usualLast)
    .addHelpText('after', `${notes}${paper}`)
    .action((options: SweepOptions) => interruptible((signal) => run(options, signal)))
}

async function run(options: SweepOptions, signal: AbortSignal): Promise<void> {
  const { figure, grid } = options
  if (figure === undefined && grid === undefined) {
    throw invalidArgument('grid', 'nothing is to be swept', 'Give --figure 7, 9, 10 or 11, or --grid NAME=A,B.')
  }
  const at = stepsToJudge(options, usualSteps)
  const networks = networksOf(options)
  // The pack's own choice may not be there.
  const chosen = networks === undefined ? {} : { networks }
  const given = { ...givenParameters({ ...options }), ...chosen, steps: at.at(-1)! }
  const plan = (pack: MakerPack): Planned => {
    const base = pack.resolve(given)
    const planned = grid === undefined ? figurePlan(Number(figure) as Figure, base, pack.networks) : gridPlan(grid)
    const parameters = planned.settings.map((setting) => pack.resolve({ ...base, ...setting.parameters }))
    return { plan: planned, parameters }
  }
  const about = { signal, resultsName: 'sweep.json', half } as const
  await withEvaluation({ ...options, networks }, about, plan, async (open, planned) => {
    const { scene, editor, resampling, progress } = open
    const onEdits = editProgress(progress)
    const results = await sweep(scene, { editor, ...planned, at, resampling, onEdits })
    progress.end()
    await writeResults(options.out, open, planned.plan, results)
    const rows = results.map(({ setting, curve }) => ({ name: setting.name, estimates: curve.at(-1)!.estimates }))
    process.stdout.write(formatTable(rows))
    const early = results.reduce((sum, { failed }) => sum + failed, 0)
    sayFailed(progress, early)
    progress.say(`${scene.queries.length} queries, after ${at.at(-1)!} steps; the curves are in ${options.out}`)
  })
}

/** Networks that the settings use; undefined: the pack's own choice. Figure 9 compares all that are there. */
function networksOf({ networks, grid }: SweepOptions): readonly string[] | undefined {
  const axis = grid?.findLast(({ parameter }) => parameter === 'networks')
  if (axis !== undefined) return [...new Set((axis.values as EditParameters['networks'][]).flat())]
  return networks
}

async function writeResults(
  out: string,
  { pack, set, judge }: OpenEvaluation,
  plan: SweepPlan,
  results: readonly SettingResult[],
): Promise<void> {
  const points = results.flatMap(({ setting, parameters, curve, failed }) =>
    curve.map(({ steps, estimates }) => {
      const values = { ...parameters, networks: parameters.networks.join('+'), steps }
      return { setting: setting.name, ...values, ...estimateColumns(estimates), failed }
    }),
  )
  const differences = results.map(({ setting, difference }) => ({
    setting: setting.name,
    ...estimateColumns(difference),
  }))
  const context = { pack: pack.digest, judge: judge.digest, queries: { count: set.queries.length, digest: set.digest } }
  const contents = {
    'sweep.csv': formatCsv(points),
    'differences.csv': formatCsv(differences),
    'sweep.svg': plotSweep(plan, results),
    'sweep.json': `${JSON.stringify({ ...context, results }, undefined, 2)}\n`,
  }
  for (const [name, content] of Object.entries(contents)) await writeFileAtomic(join(out, name), content)
}

/** `learning-rate=0.02,0.05`; of texts and of networks as they are named. */
function parseAxis(text: string, before: readonly Axis[] | undefined): Axis[] {
  const [, flag = '', list = ''] = /^([a-z-]+)=(.+)$/.exec(text) ?? []
  const parameter = parameterKeys.find((key) => key.replace(/[A-Z]/g, (x) => `-${x.toLowerCase()}`) === flag)
  if (parameter === undefined || parameter === 'steps') {
    const known = parameterKeys
      .filter((key) => key !== 'steps')
      .map((key) => key.replace(/[A-Z]/g, (x) => `-${x.toLowerCase()}`))
    throw new InvalidArgumentError(`Write NAME=A,B with a name of ${known.join(', ')}.`)
  }
  if (before?.some((axis) => axis.parameter === parameter)) {
    throw new InvalidArgumentError(`${flag} is named twice: give all its values at once.`)
  }
  const isText = parameter === 'preset' || parameter === 'space'
  const values = list.split(',').map((value) => {
    if (parameter === 'networks') return withoutTwins(value.split('+'))
    return isText ? value : parseNumberOf(parameter, value)
  })
  if (new Set(values.map(String)).size < values.length) {
    throw new InvalidArgumentError(`A value of ${flag} is there twice: give each once.`)
  }
  return [...(before ?? []), { parameter, values: values as Axis['values'] }]
}
