// A graph of operations under construction: values with static shapes, named nodes, lazily read constants.
// Names follow ONNX (https://onnx.ai/onnx/intro/concepts.html); structurally equal nodes are built once.

import { infer, type Attributes, type OperationName } from './operations.js'
import { type Shape, formatShape } from './shape.js'

export type DType = 'float32' | 'int64' | 'bool' | 'uint8'

export interface ValueType {
  readonly dtype: DType
  readonly shape: Shape
}

/** Constant data: small arrays, or a function that reads (and transforms) weights when the graph is written. */
export type ConstantData = Float32Array | BigInt64Array | (() => Float32Array)

export interface Value extends ValueType {
  readonly graph: Graph
  /** Unique in its graph. */
  readonly name: string
  /** What computes it; undefined for inputs and constants. */
  readonly node: Node | undefined
  readonly constant: ConstantData | undefined
}

export interface Node<K extends OperationName = OperationName> {
  readonly operation: K
  readonly name: string
  readonly inputs: readonly Value[]
  readonly outputs: readonly Value[]
  readonly attributes: Attributes[K]
}

export class Graph {
  readonly nodes: Node[] = []
  readonly inputs: Value[] = []
  /** Output name → value. */
  readonly outputs = new Map<string, Value>()
  #scope = ''
  readonly #names = new Map<string, number>()
  readonly #ids = new Map<Value, number>()
  readonly #built = new Map<string, Node>()
  readonly #scalars = new Map<string, Value>()
  readonly #derived = new Map<Value, Map<string, Value>>()

  /** Run `build` with `name/` before the names of everything that it adds. */
  scope<T>(name: string, build: () => T): T {
    const outer = this.#scope
    this.#scope = outer === '' ? name : `${outer}/${name}`
    try {
      return build()
    } finally {
      this.#scope = outer
    }
  }

  /** A value that is fed at every run. Input names are not scoped. */
  input(name: string, dtype: DType, shape: Shape): Value {
    const value = this.#register({
      graph: this,
      name: this.#unique(name),
      dtype,
      shape,
      node: undefined,
      constant: undefined,
    })
    this.inputs.push(value)
    return value
  }

  /** A constant of the given shape. Names are scoped. */
  constant(name: string, shape: readonly number[], data: ConstantData): Value {
    const dtype = data instanceof BigInt64Array ? 'int64' : 'float32'
    const full = this.#unique(this.#scope === '' ? name : `${this.#scope}/${name}`)
    return this.#register({ graph: this, name: full, dtype, shape, node: undefined, constant: data })
  }

  /** A float32 scalar, shared by all its users. */
  scalar(value: number): Value {
    const key = String(value)
    const known = this.#scalars.get(key)
    if (known !== undefined) return known
    const name = this.#unique(`scalar(${key})`)
    const data = Float32Array.of(value)
    const made = this.#register({ graph: this, name, dtype: 'float32', shape: [], node: undefined, constant: data })
    this.#scalars.set(key, made)
    return made
  }

  /** A constant computed from another one (transposed, flipped), made once for each `key`. */
  derivedConstant(
    of: Value,
    key: string,
    shape: readonly number[],
    transform: (data: Float32Array) => Float32Array,
  ): Value {
    const data = of.constant
    if (data === undefined || data instanceof BigInt64Array) throw new Error(`${of.name} is not a float32 constant`)
    const family = this.#derived.get(of) ?? new Map<string, Value>()
    this.#derived.set(of, family)
    const known = family.get(key)
    if (known !== undefined) return known
    const name = this.#unique(`${of.name}.${key}`)
    const read = () => transform(typeof data === 'function' ? data() : data)
    const made = this.#register({ graph: this, name, dtype: 'float32', shape, node: undefined, constant: read })
    family.set(key, made)
    return made
  }

  /** Name a value as an output of the graph. Errors: the name is taken, also by an input or a node. */
  output(name: string, value: Value): void {
    if (this.#names.has(name)) throw new Error(`the name ${name} of an output is taken`)
    this.#names.set(name, 1)
    this.outputs.set(name, value)
  }

  /**
   * Add a node and return its outputs; the shapes are inferred and checked. `name` is a hint: it is scoped and made
   * unique. A node with the same operation, inputs and attributes as an earlier one is that one.
   */
  apply<K extends OperationName>(
    operation: K,
    inputs: readonly Value[],
    attributes: Attributes[K],
    name?: string,
  ): readonly Value[] {
    const key = `${operation}(${inputs.map((v) => this.#ids.get(v)).join(',')})${JSON.stringify(attributes)}`
    const known = this.#built.get(key)
    if (known !== undefined) return known.outputs
    const unscoped = name ?? operation
    const full = this.#unique(this.#scope === '' ? unscoped : `${this.#scope}/${unscoped}`)
    let types: readonly ValueType[]
    try {
      types = infer(operation, inputs, attributes)
    } catch (error) {
      const shapes = inputs.map((v) => `${v.name} ${v.dtype}${formatShape(v.shape)}`).join(', ')
      throw new Error(
        `${operation} "${full}" of ${shapes}: ${error instanceof Error ? error.message : String(error)}`,
        { cause: error },
      )
    }
    const outputs: Value[] = []
    const node: Node<K> = { operation, name: full, inputs, outputs, attributes }
    types.forEach((type, i) => {
      const own = i === 0 ? full : this.#unique(`${full}.${i}`)
      outputs.push(this.#register({ graph: this, name: own, ...type, node, constant: undefined }))
    })
    this.nodes.push(node)
    this.#built.set(key, node)
    return outputs
  }

  #register(value: Value): Value {
    this.#ids.set(value, this.#ids.size)
    return value
  }

  #unique(name: string): string {
    const count = this.#names.get(name) ?? 0
    this.#names.set(name, count + 1)
    return count === 0 ? name : this.#unique(`${name}_${count}`)
  }
}

/** The nodes that `values` need, in the order of construction, which is topological. */
export function reachable(graph: Graph, values: Iterable<Value>): Node[] {
  const wanted = new Set<Node>()
  const stack = [...values]
  for (let value = stack.pop(); value !== undefined; value = stack.pop()) {
    if (value.node === undefined || wanted.has(value.node)) continue
    wanted.add(value.node)
    stack.push(...value.node.inputs)
  }
  return graph.nodes.filter((node) => wanted.has(node))
}
