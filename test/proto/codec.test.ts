// Latents and parameters as they cross the wire.
// Numbers are little-endian: proto/flexit/v1/types.proto.

import test from 'ava'
import { FlexitError } from '../../src/engine/errors.js'
import { decodeLatent, decodeParameters, encodeLatent, encodeParameters } from '../../src/proto/codec.js'
import { Random } from '../support/random.js'

test('float32 latents cross to the bit, little-endian, from and to any place in memory', (t) => {
  const all = new Random(1).normals(13)
  all[3] = -0
  const z = all.subarray(1)
  const latent = encodeLatent(z, [3, 2, 2], 'NUMBER_TYPE_FLOAT32')
  t.is(Buffer.from(latent.data).readFloatLE(4), z[1]!)
  const padded = new Uint8Array(latent.data.length + 3)
  padded.set(latent.data, 3)
  const back = decodeLatent({ ...latent, data: padded.subarray(3) })
  t.deepEqual(
    back.map((value, i) => Number(Object.is(value, z[i]))),
    new Float32Array(12).fill(1),
  )
  padded.fill(0)
  t.is(back[1], z[1]!, 'it is a copy')
})

test('float16 latents are rounded to the nearest', (t) => {
  const latent = encodeLatent(Float32Array.of(1, -2, 1 + 2 ** -12, 65_536), [4], 'NUMBER_TYPE_FLOAT16')
  t.is(latent.data.length, 8)
  t.is(Buffer.from(latent.data).readUInt16LE(0), 0x3c00)
  t.deepEqual(decodeLatent(latent), Float32Array.of(1, -2, 1, Infinity))
})

test('a latent whose sizes do not belong together is refused', (t) => {
  for (const [shape, type, bytes] of [
    [[2, 2], 'NUMBER_TYPE_FLOAT32', 15],
    [[2, 2], 'NUMBER_TYPE_FLOAT16', 16],
    [[], 'NUMBER_TYPE_FLOAT32', 0],
  ] as const) {
    const latent = { shape: [...shape], type, data: new Uint8Array(bytes) }
    t.like(
      t.throws(() => decodeLatent(latent), { instanceOf: FlexitError }),
      { code: 'INVALID_ARGUMENT' },
    )
  }
})

test('parameters cross; those that are not set stay unset', (t) => {
  t.deepEqual(decodeParameters(encodeParameters({})), {})
  const all = { preset: 'paper', space: 'pixels', networks: ['vit'], steps: 3, learningRate: 0.5, seed: 7 } as const
  t.deepEqual(decodeParameters(encodeParameters(all)), all)
  t.throws(() => decodeParameters({ networks: [], space: 'SPACE_OUTER' } as never), { instanceOf: FlexitError })
})
