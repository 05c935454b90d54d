// Who makes the edits of an evaluation: devices of this machine, or servers. Pictures on the way come with the result,
// since an edit's parameters do not depend on how many steps it is to have.

import { createHash } from 'node:crypto'
import type { EditParameters } from '../engine/parameters.js'
import type { Picture } from '../engine/picture.js'

export interface EditJob {
  /** At the pack's size. */
  readonly picture: Picture
  readonly source: string
  readonly target: string
  /** None left out. */
  readonly parameters: EditParameters
  /** Steps whose pictures are wanted, ascending, the last of them `parameters.steps`; 0 is the encoded input. */
  readonly at: readonly number[]
}

export interface Editor {
  /** What its pictures depend on, besides the job. */
  readonly identity: readonly string[]
  /** How many edits it likes to have at a time. */
  readonly parallel: number
  /**
   * Make an edit; `onStep` is called at each step. Pictures of `job.at`; fewer where its numbers stopped being finite.
   * Errors: those of the engine and of servers; CANCELLED after `stop`.
   */
  edit(job: EditJob, onStep: () => void): Promise<Picture[]>
  /** Cancel all edits. */
  stop(): void
}

/** Equal for jobs that give the same pictures. */
export function jobKey({ identity }: Editor, { picture, source, target, parameters, at }: EditJob): string {
  const { height, width, data } = picture
  return createHash('sha256')
    .update(JSON.stringify([identity, source, target, parameters, at, height, width]))
    .update(data)
    .digest('hex')
}
