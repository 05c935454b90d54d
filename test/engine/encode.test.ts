// Pictures out: what is written is read back, pixel by pixel where the format is lossless.
// The animation's frames, times and loop are read from the WebP container's metadata.

import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import sharp from 'sharp'
import {
  animation,
  encodePicture,
  filmstrip,
  pictureFormat,
  type PictureFormat,
  writePicture,
} from '../../src/engine/encode.js'
import { FlexitError } from '../../src/engine/errors.js'
import { type Picture, readPicture } from '../../src/engine/picture.js'

const formats: readonly PictureFormat[] = ['png', 'webp', 'jpeg']

/** Smooth, so that lossy formats keep it, and different in every corner. */
function gradient(height: number, width: number): Picture {
  const data = new Uint8Array(height * width * 3)
  for (let i = 0; i < height * width; i++) {
    const [y, x] = [Math.floor(i / width) / height, (i % width) / width]
    data.set([255 * y, 255 * x, 128 * (1 - x)], 3 * i)
  }
  return { height, width, data }
}

function flat(height: number, width: number, colour: readonly [number, number, number]): Picture {
  return { height, width, data: Uint8Array.from(Array.from({ length: height * width }, () => colour).flat()) }
}

const decode = async (bytes: Uint8Array, page = 0) => {
  const { data, info } = await sharp(bytes, { page }).removeAlpha().raw().toBuffer({ resolveWithObject: true })
  return { height: info.height, width: info.width, data: new Uint8Array(data) }
}

const pixel = ({ width, data }: Picture, y: number, x: number) => [...data.subarray(3 * (y * width + x)).subarray(0, 3)]

const largestDifference = (a: Picture, b: Picture) =>
  a.data.reduce((d, v, i) => Math.max(d, Math.abs(v - b.data[i]!)), 0)

async function refused(t: ExecutionContext, promise: Promise<unknown>, field: string, message: RegExp) {
  const error = await t.throwsAsync(promise, { instanceOf: FlexitError, message })
  t.is(error.code, 'INVALID_ARGUMENT')
  t.is(error.field, field)
}

test('a format that is not written is refused', async (t) => {
  for (const format of ['gif', undefined]) {
    const asked = { format: format as PictureFormat }
    await refused(t, encodePicture(gradient(4, 4), asked), 'format', /cannot write a picture as/)
  }
})

test('options that are undefined are those that are left out', async (t) => {
  const picture = gradient(4, 4)
  const unset = { quality: undefined, size: undefined, fast: undefined }
  t.deepEqual(
    await encodePicture(picture, { format: 'webp', ...unset }),
    await encodePicture(picture, { format: 'webp' }),
  )
  const png = await encodePicture(picture, { format: 'png' })
  const options = {
    height: 4,
    width: 4,
    background: 'white',
    maxPixels: undefined,
    maxBytes: undefined,
    svg: undefined,
  }
  t.deepEqual(await readPicture(png, options), picture)
})

test('PNG keeps every bit; WebP and JPEG come close', async (t) => {
  const picture = gradient(40, 60)
  t.deepEqual(await decode(await encodePicture(picture, { format: 'png' })), picture)
  for (const format of ['webp', 'jpeg'] as const) {
    const bytes = await encodePicture(picture, { format })
    t.is((await sharp(bytes).metadata()).format, format)
    t.true(largestDifference(await decode(bytes), picture) <= 12)
  }
})

test('readPicture reads what encodePicture writes', async (t) => {
  const picture = gradient(40, 60)
  const bytes = await encodePicture(picture, { format: 'png' })
  t.deepEqual({ ...(await readPicture(bytes, { height: 40, width: 60, background: 'white' })) }, picture)
})

test('the same pixels give the same bytes, also side by side', async (t) => {
  const picture = gradient(64, 64)
  for (const format of formats) {
    const [first, ...others] = await Promise.all([1, 2, 3, 4].map(() => encodePicture(picture, { format })))
    for (const other of others) t.deepEqual(other, first)
    t.deepEqual(await encodePicture({ ...picture, data: Uint8Array.from(picture.data) }, { format }), first)
  }
})

