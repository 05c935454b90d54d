// What the streams of one tenant may leave unread together.

import { EventEmitter } from 'node:events'
import test from 'ava'
import type { EditEvent } from '../../src/proto/messages.js'
import { Allowance, Allowances } from '../../src/server/allowance.js'
import { type EventCall, Writer } from '../../src/server/writer.js'

const MiB = 1024 ** 2
const patienceMs = 3_600_000

/** A stream whose client reads when `read` is called. */
class Stream extends EventEmitter {
  readonly written: string[] = []
  readonly writer: Writer
  readonly #taken: (() => void)[] = []

  /** As grpc-js holds it. */
  readonly stream = { close: () => void this.emit('cancelled') }

  constructor(allowance: Allowance) {
    super()
    this.writer = new Writer(this as unknown as EventCall, allowance)
  }

  /** Called by the writer. */
  write({ editId }: EditEvent, taken: () => void): void {
    this.written.push(editId)
    this.#taken.push(taken)
  }

  /** Called by the writer. */
  end(): void {
    this.written.push('end')
  }

  send(editId: string, bytes: number): void {
    void this.writer.write({ editId, sequence: 1, droppedPreviews: 0 }, bytes)
  }

  read(): void {
    this.#taken.shift()?.()
  }
}

const settled = () => new Promise(setImmediate)

test('large events wait while others of the tenant lie unread, and small ones do not', async (t) => {
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
  const allowance = new Allowance(MiB, patienceMs)
  const streams = Array.from({ length: 4 }, () => new Stream(allowance)) as [Stream, Stream, Stream, Stream]
  const [gone, waiting, ...others] = streams
  for (const stream of streams) stream.send('large', MiB)
  await settled()
  waiting.emit('cancelled')
  gone.emit('cancelled')
  gone.read()
  await settled()
  t.deepEqual(waiting.written, [])
  const served = others.filter(({ written }) => written.length > 0)
  t.is(served.length, 1)
  served[0]!.read()
  await settled()
  t.deepEqual(
    others.map(({ written }) => written),
    [['large'], ['large']],
  )
})

test('of those that wait who took something last goes first', async (t) => {
  const allowance = new Allowance(MiB, patienceMs)
  const [stuck, reader, silent] = [new Stream(allowance), new Stream(allowance), new Stream(allowance)]
  stuck.send('large', MiB)
  silent.send('large', MiB)
  reader.send('small', 1000)
  reader.read()
  reader.send('large', MiB)
  stuck.read()
  await settled()
  t.deepEqual([reader.written, silent.written], [['small', 'large'], []])
  reader.read()
  await settled()
  t.deepEqual(silent.written, ['large'])
})

test('what is larger than all comes alone', async (t) => {
  const allowance = new Allowance(MiB, patienceMs)
  const [one, two] = [new Stream(allowance), new Stream(allowance)]
  one.send('huge', 3 * MiB)
  two.send('large', MiB)
  await settled()
  t.deepEqual([one.written, two.written], [['huge'], []])
  one.read()
  await settled()
  t.deepEqual(two.written, ['large'])
})

test('an end comes after what waits, an error at once', async (t) => {
  const allowance = new Allowance(MiB, patienceMs)
  const [stuck, ending, failing] = [new Stream(allowance), new Stream(allowance), new Stream(allowance)]
  const errors: unknown[] = []
  failing.on('error', (error) => errors.push(error))
  stuck.send('large', MiB)
  for (const stream of [ending, failing]) {
    stream.send('small', 1000)
    stream.send('small, too', 1000)
  }
  ending.writer.end()
  ending.send('late', 1000)
  failing.writer.fail(new Error('x'))
  await settled()
  t.deepEqual(ending.written, ['small', 'small, too', 'end'])
  t.deepEqual([failing.written, errors.length], [['small'], 1])
  for (const stream of [ending, failing]) stream.emit('close')
  stuck.read()
  const last = new Stream(allowance)
  last.send('large', MiB)
  t.deepEqual(last.written, ['large'], 'all was given back')
})

test('who attaches again and again waits for what waits for others', async (t) => {
  const allowance = new Allowance(MiB, patienceMs)
  const [stuck, stream] = [new Stream(allowance), new Stream(allowance)]
  stuck.send('large', MiB)
  stream.send('large', MiB)
  let hasRoom = false
  void stream.writer.room().then(() => (hasRoom = true))
  await settled()
  t.false(hasRoom)
  stuck.read()
  await settled()
  stream.read()
  await settled()
  t.true(hasRoom)
})

test('who takes nothing while others wait is dropped, and nobody else', async (t) => {
  const allowance = new Allowance(2 * MiB, 1)
  const [stuck, failed, idle, waiting] = Array.from({ length: 4 }, () => new Stream(allowance)) as [
    Stream,
    Stream,
    Stream,
    Stream,
  ]
  failed.on('error', () => undefined)
  for (const stream of [stuck, failed]) stream.send('large', MiB)
  failed.writer.fail(new Error('x'))
  waiting.send('large', 2 * MiB)
  await Promise.all([stuck.writer.closed, failed.writer.closed])
  await settled()
  t.deepEqual(waiting.written, ['large'])
  t.false(idle.writer.over)
})
