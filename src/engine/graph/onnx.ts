// Graphs as ONNX model files (https://onnx.ai/onnx/repo-docs/IR.html), IR version 8, opset 18. Large weights lie beside
// the model as external data (https://onnx.ai/onnx/repo-docs/ExternalData.html), one file per content, so that graphs of
// any size are possible and graphs that share weights share their files.

import { createHash } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import onnxProto, { type onnx } from 'onnx-proto'
import { writeFileAtomic } from '../files.js'
import { type DType, type Graph, type Node, type Value, reachable } from './graph.js'
import { lower } from './lowering.js'
import type { Attributes, OperationName } from './operations.js'
import { type Shape, fixed, formatDim, isBatch } from './shape.js'

const { AttributeProto, ModelProto, TensorProto } = onnxProto.onnx

const opset = 18

/** Constants above this many bytes become external data. */
const inlineBytes = 16 * 1024

/** The folder, beside the models, of their external data. */
export const tensorFolder = 'tensors'

const dataTypes: Readonly<Record<DType, number>> = {
  float32: TensorProto.DataType.FLOAT,
  int64: TensorProto.DataType.INT64,
  bool: TensorProto.DataType.BOOL,
  uint8: TensorProto.DataType.UINT8,
}

/** How an operation is written: attributes, inputs that ONNX wants as tensors, and its name where that differs. */
interface Encoding {
  readonly type?: string
  readonly attributes?: Readonly<Record<string, number | string | readonly number[] | { readonly float: number }>>
  /** Appended to the inputs; undefined leaves an optional input out. */
  readonly tensors?: readonly (Tensor | undefined)[]
}

type Tensor = { readonly int64: readonly number[] } | { readonly float32: readonly number[] | number }

type Encoder<K extends OperationName> = (attributes: Attributes[K], node: Node<K>) => Encoding

const reduction = ({ axes }: { readonly axes: readonly number[] }): Encoding => ({
  attributes: { keepdims: 1 },
  tensors: [{ int64: axes }],
})

/** Operations that are not here have no attributes. */
const encoders: { readonly [K in OperationName]?: Encoder<K> } = {
  Pow: ({ exponent }) => ({ tensors: [{ float32: exponent }] }),
  Clip: ({ min, max }) => ({ tensors: [{ float32: min }, { float32: max }] }),
  Cast: ({ to }) => ({ attributes: { to: dataTypes[to] } }),
  Conv: ({ pads, strides }, { inputs }) => ({
    attributes: { kernel_shape: inputs[1]!.shape.slice(2).map(fixed), pads, strides },
  }),
  MaxPool: ({ kernel, stride }) => ({ attributes: { kernel_shape: [kernel, kernel], strides: [stride, stride] } }),
  AveragePool: ({ kernel }) => ({ attributes: { kernel_shape: [kernel, kernel], strides: [kernel, kernel] } }),
  Upsample: ({ factor }) => ({
    type: 'Resize',
    attributes: { mode: 'nearest', coordinate_transformation_mode: 'asymmetric', nearest_mode: 'floor' },
    tensors: [undefined, { float32: [1, 1, factor, factor] }],
  }),
  Reshape: ({ shape }) => ({ tensors: [{ int64: shape.map((dim) => (isBatch(dim) ? -1 : dim)) }] }),
  Transpose: ({ permutation }) => ({ attributes: { perm: permutation } }),
  Concat: ({ axis }) => ({ attributes: { axis } }),
  Slice: ({ axis, start, end }) => ({ tensors: [{ int64: [start] }, { int64: [end] }, { int64: [axis] }] }),
  Pad: ({ axis, before, after }, { inputs }) => {
    const along = (length: number) => inputs[0]!.shape.map((_, i) => (i === axis ? length : 0))
    return { tensors: [{ int64: [...along(before), ...along(after)] }] }
  },
  Expand: ({ repeats }) => ({ tensors: [{ int64: repeats }] }),
  ReduceSum: reduction,
  ReduceMean: reduction,
  ReduceMax: reduction,
  GatherElements: ({ axis }) => ({ attributes: { axis } }),
  Softmax: () => ({ attributes: { axis: -1 } }),
  LayerNormalization: ({ epsilon }) => ({ attributes: { axis: -1, epsilon: { float: epsilon } } }),
}

