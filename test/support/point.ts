// A small graph under test together with the values of its inputs: how the gradient and the invariance tests say
// "this operation, on these shapes".

import { Graph, type Value } from '../../src/engine/graph/graph.js'
import { type Shape, isBatch } from '../../src/engine/graph/shape.js'
import type { Tensor } from '../../src/engine/runtime.js'
import { Random } from './random.js'

/** Values of one input of the given number of elements. */
export type Draw = (length: number, random: Random) => ArrayLike<number>

export const normal: Draw = (length, random) => random.normals(length)

/** Of magnitude 0.5 to 1.5 and either sign: away from the kink of a function at 0, and from poles there. */
export const awayFromZero: Draw = (length, random) =>
  Float32Array.from({ length }, () => (random.uniform() < 0.5 ? -1 : 1) * (0.5 + random.uniform()))

/** All different by at least 0.25, in random order: no ties for a maximum to break, even when all are moved a little. */
export const distinct: Draw = (length, random) =>
  Float32Array.from(random.permutation(length), (rank) => (rank - length / 2) * 0.25)

/** Whole numbers in [−limit, limit]. */
export const whole =
  (limit: number): Draw =>
  (length, random) =>
    Float32Array.from({ length }, () => Math.round((2 * random.uniform() - 1) * limit))

/** The inputs of a graph that a case asks for, with values for a batch of `batch` samples. */
export class Point {
  readonly graph = new Graph()
  readonly variables: Value[] = []
  readonly inputs: Record<string, Tensor> = {}
  readonly #batch: number
  readonly #random: Random

  constructor(batch: number, seed: number) {
    this.#batch = batch
    this.#random = new Random(seed)
  }

  /** An input with respect to which the case is differentiated. */
  readonly x = (shape: Shape, draw: Draw = normal): Value => {
    const value = this.data(shape, draw)
    this.variables.push(value)
    return value
  }

  /** An input that is not differentiated. */
  readonly data = (shape: Shape, draw: Draw = normal): Value => {
    const name = `in${Object.keys(this.inputs).length}`
    this.inputs[name] = this.tensor(shape, draw)
    return this.graph.input(name, 'float32', shape)
  }

  /** A constant: a weight. */
  readonly w = (shape: readonly number[], draw: Draw = normal): Value => {
    const { data } = this.tensor(shape, draw)
    return this.graph.constant('w', shape, data as Float32Array)
  }

  /** Values of a shape, for this batch. */
  tensor(shape: Shape, draw: Draw = normal): Tensor {
    const sizes = shape.map((dim) => (isBatch(dim) ? dim.factor * this.#batch : dim))
    const length = sizes.reduce((product, n) => product * n, 1)
    return { shape: sizes, data: Float32Array.from(draw(length, this.#random)) }
  }
}

/** What a case computes from the inputs that it asks for. */
export type Case = (point: Point) => Value
