// All edits of an evaluation, as many at a time as the editor likes; those that were made before are not made again.
// Results go to the store as soon as they are there, so that a stop loses only the edits that are under way.

import { FlexitError } from '../engine/errors.js'
import type { Picture } from '../engine/picture.js'
import { type EditJob, type Editor, jobKey } from './editor.js'
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

/**
 * Make the edits that the store does not have; returns the key of each, in order. Errors: those of the editor and of the
 * store; CANCELLED after `signal`.
 */
export async function makeEdits(jobs: readonly EditJob[], run: EditRun): Promise<string[]> {
  const { editor, store, signal, onProgress } = run
  const keys = jobs.map((job) => jobKey(editor, job))
  const missing = new Map<string, EditJob>()
  for (const [i, key] of keys.entries()) {
    const found = await store.readPictures(key, jobs[i]!.picture.width)
    if (found === undefined) missing.set(key, jobs[i]!)
    if (signal.aborted) throw stopped(i + 1 - missing.size, jobs.length)
  }
  const totalSteps = [...missing.values()].reduce((sum, { parameters }) => sum + parameters.steps, 0)
  let steps = 0
  let edits = jobs.length - missing.size
  const tell = () => onProgress({ edits, totalEdits: jobs.length, steps, totalSteps })
  const left = missing.entries()
  const lane = async () => {
    for (const [key, job] of left) {
      if (signal.aborted) return
      const pictures = await editor.edit(job, () => {
        steps++
        tell()
      })
      await store.writePictures(key, pictures)
      edits++
      tell()
    }
  }

  const stop = () => editor.stop()
  signal.addEventListener('abort', stop)
  const lanes = Array.from({ length: Math.min(editor.parallel, missing.size) }, lane)
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
  return keys
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
  key: string,
  { picture, at }: EditJob,
): Promise<{ readonly pictures: Picture[]; readonly failed: boolean }> {
  const made = await store.readPictures(key, picture.width)
  if (made === undefined || made.length > at.length) {
    throw new FlexitError({
      code: 'DATA_LOSS',
      message: `the pictures of an edit have gone from the store (${key.slice(0, 12)}…)`,
      cure: 'Run the command again: it makes those that are missing.',
    })
  }
  return { pictures: at.map((_, i) => made[i] ?? made.at(-1)!), failed: made.length < at.length }
}
