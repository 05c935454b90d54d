// One `Edit` call: reads commands in order and hands them to edits, whose events it writes.
// The protocol is proto/flexit/v1/editor.proto.

import type { ServerDuplexStream } from '@grpc/grpc-js'
import { invalidArgument } from '../engine/errors.js'
import type { EditEvent, EditRequest, EventBody } from '../proto/messages.js'
import { WireError, toStatus } from '../proto/status.js'
import type { Allowance } from './allowance.js'
import { unreadOf } from './bounded-service.js'
import { onConnectionEnding } from './connection.js'
import { type EditDesk, wrongId } from './edit-desk.js'
import type { ServerOptions } from './options.js'
import { eventBytes, type Sink } from './outbox.js'
import { maxIdLength, noSuchEdit } from './registry.js'
import type { Session } from './session.js'
import { planUpdate } from './start-request.js'
import { Writer } from './writer.js'

export type EditCall = ServerDuplexStream<EditRequest, EditEvent>

export interface EditStreamSetup {
  readonly desk: EditDesk
  readonly options: ServerOptions
  readonly tenant: string
  /** The tenant's. */
  readonly allowance: Allowance
  /** Whether the token that the call came with is still one of its tenant's. Errors: UNAUTHENTICATED. */
  readonly authenticate: () => void
}

/** Serve a call to its end. Never rejects. */
export async function serveEditStream(call: EditCall, setup: EditStreamSetup) {
  await new EditStream(call, setup).serve()
}

class EditStream {
  readonly #call: EditCall
  readonly #desk: EditDesk
  readonly #options: ServerOptions
  readonly #tenant: string
  readonly #authenticate: () => void
  readonly #writer: Writer
  /** Edits whose reader this stream is, until their last event was written. */
  readonly #edits = new Map<string, { readonly session: Session; readonly sink: Sink }>()
  #halfClosed = false
  #idle: NodeJS.Timeout | undefined
  /** Within this the client wanted to send its next command; 0: it promised nothing. */
  #promisedMs = 0
  #silence: NodeJS.Timeout | undefined
  /** The connection is to end: edits were handed back, to go on on another one. */
  #leaving = false

  constructor(call: EditCall, { desk, options, tenant, allowance, authenticate }: EditStreamSetup) {
    this.#call = call
    this.#desk = desk
    this.#options = options
    this.#tenant = tenant
    this.#authenticate = authenticate
    this.#writer = new Writer(call, allowance)
  }

