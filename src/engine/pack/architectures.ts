// The state-dict keys and shapes of the networks, in the originals' order: what a checkpoint must hold.
// Follows CompVis/taming-transformers `VQModel`, openai/CLIP `model.py`, torchvision's VGG and AlexNet, and LPIPS v0.1.

import type { StorageType, TensorInfo } from './tensor-source.js'

/** Tensors by name, in the order of the original's state dict. */
export type TensorMap = ReadonlyMap<string, TensorInfo>

/**
 * A VQGAN autoencoder. Levels count from the picture: level i works at 1 / 2^i of its size, with ch · chMult[i] channels.
 * `attnLevels` are the levels with attention beside that of the middle: they stay where construction put them, whatever
 * size the network is run at. Without `nEmbed` the checkpoint has no codebook, which an edit does not need.
 */
export interface VqganConfig {
  readonly ch: number
  readonly chMult: readonly number[]
  readonly numResBlocks: number
  readonly attnLevels: readonly number[]
  readonly zChannels: number
  readonly embedDim: number
  readonly nEmbed?: number
}

/** The arguments of OpenAI's `CLIP`, but for the heads. A ResNet has four stages of `visionLayers` and no patches. */
export interface ClipConfig {
  readonly embedDim: number
  readonly imageResolution: number
  readonly visionLayers: number | readonly number[]
  readonly visionWidth: number
  readonly visionPatchSize?: number
  readonly contextLength: number
  readonly vocabularySize: number
  readonly transformerWidth: number
  readonly transformerLayers: number
}

/** VGG: output channels of each 3×3 convolution, and 'M' for max pooling, as in torchvision's `cfgs`. */
export type VggLayers = readonly (number | 'M')[]

/** The trunk of LPIPS. AlexNet: the output channels of its five convolutions. */
export type TrunkConfig =
  | { readonly kind: 'vgg16'; readonly layers: VggLayers }
  | { readonly kind: 'alexnet'; readonly widths: readonly number[] }

/** The levels at which taming's constructor places attention: those whose `resolution` / 2^level is listed. */
export function attentionLevels(resolution: number, attnResolutions: readonly number[], levels: number): number[] {
  return range(levels).filter((level) => attnResolutions.includes(Math.floor(resolution / 2 ** level)))
}

/** The ImageNet autoencoder of taming-transformers with the small codebook. */
export const VQGAN_F16_1024: VqganConfig = {
  ch: 128,
  chMult: [1, 1, 2, 2, 4],
  numResBlocks: 2,
  attnLevels: attentionLevels(256, [16], 5),
  zChannels: 256,
  embedDim: 256,
  nEmbed: 1024,
}

const CLIP_TEXT = { contextLength: 77, vocabularySize: 49408, transformerLayers: 12 }
const VIT_B = { embedDim: 512, imageResolution: 224, visionLayers: 12, visionWidth: 768, transformerWidth: 512 }

/** OpenAI's networks, by the names that users type. */
export const CLIP_CONFIGS = {
  RN50: {
    ...CLIP_TEXT,
    embedDim: 1024,
    imageResolution: 224,
    visionLayers: [3, 4, 6, 3],
    visionWidth: 64,
    transformerWidth: 512,
  },
  RN50x4: {
    ...CLIP_TEXT,
    embedDim: 640,
    imageResolution: 288,
    visionLayers: [4, 6, 10, 6],
    visionWidth: 80,
    transformerWidth: 640,
  },
  RN50x16: {
    ...CLIP_TEXT,
    embedDim: 768,
    imageResolution: 384,
    visionLayers: [6, 8, 18, 8],
    visionWidth: 96,
    transformerWidth: 768,
  },
  'ViT-B-32': { ...CLIP_TEXT, ...VIT_B, visionPatchSize: 32 },
  'ViT-B-16': { ...CLIP_TEXT, ...VIT_B, visionPatchSize: 16 },
} satisfies Record<string, ClipConfig>

