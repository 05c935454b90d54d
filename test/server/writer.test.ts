// What the streams of one tenant may leave unread together.

import { EventEmitter } from 'node:events'
import test from 'ava'
import type { EditEvent } from '../../src/proto/messages.js'
import { Allowance, Allowances } from '../../src/server/allowance.js'
import { type EventCall, Writer } from '../../src/server/writer.js'

const MiB = 1024 ** 2

/** A stream whose client reads when `read` is called. */
class Stream extends EventEmitter {
  readonly written: string[] = []
  readonly writer: Writer
  readonly #taken: (() => void)[] = []

  constructor(allowance: Allowance) {
    super()
    this.writer = new Writer(this as unknown as EventCall, allowance)
  }

  /** Called by the writer. */
  write({ editId }: EditEvent, taken: () => void): void {
    this.written.push(editId)
    this.#taken.push(taken)
  }

  send(editId: string, bytes: number): void {
    void this.writer.write({ editId, sequence: 1, droppedPreviews: 0 }, bytes)
  }

  read(): void {
    this.#taken.shift()?.()
  }
}

const settled = () => new Promise(setImmediate)

test('large events wait while others of the tenant lie unread, in their order, and small ones do not', async (t) => {
  const allowances = new Allowances(2 * MiB)
  const [stuck, first, second, other] = ['a', 'a', 'a', 'b'].map((tenant) => new Stream(allowances.of(tenant))) as [
    Stream,
    Stream,
    Stream,
    Stream,
  ]
  stuck.send('two', 2 * MiB)
  first.send('large', MiB)
  second.send('later', MiB)
  other.send('another tenant', MiB)
  await settled()
  t.deepEqual([stuck.written, first.written, second.written], [['two'], [], []])
  t.deepEqual(other.written, ['another tenant'])
  first.send('small', 1000)
  first.send('small, too', 1000)
  await settled()
  t.deepEqual(first.written, ['small'], 'one of them at a time')
  first.read()
  await settled()
  t.deepEqual(first.written, ['small', 'small, too'])
  first.read()
  stuck.read()
  await settled()
  t.deepEqual([first.written.at(-1), second.written], ['large', ['later']])
})

test('what a stream that is gone left unread is given back, once', async (t) => {
  const allowance = new Allowance(MiB)
  const streams = Array.from({ length: 4 }, () => new Stream(allowance)) as [Stream, Stream, Stream, Stream]
  const [gone, waiting, next, last] = streams
  for (const stream of streams) stream.send('large', MiB)
  await settled()
  waiting.emit('cancelled')
  gone.emit('cancelled')
  gone.read()
  await settled()
  t.deepEqual([waiting.written, next.written, last.written], [[], ['large'], []])
  next.read()
  await settled()
  t.deepEqual(last.written, ['large'])
})

test('what is larger than all comes alone', async (t) => {
  const allowance = new Allowance(MiB)
  const [one, two] = [new Stream(allowance), new Stream(allowance)]
  one.send('huge', 3 * MiB)
  two.send('large', MiB)
  await settled()
  t.deepEqual([one.written, two.written], [['huge'], []])
  one.read()
  await settled()
  t.deepEqual(two.written, ['large'])
})