test('a lower quality is a smaller file', async (t) => {
  const picture = gradient(64, 64)
  for (const format of ['webp', 'jpeg'] as const) {
    const low = await encodePicture(picture, { format, quality: 20 })
    const high = await encodePicture(picture, { format, quality: 100 })
    t.true(low.length < high.length)
  }
})

test('size is the longer side, smaller or larger', async (t) => {
  for (const [size, height, width] of [
    [30, 20, 30],
    [120, 80, 120],
    [60, 40, 60],
  ] as const) {
    const shown = await decode(await encodePicture(gradient(40, 60), { format: 'png', size }))
    t.deepEqual([shown.height, shown.width], [height, width])
  }
})

test('a quality or size that makes no sense is refused', async (t) => {
  const picture = gradient(8, 8)
  for (const quality of [0, 101, 50.5, NaN]) {
    await refused(t, encodePicture(picture, { format: 'webp', quality }), 'quality', /from 1 to 100|quality is/)
  }
  for (const size of [0, -4, 1e9]) await refused(t, encodePicture(picture, { format: 'png', size }), 'size', /size is/)
})

test('writePicture goes by the extension', async (t) => {
  const place = await mkdtemp(join(tmpdir(), 'flexit-encode-'))
  t.teardown(() => rm(place, { recursive: true, force: true }))
  for (const [file, format] of [
    ['a.png', 'png'],
    ['b.webp', 'webp'],
    ['c.jpg', 'jpeg'],
    ['d.JPEG', 'jpeg'],
    ['deep/er/e.png', 'png'],
  ] as const) {
    await writePicture(join(place, file), gradient(12, 10))
    const { format: found, width, height } = await sharp(await readFile(join(place, file))).metadata()
    t.deepEqual([found, width, height], [format, 10, 12])
  }
  await writePicture(join(place, 'a.png'), gradient(5, 5), { size: 3 })
  t.is((await sharp(await readFile(join(place, 'a.png'))).metadata()).width, 3)
  const before = await readdir(place)
  for (const file of ['x.gif', 'x.avif', 'x', '.png']) {
    await refused(t, writePicture(join(place, file), gradient(5, 5)), 'output', /cannot write .*extension/)
  }
  t.deepEqual(await readdir(place), before)
})

test('pictureFormat tells what works', (t) => {
  t.is(pictureFormat('a.b/c.JPG'), 'jpeg')
  const error = t.throws(() => pictureFormat('picture.tiff'), { instanceOf: FlexitError })
  t.regex(error.message, /'\.tiff'/)
  t.is(error.cure, 'Use one of .png, .webp, .jpg, .jpeg.')
})

test('a filmstrip puts frames in reading order, white between and behind them', async (t) => {
  const frames = [1, 2, 3, 4, 5].map((i) => flat(2, 3, [i, 10 * i, 100]))
  const strip = await decode(await filmstrip(frames, { columns: 3, scale: 1, gap: 2 }))
  t.deepEqual([strip.height, strip.width], [2 * 2 + 2, 3 * 3 + 2 * 2])
  for (let y = 0; y < strip.height; y++) {
    for (let x = 0; x < strip.width; x++) {
      const i = Math.floor(y / 4) * 3 + Math.floor(x / 5) + 1
      const frame = y % 4 < 2 && x % 5 < 3 && i <= 5
      t.deepEqual(pixel(strip, y, x), frame ? [i, 10 * i, 100] : [255, 255, 255], `${y}, ${x}`)
    }
  }
})

test('a filmstrip keeps the pixels of frames that are not enlarged', async (t) => {
  const frame = gradient(200, 20)
  t.deepEqual(await decode(await filmstrip([frame])), frame)
})

test('a filmstrip shows small frames at 192 pixels or more, eight in a row', async (t) => {
  for (const [height, scale] of [
    [64, 3],
    [100, 2],
    [191, 2],
    [192, 1],
    [288, 1],
  ] as const) {
    const { height: shown } = await sharp(await filmstrip([gradient(height, 10)])).metadata()
    t.is(shown, height * scale)
  }
  const nine = Array.from({ length: 9 }, () => gradient(192, 10))
  const { width, height } = await sharp(await filmstrip(nine)).metadata()
  t.deepEqual([width, height], [8 * 10 + 7 * 8, 2 * 192 + 8])
})

