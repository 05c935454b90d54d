// The bytes of a pickle: the numbers, lines and strings that opcodes are followed by.
// Follows the argument descriptors of CPython's Lib/pickletools.py.

import { damaged, readBytes } from './byte-source.js'
import type { ByteSource } from './byte-source.js'

/** Weights lie outside of pickles: what is left is names and shapes. */
export const MAX_PICKLE_BYTES = 2 ** 25
const WINDOW_BYTES = 2 ** 16
const MAX_LINE_BYTES = 1024
const MAX_INTEGER_BYTES = 1024

/** Reads through a window, because its end is not known before it is reached. */
export class PickleInput {
  readonly #source: ByteSource
  readonly #limit: number
  #window: Buffer = Buffer.alloc(0)
  #windowStart: number
  position: number

  constructor(source: ByteSource, position: number) {
    this.#source = source
    this.#limit = position + MAX_PICKLE_BYTES
    this.#windowStart = position
    this.position = position
  }

  get path(): string {
    return this.#source.path
  }

  error(what: string) {
    return damaged(this.path, `${what} (at byte ${this.position})`)
  }

  /** The next bytes; they are good until the next call. */
  take(length: number): Buffer {
    const start = this.position
    if (length > this.#limit - start) throw this.error(`the pickle is larger than ${MAX_PICKLE_BYTES} bytes`)
    if (length > this.#source.size - start) throw this.error('the file is truncated: the pickle does not end')
    if (start < this.#windowStart || start + length > this.#windowStart + this.#window.length) {
      const wanted = Math.min(Math.max(length, WINDOW_BYTES), this.#source.size - start)
      this.#window = Buffer.from(readBytes(this.#source, start, wanted).buffer)
      this.#windowStart = start
    }
    this.position += length
    return this.#window.subarray(start - this.#windowStart, this.position - this.#windowStart)
  }

  /** An unsigned integer of 1, 2, 4 or 8 bytes, little-endian. */
  uint(length: 1 | 2 | 4 | 8): number {
    const bytes = this.take(length)
    return length === 8 ? Number(bytes.readBigUInt64LE()) : bytes.readUIntLE(0, length)
  }

  /** A signed integer of any length, little-endian. */
  integer(length: number): number | bigint {
    if (length > MAX_INTEGER_BYTES) throw this.error(`the pickle has an integer of ${length} bytes`)
    if (length === 0) return 0
    const digits = Buffer.from(this.take(length)).reverse().toString('hex')
    return exactNumber(BigInt.asIntN(8 * length, BigInt(`0x${digits}`)))
  }

  /** An integer or truth value of protocol 0. */
  decimal(): number | bigint | boolean {
    const text = this.line()
    if (text === '00' || text === '01') return text === '01'
    if (text.length > MAX_INTEGER_BYTES || !/^-?\d+L?$/.test(text)) throw this.error('the pickle has a bad integer')
    return exactNumber(BigInt(text.replace('L', '')))
  }

  /** A string of protocol 0. */
  literal(): string {
    const [, , text] = /^(['"])([^\\]*)\1$/.exec(this.line()) ?? []
    if (text === undefined) throw this.error('the pickle has a string that is not plain')
    return text
  }

  line(): string {
    const start = this.position
    for (let length = 0; length < MAX_LINE_BYTES; length++) {
      if (this.uint(1) !== 0x0a) continue
      this.position = start
      const text = this.take(length).toString()
      this.position++
      return text
    }
    throw this.error('the pickle has a line that does not end')
  }
}

function exactNumber(value: bigint): number | bigint {
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : value
}
