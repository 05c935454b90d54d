// Tests of pulling and checking packs, and of finding them by name or path, with a local server and a home of their own.
// FLEXIT_HOME and the XDG variables are set before anything is asked for; a test that changes them is serial.

import test, { type ExecutionContext } from 'ava'
import { spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { FlexitError } from '../../../src/engine/errors.js'
import type { Progress } from '../../../src/engine/pack/download.js'
import {
  cacheFolder,
  listPacks,
  packsFolder,
  requirePack,
  resolvePack,
  shippedFolder,
} from '../../../src/engine/pack/locations.js'
import { parseManifest, readManifest, requiredFiles } from '../../../src/engine/pack/manifest.js'
import { pullPack, verifyPack } from '../../../src/engine/pack/pull.js'

const temporary = await mkdtemp(join(tmpdir(), 'flexit-pull-'))
const home = join(temporary, 'home')
process.env['FLEXIT_HOME'] = home
test.after.always(() => rm(temporary, { recursive: true, force: true }))

const names = ['vqgan.bin', 'rn.bin', 'vit.bin', 'vgg.bin', 'lpips.bin', 'merges.txt']
const required = names.filter((name) => name !== 'vit.bin')
const contents = new Map<string, Buffer>(names.map((name) => [name, randomBytes(2000 + name.length)]))
const hash = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
const hashOf = (name: string) => hash(contents.get(name)!)

async function serve(t: ExecutionContext) {
  const requests: string[] = []
  const broken = new Set<string>()
  const served = new Map(contents)
  const server = createServer((request, response) => {
    const name = (request.url ?? '').slice(1)
    requests.push(name)
    const body = broken.has(name) ? undefined : served.get(name)
    if (body) response.end(body)
    else response.writeHead(404).end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests, broken, served }
}

type Entry = Record<string, unknown>

/** What a manifest says of a file: where it is, and how its sha256 begins, so that random bytes are right. */
const at =
  (url: string) =>
  (name: string): Entry => ({ sources: [`${url}/${name}`], sha256Prefix: hashOf(name).slice(0, 8) })

/** The folder of a new pack that has only its manifest. */
async function makePack(files: (name: string) => Entry, folder?: string): Promise<string> {
  folder ??= await mkdtemp(join(temporary, 'pack-'))
  const manifest = {
    format: 1,
    name: 'synthetic',
    description: 'random bytes',
    licence: 'none',
    image: { size: 64 },
    autoencoder: { weights: 'vqgan.bin' },
    clip: [
      { name: 'rn', weights: 'rn.bin' },
      { name: 'vit', weights: 'vit.bin', optional: true },
    ],
    perceptual: { trunk: 'vgg16', weights: 'vgg.bin', linear: 'lpips.bin' },
    tokenizer: { merges: 'merges.txt', vocabularySize: 600 },
    files: Object.fromEntries(names.map((name) => [name, files(name)])),
  }
  parseManifest(JSON.stringify(manifest), 'the test')
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'pack.json'), JSON.stringify(manifest))
  return folder
}

const newFolder = async () => join(await mkdtemp(join(temporary, 'to-')), 'pack')
const fails = (t: ExecutionContext, promise: Promise<unknown>) =>
  t.throwsAsync<FlexitError>(promise, { instanceOf: FlexitError })

test('a pull fetches what is needed and records what it found', async (t) => {
  const { url, requests } = await serve(t)
  const pack = await makePack(at(url))
  const to = await newFolder()
  const seen: Progress[] = []
  const pulled = await pullPack(pack, { to, retryDelayMs: 1, onProgress: (progress) => void seen.push(progress) })
  t.is(pulled.folder, to)
  t.deepEqual(pulled.downloaded, required)
  t.deepEqual((await readdir(to)).sort(), [...required, 'pack.json'].sort())
  const manifest = await readManifest(to)
  t.deepEqual(manifest, pulled.manifest)
  for (const name of required) {
    t.deepEqual(await readFile(join(to, name)), contents.get(name))
    const entry = { ...at(url)(name), bytes: contents.get(name)!.length, sha256: hashOf(name) }
    t.deepEqual(manifest.files[name], entry)
  }
  t.deepEqual(manifest.files['vit.bin'], at(url)('vit.bin'))
  t.deepEqual([...new Set(seen.map(({ file }) => file))], required)

  t.deepEqual((await pullPack(pack, { to })).downloaded, [], 'a second pull has nothing to do')
  t.deepEqual((await pullPack(to, { networks: ['vit'], retryDelayMs: 1 })).downloaded, ['vit.bin'])
  t.deepEqual(requests, [...required, 'vit.bin'])
})

