// The key lists and shapes, held to the originals' parameter counts and to real state dicts.
// Follows the counts that PyTorch reports for the released networks, and the golden files' headers.

import { existsSync, readFileSync } from 'node:fs'
import test from 'ava'
import { FlexitError } from '../../../src/engine/errors.js'
import {
  attentionLevels,
  CLIP_CONFIGS,
  clipTensors,
  lpipsTensors,
  PACK_ARCHITECTURES,
  sizeOf,
  tapWidths,
  trunkTensors,
  VGG16,
  VQGAN_F16_1024,
  vqganTensors,
  type ClipConfig,
  type TensorMap,
  type TrunkConfig,
  type VggLayers,
  type VqganConfig,
} from '../../../src/engine/pack/architectures.js'
import {
  checkTensors,
  clipHeads,
  describeClip,
  describeTrunk,
  describeVqgan,
} from '../../../src/engine/pack/describe.js'
import { openSafetensors } from '../../../src/engine/pack/safetensors.js'

const TINY = 'models/tiny'
const GOLDEN = '../shared/golden/tiny'

const VQGAN_F16_16384: VqganConfig = { ...VQGAN_F16_1024, nEmbed: 16384 }
const ALEXNET: TrunkConfig = { kind: 'alexnet', widths: [64, 192, 384, 256, 256] }

/** As PyTorch counts them: statistics of BatchNorm are in the state dict, but are none. */
function parameterCount(tensors: TensorMap): number {
  const statistics = /\.(running_mean|running_var|num_batches_tracked)$/
  return [...tensors].reduce((sum, [name, { shape }]) => sum + (statistics.test(name) ? 0 : sizeOf(shape)), 0)
}

function header(path: string): TensorMap {
  const source = openSafetensors(path)
  source.close()
  return source.tensors
}

/** `name [shape]` of every tensor, sorted: what two state dicts must share. */
function listing(tensors: TensorMap): string[] {
  return [...tensors].map(([name, { shape }]) => `${name} [${shape.join(', ')}]`).sort()
}

function part(tensors: TensorMap, pattern: RegExp): TensorMap {
  return new Map([...tensors].filter(([name]) => pattern.test(name)))
}

function without(tensors: TensorMap, name: string): TensorMap {
  return new Map([...tensors].filter(([other]) => other !== name))
}

function reshaped(tensors: TensorMap, name: string, shape: number[]): TensorMap {
  return new Map(tensors).set(name, { dtype: 'F32', shape })
}

test('OpenAI networks have the published numbers of parameters', (t) => {
  const count = (name: keyof typeof CLIP_CONFIGS) => parameterCount(clipTensors(CLIP_CONFIGS[name]))
  t.is(count('RN50'), 102_007_137)
  t.is(count('RN50x4'), 178_300_601)
  t.is(count('RN50x16'), 290_979_217)
  t.is(count('ViT-B-32'), 151_277_313)
  t.is(count('ViT-B-16'), 149_620_737)
})

test('the image towers, the autoencoder and the trunks have the published numbers of parameters', (t) => {
  const image = (name: keyof typeof CLIP_CONFIGS) => parameterCount(part(clipTensors(CLIP_CONFIGS[name]), /^visual\./))
  t.deepEqual(
    [image('RN50'), image('RN50x4'), image('ViT-B-32'), image('ViT-B-16'), image('RN50x16')].map(millions),
    [38, 87, 88, 86, 167],
  )
  t.is(parameterCount(trunkTensors(VGG16)), 14_714_688)
  t.is(parameterCount(trunkTensors(ALEXNET)), 2_469_696)
  const vqgan = vqganTensors(VQGAN_F16_1024)
  t.is(millions(parameterCount(part(vqgan, /^decoder\./))), 42)
  t.is(millions(parameterCount(part(vqgan, /^encoder\./))), 29)
  t.is(parameterCount(vqganTensors(VQGAN_F16_16384)) - parameterCount(vqgan), (16384 - 1024) * 256)
})

function millions(count: number): number {
  return Math.round(count / 1e6)
}

