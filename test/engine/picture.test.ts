// Pictures in: every format, orientation and colour space to known pixels; hostile and broken files to clear errors.
// EXIF orientations: CIPA DC-008, tag 274.

import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { deflateSync, gzipSync } from 'node:zlib'
import test, { type ExecutionContext } from 'ava'
import sharp, { type Sharp } from 'sharp'
import { type ErrorCode, FlexitError } from '../../src/engine/errors.js'
import {
  type Picture,
  type ReadPictureOptions,
  pictureToTensor,
  readPicture,
  tensorToPicture,
} from '../../src/engine/picture.js'

type Rgb = readonly [number, number, number]
const red: Rgb = [255, 0, 0]
const green: Rgb = [0, 255, 0]
const blue: Rgb = [0, 0, 255]
const white: Rgb = [255, 255, 255]
const teal: Rgb = [40, 120, 160]
/** Inside what CMYK inks can print. */
const brick: Rgb = [180, 120, 100]

const read = (input: string | Uint8Array, height: number, width = height, more: Partial<ReadPictureOptions> = {}) =>
  readPicture(input, { height, width, background: 'white', ...more })

/** [height, width, channels] from a function of the position. */
function paint(height: number, width: number, colour: (y: number, x: number) => readonly number[]): Sharp {
  const values: number[] = []
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) values.push(...colour(y, x))
  const channels = colour(0, 0).length as 1 | 2 | 3 | 4
  return sharp(Uint8Array.from(values), { raw: { height, width, channels } })
}

/** Without a repeated pixel, so that a shift or a swap is seen. */
const noise = (height: number, width: number) => paint(height, width, (y, x) => [y * 3, x * 3, (y * 67 + x * 31) % 256])

const pixel = ({ width, data }: Picture, y: number, x: number) => [...data.subarray(3 * (y * width + x)).subarray(0, 3)]

function near(t: ExecutionContext, actual: readonly number[], expected: readonly number[], tolerance: number) {
  const worst = Math.max(...expected.map((value, i) => Math.abs(value - (actual[i] ?? NaN))))
  t.true(worst <= tolerance, `[${actual.join(', ')}] is not [${expected.join(', ')}] ± ${tolerance}`)
}

async function refused(
  t: ExecutionContext,
  promise: Promise<unknown>,
  { message, code = 'INVALID_ARGUMENT', field = 'image' }: { message: RegExp; code?: ErrorCode; field?: string },
) {
  const error = await t.throwsAsync(promise, { instanceOf: FlexitError, message })
  t.is(error.code, code)
  t.is(error.field, field)
  if (field === 'image') t.truthy(error.cure)
}

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'flexit-picture-'))
  t.teardown(() => rm(path, { recursive: true, force: true }))
  return path
}

const svg = (inner: string, size = 'width="8" height="8"', before = '') =>
  Buffer.from(`${before}<svg xmlns="http://www.w3.org/2000/svg" ${size}>${inner}</svg>`)

interface PngOptions {
  /** Default: 8. */
  readonly depth?: 8 | 16
  /** Colour type: 2 (default) is RGB, 6 is RGB and alpha. */
  readonly type?: 2 | 6
  /** Rows, each behind its filter byte. Default: nearly none. */
  readonly rows?: Buffer
  /** An ICC profile. */
  readonly profile?: Buffer
}

/** A PNG whose header says `height` × `width`, over whatever data. */
function pngOf(height: number, width: number, { depth = 8, type = 2, rows, profile }: PngOptions = {}): Buffer {
  const chunk = (name: string, data: Buffer) => {
    const body = Buffer.concat([Buffer.from(name), data])
    const frame = Buffer.alloc(body.length + 8)
    frame.writeUInt32BE(data.length)
    frame.set(body, 4)
    let crc = 0xffffffff
    for (const byte of body) {
      crc ^= byte
      for (let k = 0; k < 8; k++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
    }
    frame.writeUInt32BE(~crc >>> 0, body.length + 4)
    return frame
  }
  const header = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, depth, type, 0, 0, 0])
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  const data = deflateSync(rows ?? Buffer.alloc(1000))
  const magic = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1')
  const icc = profile ? [chunk('iCCP', Buffer.concat([Buffer.from('x\0\0'), deflateSync(profile)]))] : []
  return Buffer.concat([magic, chunk('IHDR', header), ...icc, chunk('IDAT', data), chunk('IEND', Buffer.alloc(0))])
}

