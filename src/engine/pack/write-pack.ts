// Writes the files of a model pack, each measured as it goes; the manifest comes last, so that a pack is whole or no pack.
// The manifest's `bytes` and `sha256` are those of the files as written.

import { createHash } from 'node:crypto'
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { FlexitError, fileError, quoted, systemErrorCode } from '../errors.js'
import { writeFileAtomic } from '../files.js'
import { type Manifest, type PackFile, manifestName, parseManifest, readManifest } from './manifest.js'

/** Files by which a pull keeps others away. */
export const lockPattern = /^\.pull-(\d+)\.lock$/

export interface WriteProgress {
  /** The file that is being written, as the manifest names it. */
  readonly file: string
  /** Bytes of the whole pack, written and in all. */
  readonly bytes: number
  readonly totalBytes: number
}

export interface WriteOptions {
  readonly onProgress?: ((progress: WriteProgress) => void) | undefined
  readonly signal?: AbortSignal | undefined
}

type Chunks = Iterable<Uint8Array> | AsyncIterable<Uint8Array>

/** A file to be: its name in the pack, its size and its content. */
export interface NewFile {
  readonly name: string
  readonly bytes: number
  readonly chunks: () => Chunks
}

/**
 * Write `files` and then `pack.json` into `folder`, replacing a pack of the same name that is there. Returns the manifest
 * with its `files`. Errors: FAILED_PRECONDITION (the folder holds something else, no space, no permission), CANCELLED, before
 * anything was touched or later, and those of the contents; later the folder holds no manifest and no part of a file.
 */
export async function writePack(
  folder: string,
  manifest: Omit<Manifest, 'files'>,
  files: readonly NewFile[],
  { onProgress, signal }: WriteOptions = {},
): Promise<Manifest> {
  const manifestPath = join(folder, manifestName)
  checkSignal(signal)
  await checkFolder(
    folder,
    manifest.name,
    files.map(({ name }) => name),
  )
  await rm(manifestPath, { force: true }).catch((error: unknown) => {
    throw fileError(error, manifestPath, 'replace')
  })
  const totalBytes = files.reduce((sum, file) => sum + file.bytes, 0)
  let done = 0
  const written: Record<string, PackFile> = {}
  for (const { name, chunks } of files) {
    written[name] = await writeMeasured(join(folder, name), chunks(), (bytes) => {
      checkSignal(signal)
      done += bytes
      onProgress?.({ file: name, bytes: done, totalBytes })
    })
  }
  const text = JSON.stringify({ ...manifest, files: written }, null, 2) + '\n'
  const checked = parseManifest(text, manifestPath)
  await writeFileAtomic(manifestPath, text)
  return checked
}

function checkSignal(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new FlexitError({ code: 'CANCELLED', message: 'no pack was made' })
}

/**
 * Check that a folder holds nothing but the pack of this name, or what earlier tries of it have left: nothing else is
 * overwritten, or has a pack put beside it. Errors: FAILED_PRECONDITION, and those of reading the folder.
 */
export async function checkFolder(folder: string, name: string, files: readonly string[]): Promise<void> {
  const there = await readdir(folder).catch((error: unknown): string[] => {
    if (systemErrorCode(error) === 'ENOENT') return []
    throw fileError(error, folder, 'read')
  })
  const before = there.includes(manifestName) ? await readManifest(folder).catch(() => undefined) : undefined
  if (before?.name === name) return
  // What an earlier try left is of this pack too, but not a manifest, which is another's.
  const own = new Set(files.map((file) => file.split('/')[0]!))
  const unfinished = /^(.*)\.(?:[0-9a-f]{12}\.tmp|part|part\.json)$/
  const isOwn = (entry: string) =>
    own.has(entry) || [...own, manifestName].includes(unfinished.exec(entry)?.[1] ?? '') || lockPattern.test(entry)
  const other = there.find((entry) => !isOwn(entry))
  if (other === undefined) return
  throw new FlexitError({
    code: 'FAILED_PRECONDITION',
    message: `${folder} has files that are not of a pack ${name}: ${quoted(other)}`,
    cure: 'Choose a folder that is empty, or is not there yet.',
  })
}

async function writeMeasured(path: string, chunks: Chunks, onBytes: (bytes: number) => void): Promise<PackFile> {
  const hash = createHash('sha256')
  let bytes = 0
  async function* measured() {
    for await (const chunk of chunks) {
      hash.update(chunk)
      yield chunk
      bytes += chunk.byteLength
      onBytes(chunk.byteLength)
    }
  }
  await writeFileAtomic(path, measured())
  return { bytes, sha256: hash.digest('hex') }
}