test('attention stays at the levels that construction gave it', (t) => {
  t.deepEqual(attentionLevels(256, [16], 5), [4])
  t.deepEqual(attentionLevels(256, [32, 128], 5), [1, 3])
  t.deepEqual(attentionLevels(288, [16], 5), [])
  const names = [...vqganTensors(VQGAN_F16_1024).keys()]
  t.deepEqual(
    names.filter((name) => name.endsWith('norm.weight')),
    [
      'encoder.down.4.attn.0.norm.weight',
      'encoder.down.4.attn.1.norm.weight',
      'encoder.mid.attn_1.norm.weight',
      'decoder.mid.attn_1.norm.weight',
      'decoder.up.4.attn.0.norm.weight',
      'decoder.up.4.attn.1.norm.weight',
      'decoder.up.4.attn.2.norm.weight',
    ],
  )
})

test('the linear layers of LPIPS fit the taps of its trunks', (t) => {
  t.deepEqual(tapWidths(VGG16), [64, 128, 256, 512, 512])
  t.deepEqual(tapWidths(ALEXNET), [64, 192, 384, 256, 256])
  t.deepEqual(listing(lpipsTensors([4, 5])), ['lin0.model.1.weight [1, 4, 1, 1]', 'lin1.model.1.weight [1, 5, 1, 1]'])
})

test('the embedded pack has exactly the tensors of its architecture', (t) => {
  const { autoencoder, clip, trunk } = PACK_ARCHITECTURES['tiny']!
  t.deepEqual(listing(header(`${TINY}/autoencoder.safetensors`)), listing(vqganTensors(autoencoder)))
  t.deepEqual(listing(header(`${TINY}/clip-rn.safetensors`)), listing(clipTensors(clip['rn']!)))
  t.deepEqual(listing(header(`${TINY}/clip-vit.safetensors`)), listing(clipTensors(clip['vit']!)))
  t.deepEqual(listing(header(`${TINY}/vgg16.safetensors`)), listing(trunkTensors(trunk)))
  t.deepEqual(listing(header(`${TINY}/lpips.safetensors`)), listing(lpipsTensors(tapWidths(trunk))))
})

interface GoldenClip {
  embed_dim: number
  image_resolution: number
  vision_layers: number | number[]
  vision_width: number
  vision_patch_size: number | null
  context_length: number
  vocab_size: number
  transformer_width: number
  transformer_layers: number
}

test('the original classes have the same tensors in the same order', (t) => {
  if (!existsSync(`${GOLDEN}/architectures.json`)) {
    t.log('skipped: no golden files')
    t.pass()
    return
  }
  const golden = JSON.parse(readFileSync(`${GOLDEN}/architectures.json`, 'utf8')) as {
    clips: Record<'vit' | 'rn', GoldenClip>
    ddconfig: {
      ch: number
      ch_mult: number[]
      num_res_blocks: number
      attn_resolutions: number[]
      resolution: number
      z_channels: number
    }
    n_embed: number
    embed_dim: number
    vgg: VggLayers
  }
  const ordered = (tensors: TensorMap) => [...tensors].map(([name, { shape }]) => [name, [...shape]])

  for (const name of ['vit', 'rn'] as const) {
    const { vision_patch_size: patch, ...arguments_ } = golden.clips[name]
    const config: ClipConfig = {
      embedDim: arguments_.embed_dim,
      imageResolution: arguments_.image_resolution,
      visionLayers: arguments_.vision_layers,
      visionWidth: arguments_.vision_width,
      ...(patch === null ? {} : { visionPatchSize: patch }),
      contextLength: arguments_.context_length,
      vocabularySize: arguments_.vocab_size,
      transformerWidth: arguments_.transformer_width,
      transformerLayers: arguments_.transformer_layers,
    }
    const found = header(`${GOLDEN}/clip-${name}.safetensors`)
    t.deepEqual(ordered(clipTensors(config)), ordered(found))
    t.deepEqual(describeClip(found), config)
  }

  const { ddconfig } = golden
  const autoencoder = {
    ch: ddconfig.ch,
    chMult: ddconfig.ch_mult,
    numResBlocks: ddconfig.num_res_blocks,
    attnLevels: attentionLevels(ddconfig.resolution, ddconfig.attn_resolutions, ddconfig.ch_mult.length),
    zChannels: ddconfig.z_channels,
    embedDim: golden.embed_dim,
    nEmbed: golden.n_embed,
  }
  const vqgan = header(`${GOLDEN}/vqgan.safetensors`)
  t.deepEqual(ordered(vqganTensors(autoencoder)), ordered(vqgan))
  t.deepEqual(describeVqgan(vqgan), autoencoder)

  const trunk: TrunkConfig = { kind: 'vgg16', layers: golden.vgg }
  t.deepEqual(ordered(trunkTensors(trunk)), ordered(header(`${GOLDEN}/vgg16.safetensors`)))
  t.deepEqual(ordered(lpipsTensors(tapWidths(trunk))), ordered(header(`${GOLDEN}/lpips.safetensors`)))
})

