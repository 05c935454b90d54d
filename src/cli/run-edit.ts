// One edit from its state to its files: what is shown of its steps, and what becomes of a stop.
// Where the steps are taken is the maker's affair (maker.ts).

import { existsSync } from 'node:fs'
import { basename, extname } from 'node:path'
import type { EditState, StepReport } from '../engine/edit.js'
import { writePicture } from '../engine/encode.js'
import { FlexitError } from '../engine/errors.js'
import { EditRecord, type RecordOptions } from './edit-record.js'
import type { Ended, Watcher } from './maker.js'
import { type Progress, formatDuration, formatNumber, formatRate } from './progress.js'

export interface EditRun extends RecordOptions {
  /** Where the newest preview goes, again and again. */
  readonly preview?: string | undefined
  /** Where an edit without its results is saved that has no file for its latents; an existing file is left alone. */
  readonly rescue: string
  /** Print one line of JSON for every step. */
  readonly json: boolean
  readonly progress: Progress
  /** How a user goes on from a saved edit. */
  readonly resumeCommand: (latents: string) => string
}

type Step = Omit<StepReport, 'preview' | 'failure'>

/**
 * Take the steps that are left and write the files. Errors: those of the maker; with the edit saved, those of writing,
 * CANCELLED after `signal`, and those of an edit that failed.
 */
export async function runEdit(run: EditRun, signal: AbortSignal): Promise<void> {
  const { maker, progress, files, preview } = run
  const { steps } = run.saved.state.parameters
  const record = new EditRecord(run)
  const clock = new Clock()
  let first: Step | undefined
  let last: Step | undefined
  const broken = new AbortController()
  const watcher: Watcher = {
    onStarted: () => clock.start(),
    onNote: (text) => progress.say(`note: ${text}`),
    onStep: async (step, after) => {
      const secondsPerStep = clock.stop()
      last = step
      first ??= last
      if (run.json) printStep(last, secondsPerStep)
      progress.advance(step.step + 1, steps, details(step, steps, clock))
      try {
        if (preview !== undefined && step.preview !== undefined) await writePicture(preview, step.preview)
        await record.add(step, after)
      } catch (error) {
        broken.abort(error)
      }
      clock.start()
    },
  }
  await record.begin()
  const { stateEvery, previewEvery } = record.wishes
  const order = { watcher, stateEvery, previewEvery: preview === undefined ? previewEvery : 1 }
  const ended = await maker.make(run.saved.state, { ...order, signal: AbortSignal.any([signal, broken.signal]) })
  progress.end()
  if (broken.signal.aborted) throw await unwritten(run, ended.state, record, broken.signal.reason)
  if (ended.kind !== 'completed') throw await rescued(run, ended, record)

  try {
    await record.finish(ended.picture, ended.state)
  } catch (error) {
    throw await unwritten(run, ended.state, record, error)
  }
  if (run.json) printLine({ event: 'result', step: ended.state.step, files })
  if (first !== undefined && last !== undefined) {
    progress.say(summary(first, last), `in ${formatDuration(clock.totalSeconds)}`)
  }
  for (const [kind, path] of Object.entries({ ...files, preview })) {
    if (path !== undefined) progress.say(`  ${kind.padEnd(9)} ${path}`)
  }
}

/** Save an edit that did not come to its end, and say how to go on. */
async function rescued(
  run: EditRun,
  ended: Exclude<Ended, { kind: 'completed' }>,
  record: EditRecord,
): Promise<FlexitError> {
  const { state } = ended
  const failure = ended.kind === 'failed' ? ended.error : undefined
  // Nothing was begun that could be kept.
  if (failure?.code === 'INVALID_ARGUMENT' || (failure !== undefined && state.z === undefined)) return failure
  if (state.step === 0 && failure === undefined) {
    if (run.json) printLine({ event: 'stopped', step: 0, files: {} })
    return new FlexitError({ code: 'CANCELLED', message: 'before the first step; nothing is lost' })
  }
  const path = await save(run, state, record)
  if (run.json) {
    printLine({ event: failure === undefined ? 'stopped' : 'failed', step: state.step, files: { latents: path } })
  }
  const goOn = `Go on with: ${run.resumeCommand(path)}`
  const saved = `the edit is saved in ${path}, no result was written`
  if (failure === undefined) return new FlexitError({ code: 'CANCELLED', message: stoppedAt(state, saved), cure: goOn })
  const cure = failure.code === 'UNAVAILABLE' ? `${failure.cure ?? ''}\n${goOn}`.trim() : (failure.cure ?? goOn)
  return new FlexitError({ code: failure.code, message: `${failure.message}; ${saved}`, cure, cause: failure })
}

