// Packs from local files: what is imported, what is copied, and what is refused before anything is written.
// The shipped pack's weights serve as checkpoints; damaged ones are made from them.

import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import test, { type ExecutionContext } from 'ava'
import { FlexitError } from '../../../src/engine/errors.js'
import { importPack, type PackImport } from '../../../src/engine/pack/import.js'
import { readManifest } from '../../../src/engine/pack/manifest.js'
import { altered, zeros } from './altered.js'

const TINY = 'models/tiny'

interface Scene {
  readonly from: string
  readonly to: string
  /** A request without a base, so without settings. */
  readonly bare: PackImport
  /** A request that works. */
  readonly request: PackImport
  /** Import with changes; must fail with nothing written. */
  readonly refused: (changes: Partial<PackImport>) => Promise<FlexitError>
}

async function scene(t: ExecutionContext): Promise<Scene> {
  const at = mkdtempSync(join(tmpdir(), 'flexit-import-'))
  t.teardown(() => {
    rmSync(at, { recursive: true })
  })
  const to = join(at, 'pack')
  const bare: PackImport = {
    name: 'mine',
    folder: to,
    autoencoder: `${TINY}/autoencoder.safetensors`,
    clip: [
      { name: 'vit', path: `${TINY}/clip-vit.safetensors` },
      { name: 'rn', path: `${TINY}/clip-rn.safetensors` },
    ],
    trunk: `${TINY}/vgg16.safetensors`,
    linear: `${TINY}/lpips.safetensors`,
    merges: `${TINY}/merges.txt`,
  }
  const request = { ...bare, base: await readManifest(TINY) }
  return {
    from: at,
    to,
    bare,
    request,
    refused: async (changes) => {
      const error = await t.throwsAsync(importPack({ ...request, ...changes }), { instanceOf: FlexitError })
      t.false(existsSync(to), 'something was written')
      return error
    },
  }
}

test('a pack is built from local files, with the settings of its base', async (t) => {
  const { request, to } = await scene(t)
  const manifest = await importPack(request)
  const base = await readManifest(TINY)
  t.deepEqual(await readManifest(to), manifest)
  t.is(manifest.name, 'mine')
  t.is(manifest.description, 'Imported from files on this machine, with the settings of tiny.')
  t.deepEqual(manifest.image, base.image)
  t.deepEqual(manifest.perceptual.scale, base.perceptual.scale)
  t.is(manifest.autoencoder.normGroups, 8)
  t.is(manifest.tokenizer.vocabularySize, 2000)
  t.deepEqual(
    manifest.clip.map(({ name, heads, mean }) => [name, heads, mean]),
    [
      ['vit', { image: 4, text: 4 }, [0.5, 0.5, 0.5]],
      ['rn', { image: 6, text: 4 }, [0.5, 0.5, 0.5]],
    ],
  )
  t.deepEqual(readdirSync(to).sort(), [...Object.keys(manifest.files), 'pack.json'].sort())
  // The digests of copies are those of the originals.
  for (const name of ['autoencoder.safetensors', 'clip-vit.safetensors', 'vgg16.safetensors', 'merges.txt']) {
    t.deepEqual(manifest.files[name], base.files[name], name)
    t.true(readFileSync(join(to, name)).equals(readFileSync(join(TINY, name))), name)
  }
})

test('settings may be stated without a base, or differ from it', async (t) => {
  const { bare, request, from } = await scene(t)
  const merges = join(from, 'vocabulary.gz')
  writeFileSync(merges, gzipSync(readFileSync(request.merges)))
  const manifest = await importPack({
    ...bare,
    merges,
    clip: [{ ...request.clip[0]!, mean: [0, 0, 0], heads: { image: 2, text: 2 }, optional: true }],
    overrides: {
      licence: 'MIT',
      image: { size: 72, background: 'black' },
      normGroups: 4,
      perceptual: { shift: [0.1, 0.2, 0.3] },
      views: { padding: 'reflect' },
      defaults: { steps: 5 },
    },
  })
  t.like(manifest, {
    licence: 'MIT',
    image: { size: 72, background: 'black' },
    views: { padding: 'reflect' },
    defaults: { steps: 5 },
    attribution: [],
  })
  t.is(manifest.autoencoder.normGroups, 4)
  t.like(manifest.perceptual, { trunk: 'vgg16', shift: [0.1, 0.2, 0.3], scale: [0.458, 0.448, 0.45] })
  t.like(manifest.clip[0], { name: 'vit', mean: [0, 0, 0], heads: { image: 2, text: 2 }, optional: true })
  t.is(manifest.tokenizer.merges, 'merges.txt.gz')
})