test('a picture of the target size keeps its bits', async (t) => {
  const raw = await noise(24, 40).raw().toBuffer()
  for (const file of [
    noise(24, 40).png(),
    noise(24, 40).png({ progressive: true }),
    noise(24, 40).webp({ lossless: true }),
    noise(24, 40).tiff({ compression: 'lzw' }),
    noise(24, 40).withIccProfile('srgb').png(),
  ]) {
    const picture = await read(await file.toBuffer(), 24, 40)
    t.is(picture.height, 24)
    t.is(picture.width, 40)
    t.deepEqual(Buffer.from(picture.data), raw)
  }
  const jpeg = await noise(24, 40).jpeg().toBuffer()
  t.deepEqual(Buffer.from((await read(jpeg, 24, 40)).data), await sharp(jpeg).raw().toBuffer())
})

test('a path and its bytes give the same picture, every time', async (t) => {
  const path = join(await folder(t), 'a picture.png')
  const bytes = await noise(50, 70).png().toBuffer()
  await writeFile(path, bytes)
  const padded = new Uint8Array([1, 2, 3, ...bytes, 4, 5]).subarray(3, bytes.length + 3)
  const pictures = await Promise.all([read(path, 16), read(bytes, 16), read(padded, 16), read(path, 16)])
  for (const picture of pictures) t.deepEqual(picture, pictures[0])
})

test('shrinks with an antialiased triangle filter', async (t) => {
  const line = await paint(64, 64, (_, x) => Array<number>(3).fill(x === 32 ? 255 : 0))
    .png()
    .toBuffer()
  const picture = await read(line, 32)
  const row = Array.from({ length: 32 }, (_, x) => pixel(picture, 10, x)[0])
  // Weights 1, 3, 3, 1 in 8: pixel 32 is the last of output 15 and the second of output 16.
  t.deepEqual(row.slice(14, 18), [0, 32, 96, 0])
  t.true(row.every((value, x) => value === 0 || x === 15 || x === 16))
})

test('enlarges bilinearly', async (t) => {
  const picture = await read(
    await paint(2, 2, (_, x) => (x === 0 ? [0, 0, 0] : [200, 100, 40]))
      .png()
      .toBuffer(),
    4,
  )
  t.deepEqual(
    [0, 1, 2, 3].map((x) => pixel(picture, 2, x)),
    [
      [0, 0, 0],
      [50, 25, 10],
      [150, 75, 30],
      [200, 100, 40],
    ],
  )
})

test('the crop is the centre, of the shape of the target', async (t) => {
  // Bands of 10 pixels: the middle 30 of 90 are the 4th to the 6th.
  const wide = await paint(30, 90, (_, x) => [Math.floor(x / 10) * 20, 0, 0])
    .png()
    .toBuffer()
  const square = await read(wide, 30)
  t.deepEqual([pixel(square, 0, 0)[0], pixel(square, 29, 15)[0], pixel(square, 0, 29)[0]], [60, 80, 100])
  const tall = await read(wide, 60, 20)
  t.deepEqual([pixel(tall, 5, 0)[0], pixel(tall, 5, 10)[0]], [80, 80])
  const flat = await read(wide, 10, 30)
  t.deepEqual([pixel(flat, 5, 1)[0], pixel(flat, 5, 28)[0]], [0, 160])
})

test('crop, then resize is resize, then crop, away from the border', async (t) => {
  const wide = await noise(64, 96).png().toBuffer()
  const picture = await read(wide, 32)
  const other = await sharp(wide).resize(32, 32, { kernel: 'linear' }).raw().toBuffer()
  for (let y = 0; y < 32; y++) {
    for (let x = 1; x < 31; x++) t.deepEqual(pixel(picture, y, x), [...other.subarray(3 * (32 * y + x)).subarray(0, 3)])
  }
})

test('a picture of one pixel by ten thousand is read as its middle', async (t) => {
  const strip = await paint(10_000, 1, (y) => (y === 4999 ? red : blue))
    .png()
    .toBuffer()
  const picture = await read(strip, 64)
  t.deepEqual([...picture.data], Array.from({ length: 64 * 64 }, () => red).flat())
})

/** The quadrants top left, top right, bottom left, bottom right, as each orientation shows a picture stored as r g b w. */
const orientations = ['rgbw', 'grwb', 'wbgr', 'bwrg', 'rbgw', 'brwg', 'wgbr', 'gwrb']

