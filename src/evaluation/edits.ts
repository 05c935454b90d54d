// All edits of an evaluation, as many at a time as the editor likes; those that were made before are not made again.
// Results go to the store as soon as they are there, so that a stop loses only the edits that are under way.

import { FlexitError } from '../engine/errors.js'
import type { Picture } from '../engine/picture.js'
import { type EditJob, type Editor, type Latent, jobKey } from './editor.js'
import type { Store } from './store.js'

export interface EditProgress {
  readonly edits: number
  readonly totalEdits: number
  /** Taken in this run. */
  readonly steps: number
  /** To be taken in this run. */
  readonly totalSteps: number
}

export interface EditRun {
  readonly editor: Editor
  readonly store: Store
  readonly signal: AbortSignal
  readonly onProgress: (progress: EditProgress) => void
}

/** An edit whose pictures are in the store. */
export interface StoredEdit {
  readonly key: string
  /** Its numbers stopped being finite: after the last picture there is none. */
  readonly failed: boolean
}

interface Task {
  readonly job: EditJob
  readonly from: Latent | undefined
  readonly wanted: readonly number[]
}

/**
 * Make what the store does not have of the edits, going on from where it has one to; in order. Errors: those of the editor
 * and of the store; CANCELLED after `signal`.
 */
export async function makeEdits(jobs: readonly EditJob[], run: EditRun): Promise<StoredEdit[]> {
  const { editor, store, signal, onProgress } = run
  const keys = jobs.map((job) => jobKey(editor, job))
  const tasks = new Map<string, Task>()
  for (const [i, key] of keys.entries()) {
    const task = await taskOf(store, key, jobs[i]!)
    if (task !== undefined) tasks.set(key, task)
    if (signal.aborted) throw stopped(i + 1 - tasks.size, jobs.length)
  }
  const stepsOf = ({ job, from }: Task) => job.parameters.steps - (from?.step ?? 0)
  const totalSteps = [...tasks.values()].reduce((sum, task) => sum + stepsOf(task), 0)
  let steps = 0
  let edits = jobs.length - tasks.size
  const tell = () => onProgress({ edits, totalEdits: jobs.length, steps, totalSteps })
  const failed = new Set<string>()
  const left = tasks.entries()
  const lane = async () => {
    for (const [key, { job, from, wanted }] of left) {
      if (signal.aborted) return
      const onStep = () => {
        steps++
        tell()
      }
      const { pictures, latent } = await editor.edit(job, { from, wanted, onStep })
      for (const [step, picture] of pictures) await store.writePicture(key, step, picture)
      if (latent !== undefined) await store.writeLatent(key, latent)
      if (pictures.size < wanted.length) failed.add(key)
      edits++
      tell()
    }
  }

  const stop = () => editor.stop()
  signal.addEventListener('abort', stop)
  const lanes = Array.from({ length: Math.min(editor.parallel, tasks.size) }, lane)
  try {
    await Promise.all(lanes)
  } catch (error) {
    editor.stop()
    await Promise.allSettled(lanes)
    if (!signal.aborted) throw error
  } finally {
    signal.removeEventListener('abort', stop)
  }
  if (signal.aborted) throw stopped(edits, jobs.length)
  return keys.map((key) => ({ key, failed: failed.has(key) }))
}

/** What is missing of an edit. Undefined where nothing is. */
async function taskOf(store: Store, key: string, job: EditJob): Promise<Task | undefined> {
  const wanted = []
  for (const step of job.at) {
    if ((await store.readPicture(key, step, job.picture.width)) === undefined) wanted.push(step)
  }
  const [first] = wanted
  if (first === undefined) return undefined
  // The latent of step 0 is made from the input in any case.
  return { job, from: first === 0 ? undefined : await store.readLatent(key, first - 1), wanted }
}

function stopped(edits: number, all: number): FlexitError {
  return new FlexitError({
    code: 'CANCELLED',
    message: `after ${edits} of ${all} edits, which are kept`,
    cure: 'Run the same command again: it goes on with the others.',
  })
}

/**
 * Pictures of an edit that was made, for each step that was asked for. Where its numbers stopped being finite, the last
 * picture stands for those after it.
 */
export async function editPictures(
  store: Store,
  { key, failed }: StoredEdit,
  { picture, at }: EditJob,
): Promise<Picture[]> {
  const pictures: Picture[] = []
  for (const step of at) {
    const found = (await store.readPicture(key, step, picture.width)) ?? (failed ? pictures.at(-1) : undefined)
    if (found === undefined) {
      throw new FlexitError({
        code: 'DATA_LOSS',
        message: `the picture of a step has gone from the store (${key.slice(0, 12)}…, step ${step})`,
        cure: 'Run the command again: it makes those that are missing.',
      })
    }
    pictures.push(found)
  }
  return pictures
}
