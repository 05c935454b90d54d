// A scheduler without networks: deterministic steps, taken when the test lets them be taken.
// Keeps the contract of src/scheduler/api.ts: changes at step boundaries, nothing after onEnd.

import type { EditState } from '../../src/engine/edit.js'
import { FlexitError } from '../../src/engine/errors.js'
import type { Picture } from '../../src/engine/picture.js'
import {
  AdmissionError,
  type AdmissionRequest,
  type EditListener,
  type RunningEdit,
  type SchedulerApi,
  type Ticket,
  type Updated,
} from '../../src/scheduler/api.js'

export interface FakeOptions {
  /** Length of a latent. */
  readonly length: number
  /** Steps that every edit may take before the test allows more. Default: all. */
  readonly allowed?: number
  /** Edits that have a place; more are refused. */
  readonly places?: number
  /** What a refused edit is told. Default 1500. */
  readonly retryAfterMs?: number
}

export class FakeScheduler implements SchedulerApi {
  readonly admitted: AdmissionRequest[] = []
  readonly edits: FakeEdit[] = []
  released = 0
  /** Edits that asked for a place. */
  asked = 0
  readonly #options: FakeOptions
  #taken = 0
  #allowedLater = 0
  #gone = false

  constructor(options: FakeOptions) {
    this.#options = options
  }

  admit(request: AdmissionRequest): Ticket {
    const { places = Infinity, retryAfterMs = 1500 } = this.#options
    this.asked += 1
    if (this.#taken >= places) {
      const message = 'the queue is full'
      throw new AdmissionError({ code: 'RESOURCE_EXHAUSTED', message, reason: 'edits', retryAfterMs })
    }
    this.#taken += 1
    this.admitted.push(request)
    let open = true
    const release = () => {
      if (open) this.#taken -= 1
      if (open) this.released += 1
      open = false
    }
    return { position: this.edits.length, estimatedStartMs: 10, estimatedDurationMs: undefined, release }
  }

