// The other commands: demo, models, cache, help; and the example of the library.
// Downloads come from a server in this process.

import { createHash } from 'node:crypto'
import { copyFile, mkdir, readFile, readdir, rename, utimes, writeFile } from 'node:fs/promises'
import { type Server, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import test from 'ava'
import * as library from '../../src/index.js'
import { flexit, launcher, newFolder, root, run, tiny } from './support.js'

test.serial('the demo edits a picture and says what to try next', async (t) => {
  const cwd = newFolder()
  const result = await flexit(['demo'], { cwd })
  t.is(result.code, 0, result.stderr)
  t.deepEqual((await readdir(join(cwd, 'flexit-out', 'demo'))).sort(), [
    'animation.webp',
    'filmstrip.png',
    'green-apple.png',
    'green-apple.safetensors',
  ])
  t.regex(result.stderr, /64\/64 .*\n/)
  const next = /npx flexit (edit --resume \S+) --steps 160/.exec(result.stderr)![1]!
  t.is((await flexit([...next.split(' '), '--steps', '65', '--quiet'], { cwd })).code, 0)
})

test.serial('the example of the library runs', async (t) => {
  const cwd = newFolder()
  const result = await run(process.execPath, [join(root, 'examples', 'edit.mjs'), '2'], { cwd })
  t.is(result.code, 0, result.stderr)
  t.regex(result.stdout, /^step 0: similarity to the target 0\.\d+\nwrote/)
})

test.serial('the cache is shown and cleared, and nothing else is', async (t) => {
  const home = newFolder()
  const cache = join(home, 'cache')
  await mkdir(join(cache, 'tensors'), { recursive: true })
  await writeFile(join(cache, 'step-0123.onnx'), 'x'.repeat(1000))
  await writeFile(join(cache, 'tensors', 'abc'), 'x'.repeat(2000))
  const [growing, left] = ['abd.12.tmp', 'abe.34.tmp'].map((name) => join(cache, 'tensors', name)) as [string, string]
  for (const path of [growing, left]) await writeFile(path, 'x'.repeat(1000))
  await utimes(left, 0, 0)
  await writeFile(join(cache, 'mine.txt'), 'mine')
  const env = { FLEXIT_HOME: home }
  t.is((await flexit(['cache'], { env })).stdout, `${cache}\n1 graph, 4.0 kB\n`)
  t.is((await flexit(['cache', 'clear'], { env })).code, 0)
  t.deepEqual(await readdir(cache, { recursive: true }), ['mine.txt', 'tensors', join('tensors', 'abd.12.tmp')])
  t.is((await flexit(['cache'], { env })).stdout, `${cache}\n0 graphs, 0 bytes\n`)
})

test.serial('packs are made, listed and verified', async (t) => {
  const env = { FLEXIT_HOME: newFolder() }
  const made = await flexit(['models', 'synth', 'tiny', '--networks', 'vit', '--quiet'], { env })
  t.deepEqual(made, { code: 0, stdout: '', stderr: '' })
  const file = (name: string) => join(tiny, name)
  const weights = ['--autoencoder', file('autoencoder.safetensors'), '--clip', `mine=${file('clip-vit.safetensors')}`]
  weights.push('--heads', 'mine=4,4', '--licence', 'MIT')
  const rest = [
    '--trunk',
    file('vgg16.safetensors'),
    '--linear',
    file('lpips.safetensors'),
    '--merges',
    file('merges.txt'),
  ]
  const imported = await flexit(['models', 'import', 'mine', '--base', 'tiny', ...weights, ...rest], { env })
  t.is(imported.code, 0, imported.stderr)
  t.regex(imported.stderr, /imported mine into .*mine; use it with --pack mine\n$/)

  const manifest = await readFile(join(env.FLEXIT_HOME, 'packs', 'mine', 'pack.json'), 'utf8')
  const networks = [{ name: 'mine', heads: { image: 4, text: 4 } }]
  t.like(JSON.parse(manifest), { licence: 'MIT', attribution: [], clip: networks })

  const list = await flexit(['models', 'list'], { env })
  t.regex(
    list.stdout,
    /^imagenet \(not downloaded\)\n[^]*\nmine \(ready\)\n[^]*\nsynth-tiny \(ready\)\n[^]*\ntiny \(ready\)\n/,
  )
  t.regex(list.stdout, /get it +npx flexit models pull imagenet/)

  t.notRegex(list.stdout, /^ {2}get it .*(mine|copy)/m)
  const weightsOfMine = join(env.FLEXIT_HOME, 'packs', 'mine', 'autoencoder.safetensors')
  await rename(weightsOfMine, `${weightsOfMine}.away`)
  const incomplete = await flexit(['models', 'list'], { env })
  t.regex(incomplete.stdout, /^mine \(incomplete\)\n[^]*?get it +copy autoencoder\.safetensors into the folder$/m)
  await rename(`${weightsOfMine}.away`, weightsOfMine)

  const whole = await flexit(['models', 'verify', 'mine'], { env })
  t.is(whole.code, 0, whole.stderr)
  for (const file of ['autoencoder', 'clip-mine', 'vgg16', 'lpips']) {
    const bytes = await readFile(join(tiny, `${file.replace('mine', 'vit')}.safetensors`))
    const digest = createHash('sha256').update(bytes).digest('hex')
    t.regex(whole.stdout, new RegExp(`^${file}\\.safetensors +ok, [\\d.]+ [kM]B, sha256 ${digest}$`, 'm'))
  }
  await writeFile(join(env.FLEXIT_HOME, 'packs', 'mine', 'merges.txt'), 'x')
  const broken = await flexit(['models', 'verify', 'mine'], { env })
  t.is(broken.code, 1)
  t.regex(broken.stdout, /^merges\.txt +WRONG: 1 bytes, expected \d+$/m)
  t.regex(broken.stderr, /error: pack mine in .* is not whole: merges\.txt\n/)

  const pulled = await flexit(['models', 'pull', 'tiny'], { env })
  t.regex(pulled.stderr, /tiny is ready in .*models.tiny \(nothing to download\)\n$/)
})

test.serial('what a pack says of itself does not steer the terminal', async (t) => {
  const home = newFolder()
  const folder = join(home, 'packs', 'mine')
  await mkdir(folder, { recursive: true })
  const manifest = JSON.parse(await readFile(join(tiny, 'pack.json'), 'utf8')) as Record<string, unknown>
  const described = { ...manifest, name: 'mine', description: 'gone\x1b[2J\x9b2J' }
  await writeFile(join(folder, 'pack.json'), JSON.stringify(described))
  const { stdout } = await flexit(['models', 'list'], { env: { FLEXIT_HOME: home } })
  t.true(stdout.includes('  gone\uFFFD[2J\uFFFD2J\n'), stdout)
})

test.serial('a plain name is a pack of that name, whatever folder lies here; a path is a folder', async (t) => {
  const cwd = newFolder()
  for (const name of ['tiny', 'other']) {
    await mkdir(join(cwd, name))
    await writeFile(join(cwd, name, 'pack.json'), '{}')
  }
  const pulled = await flexit(['models', 'pull', 'tiny'], { cwd })
  t.regex(pulled.stderr, /tiny is ready in .*models.tiny \(nothing to download\)\n$/)
  const path = await flexit(['models', 'verify', './tiny'], { cwd })
  t.regex(path.stderr, /tiny.pack\.json is not a valid pack manifest/)
  const other = await flexit(['models', 'verify', 'other'], { cwd })
  t.regex(other.stderr, /no pack is called "other"[^]*Write \.\/other for the folder/)
  const made = await flexit(['models', 'synth', 'tiny', '--networks', 'vit', '--to', 'random'], { cwd })
  t.regex(made.stderr, /use it with --pack \.\/random\n$/)
})

test.serial('a pull that is stopped keeps what has arrived, and the next one goes on', async (t) => {
  const file = 'clip-vit.safetensors'
  const bytes = await readFile(join(tiny, file))
  const half = bytes.length / 2
  const ranges: (string | undefined)[] = []
  const server = createServer(({ headers: { range } }, response) => {
    ranges.push(range)
    const from = Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0)
    const left = bytes.length - from
    const partial = from > 0 ? { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` } : {}
    response.writeHead(from > 0 ? 206 : 200, { etag: '"1"', 'content-length': left, ...partial })
    // The first answer never ends: only a stop ends that pull.
    if (ranges.length === 1) response.write(bytes.subarray(0, half))
    else response.end(bytes.subarray(from))
  })
  await listening(server)
  const { port } = server.address() as AddressInfo

  const pack = newFolder()
  const manifest = JSON.parse(await readFile(join(tiny, 'pack.json'), 'utf8')) as { files: Record<string, object> }
  Object.assign(manifest.files[file]!, { sources: [`http://127.0.0.1:${port}/${file}`] })
  await writeFile(join(pack, 'pack.json'), JSON.stringify(manifest))
  for (const name of Object.keys(manifest.files)) if (name !== file) await copyFile(join(tiny, name), join(pack, name))

  const stopped = await flexit(['models', 'pull', pack], {
    onError: (child, stderr) => {
      if (/clip-vit\.safetensors/.test(stderr) && !child.killed) child.kill('SIGINT')
    },
  })
  t.is(stopped.code, 130, stopped.stderr)
  t.regex(stopped.stderr, /stopped: what has arrived is kept\nGive the same command again/)
  t.true((await readdir(pack)).includes(`${file}.part`))

  const resumed = await flexit(['models', 'pull', pack])
  t.is(resumed.code, 0, resumed.stderr)
  t.regex(resumed.stderr, /is ready in .* \(1 file downloaded\)/)
  t.regex(ranges[1] ?? '', /^bytes=[1-9]\d*-$/)
  t.deepEqual(await readFile(join(pack, file)), bytes)
  server.close()
})

function listening(server: Server): Promise<void> {
  return new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
}

test.serial('help, versions and closed pipes', async (t) => {
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string }
  t.deepEqual(await flexit(['--version']), { code: 0, stdout: `${version}\n`, stderr: '' })
  const help = await flexit(['edit', '--help'])
  t.is(help.code, 0)
  for (const word of ['--lambda-p', 'tiny: 64, imagenet: 160', 'Examples:', '--resume'])
    t.true(help.stdout.includes(word))
  const nothing = await flexit([])
  t.is(nothing.code, 2)
  t.regex(nothing.stderr, /^Usage: flexit/)
  const cut = await run('sh', ['-c', '"$0" "$1" models list | head -1', process.execPath, launcher])
  t.deepEqual(cut, { code: 0, stdout: 'imagenet (not downloaded)\n', stderr: '' })
})

test('the library exports what its users need', (t) => {
  const names = [
    'Engine',
    'FlexitError',
    'readPicture',
    'encodePicture',
    'filmstrip',
    'animation',
    'parseDevice',
    'pullPack',
  ]
  for (const name of [...names, 'readEditFile', 'writeEditFile', 'listPacks', 'verifyPack', 'connect', 'WireError'])
    t.true(name in library, name)
})
