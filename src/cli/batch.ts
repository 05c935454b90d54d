// `flexit batch`: many edits, from a table of queries, on this machine or on servers; given again, it goes on.
// What is in its folder: batch/results.ts.

import { createHash } from 'node:crypto'
import { basename, dirname, extname, isAbsolute, join, relative, resolve, sep } from 'node:path'
import { Command } from 'commander'
import { FlexitError } from '../engine/errors.js'
import { type EditParameters, checkText } from '../engine/parameters.js'
import { readPicture, readRegularFile } from '../engine/picture.js'
import { type Query, type QueryFile, type RowMistake, readQueries, rowErrors } from './batch/queries.js'
import { BatchFolder, type Job, type Status, columns, keyOf } from './batch/results.js'
import { inParallel, nameOf, runBatch } from './batch/run.js'
import { deviceMaker } from './device-maker.js'
import { interruptible } from './interruption.js'
import type { Maker, MakerPack } from './maker.js'
import { checkOutputs, slug } from './outputs.js'
import { addParameters, givenParameters, parseCount, parseThreads } from './parameters.js'
import { type Progress, counted, createProgress, formatDuration } from './progress.js'
import { remoteMaker } from './remote-maker.js'
import { type RemoteOptions, addRemoteOptions, checkServerOptions } from './remote.js'
import { printLine } from './run-edit.js'

interface BatchOptions extends RemoteOptions {
  readonly images?: string
  readonly out?: string
  readonly filmstrips?: boolean
  readonly latents?: boolean
  readonly saveEvery?: number
  readonly inFlight?: number
  readonly pack?: string
  readonly networks?: string[]
  readonly device?: string[]
  readonly threads?: number
  readonly json?: boolean
  readonly quiet?: boolean
}

const notes = `
QUERIES.csv is a table in UTF-8 with commas and a header, a row for each edit. Its columns:
  image (or file, or path)   a picture, relative to the table's folder or to --images
  source, target             what is in it, and what it should become
  steps, seed, lambda_p, …   parameters of this row, before those of the command line; an empty cell leaves it to them
Other columns are ignored. All rows are checked, and all pictures read, before anything runs.

Results of queries.csv go to flexit-out/batch-queries, those of other folders' tables, as a/queries.csv, to
flexit-out/batch-a-queries-HASH. The folder gets pictures/, results.csv (${columns.slice(4).join(', ')}; losses and similarities
are those of the last step), and finished.jsonl, by which the same command, given again, goes on: finished queries are
skipped, unfinished ones go on from their latents, failed ones are tried again. A query counts as the same while its
picture, texts, parameters and pack are the same; only what was changed is done anew.

Examples:
  flexit batch queries.csv
  flexit batch queries.csv --steps 32 --filmstrips --latents --out flexit-out/short
  flexit batch imagenet.csv --images ~/imagenet/val --pack imagenet --device cuda:0 --device cuda:1
  flexit batch queries.csv --server gpu-1:50051,gpu-2:50051 --in-flight 64

Exit codes: 0 all done, 1 some failed or the server is gone, 2 a wrong request, 130 stopped.`

/** For each device: enough for batches, and for the pictures that are read and written meanwhile. */
const usualInFlight = 8

/** Pictures that are checked at the same time. */
const checkedAtOnce = 8

export function batchCommand(): Command {
  const command = new Command('batch')
    .summary('run many edits, from a table')
    .description('Run an edit for every row of a table, many at once; given again, go on where it stopped.')
    .argument('<queries>', 'CSV file; see below')
    .option('--pack <name|path>', 'networks to use: see `flexit models list` (default: tiny, or the first of --server)')
    .optionsGroup('Files:')
    .option('--images <folder>', 'where the pictures are (default: the folder of the queries)')
    .option('--out <folder>', 'where results go (default: in flexit-out; see below)')
    .option('--filmstrips', 'the way of each edit, every Nth step in one picture')
    .option('--latents', 'the latents of each edit, as of `flexit edit --latents`')
    .option('--save-every <n>', 'N: save an edit after so many steps (default: 16, or a 20th of its steps)', parseCount)
  return addRemoteOptions(addParameters(command))
    .optionsGroup('Running:')
    .option('--in-flight <n>', `edits at the same time (default: ${usualInFlight} for each device)`, parseCount)
    .option('--device <name>', 'cpu, cuda:0, tensorrt:0 or webgpu; give it again for more (default: cpu)', collect)
    .option('--threads <n>', 'of each CPU device (default: the cores, shared)', parseThreads)
    .option('--json', 'a line of JSON for every edit that ends, and for the result, on stdout')
    .option('--quiet', 'show only errors')
    .addHelpText('after', notes)
    .action((path: string, options: BatchOptions) => interruptible((signal) => batch(path, options, signal)))
}

