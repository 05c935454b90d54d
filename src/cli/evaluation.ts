// What `flexit eval` and `flexit sweep` have in common: their options, and everything that they open.
// The protocol is FlexIT's (CVPR 2022), section 4.1.

import { stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { invalidArgument } from '../engine/errors.js'
import { cacheFolder, requirePack } from '../engine/pack/locations.js'
import { Pack } from '../engine/pack/pack.js'
import { limits } from '../engine/parameters.js'
import { parseDevice } from '../engine/runtime.js'
import { type Resampling, choose } from '../evaluation/bootstrap.js'
import type { Editor } from '../evaluation/editor.js'
import type { EditProgress } from '../evaluation/edits.js'
import { Judge } from '../evaluation/judge.js'
import { LocalEditor } from '../evaluation/local-editor.js'
import { type QuerySet, type Split, readQueries } from '../evaluation/queries.js'
import { RemoteEditor } from '../evaluation/remote-editor.js'
import { type Scene, setScene } from '../evaluation/scene.js'
import { Store } from '../evaluation/store.js'
import { parseCount } from './parameters.js'
import { type Progress, createProgress, formatDuration } from './progress.js'

export interface EvaluationOptions {
  readonly pack: string
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
  readonly server?: string
  readonly token?: string
  readonly tls?: boolean
  readonly tlsCa?: string
  readonly quiet?: boolean
}

/** Everything that an evaluation needs, open. */
export interface OpenEvaluation {
  readonly pack: Pack
  readonly set: QuerySet
  readonly judge: Judge
  readonly scene: Scene
  readonly editor: Editor
  readonly resampling: Resampling
  readonly progress: Progress
}

/** Of all that is left to chance besides the views: which picture RETRIEVE gives, which queries are shown, resampling. */
export const choiceSeed = 0

export const paper = `
Without options, the embedded pack is measured on its own test queries. --queries is a CSV with the columns image (or
path), source, target; perhaps source_id and target_id (the judge's outputs), cluster, is_test. The judge is a folder
with judge.json and its ONNX files; training/README.md says how it looks.

The paper's protocol on ImageNet is the same command with other files:
  flexit eval --pack imagenet --queries queries.csv --split test --images val --references train --judge judge
  queries.csv   dataset/queries.csv of github.com/facebookresearch/SemanticImageTranslation: 2,184 queries
  val, train    ILSVRC 2012 from image-net.org, a folder for each class (n02091032/…); the statistics are of train
  judge         classifier: DeiT-B distilled 384 (deit_base_distilled_patch16_384 of github.com/facebookresearch/deit),
                feature_classifier: Inception-v3 pool features (github.com/mseitzer/pytorch-fid), both by
                torch.onnx.export with a free batch axis; lpips: { "trunk": "alexnet", "weights": "alexnet.pth",
                "linear": "alex.pth", "size": 256 } with torchvision's alexnet-owt-7be5be79.pth and
                lpips/weights/v0.1/alex.pth of github.com/richzhang/PerceptualSimilarity, or an ONNX file of it`

export function addEvaluationOptions(command: Command, out: string): Command {
  return command
    .option('--pack <name|path>', 'networks to use: see `flexit models list`', 'tiny')
    .option('--queries <file>', 'CSV of queries (default: evaluation/queries-test.csv of the pack)')
    .option('--images <folder>', 'their pictures (default: images, beside the queries)')
    .option(
      '--references <file|folder>',
      'real pictures of the classes: a CSV, or a folder with one for each class (default: references.csv, beside them)',
    )
    .option('--judge <folder>', 'networks that judge (default: judge, beside them)')
    .option(
      '--labels <file>',
      'CSV of the classes to choose among (default: labels.csv, beside them, or all of the queries)',
    )
    .addOption(
      new Option('--split <half>', 'of queries with a column is_test (default: test)').choices(['dev', 'test', 'all']),
    )
    .option('--limit <n>', 'only so many queries, by chance', parseCount)
    .option('--samples <n>', 'resampled sets of queries for the intervals', parseCount, 1000)
    .option('--out <folder>', 'where results go', out)
    .option(
      '--store <folder>',
      'finished edits and opinions, by hash: a stopped run goes on from it',
      'flexit-out/evaluated',
    )
    .optionsGroup('Running:')
    .option('--device <name>', 'cpu, cuda:0, …; may be given several times (default: cpu)', collect)
    .option('--threads <n>', 'of each device on the CPU (default: they share the cores)', parseCount)
    .option('--server <host:port>', 'let servers make the edits: see `flexit serve`; several, separated by commas')
    .option('--token <text>', 'of the servers (default: $FLEXIT_TOKEN)')
    .option('--tls', 'speak TLS with the servers')
    .option('--tls-ca <file>', 'PEM file of the authority to trust; means --tls')
    .option('--quiet', 'show only results and errors')
}

/** Numbers of steps, ascending. */
export function parseSteps(text: string): number[] {
  const numbers = text.split(',').map(parseCount)
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
  signal: AbortSignal,
  plan: (pack: Pack) => T,
  work: (open: OpenEvaluation, planned: T) => Promise<void>,
): Promise<void> {
  if (options.server !== undefined && (options.device ?? options.threads) !== undefined) {
    throw invalidArgument('server', '--device and --threads cannot be given with --server', 'Leave one of them out.')
  }
  const progress = createProgress({ quiet: options.quiet ?? false })
  const devices = (options.device ?? ['cpu']).map(parseDevice)
  const { folder } = await requirePack(options.pack)
  const closing: (() => void | Promise<void>)[] = []
  try {
    const pack = await Pack.open(folder)
    closing.push(() => pack.close())
    const planned = plan(pack)
    const files = await filesOf(options, folder)
    const judge = await Judge.open(files.judge, { device: devices[0]!, threads: 0, cacheFolder: cacheFolder() })
    closing.push(() => judge.close())
    const all = await readQueries(files.queries, { labels: judge.labels, ...optional(options) })
    const set = limited(all, options.limit)
    const { size, background } = pack.manifest.image
    const store = new Store(options.store)
    const onStage = stageProgress(progress)
    const scene = await setScene({ ...files, set, judge, store, size, background, signal, onStage })
    progress.end()
    const editor = await openEditor(options, pack, devices, progress)
    closing.push(() => editor.close())
    const resampling = { samples: options.samples, seed: choiceSeed }
    await work({ pack, set, judge, scene, editor, resampling, progress }, planned)
  } finally {
    progress.end()
    for (const close of closing.reverse()) await close()
  }
}

async function openEditor(
  { server, threads = 0, token = process.env['FLEXIT_TOKEN'], tls = false, tlsCa }: EvaluationOptions,
  pack: Pack,
  devices: readonly ReturnType<typeof parseDevice>[],
  progress: Progress,
): Promise<Editor> {
  if (server === undefined) {
    const onProgress = (doing: string) => progress.doing(doing)
    return new LocalEditor({ pack, devices, threads, cacheFolder: cacheFolder(), onProgress })
  }
  return RemoteEditor.open({
    servers: server.split(','),
    pack,
    ...(token === undefined ? {} : { token }),
    ...(tlsCa !== undefined ? { tls: { ca: tlsCa } } : tls ? { tls: true } : {}),
  })
}

/** What is not named lies beside the queries, and those in the pack. */
async function filesOf({ queries, images, references, judge }: EvaluationOptions, pack: string) {
  const file = queries ?? join(pack, 'evaluation', 'queries-test.csv')
  if (queries === undefined && !(await stat(file).then(Boolean, () => false))) {
    throw invalidArgument('queries', `the pack in ${pack} has no queries of its own`, 'Name a file with --queries.')
  }
  const beside = (name: string) => join(dirname(file), name)
  return {
    queries: file,
    images: images ?? beside('images'),
    references: references ?? beside('references.csv'),
    judge: judge ?? beside('judge'),
  }
}

function optional({ split, labels }: EvaluationOptions) {
  return { ...(split === undefined ? {} : { split }), ...(labels === undefined ? {} : { labelFile: labels }) }
}

/** Queries by chance, in the order of the file. */
function limited(set: QuerySet, limit: number | undefined): QuerySet {
  if (limit === undefined) return set
  const chosen = new Set(choose(set.queries, limit, choiceSeed))
  return { ...set, queries: set.queries.filter((query) => chosen.has(query)) }
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