test('a pull that fails leaves no pack.json, and the next one goes on', async (t) => {
  const { url, requests, broken } = await serve(t)
  const pack = await makePack(at(url))
  const to = await newFolder()
  broken.add('vgg.bin')
  const error = await fails(t, pullPack(pack, { to }))
  t.is(error.code, 'NOT_FOUND')
  t.regex(error.message, /vgg\.bin/)
  t.deepEqual((await readdir(to)).sort(), ['rn.bin', 'vqgan.bin'])
  broken.clear()
  t.deepEqual((await pullPack(pack, { to })).downloaded, ['vgg.bin', 'lpips.bin', 'merges.txt'])
  t.is(requests.filter((name) => name === 'vqgan.bin').length, 1)
})

test('files that are wrong are fetched again; files laid there by hand are kept', async (t) => {
  const { url, requests } = await serve(t)
  const pack = await makePack((name) => ({ sources: [`${url}/${name}`], sha256: hashOf(name) }))
  for (const name of ['vqgan.bin', 'rn.bin', 'lpips.bin']) await writeFile(join(pack, name), contents.get(name)!)
  await writeFile(join(pack, 'rn.bin'), randomBytes(contents.get('rn.bin')!.length))
  await pullPack(pack)
  t.deepEqual(requests, ['rn.bin', 'vgg.bin', 'merges.txt'])
  t.true((await verifyPack(pack)).every(({ state, required }) => state === (required ? 'ok' : 'missing')))
})

test('bytes that are not what the manifest says are refused', async (t) => {
  const { url } = await serve(t)
  const pack = await makePack((name) => ({ sources: [`${url}/${name}`], sha256Prefix: 'deadbeef' }))
  const to = await newFolder()
  t.is((await fails(t, pullPack(pack, { to }))).code, 'DATA_LOSS')
  t.false(existsSync(to), 'an empty folder is left')
})

/** A pack whose manifest states no sha256, with the shipped pack's files at `url`. */
async function makeUnstated(url: string): Promise<string> {
  const folder = await mkdtemp(join(temporary, 'unstated-'))
  const shipped = await readManifest(join(shippedFolder, 'tiny'))
  const files = Object.fromEntries(Object.keys(shipped.files).map((name) => [name, { sources: [`${url}/${name}`] }]))
  await writeFile(join(folder, 'pack.json'), JSON.stringify({ ...shipped, files }))
  return folder
}

test('a file whose sha256 nobody has stated must be what the pack takes it for', async (t) => {
  const { url, served } = await serve(t)
  const shipped = join(shippedFolder, 'tiny')
  const { files } = await readManifest(shipped)
  for (const name of Object.keys(files)) served.set(name, await readFile(join(shipped, name)))
  const good = new Map(served)
  const pack = await makeUnstated(url)
  const wrong: readonly (readonly [name: string, bytes: Buffer, message: RegExp])[] = [
    ['autoencoder.safetensors', Buffer.from('<!DOCTYPE html><title>Sign in</title>'), /this is a web page/],
    ['clip-vit.safetensors', good.get('vgg16.safetensors')!, /"text_projection" is missing/],
    ['vgg16.safetensors', good.get('lpips.safetensors')!, /"features\.0\.weight" is missing/],
    ['lpips.safetensors', good.get('vgg16.safetensors')!, /"lin0\.model\.1\.weight" .* is missing/],
    ['merges.txt', Buffer.from('#version\na b\n'), /1 merges/],
  ]
  for (const [name, bytes, message] of wrong) {
    served.set(name, bytes)
    const error = await fails(t, pullPack(pack))
    t.is(error.code, 'DATA_LOSS')
    t.regex(error.message, message)
    t.true(error.message.includes(join(pack, name)))
    t.false(existsSync(join(pack, name)), 'what was fetched is fetched again')
    t.deepEqual((await readManifest(pack)).files[name], { sources: [`${url}/${name}`] })
    served.set(name, good.get(name)!)
  }
  await writeFile(join(pack, 'merges.txt'), 'laid here by hand')
  t.is((await fails(t, pullPack(pack))).code, 'DATA_LOSS')
  t.is(await readFile(join(pack, 'merges.txt'), 'utf8'), 'laid here by hand')
  await rm(join(pack, 'merges.txt'))
  const { manifest } = await pullPack(pack)
  for (const [name, entry] of Object.entries(files)) t.is(manifest.files[name]?.sha256, entry.sha256)

  await rm(join(pack, 'merges.txt'))
  served.set('merges.txt', Buffer.concat([good.get('merges.txt')!, Buffer.from('\n')]))
  const later = await fails(t, pullPack(pack))
  t.is(later.code, 'DATA_LOSS')
  t.true(later.cure!.includes(`delete bytes and sha256 of merges.txt from ${join(pack, 'pack.json')}`))
})