test('a checkpoint that lacks a tensor, or has it in another shape, is refused by name', async (t) => {
  const { request, from, refused } = await scene(t)
  const path = join(from, 'bad.safetensors')

  altered(request.autoencoder, path, (tensors) => tensors.delete('decoder.up.2.upsample.conv.bias'))
  let error = await refused({ autoencoder: path })
  t.is(error.code, 'DATA_LOSS')
  t.true(error.message.includes(path))
  t.regex(error.message, /"decoder\.up\.2\.upsample\.conv\.bias" \[64\] is missing/)

  altered(request.clip[1]!.path, path, (tensors) => {
    tensors.set('visual.layer2.0.bn2.bias', zeros('visual.layer2.0.bn2.bias', [47]))
  })
  error = await refused({ clip: [{ name: 'rn', path }] })
  t.regex(error.message, /"visual\.layer2\.0\.bn2\.bias" has shape \[47\], expected \[48\]/)

  altered(request.linear, path, (tensors) => {
    tensors.set('lin4.model.1.weight', zeros('lin4.model.1.weight', [1, 512, 1, 1]))
  })
  error = await refused({ linear: path })
  t.regex(error.message, /"lin4\.model\.1\.weight" has shape \[1, 512, 1, 1\], expected \[1, 128, 1, 1\]/)
})

test('of a network below a prefix it is told where its tensors are', async (t) => {
  const { request, from, refused } = await scene(t)
  const path = join(from, 'bad.safetensors')
  altered(request.clip[0]!.path, path, (tensors) => {
    const all = [...tensors.values()]
    tensors.clear()
    for (const tensor of all) tensors.set(tensor.name, { ...tensor, name: `ema.${tensor.name}` })
  })
  const error = await refused({ clip: [{ ...request.clip[0]!, path }] })
  t.regex(error.message, /tensor "text_projection" is missing; there is "ema\.text_projection"/)
  t.regex(error.cure ?? '', /Save the tensors below "ema\." in a file of their own/)
  altered(request.clip[0]!.path, path, (tensors) => tensors.delete('positional_embedding'))
  t.regex((await refused({ clip: [{ ...request.clip[0]!, path }] })).message, /"positional_embedding" is missing$/)
})

