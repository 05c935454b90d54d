// A load on a server: edits in a closed loop (so many at once) or in an open one (so many a second, come what may).
// Times of an open loop count from when an edit was due, not from when it was sent: https://www.scylladb.com/2021/04/22/on-coordinated-omission/

import { setTimeout as sleep } from 'node:timers/promises'
import {
  type ClientEditRequest,
  type ConnectOptions,
  type EditRun,
  type FlexitClient,
  connect,
} from '../../src/client/client.js'
import { Random } from '../kit/random.js'
import { type Summary, summarise } from '../kit/statistics.js'

export type Arrivals =
  /** Whenever one ends, another begins. */
  | { readonly kind: 'closed'; readonly edits: number }
  /** Independent of each other and of the server: a Poisson process. */
  | { readonly kind: 'open'; readonly perSecond: number; readonly seed: number }

export interface LoadPlan {
  readonly servers: readonly string[]
  readonly connection?: ConnectOptions
  readonly arrivals: Arrivals
  readonly request: (i: number) => ClientEditRequest
  /** Send no more after so many edits; all of them are waited for. */
  readonly edits?: number | undefined
  /** Send no more after so long; those that have not ended then are cancelled. One of the two must be given. */
  readonly seconds?: number | undefined
  /** Leave out of rates and times what happened before. Default 0. */
  readonly warmUpSeconds?: number
  /** After the last was sent and cancelled: how long to wait for ends. Default 60. */
  readonly answerSeconds?: number
  readonly onProgress?: (soFar: LoadProgress) => void
  /** Stop as after `seconds`. */
  readonly signal?: AbortSignal
}

export interface LoadProgress {
  readonly sent: number
  readonly ended: number
  readonly seconds: number
}

export interface LoadResult {
  /** That rates are of. */
  readonly seconds: number
  readonly sent: number
  readonly completed: number
  /** Cancelled when the time was up. */
  readonly cut: number
  /** Not taken in, by status: times until the answer, in ms. */
  readonly refused: ReadonlyMap<string, Summary>
  /** Taken in and not completed, by status. */
  readonly failed: ReadonlyMap<string, number>
  /** Without an end. */
  readonly lost: number
  readonly editsPerSecond: number
  readonly stepsPerSecond: number
  /** Times in ms: from when an edit was due. */
  readonly queueMs: Summary
  readonly firstPreviewMs: Summary
  readonly interStepMs: Summary
  readonly endToEndMs: Summary
  /** How much later than it was due an edit was sent: the load generator's own failing. */
  readonly lateMs: Summary
}

/** Below the calls that a connection of any gRPC server takes at once. */
const editsPerConnection = 64

const progressMs = 250

/** Errors: those of `connect`. What becomes of edits is in the result. */
export async function runLoad(plan: LoadPlan): Promise<LoadResult> {
  return new Load(plan).run()
}

class Load {
  readonly #plan: LoadPlan
  readonly #startMs = performance.now()
  readonly #connections: { readonly client: FlexitClient; open: number }[] = []
  readonly #live = new Set<EditRun>()
  readonly #ends = new Set<Promise<void>>()
  readonly #stop = new AbortController()
  readonly #times = { queue: [], firstPreview: [], interStep: [], endToEnd: [], late: [] } as Record<Times, number[]>
  readonly #refused = new Map<string, number[]>()
  readonly #failed = new Map<string, number>()
  #sent = 0
  #ended = 0
  #completed = 0
  #completedInTime = 0
  #cut = 0
  #steps = 0

  constructor(plan: LoadPlan) {
    this.#plan = plan
  }

