// Pictures in: any common file becomes an RGB picture of the size that the networks take, or a clear error.
// Follows torchvision's Resize (bilinear, antialiased) and CenterCrop, which the reference release reads pictures with.

import { readFile, stat } from 'node:fs/promises'
import sharp, { type Sharp, type SharpOptions } from 'sharp'
import { FlexitError, type ErrorCode, fileError, invalidArgument } from './errors.js'

/** An RGB picture, 8 bits, sRGB. `data` is [height, width, 3] in row-major order. */
export interface Picture {
  readonly height: number
  readonly width: number
  readonly data: Uint8Array
}

export interface ReadPictureOptions {
  /** Size of the picture that is wanted, in pixels. */
  readonly height: number
  readonly width: number
  /** What transparent pictures are laid on: an opaque CSS colour. */
  readonly background: string
  /** Most pixels (width × height of the page that is read). Default 100 million. */
  readonly maxPixels?: number | undefined
  /** Largest file, in bytes. Default 64 MiB. */
  readonly maxBytes?: number | undefined
  /**
   * Whether SVG is drawn. Default: from a path, not from bytes. A path is its owner's; bytes may come from anyone, and
   * a hostile SVG of 1 kB can draw for hours, which neither librsvg's limits nor sharp's timeout ends.
   */
  readonly svg?: boolean | undefined
}

const defaultMaxPixels = 100_000_000
const defaultMaxBytes = 64 * 1024 ** 2
const timeoutSeconds = 30

/** Pixels of a side of the largest picture that `readPicture` gives. */
const longestSide = 16_384

/* eslint-disable no-control-regex -- they match bytes */
/**
 * What the first bytes say, tested in this order: the HTML rule must precede SVG's, AVIF's the other `ftyp` files'.
 * They read strangers' bytes: no part may match the same text in two ways, or the time grows with 2^n.
 */
const signatures: readonly (readonly [what: string, head: RegExp, readable?: true])[] = [
  ['a JPEG', /^\xff\xd8\xff/, true],
  ['a PNG', /^\x89PNG\r\n\x1a\n/, true],
  ['a GIF', /^GIF8[79]a/, true],
  ['a WebP', /^RIFF.{4}WEBP/s, true],
  ['a TIFF', /^(?:II[*+]\0|MM\0[*+])/, true],
  ['an AVIF', /^.{4}ftyp(?:.{4}){0,16}?avi[fs]/s, true],
  ['a HEIC picture', /^.{4}ftyp(?:.{4}){0,16}?(?:hei[cxms]|hev[cxms]|mif1|msf1)/s],
  ['an MP4 or QuickTime video', /^.{4}(?:ftyp|moov|mdat)/s],
  ['a WebM or Matroska video', /^\x1aE\xdf\xa3/],
  ['an AVI video', /^RIFF.{4}AVI /s],
  ['a JPEG XL picture', /^(?:\xff\x0a|\0\0\0\x0cJXL )/],
  ['a JPEG 2000 picture', /^(?:\xff\x4f\xff\x51|\0\0\0\x0cjP {2})/],
  ['a BMP picture', /^BM.{4}\0{4}/s],
  ['an icon file', /^\0\0\x01\0/],
  ['a Photoshop document', /^8BPS/],
  ['a PDF document', /^%PDF-/],
  ['a zip archive', /^PK\x03\x04/],
  ['gzip-compressed data', /^\x1f\x8b/],
  ['an HTML page', /^(?:\xef\xbb\xbf)?\s*(?:<!--(?:(?!-->).)*-->\s*)*<(?:!doctype html|html|head|body)\b/is],
  ['an SVG', /^(?:\xef\xbb\xbf)?\s*<.*?svg[\s>]/s, true],
  ['text', /^[\t\n\r\x20-\x7e\x80-\xff]+$/],
]
/* eslint-enable no-control-regex */

// Every edit has another picture: a cache of operations would only hold on to what users sent.
sharp.cache(false)

