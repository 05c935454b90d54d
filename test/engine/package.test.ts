// The npm package: what it asks for, and what is in it.
// https://docs.npmjs.com/cli/configuring-npm/package-json

import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import test from 'ava'

/** Four folders up from the build of this file. */
const root = fileURLToPath(new URL('../../../', import.meta.url))

test('what the bits of results depend on is pinned, here and in the lock file', (t) => {
  const read = (name: string) => JSON.parse(readFileSync(join(root, name), 'utf8')) as unknown
  const { dependencies } = read('package.json') as { dependencies: Record<string, string> }
  const { packages } = read('package-lock.json') as {
    packages: Record<string, { version: string; dependencies?: Record<string, string> }>
  }
  for (const name of ['onnxruntime-node', 'sharp']) {
    const { version } = packages[`node_modules/${name}`]!
    t.is(dependencies[name], version)
    t.is(packages['']!.dependencies![name], version)
  }
})

test('what is packed runs, and holds what the README leads to; no maps, no rehearsals of clusters', async (t) => {
  const args = ['pack', '--dry-run', '--ignore-scripts', '--json', '--logs-max=0', '--no-update-notifier']
  const { stdout } = await promisify(execFile)('npm', args, { cwd: root, maxBuffer: 2 ** 24 })
  // A list, or by name: that depends on npm.
  const [packed] = Object.values(JSON.parse(stdout) as Record<string, { files: readonly { path: string }[] }>)
  const paths = packed!.files.map(({ path }) => path)
  t.deepEqual(
    paths.filter((path) => path.endsWith('.map') || /^dist\/(?:test|bench\/(?:cluster|autoscaling))/.test(path)),
    [],
  )
  for (const path of ['bin/flexit.js', 'dist/src/index.js', 'dist/src/index.d.ts', 'dist/bench/cases.js']) {
    t.true(paths.includes(path), path)
  }

  const links = ['README.md', ...paths.filter((path) => /^docs\/.*\.md$/.test(path))].flatMap((from) =>
    [...readFileSync(join(root, from), 'utf8').matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)].map(([, to]) =>
      posix.join(posix.dirname(from), to!),
    ),
  )
  t.true(links.includes('docs/operations.md'))
  // The recipe of the embedded pack needs the repository.
  const missing = links.filter((to) => to !== 'training' && !paths.some((path) => `${path}/`.startsWith(`${to}/`)))
  t.deepEqual(missing, [])
})
