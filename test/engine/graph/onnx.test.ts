// Model files: they load, their weights are found, their names survive, and a disk that refuses them is left as it was.

import { chmod, mkdir, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import onnxProto from 'onnx-proto'
import { FlexitError } from '../../../src/engine/errors.js'
import { Graph } from '../../../src/engine/graph/graph.js'
import { isWhole, tensorFolder, writeOnnx } from '../../../src/engine/graph/onnx.js'
import * as op from '../../../src/engine/graph/ops.js'
import { N } from '../../../src/engine/graph/shape.js'
import { Session, type Tensor } from '../../../src/engine/runtime.js'
import { floats, withFolder } from '../../support/graphs.js'
import { Random } from '../../support/random.js'

/** A row of numbers times a square matrix: 64 × 64 is 16 KiB, the most that is kept in the model file. */
function product(side: number, scale = 1): Graph {
  const graph = new Graph()
  const x = graph.input('x', 'float32', [N, side])
  const data = new Random(1).normals(side ** 2).map((value) => scale * value)
  graph.output(
    'y',
    op.matmul(
      x,
      graph.scope('layer', () => graph.constant('weight', [side, side], data)),
      'layer/mix',
    ),
  )
  return graph
}

async function run(path: string, inputs: Readonly<Record<string, Tensor>>): Promise<Record<string, Tensor>> {
  const session = await Session.create(path, { device: { kind: 'cpu', index: 0 }, threads: 1 })
  try {
    return await session.run(inputs)
  } finally {
    await session.release()
  }
}

const decode = async (path: string) => onnxProto.onnx.ModelProto.decode(await readFile(path))
const input = (side: number): Tensor => ({ shape: [2, side], data: new Random(2).normals(2 * side) })

test('a small constant lies in the file, a large one beside it; both are computed with', (t) =>
  withFolder(async (folder) => {
    for (const side of [64, 65]) {
      const path = await writeOnnx(product(side), folder, `side-${side}`)
      t.is(path, join(folder, `side-${side}.onnx`))
      const { data } = input(side)
      const weight = new Random(1).normals(side ** 2)
      const y = floats((await run(path, { x: input(side) }))['y'])
      for (const [row, column] of [
        [0, 0],
        [1, side - 1],
      ] as const) {
        let expected = 0
        for (let i = 0; i < side; i++) expected += (data[row * side + i] as number) * weight[i * side + column]!
        t.true(Math.abs(y[row * side + column]! - expected) < 1e-4)
      }
      const [tensor] = (await decode(path)).graph!.initializer!
      t.is(tensor!.rawData!.length === 0, side === 65)
    }
    const [file, ...others] = await readdir(join(folder, tensorFolder))
    t.deepEqual(others, [])
    t.is((await stat(join(folder, tensorFolder, file!))).size, 65 * 65 * 4)
  }))

test('graphs that share weights share their files; others do not', (t) =>
  withFolder(async (folder) => {
    await writeOnnx(product(70), folder, 'one')
    const [file] = await readdir(join(folder, tensorFolder))
    const { mtimeMs, ino } = await stat(join(folder, tensorFolder, file!))
    await writeOnnx(product(70), folder, 'two')
    const again = await stat(join(folder, tensorFolder, file!))
    t.deepEqual([again.mtimeMs, again.ino], [mtimeMs, ino])
    await writeOnnx(product(70, 2), folder, 'three')
    t.is((await readdir(join(folder, tensorFolder))).length, 2)
  }))

test('a weight file that was cut off, or altered, is written again', (t) =>
  withFolder(async (folder) => {
    const path = await writeOnnx(product(70), folder, 'one')
    const whole = await run(path, { x: input(70) })
    const [file] = await readdir(join(folder, tensorFolder))
    for (const length of [100, 70 * 70 * 4]) {
      await writeFile(join(folder, tensorFolder, file!), Buffer.alloc(length))
      t.deepEqual(await run(await writeOnnx(product(70), folder, 'two'), { x: input(70) }), whole)
    }
  }))

test('a model is whole while it and its weights are there', (t) =>
  withFolder(async (folder) => {
    const path = await writeOnnx(product(70), folder, 'one')
    t.true(await isWhole(path))
    const [file] = await readdir(join(folder, tensorFolder))
    const weights = await readFile(join(folder, tensorFolder, file!))
    await writeFile(join(folder, tensorFolder, file!), weights.subarray(1))
    t.false(await isWhole(path))
    await rm(join(folder, tensorFolder, file!))
    t.false(await isWhole(path))
    await writeOnnx(product(70), folder, 'one')
    t.true(await isWhole(path))
    const model = await readFile(path)
    for (const [damaged, bytes] of [
      [path, model],
      [join(folder, tensorFolder, file!), weights],
    ] as const) {
      for (const at of [0, Math.floor(bytes.length / 2), bytes.length - 1]) {
        await writeFile(
          damaged,
          bytes.map((byte, i) => (i === at ? byte ^ 1 : byte)),
        )
        t.false(await isWhole(path), `a bit of byte ${at} of ${damaged}`)
      }
      await writeFile(damaged, bytes)
      t.true(await isWhole(path))
    }
    t.false(await isWhole(join(folder, 'none.onnx')))
    for (const content of ['no model', '']) {
      await writeFile(path, content)
      t.false(await isWhole(path))
    }
  }))

test('a graph is written with the same bytes every time', (t) =>
  withFolder(async (folder) => {
    const [one, two] = [join(folder, 'a'), join(folder, 'b')]
    const files = await Promise.all(
      [one, two].map(async (place) => readFile(await writeOnnx(product(70), place, 'net'))),
    )
    t.deepEqual(files[0], files[1])
  }))

test('names, shapes and versions are in the file', (t) =>
  withFolder(async (folder) => {
    const graph = new Graph()
    const x = graph.input('views.ViT-B/32.x', 'float32', [N, 3, { factor: 2 }])
    const ids = graph.input('ids', 'int64', [])
    const y = graph.scope('decoder', () => op.softClamp(x, 'clamp'))
    graph.output('picture', y)
    graph.output('ids_again', ids)
    const model = await decode(await writeOnnx(graph, folder, 'names'))
    t.is(Number(model.irVersion), 8)
    t.deepEqual(
      model.opsetImport.map(({ domain, version }) => [domain, Number(version)]),
      [['', 18]],
    )
    const { name, node, input: inputs, output } = model.graph!
    t.is(name, 'names')
    const dims = inputs!.map((value) =>
      value.type!.tensorType!.shape!.dim!.map((d) => d.dimParam || Number(d.dimValue)),
    )
    t.deepEqual(dims, [['N', 3, '2N'], []])
    t.deepEqual(
      inputs!.map((value) => [value.name, value.type!.tensorType!.elemType]),
      [
        ['views.ViT-B/32.x', 1],
        ['ids', 7],
      ],
    )
    t.deepEqual(
      output!.map((value) => value.name),
      ['picture', 'ids_again'],
    )
    const inner = node!.filter(({ opType }) => opType !== 'Identity')
    t.true(inner.length > 0)
    for (const { name: own, output: outputs } of inner) {
      t.regex(own!, /^decoder\/clamp\//)
      t.deepEqual(outputs, [own])
    }
    t.true(node!.every(({ opType }) => opType !== 'SoftClamp'))
  }))

test('attributes of every kind survive', (t) =>
  withFolder(async (folder) => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', [N, 2, 5, 4])
    const weight = graph.constant('w', [2, 2, 3, 1], new Float32Array(12))
    const y = op.conv(x, weight, undefined, { padding: [0, 1, 2, 3], stride: 2 })
    const ones = graph.constant('ones', [5], new Float32Array(5))
    const [normed] = op.layerNormalization(op.transpose(x, [0, 1, 3, 2]), ones, ones, 0.25)
    graph.output('y', op.upsample(y, 3))
    graph.output('normed', normed)
    const model = await decode(await writeOnnx(graph, folder, 'attributes'))
    const attributes = (type: string) =>
      Object.fromEntries(
        model
          .graph!.node!.find(({ opType }) => opType === type)!
          .attribute!.map(({ name, i, f, ints, s }): [string, unknown] => {
            const list = ints!.map(Number)
            const text = Buffer.from(s!).toString()
            return [name!, list.length > 0 ? list : text !== '' ? text : f !== 0 ? f : Number(i)]
          }),
      )
    t.deepEqual(attributes('Conv'), { kernel_shape: [3, 1], pads: [0, 1, 2, 3], strides: [2, 2] })
    t.deepEqual(attributes('LayerNormalization'), { axis: -1, epsilon: 0.25 })
    t.deepEqual(attributes('Resize'), {
      mode: 'nearest',
      coordinate_transformation_mode: 'asymmetric',
      nearest_mode: 'floor',
    })
    t.deepEqual(attributes('Transpose'), { perm: [0, 1, 3, 2] })
  }))

test('a folder that may not be written is left as it is', (t) =>
  withFolder(async (folder) => {
    if (process.getuid?.() === 0) {
      t.log('skipped: root may write anywhere')
      t.pass()
      return
    }
    await chmod(folder, 0o500)
    const error = await t.throwsAsync(writeOnnx(product(70), folder, 'net'), { instanceOf: FlexitError })
    t.is(error.code, 'FAILED_PRECONDITION')
    await chmod(folder, 0o700)
    t.deepEqual(await readdir(folder), [])
  }))

test('a place that is taken by a folder leaves no half-written file', (t) =>
  withFolder(async (folder) => {
    await mkdir(join(folder, 'net.onnx'))
    await t.throwsAsync(writeOnnx(product(8), folder, 'net'), { instanceOf: FlexitError })
    t.deepEqual(await readdir(folder), ['net.onnx'])
  }))

test('weights that cannot be read leave no model file', (t) =>
  withFolder(async (folder) => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', [N, 2])
    const broken = graph.constant('w', [2], () => {
      throw new Error('the disk is gone')
    })
    graph.output('y', op.add(x, broken))
    await t.throwsAsync(writeOnnx(graph, folder, 'net'), { message: 'the disk is gone' })
    t.deepEqual(await readdir(folder), [])
  }))
