// Many edits at once: so many in flight, one progress bar for all, each saved on its way.
// An edit that fails does not stop the others; a maker that is gone does, and so does a full disk.

import { setMaxListeners } from 'node:events'
import type { EditState } from '../../engine/edit.js'
import type { SavedEdit } from '../../engine/edit-file.js'
import { FlexitError } from '../../engine/errors.js'
import { readRegularFile } from '../../engine/picture.js'
import { EditRecord, usualSaveEvery } from '../edit-record.js'
import { type Maker, type WatchedStep, beginEdit } from '../maker.js'
import { patiently } from '../patience.js'
import { type Progress, formatDuration, formatRate } from '../progress.js'
import { type BatchFolder, type Job, type Result, type Status, keyOf } from './results.js'

export interface BatchRun {
  readonly maker: Maker
  readonly folder: BatchFolder
  readonly jobs: readonly Job[]
  /** Edits at the same time. */
  readonly inFlight: number
  readonly filmstrips: boolean
  readonly latents: boolean
  /** Default: as of a single edit. */
  readonly saveEvery?: number | undefined
  readonly progress: Progress
  /** Told of each job that ends. */
  readonly onStatus: (job: Job, status: Status) => void
}

/**
 * Do the jobs that are not finished, until `signal`; what is then in flight is saved. Errors, after what is in flight was
 * saved: those of the maker and of writing, and UNAVAILABLE where the maker is gone.
 */
export async function runBatch(run: BatchRun, signal: AbortSignal): Promise<void> {
  const { folder, jobs, inFlight } = run
  const tally = new Tally(run)
  const broken = new AbortController()
  const stop = AbortSignal.any([signal, broken.signal])
  // Each edit in flight listens.
  setMaxListeners(0, stop)
  const errors: unknown[] = []
  const left = jobs.filter((job) => folder.finished(job) === undefined)
  await inParallel(inFlight, left, async (job) => {
    if (stop.aborted) return
    try {
      const status = await runJob(run, job, tally, stop)
      tally.ended(status)
      run.onStatus(job, status)
    } catch (error) {
      errors.push(error)
      broken.abort()
    }
  })
  run.progress.end()
  if (errors.length > 0) throw errors[0]
}

/** Errors: those that concern all jobs. */
async function runJob(run: BatchRun, job: Job, tally: Tally, signal: AbortSignal): Promise<Status> {
  const { maker, folder, filmstrips, progress } = run
  const { steps } = job.parameters
  const saved = rewound(folder.unfinished(job)) ?? (await begin(run, job))
  if (saved instanceof FlexitError) {
    tally.move(steps)
    return { kind: 'failed', error: saved }
  }
  const { picture, filmstrip, latents } = job.files
  const files = { picture, latents, ...(filmstrips ? { filmstrip } : {}) }
  const record = new EditRecord({ maker, saved, files, saveEvery: run.saveEvery ?? usualSaveEvery(steps) })
  await record.begin()
  tally.move(saved.state.step)
  let startedMs = performance.now()
  let last: WatchedStep | undefined
  // An edit that comes back to a full server may take its last steps again.
  let reached = saved.state.step
  const watcher = {
    onStarted: () => {
      startedMs = performance.now()
      tally.start()
    },
    onNote: (text: string) => progress.say(`${nameOf(job)}: ${text}`),
    onStep: async (step: WatchedStep, after: EditState | undefined) => {
      last = step
      if (step.step > reached) tally.step()
      reached = Math.max(reached, step.step)
      await record.add(step, after)
    },
  }
  const ended = await patiently(saved.state, signal, (state) =>
    maker.make(state, { watcher, signal, ...record.wishes }),
  )
  const { state } = ended
  if (ended.kind === 'completed') {
    await record.finish(ended.picture, state, { keepLatents: run.latents })
    const result = resultOf(job, state, last, (performance.now() - startedMs) / 1000)
    await folder.finish(job, result)
    return { kind: 'done', result }
  }
  const gone = ended.kind === 'failed' && ended.error.code === 'UNAVAILABLE'
  if (ended.kind === 'cancelled' || gone) {
    if (state.z !== undefined && state.step > 0) await record.save(latents, state)
    if (gone) throw ended.error
    return { kind: 'unfinished' }
  }
  tally.move(steps - reached)
  return { kind: 'failed', error: ended.error }
}

