// A device with a thread of its own: a piscina pool of exactly one, which replaces it when it is lost.
// https://piscinajs.dev; the queue is the scheduler's, so that the pool never holds more than one task.

import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { Piscina } from 'piscina'
import { FlexitError } from '../engine/errors.js'
import { type Device, formatDevice } from '../engine/runtime.js'
import type { DeviceBatch, DeviceResult, ItemResult, StepDevice } from './device.js'
import {
  type ItemReply,
  type ProgressMessage,
  type Reply,
  type Task,
  type WorkerSetup,
  errorFromData,
} from './messages.js'

export interface WorkerDeviceOptions extends WorkerSetup {
  /** A thread that gives no sign for this long hangs, and is replaced. Default: 10 minutes. */
  readonly hangAfterMs?: number
  /** Called before work that takes long: building a graph, loading it. */
  readonly onProgress?: (doing: string) => void
}

const defaultHangAfterMs = 10 * 60_000

export class WorkerDevice implements StepDevice {
  readonly name: string
  readonly #pool: Piscina<Task, Reply>
  readonly #hangAfterMs: number
  #watchdog: NodeJS.Timeout | undefined

  private constructor({ hangAfterMs = defaultHangAfterMs, onProgress, ...setup }: WorkerDeviceOptions) {
    this.name = formatDevice(setup.device)
    this.#hangAfterMs = hangAfterMs
    this.#pool = new Piscina({
      filename: fileURLToPath(new URL('./worker.js', import.meta.url)),
      name: 'handle',
      minThreads: 1,
      maxThreads: 1,
      concurrentTasksPerWorker: 1,
      // The default, 'sync', parks the thread between tasks: sessions that are let go would not be freed.
      atomics: 'async',
      workerData: setup,
    })
    this.#pool.on('message', ({ doing }: ProgressMessage) => {
      this.#watchdog?.refresh()
      onProgress?.(doing)
    })
    // A thread that is lost while it has nothing to do: the pool replaces it, and its edits turn out to be unknown.
    this.#pool.on('error', () => undefined)
  }

  /**
   * Start the thread, open the pack and make ready what an edit with default parameters needs. Errors: those of opening
   * a pack and of building graphs; FAILED_PRECONDITION where the device cannot be used here.
   */
  static async open(options: WorkerDeviceOptions): Promise<WorkerDevice> {
    const device = new WorkerDevice(options)
    try {
      const reply = await device.#send({ kind: 'open' })
      if (reply.kind === 'failed' || reply.kind === 'out-of-memory') throw errorFromData(reply.error)
      return device
    } catch (error) {
      await device.#pool.destroy()
      throw error
    }
  }

  async run(batch: DeviceBatch): Promise<DeviceResult> {
    const reply = await this.#send({ kind: 'run', batch })
    switch (reply.kind) {
      case 'done':
        return { ...reply, results: reply.results.map(resultOf) }
      case 'out-of-memory':
        return { kind: 'out-of-memory', error: errorFromData(reply.error) }
      case 'failed': {
        // The pack cannot be opened any more: that is no edit's fault, and no other thread would do better.
        throw errorFromData(reply.error)
      }
      case 'ready':
        throw new Error(`the worker of ${this.name} answered a batch with "ready"`)
    }
  }

  /** End the thread at once, as a crash would: what it was doing is lost, and it is replaced. For tests and benchmarks. */
  async kill(): Promise<void> {
    await Promise.all(this.#pool.threads.map((thread) => thread.terminate()))
  }

  /** Free the sessions and end the thread; a batch under way is waited for. */
  async close(): Promise<void> {
    await this.#send({ kind: 'close' }).catch(() => undefined)
    await this.#pool.destroy()
  }

  /** Rejects where the thread is lost or hangs. */
  async #send(task: Task): Promise<Reply> {
    const hang = new AbortController()
    this.#watchdog = setTimeout(() => hang.abort(), this.#hangAfterMs)
    try {
      return await this.#pool.run(task, { signal: hang.signal })
    } catch (error) {
      const what = hang.signal.aborted ? `hung for ${this.#hangAfterMs / 1_000} s` : 'was lost'
      throw new FlexitError({
        code: 'INTERNAL',
        message: `the worker of ${this.name} ${what}`,
        cure: 'It has been replaced; if this happens again, check the device, its driver and the memory.',
        cause: error,
      })
    } finally {
      clearTimeout(this.#watchdog)
    }
  }
}

/** Threads for each of `devices`: CPU devices share the cores evenly; others compute elsewhere and need one. */
export function shareThreads(devices: readonly Device[], cores = availableParallelism()): number[] {
  const sharing = devices.filter(({ kind }) => kind === 'cpu').length
  return devices.map(({ kind }) => (kind === 'cpu' ? Math.max(1, Math.floor(cores / sharing)) : 1))
}

function resultOf(reply: ItemReply): ItemResult {
  return reply.kind === 'failed' ? { ...reply, error: errorFromData(reply.error) } : reply
}