/**
 * Write a graph to `FOLDER/NAME.onnx` and its large constants to `FOLDER/tensors/`, both atomically; returns the path.
 * Composites are lowered first; constants that lie there are written again where they were damaged. Errors:
 * FAILED_PRECONDITION where the disk is full or read-only, and whatever reading the weights throws.
 */
export async function writeOnnx(graph: Graph, folder: string, name: string): Promise<string> {
  const lowered = lower(graph)
  const nodes = reachable(lowered, lowered.outputs.values())
  const initializers = new Map<string, onnx.ITensorProto>()
  const encoded = nodes.map((node) => encodeNode(node, initializers))
  const used = new Set([...nodes.flatMap((node) => node.inputs), ...lowered.outputs.values()])
  const constants = [...used].filter((value) => value.constant !== undefined)
  for (const value of constants) initializers.set(value.name, await encodeConstant(value, folder))
  const model = ModelProto.create({
    irVersion: 8,
    producerName: 'flexit',
    opsetImport: [{ domain: '', version: opset }],
    graph: {
      name,
      node: [...encoded, ...outputNodes(lowered)],
      initializer: [...initializers.values()],
      input: lowered.inputs.map((value) => valueInfo(value.name, value)),
      output: [...lowered.outputs].map(([output, value]) => valueInfo(output, value)),
    },
  })
  const path = join(folder, `${name}.onnx`)
  const bytes = ModelProto.encode(model).finish()
  await writeFileAtomic(path, [bytes, sealOf(bytes)])
  return path
}

/**
 * Whether a file that `writeOnnx` wrote, and the external data it refers to, are there with the content that they were
 * written with. Reads all of it.
 */
export async function isWhole(path: string): Promise<boolean> {
  try {
    const bytes = await readFile(path)
    const model = bytes.subarray(0, -sealBytes)
    if (!bytes.subarray(-sealBytes).equals(sealOf(model))) return false
    const { graph } = ModelProto.decode(model)
    const locations = (graph?.initializer ?? []).map(locationOf).filter((location) => location != null)
    for (const location of new Set(locations)) {
      if (tensorFile(await readFile(join(dirname(path), location))) !== location) return false
    }
    return true
  } catch {
    return false
  }
}

/** Metadata with the sha256 of a model's bytes, to follow them: fields after a message are a part of it. */
function sealOf(model: Uint8Array): Uint8Array {
  return ModelProto.encode({ metadataProps: [{ key: 'sha256', value: sha256(model) }] }).finish()
}

const sealBytes = sealOf(new Uint8Array()).length

/**
 * Names of the files that a model of anybody's keeps external data in, relative to its folder, each once; none for a file
 * that is no model. Errors: those of reading.
 */
export async function externalFiles(path: string): Promise<string[]> {
  const { graph, functions } = decodeModel(await readFile(path))
  const nodes = [...(graph?.node ?? []), ...(functions ?? []).flatMap(({ node }) => node ?? [])]
  const tensors = [...(graph?.initializer ?? []), ...nodes.flatMap(tensorsOf)]
  const locations = tensors.map(locationOf)
  return [...new Set(locations.filter((location) => location != null))].sort()
}

function locationOf({ externalData }: onnx.ITensorProto): string | null | undefined {
  return externalData?.find(({ key }) => key === 'location')?.value
}

/** Whoever loads a file that is no model says so. */
function decodeModel(bytes: Uint8Array): onnx.IModelProto {
  try {
    return ModelProto.decode(bytes)
  } catch {
    return {}
  }
}

/** Tensors of a node's attributes, also of those of graphs inside it. */
function tensorsOf({ attribute }: onnx.INodeProto): onnx.ITensorProto[] {
  return (attribute ?? []).flatMap(({ t, tensors, g, graphs }) => [
    ...(t == null ? [] : [t]),
    ...(tensors ?? []),
    ...[...(g == null ? [] : [g]), ...(graphs ?? [])].flatMap(({ initializer, node }) => [
      ...(initializer ?? []),
      ...(node ?? []).flatMap(tensorsOf),
    ]),
  ])
}

