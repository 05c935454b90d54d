// Views: linear maps whose adjoint is exact, that show what they should, drawn from the ranges that are documented.

import test, { type ExecutionContext } from 'ava'
import { gradient } from '../../src/engine/graph/gradient.js'
import { Graph } from '../../src/engine/graph/graph.js'
import { N } from '../../src/engine/graph/shape.js'
import { type Padding, type ViewSample, centreView, sampleView, viewInputNames, views } from '../../src/engine/views.js'
import { floats, relativeError, runGraph } from '../support/graphs.js'
import { Random } from '../support/random.js'

interface Image {
  readonly channels: number
  readonly height: number
  readonly width: number
  readonly data: Float32Array
}

const size = (samples: readonly ViewSample[]) => samples[0]!.y.length

/** Views [count, C, size, size] of one image, or with a cotangent of that shape: the image's gradient [C, H, W]. */
async function see(
  { channels, height, width, data }: Image,
  samples: readonly ViewSample[],
  {
    padding = 'zeros',
    rotate = true,
    cotangent,
  }: { padding?: Padding; rotate?: boolean; cotangent?: Float32Array } = {},
): Promise<Float32Array> {
  const graph = new Graph()
  const image = graph.input('image', 'float32', [N, channels, height, width])
  const count = samples.length
  const seen = views(image, 'net', { size: size(samples), count, rotate, padding })
  const names = viewInputNames('net')
  const flat = (of: (sample: ViewSample) => Iterable<number>) => Float32Array.from(samples.flatMap((s) => [...of(s)]))
  const inputs = {
    image: { shape: [1, channels, height, width], data },
    [names.y]: { shape: [1, count, size(samples)], data: flat((s) => s.y) },
    [names.x]: { shape: [1, count, size(samples)], data: flat((s) => s.x) },
    ...(rotate ? { [names.shear]: { shape: [1, count, 2], data: flat((s) => s.shear) } } : {}),
  }
  if (cotangent === undefined) {
    graph.output('views', seen)
    return floats((await runGraph(graph, inputs))[0]!['views'])
  }
  graph.output('grad', gradient(seen, graph.input('u', 'float32', seen.shape), [image])[0]!)
  const u = { shape: [count, channels, size(samples), size(samples)], data: cotangent }
  return floats((await runGraph(graph, { ...inputs, u }))[0]!['grad'])
}

function randomImage(channels: number, height: number, width: number, seed = 1): Image {
  return { channels, height, width, data: new Random(seed).normals(channels * height * width) }
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0)
}

const draw = (count: number, height: number, width: number, to: number, seed = 3) =>
  Array.from({ length: count }, (_, view) => sampleView({ seed, step: 1, network: 0, view }, height, width, to))

for (const padding of ['zeros', 'reflect'] as const) {
  for (const [height, width, to] of [
    [24, 24, 16],
    [20, 30, 24],
    [33, 17, 40],
  ] as const) {
    test(`the gradient is the adjoint of the view: ${height} × ${width} to ${to}, ${padding}`, async (t) => {
      const image = randomImage(2, height, width)
      const samples = draw(6, height, width, to)
      const seen = await see(image, samples, { padding })
      const cotangent = new Random(2).normals(seen.length)
      const back = await see(image, samples, { padding, cotangent })
      const [forward, backward] = [dot(seen, cotangent), dot(image.data, back)]
      const scale = Math.sqrt(dot(seen, seen) * dot(cotangent, cotangent))
      t.true(Math.abs(forward - backward) / scale < 1e-5, `${forward} ${backward}`)
      t.true(dot(back, back) > 0)
    })
  }
}

for (const rotate of [false, true]) {
  test(`the whole of a picture of the network's size is the picture itself${rotate ? '' : ', without rotation'}`, async (t) => {
    const image = randomImage(3, 20, 20)
    for (const padding of ['zeros', 'reflect'] as const) {
      t.deepEqual(await see(image, [centreView(20, 20, 20)], { rotate, padding }), image.data)
    }
  })
}

/** PyTorch's interpolate(mode='bilinear', align_corners=False), one value. */
function bilinear({ height, width, data }: Image, channel: number, y: number, x: number): number {
  const clamp = (position: number, length: number) => Math.min(Math.max(position, 0), length - 1)
  const [py, px] = [clamp(y, height), clamp(x, width)]
  const [top, left] = [Math.floor(py), Math.floor(px)]
  const at = (row: number, column: number) =>
    data[(channel * height + Math.min(row, height - 1)) * width + Math.min(column, width - 1)]!
  const across = (row: number) => at(row, left) + (at(row, left + 1) - at(row, left)) * (px - left)
  return across(top) + (across(top + 1) - across(top)) * (py - top)
}

