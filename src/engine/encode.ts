// Pictures out: previews, results, a strip of frames, an animation.
// Encodes with libvips through sharp; the same pixels give the same bytes.

import { extname } from 'node:path'
import sharp, { type Sharp } from 'sharp'
import { invalidArgument } from './errors.js'
import { writeFileAtomic } from './files.js'
import { enlarge, type Picture } from './picture.js'

export type PictureFormat = 'png' | 'webp' | 'jpeg'

export interface EncodeOptions {
  /** 1 to 100, for WebP and JPEG. Default 90. PNG is lossless. */
  readonly quality?: number | undefined
  /** Pixels of the longer side. Default: as it is. */
  readonly size?: number | undefined
  /** WebP in a third of the time, with less sharp edges of colour: for pictures that are shown for a moment. */
  readonly fast?: boolean | undefined
}

export interface FilmstripOptions {
  /** Frames in a row. Default 8, or fewer where there are fewer. */
  readonly columns?: number | undefined
  /** How many times larger frames are shown. Default: the smallest that makes them at least 192 pixels high. */
  readonly scale?: number | undefined
  /** White pixels between frames. Default 8. */
  readonly gap?: number | undefined
}

export interface AnimationOptions {
  /** How long a frame is shown, in milliseconds. The first one is shown for half of `holdLastMs`, if that is longer. */
  readonly frameMs: number
  readonly holdLastMs: number
  /** As for a filmstrip. */
  readonly scale?: number | undefined
  /** 1 to 100. Default 90. */
  readonly quality?: number | undefined
}

/** Of what reads, resizes and writes pictures. */
export const codecVersion = `libvips ${sharp.versions.vips}`

const defaultQuality = 90
const visibleHeight = 192
const formatOfExtension: Readonly<Record<string, PictureFormat>> = {
  '.png': 'png',
  '.webp': 'webp',
  '.jpg': 'jpeg',
  '.jpeg': 'jpeg',
}

/** The bytes of a picture file. Errors: INVALID_ARGUMENT (`format`, `quality`, `size`). */
export async function encodePicture(
  picture: Picture,
  { format, quality = defaultQuality, size, fast = false }: EncodeOptions & { readonly format: PictureFormat },
): Promise<Uint8Array> {
  checkInteger('quality', quality, 1, 100)
  if (size !== undefined) checkInteger('size', size, 1, 16_383)
  const image = size === undefined ? open(picture) : resize(picture, size)
  switch (format) {
    case 'png':
      return image.png().toBuffer()
    case 'webp':
      return image.webp(fast ? { quality, effort: 0 } : { quality, smartSubsample: true }).toBuffer()
    case 'jpeg':
      return image.jpeg({ quality, chromaSubsampling: '4:4:4' }).toBuffer()
    default: // of JavaScript's
      throw invalidArgument('format', `cannot write a picture as ${JSON.stringify(format)}`, 'Use png, webp or jpeg.')
  }
}

/** The format that a path's extension asks for. Errors: INVALID_ARGUMENT (`output`), listing what works. */
export function pictureFormat(path: string): PictureFormat {
  const extension = extname(path)
  const format = formatOfExtension[extension.toLowerCase()]
  if (format === undefined) {
    const what = extension === '' ? 'no extension' : `the extension '${extension}'`
    const known = Object.keys(formatOfExtension).join(', ')
    throw invalidArgument('output', `cannot write ${path}: it has ${what}`, `Use one of ${known}.`)
  }
  return format
}

/**
 * Write a picture file, atomically, in the format of the path's extension.
 * Errors: INVALID_ARGUMENT (`output`, `quality`, `size`), FAILED_PRECONDITION (no space, no permission).
 */
export async function writePicture(path: string, picture: Picture, options: EncodeOptions = {}): Promise<void> {
  const format = pictureFormat(path)
  await writeFileAtomic(path, await encodePicture(picture, { ...options, format }))
}

/**
 * A PNG of all frames in reading order, on white. Frames have one size.
 * Errors: INVALID_ARGUMENT (`frames`, `columns`, `scale`, `gap`).
 */
