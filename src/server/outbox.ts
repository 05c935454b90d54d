// The events of one edit on their way to one reader: credit, and what is left out when the reader is behind.
// The rules are those of StreamOptions.window_bytes in proto/flexit/v1/editor.proto.

import type { EditEvent } from '../proto/messages.js'

/** An event of an edit. Its number never changes; whether it still has its pictures may. */
export interface EditMessage {
  readonly sequence: number
  /** What always arrives. */
  readonly bare: EditEvent
  /** What may be left out of it; made when it is first wanted. Never rejects. */
  readonly pictures?: { readonly event: () => Promise<EditEvent>; readonly estimatedBytes: number }
  readonly terminal: boolean
}

/** Where events go: a stream. `write` resolves when the next may come, and also once the stream is gone. */
export interface Sink {
  write(event: EditEvent, bytes: number): Promise<void>
  /** What was written counts as acknowledged. */
  readonly acknowledges: boolean
  /** Who cannot acknowledge any more: what was written makes room as far as the window needs it. */
  readonly isMute?: () => boolean
  /** The terminal event was written. */
  ended(): void
  /** Another reader has taken the events over. */
  lost(): void
}

interface Entry {
  message: EditMessage
  bytes: number
}

export interface OutboxEvents {
  onBytes(change: number): void
  onDropped(): void
  /** Something was acknowledged. */
  onCredit(): void
}

const overheadBytes = 128

const parametersBytes = 1024

/** The message without its pictures: nothing of them is held any more, not even what would make them. */
export function bareOf({ sequence, bare, terminal }: EditMessage): EditMessage {
  return { sequence, bare, terminal }
}

/** What an event counts for: its arrays and texts, and constants for the rest. */
export function eventBytes(event: EditEvent): number {
  const { step, warning, updated, completed, cancelled, failed, handedBack } = event
  const state = handedBack?.state
  const point = (step ?? updated ?? completed ?? cancelled ?? failed)?.resumePoint ?? state?.resumePoint
  const arrays = [step?.preview?.data, completed?.picture?.data, point?.latent?.data, state?.image]
  const text = warning?.message ?? updated?.targetText ?? ''
  const rest = overheadBytes + event.editId.length + 2 * text.length + (updated === undefined ? 0 : parametersBytes)
  return arrays.reduce((sum, array) => sum + (array?.length ?? 0), rest)
}

export class Outbox {
  readonly #windowBytes: number
  readonly #events: OutboxEvents
  /** What was not acknowledged, oldest first; of these the first `#sent` went to the present reader. */
  readonly #entries: Entry[] = []
  #sent = 0
  #sentBytes = 0
  #bytes = 0
  #dropped = 0
  #lastSent = 0
  /** The terminal event, once it is there. */
  #end: EditMessage | undefined
  /** Whom a pump serves. One of an earlier reader may still wait for it, and stops when it wakes. */
  #pumping: Sink | undefined
  /** What is being made for the present reader. */
  #encoding: Entry | undefined
  #sink: Sink | undefined

  constructor(windowBytes: number, events: OutboxEvents) {
    this.#windowBytes = windowBytes
    this.#events = events
  }

  /** Whether more than the window was not acknowledged. */
  get behind(): boolean {
    return this.#bytes >= this.#windowBytes
  }

  /** Of all events that were not acknowledged. */
  get bytes(): number {
    return this.#bytes
  }

  get sink(): Sink | undefined {
    return this.#sink
  }

  /** Whether the answer to an update with this number was not acknowledged yet. */
  answers(number: number): boolean {
    return this.#entries.some(({ message }) => message.bare.updated?.number === number)
  }

  push(message: EditMessage): void {
    if (message.terminal) this.#end = message
    this.#add(message)
    this.#strip()
    void this.#pump()
  }

  /** Everything up to `sequence` arrived; numbers that were not sent yet do not count. */
  acknowledge(sequence: number): void {
    this.#forget(Math.min(sequence, this.#lastSent))
    this.#makeRoom()
    void this.#pump()
  }

