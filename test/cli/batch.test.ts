// `flexit batch` on servers of this process, whose steps are deterministic: what is run, skipped, gone on with, and told.
// One run is on this machine's devices, with the embedded networks.

import { execFile } from 'node:child_process'
import { copyFile, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import test from 'ava'
import { parse } from 'csv-parse/sync'
import { readEditFile } from '../../src/engine/edit-file.js'
import { serve } from '../support-server/start.js'
import { type RunOptions, flexit, newFolder, parseLines, quick, tiny, tinyDefaults } from './support.js'

const header = 'file,source,target,seed'

/** A folder with a table and its pictures. */
async function newBatch(rows: readonly string[]): Promise<string> {
  const cwd = newFolder()
  for (const name of ['strawberry', 'rose'])
    await copyFile(join(tiny, 'examples', `${name}.png`), join(cwd, `${name}.png`))
  await writeRows(cwd, rows)
  return cwd
}

function writeRows(cwd: string, rows: readonly string[]): Promise<void> {
  return writeFile(join(cwd, 'queries.csv'), [header, ...rows, ''].join('\n'))
}

function batch(cwd: string, address: string, args: readonly string[] = [], options: RunOptions = {}) {
  const all = ['batch', 'queries.csv', '--server', address, '--steps', '10', '--save-every', '4', ...args]
  return flexit(all, { cwd, ...options })
}

async function resultsOf(cwd: string, folder = join('flexit-out', 'batch-queries')) {
  const text = await readFile(join(cwd, folder, 'results.csv'), 'utf8')
  return parse(text, { columns: true }) as unknown as Record<string, string>[]
}

test('what fails does not stop the rest; given again, only what failed or changed is done', async (t) => {
  const { address, scheduler } = await serve(t)
  const cwd = await newBatch(['strawberry.png,strawberry,grapes,', 'rose.png,rose,explode,', 'rose.png,rose,"a, b",7'])
  const first = await batch(cwd, address, ['--json'])
  t.is(first.code, 1, first.stderr)
  t.regex(first.stderr, /1 edit failed\\n {2}line 3 \(rose\.png → explode\): it exploded/)
  const events = parseLines(first.stdout)
  t.like(events.at(-1), { event: 'result', done: 2, failed: 1, unfinished: 0 })
  t.deepEqual(
    (await resultsOf(cwd)).map(({ line, target, status, steps, seed, error }) => [
      line,
      target,
      status,
      steps,
      seed,
      error,
    ]),
    [
      ['2', 'grapes', 'done', '10', '0', ''],
      ['3', 'explode', 'failed', '', '0', 'it exploded'],
      ['4', 'a, b', 'done', '10', '7', ''],
    ],
  )
  const pictures = join(cwd, 'flexit-out', 'batch-queries', 'pictures')
  t.is((await readdir(pictures)).length, 2)
  t.false((await readdir(dirname(pictures))).includes('latents'), 'no empty folder is left')
  t.is(scheduler.edits.length, 3)

  await writeRows(cwd, ['strawberry.png,strawberry,grapes,', 'rose.png,rose,sunflower,', 'rose.png,rose,"a, b",7'])
  const second = await batch(cwd, address)
  t.is(second.code, 0, second.stderr)
  t.is(scheduler.edits.length, 4, 'only the row that was changed')
  t.deepEqual(
    (await resultsOf(cwd)).map(({ status }) => status),
    ['done', 'done', 'done'],
  )

  // Another picture under the same name, and a picture of a result that was deleted.
  const [, , last] = await resultsOf(cwd)
  await rm(join(cwd, 'flexit-out', 'batch-queries', last!['picture']!))
  await copyFile(join(cwd, 'rose.png'), join(cwd, 'strawberry.png'))
  const usual = await batch(cwd, address, ['--lambda-s', `${tinyDefaults['lambdaS']}`])
  t.is(usual.code, 0)
  t.is(scheduler.edits.length, 6, 'a parameter that is given as the pack has it changes nothing')
  t.is((await batch(cwd, address, ['--lambda-s', '0.3'])).code, 0)
  t.is(scheduler.edits.length, 9)

  const [emptied] = await resultsOf(cwd)
  await writeFile(join(cwd, 'flexit-out', 'batch-queries', emptied!['picture']!), '')
  t.is((await batch(cwd, address, ['--lambda-s', '0.3'])).code, 0)
  t.is(scheduler.edits.length, 10, 'a picture that is empty is no result')
})

test('of many edits in flight nothing is said', async (t) => {
  const { address } = await serve(t)
  const cwd = await newBatch(Array.from({ length: 12 }, (_, i) => `rose.png,rose,flower ${i},`))
  const result = await batch(cwd, address, ['--in-flight', '12', '--quiet'])
  t.is(result.code, 0)
  t.false(result.stderr.includes('Warning'), result.stderr)
})

test('Ctrl-C saves what is in flight, and the same command goes on from there to the same bits', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 7 })
  const cwd = await newBatch(['strawberry.png,strawberry,grapes,', 'rose.png,rose,sunflower,5'])
  const args = ['--filmstrips', '--latents', '--out', 'out']
  const stopped = await batch(cwd, address, args, {
    onError: (child, stderr) => {
      if (/steps\/s/.test(stderr) && !child.killed) child.kill('SIGINT')
    },
  })
  t.is(stopped.code, 130, stopped.stderr)
  t.regex(stopped.stderr, /stopped: 0 of 2 edits are done, those under way are saved\nGive the same command again/)
  t.deepEqual(
    (await resultsOf(cwd, 'out')).map(({ status }) => status),
    ['unfinished', 'unfinished'],
  )
  const latents = await readdir(join(cwd, 'out', 'latents'))
  const reached = latents.map((name) => readEditFile(join(cwd, 'out', 'latents', name)).state)
  t.true(reached.length > 0 && reached.every(({ step }) => step >= 1 && step <= 7))

  scheduler.allow(1000)
  const resumed = await batch(cwd, address, args)
  t.is(resumed.code, 0, resumed.stderr)
  for (const { step, target } of reached) {
    t.true(scheduler.edits.some((edit) => edit.first === step && edit.state.target === target))
  }
  t.is((await batch(cwd, address, ['--filmstrips', '--latents', '--out', 'whole'])).code, 0)
  for (const folder of ['pictures', 'filmstrips', 'latents']) {
    const names = await readdir(join(cwd, 'whole', folder))
    t.is(names.length, 2)
    for (const name of names) {
      t.deepEqual(
        await readFile(join(cwd, 'out', folder, name)),
        await readFile(join(cwd, 'whole', folder, name)),
        name,
      )
    }
  }
})

