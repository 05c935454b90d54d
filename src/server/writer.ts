// Writing to a stream of grpc-js without filling memory: bytes are counted here, for `write` counts messages.
// After a cancellation neither `drain` nor a write's callback comes (grpc-js 1.14): waiting is raced with the end.

import type { ServerDuplexStream, ServerWritableStream } from '@grpc/grpc-js'
import type { EditEvent } from '../proto/messages.js'
import type { Allowance, Claim } from './allowance.js'
import { dropCall } from './connection.js'
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
  /** When the client last took something, or came. */
  #tookMs = performance.now()
  /** Since when it has taken not all. */
  #pendingSinceMs = 0
  #ending = false
  #over = false
  #waiting: (() => void)[] = []

  constructor(call: EventCall, allowance: Allowance) {
    this.#call = call
    this.#allowance = allowance
    const leave = allowance.join({
      stuckSinceMs: () => (this.#pendingBytes > 0 ? Math.max(this.#tookMs, this.#pendingSinceMs) : undefined),
      drop: () => dropCall(call),
    })
    this.closed = new Promise((resolve) => {
      const onOver = () => {
        leave()
        this.#over = true
        this.#release(this.#pendingBytes)
        this.#forceClaims()
        this.#wake()
        resolve()
      }
      call.once('cancelled', onOver).once('close', onOver).once('finish', onOver)
    })
  }

  /** Nothing more is taken. */
  get over(): boolean {
    return this.#over || this.#ending
  }

  /** Resolves when more may be written, or when nothing can be any more. */
  async write(event: EditEvent, bytes: number): Promise<void> {
    if (this.over) return
    const claim = this.#claim(bytes)
    if (claim === undefined) this.#write(event, bytes)
    else {
      this.#claims.add(claim)
      await claim.granted
      this.#claims.delete(claim)
      if (this.#over) this.#allowance.give(bytes)
      else this.#write(event, bytes)
      if (this.#ending) this.#finish()
      this.#wake()
    }
    await this.#until(() => this.#pendingBytes < highWaterBytes)
  }

  /** Resolves when all that was to be written is, and more may be; or when nothing can be any more. */
  async room(): Promise<void> {
    await this.#until(() => this.#pendingBytes < highWaterBytes && this.#claims.size === 0)
  }

  /** End the stream with OK, after what was written. */
  end(): void {
    if (this.over) return
    this.#ending = true
    this.#forceClaims()
    this.#finish()
  }

  /** End the stream with an error. */
  fail(error: unknown): void {
    if (this.over) return
    this.#over = true
    this.#call.emit('error', toServiceError(error))
    this.#forceClaims()
    this.#wake()
  }

  /** Undefined where nothing is to be waited for. */
  #claim(bytes: number): Claim | undefined {
    if (this.#pendingBytes > 0 || bytes > smallBytes) return this.#allowance.claim(bytes, this.#tookMs)
    this.#allowance.take(bytes)
    return undefined
  }

  #forceClaims(): void {
    for (const claim of this.#claims) claim.force()
  }

  #write(event: EditEvent, bytes: number): void {
    if (this.#pendingBytes === 0) this.#pendingSinceMs = performance.now()
    this.#pendingBytes += bytes
    this.#call.write(event, () => {
      this.#tookMs = performance.now()
      // All was released where the stream is gone.
      if (this.#pendingBytes > 0) this.#release(bytes)
      if (this.#pendingBytes === 0) [...this.#claims].find((claim) => claim.bytes <= smallBytes)?.force()
      this.#wake()
    })
  }

  #release(bytes: number): void {
    this.#pendingBytes -= bytes
    this.#allowance.give(bytes)
  }

  /** Once what waited is written. */
  #finish(): void {
    if (this.#over || this.#claims.size > 0) return
    this.#over = true
    this.#call.end()
    this.#wake()
  }

  async #until(isReady: () => boolean): Promise<void> {
    while (!this.#over && !isReady()) await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }
}