  submit(_ticket: Ticket, state: EditState, listener: EditListener): RunningEdit {
    const { length, allowed = Infinity } = this.#options
    const edit = new FakeEdit(state, listener, length, allowed + this.#allowedLater, () => (this.#taken -= 1))
    this.edits.push(edit)
    if (this.#gone) edit.handBack()
    return edit
  }

  /** Let every edit take `steps` more, also one that is yet to be submitted. */
  allow(steps: number): void {
    this.#allowedLater += steps
    for (const edit of this.edits) edit.allow(steps)
  }

  handBack(): void {
    this.#gone = true
    for (const edit of this.edits) edit.handBack()
  }
}

type Wish = 'cancel' | 'hand-back'

class FakeEdit implements RunningEdit {
  state: EditState
  held = false
  /** Resolves when it is held for the first time. */
  readonly wasHeld: Promise<void>
  /** Resolves when it has ended. */
  readonly ended: Promise<void>
  /** Of each step, for as long as somebody holds it. */
  readonly previews: WeakRef<Picture>[] = []
  /** The step that it began with. */
  readonly first: number
  #onOver: () => void = () => undefined
  #onHeld: () => void = () => undefined
  readonly #listener: EditListener
  readonly #length: number
  readonly #onEnd: () => void
  #allowed: number
  #accepted = Infinity
  #paused = false
  #wish: Wish | undefined
  #over = false
  #scheduled = false
  /** Waits for the next step boundary, as if a step were under way. */
  #update: Pick<EditState, 'target' | 'parameters'> | undefined
  #started = false

  constructor(state: EditState, listener: EditListener, length: number, allowed: number, onEnd: () => void) {
    this.state = state
    this.#listener = listener
    this.#length = length
    this.#allowed = allowed
    this.#onEnd = onEnd
    this.first = state.step
    this.ended = new Promise((resolve) => (this.#onOver = resolve))
    this.wasHeld = new Promise((resolve) => (this.#onHeld = resolve))
    this.#wake()
  }

  allow(steps: number): void {
    this.#allowed += steps
    this.#wake()
  }

  /** At once where no step can be under way. */
  cancel(): void {
    this.#wish ??= 'cancel'
    if (this.#paused || this.held) this.#turn()
    else this.#wake()
  }

  /** Also one that was cancelled, as if its step were under way. */
  handBack(): void {
    this.#wish = 'hand-back'
    this.#wake()
  }

  accept(step = this.state.step): void {
    this.#accepted = Math.min(this.#accepted, Math.max(step, this.state.step))
    this.#wake()
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    this.#paused = false
    this.#wake()
  }

  hold(held: boolean): void {
    this.held = held
    if (held) this.#onHeld()
    this.#wake()
  }

  update({ target, parameters = {} }: Parameters<RunningEdit['update']>[0]): Updated {
    if (this.#over) return { ...this.state, pending: false }
    if (parameters.steps !== undefined && parameters.steps < 1) {
      throw new FlexitError({ code: 'INVALID_ARGUMENT', field: 'steps', message: 'steps cannot be 0', cure: 'Use 1.' })
    }
    const before = this.#update ?? this.state
    const after = { target: target ?? before.target, parameters: { ...before.parameters, ...parameters } }
    // No step can be under way.
    if (this.#paused || this.held || this.#allowed <= 0) {
      this.state = { ...this.state, ...after }
      return { ...after, pending: false }
    }
    this.#update = after
    this.#wake()
    return { ...after, pending: true }
  }

  #wake(): void {
    if (this.#scheduled || this.#over) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.#turn()
    })
  }

  #turn(): void {
    if (this.#over) return
    if (!this.#started) {
      this.#started = true
      const long = this.state.target.length > 100
      this.#listener.onStarted()
      if (long) this.#listener.onWarnings?.(['the target text has 200 tokens; the rest is cut off'])
    }
    if (this.#update !== undefined) {
      this.state = { ...this.state, ...this.#update }
      this.#update = undefined
      this.#listener.onRenewed?.(this.state)
    }
    const { state } = this
    const end = (outcome: Parameters<EditListener['onEnd']>[0]) => {
      this.#over = true
      this.#onEnd()
      this.#listener.onEnd(outcome)
      this.#onOver()
    }
    if (this.#wish === 'cancel') end({ kind: 'cancelled', state })
    else if (this.#wish === 'hand-back') end({ kind: 'handed-back', state })
    else if (state.target === 'explode') {
      end({ kind: 'failed', state, error: new FlexitError({ code: 'INTERNAL', message: 'it exploded' }) })
    } else if (state.step >= Math.min(state.parameters.steps, this.#accepted)) {
      // Where no step was taken, what was drawn is known only now.
      const z = state.z ?? new Float32Array(this.#length)
      end({ kind: 'completed', state: { ...state, z }, picture: pictureOf(state) })
    } else if (!this.#paused && !this.held && this.#allowed > 0) {
      this.#allowed -= 1
      this.#step()
      this.#wake()
    }
  }

  /** Depends on everything that a state has, as a real step does. */
  #step(): void {
    const { step, parameters, target, picture, z = new Float32Array(this.#length) } = this.state
    const drive = picture.data[step % picture.data.length]! + target.length + parameters.seed + parameters.lambdaP
    const preview = pictureOf(this.state)
    this.previews.push(new WeakRef(preview))
    const next = z.map((value, i) => Math.fround(value * 0.9 + Math.sin(i + step + drive)))
    this.state = { ...this.state, step: step + 1, z: next }
    const report = {
      step,
      losses: { total: next[0]!, clip: drive, lpips: 0.5, latent: undefined },
      similaritySource: 0.25,
      similarityTarget: step / 100,
      preview,
      failure: undefined,
    }
    this.#listener.onStep(report, this.state)
  }
}

/** Noise that depends on the step, so that it does not compress (the finaliser of MurmurHash3). */
function pictureOf({ step, picture: { height, width } }: EditState): Picture {
  const data = Uint8Array.from({ length: height * width * 3 }, (_, i) => {
    const mixed = Math.imul(i + Math.imul(step + 1, 0x9e3779b1), 0x85ebca6b)
    return Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35) >>> 24
  })
  return { height, width, data }
}
