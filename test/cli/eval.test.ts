// `flexit eval` and `flexit sweep` with the embedded pack, on a small world of colours (../evaluation/support.ts).
// Runs are started as processes; see support.ts.

import { mkdir, readFile, readdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { sayFailed } from '../../src/cli/evaluation.js'
import { makeWorld } from '../evaluation/support.js'
import { flexit, flexitEach, newFolder, quick, tiny, tinyDefaults } from './support.js'

const world = newFolder()
const queries = ['--queries', join(world, 'queries.csv')]
const common = [...queries, ...quick, '--limit', '3', '--at', '1,2', '--samples', '20', '--store', join(world, 'store')]

test.before(() => makeWorld(world))

const contents = async (folder: string) => {
  const names = (await readdir(folder)).sort()
  return Promise.all(names.map(async (name) => [name, await readFile(join(folder, name), 'base64')] as const))
}

test.serial('eval prints Table 1 and writes its files; again, it makes no edit and writes the same', async (t) => {
  const first = await flexit(['eval', ...common, '--out', 'a'], { cwd: world })
  t.is(first.code, 0, first.stderr)
  t.deepEqual(
    first.stdout
      .trim()
      .split('\n')
      .map((line) => line.split(/ {2,}/)[0]),
    ['', 'COPY', 'ENCODE', 'RETRIEVE', 'FlexIT, 1 step', 'FlexIT, 2 steps'].map((name) => name || 'LPIPS ↓'),
  )
  t.regex(first.stderr, /\d\/3 edits {2}.* left/)
  t.regex(first.stderr, /3 queries, 3 classes to choose among; hash [0-9a-f]{64}\n/)
  const written = await contents(join(world, 'a'))
  t.deepEqual(
    written.map(([name]) => name),
    [
      'clusters.csv',
      'clusters.svg',
      'gallery.html',
      'results.json',
      'sheet.png',
      'table1.csv',
      'table1.txt',
      'verdicts.csv',
    ],
  )
  const { parameters, queries: about } = JSON.parse(await readFile(join(world, 'a', 'results.json'), 'utf8')) as {
    parameters: unknown
    queries: { count: number }
  }
  t.like(parameters, { steps: 2, networks: ['vit'], views: 1 })
  t.is(about.count, 3)

  const second = await flexit(['eval', ...common, '--out', 'b', '--quiet'], { cwd: world })
  t.is(second.code, 0, second.stderr)
  t.deepEqual([second.stdout, second.stderr], [first.stdout, ''])
  t.deepEqual(await contents(join(world, 'b')), written)
})

test.serial('sweep goes over a grid, and shares edits with eval', async (t) => {
  const before = (await readdir(join(world, 'store', 'edits'))).length
  const usual = tinyDefaults['lambdaS']
  const result = await flexit(['sweep', ...common, '--grid', `lambda-s=${usual},0.1`, '--out', 'c'], { cwd: world })
  t.is(result.code, 0, result.stderr)
  t.regex(result.stdout, new RegExp(`^lambdaS=${usual} .*\\nlambdaS=0\\.1 `, 'm'))
  t.deepEqual((await readdir(join(world, 'c'))).sort(), ['differences.csv', 'sweep.csv', 'sweep.json', 'sweep.svg'])
  const lines = (await readFile(join(world, 'c', 'sweep.csv'), 'utf8')).trim().split('\n')
  t.is(lines.length, 1 + 2 * 3)
  t.is((await readdir(join(world, 'store', 'edits'))).length, before + 3)
})

test.serial('Ctrl-C stops, and says how to go on', async (t) => {
  const result = await flexit(['eval', ...queries, ...quick, '--at', '300', '--out', 'd', '--store', 's'], {
    cwd: world,
    onError: (child, stderr) => {
      if (!child.killed && stderr.includes('steps/s')) child.kill('SIGINT')
    },
  })
  t.is(result.code, 130, result.stderr)
  t.regex(result.stderr, /stopped: after \d of 6 edits, which are kept\nRun the same command again/)
})

test.serial('a second signal ends it at once, without an abort of threads that are in a step', async (t) => {
  const { code, signal, stderr } = await flexit(
    ['eval', ...queries, ...quick, '--at', '300', '--out', 'e', '--store', 'e'],
    {
      cwd: world,
      onError: (child, text) => {
        if (child.killed || !text.includes('steps/s')) return
        child.kill('SIGINT')
        child.kill('SIGTERM')
      },
    },
  )
  // Where the first one has ended it already, the second finds nothing; they may come in either order.
  t.true(signal === 'SIGTERM' || signal === 'SIGINT' || code === 130, `${code} ${signal}: ${stderr}`)
  t.notRegex(stderr, /terminate called/)
})

test('wrong requests are told of before anything long', async (t) => {
  await writeFile(join(world, 'wrong.csv'), 'image,source,target\nred-204.png,red,mauve')
  const many = Array.from({ length: 256 }, (_, i) => i + 1).join(',')
  const cases: readonly (readonly [args: readonly string[], message: RegExp])[] = [
    [['eval', ...queries, '--at', '4,2'], /They must ascend/],
    [['eval', ...queries, '--at', '4', '--steps', '4'], /--steps and --at are both given/],
    [['eval', ...queries, '--at', many], /256 are more than 255/],
    [['sweep', ...queries, '--grid', 'seed=1,2', '--at', many], /256 are more than 255/],
    [['eval', '--queries', join(world, 'wrong.csv')], /"mauve", is not a class of the judge/],
    [['sweep', ...queries, '--grid', 'speed=1,2'], /Write NAME=A,B with a name of seed, learning-rate/],
    [['sweep', ...queries, '--grid', 'networks=vit,vgg'], /no network "vgg"/],
    [['sweep', ...queries, '--grid', 'seed=1', '--grid', 'seed=2'], /seed is named twice/],
    [['sweep', ...queries, '--grid', 'views=1,1'], /A value of views is there twice/],
    [['sweep', ...queries, '--grid', 'networks=rn+rn'], /rn is named twice/],
    [['sweep', ...queries, '--grid', 'seed=1.5'], /It is not a whole number from 0 to/],
  ]
  const requests = cases.map(([args]) => args)
  for (const [i, { code, stderr }] of (await flexitEach(requests, world)).entries()) {
    t.not(code, 0)
    t.regex(stderr, cases[i]![1], requests[i]!.join(' '))
  }
})

test('a pack with only some of its networks will do for edits with these', async (t) => {
  const partial = join(world, 'partial')
  await mkdir(partial)
  const names = (await readdir(tiny)).filter((name) => name !== 'clip-rn.safetensors')
  for (const name of names) await symlink(join(tiny, name), join(partial, name))
  const unknown = join(world, 'unknown.csv')
  await writeFile(unknown, 'image,source,target\nred-204.png,red,mauve')
  const cases: readonly (readonly [args: readonly string[], message: RegExp])[] = [
    // The queries are read when the pack is open.
    [['eval', '--networks', 'vit'], /"mauve", is not a class of the judge/],
    [['sweep', '--grid', 'networks=vit'], /"mauve", is not a class of the judge/],
    [['eval'], /pack tiny is incomplete/],
    [['sweep', '--networks', 'vit', '--grid', 'networks=vit,rn'], /pack tiny is incomplete/],
  ]
  const requests = cases.map(([args]) => [...args, '--pack', partial, '--queries', unknown])
  for (const [i, { code, stderr }] of (await flexitEach(requests, world)).entries()) {
    t.not(code, 0)
    t.regex(stderr, cases[i]![1], requests[i]!.join(' '))
  }
  const edits = ['eval', '--networks', 'vit', '--pack', partial, ...queries, '--limit', '1', '--at', '1']
  const { code, stderr } = await flexit(edits, { cwd: world })
  t.is(code, 0, stderr)
})

test('eval takes a pack’s test half, sweep its development half', async (t) => {
  const halves = join(world, 'halves')
  await mkdir(join(halves, 'evaluation'), { recursive: true })
  for (const name of await readdir(tiny)) {
    if (name !== 'evaluation') await symlink(join(tiny, name), join(halves, name))
  }
  for (const name of ['judge', 'images', 'references.csv']) {
    await symlink(join(tiny, 'evaluation', name), join(halves, 'evaluation', name))
  }
  for (const half of ['dev', 'test']) {
    await writeFile(join(halves, 'evaluation', `queries-${half}.csv`), 'image,source,target\nx.png,fox,mauve')
  }
  const grid = ['--grid', 'seed=1,2']
  const cases: readonly (readonly [args: readonly string[], message: RegExp])[] = [
    [['eval', '--pack', halves], /row 1 of .*queries-test\.csv, "mauve"/],
    [['sweep', '--pack', halves, ...grid], /row 1 of .*queries-dev\.csv, "mauve"/],
    [['sweep', '--help'], /queries-dev\.csv of the pack\)[^]*is_test \(default: dev\)[^]*160 with every\s+pack/],
    [['eval', '--help'], /queries-test\.csv of the pack\)[^]*is_test \(default: test\)[^]*160 with every\s+pack/],
  ]
  const requests = cases.map(([args]) => args)
  for (const [i, { stdout, stderr }] of (await flexitEach(requests, world)).entries()) {
    t.regex(`${stdout}${stderr}`.replaceAll(/\n {20,}/g, ' '), cases[i]![1], requests[i]!.join(' '))
  }
  // The picture that is read first, and is not there, tells the half.
  const mixed = join(world, 'mixed.csv')
  await writeFile(mixed, 'image,source,target,is_test\nnone.png,red,blue,False\nnot.png,red,blue,True')
  const halfOf = await flexitEach([['sweep', '--queries', mixed, ...grid], ['eval', '--queries', mixed]], world) // prettier-ignore
  t.regex(halfOf[0]!.stderr, /none\.png/)
  t.regex(halfOf[1]!.stderr, /not\.png/)
})

test('edits that ended early are told of', (t) => {
  const lines: string[] = []
  const nothing = () => undefined
  const progress = { say: (line: string) => void lines.push(line), doing: nothing, advance: nothing, end: nothing }
  sayFailed(progress, 0)
  sayFailed(progress, 3)
  t.deepEqual(lines, ['note: 3 edits ended early, no longer finite; their last picture counts'])
})

test('the help says where the paper’s networks and pictures are', async (t) => {
  const { stdout } = await flexit(['eval', '--help'])
  for (const word of ['deit_base_distilled_patch16_384', 'pytorch-fid', 'alexnet-owt-7be5be79.pth', 'image-net.org']) {
    t.true(stdout.includes(word), word)
  }
})