/** VGG16's layers, of any widths: five stages of 2, 2, 3, 3, 3 convolutions. */
export function vgg16Layers(widths: readonly [number, number, number, number, number]): VggLayers {
  return widths.flatMap((width, stage) => [...Array<number>(stage < 2 ? 2 : 3).fill(width), 'M' as const])
}

export const VGG16: TrunkConfig = { kind: 'vgg16', layers: vgg16Layers([64, 128, 256, 512, 512]) }

/** What a pack's networks are, by the pack's name: what `synthesisePack` draws weights for. */
export interface PackArchitecture {
  readonly autoencoder: VqganConfig
  readonly clip: Readonly<Record<string, ClipConfig>>
  readonly trunk: TrunkConfig
}

const TINY_CLIP = {
  embedDim: 128,
  contextLength: 16,
  vocabularySize: 2000,
  transformerWidth: 128,
  transformerLayers: 2,
}

export const PACK_ARCHITECTURES: Readonly<Record<string, PackArchitecture>> = {
  imagenet: { autoencoder: VQGAN_F16_1024, clip: CLIP_CONFIGS, trunk: VGG16 },
  tiny: {
    autoencoder: { ch: 16, chMult: [1, 2, 4, 8], numResBlocks: 1, attnLevels: [], zChannels: 32, embedDim: 32 },
    clip: {
      rn: { ...TINY_CLIP, imageResolution: 64, visionLayers: [1, 1, 2, 1], visionWidth: 24 },
      vit: { ...TINY_CLIP, imageResolution: 64, visionLayers: 3, visionWidth: 128, visionPatchSize: 8 },
    },
    trunk: { kind: 'vgg16', layers: vgg16Layers([16, 32, 64, 96, 128]) },
  },
}

/**
 * A `VQModel`'s tensors, all float32. The released `last.ckpt` holds the training's discriminator and LPIPS as well,
 * under `loss.*`: no part of the autoencoder.
 */
export function vqganTensors(config: VqganConfig): TensorMap {
  const { ch, chMult, numResBlocks, attnLevels, zChannels, embedDim, nEmbed } = config
  const list = new TensorList('F32')
  const levels = chMult.length
  const width = (level: number) => ch * chMult[level]!
  const deepest = width(levels - 1)

  const block = (at: string, inputs: number, outputs: number) => {
    list.norm(`${at}.norm1`, inputs)
    list.conv(`${at}.conv1`, inputs, outputs, 3)
    list.norm(`${at}.norm2`, outputs)
    list.conv(`${at}.conv2`, outputs, outputs, 3)
    if (inputs !== outputs) list.conv(`${at}.nin_shortcut`, inputs, outputs, 1)
  }
  const attention = (at: string, channels: number) => {
    list.norm(`${at}.norm`, channels)
    for (const part of ['q', 'k', 'v', 'proj_out']) list.conv(`${at}.${part}`, channels, channels, 1)
  }
  /** The blocks of a level, then its attentions, one after each block. */
  const level = (at: string, blocks: number, inputs: number, index: number) => {
    for (const i of range(blocks)) block(`${at}.block.${i}`, i === 0 ? inputs : width(index), width(index))
    if (attnLevels.includes(index)) for (const i of range(blocks)) attention(`${at}.attn.${i}`, width(index))
  }
  const middle = (at: string) => {
    block(`${at}.mid.block_1`, deepest, deepest)
    attention(`${at}.mid.attn_1`, deepest)
    block(`${at}.mid.block_2`, deepest, deepest)
  }

  list.conv('encoder.conv_in', 3, ch, 3)
  for (const i of range(levels)) {
    level(`encoder.down.${i}`, numResBlocks, i === 0 ? ch : width(i - 1), i)
    if (i < levels - 1) list.conv(`encoder.down.${i}.downsample.conv`, width(i), width(i), 3)
  }
  middle('encoder')
  list.norm('encoder.norm_out', deepest)
  list.conv('encoder.conv_out', deepest, zChannels, 3)

  list.conv('decoder.conv_in', zChannels, deepest, 3)
  middle('decoder')
  for (const i of range(levels)) {
    level(`decoder.up.${i}`, numResBlocks + 1, i === levels - 1 ? deepest : width(i + 1), i)
    if (i > 0) list.conv(`decoder.up.${i}.upsample.conv`, width(i), width(i), 3)
  }
  list.norm('decoder.norm_out', width(0))
  list.conv('decoder.conv_out', width(0), 3, 3)

  if (nEmbed !== undefined) list.add('quantize.embedding.weight', [nEmbed, embedDim])
  list.conv('quant_conv', zChannels, embedDim, 1)
  list.conv('post_quant_conv', embedDim, zChannels, 1)
  return list.tensors
}

