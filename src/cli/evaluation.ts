// What `flexit eval` and `flexit sweep` have in common: their options, and everything that they open.
// The protocol is FlexIT's (CVPR 2022), section 4.1.

import { access, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { fileError, invalidArgument } from '../engine/errors.js'
import { cacheFolder, resolvePack } from '../engine/pack/locations.js'
import { limits } from '../engine/limits.js'
import { parseDevice } from '../engine/runtime.js'
import type { Resampling } from '../evaluation/bootstrap.js'
import type { Editor } from '../evaluation/editor.js'
import type { EditProgress } from '../evaluation/edits.js'
import { Judge } from '../evaluation/judge.js'
import { type Half, type QuerySet, type Split, limitQueries, readQueries } from '../evaluation/queries.js'
import { type Scene, setScene } from '../evaluation/scene.js'
import { Store } from '../evaluation/store.js'
import { deviceMaker } from './device-maker.js'
import { makerEditor } from './maker-editor.js'
import type { MakerPack, PlacedMaker } from './maker.js'
import { checkOutputs } from './outputs.js'
import { countUpTo, parseCount, parseThreads } from './parameters.js'
import { type Progress, createProgress, formatDuration } from './progress.js'
import { remoteMaker } from './remote-maker.js'
import { type RemoteOptions, addRemoteOptions, checkServerOptions } from './remote.js'

export interface EvaluationOptions extends RemoteOptions {
  readonly pack?: string
  /** That the edits use. Default: those of the pack that are not optional. */
  readonly networks?: readonly string[] | undefined
  readonly queries?: string
  readonly images?: string
  readonly references?: string
  readonly judge?: string
  readonly labels?: string
  readonly split?: Split
  readonly limit?: number
  readonly samples: number
  readonly out: string
  readonly store: string
  readonly device?: string[]
  readonly threads?: number
  readonly quiet?: boolean
}

/** Everything that an evaluation needs, open. */
export interface OpenEvaluation {
  readonly pack: MakerPack
  readonly set: QuerySet
  readonly judge: Judge
  readonly scene: Scene
  readonly editor: Editor
  readonly resampling: Resampling
  readonly progress: Progress
}

/** Numbers of steps of one evaluation: their pictures are judged in one batch. */
const mostJudged = 255

/** What --steps is in evaluations, whatever the pack: the last step of figures. */
export const usualLast = '160 with every pack; not beside --at'

/** Of all that is left to chance besides the views: which picture RETRIEVE gives, which queries are shown, resampling. */
export const choiceSeed = 0

export const paper = `
Without options, the embedded pack is measured on its own queries. --queries is a CSV with the columns image (or path),
source, target; perhaps source_id and target_id (the judge's outputs), cluster, is_test (true or false). --references is
a CSV with the columns image (or path) and label (or class_id), perhaps split: RETRIEVE answers with rows of the split
validation, and the statistics of CSFID and SFID are of all others. The judge is a folder with judge.json and its ONNX
files; training/README.md says how it looks.

The paper's protocol on ImageNet is the same command with other files:
  flexit eval --pack imagenet --queries queries.csv --split test --images val --references train --judge judge
  queries.csv   dataset/queries.csv of github.com/facebookresearch/SemanticImageTranslation: 2,184 queries
  val, train    ILSVRC 2012 from image-net.org, a folder for each class (n02091032/…); the statistics are of train
  judge         classifier: DeiT-B distilled 384 (deit_base_distilled_patch16_384 of github.com/facebookresearch/deit),
                feature_classifier: Inception-v3 pool features (github.com/mseitzer/pytorch-fid), both by
                torch.onnx.export with a free batch axis; lpips: { "trunk": "alexnet", "weights": "alexnet.pth",
                "linear": "alex.pth", "size": 256 } with torchvision's alexnet-owt-7be5be79.pth and
                lpips/weights/v0.1/alex.pth of github.com/richzhang/PerceptualSimilarity, or an ONNX file of it`

const queriesName = (half: Half) => `queries-${half}.csv`

export function addEvaluationOptions(
  command: Command,
  { out, samples, half }: { readonly out: string; readonly samples: number; readonly half: Half },
): Command {
  command
    .option('--pack <name|path>', 'networks to use: see `flexit models list` (default: tiny, or the first of --server)')
    .option('--queries <file>', `CSV of queries (default: evaluation/${queriesName(half)} of the pack)`)
    .option('--images <folder>', 'their pictures (default: images, beside the queries)')
    .option(
      '--references <file|folder>',
      'real pictures of the classes: a CSV of paths inside --images, or a folder with one for each class (default: references.csv, beside them)',
    )
    .option('--judge <folder>', 'networks that judge (default: judge, beside them)')
    .option(
      '--labels <file>',
      'CSV of the classes to choose among (default: labels.csv, beside them, or all of the queries)',
    )
    .addOption(
      new Option('--split <half>', `of queries with a column is_test (default: ${half})`).choices([
        'dev',
        'test',
        'all',
      ]),
    )
    .option('--limit <n>', 'only so many queries, by chance', parseCount)
    .option('--samples <n>', 'resampled sets of queries for the intervals', countUpTo(100_000), samples)
    .option('--out <folder>', 'where results go', out)
    .option(
      '--store <folder>',
      'finished edits and opinions, by hash: a stopped run goes on from it, and one of more steps from those of fewer',
      'flexit-out/evaluated',
    )
    .optionsGroup('Running:')
    .option(
      '--device <name>',
      'cpu, cuda:0, …; several times for several; on a CPU cpu:0, cpu:1, … for each core is fastest (default: cpu)',
      collect,
    )
    .option('--threads <n>', 'of each device on the CPU (default: they share the cores)', parseThreads)
    .option('--quiet', 'show only results and errors')
  return addRemoteOptions(command)
}

/** Numbers of steps, ascending. */
export function parseSteps(text: string): number[] {
  const numbers = text.split(',').map(parseCount)
  if (numbers.length > mostJudged) throw new InvalidArgumentError(`${numbers.length} are more than ${mostJudged}.`)
  if (numbers.some((n, i) => n > limits.steps || n <= (numbers[i - 1] ?? 0))) {
    throw new InvalidArgumentError(`They must ascend, to at most ${limits.steps}.`)
  }
  return numbers
}

/** `--at`, or as many of `usual` as --steps allows. Errors: INVALID_ARGUMENT where both are given. */
export function stepsToJudge(
  { at, steps }: { readonly at?: readonly number[]; readonly steps?: number },
  usual: readonly number[],
): readonly number[] {
  if (at !== undefined && steps !== undefined) {
    throw invalidArgument('steps', '--steps and --at are both given', 'Leave --steps out: the last of --at is meant.')
  }
  if (at !== undefined) return at
  const last = steps ?? usual.at(-1)!
  return [...usual.filter((n) => n < last), last]
}

/**
 * Open everything, `work`, and close it. `plan` is called as soon as the pack is open, so that wrong parameters are told
 * of before long work. Errors: those of opening; CANCELLED.
 */
export async function withEvaluation<T>(
  options: EvaluationOptions,
  { signal, resultsName, half }: { readonly signal: AbortSignal; readonly resultsName: string; readonly half: Half },
  plan: (pack: MakerPack) => T,
  work: (open: OpenEvaluation, planned: T) => Promise<void>,
): Promise<void> {
  const progress = createProgress({ quiet: options.quiet ?? false })
  await checkOutputs(
    [
      { option: '--out', path: join(options.out, resultsName), extensions: ['.json'] },
      { option: '--store', path: join(options.store, 'edits', 'any.png'), extensions: ['.png'] },
    ],
    undefined,
  )
  const maker = await openMaker(options, progress)
  let judge: Judge | undefined
  try {
    const { pack } = maker
    const planned = plan(pack)
    const files = await filesOf(options, pack, half)
    const { device = ['cpu'], store } = options
    const judgeDevice = parseDevice(device[0]!)
    judge = await Judge.open(files.judge, { device: judgeDevice, threads: 0, cacheFolder: cacheFolder() })
    const all = await readQueries(files.queries, { labels: judge.labels, half, ...optional(options) })
    const set = options.limit === undefined ? all : limitQueries(all, options.limit, choiceSeed)
    const scene = await setScene({
      ...files,
      set,
      judge,
      store: new Store(store),
      size: pack.size,
      background: pack.background,
      signal,
      onStage: stageProgress(progress),
    })
    progress.end()
    const editor = makerEditor(maker)
    const resampling = { samples: options.samples, seed: choiceSeed }
    await work({ pack, set, judge, scene, editor, resampling, progress }, planned)
  } finally {
    progress.end()
    await judge?.close()
    await maker.close()
  }
}

function openMaker(options: EvaluationOptions, progress: Progress): Promise<PlacedMaker> {
  const { server, pack, networks, device: devices = ['cpu'], threads } = options
  checkServerOptions({ ...options })
  if (server === undefined) return deviceMaker({ pack, networks, devices, threads }, progress)
  return remoteMaker({ ...options, server, pack, priority: 'batch' })
}

/** What is not named lies beside the queries, and those in the pack. */
async function filesOf(options: EvaluationOptions, pack: MakerPack, half: Half) {
  const { queries = await packQueries(options.pack ?? pack.name, half), images, references, judge } = options
  const beside = (name: string) => join(dirname(queries), name)
  await access(queries).catch((error: unknown) => {
    throw fileError(error, queries, 'read')
  })
  for (const [option, given, usual] of [
    ['judge', judge, 'judge'],
    ['references', references, 'references.csv'],
    ['images', images, 'images'],
  ] as const) {
    const isThere = given !== undefined || (await stat(beside(usual)).catch(() => undefined)) !== undefined
    if (!isThere) throw invalidArgument(option, `there is no ${usual} beside ${queries}`, `Name one with --${option}.`)
  }
  return {
    queries,
    images: images ?? beside('images'),
    references: references ?? beside('references.csv'),
    judge: judge ?? beside('judge'),
  }
}

async function packQueries(pack: string, half: Half): Promise<string> {
  const { folder } = await resolvePack(pack)
  const path = join(folder, 'evaluation', queriesName(half))
  if (await stat(path).then(Boolean, () => false)) return path
  throw invalidArgument('queries', `the pack in ${folder} has no queries of its own`, 'Name a file with --queries.')
}

function optional({ split, labels }: EvaluationOptions) {
  return { ...(split === undefined ? {} : { split }), ...(labels === undefined ? {} : { labelFile: labels }) }
}

export function sayFailed(progress: Progress, edits: number): void {
  if (edits > 0) progress.say(`note: ${edits} edits ended early, no longer finite; their last picture counts`)
}

/** A bar for the edits, with the time that is left. */
export function editProgress(progress: Progress): (state: EditProgress) => void {
  const startedMs = performance.now()
  return ({ edits, totalEdits, steps, totalSteps }) => {
    const seconds = (performance.now() - startedMs) / 1000
    const left = (seconds * (totalSteps - steps)) / Math.max(steps, 1)
    const rate = `${(steps / seconds).toFixed(1)} steps/s`
    progress.advance(steps, totalSteps, [`${edits}/${totalEdits} edits`, `${formatDuration(left)} left`, rate])
  }
}

/** A bar for each kind of work. */
function stageProgress(progress: Progress): (what: string, done: number, total: number) => void {
  let last = ''
  return (what, done, total) => {
    if (what !== last) progress.end()
    last = what
    progress.advance(done, total, [`${done}/${total} ${what}`])
  }
}

function collect(value: string, before: readonly string[] | undefined): string[] {
  return [...(before ?? []), value]
}