test('a pull replaces no other pack, and goes into no folder of something else', async (t) => {
  const { url, requests } = await serve(t)
  const pack = await makePack(at(url))
  const other = await makePack(() => ({}))
  const manifest = (await readFile(join(other, 'pack.json'), 'utf8')).replace('"synthetic"', '"other"')
  await writeFile(join(other, 'pack.json'), manifest)
  const error = await fails(t, pullPack(pack, { to: other }))
  t.is(error.code, 'FAILED_PRECONDITION')
  t.true(error.message.includes(other))
  t.is(await readFile(join(other, 'pack.json'), 'utf8'), manifest)
  const full = await mkdtemp(join(temporary, 'full-'))
  await writeFile(join(full, 'letter.txt'), 'x')
  t.regex((await fails(t, pullPack(pack, { to: full }))).message, /"letter\.txt"/)
  t.deepEqual(requests, [])
  await rm(join(full, 'letter.txt'))
  for (const name of ['vit.bin', 'rn.bin.part', 'rn.bin.part.json']) await writeFile(join(full, name), '{}')
  await t.notThrowsAsync(pullPack(pack, { to: full }), 'what an earlier pull has left')
})

test('a place that cannot be a folder is told as such', async (t) => {
  const { url } = await serve(t)
  const pack = await makePack(at(url))
  for (const to of [join(pack, 'pack.json'), join(pack, 'pack.json', 'inside')]) {
    const error = await fails(t, pullPack(pack, { to }))
    t.is(error.code, 'INVALID_ARGUMENT')
    t.regex(error.message, /not a folder/)
  }
})

test('a file without a source is asked for by name and folder', async (t) => {
  const pack = await makePack(() => ({}))
  const error = await fails(t, pullPack(pack))
  t.is(error.code, 'FAILED_PRECONDITION')
  t.regex(error.message, /synthetic names no source for vqgan\.bin/)
  t.true(error.cure!.includes(pack))
})

test('no pull for a network that the pack does not have', async (t) => {
  const pack = await makePack(() => ({}))
  const error = await fails(t, pullPack(pack, { networks: ['rn', 'nosuch'] }))
  t.deepEqual([error.code, error.field], ['INVALID_ARGUMENT', 'networks'])
  t.regex(error.cure!, /rn, vit/)
})

test('a pull that is stopped says so, and gives the folder free', async (t) => {
  const { url } = await serve(t)
  const pack = await makePack(at(url))
  const to = await newFolder()
  const controller = new AbortController()
  const onProgress = ({ file }: Progress) => {
    if (file === 'rn.bin') controller.abort()
  }
  t.is((await fails(t, pullPack(pack, { to, onProgress, signal: controller.signal }))).code, 'CANCELLED')
  t.false(existsSync(join(to, 'pack.json')))
  // Stopped while it checks a file that is there, too.
  t.is((await fails(t, pullPack(pack, { to, signal: AbortSignal.abort() }))).code, 'CANCELLED')
  await pullPack(pack, { to })
  t.true(existsSync(join(to, 'pack.json')))
})