function encodeNode(node: Node, initializers: Map<string, onnx.ITensorProto>): onnx.INodeProto {
  // The table is typed per operation; a node carries the attributes of its own.
  const encoder = encoders[node.operation] as Encoder<OperationName> | undefined
  const { type = node.operation, attributes = {}, tensors = [] } = encoder?.(node.attributes, node) ?? {}
  const extra = tensors.map((tensor) => {
    if (tensor === undefined) return ''
    const name = JSON.stringify(tensor).replaceAll('"', '')
    initializers.set(name, encodeTensor(name, tensor))
    return name
  })
  return {
    name: node.name,
    opType: type,
    input: [...node.inputs.map((value) => value.name), ...extra],
    output: node.outputs.map((value) => value.name),
    attribute: Object.entries(attributes).map(([name, value]) => encodeAttribute(name, value)),
  }
}

function encodeAttribute(
  name: string,
  value: number | string | readonly number[] | { readonly float: number },
): onnx.IAttributeProto {
  const types = AttributeProto.AttributeType
  if (typeof value === 'number') return { name, type: types.INT, i: value }
  if (typeof value === 'string') return { name, type: types.STRING, s: Buffer.from(value) }
  if ('float' in value) return { name, type: types.FLOAT, f: value.float }
  return { name, type: types.INTS, ints: [...value] }
}

function encodeTensor(name: string, tensor: Tensor): onnx.ITensorProto {
  if ('int64' in tensor) {
    const values = BigInt64Array.from(tensor.int64, BigInt)
    return { name, dataType: dataTypes.int64, dims: [values.length], rawData: bytesOf(values) }
  }
  const scalar = typeof tensor.float32 === 'number'
  const values = Float32Array.from(scalar ? [tensor.float32] : tensor.float32)
  return { name, dataType: dataTypes.float32, dims: scalar ? [] : [values.length], rawData: bytesOf(values) }
}

/** Named outputs are copies, so that one value may have several names, and a name need not be a node's. */
function outputNodes(graph: Graph): onnx.INodeProto[] {
  return [...graph.outputs].map(([name, value]) => ({
    name: `output ${name}`,
    opType: 'Identity',
    input: [value.name],
    output: [name],
  }))
}

async function encodeConstant(value: Value, folder: string): Promise<onnx.ITensorProto> {
  const data = typeof value.constant === 'function' ? value.constant() : value.constant!
  const bytes = bytesOf(data)
  const tensor = { name: value.name, dataType: dataTypes[value.dtype], dims: value.shape.map(fixed) }
  if (bytes.byteLength <= inlineBytes) return { ...tensor, rawData: bytes }
  const location = tensorFile(bytes)
  const path = join(folder, location)
  if (!(await holds(path, bytes))) await writeFileAtomic(path, bytes)
  return {
    ...tensor,
    dataLocation: TensorProto.DataLocation.EXTERNAL,
    externalData: [
      { key: 'location', value: location },
      { key: 'offset', value: '0' },
      { key: 'length', value: String(bytes.byteLength) },
    ],
  }
}

/** The place of external data, named by its content. */
function tensorFile(bytes: Uint8Array): string {
  return `${tensorFolder}/${sha256(bytes).slice(0, 40)}.bin`
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** Whether a file is there and has not been damaged since it was written. */
async function holds(path: string, bytes: Uint8Array): Promise<boolean> {
  const present = await stat(path).catch(() => undefined)
  if (present?.size !== bytes.byteLength) return false
  return (await readFile(path).catch(() => undefined))?.equals(bytes) ?? false
}

/** ONNX stores numbers in little-endian order, as every platform that ONNX Runtime supports does. */
function bytesOf(data: Float32Array | BigInt64Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
}

function valueInfo(
  name: string,
  { dtype, shape }: { readonly dtype: DType; readonly shape: Shape },
): onnx.IValueInfoProto {
  const dim = shape.map((d) => (isBatch(d) ? { dimParam: formatDim(d) } : { dimValue: d }))
  return { name, type: { tensorType: { elemType: dataTypes[dtype], shape: { dim } } } }
}