function collect(value: string, before: string[] = []): string[] {
  return [...before, value]
}

async function batch(path: string, options: BatchOptions, signal: AbortSignal): Promise<void> {
  const { server, pack, filmstrips = false, latents = false, json = false } = options
  checkServerOptions({ ...options })
  const file = await readQueries(path, options.images)
  const out = resolve(options.out ?? join('flexit-out', usualName(path)))
  await checkOutputs([{ option: '--out', path: join(out, 'results.csv'), extensions: ['.csv'] }], path)
  const folder = new BatchFolder(out, { filmstrips, latents })
  const progress = createProgress({ quiet: options.quiet ?? false })
  const maker =
    server === undefined
      ? await deviceMaker({ ...options, devices: options.device ?? ['cpu'] }, progress)
      : await remoteMaker({ ...options, server, pack, priority: 'batch' })
  try {
    const jobs = await plan(file, maker.pack, givenParameters({ ...options }), folder, progress)
    await run({ file, jobs, folder, maker, progress, json }, options, signal)
  } finally {
    progress.end()
    await maker.close()
  }
}

/** A table's name; of one that lies elsewhere also its folder, and a hash of its path: names of folders may be read in two ways. */
function usualName(path: string): string {
  const seen = relative('.', path)
  const outside = isAbsolute(seen) || seen.split(sep)[0] === '..'
  const place = outside ? resolve(path) : seen
  const name = basename(path, extname(path))
  const folders = dirname(place)
    .split(sep)
    .filter((part) => part !== '' && part !== '.')
  // File systems take no more than 255 bytes.
  if (folders.length === 0 && Buffer.byteLength(name) < 200) return `batch-${name}`
  const hash = createHash('sha256').update(place).digest('hex').slice(0, 8)
  return ['batch', lastBytes(folders.map(slug).join('-'), 80), lastBytes(name, 120), hash].filter(Boolean).join('-')
}

/** The end of a text, as whole characters. */
function lastBytes(text: string, count: number): string {
  return Buffer.from(text)
    .subarray(-count)
    .toString()
    .replace(/^\uFFFD+/, '')
}

/** Check every row and picture. Errors: INVALID_ARGUMENT, naming all that is wrong; those of opening the folder. */
async function plan(
  { path, queries, columns }: QueryFile,
  pack: MakerPack,
  given: Partial<EditParameters>,
  folder: BatchFolder,
  progress: Progress,
): Promise<Job[]> {
  pack.resolve(given)
  progress.doing(`checking ${counted(queries.length, 'picture')}`)
  await folder.open()
  const jobs = new Map<string, Job>()
  const mistakes: RowMistake[] = []
  await inParallel(checkedAtOnce, queries, async (query) => {
    try {
      const job = await toJob(query, pack, { ...given, ...query.parameters }, folder)
      const queries = [...(jobs.get(job.key)?.queries ?? []), query].sort((a, b) => a.line - b.line)
      // Checks end in any order; the name of the files must not depend on it, or what is done is not found again.
      jobs.set(job.key, { ...job, queries, files: folder.filesOf(queries[0]!, job.key) })
    } catch (error) {
      if (!(error instanceof FlexitError)) throw error
      const { field, message, cure = '' } = error
      const column = [...columns].find(([meaning]) => meaning === field)?.[1] ?? field
      mistakes.push({ line: query.line, column, message: `${message} ${cure}`.trim() })
    }
  })
  if (mistakes.length > 0)
    throw rowErrors(
      path,
      mistakes.sort((a, b) => a.line - b.line),
    )
  return [...jobs.values()].sort((a, b) => a.queries[0]!.line - b.queries[0]!.line)
}