test('two pulls in one process do not meet', async (t) => {
  const { url } = await serve(t)
  const pack = await makePack(at(url))
  const [first, second] = await Promise.allSettled([pullPack(pack), pullPack(pack)])
  const results = [first, second].sort((a, b) => a.status.localeCompare(b.status))
  t.deepEqual(
    results.map(({ status }) => status),
    ['fulfilled', 'rejected'],
  )
  const reason: unknown = (results[1] as PromiseRejectedResult).reason
  t.true(reason instanceof FlexitError && reason.code === 'FAILED_PRECONDITION')
  t.regex(String(reason), /another pull/)
})

test('the lock of a process that lives is respected, that of one that is gone is not', async (t) => {
  const { url } = await serve(t)
  const pack = await makePack(at(url))
  const living = join(pack, `.pull-${process.ppid}.lock`)
  await writeFile(living, '')
  const error = await fails(t, pullPack(pack))
  t.is(error.code, 'FAILED_PRECONDITION')
  t.true(error.message.includes(`process ${process.ppid}`))
  t.true(error.cure!.includes(living))
  t.true(existsSync(living))
  await rm(living)
  const gone = spawnSync(process.execPath, ['--version']).pid
  await writeFile(join(pack, `.pull-${gone}.lock`), '')
  await writeFile(join(pack, `.pull-${process.pid}.lock`), '')
  await pullPack(pack)
  t.deepEqual(
    (await readdir(pack)).filter((name) => name.endsWith('.lock')),
    [],
  )
})

test('each listed file is checked: present, size, sha256', async (t) => {
  const entries: Record<string, Entry> = {
    'vqgan.bin': { bytes: 2009, sha256: hashOf('vqgan.bin') },
    'rn.bin': { bytes: 3 },
    'vgg.bin': { sha256Prefix: '00000000' },
    'lpips.bin': { sha256Prefix: hashOf('lpips.bin').slice(0, 8) },
  }
  const pack = await makePack((name) => entries[name] ?? {})
  for (const name of required) await writeFile(join(pack, name), contents.get(name)!)
  const seen: Progress[] = []
  const reports = await verifyPack(pack, (progress) => void seen.push(progress))
  t.deepEqual(
    reports.map(({ file, state, required }) => [file, state, required]),
    [
      ['vqgan.bin', 'ok', true],
      ['rn.bin', 'wrong', true],
      ['vit.bin', 'missing', false],
      ['vgg.bin', 'wrong', true],
      ['lpips.bin', 'ok', true],
      ['merges.txt', 'unlocked', true],
    ],
  )
  t.is(reports[0]!.sha256, hashOf('vqgan.bin'))
  t.is(reports[1]!.problem, '2006 bytes, expected 3')
  t.is(reports[3]!.problem, `sha256 ${hashOf('vgg.bin')}, expected 00000000`)
  t.deepEqual(seen[0], { file: 'vqgan.bin', receivedBytes: 2009, totalBytes: 2009 })
  t.is((await fails(t, verifyPack(join(pack, 'nowhere')))).code, 'NOT_FOUND')
})

test('the pack that ships is ready, and pulling it does nothing', async (t) => {
  const { folder, missing, manifest } = await requirePack('tiny')
  t.is(folder, join(shippedFolder, 'tiny'))
  t.deepEqual(missing, [])
  const pulled = await pullPack('tiny')
  t.deepEqual([pulled.folder, pulled.downloaded], [folder, []])
  t.deepEqual(pulled.manifest, manifest)
  t.false(existsSync(join(home, 'packs', 'tiny')))
  t.true((await verifyPack(folder)).every(({ state }) => state === 'ok'))
})

test('a pack by its path', async (t) => {
  const pack = await makePack(() => ({ bytes: 400_000_000 }))
  t.deepEqual((await resolvePack(pack)).missing, required)
  const absent = await fails(t, requirePack(pack))
  t.is(absent.code, 'FAILED_PRECONDITION')
  t.is(absent.message, 'pack synthetic is not downloaded (5 files, 2.0 GB missing)')
  t.is(absent.cure, `Copy ${required.join(', ')} into ${pack}.`)
  for (const name of required) await writeFile(join(pack, name), contents.get(name)!)
  t.deepEqual((await requirePack(pack)).missing, [])
  const optional = await fails(t, requirePack(pack, ['rn', 'vit']))
  t.is(optional.message, 'pack synthetic is incomplete (1 file, 400 MB missing)')
  t.is((await fails(t, resolvePack(join(pack, 'nowhere')))).code, 'NOT_FOUND')
})

