// What was made already, in a folder, by the hash of everything that shapes it: a stopped evaluation goes on, and
// evaluations share what they have in common. Files appear whole or not at all, and may be deleted at any time.

import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { encodePicture } from '../engine/encode.js'
import { FlexitError, fileError, systemErrorCode } from '../engine/errors.js'
import { writeFileAtomic } from '../engine/files.js'
import {
  type Safetensors,
  type TensorData,
  isAltered,
  parseSafetensors,
  sealSafetensors,
} from '../engine/pack/safetensors.js'
import { type Picture, readPicture } from '../engine/picture.js'
import type { Latent } from './editor.js'

export class Store {
  readonly #folder: string

  constructor(folder: string) {
    this.#folder = folder
  }

  /** The picture of a step of an edit, of a square size. Undefined where it is not there. */
  async readPicture(key: string, step: number, size: number): Promise<Picture | undefined> {
    const bytes = await this.#read(this.#picturePath(key, step))
    if (bytes === undefined || bytes.length < 24) return undefined
    if (bytes.readUInt32BE(16) !== size || bytes.readUInt32BE(20) !== size) return undefined
    return whole(readPicture(bytes, { height: size, width: size, background: 'white' }))
  }

  /** Errors: FAILED_PRECONDITION (space, permission). */
  async writePicture(key: string, step: number, picture: Picture): Promise<void> {
    await writeFileAtomic(this.#picturePath(key, step), await encodePicture(picture, { format: 'png' }))
  }

  /** The last latent of an edit that was made to a step not after this one. Undefined where there is none. */
  async readLatent(key: string, notAfter: number): Promise<Latent | undefined> {
    const steps = (await this.#list(this.#editFolder(key))).flatMap(
      (name) => /^(\d+)\.safetensors$/.exec(name)?.[1] ?? [],
    )
    const sorted = steps
      .map(Number)
      .filter((step) => step <= notAfter)
      .sort((a, b) => b - a)
    for (const step of sorted) {
      const path = this.#latentPath(key, step)
      const bytes = await this.#read(path)
      const z = bytes && (await whole(() => new Float32Array(intact(bytes, path).raw('z').buffer)))
      if (z !== undefined) return { step, z }
    }
    return undefined
  }

  /** Errors: FAILED_PRECONDITION (space, permission). */
  async writeLatent(key: string, { step, z }: Latent): Promise<void> {
    const bytes = sealSafetensors([{ name: 'z', dtype: 'F32', shape: [z.length], data: z }])
    await writeFileAtomic(this.#latentPath(key, step), bytes)
  }

  /** Arrays of float64 by name. Undefined where they are not there. */
  async readArrays<T extends string>(key: string, names: readonly T[]): Promise<Record<T, Float64Array> | undefined> {
    const path = this.#arrayPath(key)
    const bytes = await this.#read(path)
    if (bytes === undefined) return undefined
    return whole(() => {
      const file = intact(bytes, path)
      return Object.fromEntries(names.map((name) => [name, new Float64Array(file.raw(name).buffer)])) as Record<
        T,
        Float64Array
      >
    })
  }

  /** Errors: FAILED_PRECONDITION (space, permission). */
  async writeArrays(key: string, arrays: Readonly<Record<string, Float64Array>>): Promise<void> {
    const tensors = Object.entries(arrays).map(([name, data]): TensorData => ({
      name,
      dtype: 'F64',
      shape: [data.length],
      data,
    }))
    await writeFileAtomic(this.#arrayPath(key), sealSafetensors(tensors))
  }

  #editFolder(key: string): string {
    return join(this.#folder, 'edits', key)
  }

  #picturePath(key: string, step: number): string {
    return join(this.#editFolder(key), `${step}.png`)
  }

  #latentPath(key: string, step: number): string {
    return join(this.#editFolder(key), `${step}.safetensors`)
  }

  #arrayPath(key: string): string {
    return join(this.#folder, 'opinions', `${key}.safetensors`)
  }

  #read(path: string): Promise<Buffer<ArrayBuffer> | undefined> {
    return present(readFile(path), path)
  }

  async #list(path: string): Promise<readonly string[]> {
    return (await present(readdir(path), path)) ?? []
  }
}

async function present<T>(reading: Promise<T>, path: string): Promise<T | undefined> {
  try {
    return await reading
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined
    throw fileError(error, path, 'read')
  }
}

/** Errors: DATA_LOSS, also for values that are not those that were written. */
function intact(bytes: Uint8Array, path: string): Safetensors {
  const file = parseSafetensors(bytes, path)
  if (isAltered(file)) throw new FlexitError({ code: 'DATA_LOSS', message: `${path} was altered` })
  return file
}

/** A damaged file is as good as none: its content is made again. */
async function whole<T>(reading: Promise<T> | (() => T)): Promise<T | undefined> {
  try {
    return await (typeof reading === 'function' ? reading() : reading)
  } catch (error) {
    if (error instanceof FlexitError) return undefined
    throw error
  }
}
