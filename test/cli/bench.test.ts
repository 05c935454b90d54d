// `flexit bench` as a user meets it: what it offers, what it refuses, and a load on a server whose steps cost nothing.
// What the cases show is theirs to show: bench/ is no part of the tests.

import test from 'ava'
import { benchCases } from '../../bench/cases.js'
import { FakeScheduler } from '../support-server/fake-scheduler.js'
import { latentLength, serve } from '../support-server/start.js'
import { flexit, flexitEach } from './support.js'

test('help says what each case shows and how long it takes', async (t) => {
  const { code, stdout } = await flexit(['bench', '--help'])
  t.is(code, 0)
  for (const { name, seconds, shows } of benchCases) t.true(stdout.includes(`${seconds} s  ${shows}`), name)
  const bare = await flexit(['bench'])
  t.is(bare.code, 2)
  t.regex(bare.stderr, /Usage: flexit bench/)
})

test('every case is there', async (t) => {
  for (const { name, load } of benchCases) t.is(typeof (await load()).run, 'function', name)
  t.is(new Set(benchCases.map(({ name }) => name)).size, benchCases.length)
})

const usage: readonly (readonly [title: string, args: readonly string[], message: RegExp, code?: number])[] = [
  [
    'a case that is not there',
    ['bench', 'bits', 'speed'],
    /^error: there is no case "speed"\nUse all, or some of bits/,
  ],
  ['no server', ['bench', 'load'], /^error: required option '--server <host:port>' not specified\n/],
  ['a server without a port', ['bench', 'load', '--server', 'here'], /HOST:PORT/],
  ['a rate of nothing', ['bench', 'load', '--server', 'a:1', '--open', '0'], /^error: --open is 0\nUse/],
  ['no time', ['bench', 'load', '--server', 'a:1', '--duration', '-1'], /^error: --duration is -1\n/],
  ['open and closed', ['bench', 'load', '--server', 'a:1', '--open', '1', '--closed', '1'], /--open and --closed/],
  ['an open sweep', ['bench', 'load', '--server', 'a:1', '--open', '1', '--sweep'], /--open and --sweep/],
  ['edits of a sweep', ['bench', 'load', '--server', 'a:1', '--edits', '1', '--sweep'], /--edits cannot be/],
  ['lossless nothing', ['bench', 'load', '--server', 'a:1', '--lossless'], /means nothing without --latents/],
  ['no picture', ['bench', 'load', '--server', 'a:1', '--image', 'nope.png'], /nope\.png: no such file/, 1],
]

test('what cannot be done is refused', async (t) => {
  for (const [i, result] of (await flexitEach(usage.map(([, args]) => args))).entries()) {
    const [title, , message, code = 2] = usage[i]!
    t.regex(result.stderr, message, title)
    t.is(result.code, code, title)
    t.is(result.stdout, '', title)
  }
})

test('a load on a server is told in words and as JSON', async (t) => {
  const { address } = await serve(t)
  const load = [
    'bench',
    'load',
    '--server',
    address,
    '--closed',
    '2',
    '--edits',
    '5',
    '--steps',
    '3',
    '--previews',
    '1',
  ]
  const words = await flexit([...load, '--latents', '2', '--lossless'])
  t.is(words.code, 0, words.stderr)
  t.regex(words.stdout, /^5 sent: 5 completed\ngoodput .* edits\/s, .* steps\/s/)
  t.regex(words.stdout, /\n +first preview +\S+ +\S+ +\S+ +\S+ +5\n/)
  const json = await flexit([...load, '--json', '--quiet'])
  t.is(json.stderr, '')
  t.like(JSON.parse(json.stdout), { sent: 5, completed: 5, lost: 0, interStepMs: { count: 10 } })
})

test('a load of which nothing is completed has failed', async (t) => {
  const { address } = await serve(t, { places: 0 })
  const refused = await flexit(['bench', 'load', '--server', address, '--edits', '2', '--closed', '1', '--steps', '3'])
  t.is(refused.code, 1)
  t.regex(refused.stdout, /^2 sent: 0 completed\n[^]*refused: RESOURCE_EXHAUSTED/)
  t.regex(refused.stderr, /error: of 2 edits none was completed\nSee above/)
})

/** Two edits take their steps, the others none. */
class TwoEdits extends FakeScheduler {
  constructor() {
    super({ length: latentLength, allowed: 3 })
  }

  override submit(...order: Parameters<FakeScheduler['submit']>) {
    if (this.edits.length === 2) this.allow(-3)
    return super.submit(...order)
  }
}

test('a load that is stopped tells its part, and that it was stopped', async (t) => {
  const { address } = await serve(t, { scheduler: new TwoEdits() })
  const load = ['bench', 'load', '--server', address, '--edits', '10', '--closed', '1', '--steps', '3']
  const stopped = await flexit(load, {
    onError: (child, stderr) => {
      if (/2 of 3 edits ended/.test(stderr) && !child.killed) child.kill('SIGINT')
    },
  })
  t.is(stopped.code, 130, stopped.stderr)
  t.regex(stopped.stdout, /^3 sent: 2 completed, 1 cut off at the end\n/)
  t.regex(stopped.stderr, /stopped: before the load was over/)
})
