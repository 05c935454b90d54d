// The service, whose requests are weighed before they are read: millions of small parts would take seconds to read.
// The wire format: https://protobuf.dev/programming-guides/encoding/.

import type { ServiceDefinition } from '@grpc/proto-loader'
import { editorService } from '../proto/definition.js'

/** Fields by number whose bytes do not count, or that hold such fields. */
interface Bulk {
  readonly [field: number]: Bulk | true
}

/** Of the picture and the latent of a StartEdit. */
const startBulk: Bulk = { 2: true, 6: { 2: { 3: true } } }

const bulkOf: Readonly<Record<string, Bulk>> = { Edit: { 2: startBulk }, RunEdit: { 2: startBulk } }

/** Of a request without its picture and its latent. */
const maxBytes = 256 * 1024

/** grpc-js answers a request that is too large with INTERNAL, "Error deserializing request". */
export const boundedService: ServiceDefinition = Object.fromEntries(
  Object.entries(editorService).map(([name, method]) => {
    const requestDeserialize = (bytes: Buffer) => {
      const rest = restBytes(bytes, bulkOf[name] ?? {})
      if (rest > maxBytes) throw new Error(`the request has ${rest} bytes besides its picture`)
      return method.requestDeserialize(bytes)
    }
    return [name, { ...method, requestDeserialize }]
  }),
)

/** Bytes of a message without those that are `bulk`. What is no message is left to its reader to refuse. */
export function restBytes(bytes: Buffer, bulk: Bulk): number {
  let rest = bytes.length
  let at = 0
  const varint = () => {
    let value = 0
    for (let scale = 1; at < bytes.length; scale *= 128) {
      const byte = bytes[at++]!
      value += (byte % 128) * scale
      if (byte < 128) break
    }
    return value
  }
  while (at < bytes.length) {
    const tag = varint()
    const wireType = tag % 8
    if (wireType === 0) varint()
    else if (wireType === 1) at += 8
    else if (wireType === 5) at += 4
    else if (wireType === 2) {
      const length = varint()
      const part = bytes.subarray(at, at + length)
      const inner = bulk[Math.floor(tag / 8)]
      if (inner !== undefined) rest -= part.length - (inner === true ? 0 : restBytes(part, inner))
      at += length
    } else return rest
  }
  return rest
}
