// Edits on devices of this machine, through the scheduler: its batches, its threads.
// Batch sizes are found by measuring, and do not change the bits.

import { codeDigest } from '../engine/graph-cache.js'
import { FlexitError } from '../engine/errors.js'
import type { Pack } from '../engine/pack/pack.js'
import { resolveParameters } from '../engine/parameters.js'
import type { Picture } from '../engine/picture.js'
import { type Device, formatDevice, runtimeVersion } from '../engine/runtime.js'
import { Scheduler } from '../scheduler/scheduler.js'
import { WorkerDevice, shareThreads } from '../scheduler/worker-device.js'
import type { EditJob, Editor } from './editor.js'

export interface LocalEditorOptions {
  readonly pack: Pack
  readonly devices: readonly Device[]
  /** Of each device on the CPU; 0: the devices share the cores. */
  readonly threads: number
  readonly cacheFolder: string
  /** Called before work that takes long: building a graph, loading it. */
  readonly onProgress?: (doing: string) => void
}

/** A full batch (16 at most), and some to take the place of those that end. */
const editsPerDevice = 24

export class LocalEditor implements Editor {
  readonly identity: readonly string[]
  readonly parallel: number
  readonly #options: LocalEditorOptions
  #scheduler: Promise<Scheduler> | undefined
  #stopped = false

  /** Devices are opened for the first edit. */
  constructor(options: LocalEditorOptions) {
    const { pack, devices } = options
    const kinds = [...new Set(devices.map(({ kind }) => kind))].sort()
    this.identity = ['local', codeDigest, runtimeVersion, pack.digest, ...kinds]
    this.parallel = editsPerDevice * devices.length
    this.#options = options
  }

  async edit({ picture, source, target, parameters, at }: EditJob, onStep: () => void): Promise<Picture[]> {
    const scheduler = await (this.#scheduler ??= this.#open())
    if (this.#stopped) throw stopped()
    const { steps } = parameters
    const request = { tenant: 'evaluation', priority: 'batch', bytes: picture.data.length, steps } as const
    const ticket = scheduler.admit(request)
    const state = { pack: this.#options.pack.digest, parameters, source, target, picture, step: 0, z: undefined }
    const pictures: Picture[] = []
    return new Promise((resolve, reject) => {
      scheduler.submit(ticket, state, {
        onStarted: () => undefined,
        onStep: ({ step, preview }) => {
          if (at.includes(step)) pictures.push(preview)
          onStep()
        },
        onEnd: (outcome) => {
          if (outcome.kind === 'completed') resolve([...pictures, outcome.picture])
          else if (outcome.kind === 'failed') {
            // Only numbers that are no longer finite end an edit that has begun like this.
            if (outcome.error.code === 'FAILED_PRECONDITION' && pictures.length > 0) resolve(pictures)
            else reject(outcome.error)
          } else reject(stopped())
        },
      })
    })
  }

  stop(): void {
    this.#stopped = true
    this.#scheduler?.then(
      (scheduler) => scheduler.handBack(),
      () => undefined,
    )
  }

  async close(): Promise<void> {
    const scheduler = await this.#scheduler?.catch(() => undefined)
    await scheduler?.close()
  }

  async #open(): Promise<Scheduler> {
    const { pack, devices, threads, cacheFolder, onProgress } = this.#options
    const opened: WorkerDevice[] = []
    const shares = shareThreads(devices)
    try {
      // One after the other: the first builds the graphs that the others load.
      for (const [i, device] of devices.entries()) {
        opened.push(
          await WorkerDevice.open({
            device,
            packs: [pack.folder],
            threads: threads === 0 ? shares[i]! : threads,
            cacheFolder,
            onProgress: (doing) => onProgress?.(`${formatDevice(device)}: ${doing}`),
          }),
        )
      }
      return new Scheduler({ devices: opened, resolve: (given) => resolveParameters(given, pack) })
    } catch (error) {
      await Promise.all(opened.map((device) => device.close()))
      throw error
    }
  }
}

function stopped(): FlexitError {
  return new FlexitError({ code: 'CANCELLED', message: 'the edit was stopped, or no device is left' })
}