/**
 * Read a picture from a file or from the bytes of one, as RGB of exactly `height` × `width`: JPEG, PNG, WebP, AVIF,
 * GIF, TIFF (the first frame or page) and SVG. EXIF orientation is applied, alpha laid on `background`, every other
 * colour space and depth converted to 8-bit sRGB.
 *
 * The largest centred part of the target's shape is cut out first, then resized to it. Up to half a source pixel this
 * is "resize the shorter side, then centre crop", and a 1 × 10,000 picture costs no more than a square one. Resizing
 * is bilinear with antialiasing (a triangle filter; a box filter goes before it where the picture shrinks fourfold or
 * more). A picture that has the target size keeps its bits. The same input gives the same picture.
 *
 * A file that lacks pixels, or whose checksums are wrong, is refused; one that is cut where no pixel is needed any more
 * is not. Limits are checked before anything is decoded.
 *
 * Errors, with field `image`: NOT_FOUND; FAILED_PRECONDITION (not permitted); RESOURCE_EXHAUSTED (slow to decode);
 * INVALID_ARGUMENT (no regular file, empty, damaged, no picture, too many bytes or pixels, a format not read). A wrong
 * `background` or `size` has its own field.
 */
export async function readPicture(input: string | Uint8Array, options: ReadPictureOptions): Promise<Picture> {
  const { height, width, maxPixels = defaultMaxPixels, maxBytes = defaultMaxBytes } = options
  if (!isLength(height) || !isLength(width)) {
    throw invalidArgument('size', `a picture of ${height} × ${width} pixels cannot be made`)
  }
  const background = await opaqueColour(options.background)
  const name = typeof input === 'string' ? input : 'the picture'
  const svg = options.svg ?? typeof input === 'string'
  const bytes = typeof input === 'string' ? await readRegularFile(input, maxBytes, svg) : input
  checkBytes(bytes.length, maxBytes, name, svg)
  const kind = recognise(bytes, name, svg)
  const vector = kind === 'an SVG'
  if (vector && !svg) {
    throw imageError('INVALID_ARGUMENT', `cannot read ${name}: SVG is not accepted here`, 'Save it as PNG first.')
  }

  try {
    let open: SharpOptions = { autoOrient: true, failOn: 'error', limitInputPixels: false }
    let header = await measure(bytes, open)
    if (vector) {
      const density = coveringDensity(header, await measure(bytes, { ...open, density: 288 }), options)
      open = { ...open, density: Math.min(Math.max(density, 1), 100_000) }
      header = await measure(bytes, open)
    }
    if (header.width * header.height > maxPixels) {
      throw imageError(
        'INVALID_ARGUMENT',
        `${name} has ${header.width} × ${header.height} pixels, more than the ${maxPixels} that are read`,
        'Make the picture smaller.',
      )
    }
    const pixels = sharp(bytes, { ...open, limitInputPixels: maxPixels })
    if (header.convertsWrongly) pixels.pipelineColourspace('srgb')
    const region = centre(header, options)
    pixels.extract(region).flatten({ background })
    const shrinks = region.height >= height && region.width >= width
    if (shrinks) pixels.resize(width, height, { fit: 'fill', kernel: 'linear' })
    const { data, info } = await pixels.timeout({ seconds: timeoutSeconds }).raw().toBuffer({ resolveWithObject: true })
    if (info.channels !== 3) {
      throw new FlexitError({ code: 'INTERNAL', message: `${name} came out with ${info.channels} channels, not 3` })
    }
    const picture = {
      height: info.height,
      width: info.width,
      data: new Uint8Array(data.buffer, data.byteOffset, data.length),
    }
    return shrinks ? picture : enlarge(picture, height, width)
  } catch (error) {
    throw decodeError(error, name, kind)
  }
}

/**
 * A picture at a size that is at least its own: bilinear, pixel centres kept in place. Here and not in libvips, which
 * moves what it enlarges by half a pixel (https://github.com/libvips/libvips/issues/4841).
 */
