// Renders all drawings: DATA/pixels.bin (RGBA, 96 x 96, what the networks learn from), DATA/index.json, and
// DATA/images/VENDOR/NAME.png (64 x 64 on white, what the evaluation reads). usage: node render.js DATA
import { mkdirSync, openSync, writeFileSync, writeSync, closeSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { classes, drawer, VENDORS } from './drawings.js'

const SIZE = 96
const IMAGE = 64
const DRAWING = Math.round(IMAGE * 0.92)
const CLEAR = { r: 0, g: 0, b: 0, alpha: 0 }

const resized = (drawing, size) =>
  sharp(drawing, { unlimited: true }).resize(size, size, { fit: 'contain', background: CLEAR })

async function main(folder) {
  sharp.concurrency(1)
  const names = classes()
  mkdirSync(folder, { recursive: true })
  const file = openSync(path.join(folder, 'pixels.bin'), 'w')
  const index = []
  for (const [number, vendor] of VENDORS.entries()) {
    const draw = drawer(vendor, 4 * SIZE)
    const images = path.join(folder, 'images', vendor.id)
    mkdirSync(images, { recursive: true })
    for (const [label, entry] of names.entries()) {
      const drawing = draw(entry)
      if (!drawing) continue
      writeSync(file, await resized(drawing, SIZE).ensureAlpha().raw().toBuffer())
      index.push([number, label])
      const margin = IMAGE - DRAWING
      await resized(drawing, DRAWING)
        .extend({
          top: margin >> 1,
          left: margin >> 1,
          bottom: margin - (margin >> 1),
          right: margin - (margin >> 1),
          background: '#fff',
        })
        .flatten({ background: '#fff' })
        .removeAlpha()
        .png({ compressionLevel: 9, effort: 10 })
        .toFile(path.join(images, `${entry.slug}.png`))
    }
    console.log(vendor.id, index.filter(([v]) => v === number).length)
  }
  closeSync(file)
  writeFileSync(
    path.join(folder, 'index.json'),
    JSON.stringify({ size: SIZE, vendors: VENDORS, classes: names, drawings: index }),
  )
}

await main(process.argv[2] ?? 'data')
