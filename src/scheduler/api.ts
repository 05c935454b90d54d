// What the scheduler offers to the floor above it: admission, running edits, and what they report.

import type { EditState, StepReport } from '../engine/edit.js'
import { FlexitError, type FlexitErrorOptions } from '../engine/errors.js'
import { type EditParameters, specificationKey, specificationOf } from '../engine/parameters.js'
import type { Picture } from '../engine/picture.js'
import type { AdmissionLimit } from './policies/admission.js'

/** Classes of urgency: a higher one is served before a lower one. */
export type Priority = 'interactive' | 'normal' | 'batch'

/** Why an edit was not admitted; a word for metrics. */
export type RefusalReason = AdmissionLimit | 'deadline' | 'draining' | 'no device'

/** An edit that was not admitted. */
export class AdmissionError extends FlexitError {
  readonly reason: RefusalReason
  /** When to try again; undefined: trying again does not help. */
  readonly retryAfterMs: number | undefined

  constructor(options: FlexitErrorOptions & { readonly reason: RefusalReason; readonly retryAfterMs?: number }) {
    super(options)
    this.reason = options.reason
    this.retryAfterMs = options.retryAfterMs
  }
}

/** Equal for edits of one pack (its digest) and one graph, which can share a batch. */
export function graphKey(pack: string, parameters: EditParameters): string {
  return `${pack} ${specificationKey(specificationOf(parameters))}`
}

/** What is known of an edit before its image is decoded. */
export interface AdmissionRequest {
  readonly tenant: string
  readonly priority: Priority
  /** Bytes that the request holds in memory until the edit starts. */
  readonly bytes: number
  readonly steps: number
  /** Its `graphKey`, by whose measured steps its time is estimated; undefined: nothing is estimated. */
  readonly key?: string
  /** Since it was first asked for: an edit that comes from another server keeps its place among its tenant's. */
  readonly underWayMs?: number
  /** It had begun there: it goes before those of its tenant that wait for a first step. */
  readonly begun?: boolean
  /** Time left until the caller gives up; undefined: no deadline. */
  readonly deadlineMs?: number
}

/** A place in the queue, taken before any decoding. It must be submitted, or else released; both once. */
export interface Ticket {
  /** Edits that are before it, and the estimates by the measured step time; undefined before anything was measured. */
  readonly position: number
  readonly estimatedStartMs: number | undefined
  readonly estimatedDurationMs: number | undefined
  release(): void
}

/**
 * How an edit ended. `state` is the last one: what a client needs to go on elsewhere. Unless the edit was completed it
 * has also what was updated since.
 */
export type Outcome =
  | { readonly kind: 'completed'; readonly picture: Picture; readonly state: EditState }
  | { readonly kind: 'cancelled'; readonly state: EditState }
  | { readonly kind: 'failed'; readonly error: FlexitError; readonly state: EditState }
  /** The server goes away; the client may resume from the state on another one. */
  | { readonly kind: 'handed-back'; readonly state: EditState }

/** Called on the main thread, in order; nothing follows `onEnd`. They must not throw. */
export interface EditListener {
  /** Once, when the edit is in a batch for the first time: the first step is about to be taken. */
  onStarted(): void
  /** The edit was prepared, at first or anew after an update, and this is to be said of its texts. */
  onWarnings?(warnings: readonly string[]): void
  /** What was updated while a step was under way is in force from now on: `state` has it. */
  onRenewed?(state: EditState): void
  /** A step was taken: its report (the picture of `report.step`) and the state after it. */
  onStep(report: StepReport, state: EditState): void
  onEnd(outcome: Outcome): void
}

/** What an update came to. */
export type Updated = Pick<EditState, 'target' | 'parameters'> & { readonly pending: boolean }

/** An edit under way. Every call acts at the next step boundary, is idempotent, and does nothing after the end. */
export interface RunningEdit {
  /** After the last step that was reported; one more may be under way. */
  readonly state: EditState
  /** End with `state`; a step under way is thrown away. */
  cancel(): void
  /**
   * Finish with the latent of step `step` once it is reached; left out or already reached: with that of `state`, and a
   * step under way is thrown away. Of several calls the earliest step counts.
   */
  accept(step?: number): void
  pause(): void
  resume(): void
  /**
   * New target text or parameters from the next step on. Returns those that are then in force; the old ones where the
   * change comes too late. `pending`: a step is under way, after which `onRenewed` is called; otherwise `state` has them.
   * Errors: INVALID_ARGUMENT, with the edit unchanged.
   */
  update(change: { readonly target?: string; readonly parameters?: Partial<EditParameters> }): Updated
  /** Not scheduled while held: its reader is behind. A step under way is still reported. */
  hold(held: boolean): void
}

export interface SchedulerApi {
  /**
   * Errors: AdmissionError, with code RESOURCE_EXHAUSTED (and `retryAfterMs`), FAILED_PRECONDITION (a deadline that
   * cannot be met) or UNAVAILABLE (draining, no device left).
   */
  admit(request: AdmissionRequest): Ticket
  /** Begin, or go on from, `state`. The listener is not called before this returns. */
  submit(ticket: Ticket, state: EditState, listener: EditListener): RunningEdit
}
