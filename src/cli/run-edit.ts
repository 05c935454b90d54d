// One edit from its state to its files: steps, what is shown of them, what is kept, and what becomes of a stop.
// Between steps the event loop turns, so that signals are heard.

import { existsSync } from 'node:fs'
import { extname } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { Edit, type StepReport } from '../engine/edit.js'
import { type SavedEdit, writeEditFile } from '../engine/edit-file.js'
import { animation, encodePicture, filmstrip, pictureFormat } from '../engine/encode.js'
import type { Engine } from '../engine/engine.js'
import { FlexitError } from '../engine/errors.js'
import { writeFileAtomic } from '../engine/files.js'
import type { Picture } from '../engine/picture.js'
import { variableShape } from '../engine/step-graph.js'
import { type Progress, dim, formatDuration } from './progress.js'

export interface EditFiles {
  readonly picture: string
  readonly filmstrip?: string | undefined
  readonly animation?: string | undefined
  readonly latents?: string | undefined
}

export interface EditRun {
  readonly engine: Engine
  readonly saved: Omit<SavedEdit, 'packName'>
  readonly files: EditFiles
  /** Where a stopped edit is saved that has no file for its latents; an existing file is left alone. */
  readonly rescue: string
  /** Steps between two snapshots. */
  readonly saveEvery: number
  /** Print one line of JSON for every step. */
  readonly json: boolean
  readonly progress: Progress
  /** How a user goes on from a saved edit. */
  readonly resumeCommand: (latents: string) => string
}

/** An animation has at most about this many frames. */
const maxFrames = 160

/** Of a filmstrip; rows are made equally long. */
const maxColumns = 10

/**
 * Take the steps that are left and write the files. Errors: those of the engine and of writing; CANCELLED after `signal`
 * and FAILED_PRECONDITION for numbers that are not finite, both with the edit saved and no result written.
 */
export async function runEdit(run: EditRun, signal: AbortSignal): Promise<void> {
  const { engine, progress, files } = run
  const edit = await engine.prepare(run.saved.state)
  for (const warning of edit.warnings) progress.say(`note: ${warning}`)
  const snapshots = new Map(run.saved.snapshots)
  const { steps } = edit.parameters
  const frames = new Map([[0, edit.state.picture]])
  if (files.filmstrip !== undefined || files.animation !== undefined) {
    for (const [step, z] of snapshots) if (step < edit.step) frames.set(step, await pictureOf(engine, edit, z))
  }
  const frameEvery = Math.ceil(steps / maxFrames)
  const save = async (path: string) => {
    const shape = variableShape(engine.pack, edit.parameters.space)
    await writeEditFile(path, { state: edit.state, packName: engine.pack.manifest.name, snapshots }, shape)
  }

  const clock = new Clock()
  let first: StepReport | undefined
  let last: StepReport | undefined
  while (!edit.done) {
    await setImmediate()
    if (signal.aborted) throw await stopped(run, edit, save)
    clock.start()
    const [report] = await engine.step([edit])
    const secondsPerStep = clock.stop()
    last = report!
    first ??= last
    if (run.json) printStep(last, secondsPerStep)
    if (last.failure !== undefined) throw await failed(run, edit, save, last.failure)
    progress.advance(edit.step, steps, details(edit, last, clock))
    if (last.step > 0 && (last.step % frameEvery === 0 || last.step % run.saveEvery === 0)) {
      frames.set(last.step, last.preview)
    }
    if (edit.step % run.saveEvery === 0) {
      snapshots.set(edit.step, edit.z)
      if (files.latents !== undefined) await save(files.latents)
    }
  }
  progress.end()

  const result = await engine.picture(edit)
  frames.set(edit.step, result)
  const written = await encodeAll(run, frames, result)
  if (files.latents !== undefined) await save(files.latents)
  for (const [path, bytes] of written) await writeFileAtomic(path, bytes)
  if (run.json) printLine({ event: 'result', step: edit.step, files })
  if (first !== undefined && last !== undefined) progress.say(summary(first, last, clock))
  for (const [kind, path] of Object.entries(files)) if (path !== undefined) progress.say(`  ${kind.padEnd(9)} ${path}`)
}

async function pictureOf(engine: Engine, edit: Edit, z: Float32Array): Promise<Picture> {
  return engine.picture(new Edit({ ...edit.state, z }, edit.specification, edit.constants, []))
}

