// A stream of the Edit call without the library's care: what comes is seen as it is, and acknowledged only if so wished.
// The protocol is proto/flexit/v1/editor.proto.

import { Client, type ClientDuplexStream, Metadata, credentials } from '@grpc/grpc-js'
import type { ClientEditRequest } from '../../src/client/client.js'
import { toStartEdit } from '../../src/client/request.js'
import { editorService } from '../../src/proto/definition.js'
import type { EditEvent, EditRequest } from '../../src/proto/messages.js'

export function isTerminal({ completed, cancelled, failed, handedBack }: EditEvent): boolean {
  return (completed ?? cancelled ?? failed ?? handedBack) !== undefined
}

/** One stream on a connection of its own. */
export class Wire {
  readonly #client: Client
  readonly #call: ClientDuplexStream<EditRequest, EditEvent>

  constructor(address: string, onEvent: (event: EditEvent, wire: Wire) => void) {
    this.#client = new Client(address, credentials.createInsecure(), {
      'grpc.enable_retries': 0,
      'grpc.use_local_subchannel_pool': 1,
    })
    const { path, requestSerialize, responseDeserialize } = editorService['Edit']!
    const deserialize = responseDeserialize as (bytes: Buffer) => EditEvent
    this.#call = this.#client.makeBidiStreamRequest<EditRequest, EditEvent>(
      path,
      requestSerialize,
      deserialize,
      new Metadata(),
    )
    this.#call.on('data', (event: EditEvent) => onEvent(event, this))
    // A stream that breaks is a matter of those who wait for events.
    this.#call.on('error', () => undefined)
  }

  start(editId: string, request: ClientEditRequest): void {
    this.send(editId, { start: toStartEdit(request) })
  }

  send(editId: string, command: Omit<EditRequest, 'editId'>): void {
    this.#call.write({ editId, ...command })
  }

  close(): void {
    this.#call.cancel()
    this.#client.close()
  }
}
