// What a pack is told apart by, and what of it is looked at before anything uses it.
// The format of manifests is that of src/engine/pack/manifest.ts.

import { cp, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { FlexitError } from '../../../src/engine/errors.js'
import type { Manifest } from '../../../src/engine/pack/manifest.js'
import { Pack } from '../../../src/engine/pack/pack.js'
import type { TensorData } from '../../../src/engine/pack/safetensors.js'
import { tinyPack } from '../../support/edits.js'
import { altered, zeros } from './altered.js'

let folder: string

test.beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'flexit-pack-'))
  await cp(tinyPack, folder, { recursive: true })
})

test.afterEach.always(() => rm(folder, { recursive: true }))

/** Changes one byte, and no size. */
async function alter(file: string): Promise<void> {
  const bytes = await readFile(join(folder, file))
  bytes[bytes.length - 2]! ^= 1
  await writeFile(join(folder, file), bytes)
}

async function changeManifest(change: (manifest: Manifest) => void): Promise<void> {
  const path = join(folder, 'pack.json')
  const manifest = JSON.parse(await readFile(path, 'utf8')) as Manifest
  change(manifest)
  await writeFile(path, JSON.stringify(manifest))
}

async function digest(): Promise<string> {
  const pack = await Pack.open(folder)
  pack.close()
  return pack.digest
}

test.serial('merges that were altered are refused at once', async (t) => {
  await alter('merges.txt')
  const error = await t.throwsAsync(Pack.open(folder), { instanceOf: FlexitError, code: 'DATA_LOSS' })
  t.regex(error.message, /merges\.txt was altered/)
})

test.serial('a pack whose manifest has no sha256 is told apart by its files all the same', async (t) => {
  const shipped = await digest()
  await changeManifest(({ files }) => {
    for (const name of Object.keys(files)) files[name] = {}
  })
  t.is(await digest(), shipped)
  await alter('autoencoder.safetensors')
  t.not(await digest(), shipped)
})

const irrelevant: Readonly<Record<string, (manifest: Manifest) => void>> = {
  'the description': (manifest) => (manifest.description += ' '),
  'the licence': (manifest) => (manifest.licence = 'MIT'),
  'where a file comes from': ({ files }) => (files['merges.txt']!.sources = ['https://mirror.example/merges.txt']),
  'what an edit has that names nothing': ({ defaults }) => (defaults.steps = 5),
  'whether a network is usual': ({ clip }) => (clip[0]!.optional = true),
}

const relevant: Readonly<Record<string, (manifest: Manifest) => void>> = {
  'the name': (manifest) => (manifest.name = 'other'),
  'what transparent pictures are laid on': ({ image }) => (image.background = 'black'),
  'the groups of its norms': ({ autoencoder }) => (autoencoder.normGroups /= 2),
  'the order of the networks': ({ clip }) => clip.reverse(),
  'the name of a network': ({ clip }) => (clip[0]!.name = 'other'),
  'the mean of a network': ({ clip }) => (clip[0]!.mean = [0.4, 0.5, 0.5]),
  'the deviation of a network': ({ clip }) => (clip[0]!.std = [0.5, 0.5, 0.5]),
  'the heads of a network': ({ clip }) => (clip.find(({ name }) => name === 'vit')!.heads = { image: 1, text: 1 }),
  'the shift of LPIPS': ({ perceptual }) => (perceptual.shift = [0.1, 0, 0]),
  'the scale of LPIPS': ({ perceptual }) => (perceptual.scale = [1, 1, 1]),
  'what a view shows beyond the border': ({ views }) => {
    views.padding = views.padding === 'zeros' ? 'reflect' : 'zeros'
  },
  'the contents of a file': ({ files }) => (files['vgg16.safetensors']!.sha256 = '0'.repeat(64)),
}

test.serial('edits of a pack go on with any that gives the same numbers, and with no other', async (t) => {
  const path = join(folder, 'pack.json')
  const before = await readFile(path)
  const shipped = await digest()
  for (const [changes, digests] of [
    [irrelevant, 1],
    [relevant, 2],
  ] as const) {
    for (const [what, change] of Object.entries(changes)) {
      await changeManifest(change)
      t.is(new Set([shipped, await digest()]).size, digests, what)
      await writeFile(path, before)
    }
  }
})