/** Everything is encoded before the first file is written. */
async function encodeAll(
  { files, saveEvery }: EditRun,
  frames: ReadonlyMap<number, Picture>,
  result: Picture,
): Promise<Map<string, Uint8Array>> {
  const bytes = new Map([[files.picture, await encodePicture(result, { format: pictureFormat(files.picture) })]])
  const inOrder = [...frames].sort(([a], [b]) => a - b)
  if (files.filmstrip !== undefined) {
    const end = inOrder.at(-1)![0]
    const chosen = inOrder.filter(([step]) => step % saveEvery === 0 || step === end)
    const rows = Math.ceil(chosen.length / maxColumns)
    const columns = Math.ceil(chosen.length / rows)
    bytes.set(
      files.filmstrip,
      await filmstrip(
        chosen.map(([, frame]) => frame),
        { columns },
      ),
    )
  }
  if (files.animation !== undefined) {
    const frameMs = Math.round(Math.min(Math.max(5000 / inOrder.length, 40), 250))
    const roll = inOrder.map(([, frame]) => frame)
    bytes.set(files.animation, await animation(roll, { frameMs, holdLastMs: 2000 }))
  }
  return bytes
}

type Save = (path: string) => Promise<void>

async function stopped(run: EditRun, edit: Edit, save: Save): Promise<FlexitError> {
  run.progress.end()
  const { steps } = edit.parameters
  const fresh = edit.step === 0
  const path = run.files.latents ?? freeName(run.rescue)
  if (!fresh) await save(path)
  if (run.json) printLine({ event: 'stopped', step: edit.step, files: fresh ? {} : { latents: path } })
  if (fresh) return new FlexitError({ code: 'CANCELLED', message: 'before the first step; nothing is lost' })
  return new FlexitError({
    code: 'CANCELLED',
    message: `after step ${edit.step} of ${steps}; the edit is saved in ${path}, no result was written`,
    cure: `Go on with: ${run.resumeCommand(path)}`,
  })
}

async function failed(run: EditRun, edit: Edit, save: Save, failure: FlexitError): Promise<FlexitError> {
  run.progress.end()
  const path = run.files.latents ?? freeName(run.rescue)
  await save(path)
  if (run.json) printLine({ event: 'failed', step: edit.step, files: { latents: path } })
  const message = `${failure.message} in ${path}; no result was written`
  return new FlexitError({ code: failure.code, message, ...(failure.cure && { cure: failure.cure }), cause: failure })
}

/** Nobody asked for this file: it must not replace another. */
function freeName(path: string): string {
  const stem = path.slice(0, -extname(path).length)
  for (let i = 2; existsSync(path); i++) path = `${stem}-${i}.safetensors`
  return path
}

function printStep({ step, losses, similaritySource, similarityTarget }: StepReport, secondsPerStep: number): void {
  printLine({ event: 'step', step, losses, similaritySource, similarityTarget, secondsPerStep })
}

function printLine(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}

function details(edit: Edit, { losses, similarityTarget }: StepReport, clock: Clock): string[] {
  const { steps } = edit.parameters
  const left = (steps - edit.step) * clock.secondsPerStep
  const term = (name: string, value: number | undefined) => (value === undefined ? [] : [`${name} ${number(value)}`])
  return [
    `${String(edit.step).padStart(String(steps).length)}/${steps}`,
    `loss ${number(losses.total)}`,
    `target ${number(similarityTarget)}`,
    ...(clock.steps > 1 ? [clock.rate, edit.done ? 'done' : `${formatDuration(left)} left`] : []),
    ...term('clip', losses.clip),
    ...term('lpips', losses.lpips),
    ...term('latent', losses.latent),
  ]
}

function summary(first: StepReport, last: StepReport, clock: Clock): string {
  const change = (from: number, to: number) => `${number(from)} → ${number(to)}`
  const target = change(first.similarityTarget, last.similarityTarget)
  const source = change(first.similaritySource, last.similaritySource)
  return `likeness to the target ${target}, to the source ${source} ${dim(`in ${formatDuration(clock.totalSeconds)}`)}`
}

function number(value: number): string {
  return value.toFixed(3).replace('-', '−')
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

  get rate(): string {
    const seconds = this.secondsPerStep
    return seconds < 1 ? `${(1 / seconds).toFixed(1)} steps/s` : `${seconds.toFixed(1)} s/step`
  }
}
