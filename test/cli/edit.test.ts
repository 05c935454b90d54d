// `flexit edit` where all goes well, and where it is stopped: files, JSON lines, resuming to the bit.
// Runs are started as processes; see support.ts.

import { existsSync } from 'node:fs'
import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import sharp from 'sharp'
import { readEditFile, writeEditFile } from '../../src/engine/edit-file.js'
import { flexit, launcher, newFolder, parseLines, quick, run, strawberry, texts } from './support.js'

test.serial('writes every kind of file, and a line of JSON for each step', async (t) => {
  const cwd = newFolder()
  const files = { picture: 'a/out.webp', filmstrip: 'film.png', animation: 'b/c/moving.webp', latents: 'z.safetensors' }
  const outputs = ['--out', files.picture, '--filmstrip', files.filmstrip, '--animation', files.animation]
  const steps = ['--steps', '5', '--save-every', '2', '--latents', files.latents, '--json']
  const result = await flexit(['edit', strawberry, ...texts, ...quick, ...outputs, ...steps], { cwd })
  t.is(result.code, 0, result.stderr)

  const lines = parseLines(result.stdout)
  t.deepEqual(
    lines.slice(0, -1).map(({ event, step }) => [event, step]),
    [0, 1, 2, 3, 4].map((step) => ['step', step]),
  )
  const [first] = lines as { losses: Record<string, number>; secondsPerStep: number; similarityTarget: number }[]
  t.deepEqual(Object.keys(first!.losses), ['total', 'clip', 'lpips', 'latent'])
  t.true(first!.secondsPerStep > 0 && Math.abs(first!.similarityTarget) <= 1)
  t.deepEqual(lines.at(-1), { event: 'result', step: 5, files })

  const size = async (path: string) => {
    const { format, width, height, pages = 1 } = await sharp(join(cwd, path)).metadata()
    return { format, width, height, pages }
  }
  t.deepEqual(await size(files.picture), { format: 'webp', width: 64, height: 64, pages: 1 })
  // The input, steps 2 and 4, the result.
  t.deepEqual(await size(files.filmstrip), { format: 'png', width: 4 * 200 - 8, height: 192, pages: 1 })
  t.is((await size(files.animation)).pages, 6)
  const { state, packName, snapshots } = readEditFile(join(cwd, files.latents))
  t.is(packName, 'tiny')
  t.like(state, { source: 'strawberry', target: 'grapes', step: 5 })
  t.deepEqual([...snapshots.keys()], [2, 4])
  t.deepEqual((await readdir(cwd)).sort(), ['a', 'b', 'film.png', 'z.safetensors'])
})

test.serial('puts the result into flexit-out, and says so and nothing else on stderr', async (t) => {
  const cwd = newFolder()
  const result = await flexit(['edit', strawberry, ...texts, ...quick, '--steps', '1'], { cwd })
  t.is(result.code, 0)
  t.is(result.stdout, '')
  t.regex(result.stderr, /"strawberry" → "grapes"\n/)
  t.regex(result.stderr, /picture +flexit-out\/strawberry-grapes\.png\n$/)
  t.deepEqual(await readdir(join(cwd, 'flexit-out')), ['strawberry-grapes.png'])
})

test.serial('is quiet when asked, and replaces an old result', async (t) => {
  const cwd = newFolder()
  await writeFile(join(cwd, 'out.png'), 'old')
  const result = await flexit(['edit', strawberry, ...texts, ...quick, '--steps', '1', '--out', 'out.png', '--quiet'], {
    cwd,
  })
  t.deepEqual(result, { code: 0, stdout: '', stderr: '' })
  t.is((await sharp(join(cwd, 'out.png')).metadata()).format, 'png')
})

test.serial('says that a text is too long for CLIP, and goes on', async (t) => {
  const long = ['--source', 'strawberry', '--target', 'a bunch of grapes '.repeat(20)]
  const result = await flexit(['edit', strawberry, ...long, ...quick, '--steps', '1'], { cwd: newFolder() })
  t.is(result.code, 0)
  t.regex(result.stderr, /note: the target text has \d+ tokens; CLIP reads 16/)
})

