// Who makes the edits of an evaluation: devices of this machine, or servers. How many steps an edit is to have changes
// nothing of its steps: pictures on the way come with the result, and an edit can be gone on with later.

import { createHash } from 'node:crypto'
import type { EditParameters } from '../engine/parameters.js'
import type { Picture } from '../engine/picture.js'

export interface EditJob {
  /** Of its query, for messages. */
  readonly name: string
  /** At the pack's size. */
  readonly picture: Picture
  readonly source: string
  readonly target: string
  /** None left out. */
  readonly parameters: EditParameters
  /** Steps whose pictures are wanted, ascending, the last of them `parameters.steps`; 0 is the encoded input. */
  readonly at: readonly number[]
}

export interface EditOrder {
  /** A latent of this edit, of a step before all that are wanted. Default: that of the input. */
  readonly from: Latent | undefined
  /** Steps of `job.at`, ascending; the last is `parameters.steps`. */
  readonly wanted: readonly number[]
  /** Called at each step that is taken. */
  readonly onStep: () => void
}

export interface Latent {
  readonly step: number
  readonly z: Float32Array
}

export interface MadeEdit {
  /** By step, those that were wanted; fewer where the edit's numbers stopped being finite. */
  readonly pictures: ReadonlyMap<number, Picture>
  /** After the last step, where there is one. */
  readonly latent: Latent | undefined
}

export interface Editor {
  /** What its pictures depend on, besides the job. */
  readonly identity: readonly string[]
  /** How many edits it likes to have at a time. */
  readonly parallel: number
  /**
   * Make an edit, or go on with it. Errors: those of the engine and of servers; CANCELLED after `stop`.
   */
  edit(job: EditJob, order: EditOrder): Promise<MadeEdit>
  /** Cancel all edits. */
  stop(): void
}

/** Equal for jobs that give the same pictures, as far as both go. */
export function jobKey({ identity }: Editor, { picture, source, target, parameters }: EditJob): string {
  const { height, width, data } = picture
  return createHash('sha256')
    .update(JSON.stringify([identity, source, target, { ...parameters, steps: undefined }, height, width]))
    .update(data)
    .digest('hex')
}