test('a server that is gone ends the batch, and another one goes on with it', async (t) => {
  const [first, second] = [await serve(t, { places: 0 }), await serve(t)]
  const cwd = await newBatch(['rose.png,rose,sunflower,'])
  await first.server.drain()
  const gone = await batch(cwd, first.address)
  t.is(gone.code, 1)
  t.regex(gone.stderr, /error: the server cannot be reached: .*\nCheck its address/)
  t.is((await batch(cwd, `${first.address},${second.address}`)).code, 0)
  t.is(second.scheduler.edits.length, 1)
})

test('mistakes are told before anything runs', async (t) => {
  const { address, scheduler } = await serve(t)
  const cwd = await newBatch(['nope.png,a,b,', 'text.png,a,b,', 'rose.png,a,b,-1', 'rose.png,a,b,1'])
  await writeFile(join(cwd, 'text.png'), 'Dear reader,\n')
  const wrong = await batch(cwd, address)
  t.is(wrong.code, 2)
  t.regex(wrong.stderr, /queries\.csv has 3 mistakes; nothing was run/)
  t.regex(wrong.stderr, /line 2, column file: cannot read \S*nope\.png: no such file/)
  t.regex(wrong.stderr, /line 3, column file: .*it looks like text/)
  t.regex(wrong.stderr, /line 4, column seed: .*cannot be -1/)
  const cases: [args: string[], message: RegExp][] = [
    [['--out', 'text.png/out'], /text\.png is not a folder/],
    [['--networks', 'RN50'], /the pack tiny has no network "RN50"\nChoose among rn, vit/],
  ]
  for (const [args, message] of cases) {
    const result = await batch(cwd, address, args)
    t.true(result.code !== 0, args.join(' '))
    t.regex(result.stderr, message)
  }
  t.is(scheduler.edits.length, 0)
  t.deepEqual((await readdir(cwd)).sort(), ['queries.csv', 'rose.png', 'strawberry.png', 'text.png'])
})

test('what is no regular file is refused, not waited for', async (t) => {
  const { address } = await serve(t)
  const cwd = await newBatch(['pipe.png,a,b,', '/dev/zero,a,b,'])
  await promisify(execFile)('mkfifo', [join(cwd, 'pipe.png')])
  const wrong = await batch(cwd, address)
  t.is(wrong.code, 2)
  t.regex(wrong.stderr, /line 2, column file: cannot read \S*pipe\.png: it is a pipe/)
  t.regex(wrong.stderr, /line 3, column file: cannot read \/dev\/zero: it is a device/)
})

test('names in a table do not steer the terminal', async (t) => {
  const { address } = await serve(t)
  const name = 'ro\x1b[2Jse.png'
  const cwd = await newBatch([`${name},rose,explode,`])
  await copyFile(join(cwd, 'rose.png'), join(cwd, name))
  const { stderr } = await batch(cwd, address)
  t.true(stderr.includes('failed: line 2 (ro\uFFFD[2Jse.png → explode): it exploded\n'), stderr)
  t.false(stderr.includes('\x1b'))
})

