// Parameters and latents between their forms in the program and on the wire.
// Used by both ends.

import { endianness } from 'node:os'
import { invalidArgument } from '../engine/errors.js'
import { decodeF16, encodeF16 } from '../engine/pack/float16.js'
import type { EditParameters } from '../engine/parameters.js'
import { known, named, presets, spaces } from './enums.js'
import type { Latent, NumberType, Parameters } from './messages.js'

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
  return setParameters(wire, named)
}

/** Those parameters that are set, as a server tells of them: what only a newer one knows is left out. */
export function knownParameters(wire: Parameters | null | undefined): Partial<EditParameters> {
  return setParameters(wire, (_, names, name) => known(names, name))
}

function setParameters(wire: Parameters | null | undefined, read: typeof named): Partial<EditParameters> {
  if (wire == null) return {}
  const preset = read('preset', presets, wire.preset)
  const space = read('space', spaces, wire.space)
  const { steps, learningRate, lambdaP, lambdaZ, lambdaS, lambdaI, networks = [], views, seed } = wire
  const given = { preset, space, steps, learningRate, lambdaP, lambdaZ, lambdaS, lambdaI, views, seed }
  const set = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  return { ...set, ...(networks.length === 0 ? {} : { networks }) }
}

/** [C, h, w] numbers as they are sent, little-endian on any machine. */
export function encodeLatent(z: Float32Array, shape: readonly number[], type: NumberType): Latent {
  const half = type === 'NUMBER_TYPE_FLOAT16'
  const numbers = half ? encodeF16(z) : z
  const data = littleEndian(new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength), half)
  return { shape: [...shape], type: half ? type : 'NUMBER_TYPE_FLOAT32', data }
}

/** Errors: INVALID_ARGUMENT, of `field` (sizes that do not belong together). */
export function checkLatent({ shape, type, data }: Latent, field = 'latent'): void {
  const half = type === 'NUMBER_TYPE_FLOAT16'
  const count = shape.reduce((product, n) => product * n, 1)
  if (data.length === count * (half ? 2 : 4)) return
  const said = `${shape.join(' × ')} ${half ? 'float16' : 'float32'} numbers`
  throw invalidArgument(field, `the latent says that it has ${said}, but has ${data.length} bytes`, 'Send it whole.')
}

/** The numbers of a latent. Errors: INVALID_ARGUMENT, of `field` (sizes that do not belong together). */
export function decodeLatent(latent: Latent, field = 'latent'): Float32Array {
  checkLatent(latent, field)
  const { type, data } = latent
  const half = type === 'NUMBER_TYPE_FLOAT16'
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