  async run(): Promise<LoadResult> {
    const { arrivals, seconds, signal, onProgress, answerSeconds = 60, warmUpSeconds = 0 } = this.#plan
    const stop = () => this.#stop.abort()
    const timer = seconds === undefined ? undefined : setTimeout(stop, 1000 * seconds)
    signal?.addEventListener('abort', stop)
    if (signal?.aborted === true) stop()
    const telling = setInterval(() => {
      onProgress?.({ sent: this.#sent, ended: this.#ended, seconds: this.#elapsedMs / 1000 })
    }, progressMs)
    try {
      const sending = arrivals.kind === 'closed' ? this.#closed(arrivals) : this.#open(arrivals)
      await Promise.race([sending.then(() => Promise.all(this.#ends)), this.#stopped])
      const rates = {
        seconds: this.#elapsedMs / 1000 - warmUpSeconds,
        completed: this.#completedInTime,
        steps: this.#steps,
      }
      stop()
      for (const edit of this.#live) edit.cancel()
      await within(1000 * answerSeconds, Promise.all(this.#ends))
      return this.#result(rates)
    } finally {
      clearTimeout(timer)
      clearInterval(telling)
      signal?.removeEventListener('abort', stop)
      for (const { client } of this.#connections) client.close()
    }
  }

  get #elapsedMs(): number {
    return performance.now() - this.#startMs
  }

  get #stopped(): Promise<void> {
    const { signal } = this.#stop
    if (signal.aborted) return Promise.resolve()
    return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
  }

  get #more(): boolean {
    return !this.#stop.signal.aborted && this.#sent < (this.#plan.edits ?? Infinity)
  }

  async #closed({ edits }: { readonly edits: number }): Promise<void> {
    const loop = async () => {
      while (this.#more) await this.#send(performance.now())
    }
    await Promise.all(Array.from({ length: edits }, loop))
  }

  async #open({ perSecond, seed }: { readonly perSecond: number; readonly seed: number }): Promise<void> {
    const random = new Random(seed)
    let dueMs = this.#startMs
    for (;;) {
      dueMs += random.exponential(1000 / perSecond)
      const waitMs = dueMs - performance.now()
      if (waitMs > 0) await sleep(waitMs, undefined, { signal: this.#stop.signal }).catch(() => undefined)
      if (!this.#more) return
      void this.#send(dueMs)
    }
  }

  #send(dueMs: number): Promise<void> {
    const i = this.#sent++
    const edit = this.#follow(i, dueMs).finally(() => {
      this.#ended++
      this.#ends.delete(edit)
    })
    this.#ends.add(edit)
    return edit
  }

  async #follow(i: number, dueMs: number): Promise<void> {
    const { warmUpSeconds = 0 } = this.#plan
    const counts = () => !this.#stop.signal.aborted && this.#elapsedMs >= 1000 * warmUpSeconds
    const record = (times: Times, sinceMs: number) => {
      if (counts()) this.#times[times].push(performance.now() - sinceMs)
    }
    const connection = this.#connection()
    connection.open++
    record('late', dueMs)
    const run = connection.client.edit(this.#plan.request(i))
    this.#live.add(run)
    let accepted = false
    let previewed = false
    let steppedMs: number | undefined
    for await (const event of run) {
      switch (event.kind) {
        case 'accepted':
          accepted = true
          break
        case 'started':
          record('queue', dueMs)
          break
        case 'step':
          if (counts()) this.#steps++
          if (steppedMs !== undefined) record('interStep', steppedMs)
          steppedMs = performance.now()
          if (event.preview !== undefined && !previewed) record('firstPreview', dueMs)
          previewed ||= event.preview !== undefined
          break
        case 'completed':
          this.#completed++
          if (counts()) this.#completedInTime++
          record('endToEnd', dueMs)
          break
        case 'cancelled':
          this.#cut++
          break
        case 'failed': {
          const { status } = event.error
          if (accepted) this.#failed.set(status, (this.#failed.get(status) ?? 0) + 1)
          else this.#refusals(status).push(performance.now() - dueMs)
        }
      }
    }
    this.#live.delete(run)
    connection.open--
  }

  #connection() {
    const { servers, connection } = this.#plan
    const free = this.#connections.find(({ open }) => open < editsPerConnection)
    if (free !== undefined) return free
    // Each begins with another server.
    const first = this.#connections.length % servers.length
    // A refusal is an answer here, and nothing to wait for.
    const options = { ...connection, startMs: 0 }
    const own = { client: connect([...servers.slice(first), ...servers.slice(0, first)], options), open: 0 }
    this.#connections.push(own)
    return own
  }

  #refusals(status: string): number[] {
    const known = this.#refused.get(status) ?? []
    this.#refused.set(status, known)
    return known
  }

  #result({ seconds, completed, steps }: Rates): LoadResult {
    const { queue, firstPreview, interStep, endToEnd, late } = this.#times
    return {
      seconds,
      sent: this.#sent,
      completed: this.#completed,
      cut: this.#cut,
      refused: new Map([...this.#refused].map(([status, times]) => [status, summarise(times)])),
      failed: this.#failed,
      lost: this.#sent - this.#ended,
      editsPerSecond: completed / seconds,
      stepsPerSecond: steps / seconds,
      queueMs: summarise(queue),
      firstPreviewMs: summarise(firstPreview),
      interStepMs: summarise(interStep),
      endToEndMs: summarise(endToEnd),
      lateMs: summarise(late),
    }
  }
}

/** While it was measured. */
interface Rates {
  readonly seconds: number
  readonly completed: number
  readonly steps: number
}

type Times = 'queue' | 'firstPreview' | 'interStep' | 'endToEnd' | 'late'

/** Wait for `work`, but no longer. */
async function within(ms: number, work: Promise<unknown>): Promise<void> {
  const enough = new AbortController()
  const waiting = sleep(ms, undefined, { signal: enough.signal }).catch(() => undefined)
  await Promise.race([work, waiting])
  enough.abort()
}
