// Where results go: checked before the long work, so that it does not end in "no such folder".
// Files are written by `writeFileAtomic`: the old one stays until the new one is whole.

import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { access, realpath, stat } from 'node:fs/promises'
import { basename, dirname, extname, join, resolve } from 'node:path'
import { fileError, invalidArgument, systemErrorCode } from '../engine/errors.js'
import { firstBytes } from '../engine/files.js'

export interface OutputFile {
  /** The option that names it. */
  readonly option: string
  readonly path: string
  readonly extensions: readonly string[]
}

/**
 * Check that every output can be written, and that no two are one file or the input. Errors: INVALID_ARGUMENT,
 * FAILED_PRECONDITION (permission).
 */
export async function checkOutputs(outputs: readonly OutputFile[], input: string | undefined): Promise<void> {
  const taken = new Map<string, string>()
  if (input !== undefined) taken.set(await identity(input, 'read'), 'the input')
  for (const { option, path, extensions } of outputs) {
    if (!extensions.includes(extname(path).toLowerCase())) {
      const known = extensions.join(', ')
      throw invalidArgument(option, `${option}: the name ${path} does not end in ${known}`, `Use a name with ${known}.`)
    }
    await checkPlace(path, option)
    const id = await identity(path)
    const other = taken.get(id)
    if (other !== undefined) {
      throw invalidArgument(option, `${option} and ${other} are the same file, ${path}`, 'Give each its own name.')
    }
    taken.set(id, option)
  }
}

/** A file that is not there yet, in a folder that is there and can be written, or can be made. */
async function checkPlace(path: string, option: string): Promise<void> {
  const there = await statOrNothing(path)
  if (there !== undefined && !there.isFile()) {
    const what = there.isDirectory() ? 'a folder' : 'not a regular file'
    throw invalidArgument(option, `cannot write ${path}: it is ${what}`, 'Choose another name.')
  }
  const folder = await nearestFolder(path)
  try {
    await access(folder, constants.W_OK | constants.X_OK)
  } catch (error) {
    throw fileError(error, path, 'write')
  }
}

/** The nearest folder above `path` that is there. */
async function nearestFolder(path: string): Promise<string> {
  const folder = dirname(resolve(path))
  const there = await statOrNothing(folder)
  if (there === undefined) return nearestFolder(folder)
  if (there.isDirectory()) return folder
  throw invalidArgument('path', `cannot write ${path}: ${folder} is not a folder`, 'Choose another place.')
}

/** Equal for two names of one file, also through links. */
async function identity(path: string, doing = 'write'): Promise<string> {
  const there = await statOrNothing(path, doing)
  if (there !== undefined) return `${there.dev}:${there.ino}`
  const folder = await realpath(dirname(path)).catch(() => resolve(dirname(path)))
  return join(folder, basename(path))
}

/** Bytes of a name that leave room for an extension, and a number before it: file systems take 255 in all. */
const stemBytes = 234

/** A path's name without its extension, cut where no file could have it with `ending` and another extension. */
export function stemOf(path: string, ending = ''): string {
  return firstBytes(basename(path, extname(path)), stemBytes - Buffer.byteLength(ending)) + ending
}

/** Letters and digits of a text as a part of a file name. */
export function slug(text: string): string {
  const words = text.toLowerCase().match(/[\p{L}\p{N}]+/gu)
  if (words !== null) return words.join('-').slice(0, 60)
  // Two emojis are not to be one name.
  return `edit-${createHash('sha256').update(text).digest('hex').slice(0, 8)}`
}

async function statOrNothing(path: string, doing = 'write') {
  try {
    return await stat(path)
  } catch (error) {
    const code = systemErrorCode(error)
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw fileError(error, path, doing)
  }
}
