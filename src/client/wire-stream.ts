// One `Edit` call as its edit uses it: what came, in order, and how it ended; also that nothing comes any more.
// The protocol is proto/flexit/v1/editor.proto.

import type { ClientDuplexStream, ServiceError } from '@grpc/grpc-js'
import type { EditEvent, EditRequest } from '../proto/messages.js'
import { WireError } from '../proto/status.js'
import { callError } from './channel.js'

export type EditCall = ClientDuplexStream<EditRequest, EditEvent>

/** Ticks between two pings, and ticks without a word after which the stream counts as broken. */
const pingTicks = 4
const silentTicks = 6

/** Past its deadline an edit may end at any moment, but for a long step: its server is asked so often whether it is there. */
const lateKeepaliveMs = 2_000

export interface WireStreamSetup {
  readonly keepaliveMs: number
  /** Until the edit's deadline; Infinity: it has none. */
  readonly leftMs: number
  /** The first word is to come within this. Default: as every other one. */
  readonly answerMs?: number | undefined
  /** It was given up, and nothing ever came. */
  readonly onUnanswered: () => void
}

/**
 * Pings the server every `keepaliveMs`, and gives the stream up when nothing came for one and a half times as long: a
 * proxy in between answers the connection's own pings though the server is gone.
 */
export class WireStream {
  readonly #call: EditCall
  #keepaliveMs: number
  readonly #onUnanswered: () => void
  readonly #beginMs = performance.now()
  readonly #queue: EditEvent[] = []
  #clock: NodeJS.Timeout | undefined
  readonly #deadline: NodeJS.Timeout | undefined
  /** Runs until the next word. */
  #expecting: NodeJS.Timeout | undefined
  /** The first pong is the answer to a question that tells nothing of the edit. */
  #greeted = true
  #vainMs = 0
  #heard = false
  #over: WireError | 'ended' | undefined
  #wake: () => void = () => undefined
  /** Counted, for a program that was busy or asleep itself must not take that for silence. */
  #ticks = 0
  #silent = 0
  #answered = false

  constructor(call: EditCall, { keepaliveMs, leftMs, answerMs, onUnanswered }: WireStreamSetup) {
    this.#call = call
    this.#keepaliveMs = keepaliveMs
    this.#onUnanswered = onUnanswered
    call.on('data', (event: EditEvent) => this.#hear(event))
    call.on('error', (error: ServiceError) => this.#end(callError(error)))
    call.on('end', () => this.#end('ended'))
    this.#startClock()
    if (leftMs < Infinity) this.#deadline = setTimeout(() => this.#late(), Math.min(Math.max(0, leftMs), 2 ** 31 - 1))
    if (answerMs === undefined) return
    // Answered before a large picture is through.
    this.send({ ping: {} })
    this.#greeted = false
    this.#expect(answerMs)
  }

  /** How it ended, once all that came was taken; `ended`: without an error. */
  get over(): WireError | 'ended' | undefined {
    return this.#queue.length === 0 ? this.#over : undefined
  }

  /** Anything came, ever, but the answer to the first ping: the server was reached. */
  get answered(): boolean {
    return this.#answered
  }

  /** How long it was waited for before it ended without a word. */
  get vainMs(): number {
    return this.#vainMs
  }

  /** Does nothing after the end. */
  send(request: EditRequest): void {
    if (this.#over === undefined) this.#call.write(request)
  }

  /** The next message, or undefined where the stream is over or the wait was interrupted. */
  async next(): Promise<EditEvent | undefined> {
    if (this.#queue.length === 0 && this.#over === undefined) {
      await new Promise<void>((resolve) => (this.#wake = resolve))
    }
    return this.#queue.shift()
  }

  /** End a wait for the next message. */
  interrupt(): void {
    this.#wake()
  }

  /** Send no more. Does nothing after the end. */
  end(): void {
    if (this.#over === undefined) this.#call.end()
    this.#end('ended')
  }

  /** Nothing of it is wanted any more. */
  cancel(): void {
    this.#end('ended')
    this.#queue.length = 0
    this.#call.cancel()
  }

  #hear(event: EditEvent): void {
    this.#silent = 0
    this.#heard = true
    clearInterval(this.#expecting)
    this.#expecting = undefined
    this.#answered ||= event.pong === undefined || this.#greeted
    this.#greeted = true
    if (event.pong !== undefined || this.#over !== undefined) return
    this.#queue.push(event)
    this.#wake()
    // Nothing follows: a program that does not take it is not to be kept alive by it.
    if (event.completed ?? event.cancelled ?? event.failed ?? event.handedBack) {
      this.send({ editId: event.editId, acknowledge: { sequence: event.sequence } })
      this.end()
    }
  }

  #end(how: WireError | 'ended'): void {
    for (const timer of [this.#clock, this.#expecting, this.#deadline]) clearTimeout(timer)
    if (this.#over === undefined && !this.#heard) this.#vainMs = performance.now() - this.#beginMs
    this.#over ??= how
    this.#wake()
  }

  #tick(): void {
    this.#ticks += 1
    this.#silent += 1
    if (this.#ticks % pingTicks === 0) this.send({ ping: { everyMs: Math.round(this.#keepaliveMs) } })
    if (this.#silent === silentTicks) this.#giveUp((this.#keepaliveMs * silentTicks) / pingTicks)
  }

  #startClock(): void {
    clearInterval(this.#clock)
    this.#clock = setInterval(() => this.#tick(), this.#keepaliveMs / pingTicks)
  }

  #late(): void {
    this.#keepaliveMs = Math.min(this.#keepaliveMs, lateKeepaliveMs)
    this.#silent = 0
    this.#startClock()
  }

  /** Give the stream up unless something comes within `ms`, counted in ticks for the same reason. */
  #expect(ms: number): void {
    let ticks = 0
    this.#expecting ??= setInterval(() => {
      ticks += 1
      if (ticks === silentTicks) this.#giveUp(ms)
    }, ms / silentTicks)
  }

  #giveUp(silentMs: number): void {
    const message = `nothing was heard from the server for ${Math.round(silentMs)} ms`
    this.#end(new WireError({ code: 'UNAVAILABLE', message, cure: 'Check the network, and that the server runs.' }))
    this.#call.cancel()
    if (!this.#heard) this.#onUnanswered()
  }
}
