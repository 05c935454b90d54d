// Weights as constants of a graph, read when the graph is written, with the shapes checked when it is built.

import { FlexitError } from '../errors.js'
import { transposed } from '../graph/arrays.js'
import type { Graph, Value } from '../graph/graph.js'
import type { TensorSource } from '../pack/tensor-source.js'

/** Expected lengths; undefined accepts any. */
export type ExpectedShape = readonly (number | undefined)[]

/** The tensors of a checkpoint below a prefix. */
export class Weights {
  readonly #source: TensorSource
  readonly #prefix: string

  constructor(source: TensorSource, prefix = '') {
    this.#source = source
    this.#prefix = prefix
  }

  /** Those whose names begin with `PREFIX.`. */
  at(prefix: string): Weights {
    return new Weights(this.#source, `${this.#prefix}${prefix}.`)
  }

  has(name: string): boolean {
    return this.#source.tensors.has(this.#prefix + name)
  }

  /** How many of `PREFIX.0`, `PREFIX.1`, … there are without a gap, each judged by one of its tensors. */
  count(prefix: string, tensor: string): number {
    let count = 0
    while (this.has(`${prefix}.${count}.${tensor}`)) count++
    return count
  }

  /** The shape of a tensor. Errors: DATA_LOSS where it is missing or does not fit `expected`. */
  shape(name: string, expected?: ExpectedShape): readonly number[] {
    const full = this.#prefix + name
    const info = this.#source.tensors.get(full)
    if (info === undefined) {
      throw new FlexitError({
        code: 'DATA_LOSS',
        message: `${this.#source.path} has no tensor ${full}`,
        cure: 'Check that it is the checkpoint that the pack asks for, and download it again if so.',
      })
    }
    const fits =
      expected === undefined ||
      (info.shape.length === expected.length &&
        expected.every((size, i) => size === undefined || size === info.shape[i]))
    if (!fits) {
      const wanted = expected.map((size) => size ?? 'any').join(', ')
      throw new FlexitError({
        code: 'DATA_LOSS',
        message: `${this.#source.path}: the tensor ${full} is [${info.shape.join(', ')}], expected [${wanted}]`,
        cure: 'Check that it is the checkpoint that the pack asks for, and that all files of the pack belong together.',
      })
    }
    return info.shape
  }

  read(name: string, expected?: ExpectedShape): Float32Array {
    this.shape(name, expected)
    return this.#source.read(this.#prefix + name)
  }

  /** A tensor as a constant of `graph`. */
  constant(graph: Graph, name: string, expected?: ExpectedShape): Value {
    const shape = this.shape(name, expected)
    return graph.constant(name, shape, () => this.read(name))
  }

  /** A matrix [rows, columns] as its transpose: PyTorch's Linear computes x·Wᵀ. */
  transposed(graph: Graph, name: string, expected?: ExpectedShape): Value {
    const [rows, columns] = this.shape(name, expected ?? [undefined, undefined]) as [number, number]
    return graph.constant(name, [columns, rows], () => transposed(this.read(name), rows, columns))
  }
}
