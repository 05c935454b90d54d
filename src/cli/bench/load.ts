// `flexit bench load`: edits on a server of any kind, in a closed loop, an open one, or a sweep to the knee.
// Measured as its clients see it; the load generator is bench/load.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Command } from 'commander'
import type { LoadProgress, LoadResult } from '../../../bench/load/run-load.js'
import { type ClientEditRequest, type ConnectOptions, connect } from '../../client/client.js'
import { FlexitError, fileError, invalidArgument } from '../../engine/errors.js'
import { shippedFolder } from '../../engine/pack/locations.js'
import type { EditParameters } from '../../engine/parameters.js'
import { interruptible } from '../interruption.js'
import { addParameters, countUpTo, givenParameters, parseCount, parseNumber } from '../parameters.js'
import { type Progress, counted, createProgress } from '../progress.js'
import { type RemoteOptions, addConnectionOptions, connectionOf } from '../remote.js'

interface LoadOptions extends RemoteOptions {
  readonly server: string
  readonly closed?: number
  readonly open?: number
  readonly sweep?: boolean
  readonly edits?: number
  readonly duration?: number
  readonly image: string
  readonly source: string
  readonly target: string
  readonly pack?: string
  readonly previews?: number
  readonly previewSize?: number
  readonly latents?: number
  readonly lossless?: boolean
  readonly deadline?: number
  readonly json?: boolean
  readonly quiet?: boolean
}

const usualEdits = 8
const usualSeconds = 30

const notes = `
Times are those that a client sees, in ms, and in an open loop count from when an edit was due. Rates are of the time
until the last edit was sent; what has not ended after --duration is cancelled.

Examples:
  flexit bench load --server localhost:50051 --closed 8 --duration 30
  flexit bench load --server localhost:50051 --open 2.5 --duration 60 --steps 32 --previews 4 --latents 8
  flexit bench load --server gpu-1:50051,gpu-2:50051 --sweep --closed 32 --json

Exit codes: 0 done, 1 no edit was completed, 2 a wrong request, 130 stopped.`

export function loadCommand(): Command {
  const command = new Command('load')
    .summary('put a load on a server')
    .description('Put a load on a server: percentiles of times, goodput, refusals.')
    .requiredOption('--server <host:port>', 'several that serve the same pack, separated by commas')
  addConnectionOptions(command)
    .optionsGroup('Load:')
    .option('--closed <n>', `so many edits at once (default: ${usualEdits})`, countUpTo(100_000))
    .option('--open <rate>', 'so many edits a second, at random times, whatever becomes of them', parseNumber)
    .option('--sweep', 'capacity with --closed edits at once, then open loops up to and past it')
    .option('--edits <n>', 'end after so many edits', parseCount)
    .option('--duration <seconds>', `end after so long (default: ${usualSeconds}); of a sweep: each load`, parseNumber)
    .optionsGroup('Edits:')
    .option('--image <file>', 'the picture', join(shippedFolder, 'tiny', 'examples', 'red-apple.png'))
    .option('--source <text>', 'what is in it', 'red apple')
    .option('--target <text>', 'what it should become', 'tangerine')
    .option('--pack <name>', "one of the server's (default: its first)")
    .option('--previews <n>', 'a preview of every n-th step (default: none)', parseCount)
    .option('--preview-size <pixels>', 'of a side of it', parseCount)
    .option('--latents <n>', 'the latent of every n-th step', parseCount)
    .option('--lossless', 'with --latents: none may be left out')
    .option('--deadline <ms>', 'of each edit', parseCount)
  return (
    addParameters(command)
      .optionsGroup('Running:')
      .option('--json', 'the result as JSON')
      .option('--quiet', 'no progress')
      .addHelpText('after', notes)
      // --json and --quiet are options of `bench` too, which takes them from wherever they stand.
      .action((_: unknown, command: Command) =>
        interruptible((signal) => load(command.optsWithGlobals<LoadOptions>(), signal)),
      )
  )
}

