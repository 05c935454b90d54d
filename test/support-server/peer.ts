// A client without the client library: what is sent and received is seen as it is.

import {
  type CallOptions,
  type ChannelCredentials,
  Client,
  type ClientDuplexStream,
  Metadata,
  type ServiceError,
  credentials,
} from '@grpc/grpc-js'
import { editorService } from '../../src/proto/definition.js'
import type { EditEvent, EditRequest } from '../../src/proto/messages.js'

type Deserialize<T> = (bytes: Buffer) => T

export class Peer {
  readonly client: Client

  constructor(address: string, secrets: ChannelCredentials = credentials.createInsecure()) {
    this.client = new Client(address, secrets, { 'grpc.enable_retries': 0, 'grpc.use_local_subchannel_pool': 1 })
  }

  close(): void {
    this.client.close()
  }

  edit(metadata = new Metadata()): EditPeer {
    const { path, requestSerialize, responseDeserialize } = editorService['Edit']!
    const deserialize = responseDeserialize as Deserialize<EditEvent>
    return new EditPeer(
      this.client.makeBidiStreamRequest<EditRequest, EditEvent>(path, requestSerialize, deserialize, metadata),
    )
  }

  /** Events of RunEdit or Attach. */
  stream(method: 'RunEdit' | 'Attach', request: object, options: CallOptions = {}): Events {
    const { path, requestSerialize, responseDeserialize } = editorService[method]!
    const deserialize = responseDeserialize as Deserialize<EditEvent>
    return new Events(
      this.client.makeServerStreamRequest(path, requestSerialize, deserialize, request, new Metadata(), options),
    )
  }

  unary<T>(method: string, request: object, metadata = new Metadata()): Promise<T> {
    const { path, requestSerialize, responseDeserialize } = editorService[method]!
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize as Deserialize<T>,
        request,
        metadata,
        (error, answer) => (error === null ? resolve(answer!) : reject(error)),
      )
    })
  }
}

interface EventStream {
  on(name: 'data', listener: (event: EditEvent) => void): unknown
  on(name: 'error', listener: (error: ServiceError) => void): unknown
  on(name: 'end', listener: () => void): unknown
  cancel(): void
  pause(): unknown
}

/** Everything that came, and waiting for what is to come. */
export class Events {
  readonly all: EditEvent[] = []
  /** How the stream ended: without an error, or with which. */
  readonly over: Promise<ServiceError | undefined>
  readonly #stream: EventStream
  #waiting: { readonly wanted: (event: EditEvent) => boolean; readonly resolve: (event: EditEvent) => void }[] = []

  constructor(stream: EventStream) {
    this.#stream = stream
    this.over = new Promise((resolve) => {
      stream.on('error', resolve)
      stream.on('end', () => resolve(undefined))
    })
    stream.on('data', (event) => {
      this.all.push(event)
      for (const { wanted, resolve } of this.#waiting) if (wanted(event)) resolve(event)
      this.#waiting = this.#waiting.filter(({ wanted }) => !wanted(event))
    })
  }

  /** The first event of this kind, past or to come. */
  async first<K extends keyof EditEvent>(kind: K, wanted: (event: EditEvent) => boolean = () => true) {
    const fits = (event: EditEvent) => event[kind] !== undefined && wanted(event)
    const event = this.all.find(fits)
    if (event !== undefined) return event as EditEvent & Required<Pick<EditEvent, K>>
    const coming = new Promise<EditEvent>((resolve) => this.#waiting.push({ wanted: fits, resolve }))
    const gone = this.over.then((error) => {
      throw new Error(`the stream ended before ${kind} came${error === undefined ? '' : `: ${error.message}`}`)
    })
    return (await Promise.race([coming, gone])) as EditEvent & Required<Pick<EditEvent, K>>
  }

  cancel(): void {
    this.#stream.cancel()
  }

  /** Read no more. */
  pause(): void {
    this.#stream.pause()
  }
}

export class EditPeer extends Events {
  readonly #call: ClientDuplexStream<EditRequest, EditEvent>

  constructor(call: ClientDuplexStream<EditRequest, EditEvent>) {
    super(call)
    this.#call = call
  }

  send(editId: string, command: Omit<EditRequest, 'editId'>): void {
    this.#call.write({ editId, ...command })
  }

  end(): void {
    this.#call.end()
  }
}

/** The one kind of an event. */
export function kindOf(event: EditEvent): string {
  const kinds = ['accepted', 'started', 'step', 'warning', 'updated', 'rejected', 'completed', 'cancelled', 'failed']
  return [...kinds, 'handedBack'].find((kind) => event[kind as keyof EditEvent] !== undefined) ?? 'none'
}
