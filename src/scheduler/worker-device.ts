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
  type WorkerData,
  type WorkerSetup,
  errorFromData,
} from './messages.js'

export interface WorkerDeviceOptions extends WorkerSetup {
  /** A thread that gives no sign for this long hangs: it is left to itself, and replaced. Default: 10 minutes. */
  readonly hangAfterMs?: number
  /** Called before work that takes long: building a graph, loading it. */
  readonly onProgress?: (doing: string) => void
}

type Pool = Piscina<Task, Reply>

const defaultHangAfterMs = 10 * 60_000

export class WorkerDevice implements StepDevice {
  readonly name: string
  readonly #setup: WorkerData
  readonly #hangAfterMs: number
  readonly #onProgress: (doing: string) => void
  #pool: Pool

  private constructor({ hangAfterMs = defaultHangAfterMs, onProgress, ...setup }: WorkerDeviceOptions) {
    this.name = formatDevice(setup.device)
    this.#setup = { ...setup, killSwitch: new Int32Array(new SharedArrayBuffer(4)) }
    this.#hangAfterMs = hangAfterMs
    this.#onProgress = onProgress ?? (() => undefined)
    this.#pool = this.#newPool()
  }

  /**
   * Start the thread, open the packs and make ready what an edit with the usual parameters needs. Errors: those of opening
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
        const error = errorFromData(reply.error)
        await this.#replace()
        return { kind: 'broken', error }
      }
      case 'ready':
        throw new Error(`the worker of ${this.name} answered a batch with "ready"`)
    }
  }

  /**
   * End the thread as a crash would: what it is doing is lost, and it is replaced. It ends itself where it next runs
   * JavaScript, and is never ended from outside (see `obeyKillSwitch`). For tests and benchmarks.
   */
  async kill(): Promise<void> {
    Atomics.store(this.#setup.killSwitch, 0, 1)
    // Where the thread is idle this is what is lost with it; else the next thread does it.
    await this.#pool.run({ kind: 'wake' }).catch(() => undefined)
  }

  /** Free the sessions and end the thread; a batch under way is waited for. */
  async close(): Promise<void> {
    await this.#send({ kind: 'close' }).catch(() => undefined)
    await this.#pool.destroy()
  }

  /** Another thread, of which nothing is known yet. To be called while this one has nothing to do. */
  async #replace(): Promise<void> {
    const pool = this.#pool
    this.#pool = this.#newPool()
    await pool.destroy().catch(() => undefined)
  }

  #newPool(): Pool {
    const pool: Pool = new Piscina({
      filename: fileURLToPath(new URL('./worker.js', import.meta.url)),
      name: 'handle',
      minThreads: 1,
      maxThreads: 1,
      concurrentTasksPerWorker: 1,
      // The default, 'sync', parks the thread between tasks: sessions that are let go would not be freed.
      atomics: 'async',
      workerData: this.#setup,
    })
    pool.on('message', ({ doing }: ProgressMessage) => this.#onProgress(doing))
    // A thread that is lost while it has nothing to do: the pool replaces it, and its edits turn out to be unknown.
    pool.on('error', () => undefined)
    return pool
  }

  /** Rejects where the thread is lost or hangs. */
  async #send(task: Task): Promise<Reply> {
    const pool = this.#pool
    const running = pool.run(task)
    let watchdog: NodeJS.Timeout | undefined
    const hung = new Promise<never>((_, reject) => {
      watchdog = setTimeout(() => {
        this.#pool = this.#newPool()
        // It cannot be ended while it is in ONNX Runtime (see `obeyKillSwitch`): only once it has come back.
        void running.catch(() => undefined).finally(() => pool.destroy())
        reject(new Error(`no sign of it for ${this.#hangAfterMs / 1_000} s`))
      }, this.#hangAfterMs)
    })
    const onSign = () => watchdog?.refresh()
    pool.on('message', onSign)
    try {
      return await Promise.race([running, hung])
    } catch (error) {
      throw new FlexitError({
        code: 'INTERNAL',
        message: `the worker of ${this.name} was lost: ${error instanceof Error ? error.message : String(error)}`,
        cure: 'It has been replaced; if this happens again, check the device, its driver and the memory.',
        cause: error,
      })
    } finally {
      clearTimeout(watchdog)
      pool.off('message', onSign)
    }
  }
}

export interface DevicesOptions extends Omit<WorkerSetup, 'device' | 'threads'> {
  readonly devices: readonly Device[]
  /** Of each CPU device. Default: the cores, shared evenly. */
  readonly threads?: number | undefined
  /** Called before work that takes long, with the name of the device. */
  readonly onProgress?: ((doing: string) => void) | undefined
}

/** Open all of `devices`, or none. Errors: see `WorkerDevice.open`. */
export async function openDevices({ devices, threads, onProgress, ...setup }: DevicesOptions): Promise<WorkerDevice[]> {
  const shares = shareThreads(devices)
  const opened: WorkerDevice[] = []
  try {
    // One after the other: the first builds the graphs that the others load.
    for (const [i, device] of devices.entries()) {
      const report = onProgress && ((doing: string) => onProgress(`${formatDevice(device)}: ${doing}`))
      const options = { ...setup, device, threads: threads ?? shares[i]!, ...(report && { onProgress: report }) }
      opened.push(await WorkerDevice.open(options))
    }
    return opened
  } catch (error) {
    await Promise.all(opened.map((device) => device.close()))
    throw error
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