  /**
   * Send to `sink` from the event after `afterSequence` on; another reader hears no more. The terminal event comes in any
   * case: what counted as acknowledged need not have arrived, and nothing else would tell this reader that it is over.
   */
  attach(sink: Sink, afterSequence: number): void {
    const before = this.#sink
    this.#sink = sink
    if (before !== sink) before?.lost()
    this.#forget(Math.min(afterSequence, this.#lastSent))
    if (this.#entries.length === 0 && this.#end !== undefined) this.#add(this.#end)
    this.#rewind()
    void this.#pump()
  }

  /** The reader is gone. What it did not acknowledge is kept for the next one. */
  detach(): void {
    this.#sink = undefined
    this.#rewind()
  }

  /** Forget everything. */
  clear(): void {
    this.detach()
    this.#end = undefined
    this.#entries.length = 0
    this.#resize(-this.#bytes)
  }

  #add(message: EditMessage): void {
    const bytes = eventBytes(message.bare) + (message.pictures?.estimatedBytes ?? 0)
    this.#entries.push({ message, bytes })
    this.#resize(bytes)
  }

  #rewind(): void {
    this.#sent = 0
    this.#sentBytes = 0
    this.#encoding = undefined
  }

  #forget(sequence: number): void {
    let credit = false
    for (let entry = this.#entries[0]; entry !== undefined; entry = this.#entries[0]) {
      if (entry.message.sequence > sequence) break
      this.#entries.shift()
      if (this.#sent > 0) {
        this.#sent -= 1
        this.#sentBytes -= entry.bytes
      }
      this.#resize(-entry.bytes)
      credit = true
    }
    if (credit) this.#events.onCredit()
  }

  /** For a mute reader. The rest is kept for one that may attach. */
  #makeRoom(): void {
    if (this.#sink?.isMute?.() !== true) return
    while (this.behind && this.#sent > 0) this.#forget(this.#entries[0]!.message.sequence)
  }

  /** Past the window only the newest event keeps its pictures. */
  #strip(): void {
    for (const entry of this.#entries.slice(this.#sent, -1)) {
      if (this.#bytes <= this.#windowBytes) return
      if (entry.message.pictures === undefined || entry === this.#encoding) continue
      entry.message = bareOf(entry.message)
      this.#weigh(entry, entry.message.bare)
      this.#dropped += 1
      this.#events.onDropped()
    }
  }

  async #pump(): Promise<void> {
    const sink = this.#sink
    if (sink === undefined || this.#pumping === sink) return
    this.#pumping = sink
    try {
      for (let entry = this.#next(sink); entry !== undefined; entry = this.#next(sink)) await this.#send(sink, entry)
    } finally {
      if (this.#pumping === sink) this.#pumping = undefined
    }
  }

  /** What `sink` may be sent now. The end of an edit needs no credit, nor does what stands before it. */
  #next(sink: Sink): Entry | undefined {
    if (sink !== this.#sink) return undefined
    return this.#end !== undefined || this.#sentBytes < this.#windowBytes ? this.#entries[this.#sent] : undefined
  }

  /** What is counted here is of the present reader: nothing is where another one has come during a wait. */
  async #send(sink: Sink, entry: Entry): Promise<void> {
    const { message } = entry
    this.#encoding = entry
    const event = message.pictures === undefined ? message.bare : await message.pictures.event()
    if (sink !== this.#sink) return
    this.#encoding = undefined
    if (entry !== this.#entries[this.#sent]) return
    this.#weigh(entry, event)
    this.#sent += 1
    this.#sentBytes += entry.bytes
    this.#lastSent = Math.max(this.#lastSent, message.sequence)
    await sink.write({ ...event, droppedPreviews: this.#dropped }, entry.bytes)
    // The next reader is to have it, for its stream may have gone meanwhile.
    if (sink !== this.#sink) return
    if (sink.acknowledges) this.acknowledge(message.sequence)
    else this.#makeRoom()
    if (message.terminal) sink.ended()
  }

  #weigh(entry: Entry, event: EditEvent): void {
    const bytes = eventBytes(event)
    this.#resize(bytes - entry.bytes)
    entry.bytes = bytes
  }

  #resize(change: number): void {
    this.#bytes += change
    this.#events.onBytes(change)
  }
}