/** Save an edit of which a file could not be written, and say how to go on; where it cannot be saved either, `cause`. */
async function unwritten(run: EditRun, state: EditState, record: EditRecord, cause: unknown): Promise<unknown> {
  const path = await save(run, state, record).catch(() => undefined)
  if (path === undefined) return cause
  const { picture } = record
  if (run.json) printLine({ event: 'failed', step: state.step, files: { picture, latents: path } })
  const { code, message, cure = '' } = cause instanceof FlexitError ? cause : internal(cause)
  const saved =
    picture === undefined ? `the edit is saved in ${path}` : `the result is in ${picture}, the edit in ${path}`
  const goOn = `Then go on with: ${run.resumeCommand(path)}`
  return new FlexitError({ code, message: `${message}; ${saved}`, cure: `${cure}\n${goOn}`.trim(), cause })
}

function internal(cause: unknown): FlexitError {
  return new FlexitError({ code: 'INTERNAL', message: cause instanceof Error ? cause.message : String(cause), cause })
}

/** Save an edit: in its file, beside its result, or at last in the working folder. Errors: that of the first place. */
async function save({ files, rescue }: EditRun, state: EditState, record: EditRecord): Promise<string> {
  const errors: unknown[] = []
  for (const path of [files.latents, freeName(rescue), freeName(basename(rescue))]) {
    if (path === undefined) continue
    try {
      await record.save(path, state)
      return path
    } catch (error) {
      errors.push(error)
    }
  }
  throw errors[0]
}

function stoppedAt({ step, parameters }: EditState, saved: string): string {
  return `after step ${step} of ${parameters.steps}; ${saved}`
}

/** Nobody asked for this file: it must not replace another. */
function freeName(path: string): string {
  const stem = path.slice(0, -extname(path).length)
  for (let i = 2; existsSync(path); i++) path = `${stem}-${i}.safetensors`
  return path
}

function printStep({ step, losses, similaritySource, similarityTarget }: Step, secondsPerStep: number): void {
  printLine({ event: 'step', step, losses, similaritySource, similarityTarget, secondsPerStep })
}

/** A line of JSON on stdout. */
export function printLine(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}

function details({ step, losses, similarityTarget }: Step, steps: number, clock: Clock): string[] {
  const taken = step + 1
  const left = (steps - taken) * clock.secondsPerStep
  const term = (name: string, value: number | undefined) =>
    value === undefined ? [] : [`${name} ${formatNumber(value)}`]
  return [
    `${String(taken).padStart(String(steps).length)}/${steps}`,
    `loss ${formatNumber(losses.total)}`,
    `target ${formatNumber(similarityTarget)}`,
    ...(clock.steps > 1
      ? [formatRate(clock.secondsPerStep), taken === steps ? 'done' : `${formatDuration(left)} left`]
      : []),
    ...term('clip', losses.clip),
    ...term('lpips', losses.lpips),
    ...term('latent', losses.latent),
  ]
}

function summary(first: Step, last: Step): string {
  const change = (from: number, to: number) => `${formatNumber(from)} → ${formatNumber(to)}`
  const target = change(first.similarityTarget, last.similarityTarget)
  const source = change(first.similaritySource, last.similaritySource)
  return `likeness to the target ${target}, to the source ${source}`
}

/** Measures steps. The first is slow (its graph is loaded) and tells nothing about the others. */
class Clock {
  /** Steps measured. */
  steps = 0
  #startedMs = 0
  #seconds = 0
  #first = 0

  start(): void {
    this.#startedMs = performance.now()
  }

  /** Seconds since `start`. */
  stop(): number {
    const seconds = (performance.now() - this.#startedMs) / 1000
    if (this.steps === 0) this.#first = seconds
    else this.#seconds += seconds
    this.steps += 1
    return seconds
  }

  get totalSeconds(): number {
    return this.#first + this.#seconds
  }

  get secondsPerStep(): number {
    return this.steps > 1 ? this.#seconds / (this.steps - 1) : this.#first
  }
}
