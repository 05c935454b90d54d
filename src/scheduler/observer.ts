// What the scheduler tells of its work, for metrics and logs; it knows of no metrics library.
// Times are in ms of one monotonic clock, https://www.w3.org/TR/hr-time/

import type { Outcome, RefusalReason } from './api.js'
import type { FlexitError } from '../engine/errors.js'

export interface StepEvent {
  readonly device: string
  /** Edits in the batch. */
  readonly samples: number
  /** Of them, those whose step was thrown away: cancelled, or accepted at an earlier one. */
  readonly wasted: number
  /** Of them, those that the device prepared first. */
  readonly prepared: number
  readonly stepMs: number
  readonly prepareMs: number
}

/** All are optional, called on the main thread, and must not throw. */
export interface SchedulerObserver {
  onStep?(event: StepEvent): void
  /** Pictures of finished edits were drawn. */
  onDrawn?(event: { readonly device: string; readonly drawMs: number }): void
  onEnd?(event: { readonly kind: Outcome['kind']; readonly totalMs: number }): void
  /** A cancelled edit is in no batch any more. */
  onFreed?(event: { readonly cancelToFreedMs: number }): void
  onRefused?(event: { readonly reason: RefusalReason }): void
  /** A worker crashed or hung, or computed nothing, and was replaced. */
  onWorkerLost?(event: { readonly device: string; readonly error: unknown }): void
  /** A batch did not fit into memory. */
  onOutOfMemory?(event: { readonly device: string; readonly samples: number; readonly error: FlexitError }): void
  /** A device kept failing and is used no more. */
  onDeviceOut?(event: { readonly device: string; readonly error: unknown }): void
}