/**
 * A `CLIP`'s tensors, both towers. Convolutions, linears and projections are float16, the rest float32, as OpenAI's
 * `convert_weights` leaves them. OpenAI's TorchScript archives also hold `input_resolution`, `context_length` and
 * `vocab_size`, which are no weights.
 */
export function clipTensors(config: ClipConfig): TensorMap {
  const { embedDim, transformerWidth: width } = config
  const list = new TensorList('F16')
  list.add('positional_embedding', [config.contextLength, width], 'F32')
  list.add('text_projection', [width, embedDim])
  list.add('logit_scale', [], 'F32')
  if (typeof config.visionLayers === 'number') visionTransformer(list, config, config.visionLayers)
  else modifiedResNet(list, config, config.visionLayers)
  transformer(list, 'transformer', width, config.transformerLayers)
  list.add('token_embedding.weight', [config.vocabularySize, width], 'F32')
  list.norm('ln_final', width)
  return list.tensors
}

function visionTransformer(list: TensorList, config: ClipConfig, layers: number): void {
  const { visionWidth: width, visionPatchSize: patch = 1 } = config
  const grid = Math.floor(config.imageResolution / patch)
  list.add('visual.class_embedding', [width], 'F32')
  list.add('visual.positional_embedding', [grid ** 2 + 1, width], 'F32')
  list.add('visual.proj', [width, config.embedDim])
  list.add('visual.conv1.weight', [width, 3, patch, patch])
  list.norm('visual.ln_pre', width)
  transformer(list, 'visual.transformer', width, layers)
  list.norm('visual.ln_post', width)
}

function transformer(list: TensorList, at: string, width: number, layers: number): void {
  for (const i of range(layers)) {
    const block = `${at}.resblocks.${i}`
    list.add(`${block}.attn.in_proj_weight`, [3 * width, width])
    list.add(`${block}.attn.in_proj_bias`, [3 * width])
    list.linear(`${block}.attn.out_proj`, width, width)
    list.norm(`${block}.ln_1`, width)
    list.linear(`${block}.mlp.c_fc`, width, 4 * width)
    list.linear(`${block}.mlp.c_proj`, 4 * width, width)
    list.norm(`${block}.ln_2`, width)
  }
}

function modifiedResNet(list: TensorList, config: ClipConfig, stages: readonly number[]): void {
  const { visionWidth: width, embedDim } = config
  const convNorm = (conv: string, norm: string, inputs: number, outputs: number, kernel: number) => {
    list.add(`visual.${conv}.weight`, [outputs, inputs, kernel, kernel])
    list.batchNorm(`visual.${norm}`, outputs)
  }
  convNorm('conv1', 'bn1', 3, width / 2, 3)
  convNorm('conv2', 'bn2', width / 2, width / 2, 3)
  convNorm('conv3', 'bn3', width / 2, width, 3)

  let channels = width
  for (const [stage, blocks] of stages.entries()) {
    const planes = width * 2 ** stage
    for (const i of range(blocks)) {
      const at = `layer${stage + 1}.${i}`
      convNorm(`${at}.conv1`, `${at}.bn1`, channels, planes, 1)
      convNorm(`${at}.conv2`, `${at}.bn2`, planes, planes, 3)
      convNorm(`${at}.conv3`, `${at}.bn3`, planes, 4 * planes, 1)
      if (i === 0) convNorm(`${at}.downsample.0`, `${at}.downsample.1`, channels, 4 * planes, 1)
      channels = 4 * planes
    }
  }

  const grid = Math.floor(config.imageResolution / 32)
  list.add('visual.attnpool.positional_embedding', [grid ** 2 + 1, channels], 'F32')
  for (const part of ['k', 'q', 'v']) list.linear(`visual.attnpool.${part}_proj`, channels, channels)
  list.linear('visual.attnpool.c_proj', channels, embedDim)
}