/** Errors: INVALID_ARGUMENT and those of reading the picture, with their field. */
async function toJob(query: Query, pack: MakerPack, given: Partial<EditParameters>, folder: BatchFolder): Promise<Job> {
  checkText(query.source, 'source')
  checkText(query.target, 'target')
  const parameters = pack.resolve(given)
  const bytes = await readRegularFile(query.imagePath)
  const key = keyOf(bytes, query, parameters, pack.digest)
  const job = { queries: [query], key, parameters, files: folder.filesOf(query, key) }
  if (folder.finished(job) === undefined) {
    const { size, background } = pack
    await readPicture(query.imagePath, { height: size, width: size, background })
  }
  return job
}

interface Prepared {
  readonly file: QueryFile
  readonly jobs: readonly Job[]
  readonly folder: BatchFolder
  readonly maker: Maker
  readonly progress: Progress
  readonly json: boolean
}

async function run(prepared: Prepared, options: BatchOptions, signal: AbortSignal): Promise<void> {
  const { file, jobs, folder, maker, progress, json } = prepared
  const { filmstrips = false, latents = false, saveEvery, inFlight = usualInFlight * maker.devices } = options
  const failures = new Map<Job, FlexitError>()
  const statusOf = (job: Job): Status => {
    const result = folder.finished(job)
    const error = failures.get(job)
    if (result !== undefined) return { kind: 'done', result }
    return error === undefined ? { kind: 'unfinished' } : { kind: 'failed', error }
  }
  const count = (kind: Status['kind']) => jobs.filter((job) => statusOf(job).kind === kind).length
  const onStatus = (job: Job, status: Status) => {
    if (status.kind === 'failed') {
      failures.set(job, status.error)
      progress.say(`failed: ${nameOf(job)}: ${status.error.message}`)
    }
    if (json) printLine(eventOf(job, status))
  }
  const before = count('done')
  const rows = file.queries.length - jobs.length
  const same = rows === 0 ? '' : ` (${counted(rows, 'row')} ask for what another row asks for)`
  progress.say(
    `${counted(jobs.length, 'edit')}${same}, ${before} done before, ${inFlight} at a time, into ${folder.path}`,
  )
  if (file.ignored.length > 0) progress.say(`note: these columns are ignored: ${file.ignored.join(', ')}`)
  await folder.writeTable(jobs, statusOf)

  const startedMs = performance.now()
  const batch = { maker, folder, jobs, inFlight, filmstrips, latents, saveEvery, progress, onStatus }
  const tally = () => `${count('done')} of ${counted(jobs.length, 'edit')} are done, those under way are saved`
  const goOn = 'Give the same command again to go on.'
  try {
    await runBatch(batch, signal)
  } catch (error) {
    if (!(error instanceof FlexitError)) throw error
    const { code, message, cure = '' } = error
    throw new FlexitError({ code, message: `${message}; ${tally()}`, cure: `${cure}\n${goOn}`.trim(), cause: error })
  } finally {
    await folder.writeTable(jobs, statusOf)
    const [done, failed, unfinished] = [count('done'), count('failed'), count('unfinished')]
    if (json) printLine({ event: 'result', done, failed, unfinished, results: folder.table })
  }
  if (count('unfinished') > 0) throw new FlexitError({ code: 'CANCELLED', message: tally(), cure: goOn })
  const seconds = (performance.now() - startedMs) / 1000
  progress.say(
    `${count('done')} of ${counted(jobs.length, 'edit')} done in ${formatDuration(seconds)}: ${folder.table}`,
  )
  if (failures.size > 0) throw failedEdits(failures, folder)
}

function eventOf({ queries, files }: Job, status: Status): object {
  const lines = queries.map(({ line }) => line)
  if (status.kind === 'done') {
    const { key, ...result } = status.result
    return { event: 'done', lines, ...result, picture: files.picture, key }
  }
  if (status.kind === 'unfinished') return { event: 'unfinished', lines }
  const { code, message, cure } = status.error
  return { event: 'failed', lines, error: { code, message, cure } }
}

function failedEdits(failures: ReadonlyMap<Job, FlexitError>, { table }: BatchFolder): FlexitError {
  const told = [...failures].slice(0, 10).map(([job, { message }]) => `  ${nameOf(job)}: ${message}`)
  const more = failures.size > told.length ? [`  and ${failures.size - told.length} more`] : []
  return new FlexitError({
    code: 'FAILED_PRECONDITION',
    message: [`${counted(failures.size, 'edit')} failed`, ...told, ...more].join('\n'),
    cure: `See ${table}; given again, the command tries these again.`,
  })
}
