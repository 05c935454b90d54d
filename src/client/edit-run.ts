// One edit as an application sees it: its events, and what may be asked of it, across broken connections and servers
// that go away. The protocol is proto/flexit/v1/editor.proto.

import { randomUUID } from 'node:crypto'
import type { GivenParameters } from '../engine/parameters.js'
import type { EditEvent, EditRequest, EditState, ResumePoint, StartEdit, UpdateCommand } from '../proto/messages.js'
import { WireError, fromStatus } from '../proto/status.js'
import { type Channel, type Server, clientClosed } from './channel.js'
import {
  type ClientEvent,
  type CompletedEvent,
  type EditPoint,
  type StepEvent,
  type TerminalEvent,
  checkPoint,
  isTerminal,
  toClientEvent,
  toPoint,
} from './events.js'
import { type ClientEditRequest, toDeadline, toParameters, toStartEdit, wrongId } from './request.js'
import { type Patience, answerWithin, nextTry } from './retry.js'
import { Told } from './told.js'
import { WireStream } from './wire-stream.js'
import { wrongRequest, wrongStep, wrongUpdate } from './wrong-request.js'

/** What is sent of a request that is wrong. */
const nothing: StartEdit = { image: new Uint8Array(), sourceText: '', targetText: '' }

/** So many servers may lose the edit while it makes no step: it may be what ends them. */
const mostLosses = 7

/** A server that handed an edit back is asked after the others for so long. */
const handedBackMs = 10_000

/** What is to be another one from the next step on. */
export interface EditChange {
  readonly target?: string | undefined
  readonly parameters?: GivenParameters | undefined
}

/**
 * An edit under way: iterate over it, once, for its events. Exactly one of completed, cancelled and failed comes last.
 * An event counts as dealt with when the next one is asked for; an application that is slow slows only this edit.
 * Leaving the loop early cancels the edit. Iterating again is an error: FAILED_PRECONDITION.
 */
export class EditRun implements AsyncIterable<ClientEvent> {
  readonly id: string
  readonly #channel: Channel
  readonly #patience: Patience
  readonly #request: ClientEditRequest
  readonly #beginMs = performance.now()
  /** When the application gives up. */
  readonly #deadlineMs: number
  readonly #events: AsyncGenerator<ClientEvent, void>
  /** Its last event; undefined where nobody waited for it. */
  readonly #last: Promise<TerminalEvent | undefined>
  #settle!: (last: TerminalEvent | undefined) => void
  #iterated = false
  #result: Promise<CompletedEvent> | undefined
  /** From where it was to go on. */
  readonly #given: EditPoint | undefined
  /** Why it was never sent. */
  readonly #wrong: WireError | undefined
  /** What starts the edit anew: kept up to date with what was confirmed. */
  #start: StartEdit
  /** Its id on the present server; each start has its own. */
  #wireId: string
  #starts = 0
  #server: Server
  #stream: WireStream | undefined
  #sequence = 0
  /** Previews that the server left out until the last step that came, and those of them that the application has not heard of. */
  #dropped = 0
  #untold = 0
  /** The next step that the application has not heard of. */
  #nextStep: number
  #uid = ''
  /** Something was heard of the edit, ever. */
  #heard = false
  /** A stream was opened anew, and nothing was heard on it. */
  #recovering = false
  #lostMs: number | undefined
  #attempts = 0
  /** Servers that had the edit and forgot it, since its last new step. */
  #losses = 0
  /** Its last event was told. */
  #ended = false
  /** Nobody iterates any more. */
  #left = false
  #cancelled = false
  /** The application's. */
  #signal: AbortSignal | undefined
  readonly #onAbort = () => this.cancel()
  /** Ends a wait. */
  readonly #waker = new AbortController()
  #paused = false
  /** The present start may have been paused: only then has it to hear of `resume`. */
  #pauseSent = false
  #accept: { readonly step: number } | undefined
  #unconfirmed: UpdateCommand[] = []
  #updates = 0
  /** What to say of wishes that were never sent. */
  #refused: ClientEvent[] = []
  readonly #heardOf = new Told()

