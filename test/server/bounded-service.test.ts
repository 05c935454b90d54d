// Requests that are weighed before they are read: what may be large, and what may not.

import { status as codes } from '@grpc/grpc-js'
import test from 'ava'
import { editorService } from '../../src/proto/definition.js'
import { encodeLatent } from '../../src/proto/codec.js'
import type { EditRequest } from '../../src/proto/messages.js'
import { boundedService, unreadOf } from '../../src/server/bounded-service.js'
import { apple, latentLength, latentShape, serve, startEdit } from '../support-server/start.js'

const networks = Array.from({ length: 200_000 }, () => '')

test('pictures and latents may be large, nothing else', (t) => {
  const { requestSerialize } = editorService['Edit']!
  const read = (request: Partial<EditRequest>) =>
    boundedService['Edit']!.requestDeserialize(requestSerialize(request)) as EditRequest
  const image = Buffer.alloc(4_000_000, 7)
  const latent = encodeLatent(new Float32Array(500_000).fill(0.5), [500_000, 1, 1], 'NUMBER_TYPE_FLOAT32')
  const start = startEdit({ image, resumeFrom: { step: 1, latent, packDigest: '' } })
  const request = { editId: 'a', start }
  t.deepEqual(read(request).start?.image, image)
  t.is(read(request).start?.resumeFrom?.latent?.data.length, 2_000_000)
  t.like(read({ editId: 'b', update: { targetText: 'plum', number: 300 } }), { update: { targetText: 'plum' } })
  const shape = Array.from({ length: 300_000 }, () => 1)
  const wrong: Partial<EditRequest>[] = [
    { start: startEdit({ parameters: { networks } }) },
    { start: startEdit({ resumeFrom: { step: 1, latent: { ...latent, shape }, packDigest: '' } }) },
    { start: startEdit({ sourceText: 'x'.repeat(300_000) }) },
    { editId: 'x'.repeat(300_000), ping: {} },
  ]
  t.is(unreadOf(read(request)), undefined)
  for (const one of wrong) t.regex(unreadOf(read(one))?.error.message ?? '', /bytes besides its picture/)
})

test('fields in a form that is not theirs hide nothing', (t) => {
  const delimited = (field: number, part: Buffer) => {
    const length: number[] = []
    for (let left = part.length; ; left = Math.floor(left / 128)) {
      length.push(left > 127 ? (left % 128) + 128 : left)
      if (left < 128) break
    }
    return Buffer.concat([Buffer.from([8 * field + 2, ...length]), part])
  }
  const hidden = delimited(2, Buffer.alloc(400_000))
  // A source text as a number, which its reader takes for a length.
  const start = Buffer.concat([Buffer.from([8 * 3, 5]), hidden])
  const read = (bytes: Buffer) => boundedService['Edit']!.requestDeserialize(bytes)
  t.truthy(unreadOf(read(delimited(2, start))))
  t.is(unreadOf(read(delimited(2, hidden))), undefined)
  const unpacked = Buffer.concat([Buffer.from([8, 32, 8, 8, 8, 8]), delimited(3, Buffer.alloc(400_000))])
  t.is(unreadOf(read(delimited(2, delimited(6, delimited(2, unpacked))))), undefined)
})

test('bytes that are no message are left to their reader', (t) => {
  const read = boundedService['Edit']!.requestDeserialize
  const bytes = editorService['Edit']!.requestSerialize({ editId: 'a', start: startEdit() })
  for (let length = 1; length < bytes.length - apple.length; length += 7) {
    const cut = bytes.subarray(0, length)
    const [own, theirs] = [read, editorService['Edit']!.requestDeserialize].map((deserialize) => {
      try {
        return JSON.stringify(deserialize(cut))
      } catch (error) {
        return String(error)
      }
    })
    t.is(own, theirs)
  }
  for (const odd of [[0x0b], [0x0c], [0xff, 0xff], [0x09, 1], [0x0d], [0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]]) {
    t.notThrows(() => {
      try {
        read(Buffer.from(odd))
      } catch (error) {
        if (!(error instanceof Error)) throw error
      }
    })
  }
})

test('a server refuses them, and goes on', async (t) => {
  const { peer } = await serve(t)
  const states = Array.from({ length: 300_000 }, () => 'EDIT_STATUS_PAUSED')
  await t.throwsAsync(peer.unary('ListEdits', { states }), { message: /INVALID_ARGUMENT/ })
  const start = startEdit({ parameters: { networks } })
  t.is((await peer.stream('RunEdit', { start }).over)?.code, codes.INVALID_ARGUMENT)
  const stream = peer.edit()
  stream.send('a', { start })
  const { failed, editId, sequence } = await stream.first('failed')
  t.deepEqual([editId, sequence, failed.status?.code], ['a', 1, codes.INVALID_ARGUMENT])
  stream.send('a', { update: { parameters: { networks } } })
  const { rejected } = await stream.first('rejected')
  t.is(rejected.status?.code, codes.INVALID_ARGUMENT)
  stream.end()
  t.is(await stream.over, undefined)
  const z = new Float32Array(latentLength).fill(0.1)
  const latent = encodeLatent(z, latentShape, 'NUMBER_TYPE_FLOAT32')
  const run = peer.stream('RunEdit', { start: startEdit({ resumeFrom: { step: 2, latent, packDigest: '' } }) })
  t.truthy(await run.first('completed'))
})

test('an id that is too long is not echoed', async (t) => {
  const { peer } = await serve(t)
  const stream = peer.edit()
  stream.send('x'.repeat(100_000), { ping: {} })
  const { editId, rejected } = await stream.first('rejected')
  t.is(rejected.status?.code, codes.INVALID_ARGUMENT)
  t.true(editId.length < 200)
  stream.end()
  t.is(await stream.over, undefined)
})
