// What a hostile client sends: each attack makes one call of a random number's choice.
// Fields and limits are those of proto/flexit/v1; framing is gRPC's.

import { randomBytes } from 'node:crypto'
import { deflateSync, gzipSync } from 'node:zlib'
import { toStartEdit } from '../../src/client/request.js'
import { editorService } from '../../src/proto/definition.js'
import type { EditRequest, ResumePoint, StartEdit } from '../../src/proto/messages.js'
import { cheap, request } from './edits.js'
import type { Random } from './random.js'
import { type RawCall, frame } from './raw-call.js'

export interface Attack {
  readonly name: string
  readonly make: (random: Random) => RawCall | Promise<RawCall>
}

const methods = ['Edit', 'RunEdit', 'Attach', 'CancelEdit', 'GetEdit', 'ListEdits', 'GetServerInfo'] as const

const good = toStartEdit(request(0, { ...cheap, steps: 2 }))

/** Numbers at and past the edges of their types. */
const edges = [0, 1, -1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 53, -(2 ** 63), NaN, Infinity, -Infinity, 1e-40, 1e38]

const serialise = (message: EditRequest) => editorService['Edit']!.requestSerialize(message)
const edit = (...messages: EditRequest[]): RawCall => ({
  method: 'Edit',
  body: Buffer.concat(messages.map((message) => frame(serialise(message)))),
})
const start = (changes: Partial<StartEdit>) => edit({ editId: '', start: { ...good, ...changes } })

/** Some of its bytes changed, left out or repeated. */
function mutate(random: Random, bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes)
  for (let i = 0; i <= random.below(12); i++) copy[random.below(copy.length)] = random.below(256)
  if (random.next() < 0.3) return copy.subarray(0, random.below(copy.length))
  return random.next() < 0.2 ? Buffer.concat([copy, copy.subarray(random.below(copy.length))]) : copy
}

/** A PNG whose header says that it is `width` × `height`, with so much of compressed nothing. */
function bomb(width: number, height: number, dataBytes: number): Buffer {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header.set([8, 2, 0, 0, 0], 8)
  const chunk = (type: string, data: Buffer) => {
    const body = Buffer.concat([Buffer.from(type), data])
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)]
    length.writeUInt32BE(data.length)
    sum.writeUInt32BE(crc32(body))
    return Buffer.concat([length, body, sum])
  }
  const signature = Buffer.from('89504e470d0a1a0a', 'hex')
  const data = deflateSync(Buffer.alloc(dataBytes))
  return Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', data), chunk('IEND', Buffer.alloc(0))])
}

/** Of PNG; Node 20.19 has none of its own. */
function crc32(bytes: Buffer): number {
  let crc = ~0
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
  }
  return ~crc >>> 0
}

const bombs = [
  bomb(50_000, 50_000, 1000),
  bomb(2 ** 31 - 1, 1, 1000),
  bomb(1, 2 ** 31 - 1, 1000),
  bomb(0, 0, 1000),
  bomb(7000, 7000, 1000),
  bomb(20_000, 20_000, 20 * 1024 ** 2),
  Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="99999999" height="99999999"><rect/></svg>'),
  Buffer.from(
    `<!DOCTYPE a [${Array.from({ length: 9 }, (_, i) => `<!ENTITY l${i + 1} "${`&l${i};`.repeat(10)}">`).join('')}]><svg xmlns="http://www.w3.org/2000/svg"><text>&l9;</text></svg>`,
  ),
  Buffer.concat([Buffer.from('GIF89a'), Buffer.from('ffffffff', 'hex'), randomBytes(500)]),
  Buffer.concat([Buffer.from('ffd8ffe0', 'hex'), randomBytes(2000)]),
]

const zipped = gzipSync(Buffer.alloc(32 * 1024 ** 2))

function wrongLatent(random: Random): ResumePoint {
  const size = random.pick([0, 1, 3, 1000, 4096, 16_384, 100_000])
  const shape = Array.from({ length: random.below(6) }, () => random.pick([0, 1, 8, 16, 64, 2 ** 31, 2 ** 32 - 1]))
  const data = random.bytes(size)
  if (random.next() < 0.5) for (let i = 0; i + 4 <= size; i += 4) data.writeFloatLE(random.pick(edges), i)
  const type = random.pick(['NUMBER_TYPE_UNSPECIFIED', 'NUMBER_TYPE_FLOAT32', 'NUMBER_TYPE_FLOAT16'] as const)
  return {
    step: random.pick([0, 1, 2, 2 ** 32 - 1]),
    latent: { shape, type, data },
    packDigest: random.pick(['', 'x']),
  }
}

function unknownCommand(random: Random): EditRequest {
  const editId = random.pick(['', 'nobody', 'x'.repeat(2000), '../../etc', '\u0000', `${random.next()}`])
  const sequence = random.pick([0, 1, 2 ** 53])
  const commands: Omit<EditRequest, 'editId'>[] = [
    { cancel: {} },
    { accept: { step: 2 ** 32 - 1 } },
    { pause: {} },
    { resume: {} },
    { update: { targetText: 'x' } },
    { acknowledge: { sequence } },
    { attach: { afterSequence: sequence, uid: 'x' } },
    {},
  ]
  return { editId, ...random.pick(commands) }
}

