// What is wrong with a request is said in one sentence, with a cure, and nothing is written.

import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { copyFile, link, mkdir, open, readFile, readdir, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { readEditFile, writeEditFile } from '../../src/engine/edit-file.js'
import { parseSafetensors, serialiseSafetensors } from '../../src/engine/pack/safetensors.js'
import {
  flexit,
  flexitEach,
  launcher,
  newFolder,
  parseLines,
  quick,
  root,
  run,
  strawberry,
  texts,
  tiny,
} from './support.js'

const edit = (...args: string[]) => ['edit', strawberry, ...texts, ...args]
const importing = (name: string, network: string) => {
  const files = ['--autoencoder', '--trunk', '--linear', '--merges'].flatMap((option) => [option, 'nope'])
  return ['models', 'import', name, '--base', 'tiny', '--clip', `${network}=nope`, ...files]
}

const usage: readonly (readonly [title: string, args: readonly string[], message: RegExp, code?: number])[] = [
  ['no image', ['edit', ...texts], /^error: no picture is named\nName one/],
  ['a missing image', ['edit', 'nope.png', ...texts], /^error: .*nope\.png: no such file or folder\n/m, 1],
  ['an empty image', ['edit', 'empty.png', ...texts], /^error: empty\.png is empty\n/m],
  ['a truncated image', ['edit', 'half.png', ...texts], /^error: .*half\.png: .*damaged or truncated/m],
  ['a text file as image', ['edit', 'text.png', ...texts], /^error: .*text\.png: it looks like text\n/m],
  ['a folder as image', ['edit', '.', ...texts], /^error: .*it is a folder\n/m],
  ['no source', ['edit', strawberry, '--target', 'x'], /^error: the source text is empty\nSay what/m],
  [
    'an empty target',
    ['edit', strawberry, '--source', 'x', '--target', ' '],
    /^error: the target text is empty\nSay what/m,
  ],
  [
    'a text without end',
    ['edit', strawberry, '--source', 'x'.repeat(5000), '--target', 'y'],
    /5000 characters, at most 4000/,
  ],
  ['steps 0', edit('--steps', '0'), /^error: --steps cannot be 0.*\nUse a whole number from 1 to 10000/],
  ['steps beyond all', edit('--steps', '10001'), /^error: --steps cannot be 10001/],
  [
    'steps that are no number',
    edit('--steps', 'many'),
    /'many' is invalid\. It is not a whole number from 1 to 10000\.\nSee `npx flexit edit --help`/,
  ],
  ['a negative seed', edit('--seed', '-1'), /^error: --seed cannot be -1/],
  ['learning rate 0', edit('--learning-rate', '0'), /^error: --learning-rate cannot be 0.*\nUse a number above 0/],
  ['learning rate infinite', edit('--learning-rate', '1e999'), /^error: --learning-rate cannot be/],
  ['a negative lambda-p', edit('--lambda-p', '-0.1'), /^error: --lambda-p cannot be -0\.1/],
  ['a huge lambda-z', edit('--lambda-z', '1001'), /^error: --lambda-z cannot be 1001/],
  ['a negative lambda-s', edit('--lambda-s', '-1'), /^error: --lambda-s cannot be -1/],
  ['a negative lambda-i', edit('--lambda-i', '-1'), /^error: --lambda-i cannot be -1/],
  ['views beyond all', edit('--views', '65'), /^error: --views cannot be 65/],
  ['an unknown preset', edit('--preset', 'best'), /Allowed choices are paper, reference/],
  ['an unknown space', edit('--space', 'time'), /Allowed choices are latent, pixels/],
  ['an unknown network', edit('--networks', 'RN50'), /^error: pack tiny has no network "RN50"\nChoose among rn, vit/],
  ['a network twice', edit('--networks', 'rn,rn'), /rn is named twice: name each once/],
  [
    'a seed of weights that is not whole',
    ['models', 'synth', 'tiny', '--seed', '1.5'],
    /It is not a whole number from 0/,
  ],
  [
    'a pack of pictures that no machine can hold',
    ['models', 'import', 'mine', '--size', '100000'],
    /'100000' is invalid\. It is not a whole number from 16 to 2048/,
  ],
  [
    'a pack with capitals',
    importing('Mine', 'vit'),
    /^error: no pack can be called "Mine"\nUse lower-case letters, digits, dots/,
  ],
  [
    'a network with a blank',
    importing('mine', 'my vit'),
    /^error: no network can be called "my vit"\nUse letters, digits, dots/,
  ],
  [
    'heads of a network that is not given',
    [...importing('mine', 'vit'), '--heads', 'rn=6,4'],
    /^error: there is no --clip called "rn"\nNetworks are vit\./,
  ],
  ['heads of one tower', [...importing('mine', 'vit'), '--heads', 'vit=6'], /Write NAME=IMAGE,TEXT/],
  ['a port beyond all', ['serve', '--port', '70000'], /--port: Use a whole number from 0 to 65535\.$/m],
  ['a port in hexadecimal', ['serve', '--port', '0x10'], /--port: Use a whole number from 0 to 65535\.$/m],
  ['a port with a blank', ['serve', '--port', ' 5'], /--port: Use a whole number from 0 to 65535\.$/m],
  ['no network', edit('--networks', ''), /Separate names with one comma/],
  ['an unknown pack', edit('--pack', 'huge'), /^error: no pack is called "huge"; there are: .*tiny\n/, 1],
  ['a folder that is no pack', edit('--pack', './sub'), /^error: cannot read .*sub\/pack\.json: no such file/, 1],
  [
    'a pack that is not there',
    edit('--pack', 'imagenet'),
    /^error: pack imagenet is not downloaded.*\nRun `npx flexit models pull/,
    1,
  ],
  ['more threads than all', edit('--threads', '1025'), /'1025' is invalid\. It is not a whole number from 1 to 1024\./],
  ['an unknown device', edit('--device', 'gpu'), /^error: there is no device "gpu"\nUse cpu, cuda:0/],
  ['no file to save to', edit('--save-every', '5'), /--save-every means nothing without --latents/],
  ['no save', edit('--save-every', '0'), /It is not a whole number from 1/],
  ['an unknown option', edit('--bogus'), /^error: unknown option '--bogus'\nSee `npx flexit edit --help`/],
  ['two images', edit('other.png'), /^error: too many arguments/],
  ['an unknown command', ['edti'], /^error: unknown command 'edti'\n\(Did you mean edit\?\)\nSee/],
  ['an output of no known format', edit('--out', 'a.gif'), /--out: the name a\.gif does not end in \.png/],
  [
    'an output onto the input',
    ['edit', 'copy.png', ...texts, '--out', './copy.png'],
    /--out and the input are the same file/,
  ],
  [
    'an output onto the input by a link',
    ['edit', 'copy.png', ...texts, '--out', 'link.png'],
    /--out and the input are the same/,
  ],
  [
    'two outputs of one name',
    edit('--out', 'a.png', '--filmstrip', 'sub/../a.png'),
    /--filmstrip and --out are the same file/,
  ],
  ['an output that is a folder', edit('--out', 'folder.png'), /folder\.png: it is a folder/],
  ['an output below a file', edit('--out', 'text.png/a.png'), /text\.png is not a folder/],
  ['a resume file that is not there', ['edit', '--resume', 'nope.safetensors'], /nope\.safetensors: no such file/, 1],
  [
    'a resume file that is a picture',
    ['edit', '--resume', 'copy.png'],
    /copy\.png: not a safetensors file.*\nName a file that/,
    1,
  ],
  [
    'a resume file that is a weight file',
    ['edit', '--resume', join(tiny, 'vgg16.safetensors')],
    /it is not a saved edit/,
    1,
  ],
  [
    'a resume file and an image',
    ['edit', strawberry, '--resume', 'a.safetensors'],
    /an image cannot be given with --resume/,
  ],
  [
    'a resume file and a text',
    ['edit', '--resume', 'a.safetensors', '--target', 'x'],
    /--target cannot be given with --resume/,
  ],
  ['a token without a server', edit('--token', 'x'), /--token means nothing without --server\nName the server/],
  ['an authority without a server', edit('--tls-ca', 'x.pem'), /--tls-ca means nothing without --server/],
  [
    'half of a certificate',
    edit('--server', 'localhost:1', '--tls-cert', 'x.pem'),
    /--tls-cert and --tls-key belong together\nGive both/,
  ],
  [
    'a pack into a folder of other files',
    ['models', 'synth', 'tiny', '--to', '.'],
    /has files that are not of a pack/,
    1,
  ],
  ['a pack to verify that is not there', ['models', 'verify', 'imagenet'], /Run `npx flexit models pull imagenet/, 1],
  ['queries that are not there', ['eval', '--queries', 'nope.csv'], /cannot read nope\.csv: no such file/, 1],
  [
    'queries without a judge',
    ['eval', '--queries', 'text.png'],
    /there is no judge beside text\.png\nName one with --judge/,
  ],
  ['a store that is a file', ['eval', '--store', 'text.png'], /text\.png is not a folder/],
  ['a server at nobody', ['serve', '--host', 'no host'], /the address "no host" is not known here\nUse 127\.0\.0\.1/],
]

test.before('graphs are built where nothing is in the way', async (t) => {
  t.is((await flexit(edit(...quick, '--steps', '1', '--quiet'), { cwd: newFolder() })).code, 0)
})

test.serial('a bad request is refused before any work', async (t) => {
  const cwd = newFolder()
  const png = await readFile(strawberry)
  await writeFile(join(cwd, 'empty.png'), '')
  await writeFile(join(cwd, 'half.png'), png.subarray(0, png.length / 2))
  await writeFile(join(cwd, 'text.png'), 'Dear reader,\n')
  await writeFile(join(cwd, 'copy.png'), png)
  await symlink('copy.png', join(cwd, 'link.png'))
  await mkdir(join(cwd, 'sub'))
  await mkdir(join(cwd, 'folder.png'))
  const before = (await readdir(cwd, { recursive: true })).sort()
  const requests = usage.map(([, args]) => args)
  for (const [i, result] of (await flexitEach(requests, cwd)).entries()) {
    const [title, , message, code = 2] = usage[i]!
    t.is(result.code, code, `${title}: ${result.stderr}`)
    t.regex(result.stderr, message, title)
    t.notRegex(result.stderr, /^ +at /m, title)
    t.is(result.stdout, '', title)
  }
  t.deepEqual((await readdir(cwd, { recursive: true })).sort(), before)
  t.deepEqual(await readFile(join(cwd, 'copy.png')), png)
})

test.serial('with --json an error is one line of JSON', async (t) => {
  const result = await flexit(edit('--steps', '0', '--json'), { cwd: newFolder() })
  t.is(result.code, 2)
  const [{ error }] = parseLines(result.stderr) as [{ error: unknown }]
  t.like(error, { code: 'INVALID_ARGUMENT', field: 'steps', cure: 'Use a whole number from 1 to 10000.' })
})

test.serial('a device that is not there is an error, not another device', async (t) => {
  if (existsSync('/dev/nvidia0')) {
    t.log('skipped: this machine has such a device')
    t.pass()
    return
  }
  const cwd = newFolder()
  const result = await flexit(edit(...quick, '--device', 'cuda:0', '--steps', '1'), { cwd })
  t.is(result.code, 1)
  t.regex(result.stderr, /error: the device cuda:0 cannot be used here: .*\n.*--device cpu/)
  t.deepEqual(await readdir(cwd), [])
})

/** A copy of the embedded pack; `unlocked`, its manifest states no sizes and hashes. */
async function copyPack({ unlocked = false } = {}): Promise<string> {
  const folder = join(newFolder(), 'pack')
  await mkdir(folder)
  for (const file of await readdir(tiny)) {
    if (file.includes('.') && file !== 'pack.json') await copyFile(join(tiny, file), join(folder, file))
  }
  const manifest = JSON.parse(await readFile(join(tiny, 'pack.json'), 'utf8')) as { files: Record<string, object> }
  if (unlocked) for (const file of Object.keys(manifest.files)) manifest.files[file] = {}
  // Another digest than the embedded pack's, so that no graph in the cache was built of it.
  await writeFile(join(folder, 'pack.json'), JSON.stringify({ ...manifest, name: randomUUID() }))
  return folder
}

test.serial('an altered weight file is named', async (t) => {
  const pack = await copyPack()
  const file = await open(join(pack, 'clip-vit.safetensors'), 'r+')
  await file.write(new Uint8Array([0x55]), 0, 1, 2_000_000)
  await file.close()
  const result = await flexit(edit(...quick, '--pack', pack), { cwd: newFolder() })
  t.is(result.code, 1)
  t.regex(result.stderr, /error: .*clip-vit\.safetensors was altered: its sha256 is/)
})

test.serial('a truncated weight file is named', async (t) => {
  const pack = await copyPack()
  await truncate(join(pack, 'vgg16.safetensors'), 1_000_000)
  const result = await flexit(edit(...quick, '--pack', pack), { cwd: newFolder() })
  t.is(result.code, 1)
  t.regex(result.stderr, /error: .*vgg16\.safetensors has 1000000 bytes, expected 1474936: it is truncated/)
})

/** Rewrite a weight file of a pack with one tensor changed; undefined leaves it out. */
async function changeTensor(path: string, name: string, shape: readonly number[] | undefined): Promise<void> {
  const file = parseSafetensors(await readFile(path), path)
  const tensors = [...file.tensors].map(([key, { dtype, shape }]) => ({ name: key, dtype, shape, data: file.raw(key) }))
  const changed = tensors.flatMap((tensor) => (tensor.name !== name ? [tensor] : shape ? [{ ...tensor, shape }] : []))
  await writeFile(path, Buffer.concat(serialiseSafetensors(changed)))
}

test.serial('a missing tensor is named', async (t) => {
  const pack = await copyPack({ unlocked: true })
  await changeTensor(join(pack, 'autoencoder.safetensors'), 'decoder.conv_in.weight', undefined)
  const result = await flexit(edit(...quick, '--pack', pack, '--steps', '1'), { cwd: newFolder() })
  t.is(result.code, 1)
  t.regex(result.stderr, /error: .*autoencoder\.safetensors.*"?decoder\.conv_in\.weight/)
})

test.serial('a tensor of another shape is named', async (t) => {
  const pack = await copyPack({ unlocked: true })
  const path = join(pack, 'autoencoder.safetensors')
  const { shape } = parseSafetensors(await readFile(path), path).tensors.get('decoder.conv_out.weight')!
  await changeTensor(path, 'decoder.conv_out.weight', shape.toReversed())
  const result = await flexit(edit(...quick, '--pack', pack, '--steps', '1'), { cwd: newFolder() })
  t.is(result.code, 1)
  t.regex(
    result.stderr,
    /error: .*autoencoder\.safetensors.*"decoder\.conv_out\.weight" has shape \[3, 3, 16, 3\], expected/,
  )
})

test.serial('a saved edit that does not fit is refused', async (t) => {
  const cwd = newFolder()
  const saving = ['--steps', '1', '--quiet', '--latents', 'good.safetensors']
  t.is((await flexit(edit(...quick, ...saving), { cwd })).code, 0)
  const resume = (...args: string[]) => flexit(['edit', '--resume', ...args], { cwd })

  const other = await resume('good.safetensors', '--pack', await copyPack())
  t.is(other.code, 2)
  t.regex(other.stderr, /belongs to another pack/)
  const fewer = await resume('good.safetensors', '--steps', '0')
  t.is(fewer.code, 2)
  const space = await resume('good.safetensors', '--space', 'pixels')
  t.is(space.code, 2)
  t.regex(space.stderr, /--space cannot be given with --resume/)

  const saved = readEditFile(join(cwd, 'good.safetensors'))
  const z = new Float32Array(32 * 4 * 4)
  await writeEditFile(join(cwd, 'shape.safetensors'), { ...saved, state: { ...saved.state, z } }, [32, 4, 4])
  const shape = await resume('shape.safetensors')
  t.is(shape.code, 2)
  t.regex(shape.stderr, /the saved latent is 32 × 4 × 4, expected 32 × 8 × 8/)

  await copyFile(join(cwd, 'good.safetensors'), join(cwd, 'half.safetensors'))
  await truncate(join(cwd, 'half.safetensors'), 12_000)
  const half = await resume('half.safetensors')
  t.is(half.code, 1)
  t.regex(half.stderr, /half\.safetensors: the file is truncated.*\nName a file/)
})

test.serial('outputs that cannot be written leave what was there', async (t) => {
  const cwd = newFolder()
  await writeFile(join(cwd, 'out.png'), 'old')
  await link(join(cwd, 'out.png'), join(cwd, 'witness.png'))
  // A limit on the size of files stands for a full disk: the same write fails.
  const args = edit(...quick, '--steps', '1', '--quiet', '--out', 'out.png')
  const limited = await run('bash', ['-c', 'ulimit -f 1; exec "$0" "$@"', process.execPath, launcher, ...args], { cwd })
  t.is(limited.code, 1, limited.stderr)
  t.regex(limited.stderr, /error: cannot write out\.png: /)
  t.is(await readFile(join(cwd, 'out.png'), 'utf8'), 'old')
  t.deepEqual((await readdir(cwd)).sort(), ['out.png', 'witness.png'])
})

test.serial('a full disk is told as such', async (t) => {
  const cwd = newFolder()
  await mkdir(join(cwd, 'disk'))
  const script = 'mount -t tmpfs -o size=4k none disk || exit 99; exec "$0" "$@"'
  const args = edit(...quick, '--steps', '1', '--quiet', '--out', 'disk/out.png')
  const full = await run('unshare', ['-rm', 'sh', '-c', script, process.execPath, launcher, ...args], { cwd }).catch(
    () => ({
      code: 99,
      stderr: '',
    }),
  )
  if (full.code === 99 || /unshare|Operation not permitted/.test(full.stderr)) {
    t.log('skipped: no file system can be mounted here')
    t.pass()
    return
  }
  t.is(full.code, 1)
  const saved =
    /cannot write disk\/out\.png: no space left on the device; the edit is saved in out\.safetensors\nFree some/
  t.regex(full.stderr, saved)
  t.deepEqual((await readdir(cwd)).sort(), ['disk', 'out.safetensors'])
})

test.serial('a launcher without a build says what to do', async (t) => {
  const folder = newFolder()
  await mkdir(join(folder, 'bin'))
  await copyFile(join(root, 'bin', 'flexit.js'), join(folder, 'bin', 'flexit.js'))
  await writeFile(join(folder, 'package.json'), '{ "type": "module" }')
  const result = await run(process.execPath, [join(folder, 'bin', 'flexit.js'), '--version'])
  t.is(result.code, 1)
  t.regex(result.stderr, /not built yet\n.*npm run build/)
})
