// The Dockerfile says of the program what is true, and what tests of manifests rely on.
// https://docs.docker.com/reference/dockerfile/

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { healthCommand } from '../../src/cli/health.js'
import { serveCommand } from '../../src/cli/serve.js'
import { resolveOptions } from '../../src/server/options.js'
import { root } from './manifests.js'

const dockerfile = readFileSync(join(root, 'Dockerfile'), 'utf8').replaceAll('\\\n', ' ')
const stages = new Map(
  dockerfile
    .split(/^FROM /m)
    .slice(1)
    .map((text) => [/^\S+ AS (\S+)$/m.exec(text)![1]!, text]),
)

/** The arguments of an instruction of a stage; of several, all of them. */
function instruction(stage: string, name: string): string[] {
  return [...stages.get(stage)!.matchAll(new RegExp(`^${name} (.*)$`, 'gm'))].map(([, text]) => text!)
}

for (const target of ['cpu', 'cuda']) {
  test(`the ${target} image runs the server, as nobody, and asks it how it is`, (t) => {
    const [entrypoint] = instruction(target, 'ENTRYPOINT')
    const [program, launcher] = JSON.parse(entrypoint!) as string[]
    t.deepEqual([program, launcher], ['node', '/app/bin/flexit.js'])
    t.deepEqual(JSON.parse(instruction(target, 'CMD')[0]!), [serveCommand().name()])
    t.deepEqual(instruction(target, 'USER'), ['10001:10001'])
    t.deepEqual(instruction(target, 'WORKDIR'), ['/app'])

    const words = instruction(target, 'ENV').join(' ').trim().split(/\s+/)
    const environment = Object.fromEntries(words.map((word) => word.split('=', 2) as [string, string]))
    const options = resolveOptions({ flags: {}, environment })
    t.is(options.host, '0.0.0.0')
    t.deepEqual(options.device, [target === 'cpu' ? 'cpu' : 'cuda:0'])
    t.deepEqual(instruction(target, 'EXPOSE'), [`${options.port} ${options.metricsPort}`])
    for (const [variable, parent] of [
      ['XDG_CACHE_HOME', '/var/cache'],
      ['XDG_DATA_HOME', '/var/lib'],
    ] as const) {
      t.is(environment[variable], parent)
      t.true(
        instruction(target, 'RUN').some(
          (line) => line.includes(`-o 10001 -g 10001`) && line.includes(`${parent}/flexit`),
        ),
      )
    }

    const check = /CMD (\[.*\])$/.exec(instruction(target, 'HEALTHCHECK')[0]!)![1]!
    const [node, file, command, ...args] = JSON.parse(check) as string[]
    t.deepEqual([node, file, command, args], ['node', 'bin/flexit.js', healthCommand().name(), []])
  })
}

test('packages come from the lock file, bases are arguments', (t) => {
  for (const stage of ['build', 'packages']) {
    t.true(
      instruction(stage, 'RUN').some((line) => line.startsWith('npm ci ')),
      stage,
    )
    t.true(instruction(stage, 'COPY').includes('package.json package-lock.json .npmrc ./'), stage)
  }
  t.regex(stages.get('packages')!, /npm ci --omit=dev/)
  for (const [name, text] of stages) t.regex(text, /^(\$\{\w+_IMAGE\}|scratch|packages) AS /, name)
})

test('what a build needs is not ignored, and what it must not have is', (t) => {
  const [first, ...kept] = readFileSync(join(root, '.dockerignore'), 'utf8')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
  t.is(first, '*')
  const names = kept.map((line) => line.replace(/^!/, ''))
  const copied = [...stages.values()].flatMap((text) =>
    [...text.matchAll(/^COPY (?!--from)(.*) \S+$/gm)].flatMap(([, list]) => list!.split(' ')),
  )
  for (const name of copied.filter((one) => one !== '.')) t.true(names.includes(name), name)
  for (const name of ['src', 'tsconfig.json']) t.true(names.includes(name), name)
  for (const name of ['.git', 'node_modules', 'dist', 'test']) t.false(names.includes(name), name)
})