test.serial('stops at SIGINT with the edit saved, and goes on to the same bits', async (t) => {
  const cwd = newFolder()
  await writeFile(join(cwd, 'out.png'), 'old')
  const save = ['--save-every', '2', '--latents', 'stopped.safetensors', '--out', 'out.png']
  const stopped = await flexit(
    ['edit', strawberry, ...texts, ...quick, ...save, '--json', '--quiet', '--steps', '10000'],
    {
      cwd,
      onOutput: (child) => {
        if (!child.killed) child.kill('SIGINT')
      },
    },
  )
  t.is(stopped.code, 130, stopped.stderr)
  const last = parseLines(stopped.stdout).at(-1) as { event: string; step: number; files: object }
  t.like(last, { event: 'stopped', files: { latents: 'stopped.safetensors' } })
  const error = parseLines(stopped.stderr).at(-1)?.['error'] as { code: string; cure: string }
  t.is(error.code, 'CANCELLED')
  t.regex(error.cure, /npx flexit edit --resume stopped\.safetensors --out out\.png/)
  t.is(await readFile(join(cwd, 'out.png'), 'utf8'), 'old')

  const steps = ['--steps', String(last.step + 3)]
  const every = ['--save-every', '2', '--quiet', '--filmstrip', 'film.png']
  const resumed = await flexit(['edit', '--resume', 'stopped.safetensors', '--threads', '1', ...steps, ...every], {
    cwd,
  })
  t.is(resumed.code, 0, resumed.stderr)
  const whole = [
    '--latents',
    'whole.safetensors',
    '--out',
    'whole.png',
    ...steps,
    ...every,
    '--filmstrip',
    'whole-film.png',
  ]
  const uninterrupted = await flexit(['edit', strawberry, ...texts, ...quick, ...whole], { cwd })
  t.is(uninterrupted.code, 0, uninterrupted.stderr)
  const same = async (a: string, b: string) => (await readFile(join(cwd, a))).equals(await readFile(join(cwd, b)))
  t.true(await same('stopped.safetensors', 'whole.safetensors'))
  t.true(await same('flexit-out/stopped.png', 'whole.png'))
  t.true(await same('film.png', 'whole-film.png'))
})

test.serial('saves a stopped edit beside its result when no file is named, and hears SIGTERM', async (t) => {
  const cwd = newFolder()
  await mkdir(join(cwd, 'flexit-out'))
  await writeFile(join(cwd, 'flexit-out', 'strawberry-grapes.safetensors'), 'of another edit')
  const result = await flexit(['edit', strawberry, ...texts, ...quick, '--json', '--steps', '10000'], {
    cwd,
    onOutput: (child) => {
      if (!child.killed) child.kill('SIGTERM')
    },
  })
  t.is(result.code, 130)
  const files = ['strawberry-grapes-2.safetensors', 'strawberry-grapes.safetensors']
  t.deepEqual((await readdir(join(cwd, 'flexit-out'))).sort(), files)
  t.is(await readFile(join(cwd, 'flexit-out', files[1]!), 'utf8'), 'of another edit')
  t.is(readEditFile(join(cwd, 'flexit-out', files[0]!)).state.target, 'grapes')
})

test.serial('a reader that goes away stops the edit without noise', async (t) => {
  const cwd = newFolder()
  const args = [
    'edit',
    strawberry,
    ...texts,
    ...quick,
    '--steps',
    '10000',
    '--json',
    '--quiet',
    '--latents',
    'z.safetensors',
  ]
  const script = '"$0" "$@" | head -1'
  const result = await run('sh', ['-c', script, process.execPath, launcher, ...args], { cwd })
  t.is(parseLines(result.stdout).length, 1)
  t.deepEqual(
    parseLines(result.stderr).map(({ error }) => (error as { code: string }).code),
    ['CANCELLED'],
  )
  t.true(readEditFile(join(cwd, 'z.safetensors')).state.step >= 1)
})