for (const [i, shown] of orientations.entries()) {
  const orientation = i + 1
  test(`EXIF orientation ${orientation} is applied`, async (t) => {
    const quadrants = () =>
      paint(32, 64, (y, x) => (y < 16 ? (x < 32 ? red : green) : x < 32 ? blue : white)).withMetadata({ orientation })
    const [height, width] = orientation < 5 ? [32, 64] : [64, 32]
    for (const file of [
      quadrants().jpeg({ quality: 100, chromaSubsampling: '4:4:4' }),
      quadrants().webp({ lossless: true }),
      quadrants().png(),
      quadrants().tiff({ compression: 'lzw' }),
    ]) {
      const picture = await read(await file.toBuffer(), height, width)
      const found = [
        pixel(picture, 4, 4),
        pixel(picture, 4, width - 4),
        pixel(picture, height - 4, 4),
        pixel(picture, height - 4, width - 4),
      ].map(([r = 0, g = 0, b = 0]) => (r > 128 ? (g > 128 ? 'w' : 'r') : g > 128 ? 'g' : b > 128 ? 'b' : '?'))
      t.is(found.join(''), shown)
    }
  })
}

test('every format and colour space becomes RGB', async (t) => {
  const flat = (colour = teal) => paint(16, 16, () => colour)
  const grey = () => paint(16, 16, () => [120]).toColourspace('b-w')
  const cases: readonly (readonly [name: string, file: Sharp, expected: Rgb, tolerance: number])[] = [
    ['JPEG', flat().jpeg({ quality: 100 }), teal, 2],
    ['progressive JPEG', flat().jpeg({ quality: 100, progressive: true }), teal, 2],
    ['CMYK JPEG', flat(brick).toColourspace('cmyk').jpeg({ quality: 100 }), brick, 8],
    ['grey JPEG', grey().jpeg(), [120, 120, 120], 1],
    ['grey PNG', grey().png(), [120, 120, 120], 0],
    ['16-bit PNG', flat().toColourspace('rgb16').png(), teal, 0],
    ['16-bit grey PNG', grey().toColourspace('grey16').png(), [120, 120, 120], 0],
    ['Display P3 PNG', flat().withIccProfile('p3').png(), teal, 1],
    ['palette PNG', flat().png({ palette: true }), teal, 0],
    ['lossy WebP', flat().webp(), teal, 4],
    ['AVIF', flat().avif({ quality: 90 }), teal, 3],
    ['TIFF', flat().tiff({ compression: 'deflate' }), teal, 0],
    ['CMYK TIFF', flat(brick).toColourspace('cmyk').tiff(), brick, 8],
    ['CIELAB TIFF', flat().toColourspace('lab').tiff(), teal, 1],
    ['GIF', flat().gif(), teal, 1],
  ]
  for (const [name, file, expected, tolerance] of cases) {
    const picture = await read(await file.toBuffer(), 8)
    t.is(picture.data.length, 8 * 8 * 3, name)
    t.log(name)
    near(t, pixel(picture, 3, 5), expected, tolerance)
  }
})

test('16-bit colours with a profile are what they are with 8 bits', async (t) => {
  const profileOf = async (name: string) => {
    const file = await noise(4, 4).withIccProfile(name).png().toBuffer()
    return (await sharp(file).metadata()).icc!
  }
  const row = (colour: readonly number[], bytes: 1 | 2) => {
    const values = colour.flatMap((value) => Array<number>(bytes).fill(value))
    return Buffer.from([0, ...Array.from({ length: 8 }, () => values).flat()])
  }
  const make = (depth: 8 | 16, colour: readonly number[], profile: Buffer) => {
    const rows = Buffer.concat(Array.from({ length: 8 }, () => row(colour, depth === 8 ? 1 : 2)))
    return pngOf(8, 8, { depth, type: colour.length === 3 ? 2 : 6, rows, profile })
  }
  const sRgb = await profileOf('srgb')
  t.deepEqual(pixel(await read(make(16, [0, 200, 0], sRgb), 4), 1, 2), [0, 200, 0])
  t.deepEqual(pixel(await read(make(16, [200, 60, 60, 255], sRgb), 8), 1, 2), [200, 60, 60])
  const p3 = await profileOf('p3')
  for (const colour of [teal, [...teal, 128]]) {
    const [wide, narrow] = await Promise.all([16, 8].map((depth) => read(make(depth as 8 | 16, colour, p3), 4)))
    near(t, pixel(wide!, 1, 2), pixel(narrow!, 1, 2), 1)
  }
})

