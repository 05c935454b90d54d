// The seam between the scheduler and what computes: a device takes batches, one at a time.
// Implemented by worker-device.ts, and by fakes in tests.

import type { EditState, StepReport } from '../engine/edit.js'
import type { FlexitError } from '../engine/errors.js'
import type { Picture } from '../engine/picture.js'

/** One edit of a batch. With `state` the device prepares it first; without, it has it prepared. */
export interface BatchItem {
  readonly id: number
  readonly state?: EditState
}

export interface DeviceBatch {
  /** `step`: take each edit a step further; all share a specification. `draw`: draw the picture of each one's latent. */
  readonly kind: 'step' | 'draw'
  readonly items: readonly BatchItem[]
  /** Edits to forget, before anything else. */
  readonly forget: readonly number[]
}

export type ItemResult =
  /** `z`: the latent after the step. `warnings`: set where the edit was prepared. */
  | {
      readonly kind: 'stepped'
      readonly id: number
      readonly report: StepReport
      readonly z: Float32Array
      readonly warnings: readonly string[] | undefined
    }
  | { readonly kind: 'drawn'; readonly id: number; readonly picture: Picture; readonly z: Float32Array }
  /** This edit cannot go on, and keeps its state; the others are not touched. */
  | { readonly kind: 'failed'; readonly id: number; readonly error: FlexitError }
  /** The device does not have it: its worker was replaced while it had nothing to do. */
  | { readonly kind: 'unknown'; readonly id: number }

export type DeviceResult =
  | {
      readonly kind: 'done'
      /** One for each item, in order. */
      readonly results: readonly ItemResult[]
      readonly stepMs: number
      /** For all edits that were prepared. */
      readonly prepareMs: number
      /** False where a graph was built or loaded meanwhile. */
      readonly measured: boolean
    }
  /** The batch did not fit into memory; no edit took a step. */
  | { readonly kind: 'out-of-memory'; readonly error: FlexitError }
  /** The device computes nothing at present, which is no edit's fault; no edit took a step. As after a crash otherwise. */
  | { readonly kind: 'broken'; readonly error: FlexitError }

export interface StepDevice {
  /** `cuda:0` */
  readonly name: string
  /** Rejects where the worker crashed or hung: everything that it had prepared is gone, and it has been replaced. */
  run(batch: DeviceBatch): Promise<DeviceResult>
  close(): Promise<void>
}
