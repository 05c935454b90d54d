// The cache of graphs: built once, found again, keyed by all that shapes them, safe against what lies in its folder.

import { chmod, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { FlexitError } from '../../src/engine/errors.js'
import { GraphCache } from '../../src/engine/graph-cache.js'
import { Graph } from '../../src/engine/graph/graph.js'
import * as op from '../../src/engine/graph/ops.js'
import { N } from '../../src/engine/graph/shape.js'
import { withFolder } from '../support/graphs.js'

/** Counts how often it is built. */
function builder() {
  const counter = { builds: 0 }
  const build = () => {
    counter.builds++
    const graph = new Graph()
    graph.output('y', op.relu(graph.input('x', 'float32', [N])))
    return graph
  }
  return { counter, build }
}

test('a graph is built once, also for other caches of the same folder', (t) =>
  withFolder(async (folder) => {
    const { counter, build } = builder()
    const path = await new GraphCache(folder).file('step', ['a', 'b'], build)
    t.is(await new GraphCache(folder).file('step', ['a', 'b'], build), path)
    t.is(counter.builds, 1)
    t.regex(path, /step-[0-9a-f]{32}\.onnx$/)
    t.true((await readFile(path)).length > 0)
  }))

test('names and parts are told apart, also where they read the same in a row', (t) =>
  withFolder(async (folder) => {
    const { build } = builder()
    const cache = new GraphCache(folder)
    const keys: [string, string[]][] = [
      ['step', ['ab', 'c']],
      ['step', ['a', 'bc']],
      ['step', ['abc']],
      ['step', ['abc', '']],
      ['decode', ['abc']],
    ]
    const paths = []
    for (const [name, parts] of keys) paths.push(await cache.file(name, parts, build))
    t.is(new Set(paths).size, keys.length)
  }))

test('a graph that was deleted is built again', (t) =>
  withFolder(async (folder) => {
    const { counter, build } = builder()
    const cache = new GraphCache(folder)
    await rm(await cache.file('step', [], build))
    await cache.file('step', [], build)
    t.is(counter.builds, 2)
  }))

test('a graph with a bit that is not as it was written is built again', (t) =>
  withFolder(async (folder) => {
    const { counter, build } = builder()
    const cache = new GraphCache(folder)
    const path = await cache.file('step', [], build)
    const whole = await readFile(path)
    await writeFile(
      path,
      whole.map((byte, i) => (i === 20 ? byte ^ 4 : byte)),
    )
    t.is(await cache.file('step', [], build), path)
    t.is(counter.builds, 2)
    t.deepEqual(await readFile(path), whole)
  }))

test('what fails to build leaves nothing, and is tried again', (t) =>
  withFolder(async (folder) => {
    const { counter, build } = builder()
    const cache = new GraphCache(join(folder, 'new', 'folder'))
    const failing = () => Promise.reject(new Error('no weights'))
    await t.throwsAsync(cache.file('step', [], failing), { message: 'no weights' })
    t.deepEqual(await readdir(folder), [])
    await cache.file('step', [], build)
    t.is(counter.builds, 1)
  }))

test('builds at the same time give one whole file', (t) =>
  withFolder(async (folder) => {
    const { build } = builder()
    const caches = Array.from({ length: 5 }, () => new GraphCache(folder))
    const paths = await Promise.all(caches.map((cache) => cache.file('step', [], build)))
    t.is(new Set(paths).size, 1)
    t.deepEqual(await readdir(folder), [paths[0]!.slice(folder.length + 1)])
  }))

test('a cache folder that is a file, or cannot be written, is an error that names it', (t) =>
  withFolder(async (folder) => {
    const { build } = builder()
    const file = join(folder, 'file')
    await writeFile(file, '')
    const error = await t.throwsAsync(new GraphCache(file).file('step', [], build), { instanceOf: FlexitError })
    t.is(error.code, 'INVALID_ARGUMENT')
    t.true(error.message.includes(file))
    if (process.getuid?.() === 0) {
      t.log('skipped: root may write anywhere')
      return
    }
    await chmod(folder, 0o500)
    const denied = await t.throwsAsync(new GraphCache(folder).file('step', [], build), { instanceOf: FlexitError })
    t.is(denied.code, 'FAILED_PRECONDITION')
    await chmod(folder, 0o700)
  }))
