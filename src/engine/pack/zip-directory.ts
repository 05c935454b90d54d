// Where the entries of a zip archive lie, for archives that are read by position.
// Follows PKWARE's APPNOTE.TXT by way of yauzl; PyTorch stores its entries uncompressed.

import { RandomAccessReader, fromRandomAccessReaderPromise } from 'yauzl'
import type { Entry } from 'yauzl'
import { FlexitError, quoted } from '../errors.js'
import { damaged } from './byte-source.js'
import type { ByteSource } from './byte-source.js'

export interface ZipEntry {
  readonly start: number
  readonly size: number
  /** Its bytes are there as they are, neither compressed nor encrypted. */
  readonly plain: boolean
}

/** The entries of an archive by name. Errors: DATA_LOSS. */
export async function readZipDirectory(source: ByteSource): Promise<Map<string, ZipEntry>> {
  const entries = new Map<string, ZipEntry>()
  try {
    const archive = await fromRandomAccessReaderPromise(new SourceReader(source), source.size, { autoClose: false })
    for await (const entry of archive.eachEntry()) {
      const { fileDataStart } = await archive.readLocalFileHeaderPromise(entry, { minimal: true })
      if (entries.has(entry.fileName)) throw new Error(`two entries are named ${quoted(entry.fileName)}`)
      entries.set(entry.fileName, { start: fileDataStart, size: entry.compressedSize, plain: isPlain(entry) })
    }
  } catch (error) {
    if (error instanceof FlexitError) throw error
    const why = error instanceof Error ? error.message : String(error)
    throw damaged(source.path, `the archive is damaged or truncated: ${why}`, undefined, error)
  }
  return entries
}

function isPlain(entry: Entry): boolean {
  return entry.compressionMethod === 0 && !entry.isEncrypted()
}

/** Checks positions before they reach the operating system: yauzl passes on whatever a zip64 record says. */
class SourceReader extends RandomAccessReader {
  readonly #source: ByteSource

  constructor(source: ByteSource) {
    super()
    this.#source = source
  }

  override read(
    buffer: Buffer,
    offset: number,
    length: number,
    position: number,
    callback: (error: Error | null) => void,
  ): void {
    let failure: Error | null = null
    try {
      this.#source.readInto(buffer.subarray(offset, offset + length), position)
    } catch (error) {
      failure = error instanceof Error ? error : new Error(String(error))
    }
    callback(failure)
  }
}