test.serial('what is compared is the file that the weights are read from, whatever replaces it', async (t) => {
  const file = join(folder, 'autoencoder.safetensors')
  const whole = await readFile(file)
  const replace = async (bytes: Uint8Array) => {
    await writeFile(`${file}.new`, bytes)
    await rename(`${file}.new`, file)
  }
  const good = await Pack.open(folder)
  await replace(whole.map((byte, i) => (i === whole.length - 2 ? byte ^ 1 : byte)))
  const altered = await Pack.open(folder)
  await replace(whole)
  try {
    await t.notThrowsAsync(good.verify(['vit']))
    await t.throwsAsync(altered.verify(['vit']), { code: 'DATA_LOSS', message: /autoencoder\.safetensors was altered/ })
  } finally {
    good.close()
    altered.close()
  }
})

test.serial('a file that was altered and is mended in its place is looked at again', async (t) => {
  await alter('vgg16.safetensors')
  const pack = await Pack.open(folder)
  try {
    for (let i = 0; i < 2; i++) await t.throwsAsync(pack.verify([]), { code: 'DATA_LOSS', message: /vgg16/ })
    await alter('vgg16.safetensors')
    await t.notThrowsAsync(pack.verify([]))
  } finally {
    pack.close()
  }
})

const misfits: readonly (readonly [title: string, change: (manifest: Manifest) => void, message: RegExp])[] = [
  ['image heads', ({ clip }) => (clip[0]!.heads = { image: 5, text: 4 }), /not divisible by 5 and 4 heads/],
  ['text heads', ({ clip }) => (clip[1]!.heads = { image: 4, text: 3 }), /not divisible by 4 and 3 heads/],
  ['groups', ({ autoencoder }) => (autoencoder.normGroups = 7), /7 groups do not divide/],
  ['a size that cannot be halved', ({ image }) => (image.size = 60), /60 pixels cannot be halved/],
  ['a size too small for LPIPS', ({ image }) => (image.size = 8), /8 pixels is smaller than the 16 of vgg16/],
]

for (const [title, change, message] of misfits) {
  test.serial(`a manifest that does not fit its networks is refused: ${title}`, async (t) => {
    await changeManifest(change)
    const error = await t.throwsAsync(Pack.open(folder), { instanceOf: FlexitError, code: 'DATA_LOSS', message })
    t.true(error.message.startsWith(join(folder, 'pack.json')))
    t.regex(error.cure!, /models import/)
  })
}

const without = (pattern: RegExp) => (tensors: Map<string, TensorData>) => {
  for (const name of [...tensors.keys()]) if (pattern.test(name)) tensors.delete(name)
}

const lacking: readonly (readonly [
  file: string,
  change: (tensors: Map<string, TensorData>) => void,
  message: RegExp,
])[] = [
  ['clip-vit', without(/^visual\.transformer\.resblocks\.1\./), /"visual\.transformer\.resblocks\.1\..* is missing/],
  ['clip-vit', without(/^transformer\./), /no tensor "transformer\.resblocks\.0\.…"/],
  ['clip-vit', (tensors) => tensors.set('visual.proj', zeros('visual.proj', [128, 64])), /"visual\.proj" has shape/],
  ['autoencoder', without(/^decoder\.up\.1\.block\.1\./), /"decoder\.up\.1\.block\.1\..* is missing/],
  ['vgg16', without(/^features\.28\.bias/), /"features\.28\.bias" \[128\] is missing/],
  ['lpips', without(/^lin4/), /"lin4\.model\.1\.weight" .* is missing/],
]

for (const [name, change, message] of lacking) {
  test.serial(`a network that is not whole is refused: ${name}, ${message.source}`, async (t) => {
    const path = join(folder, `${name}.safetensors`)
    altered(path, path, change)
    await changeManifest(({ files }) => (files[`${name}.safetensors`] = {}))
    const error = await t.throwsAsync(Pack.open(folder), { instanceOf: FlexitError, code: 'DATA_LOSS', message })
    t.true(error.message.includes(path))
  })
}