test('a pack by its name: installed, then pulled in place', async (t) => {
  const { url } = await serve(t)
  const folder = await makePack(at(url), join(home, 'packs', 'named'))
  const absent = await fails(t, requirePack('named', ['vit']))
  t.is(absent.message, 'pack synthetic is not downloaded (5 files missing)')
  t.is(absent.cure, 'Run `npx flexit models pull named --networks vit`.')
  await pullPack('named')
  t.is((await requirePack('named')).folder, folder)
})

test('files of a pack that ships, laid there by hand, want a pull that checks them', async (t) => {
  const at = join(home, 'packs', 'imagenet')
  await mkdir(at, { recursive: true })
  const { manifest } = await resolvePack('imagenet')
  for (const name of requiredFiles(manifest)) await writeFile(join(at, name), 'x')
  const error = await fails(t, requirePack('imagenet'))
  t.is(error.message, 'pack imagenet is incomplete (its pack.json is missing)')
  t.is(error.cure, 'Run `npx flexit models pull imagenet`: it checks the files that are there.')
  t.is((await listPacks()).find(({ name }) => name === 'imagenet')?.state, 'incomplete')
  await rm(at, { recursive: true })
})

test('names that are none', async (t) => {
  for (const name of ['nosuch', '...', '', '.hidden', 'a b', 'tiny\0']) {
    const error = await fails(t, resolvePack(name))
    t.is(error.code, 'NOT_FOUND', name)
    t.regex(error.message, /there are: .*tiny/)
    t.is((await fails(t, pullPack(name))).code, 'NOT_FOUND', name)
  }
  t.false(existsSync(join(home, 'packs', 'nosuch')))
})

test('every pack is listed with its state, a broken one too', async (t) => {
  const packs = join(home, 'packs')
  await makePack(() => ({}), join(packs, 'list-empty'))
  const half = await makePack(() => ({}), join(packs, 'list-half'))
  await writeFile(join(half, 'rn.bin'), 'x')
  await mkdir(join(packs, 'list-broken'), { recursive: true })
  await writeFile(join(packs, 'list-broken', 'pack.json'), '{ garbage')
  await mkdir(join(packs, 'list-nothing'), { recursive: true })
  await makePack(() => ({}), join(packs, '.hidden'))
  const listed = (await listPacks()).filter(({ name }) => /^(list-|tiny|\.)/.test(name))
  t.deepEqual(
    listed.map(({ name, state, missing }) => [name, state, missing.length]),
    [
      ['list-broken', 'broken', 0],
      ['list-empty', 'not downloaded', 5],
      ['list-half', 'incomplete', 4],
      ['tiny', 'ready', 0],
    ],
  )
  t.regex(listed[0]!.problem!, /list-broken.*not a valid pack manifest/)
})

test.serial('an installed pack whose folder is a file is told as such', async (t) => {
  await mkdir(packsFolder(), { recursive: true })
  const file = join(packsFolder(), 'imagenet')
  await writeFile(file, '')
  const error = await fails(t, pullPack('imagenet'))
  await rm(file)
  t.is(error.code, 'INVALID_ARGUMENT')
  t.regex(error.message, /not a folder/)
})

test.serial('FLEXIT_HOME stands above the XDG folders, whose relative paths are ignored', (t) => {
  const saved = { ...process.env }
  try {
    t.deepEqual([packsFolder(), cacheFolder()], [join(home, 'packs'), join(home, 'cache')])
    delete process.env['FLEXIT_HOME']
    Object.assign(process.env, { XDG_DATA_HOME: '/data', XDG_CACHE_HOME: '/cache' })
    t.deepEqual([packsFolder(), cacheFolder()], ['/data/flexit/packs', '/cache/flexit'])
    Object.assign(process.env, { XDG_DATA_HOME: 'data', XDG_CACHE_HOME: '' })
    t.is(packsFolder(), join(homedir(), '.local/share/flexit/packs'))
    t.is(cacheFolder(), join(homedir(), '.cache/flexit'))
  } finally {
    Object.assign(process.env, saved)
  }
})