const filling = existsSync('/dev/full') ? test.serial : test.serial.skip

filling('a full disk under stdout stops the edit, saved, and is told', async (t) => {
  const cwd = newFolder()
  const args = ['edit', strawberry, ...texts, ...quick, '--steps', '10000', '--json', '--quiet']
  const script = '"$0" "$@" > /dev/full'
  const latents = ['--latents', 'z.safetensors']
  const result = await run('sh', ['-c', script, process.execPath, launcher, ...args, ...latents], { cwd })
  t.is(result.code, 1)
  const { error } = parseLines(result.stderr).at(-1) as { error: { code: string; message: string } }
  t.like(error, { code: 'FAILED_PRECONDITION', message: 'cannot write to stdout: no space left on the device' })
  t.true(readEditFile(join(cwd, 'z.safetensors')).state.step >= 1)

  await writeFile(
    join(cwd, 'q.csv'),
    `image,source,target\n${strawberry},strawberry,grapes\n${strawberry},strawberry,pear\n`,
  )
  const batch = ['batch', 'q.csv', '--networks', 'rn', '--views', '0', '--steps', '20', '--json', '--threads', '1']
  const many = await run('sh', ['-c', script, process.execPath, launcher, ...batch], { cwd })
  t.is(many.code, 1, many.stderr)
  t.regex(many.stderr, /cannot write to stdout/)
  t.notRegex(many.stderr, /terminate called/)

  const list = await run('sh', ['-c', script, process.execPath, launcher, 'models', 'list'])
  t.is(list.code, 1)
  t.regex(list.stderr, /^error: cannot write to stdout: no space left on the device\n/)
})

test.serial('what is changed of a saved edit is said, and where its pack may be', async (t) => {
  const cwd = newFolder()
  const save = ['--steps', '1', '--quiet', '--latents', 'z.safetensors']
  t.is((await flexit(['edit', strawberry, ...texts, ...quick, ...save], { cwd })).code, 0)
  const resume = ['edit', '--resume', 'z.safetensors', '--steps', '2', '--threads', '1']
  const changed = await flexit([...resume, '--seed', '5', '--lambda-z', '0.1'], { cwd })
  t.is(changed.code, 0)
  t.regex(changed.stderr, /\nchanged: lambdaZ 0\.05 → 0\.1, seed \d+ → 5\n/)

  const saved = readEditFile(join(cwd, 'z.safetensors'))
  await writeEditFile(join(cwd, 'z.safetensors'), { ...saved, packName: 'mine' }, [32, 8, 8])
  const elsewhere = await flexit(resume, { cwd })
  t.is(elsewhere.code, 1)
  t.regex(elsewhere.stderr, /no pack is called "mine".*\nThe saved edit was made with it: name the folder/)
})

test.serial('an edit whose numbers are not finite fails with its state saved and no result', async (t) => {
  const cwd = newFolder()
  await mkdir(join(cwd, 'flexit-out'))
  const good = ['--steps', '1', '--quiet', '--latents', 'z.safetensors']
  t.is((await flexit(['edit', strawberry, ...texts, ...quick, ...good], { cwd })).code, 0)
  const saved = readEditFile(join(cwd, 'z.safetensors'))
  const z = saved.state.z!.map(() => 3e38)
  await writeEditFile(join(cwd, 'huge.safetensors'), { ...saved, state: { ...saved.state, z } }, [32, 8, 8])

  const result = await flexit(['edit', '--resume', 'huge.safetensors', '--steps', '3', '--json'], { cwd })
  t.is(result.code, 1)
  t.like(parseLines(result.stdout).at(-1), { event: 'failed', step: 1, files: { latents: 'huge.safetensors' } })
  t.regex(
    result.stderr,
    /no longer finite at step 1; the latent before it is kept; the edit is saved in huge\.safetensors, no result/,
  )
  t.false(existsSync(join(cwd, 'flexit-out', 'huge.png')))
})
