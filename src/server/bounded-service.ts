// The service, whose requests are weighed before they are read: millions of small parts would take seconds to read.
// The wire format: https://protobuf.dev/programming-guides/encoding/.

import type { ServiceDefinition } from '@grpc/proto-loader'
import { type FlexitError, invalidArgument } from '../engine/errors.js'
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

/** What stands for a request that was not read: which edit it is of, and whether it was to start it. */
export interface Unread {
  readonly error: FlexitError
  readonly editId: string
  readonly starts: boolean
}

const unread = new WeakMap<object, Unread>()

/** Undefined for a request that was read. */
export function unreadOf(request: object): Unread | undefined {
  return unread.get(request)
}

/** In the place of a request that is too large it has an empty one, of which `unreadOf` tells. */
export const boundedService: ServiceDefinition = Object.fromEntries(
  Object.entries(editorService).map(([name, method]) => {
    const requestDeserialize = (bytes: Buffer) => {
      const seen = new Map<number, Buffer>()
      const rest = restBytes(bytes, bulkOf[name] ?? {}, seen)
      if (rest <= maxBytes) return method.requestDeserialize(bytes)
      const empty = {}
      const message = `the request has ${rest} bytes besides its picture, at most ${maxBytes} are taken`
      const error = invalidArgument('request', message, 'Send shorter texts, and fewer of what it has many of.')
      unread.set(empty, {
        error,
        editId: (seen.get(1) ?? Buffer.of()).subarray(0, 512).toString(),
        starts: seen.has(2),
      })
      return empty
    }
    return [name, { ...method, requestDeserialize }]
  }),
)

/**
 * Bytes of a message without those that are `bulk`. What is no message is left to its reader to refuse. `seen` gets its
 * parts by their numbers.
 */
function restBytes(bytes: Buffer, bulk: Bulk, seen?: Map<number, Buffer>): number {
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
      const field = Math.floor(tag / 8)
      const inner = bulk[field]
      seen?.set(field, part)
      if (inner !== undefined) rest -= part.length - (inner === true ? 0 : restBytes(part, inner))
      at += length
    } else return rest
  }
  return rest
}