test('a linear TIFF of 32-bit floats becomes sRGB', async (t) => {
  const [width, height] = [4, 4]
  const tags = [
    [256, width],
    [257, height],
    [258, 32],
    [259, 1],
    [262, 2],
    [273, 256],
    [277, 3],
    [278, height],
    [279, width * height * 12],
    [339, 3],
  ] as const
  const file = Buffer.alloc(256 + width * height * 12)
  file.write('II*\0\x08\0\0\0', 'latin1')
  file.writeUInt16LE(tags.length, 8)
  for (const [i, [tag, value]] of tags.entries()) {
    file.writeUInt16LE(tag, 10 + 12 * i)
    file.writeUInt16LE(4, 12 + 12 * i)
    file.writeUInt32LE(1, 14 + 12 * i)
    file.writeUInt32LE(value, 18 + 12 * i)
  }
  for (let i = 0; i < width * height; i++)
    [1, 0.2140411, 0].forEach((v, c) => file.writeFloatLE(v, 256 + 12 * i + 4 * c))
  near(t, pixel(await read(file, 4), 1, 2), [255, 128, 0], 1)
})

test('alpha is laid on the background, in every kind of picture', async (t) => {
  const half = () => paint(16, 16, () => [...teal, 128])
  const halfGrey = () => paint(16, 16, () => [120, 128]).toColourspace('b-w')
  const cases: readonly (readonly [name: string, file: Sharp, colour: Rgb, tolerance: number])[] = [
    ['PNG', half().png(), teal, 1],
    ['16-bit PNG', half().toColourspace('rgb16').png(), teal, 2],
    ['palette PNG', half().png({ palette: true }), teal, 2],
    ['WebP', half().webp({ lossless: true }), teal, 1],
    ['AVIF', half().avif({ lossless: true }), teal, 3],
    ['grey PNG', halfGrey().png(), [120, 120, 120], 1],
    ['16-bit grey PNG', halfGrey().toColourspace('grey16').png(), [120, 120, 120], 2],
  ]
  for (const [name, file, colour, tolerance] of cases) {
    const picture = await read(await file.toBuffer(), 8, 8, { background: '#f08000' })
    t.log(name)
    const [r, g, b] = colour.map((value, c) => (value + [240, 128, 0][c]!) / 2)
    near(t, pixel(picture, 3, 5), [r!, g!, b!], tolerance)
  }
  const clear = await paint(8, 8, () => [0, 0, 0, 0])
    .png()
    .toBuffer()
  t.deepEqual(pixel(await read(clear, 8), 2, 2), [255, 255, 255])
})

test('colours under transparent pixels do not bleed into the edges', async (t) => {
  const edge = await paint(32, 32, (_, x) => (x < 16 ? [0, 0, 255, 255] : [0, 255, 0, 0]))
    .png()
    .toBuffer()
  const picture = await read(edge, 5, 5)
  for (let x = 0; x < 5; x++) {
    const [r, g, b] = pixel(picture, 2, x)
    t.is(r, g)
    t.is(b, 255)
  }
})

test('of an animation or a book, the first frame or page is read', async (t) => {
  const raw = Uint8Array.from([red, green, blue].flatMap((colour) => Array.from({ length: 64 }, () => colour).flat()))
  const frames = () => sharp(raw, { raw: { width: 8, height: 24, channels: 3, pageHeight: 8 } })
  for (const file of [frames().gif(), frames().webp({ lossless: true }), frames().tiff({ compression: 'lzw' })]) {
    const bytes = await file.toBuffer()
    t.is((await sharp(bytes).metadata()).pages, 3)
    t.deepEqual([...(await read(bytes, 8)).data], Array.from({ length: 64 }, () => red).flat())
  }
})

