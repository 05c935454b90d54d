// Plots as SVG: what can be told apart on them.
// What they hold: src/evaluation/plot.ts.

import test from 'ava'
import sharp from 'sharp'
import { plotBars, plotLines } from '../../src/evaluation/plot.js'

test('bars of one length are all seen', async (t) => {
  const layers = [
    { name: 'front', values: [100, 20] },
    { name: 'middle', values: [100, 60] },
    { name: 'back', values: [100, 100] },
  ]
  const svg = plotBars('bars', ['a', 'b'], [{ title: 'x', layers }])
  const { data, info } = await sharp(Buffer.from(svg)).removeAlpha().raw().toBuffer({ resolveWithObject: true })
  const shadesOf = (row: number) => {
    const colours = new Set<string>()
    // The middle of the shortest bar; labels take 27 pixels of the left.
    for (let y = 42 + 18 * row; y < 54 + 18 * row; y++) {
      const at = info.channels * (y * info.width + 27 + 40)
      colours.add(data.subarray(at, at + 3).toString('hex'))
    }
    return colours
  }
  const shades = ['00304f', '0072b2', 'a9cfe8']
  for (const row of [0, 1]) t.deepEqual([...shadesOf(row)].sort(), shades, `row ${row}`)
})

test('more lines than colours differ in their strokes', (t) => {
  const series = Array.from({ length: 20 }, (_, i) => ({ name: `line ${i}`, points: [{ x: i, y: i }] }))
  const svg = plotLines('lines', [{ x: 'x', y: 'y', series }])
  const legend = [...svg.matchAll(/<path d="M\d+ \d+h18" (stroke=[^/]+)\/>/g)].map(([, stroke]) => stroke)
  t.is(legend.length, 20)
  t.is(new Set(legend).size, 20)
  const lines = [...svg.matchAll(/fill="none" (stroke="#[^#]{6}" stroke-width[^/]+)\/>/g)].map(([, stroke]) => stroke)
  t.deepEqual(lines, legend)
})

test('names that XML cannot hold leave a plot whole', async (t) => {
  const svg = plotBars('a\x01b', ['\x1b[31mred\x00 \uFFFF \uD800 & <co>'], [])
  t.true(svg.includes('<title>a\uFFFDb</title>'))
  t.true(svg.includes('>\uFFFD[31mred\uFFFD \uFFFD \uFFFD &amp; &lt;co&gt;</text>'), svg)
  t.is((await sharp(Buffer.from(svg)).metadata()).format, 'svg')
})