test('a description of the weights gives the configuration back', (t) => {
  for (const config of Object.values(CLIP_CONFIGS)) t.deepEqual(describeClip(clipTensors(config)), config)
  for (const config of Object.values(PACK_ARCHITECTURES['tiny']!.clip)) {
    t.deepEqual(describeClip(clipTensors(config)), config)
  }
  for (const config of [VQGAN_F16_1024, VQGAN_F16_16384, PACK_ARCHITECTURES['tiny']!.autoencoder]) {
    t.deepEqual(describeVqgan(vqganTensors(config)), config)
  }
  for (const config of [VGG16, ALEXNET]) t.deepEqual(describeTrunk(trunkTensors(config)), config)
})

test('heads are those stated, or one for 64 channels', (t) => {
  t.deepEqual(clipHeads(CLIP_CONFIGS['ViT-B-32']), { image: 12, text: 8 })
  t.deepEqual(clipHeads(CLIP_CONFIGS.RN50x4), { image: 40, text: 10 })
  t.deepEqual(clipHeads(CLIP_CONFIGS.RN50x4, { image: 6, text: 4 }), { image: 6, text: 4 })
})

test('a description names the file and the tensor that is missing or impossible', (t) => {
  const vit = clipTensors(CLIP_CONFIGS['ViT-B-32'])
  const rn = clipTensors(CLIP_CONFIGS.RN50)
  const vqgan = vqganTensors(VQGAN_F16_1024)
  const trunk = trunkTensors(VGG16)
  const fails = (describe: () => unknown, tensor: string, what: RegExp) => {
    const error = t.throws(describe, { instanceOf: FlexitError })
    t.is(error.code, 'DATA_LOSS')
    t.true(error.message.startsWith('net.pt ') && error.message.includes(`"${tensor}"`), error.message)
    t.regex(error.message, what)
  }
  const clip = (tensors: TensorMap) => () => describeClip(tensors, 'net.pt')
  fails(clip(new Map()), 'text_projection', /missing/)
  fails(clip(without(vit, 'visual.conv1.weight')), 'visual.conv1.weight', /missing/)
  fails(clip(without(rn, 'visual.attnpool.positional_embedding')), 'visual.attnpool.positional_embedding', /missing/)
  fails(clip(reshaped(vit, 'visual.positional_embedding', [51, 768])), 'visual.positional_embedding', /51 positions/)
  fails(clip(reshaped(vit, 'visual.positional_embedding', [1, 768])), 'visual.positional_embedding', /1 positions/)
  fails(clip(reshaped(rn, 'visual.layer1.0.conv1.weight', [64, 64])), 'visual.layer1.0.conv1.weight', /4 dimensions/)
  fails(clip(reshaped(vit, 'ln_final.weight', [0])), 'ln_final.weight', /\[0\]/)
  fails(() => describeVqgan(without(vqgan, 'quant_conv.weight'), 'net.pt'), 'quant_conv.weight', /missing/)
  const odd = 'encoder.down.3.block.0.conv1.weight'
  fails(() => describeVqgan(reshaped(vqgan, odd, [200, 256, 3, 3]), 'net.pt'), odd, /200 channels.*128/)
  fails(() => describeTrunk(without(trunk, 'features.28.weight'), 'net.pt'), 'features.28.weight', /missing/)
})

test('a checkpoint may hold more than its network, and lack what is never read, but nothing else', (t) => {
  const required = clipTensors(CLIP_CONFIGS.RN50)
  const check = (found: TensorMap) => () => checkTensors(found, required, 'net.pt')
  t.notThrows(check(reshaped(required, 'input_resolution', [])))
  t.notThrows(check(without(without(required, 'visual.bn1.num_batches_tracked'), 'logit_scale')))
  t.throws(check(without(required, 'visual.bn1.running_var')), {
    message: /"visual\.bn1\.running_var" \[32\] is missing/,
  })
  t.throws(check(reshaped(required, 'visual.bn1.weight', [31])), {
    message: /"visual\.bn1\.weight" has shape \[31\], expected \[32\]/,
  })
})