/** A trunk's `features.*`, all float32. torchvision's files also hold the classifier, under `classifier.*`. */
export function trunkTensors(trunk: TrunkConfig): TensorMap {
  const list = new TensorList('F32')
  for (const { index, inputs, outputs, kernel } of trunkConvolutions(trunk)) {
    list.conv(`features.${index}`, inputs, outputs, kernel)
  }
  return list.tensors
}

interface TrunkConvolution {
  /** Its place in torchvision's `features`, where ReLUs and poolings count too. */
  readonly index: number
  readonly inputs: number
  readonly outputs: number
  readonly kernel: number
}

const ALEXNET_CONVOLUTIONS = [0, 3, 6, 8, 10]
const ALEXNET_KERNELS = [11, 5, 3, 3, 3]

function trunkConvolutions(trunk: TrunkConfig): TrunkConvolution[] {
  if (trunk.kind === 'alexnet') {
    return trunk.widths.map((outputs, i) => ({
      index: ALEXNET_CONVOLUTIONS[i]!,
      inputs: trunk.widths[i - 1] ?? 3,
      outputs,
      kernel: ALEXNET_KERNELS[i]!,
    }))
  }
  const convolutions: TrunkConvolution[] = []
  let index = 0
  let inputs = 3
  for (const layer of trunk.layers) {
    if (layer === 'M') {
      index += 1
      continue
    }
    convolutions.push({ index, inputs, outputs: layer, kernel: 3 })
    index += 2
    inputs = layer
  }
  return convolutions
}

/** Channels of the five features that LPIPS compares: VGG's last before each pooling, all of AlexNet's. */
export function tapWidths(trunk: TrunkConfig): number[] {
  if (trunk.kind === 'alexnet') return [...trunk.widths]
  return trunk.layers.flatMap((layer, i) => (layer !== 'M' && trunk.layers[i + 1] === 'M' ? [layer] : []))
}

/** LPIPS v0.1's linear layers, one for each tap: `[1, C, 1, 1]`, float32. */
export function lpipsTensors(widths: readonly number[]): TensorMap {
  const list = new TensorList('F32')
  for (const [i, width] of widths.entries()) list.add(`lin${i}.model.1.weight`, [1, width, 1, 1])
  return list.tensors
}

/** How many values a tensor of this shape has. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}

/** Collects tensors in order, in the vocabulary of PyTorch's modules; weights are of the list's type. */
class TensorList {
  readonly tensors = new Map<string, TensorInfo>()
  readonly #dtype: StorageType

  constructor(dtype: StorageType) {
    this.#dtype = dtype
  }

  add(name: string, shape: readonly number[], dtype = this.#dtype): void {
    this.tensors.set(name, { dtype, shape })
  }

  conv(at: string, inputs: number, outputs: number, kernel: number): void {
    this.add(`${at}.weight`, [outputs, inputs, kernel, kernel])
    this.add(`${at}.bias`, [outputs])
  }

  linear(at: string, inputs: number, outputs: number): void {
    this.add(`${at}.weight`, [outputs, inputs])
    this.add(`${at}.bias`, [outputs])
  }

  norm(at: string, channels: number): void {
    this.add(`${at}.weight`, [channels], 'F32')
    this.add(`${at}.bias`, [channels], 'F32')
  }

  batchNorm(at: string, channels: number): void {
    this.norm(at, channels)
    this.add(`${at}.running_mean`, [channels], 'F32')
    this.add(`${at}.running_var`, [channels], 'F32')
    this.add(`${at}.num_batches_tracked`, [], 'I64')
  }
}

function range(length: number): number[] {
  return Array.from({ length }, (_, i) => i)
}