test('a network without a layer, or with one missing between others, is refused', async (t) => {
  const { request, from, refused } = await scene(t)
  const path = join(from, 'bad.safetensors')
  const without = async (pattern: RegExp) => {
    altered(request.clip[0]!.path, path, (tensors) => {
      for (const name of [...tensors.keys()]) if (pattern.test(name)) tensors.delete(name)
    })
    return (await refused({ clip: [{ ...request.clip[0]!, path }] })).message
  }
  t.regex(await without(/^transformer\./), /it has no tensor "transformer\.resblocks\.0\.…"/)
  t.regex(await without(/^visual\.transformer\.resblocks\.1\./), /"visual\.transformer\.resblocks\.1\..*is missing/)
  altered(request.autoencoder, path, (tensors) => {
    for (const name of [...tensors.keys()]) if (name.startsWith('encoder.down.')) tensors.delete(name)
  })
  t.regex((await refused({ autoencoder: path })).message, /it has no tensor "encoder\.down\.0\.…"/)
})

test('files in each other’s place, and files that are none, are refused', async (t) => {
  const { request, from, refused } = await scene(t)
  t.regex((await refused({ autoencoder: request.trunk })).message, /vgg16\.safetensors.*"encoder\.conv_in\.weight"/)
  t.regex((await refused({ trunk: request.linear })).message, /lpips\.safetensors.*"features\.0\.weight"/)
  t.regex((await refused({ clip: [{ name: 'x', path: request.autoencoder }] })).message, /"text_projection"/)
  t.is((await refused({ trunk: join(from, 'none.pth') })).code, 'NOT_FOUND')
  t.is((await refused({ merges: join(from, 'none.txt') })).code, 'NOT_FOUND')
  const garbage = join(from, 'garbage.pt')
  writeFileSync(garbage, '<!DOCTYPE html><title>404</title>')
  const error = await refused({ clip: [{ name: 'x', path: garbage }] })
  t.is(error.code, 'DATA_LOSS')
  t.true(error.message.includes(garbage))
  const short = join(from, 'short.txt')
  writeFileSync(short, readFileSync(request.merges, 'utf8').split('\n').slice(0, 700).join('\n'))
  t.regex((await refused({ merges: short })).message, /short\.txt.*699 merges.*needs 1486/)
})

test('networks of different vocabularies do not share a pack', async (t) => {
  const { request, from, refused } = await scene(t)
  const path = altered(request.clip[0]!.path, join(from, 'other.safetensors'), (tensors) => {
    tensors.set('token_embedding.weight', zeros('token_embedding.weight', [1999, 128]))
  })
  const error = await refused({ clip: [...request.clip, { name: 'other', path }] })
  t.is(error.code, 'DATA_LOSS')
  t.regex(error.message, /other\.safetensors.*1999 symbols.*2000/)
})

test('settings that cannot be are refused, naming the setting', async (t) => {
  const { bare, request, refused } = await scene(t)
  const field = async (changes: Partial<PackImport>) => {
    const error = await refused(changes)
    t.is(error.code, 'INVALID_ARGUMENT')
    return error.field
  }
  t.is(await field({ name: 'My Pack' }), 'name')
  t.is(await field({ clip: [] }), 'clip')
  t.is(await field({ clip: [request.clip[0]!, request.clip[0]!] }), 'clip')
  t.is(await field({ clip: [{ ...request.clip[0]!, name: '../vit' }] }), 'clip.0.name')
  t.is(await field({ overrides: { image: { size: 60, background: 'white' } } }), 'image')
  t.is(await field({ overrides: { image: { size: 8, background: 'white' } } }), 'image')
  t.is(await field({ overrides: { image: { size: 0, background: 'white' } } }), 'image.size')
  t.is(await field({ overrides: { normGroups: 32 } }), 'normGroups')
  t.is(await field({ overrides: { defaults: { steps: 0.5 } } }), 'defaults.steps')
  t.is(await field({ clip: [{ ...request.clip[0]!, heads: { image: 5, text: 4 } }] }), 'heads')
  const error = await t.throwsAsync(importPack(bare), { instanceOf: FlexitError })
  t.is(error.field, 'image')
})

test('heads need no word where towers are as wide as OpenAI’s rule has it', async (t) => {
  const { bare, request } = await scene(t)
  const overrides = { image: { size: 64, background: 'white' }, normGroups: 8 }
  const manifest = await importPack({ ...bare, clip: [request.clip[0]!], overrides })
  t.is(manifest.clip[0]!.heads, undefined)
})

test('a pack may be imported again in its own place', async (t) => {
  const { request, to } = await scene(t)
  const first = await importPack(request)
  copyFileSync(join(to, 'pack.json'), join(to, 'old.json'))
  const again = await importPack({ ...request, autoencoder: join(to, 'autoencoder.safetensors') })
  t.deepEqual(again, first)
  t.deepEqual(
    readdirSync(to).filter((name) => name.endsWith('.tmp')),
    [],
  )
})

test('a copy that fails leaves no manifest', async (t) => {
  const { request, to } = await scene(t)
  await importPack(request)
  const stop = new Error('stop')
  const onProgress = ({ file }: { file: string }) => {
    if (file.startsWith('vgg16')) throw stop
  }
  await t.throwsAsync(importPack({ ...request, onProgress }))
  t.false(existsSync(join(to, 'pack.json')))
})