test('the deterministic view is a bilinear resize, to smaller and larger sizes', async (t) => {
  for (const [side, to] of [
    [24, 16],
    [16, 24],
    [15, 40],
    [31, 7],
  ] as const) {
    const image = randomImage(2, side, side)
    const seen = await see(image, [centreView(side, side, to)], { rotate: false })
    const expected = Float32Array.from(seen, (_, i) => {
      const [channel, row, column] = [Math.floor(i / to / to), Math.floor(i / to) % to, i % to]
      return bilinear(image, channel, ((row + 0.5) * side) / to - 0.5, ((column + 0.5) * side) / to - 0.5)
    })
    // Positions are float32: up to 1e-6 of a pixel beside the exact ones.
    t.true(relativeError(seen, expected) < 5e-6)
  }
})

test('the deterministic view of a picture that is not square is its centre', async (t) => {
  const image = randomImage(1, 10, 16)
  const seen = await see(image, [centreView(10, 16, 10)], { rotate: false })
  const expected = Float32Array.from(seen, (_, i) => image.data[Math.floor(i / 10) * 16 + 3 + (i % 10)]!)
  t.deepEqual(seen, expected)
})

test('a flipped view is the mirror of the one that is not', async (t) => {
  const image = randomImage(2, 24, 24)
  const [view] = draw(1, 24, 24, 16)
  // Without rotation: a flip comes after it.
  const straight = { ...view!, shear: [0, 0] as const }
  const [seen, mirrored] = await Promise.all([
    see(image, [straight]),
    see(image, [{ ...straight, x: straight.x.slice().reverse() }]),
  ])
  const expected = seen.map((_, i) => seen[i - (i % 16) + 15 - (i % 16)]!)
  t.deepEqual(mirrored, expected)
})

test('a rotation moves pixels where a rotation by its angle does', async (t) => {
  const side = 41
  const centre = (side - 1) / 2
  for (const degrees of [-10, -4, 7, 10]) {
    const angle = (degrees * Math.PI) / 180
    const view = { ...centreView(side, side, side), shear: [-Math.tan(angle / 2), Math.sin(angle)] as const }
    for (const [y, x] of [
      [5, 8],
      [10, 33],
      [35, 20],
      [20, 20],
      [30, 34],
    ] as const) {
      const data = new Float32Array(side * side)
      data[y * side + x] = 1
      const seen = await see({ channels: 1, height: side, width: side, data }, [view])
      // Three shears move every pixel somewhere: none is lost or split.
      t.deepEqual(
        [...seen].filter((value) => value !== 0),
        [1],
      )
      const found = seen.indexOf(1)
      const [dy, dx] = [y - centre, x - centre]
      const expectedX = centre + dx * Math.cos(angle) + dy * Math.sin(angle)
      const expectedY = centre + dy * Math.cos(angle) - dx * Math.sin(angle)
      const distance = Math.max(Math.abs((found % side) - expectedX), Math.abs(Math.floor(found / side) - expectedY))
      t.true(distance <= 1, `${degrees}°: (${y}, ${x}) is ${distance} away from where it belongs`)
    }
  }
})

test('beyond the border there are zeros, or the picture mirrored', async (t) => {
  for (const side of [9, 24, 64, 72]) {
    const image = { channels: 1, height: side, width: side, data: new Float32Array(side * side).fill(1) }
    const extreme = [-10, 10].map((degrees): ViewSample => {
      const angle = (degrees * Math.PI) / 180
      return { ...centreView(side, side, side), shear: [-Math.tan(angle / 2), Math.sin(angle)] }
    })
    const samples = [...extreme, ...draw(8, side, side, side)]
    const mirrored = await see(image, samples, { padding: 'reflect' })
    t.true(Math.min(...mirrored) > 0.999 && Math.max(...mirrored) < 1.001, `${side}`)
    const zeros = await see(image, samples, { padding: 'zeros' })
    t.is(Math.min(...zeros), 0)
  }
})

test('the mirror does not repeat the border itself', async (t) => {
  const image = randomImage(1, 20, 20)
  const positions = Float32Array.of(-2, -1, 0, 19, 20, 21)
  const view = { y: positions, x: positions, shear: [0, 0] } as const
  const at = (row: number, column: number) => image.data[row * 20 + column]!
  const rows = [2, 1, 0, 19, 18, 17]
  const expected = Float32Array.from(rows.flatMap((row) => rows.map((column) => at(row, column))))
  t.deepEqual(await see(image, [view], { padding: 'reflect' }), expected)
  const inside = Float32Array.from(expected, (_, i) => {
    const [row, column] = [positions[Math.floor(i / 6)]!, positions[i % 6]!]
    return row < 0 || row > 19 || column < 0 || column > 19 ? 0 : at(row, column)
  })
  t.deepEqual(await see(image, [view], { padding: 'zeros' }), inside)
})