export const attacks: readonly Attack[] = [
  {
    name: 'random bytes as a message',
    make: (random) => ({ method: random.pick(methods), body: frame(random.bytes(random.below(2000))) }),
  },
  {
    name: 'bytes without a frame',
    make: (random) => ({ method: random.pick(methods), body: random.bytes(random.below(2000)) }),
  },
  {
    name: 'a huge declared size',
    make: (random) => {
      const declared = random.pick([2 ** 32 - 1, 2 ** 31, 2 ** 30, 17 * 1024 ** 2, 1024 ** 2])
      return { method: random.pick(methods), body: frame(random.bytes(random.below(100)), { declared }) }
    },
  },
  {
    name: 'a flag of compression',
    make: (random) => {
      const encoding = random.pick(['gzip', 'deflate', 'identity', 'x'])
      const headers = random.next() < 0.5 ? { 'grpc-encoding': encoding } : {}
      const flag = random.pick([1, 2, 255])
      return { method: random.pick(methods), body: frame(random.bytes(random.below(500)), { flag }), headers }
    },
  },
  {
    name: 'a bomb of gzip',
    make: (random) => ({
      method: random.pick(methods),
      body: frame(zipped, { flag: 1 }),
      headers: { 'grpc-encoding': 'gzip' },
    }),
  },
  {
    name: 'an unknown method or type',
    make: (random) => ({
      method: random.pick([
        '/',
        '/x',
        '/flexit.v1.Editor/',
        '/flexit.v1.Editor/Nothing',
        `/${'x'.repeat(4000)}`,
        'Edit',
      ]),
      body: frame(random.bytes(20)),
      headers: { 'content-type': random.pick(['application/grpc', 'text/html', 'application/json', '']) },
    }),
  },
  {
    name: 'a start with changed bytes',
    make: (random) => {
      const whole = serialise({ editId: '', start: good })
      return { method: random.pick(['Edit', 'RunEdit']), body: frame(mutate(random, whole)) }
    },
  },
  {
    name: 'a wrong latent',
    make: (random) => start({ resumeFrom: wrongLatent(random) }),
  },
  {
    name: 'an image that is a bomb',
    make: (random) => start({ image: random.pick(bombs) }),
  },
  {
    name: 'an image of random bytes',
    make: (random) =>
      start({ image: random.next() < 0.5 ? random.bytes(5000) : mutate(random, Buffer.from(good.image)) }),
  },
  {
    name: 'text that is no UTF-8',
    make: (random) => {
      const mark = 'XYZXYZ'
      const whole = serialise({ editId: '', start: { ...good, sourceText: mark, targetText: mark } })
      const bad = Buffer.from(random.pick(['fffefdfcfbfa', 'eda080eda080', 'c0afc0afc0af', 'f8888080808f']), 'hex')
      for (let at = whole.indexOf(mark); at >= 0; at = whole.indexOf(mark)) bad.copy(whole, at)
      return { method: 'Edit', body: frame(whole) }
    },
  },
  {
    name: 'texts of strange lengths and letters',
    make: (random) => {
      const text = () => random.pick(['', ' ', '\u0000', '\u202e', '🍎'.repeat(400), 'x'.repeat(1e6), '\ud800'])
      return start({ sourceText: text(), targetText: text(), pack: random.pick(['', 'tiny', '../..', text()]) })
    },
  },
  {
    name: 'parameters past their edges',
    make: (random) => {
      const own = () => (random.next() < 0.3 ? random.pick(edges) : undefined)
      const whole = () => (random.next() < 0.3 ? random.pick([0, 1, 1001, 2 ** 31, 2 ** 32 - 1]) : undefined)
      const networks = random.pick([
        [],
        ['vit'],
        ['x'.repeat(10_000)],
        Array.from({ length: 5000 }, () => 'vit'),
        ['__proto__'],
      ])
      const lambdas = { lambdaP: own(), lambdaZ: own(), lambdaS: own(), lambdaI: own() }
      const parameters = {
        ...lambdas,
        learningRate: own(),
        steps: whole() ?? 2,
        views: whole(),
        seed: whole(),
        networks,
      }
      return start({ parameters, deadlineMs: whole() })
    },
  },
  {
    name: 'wishes past their edges',
    make: (random) => {
      const whole = () => random.pick([undefined, 0, 1, 15, 2049, 2 ** 32 - 1])
      const picture = { quality: whole(), size: whole() }
      const stream = {
        stepEvery: whole(),
        previews: { every: whole(), picture },
        latents: { every: whole(), lossless: random.next() < 0.5 },
        result: picture,
        windowBytes: whole(),
      }
      return start({ stream, runOn: random.next() < 0.3 })
    },
  },
  {
    name: 'a flood of commands for nobody',
    make: (random) => edit(...Array.from({ length: 1 + random.below(100) }, () => unknownCommand(random))),
  },
  {
    name: 'ids of every kind',
    make: (random) => {
      const editId = random.pick(['x'.repeat(129), 'x'.repeat(1e6), 'a/b', '\u0000', 'é', ' ', '__proto__'])
      return edit({ editId, start: { ...good, image: Buffer.alloc(0) } })
    },
  },
]
