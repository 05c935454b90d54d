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

/**
 * Pings the server every `keepaliveMs`, and gives the stream up when nothing came for one and a half times as long: a
 * proxy in between answers the connection's own pings though the server is gone.
 */
export class WireStream {
  readonly #call: EditCall
  readonly #keepaliveMs: number
  readonly #queue: EditEvent[] = []
  readonly #clock: NodeJS.Timeout
  #over: WireError | 'ended' | undefined
  #wake: () => void = () => undefined
  /** Counted, for a program that was busy or asleep itself must not take that for silence. */
  #ticks = 0
  #silent = 0
  #answered = false

  constructor(call: EditCall, keepaliveMs: number) {
    this.#call = call
    this.#keepaliveMs = keepaliveMs
    call.on('data', (event: EditEvent) => this.#hear(event))
    call.on('error', (error: ServiceError) => this.#end(callError(error)))
    call.on('end', () => this.#end('ended'))
    this.#clock = setInterval(() => this.#tick(), keepaliveMs / pingTicks)
  }

  /** How it ended, once all that came was taken; `ended`: without an error. */
  get over(): WireError | 'ended' | undefined {
    return this.#queue.length === 0 ? this.#over : undefined
  }

  /** Anything came, ever: the server was reached. */
  get answered(): boolean {
    return this.#answered
  }

  /** Does nothing after the end. */
  send(request: EditRequest): void {
    if (this.#over === undefined) this.#call.write(request)
  }

  /** The next message, or undefined where the stream is over. */
  async next(): Promise<EditEvent | undefined> {
    while (this.#queue.length === 0 && this.#over === undefined) {
      await new Promise<void>((resolve) => (this.#wake = resolve))
    }
    return this.#queue.shift()
  }

  /** Send no more. */
  end(): void {
    this.#call.end()
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
    this.#answered = true
    if (event.pong !== undefined || this.#over !== undefined) return
    this.#queue.push(event)
    this.#wake()
  }

  #end(how: WireError | 'ended'): void {
    clearInterval(this.#clock)
    this.#over ??= how
    this.#wake()
  }

  #tick(): void {
    this.#ticks += 1
    this.#silent += 1
    if (this.#ticks % pingTicks === 0) this.send({ ping: { everyMs: Math.round(this.#keepaliveMs) } })
    if (this.#silent < silentTicks) return
    const silentMs = Math.round((this.#keepaliveMs * silentTicks) / pingTicks)
    const message = `nothing was heard from the server for ${silentMs} ms`
    this.#end(new WireError({ code: 'UNAVAILABLE', message, cure: 'Check the network, and that the server runs.' }))
    this.#call.cancel()
  }
}