  /** @internal `FlexitClient.edit` makes it. */
  constructor(channel: Channel, request: ClientEditRequest, patience: Patience) {
    const { id = randomUUID(), deadlineMs = Infinity, resumeFrom, signal } = (request as ClientEditRequest | null) ?? {}
    this.id = id
    this.#channel = channel
    this.#request = request
    this.#patience = patience
    this.#deadlineMs = this.#beginMs + deadlineMs
    this.#wrong = wrongId(id) ?? wrongRequest(request)
    this.#start = this.#wrong === undefined ? toStartEdit(request) : nothing
    this.#given = resumeFrom
    this.#nextStep = resumeFrom?.step ?? 0
    this.#wireId = this.id
    this.#last = new Promise((resolve) => (this.#settle = resolve))
    this.#events = this.#run()
    this.#server = channel.choose()
    if (this.#wrong !== undefined) return
    this.#signal = signal
    signal?.addEventListener('abort', this.#onAbort)
    if (signal?.aborted === true) this.#cancelled = true
    else if (!channel.closed) this.#open({ start: this.#start })
  }

  /** Errors: FAILED_PRECONDITION (it was iterated over, or its result was asked for, before). */
  [Symbol.asyncIterator](): AsyncIterator<ClientEvent, void> {
    if (this.#iterated) {
      const message = 'the events of an edit can be iterated over once, also by result()'
      const cure = 'Keep what you need of them in the first loop; result() may be called beside it.'
      throw new WireError({ code: 'FAILED_PRECONDITION', message, cure })
    }
    this.#iterated = true
    return {
      next: () => this.#events.next(),
      return: () => {
        this.#leave()
        return this.#events.return()
      },
    }
  }

  /** Stop at the next step. May be called again. */
  cancel(): void {
    this.#cancelled = true
    this.#waker.abort()
    this.#send({ cancel: {} })
  }

  /**
   * End with the picture of step `step`, or of the present one. Of several calls the earliest step counts. What is no
   * whole number changes nothing, and is answered by the event `rejected`.
   */
  acceptAt(step?: number): void {
    const wrong = wrongStep(step)
    if (wrong !== undefined) {
      this.#refuse(wrong)
      return
    }
    this.#accept = { step: Math.min(step ?? this.#nextStep, this.#accept?.step ?? Infinity) }
    this.#send({ accept: { step } })
  }

  pause(): void {
    this.#paused = true
    this.#pauseSent = true
    this.#send({ pause: {} })
  }

  resume(): void {
    this.#paused = false
    this.#send({ resume: {} })
  }

  /** Another aim from the next step on. Answered by an event: `updated` or `rejected`. */
  update(change: EditChange): void {
    const wrong = wrongUpdate(change)
    if (wrong !== undefined) {
      this.#refuse(wrong)
      return
    }
    this.#updates += 1
    const { target, parameters } = change
    const update = {
      targetText: target,
      parameters: parameters === undefined ? null : toParameters(parameters),
      number: this.#updates,
    }
    this.#unconfirmed.push(update)
    this.#send({ update })
  }

  #refuse(error: WireError): void {
    this.#refused.push({ kind: 'rejected', error })
    this.#stream?.interrupt()
  }

  /**
   * Wait for the end: in place of iterating, or beside a loop, whose last event it waits for (not within one, which would
   * wait for itself). May be called again. Errors: WireError where it failed or was cancelled.
   */
  result(): Promise<CompletedEvent> {
    return (this.#result ??= this.#toResult())
  }

  async #toResult(): Promise<CompletedEvent> {
    let last: ClientEvent | undefined
    if (this.#iterated) last = await this.#last
    else for await (const event of this) last = event
    if (last?.kind === 'completed') return last
    if (last?.kind === 'failed') throw last.error
    throw new WireError({ code: 'CANCELLED', message: 'the edit was cancelled' })
  }

  async *#run(): AsyncGenerator<ClientEvent, void> {
    try {
      if (this.#wrong !== undefined) yield this.#told({ kind: 'failed', error: this.#wrong, point: this.#given })
      // Cancelled before it was sent.
      else if (this.#cancelled && this.#stream === undefined && !this.#channel.closed)
        yield this.#told(this.#cancellation())
      while (!this.#ended && !this.#left) {
        const stream = this.#stream
        const message = this.#refused.length > 0 ? undefined : await stream?.next()
        for (const event of message === undefined ? await this.#withoutMessage() : await this.#read(message)) {
          yield this.#told(event)
        }
        const sequence = message?.sequence ?? 0
        if (sequence > 0 && stream === this.#stream) this.#send({ acknowledge: { sequence } })
      }
    } finally {
      this.#leave()
    }
  }

  #told(event: ClientEvent): ClientEvent {
    if (isTerminal(event)) {
      this.#ended = true
      this.#settle(event)
    }
    return event
  }

  /** The edit goes no further for this program; it is cancelled unless it has ended. */
  #leave(): void {
    if (!this.#ended) this.cancel()
    this.#signal?.removeEventListener('abort', this.#onAbort)
    this.#settle(undefined)
    this.#left = true
    this.#stream?.end()
    this.#stream = undefined
  }

  /** What is to be said of wishes that were not sent, or of a stream that is over; nothing where nobody iterates. */
  async #withoutMessage(): Promise<ClientEvent[]> {
    if (this.#left) return []
    if (this.#refused.length > 0) return this.#refused.splice(0)
    return this.#stream === undefined || this.#stream.over !== undefined ? this.#recover() : []
  }

  /** What of a message is for the application; a message that cannot be read ends the edit. */
  async #read(message: EditEvent): Promise<ClientEvent[]> {
    try {
      return await this.#take(message)
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      this.cancel()
      return [this.#failure(error)]
    }
  }

  /** Errors: DATA_LOSS (what cannot be read). */
  async #take(message: EditEvent): Promise<ClientEvent[]> {
    const { failed, handedBack, rejected, cancelled, updated, accepted } = message
    if (handedBack?.state != null) {
      this.#goOnFrom(handedBack.state)
      return this.#startAnew()
    }
    // Its server gave it up while this program could not be reached. Who cancels it means it.
    if (cancelled?.abandoned === true && !this.#cancelled) {
      this.#keep(cancelled.resumePoint)
      return this.#startAnew()
    }
    const status = failed?.status ?? rejected?.status
    const error = status == null ? undefined : fromStatus(status)
    // The edit is not known there: that server is another one, or was started anew.
    if (rejected !== undefined && error?.status === 'NOT_FOUND') {
      return this.#recovering ? this.#startAfterLoss() : []
    }
    // Its start was rejected: no event of the edit will come.
    const unstarted = error?.status === 'ALREADY_EXISTS' || error?.field === 'id'
    if (rejected !== undefined && unstarted) return [this.#failure(error)]
    // It was not admitted.
    const passing = error?.status === 'UNAVAILABLE' || error?.retryAfterMs !== undefined
    if (failed !== undefined && message.sequence === 1 && passing) {
      return this.#tryAgain(error, () => this.#startAnew())
    }

    if (message.sequence > 0) this.#sequence = message.sequence
    const answered = updated?.number ?? rejected?.updateNumber
    this.#unconfirmed = this.#unconfirmed.filter(({ number }) => number !== answered)
    if (updated !== undefined) {
      this.#start = { ...this.#start, targetText: updated.targetText, parameters: updated.parameters }
      // From an earlier latent, steps that were taken with the old aim would be taken with the new one.
      this.#keep(updated.resumePoint)
    }
    if (accepted !== undefined) {
      this.#uid = accepted.uid
      this.#start = { ...this.#start, parameters: accepted.parameters }
    }
    const resumed: ClientEvent[] = this.#recovering ? [{ kind: 'resumed', step: this.#nextStep }] : []
    this.#heard = true
    this.#recovering = false
    this.#reached()
    const event = toClientEvent(message, this.#dropped)
    if (message.step !== undefined) this.#dropped = message.droppedPreviews
    if (event === undefined) return resumed
    if (event.kind !== 'step') return this.#heardOf.repeats(event) ? resumed : [...resumed, event]
    this.#keep(message.step!.resumePoint)
    return [...resumed, ...this.#takeStep(event)]
  }

  /** A step, unless it was heard of before or comes only for the library's own latents. */
  #takeStep(event: StepEvent): StepEvent[] {
    const { stepEvery = 1, latents } = this.#request
    if (event.step < this.#nextStep) return []
    this.#heardOf.step()
    this.#nextStep = event.step + 1
    this.#losses = 0
    this.#untold += event.droppedPreviews
    const asked = stepEvery > 0 && event.step % stepEvery === 0
    const point = latents === undefined ? undefined : event.point
    if (!asked && event.preview === undefined && point === undefined) return []
    const droppedPreviews = this.#untold
    this.#untold = 0
    return [{ ...event, point, droppedPreviews }]
  }

  /** Remember the last latent that the edit can go on from. Errors: DATA_LOSS (what cannot be read). */
  #keep(point: ResumePoint | null | undefined): void {
    checkPoint(point)
    if (point?.latent?.type === 'NUMBER_TYPE_FLOAT32') this.#start = { ...this.#start, resumeFrom: point }
  }

  /** Errors: DATA_LOSS (what cannot be read). */
  #goOnFrom({ image, sourceText, targetText, parameters, resumePoint }: EditState): void {
    checkPoint(resumePoint)
    this.#start = { ...this.#start, image, sourceText, targetText, parameters, resumeFrom: resumePoint }
    // The one that handed it back is going away.
    this.#channel.avoid(this.#server, handedBackMs)
    this.#server = this.#channel.choose()
  }

  /** The stream broke before the edit ended. */
  async #recover(): Promise<ClientEvent[]> {
    if (this.#channel.closed) return [this.#failure(clientClosed())]
    // An edit that waits or is paused is silent through several connections: its server was reached all the same.
    if (this.#stream?.answered === true) this.#reached()
    const over = this.#stream?.over
    const error = over instanceof WireError ? over : streamEnded()
    const passing = ['UNAVAILABLE', 'INTERNAL', 'CANCELLED'].includes(error.status)
    return passing ? this.#tryAgain(error, () => this.#attach()) : [this.#failure(error)]
  }

  #reached(): void {
    this.#lostMs = undefined
    this.#attempts = 0
  }

  /** Wait a little, more each time; the first time at the server that has the edit. Gives up in the end. */
  async #tryAgain(error: WireError, again: () => ClientEvent[]): Promise<ClientEvent[]> {
    // The server that cannot be reached gives the edit up by itself.
    if (this.#cancelled && this.#attempts > 0) return [this.#cancellation()]
    const nowMs = performance.now()
    if (nowMs >= this.#deadlineMs) return [this.#failure(overdue(error))]
    this.#lostMs ??= nowMs - (this.#stream?.vainMs ?? 0)
    const attempt = this.#attempts++
    const lostMs = nowMs - this.#lostMs
    const tried = { attempt, lostMs, heard: this.#heard, servers: this.#channel.servers.length }
    const delayMs = nextTry(tried, error.retryAfterMs, this.#patience)
    if (delayMs === undefined) return [this.#failure(error)]
    const choice = attempt > 0 || !this.#heard || error.retryAfterMs !== undefined
    if (choice) this.#channel.avoid(this.#server, delayMs)
    if (choice) this.#server = this.#channel.choose()
    const others = choice && this.#server.avoidUntilMs <= nowMs
    await this.#channel.sleep(Math.min(others ? 0 : delayMs, this.#deadlineMs - nowMs), this.#waker.signal)
    if (this.#channel.closed) return [this.#failure(clientClosed())]
    return again()
  }

  #attach(): ClientEvent[] {
    this.#recovering = true
    // Nothing was heard yet: the start may not have arrived.
    if (!this.#heard) return this.#startAnew()
    this.#open({ attach: { afterSequence: this.#sequence, uid: this.#uid } })
    this.#repeatWishes()
    return []
  }

  #startAfterLoss(): ClientEvent[] {
    if (!this.#paused) this.#losses += 1
    if (this.#losses <= mostLosses) return this.#startAnew()
    const message = `${this.#losses} servers lost the edit before they took step ${this.#nextStep}`
    const cure = 'It may be what ends them: see their logs before you try again.'
    return [this.#failure(new WireError({ code: 'INTERNAL', message, cure }))]
  }

  #startAnew(): ClientEvent[] {
    if (this.#channel.closed) return [this.#failure(clientClosed())]
    if (this.#cancelled) return [this.#cancellation()]
    this.#starts += 1
    this.#recovering = this.#heard
    this.#heardOf.restart()
    this.#wireId = `${this.id}:${this.#starts}`
    this.#sequence = 0
    this.#dropped = 0
    this.#pauseSent = false
    const deadlineMs = toDeadline(this.#deadlineMs - performance.now())
    const underWayMs = Math.round(performance.now() - this.#beginMs)
    this.#open({ start: { ...this.#start, underWayMs, begun: this.#heardOf.started, deadlineMs } })
    this.#repeatWishes()
    return []
  }

  /** What was asked for while no server heard it. */
  #repeatWishes(): void {
    if (this.#cancelled) this.#send({ cancel: {} })
    if (this.#paused) this.pause()
    else if (this.#pauseSent) this.resume()
    for (const update of this.#unconfirmed) this.#send({ update })
    if (this.#accept !== undefined) this.#send({ accept: { step: this.#accept.step } })
  }

  #open(command: Omit<EditRequest, 'editId'>): void {
    this.#stream?.cancel()
    const { call, shared, onUnanswered } = this.#channel.openEdit(this.#server)
    const { keepaliveMs } = this.#channel
    const leftMs = this.#deadlineMs - performance.now()
    const answerMs = this.#heard ? undefined : this.#answerMs(shared, leftMs)
    this.#stream = new WireStream(call, { keepaliveMs, leftMs, answerMs, onUnanswered })
    this.#send(command)
  }

  /** For a server to be heard of: it is to be found within `startMs`. */
  #answerMs(shared: boolean, leftMs: number): number {
    const lostMs = this.#lostMs === undefined ? 0 : performance.now() - this.#lostMs
    const tried = { attempt: this.#attempts, lostMs, servers: this.#channel.servers.length }
    const answerMs = answerWithin(tried, shared, { startMs: this.#patience.startMs, leftMs })
    // Longer than it takes to be given up in any case; a timer's number, too, where the patience has no end.
    return Math.min(answerMs, 2 * this.#channel.keepaliveMs)
  }

  #send(command: Omit<EditRequest, 'editId'>): void {
    this.#stream?.send({ editId: this.#wireId, ...command })
  }

  #cancellation(): ClientEvent {
    return { kind: 'cancelled', point: toPoint(this.#start.resumeFrom) }
  }

  #failure(error: WireError): ClientEvent {
    return { kind: 'failed', error, point: toPoint(this.#start.resumeFrom) }
  }
}

function streamEnded(): WireError {
  const message = 'the server ended the stream before the edit ended'
  return new WireError({ code: 'UNAVAILABLE', message, cure: 'Try again.' })
}

function overdue(cause: WireError): WireError {
  const message = `the edit did not end within its deadline, for ${cause.message}`
  return new WireError({ code: 'DEADLINE_EXCEEDED', message, cure: 'Allow more time.', cause })
}
