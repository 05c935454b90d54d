// Files that appear whole or not at all: written beside their place, flushed, then renamed (POSIX rename is atomic).

import { randomBytes } from 'node:crypto'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { fileError, systemErrorCode } from './errors.js'

/**
 * Write `chunks` to `path` atomically: readers see the old file or the new one, never a part, also after a crash or on
 * a full disk. Creates the folder. Errors: FAILED_PRECONDITION (no space, no permission), with nothing left behind.
 */
export async function writeFileAtomic(
  path: string,
  chunks: Uint8Array | string | Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): Promise<void> {
  const parts = typeof chunks === 'string' ? [Buffer.from(chunks)] : chunks instanceof Uint8Array ? [chunks] : chunks
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`
  try {
    await makeFolder(dirname(path))
    const file = await open(temporary, 'wx')
    try {
      for await (const part of parts) await file.writeFile(part)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined)
    throw fileError(error, path, 'write')
  }
}

/**
 * Create a folder and those above it, as far as they are missing. Node's recursive mkdir is not used: it never returns
 * where a file system goes on answering ENOENT, as /proc does. Errors: those of the file system, untranslated.
 */
export async function makeFolder(path: string): Promise<void> {
  const make = () =>
    mkdir(path).catch(async (error: unknown) => {
      if (systemErrorCode(error) !== 'EEXIST' || !(await stat(path)).isDirectory()) throw error
    })
  try {
    await make()
  } catch (error) {
    const parent = dirname(path)
    const isThere = () => stat(parent).then(Boolean, () => false)
    if (systemErrorCode(error) !== 'ENOENT') throw error
    // A parent that is there now may have been made by somebody else since.
    if (!(await isThere())) await makeFolder(parent)
    await make()
  }
}
