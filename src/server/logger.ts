// Structured logs, one line of JSON each on stderr: ids and numbers, never pictures, texts or tokens.
// https://getpino.io

import { write, writeSync } from 'node:fs'
import { format } from 'node:util'
import { type DestinationStream, type Logger, pino, stdSerializers } from 'pino'

export type { Logger } from 'pino'

/** Of errors only what they say: foreign ones may carry what they were given. */
function err(error: unknown): object {
  const { type, code, message, stack } = stdSerializers.err(error instanceof Error ? error : new Error(String(error)))
  return { type, code: code as unknown, message, stack }
}

/** Default: stderr. What cannot be written there is dropped: a log must not stop what it tells of. */
export function createLogger(level: string, to: DestinationStream = standardError()) {
  return pino({ level, base: null, serializers: { err } }, to)
}

/** For `setLogger` of grpc-js, which logs for the whole process. */
export function grpcLogger(logger: Logger): Partial<Console> {
  const at =
    (level: 'error' | 'info' | 'debug') =>
    (...said: unknown[]) =>
      logger[level](`grpc: ${format(...said)}`)
  return { error: at('error'), info: at('info'), debug: at('debug') }
}

let shared: LogLines | undefined

/** One for the process, so that lines of several loggers are whole. */
function standardError(): LogLines {
  return (shared ??= new LogLines(2))
}

/** What waits for a reader that is behind; beyond it lines are dropped. */
const mostWaitingBytes = 1024 ** 2

const retryMs = 100

/**
 * Lines to a file descriptor, written in turn and off the main thread. pino's own destination keeps what a full disk
 * refuses, and at the end of the process tries to write it for ever (sonic-boom 4.2, `flushSync`).
 */
class LogLines implements DestinationStream {
  readonly #fd: number
  #waiting: Buffer[] = []
  #waitingBytes = 0
  #writing = false
  #dropped = 0

  constructor(fd: number) {
    this.#fd = fd
    process.once('exit', () => this.#flush())
  }

  write(line: string): void {
    if (this.#waitingBytes >= mostWaitingBytes) {
      this.#dropped += 1
      return
    }
    this.#push(line)
    if (this.#writing) return
    this.#writing = true
    // Not now: the last lines before an end of the process are for `#flush`.
    setImmediate(() => this.#next())
  }

  #push(line: string): void {
    const bytes = Buffer.from(line)
    this.#waiting.push(bytes)
    this.#waitingBytes += bytes.length
  }

  #next(): void {
    this.#writing = this.#waiting.length > 0
    if (!this.#writing) return
    const lines = this.#waiting.length
    const bytes = Buffer.concat(this.#waiting)
    const again = (rest: Buffer) => write(this.#fd, rest, (error, written) => done(rest, error, written))
    const done = (rest: Buffer, error: NodeJS.ErrnoException | null, written: number) => {
      if (error?.code === 'EAGAIN') {
        this.#waiting.unshift(rest)
        this.#waitingBytes += rest.length
        setTimeout(() => this.#next(), retryMs).unref()
      } else if (error !== null) {
        this.#dropped += lines
        this.#next()
      } else if (written < rest.length) {
        again(rest.subarray(written))
      } else {
        this.#tellDropped()
        this.#next()
      }
    }
    this.#waiting = []
    this.#waitingBytes = 0
    again(bytes)
  }

  /** Once lines are written again. */
  #tellDropped(): void {
    if (this.#dropped === 0) return
    const msg = 'lines of the log could not be written'
    this.#push(
      `${JSON.stringify({ level: pino.levels.values['warn'], time: Date.now(), lines: this.#dropped, msg })}\n`,
    )
    this.#dropped = 0
  }

  /** At the end of the process, once: what is refused then is let go. */
  #flush(): void {
    try {
      for (const bytes of this.#waiting.splice(0)) writeSync(this.#fd, bytes)
    } catch {
      // Nobody is left to be told.
    }
  }
}
