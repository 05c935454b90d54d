// Random views of a picture for CLIP, as linear maps with exact adjoints (FlexIT, section 3; the ranges are those of its
// public release). A rotation is three shears by whole pixels (Paeth, "A fast algorithm for general raster rotation",
// 1986); crop, resize and flip are one matrix for each axis.

import type { Graph, Value } from './graph/graph.js'
import * as op from './graph/ops.js'
import { type Dim, N, fixed } from './graph/shape.js'
import { uniforms } from './random.js'

export type Padding = 'zeros' | 'reflect'

const maxDegrees = 10
const areaRange = [0.8, 1] as const
const ratioRange = [0.9, 1.1] as const
const cropAttempts = 10

/** The part of the side that a rotation by `maxDegrees` can reach beyond the border. */
const reach = 0.1

/** The numbers of one view, as the step graph takes them. */
export interface ViewSample {
  /** Where each row of the view is sampled, in rows of the picture: [size]. */
  readonly y: Float32Array
  /** Where each column is sampled: [size]. */
  readonly x: Float32Array
  /** Shear along x, applied before and after, and along y. */
  readonly shear: readonly [number, number]
}

/** What names a random view: the same four numbers give the same view, everywhere and always. */
export interface ViewKey {
  readonly seed: number
  readonly step: number
  /** Position of the network in its pack. */
  readonly network: number
  readonly view: number
}

/** Rotation by U(−10°, 10°), crop of U(0.8, 1) of the area with aspect ratio in [0.9, 1.1], flip with probability ½. */
export function sampleView(key: ViewKey, height: number, width: number, size: number): ViewSample {
  const source = uniforms(key.seed, key.step, key.network, key.view)
  const uniform = (low: number, high: number) => low + (high - low) * source.next().value
  const angle = (uniform(-maxDegrees, maxDegrees) * Math.PI) / 180
  const flipped = uniform(0, 1) < 0.5
  let [cropHeight, cropWidth] = [height, width]
  for (let attempt = 0; attempt < cropAttempts; attempt++) {
    const area = height * width * uniform(...areaRange)
    const ratio = Math.exp(uniform(Math.log(ratioRange[0]), Math.log(ratioRange[1])))
    const [h, w] = [Math.round(Math.sqrt(area / ratio)), Math.round(Math.sqrt(area * ratio))]
    if (h <= height && w <= width) {
      ;[cropHeight, cropWidth] = [h, w]
      break
    }
  }
  const top = Math.floor(uniform(0, height - cropHeight + 1))
  const left = Math.floor(uniform(0, width - cropWidth + 1))
  const x = samplePositions(left, cropWidth, size)
  return {
    y: samplePositions(top, cropHeight, size),
    x: flipped ? x.reverse() : x,
    shear: [-Math.tan(angle / 2), Math.sin(angle)],
  }
}

/** The deterministic view: the shorter side resized to `size`, centre crop. */
export function centreView(height: number, width: number, size: number): ViewSample {
  const side = Math.min(height, width)
  const y = samplePositions((height - side) / 2, side, size)
  return { y, x: samplePositions((width - side) / 2, side, size), shear: [0, 0] }
}

/** Bilinear sampling without antialiasing: `size` positions over [start, start + length), held within its pixels. */
function samplePositions(start: number, length: number, size: number): Float32Array {
  return Float32Array.from({ length: size }, (_, i) => {
    const position = ((i + 0.5) * length) / size - 0.5
    return start + Math.min(Math.max(position, 0), length - 1)
  })
}

export interface ViewOptions {
  /** Height and width of a view. */
  readonly size: number
  readonly count: number
  /** Without rotation the shears are not read. */
  readonly rotate: boolean
  readonly padding: Padding
}

/** Names of the inputs that carry the views of one network. */
export function viewInputNames(network: string): { y: string; x: string; shear: string } {
  return { y: `views.${network}.y`, x: `views.${network}.x`, shear: `views.${network}.shear` }
}

