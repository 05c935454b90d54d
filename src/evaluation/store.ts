// What was made already, in a folder, by the hash of everything that shapes it: a stopped evaluation goes on, and
// evaluations share what they have in common. Files appear whole or not at all, and may be deleted at any time.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { encodePicture } from '../engine/encode.js'
import { FlexitError, fileError, systemErrorCode } from '../engine/errors.js'
import { writeFileAtomic } from '../engine/files.js'
import { type TensorData, parseSafetensors, serialiseSafetensors } from '../engine/pack/safetensors.js'
import { type Picture, longestSide, readPicture } from '../engine/picture.js'

/** How many pictures of a size the store can keep of an edit. */
export function mostPictures(size: number): number {
  return Math.floor(longestSide / size)
}

export class Store {
  readonly #folder: string

  constructor(folder: string) {
    this.#folder = folder
  }

  /** Pictures of one square size, as one PNG: the first above the second. Undefined where they are not there. */
  async readPictures(key: string, size: number): Promise<Picture[] | undefined> {
    const bytes = await this.#read(this.#picturePath(key))
    if (bytes === undefined || bytes.length < 24) return undefined
    const [width, height] = [bytes.readUInt32BE(16), bytes.readUInt32BE(20)]
    if (width !== size || height % size !== 0) return undefined
    const strip = await whole(readPicture(bytes, { height, width, background: 'white' }))
    if (strip === undefined) return undefined
    const length = 3 * size * size
    return Array.from({ length: height / size }, (_, i) => ({
      height: size,
      width: size,
      data: strip.data.subarray(i * length, (i + 1) * length),
    }))
  }

  /** At most `mostPictures`: more could not be read. Errors: FAILED_PRECONDITION (space, permission). */
  async writePictures(key: string, pictures: readonly Picture[]): Promise<void> {
    const [{ width, height }] = pictures as [Picture]
    const strip = { width, height: height * pictures.length, data: Buffer.concat(pictures.map(({ data }) => data)) }
    await writeFileAtomic(this.#picturePath(key), await encodePicture(strip, { format: 'png' }))
  }

  /** Arrays of float64 by name. Undefined where they are not there. */
  async readArrays<T extends string>(key: string, names: readonly T[]): Promise<Record<T, Float64Array> | undefined> {
    const path = this.#arrayPath(key)
    const bytes = await this.#read(path)
    if (bytes === undefined) return undefined
    return whole(() => {
      const file = parseSafetensors(bytes, path)
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
    await writeFileAtomic(this.#arrayPath(key), serialiseSafetensors(tensors))
  }

  #picturePath(key: string): string {
    return join(this.#folder, 'edits', `${key}.png`)
  }

  #arrayPath(key: string): string {
    return join(this.#folder, 'opinions', `${key}.safetensors`)
  }

  async #read(path: string): Promise<Buffer<ArrayBuffer> | undefined> {
    try {
      return await readFile(path)
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return undefined
      throw fileError(error, path, 'read')
    }
  }
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