test('SVG is drawn at the size that is wanted', async (t) => {
  const half = '<rect width="4" height="8" fill="#f00"/><rect x="4" width="4" height="8" fill="#00f"/>'
  const scaled = ['7000', '10mm', '210mm', '0.5in', '40cm', '50%'].map(
    (length) => `viewBox="0 0 8 8" width="${length}" height="${length}"`,
  )
  const sizes = ['width="8" height="8"', 'viewBox="0 0 8 8"', ...scaled]
  for (const size of sizes) {
    const picture = await read(svg(half, size, '<?xml version="1.0"?>\n<!-- drawn -->\n'), 100, 100, { svg: true })
    t.deepEqual(pixel(picture, 50, 49), [...red], size)
    t.deepEqual(pixel(picture, 50, 50), [...blue], size)
  }
  const strip = await read(svg('<rect width="100%" height="100%" fill="red"/>', 'width="1" height="400"'), 64, 64, {
    svg: true,
  })
  t.deepEqual(pixel(strip, 63, 63), [...red])
})

test('SVG is drawn from a path, and from bytes only where that is asked for', async (t) => {
  const path = join(await folder(t), 'drawing.svg')
  const bytes = svg('<rect width="8" height="8" fill="red"/>')
  await writeFile(path, bytes)
  t.deepEqual(pixel(await read(path, 8), 1, 1), [...red])
  await refused(t, read(path, 8, 8, { svg: false }), { message: /SVG is not accepted/ })
  await refused(t, read(bytes, 8), { message: /SVG is not accepted/ })
})

test('SVG cannot reach other files or hosts', async (t) => {
  const path = join(await folder(t), 'secret.png')
  const secret = await paint(8, 8, () => red)
    .png()
    .toBuffer()
  await writeFile(path, secret)
  const image = (href: string) => svg(`<image width="8" height="8" href="${href}"/>`)
  const inside = await read(image(`data:image/png;base64,${secret.toString('base64')}`), 8, 8, { svg: true })
  t.deepEqual(pixel(inside, 4, 4), [...red], 'an embedded picture is drawn')
  for (const href of [path, pathToFileURL(path).href, 'http://127.0.0.1:9/a.png', 'secret.png']) {
    t.deepEqual(pixel(await read(image(href), 8, 8, { svg: true }), 4, 4), [...white], href)
  }
  await writeFile(join(path, '..', 'outer.svg'), image('secret.png'))
  t.deepEqual(pixel(await read(join(path, '..', 'outer.svg'), 8), 4, 4), [...white], 'not even beside it')
  const entity = `<!DOCTYPE svg [<!ENTITY x SYSTEM "${pathToFileURL(path).href}">]>`
  await refused(t, read(svg('<text>&x;</text>', undefined, entity), 8, 8, { svg: true }), { message: /an SVG, but/ })
})

test('SVG bombs are refused', async (t) => {
  let laughs = '<!ENTITY a0 "<g/>">'
  for (let i = 1; i < 12; i++) laughs += `<!ENTITY a${i} "${`&a${i - 1};`.repeat(10)}">`
  const bombs = [
    svg('&a11;', undefined, `<!DOCTYPE svg [${laughs}]>`),
    svg(`${'<g>'.repeat(10_000)}${'</g>'.repeat(10_000)}`),
    svg('<rect/>', 'width="0" height="0"'),
  ]
  for (const bomb of bombs) await refused(t, read(bomb, 8, 8, { svg: true }), { message: /an SVG, but/ })
  for (const size of ['width="1000000" height="1000000"', 'width="1" height="10000000"']) {
    await refused(t, read(svg('<g/>', size), 8, 8, { svg: true }), { message: /pixels, more than/ })
  }
  await refused(t, read(gzipSync(svg('<g/>')), 8, 8, { svg: true }), { message: /gzip/ })
})

test('bytes and pixels have limits, checked before decoding', async (t) => {
  const bytes = await noise(20, 30).png().toBuffer()
  const path = join(await folder(t), 'large.png')
  await writeFile(path, bytes)
  const tooLong = { message: new RegExp(`${bytes.length} bytes, more than the ${bytes.length - 1} `) }
  await refused(t, read(bytes, 8, 8, { maxBytes: bytes.length - 1 }), tooLong)
  await refused(t, read(path, 8, 8, { maxBytes: bytes.length - 1 }), tooLong)
  await t.notThrowsAsync(read(path, 8, 8, { maxBytes: bytes.length, maxPixels: 600 }))
  await refused(t, read(path, 8, 8, { maxPixels: 599 }), { message: /30 × 20 pixels, more than the 599/ })
  await refused(t, read(pngOf(50_000, 50_000), 8), { message: /50000 × 50000 pixels, more than the 100000000/ })
  await refused(t, read(pngOf(10_001, 10_000), 8), { message: /10000 × 10001 pixels/ })
})

