// Bytes of a file or of a buffer, read by position and never beyond their end.
// Follows POSIX pread(2): one open file, no cursor, short reads continued.

import { createHash } from 'node:crypto'
import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import { FlexitError, fileError, invalidArgument } from '../errors.js'

export interface ByteSource {
  /** For messages. */
  readonly path: string
  /** In bytes. */
  readonly size: number
  /** Fill `target` with what starts at `position`. Errors: DATA_LOSS where the source ends before that. */
  readInto(target: Uint8Array, position: number): void
  close(): void
}

/** Bytes that are hashed before the event loop turns. */
const HASHED_BYTES = 2 ** 20

/** The most that one call of the operating system is asked for: readSync takes less than 2 GiB. */
const READ_BYTES = 2 ** 30

/** Open a regular file. Errors: those of `fileError`, INVALID_ARGUMENT for pipes and devices. */
export function openBytes(path: string): ByteSource {
  let file: number
  let size: number
  try {
    const stat = statSync(path)
    // Asked before opening, because opening a pipe waits for its writer.
    if (!stat.isFile() && !stat.isDirectory()) throw invalidArgument('path', `${path} is not a regular file`)
    if (stat.isDirectory()) throw invalidArgument('path', `cannot read ${path}: it is a folder`, 'Name a file.')
    file = openSync(path, 'r')
    size = fstatSync(file).size
  } catch (error) {
    throw fileError(error, path, 'open')
  }
  let open = true
  return {
    path,
    size,
    readInto(target, position) {
      if (!open) throw new FlexitError({ code: 'INTERNAL', message: `${path} was read after it was closed` })
      checkInside(this, position, target.byteLength)
      for (let done = 0; done < target.byteLength;) {
        const count = readChunk(file, path, target, done, position + done)
        if (count === 0) throw truncated(path, 'it became shorter while it was read')
        done += count
      }
    },
    close() {
      if (open) closeSync(file)
      open = false
    },
  }
}

/** A buffer as a source; it is not copied. `where` names it in messages. */
export function bytesOf(bytes: Uint8Array, where: string): ByteSource {
  return {
    path: where,
    size: bytes.byteLength,
    readInto(target, position) {
      checkInside(this, position, target.byteLength)
      target.set(bytes.subarray(position, position + target.byteLength))
    },
    close() {
      // There is nothing to give back.
    },
  }
}

/** A fresh copy of `length` bytes from `position` on. Errors: DATA_LOSS, RESOURCE_EXHAUSTED. */
export function readBytes(source: ByteSource, position: number, length: number): Uint8Array<ArrayBuffer> {
  checkInside(source, position, length)
  const bytes = allocate(source, length, (count) => new Uint8Array(count))
  source.readInto(bytes, position)
  return bytes
}

/** The sha256 of all that the source holds, in lower-case hexadecimal. Errors: those of `readInto`. */
export async function sha256Of(source: ByteSource): Promise<string> {
  const hash = createHash('sha256')
  const buffer = new Uint8Array(Math.min(HASHED_BYTES, source.size))
  for (let position = 0; position < source.size; position += buffer.length) {
    const chunk = buffer.subarray(0, source.size - position)
    source.readInto(chunk, position)
    hash.update(chunk)
    await setImmediate()
  }
  return hash.digest('hex')
}

/** Make an array whose size a file asks for. Errors: RESOURCE_EXHAUSTED. */
export function allocate<T>(source: ByteSource, length: number, make: (length: number) => T): T {
  try {
    return make(length)
  } catch (error) {
    throw new FlexitError({
      code: 'RESOURCE_EXHAUSTED',
      message: `no memory for ${length} values of ${source.path}`,
      cure: 'Use smaller weights or a machine with more memory.',
      cause: error,
    })
  }
}

function readChunk(file: number, path: string, target: Uint8Array, start: number, position: number): number {
  try {
    return readSync(file, target, start, Math.min(READ_BYTES, target.byteLength - start), position)
  } catch (error) {
    throw fileError(error, path, 'read')
  }
}

function checkInside(source: ByteSource, position: number, length: number): void {
  if (position < 0 || length < 0 || !(length <= source.size - position))
    throw truncated(source.path, `${length} bytes are wanted from ${position} on, it has ${source.size}`)
}

function truncated(path: string, how: string): FlexitError {
  return damaged(path, `the file is truncated: ${how}`)
}

/** The error of a file that is not what its reader was told: `why` follows the name of the file. */
export function damaged(path: string, why: string, cure = 'Download or export the file again.', cause?: unknown) {
  return new FlexitError({ code: 'DATA_LOSS', message: `${path}: ${why}`, cure, cause })
}
