// The service, whose requests are weighed before they are read: millions of small parts would take seconds to read.
// The wire format: https://protobuf.dev/programming-guides/encoding/.

import type { ServiceDefinition } from '@grpc/proto-loader'
import { type FlexitError, invalidArgument } from '../engine/errors.js'
import { editorService, messageType } from '../proto/definition.js'

/** A message that holds what may be large. Readers go by the number of a field alone, so that its form has to be right. */
interface Shape {
  /** Fields by number whose bytes do not count, or that hold such fields. */
  readonly bulk: ReadonlyMap<number, Shape | true>
  /** The wire type of each field of the contract but lists of numbers, which may come in two. */
  readonly wireTypes: ReadonlyMap<number, number>
}

interface Field {
  readonly name: string
  readonly number: number
  readonly type: string
  readonly label: string
}

const delimitedTypes = ['TYPE_STRING', 'TYPE_BYTES', 'TYPE_MESSAGE']

/** Of a message of the contract, with its large fields by name. Its numbers are varints. */
function shapeOf(name: string, large: Readonly<Record<string, Shape | true>>): Shape {
  const { field } = messageType(`flexit.v1.${name}`).type as { readonly field: readonly Field[] }
  const wireTypes = new Map<number, number>()
  const bulk = new Map<number, Shape | true>()
  for (const { name: own, number, type, label } of field) {
    const isDelimited = delimitedTypes.includes(type)
    if (isDelimited || label !== 'LABEL_REPEATED') wireTypes.set(number, isDelimited ? 2 : 0)
    if (large[own] !== undefined) bulk.set(number, large[own])
  }
  return { bulk, wireTypes }
}

const resumeFrom = shapeOf('ResumePoint', { latent: shapeOf('Latent', { data: true }) })
const start = shapeOf('StartEdit', { image: true, resumeFrom })
const shapes: Readonly<Record<string, Shape>> = {
  Edit: shapeOf('EditRequest', { start }),
  RunEdit: shapeOf('RunEditRequest', { start }),
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
function restBytes(bytes: Buffer, { bulk, wireTypes }: Shape, seen?: Map<number, Buffer>): number {
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
    if (tag >= 2 ** 32 || wireType !== (wireTypes.get(field) ?? wireType)) return bytes.length
    if (wireType === 0) varint()
    else if (wireType === 1) at += 8
    else if (wireType === 5) at += 4
    else if (wireType === 2) {
      const length = varint()
      if (length >= 2 ** 31) return bytes.length
      const part = bytes.subarray(at, at + length)
      const inner = bulk.get(field)
      seen?.set(field, part)
      if (inner !== undefined) rest -= part.length - (inner === true ? 0 : restBytes(part, inner))
      at += length
    } else return rest
  }
  return rest
}
