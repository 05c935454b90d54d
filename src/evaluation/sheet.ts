// A sheet of queries taken by chance, for people to judge: input and edit side by side, with what was asked for.
// The judge's verdict is not on it, so that it does not lead the eye.

import { encodePicture } from '../engine/encode.js'
import { type Picture, enlarge } from '../engine/picture.js'
import { choose } from './bootstrap.js'
import type { Evaluation } from './evaluation.js'
import { letterSize, write } from './lettering.js'
import type { Query } from './queries.js'

export interface SheetOptions {
  readonly queries: readonly Query[]
  readonly count: number
  readonly seed: number
}

const columns = 6
const gap = 8
/** A picture is shown at least this large. */
const visible = 128
const letterScale = 2
const lineHeight = (letterSize.height + 1) * letterScale

/** The sheet, as PNG. Errors: those of reading pictures from the store. */
export async function sheet(evaluation: Evaluation, { queries, count, seed }: SheetOptions): Promise<Uint8Array> {
  const chosen = choose(
    queries.map((_, i) => i),
    count,
    seed,
  )
  const pairs = []
  for (const i of chosen) {
    const pictures = await evaluation.pictures(i)
    pairs.push([pictures[0]!, pictures.at(-1)!].map(magnify))
  }
  const side = pairs[0]![0]!.width
  const cell = { width: 2 * side + gap, height: side + 2 * lineHeight + gap }
  const width = gap + Math.min(columns, chosen.length) * (cell.width + gap)
  const height = gap + Math.ceil(chosen.length / columns) * (cell.height + gap)
  const canvas: Picture = { width, height, data: new Uint8Array(width * height * 3).fill(255) }
  for (const [place, i] of chosen.entries()) {
    const left = gap + (place % columns) * (cell.width + gap)
    const top = gap + Math.floor(place / columns) * (cell.height + gap)
    pairs[place]!.forEach((picture, j) => paste(canvas, picture, left + j * side, top))
    const { source, target } = queries[i]!
    const fits = Math.floor(cell.width / (letterSize.width * letterScale))
    write(canvas, source.slice(0, fits), left, top + side + 4, letterScale)
    write(canvas, `→ ${target}`.slice(0, fits), left, top + side + 4 + lineHeight, letterScale)
  }
  return encodePicture(canvas, { format: 'png' })
}

function magnify(picture: Picture): Picture {
  const scale = Math.ceil(visible / picture.height)
  return scale === 1 ? picture : enlarge(picture, picture.height * scale, picture.width * scale)
}

function paste(canvas: Picture, { width, height, data }: Picture, left: number, top: number): void {
  for (let y = 0; y < height; y++) {
    canvas.data.set(data.subarray(3 * y * width, 3 * (y + 1) * width), 3 * ((top + y) * canvas.width + left))
  }
}