/** What a view was drawn as, read back from its numbers: sampling positions are a pixel's width apart. */
function describe({ y, x, shear }: ViewSample) {
  const [first, last] = [x[0]!, x.at(-1)!]
  const flipped = first > last
  const length = (positions: Float32Array) =>
    (Math.abs(positions.at(-1)! - positions[0]!) / (positions.length - 1)) * positions.length
  const start = (low: number, spread: number, count: number) => low - ((0.5 * spread) / count - 0.5)
  const [height, width] = [length(y), length(x)]
  return {
    angle: (Math.asin(shear[1]) * 180) / Math.PI,
    flipped,
    height,
    width,
    top: start(y[0]!, height, y.length),
    left: start(Math.min(first, last), width, x.length),
  }
}

function checkUniform(t: ExecutionContext, values: readonly number[], low: number, high: number, what: string): void {
  const [mean, deviation] = [(low + high) / 2, (high - low) / Math.sqrt(12)]
  const found = values.reduce((sum, value) => sum + value, 0) / values.length
  // Five standard errors, and what rounding to whole pixels can shift.
  const tolerance = (5 * deviation) / Math.sqrt(values.length) + (high - low) / 50
  t.true(Math.abs(found - mean) < tolerance, `${what}: mean ${found}, expected ${mean}`)
  t.true(Math.min(...values) < low + (high - low) / 20, `${what}: from ${Math.min(...values)}`)
  t.true(Math.max(...values) > high - (high - low) / 20, `${what}: to ${Math.max(...values)}`)
}

for (const [height, width] of [
  [288, 288],
  [240, 300],
] as const) {
  test(`views are drawn from the documented ranges: ${height} × ${width}`, (t) => {
    const drawn = draw(4000, height, width, 64).map(describe)
    const areas = drawn.map((view) => (view.height * view.width) / (height * width))
    // Rounding a crop to whole pixels.
    const slack = 0.005
    t.true(drawn.every(({ angle }) => Math.abs(angle) <= 10))
    t.true(areas.every((area) => area > 0.8 - slack && area < 1 + 1e-4))
    t.true(drawn.every((view) => view.width / view.height > 0.9 - slack || view.width === width))
    for (const { top, left, ...crop } of drawn) {
      t.true(top > -1e-3 && left > -1e-3)
      t.true(top + crop.height < height + 1e-3 && left + crop.width < width + 1e-3)
    }
    checkUniform(
      t,
      drawn.map(({ angle }) => angle),
      -10,
      10,
      'angle',
    )
    checkUniform(
      t,
      drawn.map(({ flipped }) => Number(flipped)),
      0,
      1,
      'flip',
    )
    if (height === width) {
      const ratios = drawn.map((view) => view.width / view.height)
      t.true(ratios.every((ratio) => ratio > 0.9 - slack && ratio < 1.1 + slack))
      t.true(Math.min(...areas) < 0.81 && Math.max(...areas) > 0.98)
      t.true(Math.min(...ratios) < 0.92 && Math.max(...ratios) > 1.08)
    }
    // The place within what is left, from one end to the other.
    const roomy = drawn.filter((view) => height - view.height > 8)
    checkUniform(
      t,
      roomy.map((view) => view.top / (height - view.height)),
      0,
      1,
      'place',
    )
  })
}

test('shears are those of a rotation', (t) => {
  for (const { shear } of draw(50, 64, 64, 32)) {
    t.true(Math.abs(shear[0] + Math.tan(Math.asin(shear[1]) / 2)) < 1e-12)
  }
})

test('a key gives its view again; another seed, step, network or view gives another', (t) => {
  const key = { seed: 5, step: 6, network: 1, view: 2 }
  const sample = (change: Partial<typeof key>) => sampleView({ ...key, ...change }, 64, 64, 32)
  t.deepEqual(sample({}), sample({}))
  const others = [{}, { seed: 6 }, { step: 7 }, { network: 2 }, { view: 3 }, { step: 2, view: 6 }].map(sample)
  t.is(new Set(others.map(({ shear }) => shear[1])).size, others.length)
})

test('positions of a view stay within the picture, however small the picture', (t) => {
  for (const [height, width] of [
    [1, 1],
    [2, 3],
    [5, 100],
    [100, 5],
  ] as const) {
    for (const { y, x } of [...draw(50, height, width, 16), centreView(height, width, 16)]) {
      t.true(y.every((value) => value >= 0 && value <= height - 1))
      t.true(x.every((value) => value >= 0 && value <= width - 1))
    }
  }
})