export async function filmstrip(frames: readonly Picture[], options: FilmstripOptions = {}): Promise<Uint8Array> {
  const { height, width } = frameSize(frames)
  const { columns = Math.min(frames.length, 8), scale = visibleScale(height), gap = 8 } = options
  checkInteger('columns', columns, 1, 1000)
  checkInteger('gap', gap, 0, 1000)
  const shown = frames.map((frame) => magnify(frame, scale))

  const across = width * scale + gap
  const down = height * scale + gap
  const sheet = {
    height: Math.ceil(frames.length / columns) * down - gap,
    width: Math.min(frames.length, columns) * across - gap,
  }
  const data = new Uint8Array(sheet.height * sheet.width * 3).fill(255)
  for (const [i, frame] of shown.entries()) {
    const left = (i % columns) * across
    const top = Math.floor(i / columns) * down
    const row = 3 * frame.width
    for (let y = 0; y < frame.height; y++) {
      data.set(frame.data.subarray(y * row, (y + 1) * row), 3 * ((top + y) * sheet.width + left))
    }
  }
  return encodePicture({ ...sheet, data }, { format: 'png' })
}

/**
 * An animated WebP that loops for ever. Frames have one size. Equal neighbours become one frame that is shown for
 * their time together, and a single frame becomes a still picture.
 * Errors: INVALID_ARGUMENT (`frames`, `frameMs`, `holdLastMs`, `scale`, `quality`).
 */
export async function animation(frames: readonly Picture[], options: AnimationOptions): Promise<Uint8Array> {
  const size = frameSize(frames)
  const { frameMs, holdLastMs, scale = visibleScale(size.height), quality = defaultQuality } = options
  checkInteger('frameMs', frameMs, 1, 65_535)
  checkInteger('holdLastMs', holdLastMs, 1, 65_535)
  checkInteger('quality', quality, 1, 100)
  const shown = frames.map((frame) => magnify(frame, scale))
  const { height, width } = frameSize(shown)

  const delay = frames.map(() => frameMs)
  delay[0] = Math.max(frameMs, Math.floor(holdLastMs / 2))
  delay[delay.length - 1] = Math.max(frameMs, holdLastMs)
  const roll = Buffer.concat(shown.map((frame) => frame.data))
  return sharp(roll, { raw: { width, height: height * frames.length, channels: 3, pageHeight: height } })
    .webp({ quality, smartSubsample: true, loop: 0, delay })
    .toBuffer()
}

function open({ height, width, data }: Picture): Sharp {
  return sharp(data, { raw: { width, height, channels: 3 } })
}

function visibleScale(height: number): number {
  return Math.ceil(visibleHeight / height)
}

function resize(picture: Picture, size: number): Sharp {
  const scale = size / Math.max(picture.height, picture.width)
  const height = Math.max(1, Math.round(picture.height * scale))
  const width = Math.max(1, Math.round(picture.width * scale))
  if (scale > 1) return open(enlarge(picture, height, width))
  return open(picture).resize(width, height, { fit: 'fill', kernel: 'linear' })
}

/** Smoothly: the pixels of a small picture would otherwise be what one sees. */
function magnify(picture: Picture, scale: number): Picture {
  checkInteger('scale', scale, 1, 64)
  return scale === 1 ? picture : enlarge(picture, picture.height * scale, picture.width * scale)
}

function frameSize(frames: readonly Picture[]): Pick<Picture, 'height' | 'width'> {
  const [first] = frames
  if (first === undefined) throw invalidArgument('frames', 'there are no frames')
  const { height, width } = first
  const other = frames.find((frame) => frame.height !== height || frame.width !== width)
  if (other !== undefined) {
    const sizes = `${width} × ${height} and ${other.width} × ${other.height}`
    throw invalidArgument('frames', `frames have different sizes, ${sizes} pixels`)
  }
  return { height, width }
}

function checkInteger(field: string, value: number, least: number, most: number): void {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw invalidArgument(field, `${field} is ${value}`, `Use a whole number from ${least} to ${most}.`)
  }
}