test('a header that promises more than the file has is refused', async (t) => {
  for (const [height, width] of [
    [9000, 9000],
    [1, 90_000_000],
    [100_000_000, 1],
    [2 ** 31 - 1, 2 ** 31 - 1],
  ] as const) {
    await refused(t, read(pngOf(height, width), 64), { message: /a PNG, but is damaged or truncated/ })
  }
})

const damageable: readonly (readonly [string, () => Sharp])[] = [
  ['JPEG', () => noise(64, 64).jpeg()],
  ['progressive JPEG', () => noise(64, 64).jpeg({ progressive: true })],
  ['PNG', () => noise(64, 64).png()],
  ['interlaced PNG', () => noise(64, 64).png({ progressive: true })],
  ['WebP', () => noise(64, 64).webp()],
  ['lossless WebP', () => noise(64, 64).webp({ lossless: true })],
  ['GIF', () => noise(64, 64).gif()],
  ['TIFF', () => noise(64, 64).tiff({ compression: 'deflate' })],
  ['AVIF', () => noise(64, 64).avif()],
]

for (const [name, file] of damageable) {
  test(`a truncated ${name} is refused wherever it is cut`, async (t) => {
    const bytes = await file().toBuffer()
    await t.notThrowsAsync(read(bytes, 64))
    for (let part = 0; part < 40; part++) {
      const cut = bytes.subarray(0, Math.floor((bytes.length * part) / 40))
      const error = await t.throwsAsync(read(cut, 64), { instanceOf: FlexitError }, `cut at ${cut.length}`)
      t.is(error.code, 'INVALID_ARGUMENT')
      t.is(error.field, 'image')
    }
  })

  test(`a ${name} with flipped bits is a picture or an error of ours`, async (t) => {
    const bytes = await file().toBuffer()
    for (let i = 0; i < 60; i++) {
      const flipped = Buffer.from(bytes)
      const at = (i * 2_654_435_761) % bytes.length
      flipped[at] = flipped[at]! ^ (1 << (i % 8))
      try {
        t.is((await read(flipped, 16, 16, { maxPixels: 1_000_000 })).data.length, 16 * 16 * 3)
      } catch (error) {
        t.true(error instanceof FlexitError && error.code === 'INVALID_ARGUMENT', String(error))
      }
    }
  })
}

test('a PNG whose checksum is wrong is refused; a JPEG with stray bytes, or bytes after any picture, is not', async (t) => {
  const png = await noise(16, 16).png().toBuffer()
  const wrong = Buffer.from(png)
  const checksum = png.indexOf('IEND') - 5
  wrong[checksum] = wrong[checksum]! ^ 1
  await refused(t, read(wrong, 16), { message: /damaged/ })
  const jpeg = await noise(16, 16).jpeg().toBuffer()
  for (const bytes of [png, jpeg]) {
    const longer = Buffer.concat([bytes, Buffer.from('and so on')])
    t.deepEqual(await read(longer, 16), await read(bytes, 16))
  }
  const end = jpeg.length - 2
  const inserted = Buffer.concat([jpeg.subarray(0, end), Buffer.from([0, 0]), jpeg.subarray(end)])
  t.deepEqual(await read(inserted, 16), await read(jpeg, 16))
})

test('what is not a picture is named', async (t) => {
  const ftyp = (brands: string) => Buffer.from(`\0\0\0\x18ftyp${brands}`, 'latin1')
  const cases: readonly (readonly [Uint8Array, RegExp])[] = [
    [Buffer.alloc(0), /is empty/],
    [Buffer.from('hello\nworld\n'), /looks like text/],
    [Buffer.from('{"a": 1}'), /looks like text/],
    [Buffer.from('<!DOCTYPE html><html><body><svg width="1"></svg>'), /looks like an HTML page/],
    [Buffer.from('\ufeff\n<!-- x --><HTML>'), /looks like an HTML page/],
    [Buffer.from(`${'<!---->\n'.repeat(500)}<HTML>`), /looks like an HTML page/],
    [Buffer.from('<!---->'.repeat(600)), /looks like text/], // not after 2^600 tries
    [Buffer.from('%PDF-1.7\n'), /looks like a PDF document/],
    [ftyp('isom\0\0\x02\0isomiso2mp41'), /looks like an MP4 or QuickTime video/],
    [ftyp('heic\0\0\0\0mif1heic'), /looks like a HEIC picture/],
    [Buffer.from('\x1aE\xdf\xa3\0\0', 'latin1'), /looks like a WebM or Matroska video/],
    [Buffer.from('RIFF\0\0\0\0AVI LIST', 'latin1'), /looks like an AVI video/],
    [Buffer.from('BM\x10\0\0\0\0\0\0\0', 'latin1'), /looks like a BMP picture/],
    [Buffer.from('PK\x03\x04\0\0', 'latin1'), /looks like a zip archive/],
    [Buffer.from([1, 2, 3, 200]), /not a picture/],
  ]
  for (const [bytes, message] of cases) await refused(t, read(bytes, 8), { message })
})