test('rows that ask for the same are one edit', async (t) => {
  const { address, scheduler } = await serve(t)
  const cwd = await newBatch(['rose.png,rose,sunflower,', 'rose.png,rose,sunflower,0'])
  await mkdir(join(cwd, 'out'))
  // A crash had cut off the last line.
  await writeFile(join(cwd, 'out', 'finished.jsonl'), '\n{"key":"0123')
  const result = await batch(cwd, address, ['--out', 'out'])
  t.is(result.code, 0, result.stderr)
  t.is(scheduler.edits.length, 1)
  t.deepEqual(
    (await resultsOf(cwd, 'out')).map(({ line, status }) => [line, status]),
    [
      ['2', 'done'],
      ['3', 'done'],
    ],
  )
})

test('the edit of equal rows has the name of the first, however long its check took', async (t) => {
  const { address, scheduler } = await serve(t)
  const cwd = await newBatch([])
  const names = ['strawberry.png', ...Array.from({ length: 9 }, (_, i) => `copy-${i}.png`)]
  for (const name of names.slice(1)) await copyFile(join(cwd, 'strawberry.png'), join(cwd, name))
  await writeRows(
    cwd,
    names.map((name) => `${name},strawberry,grapes,`),
  )
  t.is((await batch(cwd, address)).code, 0)
  for (const { picture } of await resultsOf(cwd)) t.regex(picture!, /^pictures\/strawberry-grapes-/)
  t.is((await batch(cwd, address)).code, 0)
  t.is(scheduler.edits.length, 1)
})

test('tables of one name in different folders have results of their own', async (t) => {
  const { address } = await serve(t)
  const cwd = await newBatch([])
  // The last one's name reads as the folders of the second.
  for (const [table, target] of [
    ['a/queries.csv', 'grapes'],
    ['b/a/queries.csv', 'cherry'],
    ['b-a-queries.csv', 'tulip'],
  ] as const) {
    const folder = dirname(table)
    await mkdir(join(cwd, folder), { recursive: true })
    if (folder !== '.') await copyFile(join(cwd, 'rose.png'), join(cwd, folder, 'rose.png'))
    await writeFile(join(cwd, table), `${header}\nrose.png,rose,${target},\n`)
    const args = ['batch', table, '--server', address, '--steps', '2', '--quiet']
    const result = await flexit(args, { cwd })
    t.is(result.code, 0, result.stderr)
  }
  const found = (await readdir(join(cwd, 'flexit-out'))).sort()
  t.is(found.length, 3)
  t.regex(found[0]!, /^batch-a-queries-[0-9a-f]{8}$/)
  t.is(found[1], 'batch-b-a-queries')
  t.regex(found[2]!, /^batch-b-a-queries-[0-9a-f]{8}$/)
  for (const [i, target] of ['grapes', 'tulip', 'cherry'].entries()) {
    t.like((await resultsOf(cwd, join('flexit-out', found[i]!)))[0], { target })
  }
  // From elsewhere.
  const other = newFolder()
  const args = ['batch', join(cwd, 'a', 'queries.csv'), '--server', address, '--steps', '2', '--quiet']
  t.is((await flexit(args, { cwd: other })).code, 0)
  const [name, ...more] = await readdir(join(other, 'flexit-out'))
  t.regex(name!, /^batch-[\p{L}\p{N}-]+-a-queries-[0-9a-f]{8}$/u)
  t.deepEqual(more, [])
})

test('on this machine: the bits of single edits', async (t) => {
  const elsewhere = join(tiny, 'examples', 'rose.png')
  const cwd = await newBatch(['strawberry.png,strawberry,grapes,3', `${elsewhere},rose,sunflower,`])
  const steps = ['--steps', '3', ...quick]
  const result = await flexit(['batch', 'queries.csv', ...steps], { cwd })
  t.is(result.code, 0, result.stderr)
  const texts = ['--source', 'strawberry', '--target', 'grapes', '--seed', '3', '--out', 'alone.png']
  t.is((await flexit(['edit', 'strawberry.png', ...texts, ...steps], { cwd })).code, 0)
  const [{ picture, similarity_target: similarity } = {}] = await resultsOf(cwd)
  const folder = join(cwd, 'flexit-out', 'batch-queries')
  t.true((await readFile(join(folder, picture!))).equals(await readFile(join(cwd, 'alone.png'))))
  t.true(Number(similarity) > 0)
  t.deepEqual(await readdir(folder), ['finished.jsonl', 'pictures', 'results.csv'])
})