test('enlarging keeps every part of a frame in its place', async (t) => {
  const frame = gradient(64, 64)
  const strip = await decode(await filmstrip([frame, flat(64, 64, [0, 0, 0])], { scale: 3, gap: 0 }))
  for (const [y, x] of [
    [1, 1],
    [10, 50],
    [40, 7],
    [62, 62],
  ] as const) {
    const worst = Math.max(...pixel(strip, 3 * y + 1, 3 * x + 1).map((v, c) => Math.abs(v - pixel(frame, y, x)[c]!)))
    t.true(worst <= 2)
  }
  t.deepEqual(pixel(strip, 10, 193), [0, 0, 0])
})

test('an animation loops for ever and rests on its first and last frame', async (t) => {
  const colours = [
    [200, 30, 30],
    [30, 200, 30],
    [30, 30, 200],
    [200, 200, 30],
  ] as const
  const bytes = await animation(
    colours.map((colour) => flat(64, 32, colour)),
    { frameMs: 80, holdLastMs: 1500 },
  )
  const { format, pages, pageHeight, width, delay, loop } = await sharp(bytes, { animated: true }).metadata()
  t.deepEqual(
    { format, pages, pageHeight, width, delay, loop },
    { format: 'webp', pages: 4, pageHeight: 192, width: 96, delay: [750, 80, 80, 1500], loop: 0 },
  )
  for (const [page, colour] of colours.entries()) {
    const shown = pixel(await decode(bytes, page), 100, 50)
    t.true(Math.max(...shown.map((v, c) => Math.abs(v - colour[c]!))) <= 8, `frame ${page}: ${shown.join(', ')}`)
  }
})

test('an animation may be longer than a WebP is high, and the same frames give the same bytes', async (t) => {
  const frames = Array.from({ length: 161 }, (_, i) => flat(192, 16, [i, 255 - i, (i * 37) % 256]))
  const first = await animation(frames, { frameMs: 40, holdLastMs: 40, scale: 1 })
  const { pages, pageHeight, delay } = await sharp(first, { animated: true }).metadata()
  t.deepEqual([pages, pageHeight], [161, 192])
  t.true(delay?.every((ms) => ms === 40))
  t.deepEqual(await animation(frames, { frameMs: 40, holdLastMs: 40, scale: 1 }), first)
})

test('frames that stand still are shown for their time together', async (t) => {
  const [a, b] = [flat(16, 16, [9, 9, 9]), flat(16, 16, [250, 9, 9])]
  const moving = sharp(await animation([a, a, a, b], { frameMs: 80, holdLastMs: 1000 }), { animated: true })
  t.deepEqual((await moving.metadata()).delay, [500 + 80 + 80, 1000])
  const still = await sharp(await animation([a], { frameMs: 80, holdLastMs: 1000 })).metadata()
  t.deepEqual([still.format, still.width], ['webp', 192])
})

test('frames that do not fit together, or none, are refused', async (t) => {
  const frames = [gradient(8, 8), gradient(8, 9)]
  await refused(t, filmstrip([]), 'frames', /no frames/)
  await refused(t, animation([], { frameMs: 1, holdLastMs: 1 }), 'frames', /no frames/)
  await refused(t, filmstrip(frames), 'frames', /8 × 8 and 9 × 8/)
  await refused(t, animation(frames, { frameMs: 1, holdLastMs: 1 }), 'frames', /different sizes/)
})

test('numbers that make no sense are refused by name', async (t) => {
  const frames = [gradient(8, 8)]
  await refused(t, filmstrip(frames, { columns: 0 }), 'columns', /columns is 0/)
  await refused(t, filmstrip(frames, { gap: -1 }), 'gap', /gap is -1/)
  await refused(t, filmstrip(frames, { scale: 1.5 }), 'scale', /scale is 1.5/)
  await refused(t, animation(frames, { frameMs: 0, holdLastMs: 1 }), 'frameMs', /frameMs is 0/)
  await refused(t, animation(frames, { frameMs: 1, holdLastMs: 1e6 }), 'holdLastMs', /holdLastMs is 1000000/)
  await refused(t, animation(frames, { frameMs: 1, holdLastMs: 1, quality: 0 }), 'quality', /quality is 0/)
})
