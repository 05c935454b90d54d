// A call by HTTP/2 alone, so that what is sent can be anything; the answer is what the server said first and last.
// gRPC over HTTP/2: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

import { type ClientHttp2Session, type IncomingHttpHeaders, connect } from 'node:http2'
import { status as codes } from '@grpc/grpc-js'
import { editorService, serviceName } from '../../src/proto/definition.js'
import type { EditEvent } from '../../src/proto/messages.js'

export interface RawCall {
  readonly method: string
  readonly body: Buffer
  readonly headers?: Readonly<Record<string, string>>
}

/** How long an answer may take. */
const patienceMs = 15_000

/** A message with its prefix; `declared` and `flag` may be lies. */
export function frame(message: Buffer, { declared = message.length, flag = 0 } = {}): Buffer {
  const prefix = Buffer.alloc(5)
  prefix.writeUInt8(flag)
  prefix.writeUInt32BE(declared >>> 0, 1)
  return Buffer.concat([prefix, message])
}

export class RawConnection {
  readonly #session: ClientHttp2Session

  constructor(port: number) {
    this.#session = connect(`http://127.0.0.1:${port}`)
    this.#session.on('error', () => undefined)
  }

  close(): void {
    this.#session.destroy()
  }

  /**
   * Make a call and end its sending side. Resolves with a word for the answer: of an edit the first status or `taken in`,
   * else the call's status, else how the stream ended; `no answer` after 15 s. `message`: what a status said.
   */
  call({ method, body, headers = {} }: RawCall): Promise<{ readonly answer: string; readonly message: string }> {
    return new Promise((resolve) => {
      const stream = this.#session.request({
        ':method': 'POST',
        ':path': method.startsWith('/') ? method : `/${serviceName}/${method}`,
        'content-type': 'application/grpc',
        te: 'trailers',
        ...headers,
      })
      let [answer, message] = ['no answer', '']
      const timer = setTimeout(() => stream.close(), patienceMs)
      const onStatus = (given: IncomingHttpHeaders) => {
        const code = given['grpc-status']
        const httpStatus = given[':status']
        if (code !== undefined) answer = codes[Number(code)] ?? `status ${Number(code)}`
        else if (httpStatus !== undefined && Number(httpStatus) !== 200) answer = `HTTP ${Number(httpStatus)}`
        message = String(given['grpc-message'] ?? '')
      }
      stream.on('response', onStatus)
      stream.on('trailers', onStatus)
      let received = Buffer.alloc(0)
      stream.on('data', (data: Buffer) => {
        received = Buffer.concat([received, data])
        for (let size = messageBytes(received); size !== undefined; size = messageBytes(received)) {
          const told = isEventStream(method) ? meaning(received.subarray(5, size), method) : undefined
          received = received.subarray(size)
          if (told === undefined) continue
          ;({ answer, message } = told)
          if (!told.final) continue
          // An edit that was taken in after all is not wanted.
          stream.close()
          return
        }
      })
      stream.on('error', (error: NodeJS.ErrnoException) => {
        if (answer === 'no answer') answer = `stream ended: ${error.code ?? 'error'}`
      })
      stream.on('close', () => {
        clearTimeout(timer)
        resolve({ answer, message })
      })
      stream.end(body)
    })
  }
}

/** Of the first message with its prefix; undefined where it is not whole. */
function messageBytes(received: Buffer): number | undefined {
  const size = received.length < 5 ? Infinity : 5 + received.readUInt32BE(1)
  return received.length < size ? undefined : size
}

function isEventStream(method: string): boolean {
  return ['Edit', 'RunEdit', 'Attach'].includes(method)
}

/** What is known of an edit; not final while its picture was not looked at yet. */
function meaning(bytes: Buffer, method: string) {
  const event = editorService[method]!.responseDeserialize(bytes) as EditEvent
  const status = (event.failed ?? event.rejected)?.status
  if (status != null) return { answer: codes[status.code], message: status.message, final: true }
  return { answer: 'taken in', message: '', final: event.accepted === undefined }
}