test('random bytes are refused, also behind the first bytes of a picture', async (t) => {
  let state = 1
  const random = () => (state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0) >>> 24
  const heads = [
    '',
    '\xff\xd8\xff',
    '\x89PNG\r\n\x1a\n',
    'GIF89a',
    'RIFF\0\x01\0\0WEBPVP8 ',
    'II*\0',
    '\0\0\0\x1cftypavif',
  ]
  for (const head of heads) {
    for (let i = 0; i < 25; i++) {
      const bytes = Buffer.concat([Buffer.from(head, 'latin1'), Uint8Array.from({ length: 300 }, random)])
      await refused(t, read(bytes, 8), { message: /^cannot read the picture|^the picture has/ })
    }
  }
})

test('only regular files are opened', async (t) => {
  const place = await folder(t)
  await refused(t, read(join(place, 'none.png'), 8), { message: /none\.png: no such file/, code: 'NOT_FOUND' })
  await refused(t, read(place, 8), { message: /it is a folder/ })
  if (process.platform !== 'win32') {
    await refused(t, read('/dev/zero', 8), { message: /it is a device/ })
    const pipe = join(place, 'pipe.png')
    await promisify(execFile)('mkfifo', [pipe])
    await refused(t, read(pipe, 8), { message: /it is a pipe/ })
  }
})

test('a wrong background or size is not the fault of the picture', async (t) => {
  const bytes = await noise(8, 8).png().toBuffer()
  const wrong = (background: string) => read(bytes, 8, 8, { background })
  await refused(t, wrong('blurple'), { message: /'blurple' is not a colour/, field: 'background' })
  await refused(t, wrong('rgba(0, 0, 0, 0.5)'), { message: /not opaque/, field: 'background' })
  for (const size of [0, -1, 1.5, NaN])
    await refused(t, read(bytes, size), { message: /cannot be made/, field: 'size' })
})

test('a tensor is channels first, each value the float32 nearest to x / 255', (t) => {
  const picture = { height: 1, width: 2, data: Uint8Array.from([0, 51, 255, 1, 2, 3]) }
  const expected = [0, 1 / 255, 0.2, 2 / 255, 1, 3 / 255].map(Math.fround)
  t.deepEqual([...pictureToTensor(picture)], expected)
})

test('a picture survives the way to a tensor and back', (t) => {
  const data = Uint8Array.from({ length: 3 * 256 }, (_, i) => (i * 7) % 256)
  const picture = { height: 16, width: 16, data }
  t.deepEqual(tensorToPicture(pictureToTensor(picture), picture), picture)
})

test('tensorToPicture multiplies in float32, as a graph does', (t) => {
  // In float64 it is 64.500004, which would be 65.
  const tensor = new Float32Array(3).fill(4243649 / 2 ** 24)
  t.deepEqual([...tensorToPicture(tensor, { height: 1, width: 1 }).data], [64, 64, 64])
})

test('tensorToPicture rounds and clamps, and checks the length', (t) => {
  const [reds, greens, blues] = [
    [-1, 0.4 / 255],
    [0.6 / 255, 2],
    [NaN, 254.6 / 255],
  ]
  const tensor = Float32Array.from([...reds, ...greens, ...blues])
  t.deepEqual([...tensorToPicture(tensor, { height: 1, width: 2 }).data], [0, 1, 0, 0, 255, 255])
  const wrong = () => tensorToPicture(tensor, { height: 2, width: 2 })
  t.throws(wrong, { instanceOf: FlexitError, message: /12 values, not 6/ })
})
