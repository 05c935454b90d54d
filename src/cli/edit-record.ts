// What is kept of an edit on its way, and the files that are made of it.
// Everything is encoded before the first file is written.

import type { EditState } from '../engine/edit.js'
import { type SavedEdit, writeEditFile } from '../engine/edit-file.js'
import { animation, encodePicture, filmstrip, pictureFormat } from '../engine/encode.js'
import { writeFileAtomic } from '../engine/files.js'
import type { Picture } from '../engine/picture.js'
import { type Maker, type Order, type WatchedStep, drawLatent } from './maker.js'

export interface EditFiles {
  readonly picture: string
  readonly filmstrip?: string | undefined
  readonly animation?: string | undefined
  /** Written again and again on the way, too. */
  readonly latents?: string | undefined
}

export interface RecordOptions {
  readonly maker: Maker
  /** Where the edit begins. */
  readonly saved: Omit<SavedEdit, 'packName'>
  readonly files: EditFiles
  /** Steps between two latents that are kept, and between two frames of a filmstrip. */
  readonly saveEvery: number
}

/** An animation has at most about this many frames. */
const maxFrames = 160

/** Of a filmstrip; rows are made equally long. */
const maxColumns = 10

/** Steps between two latents that are kept, unless the user says otherwise. */
export function usualSaveEvery(steps: number): number {
  return Math.max(16, Math.ceil(steps / 20))
}

export class EditRecord {
  readonly #options: RecordOptions
  readonly #snapshots: Map<number, Float32Array>
  readonly #frames = new Map<number, Picture>()
  readonly #frameEvery: number

  constructor(options: RecordOptions) {
    const { saved, files } = options
    const { steps } = saved.state.parameters
    this.#options = options
    this.#snapshots = new Map(saved.snapshots)
    this.#frameEvery = files.animation === undefined ? options.saveEvery : Math.ceil(steps / maxFrames)
  }

  /** What a maker is to send for this. */
  get wishes(): Pick<Order, 'previewEvery' | 'stateEvery'> {
    const { files, saveEvery } = this.#options
    return {
      previewEvery: this.#moving ? commonDivisor(this.#frameEvery, saveEvery) : undefined,
      stateEvery: files.latents === undefined ? undefined : saveEvery,
    }
  }

  /** Draw the frames of the steps before the first. */
  async begin(): Promise<void> {
    const { maker, saved } = this.#options
    if (!this.#moving) return
    this.#frames.set(0, saved.state.picture)
    for (const [step, z] of this.#snapshots) {
      if (step < saved.state.step) this.#frames.set(step, await drawLatent(maker, saved.state, step, z))
    }
  }

  /** Errors: those of writing. */
  async add({ step, preview }: WatchedStep, after: EditState | undefined): Promise<void> {
    const { files, saveEvery } = this.#options
    const isFrame = step % this.#frameEvery === 0 || step % saveEvery === 0
    if (this.#moving && step > 0 && preview !== undefined && isFrame) this.#frames.set(step, preview)
    if (after?.z === undefined || after.step % saveEvery !== 0) return
    this.#snapshots.set(after.step, after.z)
    if (files.latents !== undefined && after.step < after.parameters.steps) await this.save(files.latents, after)
  }

  /** Write the state, to be resumed, and the latents so far. Errors: those of writing. */
  async save(path: string, state: EditState): Promise<void> {
    const { pack } = this.#options.maker
    const saved = { state, packName: pack.name, snapshots: this.#snapshots }
    await writeEditFile(path, saved, pack.shape(state.parameters.space))
  }

  /** Write all files, the latents unless they were only for the way. Errors: those of writing. */
  async finish(result: Picture, state: EditState, { keepLatents = true } = {}): Promise<void> {
    const { files } = this.#options
    const { picture } = files
    const latents = keepLatents ? files.latents : undefined
    const written = new Map([[picture, await encodePicture(result, { format: pictureFormat(picture) })]])
    if (this.#moving) await this.#encodeWay(this.#frames.set(state.step, result), written)
    if (latents !== undefined) await this.save(latents, state)
    for (const [path, bytes] of written) await writeFileAtomic(path, bytes)
  }

  get #moving(): boolean {
    const { files } = this.#options
    return files.filmstrip !== undefined || files.animation !== undefined
  }

  async #encodeWay(frames: ReadonlyMap<number, Picture>, written: Map<string, Uint8Array>): Promise<void> {
    const { files, saveEvery } = this.#options
    const inOrder = [...frames].sort(([a], [b]) => a - b)
    if (files.filmstrip !== undefined) {
      const end = inOrder.at(-1)![0]
      const chosen = inOrder.filter(([step]) => step % saveEvery === 0 || step === end).map(([, frame]) => frame)
      const rows = Math.ceil(chosen.length / maxColumns)
      written.set(files.filmstrip, await filmstrip(chosen, { columns: Math.ceil(chosen.length / rows) }))
    }
    if (files.animation !== undefined) {
      const frameMs = Math.round(Math.min(Math.max(5000 / inOrder.length, 40), 250))
      const roll = inOrder.map(([, frame]) => frame)
      written.set(files.animation, await animation(roll, { frameMs, holdLastMs: 2000 }))
    }
  }
}

function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b)
}
