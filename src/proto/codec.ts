// Parameters and latents between their forms in the program and on the wire.
// Used by both ends.

import { endianness } from 'node:os'
import { invalidArgument } from '../engine/errors.js'
import { decodeF16, encodeF16 } from '../engine/pack/float16.js'
import type { EditParameters } from '../engine/parameters.js'
import type { Latent, NumberType, Parameters } from './messages.js'

const presets = { paper: 'PRESET_PAPER', reference: 'PRESET_REFERENCE' } as const
const spaces = { latent: 'SPACE_LATENT', pixels: 'SPACE_PIXELS' } as const

/** Parameters as they are sent. */
export function encodeParameters({ preset, space, networks, ...numbers }: Partial<EditParameters>): Parameters {
  return {
    ...(preset === undefined ? {} : { preset: presets[preset] }),
    ...(space === undefined ? {} : { space: spaces[space] }),
    networks: [...(networks ?? [])],
    ...numbers,
  }
}

/** Those parameters that are set. Errors: INVALID_ARGUMENT (an enum's value that is not known here). */
export function decodeParameters(wire: Parameters | null | undefined): Partial<EditParameters> {
  return fromWire(wire, named)
}

/** Those parameters that are set, as a server tells of them: what only a newer one knows is left out. */
export function knownParameters(wire: Parameters | null | undefined): Partial<EditParameters> {
  return fromWire(wire, (_, names, __, name) => keyOf(names, name))
}

function fromWire(wire: Parameters | null | undefined, read: typeof named): Partial<EditParameters> {
  if (wire == null) return {}
  const preset = read('preset', presets, 'PRESET_UNSPECIFIED', wire.preset)
  const space = read('space', spaces, 'SPACE_UNSPECIFIED', wire.space)
  const { steps, learningRate, lambdaP, lambdaZ, lambdaS, lambdaI, networks = [], views, seed } = wire
  const given = { preset, space, steps, learningRate, lambdaP, lambdaZ, lambdaS, lambdaI, views, seed }
  const set = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  return { ...set, ...(networks.length === 0 ? {} : { networks }) }
}

/**
 * The key whose name on the wire is `name`; undefined where it is not set.
 * Errors: INVALID_ARGUMENT (a value that this version does not know).
 */
export function named<K extends string>(
  field: string,
  names: Readonly<Record<K, string>>,
  unspecified: string,
  name: string | undefined,
): K | undefined {
  if (name === undefined || name === unspecified) return undefined
  const found = keyOf(names, name)
  if (found !== undefined) return found
  throw invalidArgument(field, `${field} has a value that is not known here`, `Use ${Object.values(names).join(', ')}.`)
}

function keyOf<K extends string>(names: Readonly<Record<K, string>>, name: string | undefined): K | undefined {
  return (Object.keys(names) as K[]).find((key) => names[key] === name)
}

/** [C, h, w] numbers as they are sent, little-endian on any machine. */
export function encodeLatent(z: Float32Array, shape: readonly number[], type: NumberType): Latent {
  const half = type === 'NUMBER_TYPE_FLOAT16'
  const numbers = half ? encodeF16(z) : z
  const data = littleEndian(new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength), half)
  return { shape: [...shape], type: half ? type : 'NUMBER_TYPE_FLOAT32', data }
}

/** The numbers of a latent. Errors: INVALID_ARGUMENT, of `field` (sizes that do not belong together). */
export function decodeLatent({ shape, type, data }: Latent, field = 'latent'): Float32Array {
  const half = type === 'NUMBER_TYPE_FLOAT16'
  const count = shape.reduce((product, n) => product * n, 1)
  if (data.length !== count * (half ? 2 : 4)) {
    const said = `${shape.join(' × ')} ${half ? 'float16' : 'float32'} numbers`
    throw invalidArgument(field, `the latent says that it has ${said}, but has ${data.length} bytes`, 'Send it whole.')
  }
  const { buffer } = littleEndian(data, half)
  return half ? decodeF16(new Uint16Array(buffer)) : new Float32Array(buffer)
}

/** A copy of numbers between this machine's order of bytes and that of the wire. */
function littleEndian(bytes: Uint8Array, half: boolean): Buffer<ArrayBuffer> {
  const copy = Buffer.alloc(bytes.length)
  copy.set(bytes)
  if (endianness() === 'LE') return copy
  return half ? copy.swap16() : copy.swap32()
}
