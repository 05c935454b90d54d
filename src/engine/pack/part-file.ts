// The file that a download grows in, the hash of what it holds so far, and a note of where that came from.
// The note (`PART.json`) keeps the server's validator (RFC 9110, 8.8), by which a later run may ask for the rest.

import { type Hash, createHash } from 'node:crypto'
import { type FileHandle, open, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'
import { z } from 'zod'
import { fileError } from '../errors.js'

const noteSchema = z.object({ source: z.string(), validator: z.string() })
type Note = z.infer<typeof noteSchema>

/** All methods throw FlexitError: FAILED_PRECONDITION where there is no space or no permission. */
export class PartFile {
  readonly path: string
  readonly #file: FileHandle
  #hash: Hash
  #bytes: number
  #note: Note | undefined
  #begunBy: string | undefined

  private constructor(path: string, file: FileHandle, hash: Hash, bytes: number, note: Note | undefined) {
    this.path = path
    this.#file = file
    this.#hash = hash
    this.#bytes = bytes
    this.#note = note
  }

  /** Open or create the file and hash what an earlier download has left in it. */
  static async open(path: string): Promise<PartFile> {
    return translated(path, async () => {
      const file = await open(path, 'a+')
      const { size } = await file.stat()
      const hash = createHash('sha256')
      if (size > 0) await pipeline(file.createReadStream({ start: 0, autoClose: false }), hash, { end: false })
      return new PartFile(path, file, hash, size, size > 0 ? await readNote(path) : undefined)
    })
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Of what the file holds now, in lower-case hexadecimal. */
  get sha256(): string {
    return this.#hash.copy().digest('hex')
  }

  /** The strong ETag or the date by which `source` named the file that this is a part of. */
  validatorOf(source: string): string | undefined {
    return this.#note?.source === source ? this.#note.validator : undefined
  }

  /** The source that its first byte came from; undefined: that is not known, or it is empty. */
  get begunBy(): string | undefined {
    return this.#begunBy
  }

  async append(chunk: Uint8Array): Promise<void> {
    await translated(this.path, () => this.#file.appendFile(chunk))
    this.#hash.update(chunk)
    this.#bytes += chunk.length
  }

  /** Empty the file and forget where it came from. */
  async clear(): Promise<void> {
    await translated(this.path, async () => {
      if (this.#bytes > 0) await this.#file.truncate(0)
      await rm(notePath(this.path), { force: true })
    })
    this.#hash = createHash('sha256')
    this.#bytes = 0
    this.#note = undefined
    this.#begunBy = undefined
  }

  /** Begin again with what `source` sends. */
  async restart(source: string, validator: string | undefined): Promise<void> {
    await this.clear()
    this.#begunBy = source
    if (validator === undefined) return
    const note = { source, validator }
    await translated(this.path, () => writeFile(notePath(this.path), JSON.stringify(note)))
    this.#note = note
  }

  /** Put the whole file in its place. */
  async moveTo(path: string): Promise<void> {
    await translated(path, async () => {
      await this.#file.sync()
      await rename(this.path, path)
      await rm(notePath(this.path), { force: true })
    })
  }

  /** Close the file; one that is empty is removed. */
  async close(): Promise<void> {
    await this.#file.close()
    if (this.#bytes === 0) await rm(this.path, { force: true })
  }
}

function notePath(path: string): string {
  return `${path}.json`
}

/** A note that cannot be read is none: the download begins again. */
async function readNote(path: string): Promise<Note | undefined> {
  try {
    return noteSchema.safeParse(JSON.parse(await readFile(notePath(path), 'utf8'))).data
  } catch {
    return undefined
  }
}

async function translated<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    throw fileError(error, path, 'write')
  }
}
