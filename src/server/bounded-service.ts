// The service, whose requests are weighed before they are read: millions of small parts would take seconds to read.
// The wire format: https://protobuf.dev/programming-guides/encoding/.

import type { ServiceDefinition } from '@grpc/proto-loader'
import { type FlexitError, invalidArgument } from '../engine/errors.js'
import { editorService } from '../proto/definition.js'

/** A message that holds what may be large. */
interface Shape {
  /** Fields by number whose bytes do not count, or that hold such fields. */
  readonly bulk: Readonly<Record<number, Shape | true>>
  /** How many fields it has in all; those that are plain numbers, and all others have a length. */
  readonly fields: number
  readonly numbers: readonly number[]
  /** Lists of numbers, which may come in either form. */
  readonly lists?: readonly number[]
}

/** As in proto/flexit/v1: readers go by the number of a field alone, so that its form has to be right. */
const latent: Shape = { bulk: { 3: true }, fields: 3, numbers: [2], lists: [1] }
const resumePoint: Shape = { bulk: { 2: latent }, fields: 3, numbers: [1] }
const startEdit: Shape = { bulk: { 2: true, 6: resumePoint }, fields: 12, numbers: [8, 9, 10, 11, 12] }
const shapes: Readonly<Record<string, Shape>> = {
  Edit: { bulk: { 2: startEdit }, fields: 10, numbers: [] },
  RunEdit: { bulk: { 2: startEdit }, fields: 2, numbers: [] },
}

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
      const rest = name in shapes ? restBytes(bytes, shapes[name]!, seen) : bytes.length
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
 * Bytes of a message without those that are bulk; all of them where a reader might see other fields than are seen here. What
 * is no message is left to its reader to refuse. `seen` gets its parts by their numbers.
 */
function restBytes(bytes: Buffer, { bulk, fields, numbers, lists = [] }: Shape, seen?: Map<number, Buffer>): number {
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
    const field = Math.floor(tag / 8)
    const isKnown = field <= fields && !lists.includes(field)
    if (tag >= 2 ** 32 || (isKnown && wireType !== (numbers.includes(field) ? 0 : 2))) return bytes.length
    if (wireType === 0) varint()
    else if (wireType === 1) at += 8
    else if (wireType === 5) at += 4
    else if (wireType === 2) {
      const length = varint()
      if (length >= 2 ** 31) return bytes.length
      const part = bytes.subarray(at, at + length)
      const inner = bulk[field]
      seen?.set(field, part)
      if (inner !== undefined) rest -= part.length - (inner === true ? 0 : restBytes(part, inner))
      at += length
    } else return rest
  }
  return rest
}