export function enlarge(picture: Picture, height: number, width: number): Picture {
  const rows = interpolation(picture.height, height)
  const columns = interpolation(picture.width, width)
  const source = picture.data
  const data = new Uint8Array(height * width * 3)
  let i = 0
  for (let y = 0; y < height; y++) {
    const top = 3 * picture.width * rows.first[y]!
    const bottom = 3 * picture.width * rows.second[y]!
    const down = rows.weight[y]!
    for (let x = 0; x < width; x++) {
      const left = 3 * columns.first[x]!
      const right = 3 * columns.second[x]!
      const across = columns.weight[x]!
      for (let c = 0; c < 3; c++) {
        const above = source[top + left + c]! * (1 - across) + source[top + right + c]! * across
        const below = source[bottom + left + c]! * (1 - across) + source[bottom + right + c]! * across
        data[i++] = Math.round(above * (1 - down) + below * down)
      }
    }
  }
  return { height, width, data }
}

/** For each of `to` pixels: its two neighbours among `from`, and the weight of the second. */
function interpolation(from: number, to: number) {
  const [first, second, weight] = [new Int32Array(to), new Int32Array(to), new Float64Array(to)]
  for (let i = 0; i < to; i++) {
    const place = Math.max(0, ((i + 0.5) * from) / to - 0.5)
    first[i] = Math.floor(place)
    second[i] = Math.min(first[i]! + 1, from - 1)
    weight[i] = place - first[i]!
  }
  return { first, second, weight }
}

/** The picture as [3, height, width] in [0, 1]: x / 255, rounded once to float32. */
export function pictureToTensor({ height, width, data }: Picture): Float32Array {
  const area = height * width
  const tensor = new Float32Array(3 * area)
  for (let c = 0; c < 3; c++) for (let i = 0; i < area; i++) tensor[c * area + i] = data[3 * i + c]! / 255
  return tensor
}

/**
 * [3, height, width] in [0, 1] as a picture, rounded to the nearest of 256 levels: in float32, as graphs draw theirs.
 * Clamps; NaN becomes 0.
 */
export function tensorToPicture(tensor: Float32Array, { height, width }: Pick<Picture, 'height' | 'width'>): Picture {
  const area = height * width
  if (tensor.length !== 3 * area) {
    throw invalidArgument('tensor', `a picture of ${height} × ${width} has ${3 * area} values, not ${tensor.length}`)
  }
  const data = new Uint8ClampedArray(3 * area)
  for (let c = 0; c < 3; c++) for (let i = 0; i < area; i++) data[3 * i + c] = Math.fround(tensor[c * area + i]! * 255)
  return { height, width, data: new Uint8Array(data.buffer) }
}

function isLength(pixels: number): boolean {
  return Number.isInteger(pixels) && pixels >= 1 && pixels <= longestSide
}

async function opaqueColour(background: string): Promise<{ r: number; g: number; b: number }> {
  let image: Sharp
  try {
    image = sharp({ create: { width: 1, height: 1, channels: 4, background } })
  } catch {
    throw invalidArgument('background', `'${background}' is not a colour`, "Use a CSS colour, 'white' or '#204080'.")
  }
  const [r = 0, g = 0, b = 0, alpha] = await image.raw().toBuffer()
  if (alpha !== 255) throw invalidArgument('background', `'${background}' is not opaque`, 'Leave out its alpha.')
  return { r, g, b }
}

/**
 * The bytes of a picture's file; anything but a regular one (a pipe, /dev/zero) could block, or never end. Errors: those of
 * `readPicture` before it looks at the bytes.
 */
export async function readRegularFile(path: string, maxBytes = defaultMaxBytes, svg = true): Promise<Uint8Array> {
  try {
    const file = await stat(path)
    if (!file.isFile()) {
      const what = file.isDirectory() ? 'a folder' : file.isFIFO() ? 'a pipe' : 'a device or a socket'
      throw imageError('INVALID_ARGUMENT', `cannot read ${path}: it is ${what}`, 'Name a picture file.')
    }
    checkBytes(file.size, maxBytes, path, svg)
    return await readFile(path)
  } catch (error) {
    if (error instanceof FlexitError) throw error
    const ours = fileError(error, path, 'read')
    throw imageError(ours.code, ours.message, ours.cure, error)
  }
}

