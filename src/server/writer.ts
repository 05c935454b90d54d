// Writing to a stream of grpc-js without filling memory: bytes are counted here, for `write` counts messages.
// After a cancellation neither `drain` nor a write's callback comes (grpc-js 1.14): waiting is raced with the end.

import type { ServerDuplexStream, ServerWritableStream } from '@grpc/grpc-js'
import type { EditEvent } from '../proto/messages.js'
import { toServiceError } from './service-error.js'

/** Bytes that may lie in the process before a writer waits. */
const highWaterBytes = 1024 ** 2

export type EventCall = ServerDuplexStream<unknown, EditEvent> | ServerWritableStream<unknown, EditEvent>

export class Writer {
  /** Resolves when the stream is over, however. */
  readonly closed: Promise<void>
  readonly #call: EventCall
  #pendingBytes = 0
  #over = false
  #waiting: (() => void)[] = []

  constructor(call: EventCall) {
    this.#call = call
    this.closed = new Promise((resolve) => {
      const onOver = () => {
        this.#over = true
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
    this.#pendingBytes += bytes
    this.#call.write(event, () => {
      this.#pendingBytes -= bytes
      if (this.#pendingBytes < highWaterBytes) this.#wake()
    })
    await this.room()
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
    for (const resolve of this.#waiting.splice(0)) resolve()
  }
}