async function load(options: LoadOptions, signal: AbortSignal): Promise<void> {
  check(options)
  const { closed = usualEdits, open, edits, sweep = false, json = false, quiet = false } = options
  const image = await readFile(options.image).catch((error: unknown) => {
    throw fileError(error, options.image, 'read')
  })
  const servers = options.server.split(',').map((address) => address.trim())
  const connection = connectionOf(options)
  await reach(servers, connection)
  const progress = createProgress({ quiet })
  const seconds = options.duration ?? (edits === undefined ? usualSeconds : undefined)
  const { seed = 0, ...parameters } = givenParameters({ ...options })
  const plan = { servers, connection, request: requests(image, { ...parameters, seed }, options), signal }

  const { describeLoad, describeSweep, sweepToJson, toJson } = await import('../../../bench/load/print.js')
  const print = (lines: readonly string[], value: object) =>
    process.stdout.write(json ? `${JSON.stringify(value)}\n` : `${lines.join('\n')}\n`)
  if (sweep) {
    const { runSweep } = await import('../../../bench/load/sweep.js')
    const each = options.duration ?? usualSeconds
    const found = await runSweep(plan, { edits: closed, seed, seconds: each, onPoint: (what) => progress.doing(what) })
    progress.end()
    print(describeSweep(found), sweepToJson(found))
    conclude(found.capacity, signal)
    return
  }
  const { runLoad } = await import('../../../bench/load/run-load.js')
  const arrivals =
    open === undefined
      ? ({ kind: 'closed', edits: closed } as const)
      : ({ kind: 'open', perSecond: open, seed } as const)
  const result = await runLoad({ ...plan, arrivals, edits, seconds, onProgress: tell(progress, edits, seconds) })
  progress.end()
  print(describeLoad(result), toJson(result))
  conclude(result, signal)
}

/** Errors: CANCELLED after `signal`, FAILED_PRECONDITION where no edit was completed. */
function conclude({ sent, completed }: LoadResult, signal: AbortSignal): void {
  if (signal.aborted) {
    const message = 'before the load was over; the figures are those of its part'
    throw new FlexitError({ code: 'CANCELLED', message })
  }
  if (completed > 0) return
  const message = `of ${counted(sent, 'edit')} none was completed`
  throw new FlexitError({ code: 'FAILED_PRECONDITION', message, cure: 'See above what became of them.' })
}

function check({ open, closed, edits, duration, sweep, lossless, latents }: LoadOptions): void {
  const positive = { open, duration }
  for (const [name, value] of Object.entries(positive)) {
    if (value !== undefined && value <= 0) throw invalidArgument(name, `--${name} is ${value}`, 'Use a number above 0.')
  }
  if (open !== undefined && (closed !== undefined || sweep === true)) {
    const other = closed === undefined ? '--sweep' : '--closed'
    throw invalidArgument('open', `--open and ${other} cannot be given together`, 'Leave one of them out.')
  }
  if (edits !== undefined && sweep === true) {
    throw invalidArgument('edits', '--edits cannot be given with --sweep', 'Use --duration.')
  }
  if (lossless === true && latents === undefined) {
    throw invalidArgument('lossless', '--lossless means nothing without --latents', 'Give both.')
  }
}

/** Errors: UNAVAILABLE, UNAUTHENTICATED: better once than of every edit. */
async function reach(servers: readonly string[], connection: ConnectOptions): Promise<void> {
  const client = connect(servers, connection)
  try {
    await client.serverInfo()
  } finally {
    client.close()
  }
}

/** Edits that differ in their seeds. */
function requests(
  image: Uint8Array,
  parameters: Partial<EditParameters> & { readonly seed: number },
  options: LoadOptions,
) {
  const { source, target, pack, previews, previewSize, latents, lossless = false, deadline } = options
  return (i: number): ClientEditRequest => ({
    image,
    source,
    target,
    parameters: { ...parameters, seed: parameters.seed + i },
    ...(pack === undefined ? {} : { pack }),
    ...(previews === undefined
      ? {}
      : { previews: { every: previews, ...(previewSize === undefined ? {} : { size: previewSize }) } }),
    ...(latents === undefined ? {} : { latents: { every: latents, lossless } }),
    ...(deadline === undefined ? {} : { deadlineMs: deadline }),
  })
}

function tell(progress: Progress, edits: number | undefined, seconds: number | undefined) {
  return ({ sent, ended, seconds: passed }: LoadProgress) => {
    const details = [`${ended} of ${sent} edits ended`, `${passed.toFixed(0)} s`]
    if (seconds !== undefined) progress.advance(Math.min(passed, seconds), seconds, details)
    else progress.advance(ended, edits!, details)
  }
}