/** `count` views of each picture [N, C, H, W] → [count·N, C, size, size], the views of a picture side by side. */
export function views(image: Value, network: string, { size, count, rotate, padding }: ViewOptions): Value {
  const { graph } = image
  const names = viewInputNames(network)
  const y = graph.input(names.y, 'float32', [N, count, size])
  const x = graph.input(names.x, 'float32', [N, count, size])
  return graph.scope('views', () => {
    const [n, channels, height, width] = image.shape as readonly [Dim, Dim, Dim, Dim]
    let seen = op.reshape(image, [n, 1, channels, height, width])
    let margin = [0, 0] as readonly [number, number]
    if (rotate) {
      const shear = graph.input(names.shear, 'float32', [N, count, 2])
      if (padding === 'reflect') {
        margin = [Math.ceil(fixed(height) * reach), Math.ceil(fixed(width) * reach)]
        seen = reflectPad(seen, margin)
      }
      seen = rotated(op.expand(seen, [1, count, 1, 1, 1]), shear)
    }
    const ay = samplingMatrix(graph, y, fixed(height), margin[0])
    const ax = samplingMatrix(graph, x, fixed(width), margin[1])
    const cropped = op.matmul(op.matmul(ay, seen), op.transposeLast(ax))
    return op.reshape(cropped, [{ factor: count }, channels, size, size])
  })
}

/** Three shears by whole pixels around the centre: images [N, d, C, H, W], shear [N, d, 2]. */
function rotated(image: Value, shear: Value): Value {
  const count = shear.shape[1]!
  const along = (part: 0 | 1) => op.reshape(op.slice(shear, 2, part, part + 1), [N, count, 1, 1, 1])
  const byRow = op.round(op.mul(along(0), offsets(image, 3)))
  const byColumn = op.round(op.mul(along(1), offsets(image, 4)))
  return op.shift(op.shift(op.shift(image, byRow, 4), byColumn, 3), byRow, 4)
}

/** Distance of each row or column from the centre, along its own axis. */
function offsets(image: Value, axis: 3 | 4): Value {
  const length = fixed(image.shape[axis]!)
  const shape = [1, 1, 1, 1, 1].map((one, i) => (i === axis ? length : one))
  const values = Float32Array.from({ length }, (_, i) => i - (length - 1) / 2)
  return image.graph.constant(axis === 3 ? 'row_offsets' : 'column_offsets', shape, values)
}

/** Bilinear weights max(0, 1 − |position − pixel|): positions [N, d, size] → [N, d, 1, size, length + 2·margin]. */
function samplingMatrix(graph: Graph, positions: Value, length: number, margin: number): Value {
  const pixels = Float32Array.from({ length: length + 2 * margin }, (_, i) => i - margin)
  const [n, count, size] = positions.shape as readonly [Dim, Dim, Dim]
  const column = op.reshape(positions, [n, count, 1, size, 1])
  const distance = op.abs(op.sub(column, graph.constant('pixels', [pixels.length], pixels)))
  return op.relu(op.sub(1, distance))
}

/** Mirrored beyond the border, without repeating it: [N, 1, C, H, W] → [N, 1, C, H + 2·my, W + 2·mx]. */
function reflectPad(image: Value, [my, mx]: readonly [number, number]): Value {
  const matrix = (length: number, margin: number) => {
    const rows = length + 2 * margin
    const data = new Float32Array(rows * length)
    for (let i = 0; i < rows; i++) {
      const source = Math.abs(i - margin)
      data[i * length + (source < length ? source : 2 * (length - 1) - source)] = 1
    }
    return image.graph.constant('reflection', [rows, length], data)
  }
  const [height, width] = [fixed(image.shape[3]!), fixed(image.shape[4]!)]
  return op.matmul(op.matmul(matrix(height, my), image), op.transposeLast(matrix(width, mx)))
}