/** The state before the first step; what is wrong with the query, where that was not so when all were checked. */
async function begin({ maker: { pack } }: BatchRun, { queries, key, parameters }: Job) {
  const query = queries[0]!
  try {
    const changed = keyOf(await readRegularFile(query.imagePath), query, parameters, pack.digest) !== key
    if (changed) throw new Error('it was changed while the batch ran; give the same command again')
    const state = await beginEdit(pack, query.imagePath, { ...query, parameters })
    return { state, snapshots: new Map<number, Float32Array>() }
  } catch (error) {
    if (error instanceof FlexitError) return error
    const message = `cannot read ${query.image}: ${error instanceof Error ? error.message : String(error)}`
    return new FlexitError({ code: 'FAILED_PRECONDITION', field: 'image', message, cause: error })
  }
}

/** An edit that has taken all its steps takes the last ones again, for what they report was not kept. */
function rewound(saved: SavedEdit | undefined): SavedEdit | undefined {
  if (saved === undefined || saved.state.step < saved.state.parameters.steps) return saved
  const { state, snapshots } = saved
  const step = Math.max(0, ...[...snapshots.keys()].filter((at) => at < state.parameters.steps))
  return { ...saved, state: { ...state, step, z: snapshots.get(step) } }
}

function resultOf({ key }: Job, { step }: EditState, last: WatchedStep | undefined, seconds: number): Result {
  const { losses, similaritySource, similarityTarget } = last ?? {}
  return { key, steps: step, seconds: Number(seconds.toFixed(3)), losses, similaritySource, similarityTarget }
}

/** How users are told of a job. */
export function nameOf({ queries }: Job): string {
  const { line, image, target } = queries[0]!
  return `line ${line} (${image} → ${target})`
}

/** Do `work` for every item, so many at the same time. */
export async function inParallel<T>(count: number, items: readonly T[], work: (item: T) => Promise<void>) {
  const queue = items.values()
  const one = async () => {
    for (const item of queue) await work(item)
  }
  await Promise.all(Array.from({ length: Math.min(count, items.length) }, one))
}

/** Counts what is done of all, and shows it. */
class Tally {
  readonly #progress: Progress
  readonly #all: number
  readonly #allSteps: number
  #done = 0
  #failed = 0
  /** Of all jobs, also those of other runs, and those that will not be taken. */
  #steps = 0
  /** Taken now. */
  #taken = 0
  #startedMs: number | undefined

  constructor({ jobs, folder, progress }: BatchRun) {
    this.#progress = progress
    this.#all = jobs.length
    this.#allSteps = sum(jobs)
    const finished = jobs.filter((job) => folder.finished(job) !== undefined)
    this.#done = finished.length
    this.#steps = sum(finished)
  }

  start(): void {
    this.#startedMs ??= performance.now()
  }

  /** Steps that need not be taken now. */
  move(steps: number): void {
    this.#steps += steps
  }

  step(): void {
    this.#steps += 1
    this.#taken += 1
    this.#show()
  }

  ended({ kind }: Status): void {
    if (kind === 'done') this.#done += 1
    if (kind === 'failed') this.#failed += 1
    if (kind !== 'unfinished') this.#show()
  }

  #show(): void {
    const seconds = (performance.now() - (this.#startedMs ?? performance.now())) / 1000 / Math.max(this.#taken, 1)
    const left = seconds * (this.#allSteps - this.#steps)
    const ended = this.#done + this.#failed === this.#all
    this.#progress.advance(this.#steps, this.#allSteps, [
      `${this.#done}/${this.#all} edits`,
      ...(this.#failed > 0 ? [`${this.#failed} failed`] : []),
      ...(this.#taken > 1 ? [formatRate(seconds), ended ? 'done' : `${formatDuration(left)} left`] : []),
    ])
  }
}

function sum(jobs: readonly Job[]): number {
  return jobs.reduce((steps, { parameters }) => steps + parameters.steps, 0)
}
