// Sessions and the names of devices: what is refused, and that refusing is all that happens.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { FlexitError } from '../../src/engine/errors.js'
import { Graph } from '../../src/engine/graph/graph.js'
import { writeOnnx } from '../../src/engine/graph/onnx.js'
import * as op from '../../src/engine/graph/ops.js'
import { N } from '../../src/engine/graph/shape.js'
import { Session, formatDevice, parseDevice } from '../../src/engine/runtime.js'
import { runGraph, withFolder, withSession } from '../support/graphs.js'

const cpu = { kind: 'cpu', index: 0 } as const

function identityLike(): Graph {
  const graph = new Graph()
  const x = graph.input('x', 'float32', [N, 2])
  graph.output('twice', op.mul(x, 2))
  graph.output('bytes', op.cast(op.round(x), 'uint8'))
  graph.output('same_ids', graph.input('ids', 'int64', [N]))
  return graph
}

const inputs = {
  x: { shape: [2, 2], data: Float32Array.of(1, 2.5, 3.5, 200.4) },
  ids: { shape: [2], data: BigInt64Array.of(5n, -1n) },
}

test('devices by name, and back', (t) => {
  for (const text of ['cpu', 'cpu:1', 'cuda:0', 'cuda:12', 'tensorrt:1', 'webgpu']) {
    t.is(formatDevice(parseDevice(text)), text)
  }
  t.deepEqual(parseDevice('cuda'), { kind: 'cuda', index: 0 })
  for (const text of ['', 'CPU', 'gpu', 'cuda:', 'cuda:-1', 'cuda:x', 'cuda:1000', ' cpu', 'cpu\n']) {
    const error = t.throws(() => parseDevice(text), { instanceOf: FlexitError }, text)
    t.like(error, { code: 'INVALID_ARGUMENT', field: 'device' })
  }
})

test('values of every type go in and out, rounded half to even', async (t) => {
  const [results] = await runGraph(identityLike(), inputs)
  t.deepEqual(results, {
    twice: { shape: [2, 2], data: Float32Array.of(2, 5, 7, 400.8) },
    bytes: { shape: [2, 2], data: Uint8Array.of(1, 2, 4, 200) },
    same_ids: { shape: [2], data: BigInt64Array.of(5n, -1n) },
  })
})

test('outputs are arrays of their own: the next run does not change them', (t) =>
  withSession(identityLike(), 1, async (session) => {
    const first = await session.run(inputs)
    const copy = structuredClone(first)
    await session.run({ ...inputs, x: { shape: [2, 2], data: Float32Array.of(9, 9, 9, 9) } })
    t.deepEqual(first, copy)
  }))

test('two sessions of one model are independent', (t) =>
  withFolder(async (folder) => {
    const path = await writeOnnx(identityLike(), folder, 'net')
    const [a, b] = await Promise.all([1, 2].map((threads) => Session.create(path, { device: cpu, threads })))
    const first = await a!.run(inputs)
    await a!.release()
    t.deepEqual(await b!.run(inputs), first)
    await b!.release()
  }))

test('a file that is not a model is refused, naming it', (t) =>
  withFolder(async (folder) => {
    const path = join(folder, 'net.onnx')
    for (const content of ['', 'not a model', Buffer.alloc(5000, 255)]) {
      await writeFile(path, content)
      const error = await t.throwsAsync(Session.create(path, { device: cpu, threads: 1 }), { instanceOf: FlexitError })
      t.is(error.code, 'DATA_LOSS')
      t.true(error.message.includes(path))
    }
    const missing = join(folder, 'missing.onnx')
    const error = await t.throwsAsync(Session.create(missing, { device: cpu, threads: 1 }), { instanceOf: FlexitError })
    t.true(error.message.includes(missing))
  }))

test('a device that is not here is refused: never another one in its place', (t) =>
  withFolder(async (folder) => {
    const path = await writeOnnx(identityLike(), folder, 'net')
    const device = { kind: 'cuda', index: 99 } as const
    const error = await t.throwsAsync(Session.create(path, { device, threads: 1 }), { instanceOf: FlexitError })
    t.is(error.code, 'FAILED_PRECONDITION')
    t.true(error.message.includes('cuda:99'))
  }))

test('a number of threads that would starve the machine is refused', async (t) => {
  for (const threads of [-1, 1.5, 1025]) {
    const error = await t.throwsAsync(Session.create('none.onnx', { device: cpu, threads }), {
      instanceOf: FlexitError,
    })
    t.is(error.code, 'INVALID_ARGUMENT')
  }
})
