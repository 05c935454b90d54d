// Random packs: names, shapes and settings of the original, weights in range, the same bytes from the same seed.
// Shapes are those of architectures.ts, which has its own tests; activations were checked with these ranges.

import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { FlexitError } from '../../../src/engine/errors.js'
import {
  CLIP_CONFIGS,
  clipTensors,
  PACK_ARCHITECTURES,
  trunkTensors,
  vqganTensors,
} from '../../../src/engine/pack/architectures.js'
import { checkTensors, describeClip, describeVqgan } from '../../../src/engine/pack/describe.js'
import { readManifest } from '../../../src/engine/pack/manifest.js'
import { openSafetensors } from '../../../src/engine/pack/safetensors.js'
import { synthesisePack, weightRange } from '../../../src/engine/pack/synth.js'
import { Tokenizer } from '../../../src/engine/pack/tokenizer.js'
import type { WriteProgress } from '../../../src/engine/pack/write-pack.js'

function folder(t: ExecutionContext): string {
  const path = mkdtempSync(join(tmpdir(), 'flexit-synth-'))
  t.teardown(() => {
    rmSync(path, { recursive: true })
  })
  return path
}

test('a synthetic pack has the networks, shapes and settings of the original', async (t) => {
  const at = folder(t)
  const original = await readManifest('models/tiny')
  const manifest = await synthesisePack('tiny', at, { seed: 3 })
  t.deepEqual(await readManifest(at), manifest)
  t.is(manifest.name, 'synth-tiny')
  t.deepEqual(manifest.image, original.image)
  t.deepEqual(manifest.defaults, original.defaults)
  t.is(manifest.autoencoder.normGroups, 8)
  t.deepEqual(
    manifest.clip.map(({ name, heads, mean }) => ({ name, heads, mean })),
    original.clip.map(({ name, heads, mean }) => ({ name, heads, mean })),
  )
  for (const [name, { bytes, sha256 }] of Object.entries(manifest.files)) {
    t.is(bytes, statSync(join(at, name)).size)
    const content = readFileSync(join(at, name))
    t.is(sha256, createHash('sha256').update(content).digest('hex'))
  }
  t.deepEqual(readdirSync(at).sort(), [...Object.keys(manifest.files), 'pack.json'].sort())

  const tensors = (name: string) => openSafetensors(join(at, name)).tensors
  const tiny = PACK_ARCHITECTURES['tiny']!
  t.deepEqual(describeVqgan(tensors('autoencoder.safetensors')), tiny.autoencoder)
  for (const { name, weights } of manifest.clip) t.deepEqual(describeClip(tensors(weights)), tiny.clip[name])
  checkTensors(tensors('vgg16.safetensors'), trunkTensors(tiny.trunk), 'vgg16.safetensors')
})

test('weights have the variance that keeps activations in range', async (t) => {
  const at = folder(t)
  await synthesisePack('tiny', at)
  const statistics = (file: string, name: string) => {
    const values = openSafetensors(join(at, file)).read(name)
    const mean = values.reduce((sum, x) => sum + x, 0) / values.length
    const variance = values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length
    return { mean, variance, low: Math.min(...values), high: Math.max(...values) }
  }
  const hasGain = (file: string, name: string, gain: number, fanIn: number) => {
    const { mean, variance } = statistics(file, name)
    t.true(Math.abs((variance * fanIn) / gain - 1) < 0.05, `${name}: ${variance * fanIn}`)
    t.true(Math.abs(mean) < 0.1 * Math.sqrt(variance), name)
  }
  hasGain('vgg16.safetensors', 'features.12.weight', 2, 64 * 9)
  hasGain('autoencoder.safetensors', 'decoder.up.2.block.0.conv1.weight', 2, 128 * 9)
  hasGain('autoencoder.safetensors', 'decoder.up.2.block.0.nin_shortcut.weight', 1, 128)
  hasGain('clip-rn.safetensors', 'visual.layer4.0.conv2.weight', 2, 192 * 9)
  hasGain('clip-vit.safetensors', 'visual.transformer.resblocks.1.attn.in_proj_weight', 1, 128)
  hasGain('clip-vit.safetensors', 'visual.proj', 1, 128)
  t.true(statistics('clip-rn.safetensors', 'visual.bn1.running_var').low >= 0.8)
  t.true(statistics('clip-rn.safetensors', 'visual.layer4.0.bn3.weight').high <= 0.3)
  t.true(statistics('autoencoder.safetensors', 'encoder.norm_out.weight').low >= 0.9)
  t.true(statistics('lpips.safetensors', 'lin3.model.1.weight').low >= 0)
  t.true(statistics('clip-vit.safetensors', 'token_embedding.weight').high < 0.04)
  t.is(statistics('clip-rn.safetensors', 'visual.bn1.num_batches_tracked').high, 0)
})

test('a seed decides every byte, and no two tensors are drawn alike', async (t) => {
  const [first, again, other] = [folder(t), folder(t), folder(t)]
  const a = await synthesisePack('tiny', first, { seed: 7 })
  const b = await synthesisePack('tiny', again, { seed: 7 })
  const c = await synthesisePack('tiny', other, { seed: 8 })
  t.deepEqual(a.files, b.files)
  t.not(a.files['vgg16.safetensors']!.sha256, c.files['vgg16.safetensors']!.sha256)
  t.is(a.files['merges.txt']!.sha256, c.files['merges.txt']!.sha256)
  const source = openSafetensors(join(first, 'autoencoder.safetensors'))
  const start = (name: string) => source.read(name).slice(0, 100)
  t.notDeepEqual(start('decoder.mid.block_1.conv1.weight'), start('decoder.mid.block_2.conv1.weight'))
})

