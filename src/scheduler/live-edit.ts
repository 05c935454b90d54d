// An edit that was submitted and did not end yet: its last state, and what is wished of it at the next step boundary.
// The wishes of src/scheduler/api.ts (RunningEdit); the scheduler decides and drives (scheduler.ts).

import type { EditState } from '../engine/edit.js'
import { FlexitError, invalidArgument } from '../engine/errors.js'
import { type EditParameters, checkText, defined } from '../engine/parameters.js'
import { type EditListener, type RunningEdit, type Updated, graphKey } from './api.js'
import type { Holding } from './policies/admission.js'
import type { Block } from './device-state.js'

export interface Change {
  readonly target?: string
  readonly parameters?: Partial<EditParameters>
}

type Aims = Pick<EditState, 'target' | 'parameters'>

/** What an edit asks of the scheduler, which acts at once where no step is under way. */
export interface Driver {
  onWish(edit: LiveEdit): void
  onBlock(edit: LiveEdit, reason: Block, blocked: boolean): void
  resolve(given: Partial<EditParameters>, pack: string): EditParameters
  now(): number
}

export class LiveEdit implements RunningEdit {
  readonly id: number
  readonly holding: Holding
  readonly listener: EditListener
  readonly submittedMs: number
  readonly #driver: Driver
  /** In a device's batch. */
  running = false
  /** Its steps are over; its picture is to be drawn. */
  finishing = false
  /** The listener has been told, or is about to be. */
  ended = false
  cancelledMs: number | undefined
  /** It was in a batch, or is. */
  started = false
  /** Its texts were not prepared yet, so that their warnings are news. */
  unprepared = true
  #state: EditState
  #acceptAt: number | undefined
  /** Waits for the end of the step under way. */
  #update: Aims | undefined

  constructor(
    id: number,
    state: EditState,
    holding: Holding,
    listener: EditListener,
    submittedMs: number,
    driver: Driver,
  ) {
    this.id = id
    this.#state = state
    this.holding = holding
    this.listener = listener
    this.submittedMs = submittedMs
    this.#driver = driver
  }

  get state(): EditState {
    return this.#state
  }

  /** What to go on from elsewhere: with what was updated, though no step was taken with it. */
  get resumable(): EditState {
    return { ...this.#state, ...this.#update }
  }

  /** Edits with the same one can share a batch: of one pack and one graph. */
  get key(): string {
    const { pack, parameters } = this.#state
    return graphKey(pack, parameters)
  }

  get stepsLeft(): number {
    return this.#state.parameters.steps - this.#state.step
  }

  /** Whether it was accepted at a step that it had already reached: one that is under way does not count any more. */
  get accepted(): boolean {
    return this.#acceptAt !== undefined && this.#acceptAt <= this.#state.step
  }

  get isComplete(): boolean {
    return this.accepted || this.stepsLeft <= 0
  }

  cancel(): void {
    if (this.ended || this.cancelledMs !== undefined) return
    this.cancelledMs = this.#driver.now()
    this.#driver.onWish(this)
  }

  accept(step = this.#state.step): void {
    if (this.ended || this.finishing || step >= (this.#acceptAt ?? Infinity)) return
    this.#acceptAt = step
    // It would be in force for no step: what the edit ends with is without it.
    if (this.#takesNoMoreSteps) this.#update = undefined
    this.#driver.onWish(this)
  }

  pause(): void {
    if (!this.ended) this.#driver.onBlock(this, 'paused', true)
  }

  resume(): void {
    if (!this.ended) this.#driver.onBlock(this, 'paused', false)
  }

  hold(held: boolean): void {
    if (!this.ended) this.#driver.onBlock(this, 'held', held)
  }

  update({ target, parameters = {} }: Change): Updated {
    if (this.ended || this.finishing || this.#takesNoMoreSteps) return { ...this.#state, pending: false }
    const before = this.#update ?? this.#state
    const after = {
      target: target === undefined ? before.target : checkText(target, 'target'),
      parameters: this.#driver.resolve({ ...before.parameters, ...defined(parameters) }, this.#state.pack),
    }
    this.#check(after.parameters)
    this.#update = after
    this.#driver.onWish(this)
    return { ...after, pending: this.running }
  }

  /** The step under way was taken. */
  advance(z: Float32Array): void {
    this.#state = { ...this.#state, step: this.#state.step + 1, z }
  }

  /** The latent that was drawn: where no step was taken, it is known only now. */
  settle(z: Float32Array): void {
    this.#state = { ...this.#state, z }
  }

  /** Take on what was updated; false: nothing was. */
  renew(): boolean {
    if (this.#update === undefined) return false
    this.#state = { ...this.#state, ...this.#update }
    this.#update = undefined
    this.unprepared = true
    return true
  }

  /** It was accepted at a step that it has reached, or reaches with the one under way. */
  get #takesNoMoreSteps(): boolean {
    return this.#acceptAt !== undefined && this.#acceptAt <= this.#state.step + (this.running ? 1 : 0)
  }

  #check(parameters: EditParameters): void {
    const { step, z, parameters: now } = this.#state
    const least = step + (this.running ? 2 : 1)
    if (parameters.steps < least) {
      if (parameters.steps === now.steps) {
        const cure = 'Start another edit, from the result of this one.'
        throw new FlexitError({ code: 'FAILED_PRECONDITION', message: 'the last step of the edit is under way', cure })
      }
      throw invalidArgument('steps', `the edit has passed step ${parameters.steps}`, `Ask for at least ${least} steps.`)
    }
    if (parameters.space !== now.space && (z !== undefined || this.running)) {
      throw new FlexitError({
        code: 'INVALID_ARGUMENT',
        field: 'space',
        message: `the edit has begun in the space of ${now.space === 'latent' ? 'latents' : 'pixels'}`,
        cure: 'Start another edit.',
      })
    }
  }
}