  async serve(): Promise<void> {
    void this.#writer.closed.then(() => this.#close())
    const stopListening = this.#desk.onDraining(() => this.#endIfDone())
    const stopWatching = onConnectionEnding(this.#call, this.#options, () => this.#leave())
    void this.#read()
    await this.#writer.closed
    stopListening()
    stopWatching()
  }

  /** Never rejects. After an end from this side it may never resolve: the client need not end its own. */
  async #read(): Promise<void> {
    try {
      this.#watchIdleness()
      // A plain `for await` would destroy the stream when the client half-closes it, and with it what is to be written.
      const requests = this.#call.iterator({ destroyOnReturn: false }) as AsyncIterable<EditRequest>
      for await (const request of requests) {
        await this.#handle(request)
        // This frame holds its last command until the next one comes; its image is not counted any more.
        delete request.start
        this.#watchIdleness()
        this.#watchSilence()
      }
      this.#halfClosed = true
      clearTimeout(this.#silence)
      // Those that wait for acknowledgements go on.
      for (const { session } of this.#edits.values()) session.acknowledge(0)
      this.#endIfDone()
    } catch (error) {
      // A stream that was cancelled while it was read.
      if (!this.#writer.over) this.#writer.fail(error)
    }
  }

  async #handle(request: EditRequest): Promise<void> {
    const unread = unreadOf(request)
    const editId = unread?.editId ?? request.editId ?? ''
    // What is echoed has an end.
    const id = editId.slice(0, maxIdLength + 1)
    try {
      if (id !== editId) throw wrongId()
      if (unread === undefined) await this.#obey(id, request)
      else if (unread.starts) await this.#refuse(this.#desk.newId(this.#tenant, id), unread.error)
      else throw unread.error
    } catch (error) {
      const updateNumber = request.update?.number ?? 0
      await this.#answer(id, { rejected: { status: toStatus(error), updateNumber } })
    }
  }

  async #obey(id: string, request: EditRequest): Promise<void> {
    const { start, attach, cancel, accept, pause, resume, update, acknowledge, ping } = request
    if (start !== undefined) await this.#start(id, start)
    else if (attach !== undefined) {
      // Each attach writes at once, also where what an earlier one writes is not taken.
      await this.#writer.room()
      // Of a stream that ended meanwhile it would take the edit from a living reader.
      if (this.#writer.over) return
      this.#authenticate()
      const session = this.#desk.registry.get(this.#tenant, id, attach.uid)
      this.#adopt(session, attach.afterSequence ?? 0)
    } else if (cancel !== undefined) this.#own(id).cancel()
    else if (accept !== undefined) await this.#own(id).accept(accept.step)
    else if (pause !== undefined) await this.#own(id).pause(true)
    else if (resume !== undefined) await this.#own(id).pause(false)
    else if (update !== undefined) {
      const session = this.#own(id)
      await session.update(planUpdate(update.targetText, update.parameters, this.#options), update.number)
    } else if (acknowledge !== undefined) this.#own(id).acknowledge(acknowledge.sequence)
    else if (ping !== undefined) {
      this.#promisedMs = ping.everyMs ?? 0
      await this.#answer(id, { pong: {} })
    } else throw invalidArgument('command', 'the request has no command that is known here', 'Set one of `command`.')
  }

  async #start(id: string, start: NonNullable<EditRequest['start']>): Promise<void> {
    const name = this.#desk.newId(this.#tenant, id)
    try {
      this.#authenticate()
      this.#desk.checkStream(this.#tenant, name, { count: this.#edits.size, leaving: this.#leaving })
      this.#adopt(this.#desk.start(this.#tenant, name, start, this.#call.metadata), 0)
    } catch (error) {
      await this.#refuse(name, error)
    }
  }

  /** An edit that never was. */
  async #refuse(id: string, error: unknown): Promise<void> {
    await this.#answer(id, { failed: { status: toStatus(error) } }, 1)
  }

  /** An edit of this stream, or one that has ended: commands to it may come late. */
  #own(id: string): Session {
    const session = this.#edits.get(id)?.session ?? this.#desk.registry.find(this.#tenant, id)
    if (session !== undefined && (session.over || this.#edits.has(id))) return session
    throw noSuchEdit(id)
  }

  #adopt(session: Session, afterSequence: number): void {
    const sink: Sink = {
      acknowledges: false,
      isMute: () => this.#halfClosed,
      write: (event, bytes) => this.#writer.write(event, bytes),
      ended: () => {
        session.detach(sink)
        this.#release(session, sink)
      },
      lost: () => this.#release(session, sink),
    }
    this.#edits.set(session.id, { session, sink })
    session.attach(sink, afterSequence)
  }

  async #answer(editId: string, body: EventBody, sequence = 0): Promise<void> {
    const event = { editId, sequence, droppedPreviews: 0, ...body }
    await this.#writer.write(event, eventBytes(event))
  }

  #release({ id }: Session, sink: Sink): void {
    if (this.#edits.get(id)?.sink === sink) this.#edits.delete(id)
    this.#watchIdleness()
    this.#endIfDone()
  }

  /** When nothing can come any more, or nothing that the stream is to wait for. */
  #endIfDone(): void {
    const due = [...this.#edits.values()].filter(({ session }) => !(this.#leaving && session.runsOn))
    if (due.length === 0 && (this.#halfClosed || this.#leaving || this.#desk.draining)) this.#writer.end()
  }

  /** The connection is to end: its edits go on elsewhere, but those that run on stay, to be attached again. */
  #leave(): void {
    this.#leaving = true
    for (const { session } of this.#edits.values()) if (!session.runsOn) void session.handBack()
    this.#endIfDone()
  }

  #watchIdleness(): void {
    const { idleStreamMs } = this.#options
    clearTimeout(this.#idle)
    if (idleStreamMs === 0 || this.#writer.over) return
    this.#idle = setTimeout(() => {
      if (this.#edits.size > 0) this.#watchIdleness()
      else this.#writer.end()
    }, idleStreamMs).unref()
  }

  /** A client that is silent for longer than it promised is gone, though a proxy may keep its stream. */
  #watchSilence(): void {
    clearTimeout(this.#silence)
    if (this.#promisedMs === 0 || this.#writer.over) return
    const silentMs = Math.min(3 * this.#promisedMs, 2 ** 31 - 1)
    this.#silence = setTimeout(() => {
      const message = `nothing was heard from the client for ${silentMs} ms`
      this.#writer.fail(new WireError({ code: 'UNAVAILABLE', message, cure: 'Attach to its edits again.' }))
      // What a proxy does not take does not get to the end of the stream either.
      this.#close()
    }, silentMs).unref()
  }

  #close(): void {
    clearTimeout(this.#idle)
    clearTimeout(this.#silence)
    for (const { session, sink } of this.#edits.values()) session.detach(sink)
    this.#edits.clear()
  }
}