test('the merges fill the vocabulary and the tokenizer takes them', async (t) => {
  const at = folder(t)
  await synthesisePack('tiny', at, { networks: ['vit'] })
  const tokenizer = Tokenizer.fromMerges(readFileSync(join(at, 'merges.txt')), 2000, 'merges.txt')
  const { ids } = tokenizer.encode('a dog', 16)
  t.is(ids[0], 1998)
  t.true(ids.includes(1999))
  t.true(new Set(readFileSync(join(at, 'merges.txt'), 'utf8').split('\n')).size === 2000 - 514 + 2)
})

test('progress counts up to the bytes of all files', async (t) => {
  const seen: WriteProgress[] = []
  const manifest = await synthesisePack('tiny', folder(t), { networks: ['rn'], onProgress: (p) => seen.push(p) })
  const total = Object.values(manifest.files).reduce((sum, { bytes }) => sum + bytes!, 0)
  t.deepEqual(
    seen.map(({ bytes }) => bytes),
    seen.map(({ bytes }) => bytes).toSorted((a, b) => a - b),
  )
  t.true(seen.every(({ totalBytes }) => totalBytes === total))
  t.deepEqual(seen.at(-1), { file: 'merges.txt', bytes: total, totalBytes: total })
})

test('a synthesis that is stopped leaves no pack and no part of a file', async (t) => {
  const at = folder(t)
  const stop = new AbortController()
  const work = synthesisePack('tiny', at, { signal: stop.signal, onProgress: () => stop.abort() })
  t.like(await t.throwsAsync(work, { instanceOf: FlexitError }), { code: 'CANCELLED' })
  t.deepEqual(
    readdirSync(at).filter((name) => name === 'pack.json' || name.endsWith('.tmp')),
    [],
  )
})

test('networks are chosen by name', async (t) => {
  const at = folder(t)
  const manifest = await synthesisePack('tiny', at, { networks: ['vit'] })
  t.deepEqual(
    manifest.clip.map((entry) => entry.name),
    ['vit'],
  )
  t.false(readdirSync(at).includes('clip-rn.safetensors'))
  const fails = (networks: string[]) =>
    t.throwsAsync(synthesisePack('tiny', at, { networks }), { instanceOf: FlexitError })
  t.like(await fails(['vit', 'RN50']), { code: 'INVALID_ARGUMENT', field: 'networks' })
  t.like(await fails([]), { code: 'INVALID_ARGUMENT', field: 'networks' })
})

test('a pack whose shapes are not known is refused before anything is written', async (t) => {
  const at = folder(t)
  for (const name of ['nonesuch', '../tiny', 'toString']) {
    const error = await t.throwsAsync(synthesisePack(name, at), { instanceOf: FlexitError })
    t.is(error.code, 'NOT_FOUND')
  }
  const base = await readManifest('models/tiny')
  const renamed = { ...base, clip: base.clip.map((entry) => ({ ...entry, name: `${entry.name}-2` })) }
  t.regex((await t.throwsAsync(synthesisePack(renamed, at), { instanceOf: FlexitError })).message, /"rn-2"/)
  t.deepEqual(readdirSync(at), [])
})

test('a stop before anything is written leaves the pack that is there', async (t) => {
  const at = folder(t)
  await synthesisePack('tiny', at)
  const before = readFileSync(join(at, 'pack.json'))
  await t.throwsAsync(synthesisePack('tiny', at, { signal: AbortSignal.abort() }), { code: 'CANCELLED' })
  t.deepEqual(readFileSync(join(at, 'pack.json')), before)
})

test('the manifest of the paper names the networks whose shapes are known', async (t) => {
  const manifest = await readManifest('models/imagenet')
  t.deepEqual(
    manifest.clip.map(({ name, optional }) => `${name}${optional ? ' optional' : ''}`),
    ['ViT-B-32', 'RN50x4', 'RN50', 'ViT-B-16 optional', 'RN50x16 optional'],
  )
  const imagenet = PACK_ARCHITECTURES['imagenet']!
  t.true(manifest.clip.every(({ name }) => Object.hasOwn(imagenet.clip, name)))
  t.is(manifest.image.size % 2 ** (imagenet.autoencoder.chMult.length - 1), 0)
  t.is(manifest.tokenizer.vocabularySize, CLIP_CONFIGS.RN50.vocabularySize)
  t.is(manifest.views.padding, 'zeros')
  t.deepEqual(manifest.defaults, {
    steps: 160,
    learningRate: 0.05,
    views: 8,
    lambdaP: 0.15,
    lambdaZ: 0.05,
    lambdaS: 0.4,
    lambdaI: 0.2,
  })
  for (const [name, file] of Object.entries(manifest.files)) {
    t.true(file.sources!.length > 0, name)
    // OpenAI's addresses carry the digest.
    for (const source of file.sources!) {
      const digest = /[0-9a-f]{64}/.exec(source)?.[0]
      if (digest !== undefined) t.is(file.sha256, digest, name)
    }
    if (file.sha256Prefix !== undefined && file.sha256 !== undefined) t.true(file.sha256.startsWith(file.sha256Prefix))
  }
})

test('every tensor of the known packs has a range', (t) => {
  for (const { autoencoder, clip, trunk } of Object.values(PACK_ARCHITECTURES)) {
    for (const tensors of [vqganTensors(autoencoder), trunkTensors(trunk), ...Object.values(clip).map(clipTensors)]) {
      for (const [name, { dtype, shape }] of tensors) {
        if (dtype === 'I64') continue
        const [low, high] = weightRange(name, shape)
        t.true(low <= high && high > 0 && high < 5, name)
      }
    }
  }
  t.throws(() => weightRange('nonesuch', [3, 3]), { message: /no rule .*"nonesuch"/ })
})
