// Files that appear whole or not at all: written beside their place, flushed, then renamed (POSIX rename is atomic).

import { randomBytes } from 'node:crypto'
import { mkdir, open, readlink, realpath, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { fileError, systemErrorCode } from './errors.js'

/** Bytes of a file's name that its temporary one begins with: file systems take 255 in all. */
const keptBytes = 200

/**
 * Write `chunks` to `path` atomically: readers see the old file or the new one, never a part, also after a crash or on
 * a full disk. Creates the folder. A link stays one, and the file that it leads to is written; who may read a file that
 * is there may read the new one. Errors: FAILED_PRECONDITION (no space, no permission), INVALID_ARGUMENT (no place for a
 * file, a name that is too long), with nothing left behind.
 */
export async function writeFileAtomic(
  path: string,
  chunks: Uint8Array | string | Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): Promise<void> {
  const parts = typeof chunks === 'string' ? [Buffer.from(chunks)] : chunks instanceof Uint8Array ? [chunks] : chunks
  let temporary: string | undefined
  try {
    const target = await behindLinks(path)
    const mode = await modeOf(target)
    await makeFolder(dirname(target))
    temporary = temporaryName(target)
    const file = await open(temporary, 'wx', mode)
    try {
      // What the umask took away when it was opened.
      if (mode !== undefined) await file.chmod(mode)
      for await (const part of parts) await file.writeFile(part)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(temporary, target)
  } catch (error) {
    if (temporary !== undefined) await rm(temporary, { force: true }).catch(() => undefined)
    throw fileError(error, path, 'write')
  }
}

/** The file that a link leads to, whether it is there or not; of anything else its own path. */
async function behindLinks(path: string): Promise<string> {
  const link = await readlink(path).catch(() => undefined)
  if (link === undefined) return path
  try {
    return await realpath(path)
  } catch (error) {
    if (systemErrorCode(error) !== 'ENOENT') throw error
    return behindLinks(resolve(await realpath(dirname(path)), link))
  }
}

/** Permissions of a file that is there. */
function modeOf(path: string): Promise<number | undefined> {
  return stat(path).then(
    ({ mode }) => mode & 0o777,
    () => undefined,
  )
}

function temporaryName(path: string): string {
  return join(dirname(path), `${firstBytes(basename(path), keptBytes)}.${randomBytes(6).toString('hex')}.tmp`)
}

/** The beginning of a text, as whole characters. */
export function firstBytes(text: string, count: number): string {
  const bytes = Buffer.from(text)
  if (bytes.length <= count) return text
  const beginning = bytes.subarray(0, count).toString()
  return beginning.replace(/\uFFFD+$/, '')
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
