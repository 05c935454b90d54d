// What an edit is told at admission: its place in the queue, about when it starts and how long it takes; or why not.
// Estimates are by what was measured (policies/rates.ts); nothing is promised.

import { AdmissionError, type AdmissionRequest, type RefusalReason, type Ticket } from './api.js'
import type { Holding } from './policies/admission.js'
import { canFinish } from './policies/deadlines.js'
import type { Rates } from './policies/rates.js'

export interface Estimate {
  readonly position: number
  readonly startMs: number | undefined
  readonly durationMs: number | undefined
  /** Of its steps on a quiet server. */
  readonly leastMs: number | undefined
}

export class AdmittedTicket implements Ticket {
  readonly request: AdmissionRequest
  readonly holding: Holding
  /** On the scheduler's clock. */
  readonly deadlineMs: number | undefined
  readonly position: number
  readonly estimatedStartMs: number | undefined
  readonly estimatedDurationMs: number | undefined
  readonly #release: () => void
  #isOpen = true

  constructor(request: AdmissionRequest, holding: Holding, estimate: Estimate, nowMs: number, release: () => void) {
    this.request = request
    this.holding = holding
    this.deadlineMs = request.deadlineMs === undefined ? undefined : nowMs + request.deadlineMs
    this.position = estimate.position
    this.estimatedStartMs = estimate.startMs
    this.estimatedDurationMs = estimate.durationMs
    this.#release = release
  }

  get isOpen(): boolean {
    return this.#isOpen
  }

  /** Its edit is there. */
  submit(): void {
    this.#isOpen = false
  }

  release(): void {
    if (this.#isOpen) this.#release()
    this.#isOpen = false
  }
}

/**
 * With `position` edits before it, which are taken to have as many steps as it has, but at least after `stepsBefore` steps
 * of others, on `devices` devices, and not before its graph's turn in `turnInMs`. Nothing is estimated of a graph that was
 * not measured. Edits before it may have other graphs: they are taken to be as fast as its own, or as the mean of all if
 * that is less, for an edit that could finish must not be refused.
 */
export function estimateOf(
  { steps, key }: AdmissionRequest,
  { position, stepsBefore, turnInMs }: Record<'position' | 'stepsBefore' | 'turnInMs', number>,
  devices: number,
  rates: Rates,
): Estimate {
  const { stepMs, sampleMs } = (key === undefined ? undefined : rates.of(key)) ?? {}
  if (stepMs === undefined || sampleMs === undefined) {
    return { position, startMs: undefined, durationMs: undefined, leastMs: undefined }
  }
  const beforeMs = Math.min(sampleMs, rates.all.sampleMs ?? Infinity)
  const startMs = Math.max((Math.max(position * steps, stepsBefore) * beforeMs) / devices, turnInMs)
  // But while sizes are tried, a batch is as large as pays: a sample in it takes no longer than a step alone.
  return { position, startMs, durationMs: steps * stepMs, leastMs: steps * sampleMs }
}

/**
 * By the least time: that of the last batches may be what a rush needed, and refused edits measure nothing that would
 * correct it. Errors: AdmissionError, for an edit that cannot finish in time.
 */
export function checkDeadline({ deadlineMs }: AdmissionRequest, { startMs, leastMs }: Estimate): void {
  if (deadlineMs === undefined || canFinish(startMs, leastMs, deadlineMs)) return
  const seconds = (ms = 0) => `${(ms / 1_000).toFixed(1)} s`
  throw new AdmissionError({
    code: 'FAILED_PRECONDITION',
    reason: 'deadline',
    message:
      `the edit cannot finish in the ${seconds(deadlineMs)} that its deadline leaves: ` +
      `it would wait for about ${seconds(startMs)} and run for at least ${seconds(leastMs)}`,
    cure: 'Allow more time, or ask for fewer steps.',
  })
}

export function unavailable(reason: RefusalReason, message: string): AdmissionError {
  return new AdmissionError({ code: 'UNAVAILABLE', reason, message, cure: 'Try another server, or this one later.' })
}
