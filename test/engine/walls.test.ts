// The floors of the house: which folders of src may import which, and that no files import each other in a circle.

import { readFileSync, readdirSync } from 'node:fs'
import { dirname, join, relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'

/** Four folders up from the build of this file. */
const root = fileURLToPath(new URL('../../../src', import.meta.url))

interface Import {
  /** Paths from `src`, with slashes; a package's name as it is written. */
  readonly from: string
  readonly to: string
  /** Only types: gone when the code runs. */
  readonly types: boolean
}

const statement = /^(?:import|export)\s+(type\s+)?([^'"]*?\bfrom\s+)?['"]([^'"]+)['"]/gm
const dynamic = /\bimport\(\s*['"]([^'"]+)['"]\s*\)/g

function importsOf(file: string): Import[] {
  const text = readFileSync(join(root, file), 'utf8')
  const resolve = (target: string) =>
    target.startsWith('.')
      ? relative(root, join(root, dirname(file), target))
          .split(sep)
          .join('/')
          .replace(/\.js$/, '.ts')
      : target
  const written = [...text.matchAll(statement)].map(([, type, names, target]) => {
    const listed = /\{([\s\S]*)\}/.exec(names ?? '')?.[1]
    const onlyTypes = listed?.split(',').every((name) => name.trim() === '' || name.trim().startsWith('type '))
    return { from: file, to: resolve(target!), types: type !== undefined || onlyTypes === true }
  })
  return [...written, ...[...text.matchAll(dynamic)].map(([, to]) => ({ from: file, to: resolve(to!), types: false }))]
}

const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => file.split(sep).join('/'))
  .sort()
const imports = files.flatMap(importsOf)
const inside = imports.filter(({ to }) => to.endsWith('.ts') && !to.startsWith('../bench/'))

/** `from` and `to` are beginnings of paths; `except` may be imported all the same. */
function forbidden(from: string, to: readonly string[], except: readonly string[] = []): string[] {
  return imports
    .filter((i) => i.from.startsWith(from) && to.some((path) => i.to.startsWith(path)) && !except.includes(i.to))
    .map((i) => `${i.from} imports ${i.to}`)
}

test('the imports were found', (t) => {
  t.true(files.includes('engine/graph/graph.ts'))
  const wanted = [
    { from: 'engine/graph/gradient.ts', to: 'engine/graph/graph.ts', types: true },
    { from: 'engine/graph/gradient.ts', to: 'engine/graph/graph.ts', types: false },
    { from: 'engine/graph/gradient.ts', to: 'engine/graph/ops.ts', types: false },
    { from: 'engine/runtime.ts', to: 'onnxruntime-node', types: false },
  ]
  for (const one of wanted)
    t.true(
      imports.some((i) => JSON.stringify(i) === JSON.stringify(one)),
      JSON.stringify(one),
    )
  const missing = inside.filter(({ to }) => !files.includes(to))
  t.deepEqual(missing, [])
})

test('the engine does not know the floors above it', (t) => {
  t.deepEqual(forbidden('engine/', ['cli/', 'client/', 'server/', 'scheduler/', 'proto/', 'index.ts']), [])
  const foreign = ['@grpc/', 'piscina', 'commander', 'cli-progress', 'prom-client', 'node:worker_threads']
  t.deepEqual(forbidden('engine/', foreign), [])
})

test('each floor knows only those below it', (t) => {
  t.deepEqual(forbidden('scheduler/', ['server/', 'client/', 'cli/', '@grpc/']), [])
  t.deepEqual(forbidden('server/', ['client/', 'cli/']), [])
  t.deepEqual(forbidden('client/', ['server/', 'scheduler/', 'cli/', 'onnxruntime-node', 'sharp']), [])
})

test('the evaluation stands on the engine alone, and only the command knows it', (t) => {
  const floors = [
    'scheduler/',
    'proto/',
    'server/',
    'client/',
    'cli/',
    'index.ts',
    '@grpc/',
    'commander',
    'cli-progress',
  ]
  t.deepEqual(forbidden('evaluation/', floors), [])
  const importers = inside.filter(({ to }) => to.startsWith('evaluation/')).map(({ from }) => from.split('/')[0])
  t.deepEqual([...new Set(importers)].sort(), ['cli', 'evaluation'])
})

test('only the command knows the benchmarks', (t) => {
  const importers = imports.filter(({ to }) => to.startsWith('../bench/')).map(({ from }) => from)
  t.deepEqual([...new Set(importers)], ['cli/bench.ts', 'cli/bench/load.ts'])
})

test('graphs know nothing of networks, packs and edits', (t) => {
  const upper = files.filter((file) => file.startsWith('engine/') && !file.startsWith('engine/graph/'))
  t.deepEqual(forbidden('engine/graph/', upper, ['engine/errors.ts', 'engine/files.ts']), [])
})

test('networks know graphs and weights; packs know nothing of graphs', (t) => {
  const below = ['engine/graph/', 'engine/networks/', 'engine/errors.ts', 'engine/pack/tensor-source.ts']
  const upper = files.filter((file) => file.startsWith('engine/') && !below.some((path) => file.startsWith(path)))
  t.deepEqual(forbidden('engine/networks/', upper), [])
  t.deepEqual(forbidden('engine/pack/', ['engine/graph/', 'onnxruntime-node']), [])
  const edits = ['edit', 'engine', 'parameters', 'step-graph', 'runtime', 'views', 'losses', 'graph-cache']
  t.deepEqual(
    forbidden(
      'engine/pack/',
      edits.map((name) => `engine/${name}.ts`),
    ),
    [],
  )
})

test('native packages are imported in one place each', (t) => {
  const importers = (name: string) => [...new Set(imports.filter(({ to }) => to === name).map(({ from }) => from))]
  t.deepEqual(importers('onnxruntime-node'), ['engine/runtime.ts'])
  t.deepEqual(importers('sharp'), ['engine/encode.ts', 'engine/picture.ts'])
  t.deepEqual(importers('onnx-proto'), ['engine/graph/onnx.ts'])
})

test('no files import each other in a circle', (t) => {
  const next = new Map(files.map((file) => [file, [] as string[]]))
  for (const { from, to, types } of inside) if (!types) next.get(from)!.push(to)
  const circles = new Set<string>()
  const done = new Set<string>()
  const visit = (file: string, path: readonly string[]) => {
    if (path.includes(file)) circles.add([...path.slice(path.indexOf(file)), file].join(' → '))
    if (done.has(file) || path.includes(file)) return
    for (const to of next.get(file) ?? []) visit(to, [...path, file])
    done.add(file)
  }
  for (const file of files) visit(file, [])
  t.deepEqual([...circles], [])
})
