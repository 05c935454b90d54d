// What is kept of an edit on its way, and the files that are made of it.
// How many frames are kept has an end, however many steps an edit takes and saves.

import type { EditState } from '../engine/edit.js'
import { type SavedEdit, writeEditFile } from '../engine/edit-file.js'
import { animation, filmstrip, writePicture } from '../engine/encode.js'
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

/** Of an animation: steps that are shown evenly. Besides them it shows those that are saved, so many at most, too. */
const maxFrames = 160

/** Pixels of all frames of a filmstrip, or of an animation, together: libvips encodes few more, and they are in memory. */
const maxPixels = 250_000_000

/** Of a side at most, what enlarging small frames and the gap between them add to it. */
const addedPixels = 200

/** Of a filmstrip; rows are made equally long. */
const maxColumns = 10

/** Steps between two latents that are kept, unless the user says otherwise. */
export function usualSaveEvery(steps: number): number {
  return Math.max(16, Math.ceil(steps / 20))
}

export class EditRecord {
  readonly #options: RecordOptions
  readonly #snapshots: Map<number, Float32Array>
  readonly #strip: Frames | undefined
  readonly #roll: Frames | undefined
  #picture: string | undefined

  constructor(options: RecordOptions) {
    const { maker, saved, files, saveEvery } = options
    const { steps } = saved.state.parameters
    const most = Math.max(3, Math.floor(maxPixels / (maker.pack.size + addedPixels) ** 2))
    const savedUpTo = (count: number) => saveEvery * Math.ceil(steps / (saveEvery * count))
    this.#options = options
    this.#snapshots = new Map(saved.snapshots)
    if (files.filmstrip !== undefined) this.#strip = new Frames([savedUpTo(most)])
    if (files.animation !== undefined) {
      // Of each: even steps, saved ones, and those that were saved before with another interval.
      const mostOfEach = Math.min(maxFrames, Math.floor(most / 3))
      const before = [...this.#snapshots.keys()].filter((step) => step < saved.state.step).sort((a, b) => a - b)
      this.#roll = new Frames([Math.ceil(steps / mostOfEach), savedUpTo(mostOfEach)], thinned(before, mostOfEach))
    }
  }

  /** What a maker is to send for this. */
  get wishes(): Pick<Order, 'previewEvery' | 'stateEvery'> {
    const { files, saveEvery } = this.#options
    const every = this.#frames.flatMap((frames) => frames.every)
    return {
      previewEvery: every.length === 0 ? undefined : every.reduce(commonDivisor),
      stateEvery: files.latents === undefined ? undefined : saveEvery,
    }
  }

  /** The result, once its file is written. */
  get picture(): string | undefined {
    return this.#picture
  }

  /** Draw the frames of the steps before the first. */
  async begin(): Promise<void> {
    const { maker, saved } = this.#options
    this.#show(0, saved.state.picture)
    for (const [step, z] of this.#snapshots) {
      const isFrame = step < saved.state.step && this.#frames.some((frames) => frames.shows(step))
      if (isFrame) this.#show(step, await drawLatent(maker, saved.state, step, z))
    }
  }

  /** Errors: those of writing. */
  async add({ step, preview }: WatchedStep, after: EditState | undefined): Promise<void> {
    const { files, saveEvery } = this.#options
    if (step > 0 && preview !== undefined) this.#show(step, preview)
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

  /**
   * Write all files, the picture first, the latents unless they were only for the way. Errors: those of encoding and of
   * writing; what is written by then stays.
   */
  async finish(result: Picture, state: EditState, { keepLatents = true } = {}): Promise<void> {
    const { files } = this.#options
    await writePicture(files.picture, result)
    this.#picture = files.picture
    if (keepLatents && files.latents !== undefined) await this.save(files.latents, state)
    for (const frames of this.#frames) frames.set(state.step, result)
    if (this.#strip !== undefined) await writeFileAtomic(files.filmstrip!, await encodeStrip(this.#strip.inOrder))
    if (this.#roll !== undefined) await writeFileAtomic(files.animation!, await encodeRoll(this.#roll.inOrder))
  }

  get #frames(): readonly Frames[] {
    return [this.#strip, this.#roll].filter((frames) => frames !== undefined)
  }

  #show(step: number, picture: Picture): void {
    for (const frames of this.#frames) if (frames.shows(step)) frames.set(step, picture)
  }
}

/** The frames of a filmstrip or an animation. */
class Frames {
  /** Steps between two frames, of each of its series. */
  readonly every: readonly number[]
  readonly #others: ReadonlySet<number>
  readonly #pictures = new Map<number, Picture>()

  constructor(every: readonly number[], others: readonly number[] = []) {
    this.every = every
    this.#others = new Set(others)
  }

  shows(step: number): boolean {
    return this.#others.has(step) || this.every.some((every) => step % every === 0)
  }

  set(step: number, picture: Picture): void {
    this.#pictures.set(step, picture)
  }

  get inOrder(): readonly Picture[] {
    return [...this.#pictures].sort(([a], [b]) => a - b).map(([, picture]) => picture)
  }
}

function encodeStrip(frames: readonly Picture[]): Promise<Uint8Array> {
  const rows = Math.ceil(frames.length / maxColumns)
  return filmstrip(frames, { columns: Math.ceil(frames.length / rows) })
}

function encodeRoll(frames: readonly Picture[]): Promise<Uint8Array> {
  const frameMs = Math.round(Math.min(Math.max(5000 / frames.length, 40), 250))
  return animation(frames, { frameMs, holdLastMs: 2000 })
}

/** At most so many of them, evenly. */
function thinned<T>(items: readonly T[], count: number): readonly T[] {
  const every = Math.ceil(items.length / count)
  return items.filter((_, i) => i % every === 0)
}

function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b)
}
