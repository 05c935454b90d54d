// Writing to a stream of grpc-js without filling memory: bytes are counted here, for `write` counts messages.
// After a cancellation neither `drain` nor a write's callback comes (grpc-js 1.14): waiting is raced with the end.

import type { ServerDuplexStream, ServerWritableStream } from '@grpc/grpc-js'
import type { EditEvent } from '../proto/messages.js'
import type { Allowance, Claim } from './allowance.js'
import { toServiceError } from './service-error.js'

/** Bytes that may lie in the process before a writer waits. */
const highWaterBytes = 1024 ** 2

/** So much a stream gets at once that has taken all before, whatever others of its tenant leave unread. */
const smallBytes = 16 * 1024

export type EventCall = ServerDuplexStream<unknown, EditEvent> | ServerWritableStream<unknown, EditEvent>

export class Writer {
  /** Resolves when the stream is over, however. */
  readonly closed: Promise<void>
  readonly #call: EventCall
  /** Its tenant's. */
  readonly #allowance: Allowance
  readonly #claims = new Set<Claim>()
  #pendingBytes = 0
  #over = false
  #waiting: (() => void)[] = []

  constructor(call: EventCall, allowance: Allowance) {
    this.#call = call
    this.#allowance = allowance
    this.closed = new Promise((resolve) => {
      const onOver = () => {
        this.#over = true
        this.#release(this.#pendingBytes)
        this.#wake()
        resolve()
      }
      call.once('cancelled', onOver).once('close', onOver).once('finish', onOver)
    })
  }

  get over(): boolean {
    return this.#over
  }

  /** Resolves as `room` does. */
  async write(event: EditEvent, bytes: number): Promise<void> {
    if (this.#over) return
    const claim = this.#claim(bytes)
    if (claim !== undefined) {
      this.#claims.add(claim)
      await claim.granted
      this.#claims.delete(claim)
    }
    if (this.over) {
      this.#allowance.give(bytes)
      return
    }
    this.#pendingBytes += bytes
    this.#call.write(event, () => {
      // All was released where the stream is gone.
      if (this.#pendingBytes > 0) this.#release(bytes)
      if (this.#pendingBytes === 0) [...this.#claims].find((claim) => claim.bytes <= smallBytes)?.force()
      if (this.#pendingBytes < highWaterBytes) this.#wake()
    })
    await this.room()
  }

  /** Undefined where nothing is to be waited for. */
  #claim(bytes: number): Claim | undefined {
    if (this.#pendingBytes > 0 || bytes > smallBytes) return this.#allowance.claim(bytes)
    this.#allowance.take(bytes)
    return undefined
  }

  #release(bytes: number): void {
    this.#pendingBytes -= bytes
    this.#allowance.give(bytes)
  }

  /** Resolves when more may be written, or when nothing can be any more. */
  async room(): Promise<void> {
    if (this.#over || this.#pendingBytes < highWaterBytes) return
    await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  /** End the stream with OK, after what was written. */
  end(): void {
    if (this.#over) return
    this.#over = true
    this.#call.end()
    this.#wake()
  }

  /** End the stream with an error. */
  fail(error: unknown): void {
    if (this.#over) return
    this.#over = true
    this.#call.emit('error', toServiceError(error))
    this.#wake()
  }

  #wake(): void {
    if (this.#over) for (const claim of this.#claims) claim.force()
    for (const resolve of this.#waiting.splice(0)) resolve()
  }
}