function checkBytes(bytes: number, maxBytes: number, name: string, svg: boolean): void {
  if (bytes === 0) throw imageError('INVALID_ARGUMENT', `${name} is empty`, giveAnother(svg))
  if (bytes > maxBytes) {
    const message = `${name} has ${bytes} bytes, more than the ${maxBytes} that are read`
    throw imageError('INVALID_ARGUMENT', message, 'Save the picture smaller, or more compressed.')
  }
}

/** The kind of a file that can be read. Nothing else reaches the decoders. */
function recognise(bytes: Uint8Array, name: string, svg: boolean): string {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 4096)).toString('latin1')
  const [what, , readable] = signatures.find(([, signature]) => signature.test(head)) ?? []
  if (what !== undefined && readable) return what
  const seen = what === undefined ? 'it is not a picture, or not of a known format' : `it looks like ${what}`
  throw imageError('INVALID_ARGUMENT', `cannot read ${name}: ${seen}`, giveAnother(svg))
}

function giveAnother(svg: boolean): string {
  return `Give a JPEG, PNG, WebP, AVIF, GIF${svg ? ', TIFF or SVG' : ' or TIFF'} picture.`
}

interface Header {
  readonly height: number
  readonly width: number
  /** Whether sharp gets its colours wrong unless they are 8-bit sRGB from the beginning. */
  readonly convertsWrongly: boolean
}

/** Reads only the header. Sizes are those after EXIF orientation. */
async function measure(bytes: Uint8Array, open: SharpOptions): Promise<Header> {
  const { autoOrient, hasAlpha, hasProfile, space } = await sharp(bytes, open).metadata()
  // sharp lays alpha on the background's numbers, without converting them to grey or linear light.
  const flattensWrongly = hasAlpha && !['srgb', 'rgb16', 'cmyk'].includes(space)
  // sharp takes such pictures to Display P3 and never back.
  const keepsDisplayP3 = hasProfile && space === 'rgb16'
  return { ...autoOrient, convertsWrongly: flattensWrongly || keepsDisplayP3 }
}

type Size = Pick<Picture, 'height' | 'width'>

/**
 * The density at which an SVG is drawn just as large as `target` needs, from its size at 72 and at 288 dots per inch.
 * libvips applies the density twice to a side in mm, cm, in, pt or pc: such a side grows with its square.
 */
function coveringDensity(at72: Size, at288: Size, target: Size): number {
  const density = (side: keyof Size) =>
    at288[side] > 8 * at72[side] ? 288 * Math.sqrt(target[side] / at288[side]) : 72 * (target[side] / at72[side])
  return Math.max(density('width'), density('height'))
}

/** The largest centred region of `source` that has the shape of `target`, in whole pixels. */
function centre(source: Size, target: Size): Size & { left: number; top: number } {
  const scale = Math.min(source.width / target.width, source.height / target.height)
  const width = Math.max(1, Math.round(target.width * scale))
  const height = Math.max(1, Math.round(target.height * scale))
  return {
    width,
    height,
    left: Math.floor((source.width - width) / 2),
    top: Math.floor((source.height - height) / 2),
  }
}

function decodeError(error: unknown, name: string, kind: string): FlexitError {
  if (error instanceof FlexitError) return error
  const [reason = ''] = (error instanceof Error ? error.message : String(error)).trim().split('\n')
  if (reason.startsWith('timeout')) {
    const message = `decoding ${name} took more than ${timeoutSeconds} seconds`
    return imageError('RESOURCE_EXHAUSTED', message, 'Make the picture smaller, or save it as JPEG or PNG.', error)
  }
  const message = `cannot read ${name}: it begins like ${kind}, but is damaged or truncated (${reason})`
  return imageError('INVALID_ARGUMENT', message, 'Download or save the picture again.', error)
}

function imageError(code: ErrorCode, message: string, cure = 'See the cause.', cause?: unknown): FlexitError {
  return new FlexitError({ code, field: 'image', message, cure, cause })
}
