// The events of one edit, in order: for its reader, for observers, and what is kept of them for observers to come.

import type { EditEvent, EventBody } from '../proto/messages.js'
import type { Metrics } from './metrics.js'
import { type EditMessage, Outbox, type OutboxEvents, type Sink, bareOf, eventBytes } from './outbox.js'

export interface EventLogSetup {
  readonly editId: string
  readonly windowBytes: number
  readonly metrics: Pick<Metrics, 'bufferedBytes' | 'droppedPreviews'>
  /** The reader has room again. */
  readonly onCredit: () => void
}

/** An event with its pictures, which are made when they are first sent. */
export interface LatePictures {
  readonly whole: () => Promise<EventBody>
  readonly estimatedBytes: number
}

const maxNotes = 8

export class EventLog {
  /** Who started the edit, or took it over. */
  readonly reader: Outbox
  readonly #setup: EventLogSetup
  readonly #observers = new Set<Outbox>()
  /** What an observer hears first: of steps only the last. */
  readonly #history: EditMessage[] = []
  readonly #notes: EditMessage[] = []
  #lastStep: EditMessage | undefined
  #sequence = 0
  #over = false

  constructor(setup: EventLogSetup) {
    this.#setup = setup
    this.reader = this.#outbox(setup.onCredit)
  }

  /** The number of the last event. */
  get sequence(): number {
    return this.#sequence
  }

  /** What is held in memory for readers. */
  get bytes(): number {
    return this.reader.bytes + this.#kept().reduce((sum, { bare }) => sum + eventBytes(bare), 0)
  }

  /** The next event. After a terminal one comes none. */
  tell(body: EventBody, pictures?: LatePictures): void {
    this.#sequence += 1
    this.#over = (body.completed ?? body.cancelled ?? body.failed ?? body.handedBack) !== undefined
    const head = { editId: this.#setup.editId, sequence: this.#sequence, droppedPreviews: 0 }
    const bare: EditEvent = { ...head, ...body }
    const message: EditMessage = {
      sequence: this.#sequence,
      bare,
      terminal: this.#over,
      ...(pictures === undefined
        ? {}
        : {
            pictures: {
              event: once(async () => ({ ...head, ...(await pictures.whole()) })),
              estimatedBytes: pictures.estimatedBytes,
            },
          }),
    }
    // Of the last step the final picture tells more than its preview.
    if (this.#over && this.#lastStep !== undefined) this.#lastStep = bareOf(this.#lastStep)
    if (body.step !== undefined) this.#lastStep = message
    else if (body.updated === undefined && body.warning === undefined) this.#history.push(message)
    else this.#remember(message)
    this.reader.push(message)
    for (const outbox of this.#observers) if (this.#over || !outbox.behind) outbox.push(message)
  }

  /** Send events after `afterSequence` to `sink` as well; where none is to come, it is only ended. Returns how to stop. */
  observe(sink: Sink, afterSequence: number): () => void {
    if (this.#over && afterSequence >= this.#sequence) {
      sink.ended()
      return () => undefined
    }
    const outbox = this.#outbox(() => undefined)
    const inOrder = this.#kept().sort((a, b) => a.sequence - b.sequence)
    for (const message of inOrder) if (message.sequence > afterSequence) outbox.push(message)
    this.#observers.add(outbox)
    outbox.attach(sink, afterSequence)
    return () => {
      this.#observers.delete(outbox)
      outbox.clear()
    }
  }

  #kept(): EditMessage[] {
    return [...this.#history, ...this.#notes, ...(this.#lastStep === undefined ? [] : [this.#lastStep])]
  }

  /** Of updates and warnings only the last few, for there may be any number; without states, which watchers do not need. */
  #remember(message: EditMessage): void {
    const { bare } = message
    const updated = bare.updated === undefined ? {} : { updated: { ...bare.updated, resumePoint: null } }
    this.#notes.push({ ...message, bare: { ...bare, ...updated } })
    if (this.#notes.length > maxNotes) this.#notes.shift()
  }

  #outbox(onCredit: OutboxEvents['onCredit']): Outbox {
    const { windowBytes, metrics } = this.#setup
    return new Outbox(windowBytes, {
      onBytes: (change) => metrics.bufferedBytes.inc(change),
      onDropped: () => metrics.droppedPreviews.inc(),
      onCredit,
    })
  }
}

/** Call `make` the first time only. It is let go of then, with all that it holds: for a preview its raw picture. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let left: (() => Promise<T>) | undefined = make
  let made: Promise<T> | undefined
  return () => {
    made ??= left!()
    left = undefined
    return made
  }
}
