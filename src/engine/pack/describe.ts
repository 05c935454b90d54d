// What a network is, read from its weights alone, and whether a checkpoint holds all of it.
// Follows openai/CLIP `build_model`, which derives every constructor argument from shapes, for the other networks too.

import { FlexitError } from '../errors.js'
import { sizeOf, vgg16Layers } from './architectures.js'
import type { ClipConfig, TensorMap, TrunkConfig, VqganConfig } from './architectures.js'

/**
 * The constructor arguments of an OpenAI CLIP. `where` names the file in errors.
 * Errors: DATA_LOSS, naming the tensor that is missing or has an impossible shape.
 */
export function describeClip(tensors: TensorMap, where = 'the checkpoint'): ClipConfig {
  const shape = shapeReader(tensors, where)
  const count = layerCounter(tensors, where)
  const text = {
    embedDim: shape('text_projection', 2)[1]!,
    contextLength: shape('positional_embedding', 2)[0]!,
    vocabularySize: shape('token_embedding.weight', 2)[0]!,
    transformerWidth: shape('ln_final.weight', 1)[0]!,
    transformerLayers: count('transformer.resblocks'),
  }
  if (tensors.has('visual.proj')) {
    const [visionWidth, , visionPatchSize] = shape('visual.conv1.weight', 4) as [number, number, number, number]
    return {
      ...text,
      imageResolution: visionPatchSize * gridSize('visual.positional_embedding'),
      visionLayers: count('visual.transformer.resblocks'),
      visionWidth,
      visionPatchSize,
    }
  }
  return {
    ...text,
    imageResolution: 32 * gridSize('visual.attnpool.positional_embedding'),
    visionLayers: [1, 2, 3, 4].map((i) => count(`visual.layer${i}`)),
    visionWidth: shape('visual.layer1.0.conv1.weight', 4)[0]!,
  }

  /** The side of the square of positions that follow the class position. */
  function gridSize(name: string): number {
    const positions = shape(name, 2)[0]!
    const side = Math.sqrt(positions - 1)
    if (side < 1 || !Number.isInteger(side)) {
      throw wrongCheckpoint(where, `tensor "${name}" has ${positions} positions, expected a square and one`)
    }
    return side
  }
}

/** Attention heads of both towers: what the manifest says, or else OpenAI's rule of 64 channels each. */
export function clipHeads(
  config: ClipConfig,
  stated?: { readonly image: number; readonly text: number },
): { image: number; text: number } {
  if (stated) return { ...stated }
  const imageWidth = typeof config.visionLayers === 'number' ? config.visionWidth : config.visionWidth * 32
  return { image: Math.floor(imageWidth / 64), text: Math.floor(config.transformerWidth / 64) }
}

/** The configuration of a taming-transformers VQModel. Errors: DATA_LOSS, as for `describeClip`. */
export function describeVqgan(tensors: TensorMap, where = 'the checkpoint'): VqganConfig {
  const shape = shapeReader(tensors, where)
  const ch = shape('encoder.conv_in.weight', 4)[0]!
  const count = layerCounter(tensors, where)
  const levels = count('encoder.down')
  const chMult = Array.from({ length: levels }, (_, i) => {
    const name = `encoder.down.${i}.block.0.conv1.weight`
    const multiple = shape(name, 4)[0]! / ch
    if (Number.isInteger(multiple)) return multiple
    throw wrongCheckpoint(where, `tensor "${name}" has ${multiple * ch} channels, expected a multiple of ${ch}`)
  })
  return {
    ch,
    chMult,
    numResBlocks: count('encoder.down.0.block'),
    attnLevels: chMult.flatMap((_, i) => (tensors.has(`encoder.down.${i}.attn.0.norm.weight`) ? [i] : [])),
    zChannels: shape('decoder.conv_in.weight', 4)[1]!,
    embedDim: shape('quant_conv.weight', 4)[0]!,
    ...(tensors.has('quantize.embedding.weight') ? { nEmbed: shape('quantize.embedding.weight', 2)[0]! } : {}),
  }
}

/** Which trunk of LPIPS it is, and its widths: AlexNet's first kernel is 11×11. Errors: DATA_LOSS. */
export function describeTrunk(tensors: TensorMap, where = 'the checkpoint'): TrunkConfig {
  const shape = shapeReader(tensors, where)
  const width = (index: number) => shape(`features.${index}.weight`, 4)[0]!
  if (shape('features.0.weight', 4)[2] === 11) return { kind: 'alexnet', widths: [0, 3, 6, 8, 10].map(width) }
  let index = 0
  const layers = vgg16Layers([1, 1, 1, 1, 1]).map((layer) => {
    const outputs = layer === 'M' ? layer : width(index)
    index += layer === 'M' ? 1 : 2
    return outputs
  })
  return { kind: 'vgg16', layers }
}

/** Tensors that originals carry but an edit never reads. */
const UNREAD = /(^logit_scale|\.num_batches_tracked)$/

/**
 * Check that a checkpoint holds every tensor of an architecture, in its shape. More tensors are no fault: releases carry
 * classifiers, discriminators, optimisers. Errors: DATA_LOSS, naming the file, the tensor, what was expected and found.
 */
export function checkTensors(found: TensorMap, required: TensorMap, where: string): void {
  for (const [name, { shape }] of required) {
    if (UNREAD.test(name)) continue
    const has = found.get(name)
    if (!has) throw wrongCheckpoint(where, `tensor "${name}" ${format(shape)} is missing`)
    if (format(has.shape) !== format(shape)) {
      throw wrongCheckpoint(where, `tensor "${name}" has shape ${format(has.shape)}, expected ${format(shape)}`)
    }
  }
}

/** The error for a checkpoint that is not the network it should be. */
export function wrongCheckpoint(
  where: string,
  what: string,
  cure = 'Check that it is the right checkpoint, whole, in the key layout of the original implementation.',
): FlexitError {
  return new FlexitError({
    code: 'DATA_LOSS',
    message: `${where} does not hold the network that it should: ${what}`,
    cure,
  })
}

function shapeReader(tensors: TensorMap, where: string) {
  let isFirst = true
  const missing = (name: string) => {
    // Once one is there, what ends like another is of another tower.
    const inside = isFirst ? [...tensors.keys()].find((other) => other.endsWith(`.${name}`)) : undefined
    if (inside === undefined) return wrongCheckpoint(where, `tensor "${name}" is missing`)
    const prefix = inside.slice(0, -name.length)
    const cure = `Save the tensors below "${prefix}" in a file of their own, without this prefix.`
    return wrongCheckpoint(where, `tensor "${name}" is missing; there is "${inside}"`, cure)
  }
  return (name: string, rank: number): readonly number[] => {
    const shape = tensors.get(name)?.shape
    if (!shape) throw missing(name)
    isFirst = false
    if (shape.length !== rank || sizeOf(shape) === 0) {
      throw wrongCheckpoint(where, `tensor "${name}" has shape ${format(shape)}, expected ${rank} dimensions`)
    }
    return shape
  }
}

/** Counts the different numbers behind `PREFIX.`. Errors: DATA_LOSS where there is none. */
function layerCounter(tensors: TensorMap, where: string) {
  return (prefix: string): number => {
    const start = `${prefix}.`
    const names = [...tensors.keys()].filter((name) => name.startsWith(start))
    const count = new Set(names.flatMap((name) => /^\d+(?=\.)/.exec(name.slice(start.length))?.[0] ?? [])).size
    if (count === 0) throw wrongCheckpoint(where, `it has no tensor "${start}0.…"`)
    return count
  }
}

function format(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`
}
