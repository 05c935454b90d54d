// A device that takes steps when a test lets it. Its latent is one number, which follows from the texts and the steps:
// whoever took a step too many, too few, or with another target has another number.

import type { EditState, StepReport } from '../../src/engine/edit.js'
import { FlexitError } from '../../src/engine/errors.js'
import type { EditParameters } from '../../src/engine/parameters.js'
import type { DeviceBatch, DeviceResult, ItemResult, StepDevice } from '../../src/scheduler/device.js'

export const picture = { height: 1, width: 1, data: new Uint8Array([0, 0, 0]) }

const parameters: EditParameters = {
  preset: 'reference',
  space: 'latent',
  steps: 3,
  learningRate: 0.05,
  lambdaP: 0.15,
  lambdaZ: 0.05,
  lambdaS: 0.4,
  lambdaI: 0.2,
  networks: ['vit'],
  views: 1,
  seed: 0,
}

export function newState(target: string, given: Partial<EditParameters> = {}): EditState {
  return { pack: '', parameters: { ...parameters, ...given }, source: 's', target, picture, step: 0, z: undefined }
}

/** The latent after `steps` steps from `z`. */
export function latent(target: string, steps: number, z = 1): number {
  for (let i = 0; i < steps; i++) z = (z * 31 + target.length) % 65_537
  return z
}

export class FakeDevice implements StepDevice {
  readonly name: string
  /** What it is doing; undefined: nothing. */
  batch: DeviceBatch | undefined
  closed = false
  /** All batches that it was given. */
  readonly log: DeviceBatch[] = []
  readonly #known = new Map<number, EditState>()
  #resolve: (result: DeviceResult) => void = () => undefined
  #reject: (error: Error) => void = () => undefined

  constructor(name: string) {
    this.name = name
  }

  get ids(): number[] {
    return this.batch?.items.map(({ id }) => id) ?? []
  }

  run(batch: DeviceBatch): Promise<DeviceResult> {
    if (this.batch !== undefined || this.closed) throw new Error(`${this.name} is busy, or closed`)
    this.batch = batch
    this.log.push(batch)
    return new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  close(): Promise<void> {
    this.closed = true
    return Promise.resolve()
  }

  /** Finish the batch. Edits in `failing` fail. */
  async step({ stepMs = 10, failing = [] }: { stepMs?: number; failing?: readonly number[] } = {}): Promise<void> {
    const { kind, items, forget } = this.#take()
    for (const id of forget) this.#known.delete(id)
    const results = items.map(({ id, state }): ItemResult => {
      if (failing.includes(id)) {
        return { kind: 'failed', id, error: new FlexitError({ code: 'DATA_LOSS', message: 'broken' }) }
      }
      const fresh = state !== undefined
      const before = state ?? this.#known.get(id)
      if (before === undefined) return { kind: 'unknown', id }
      const z = before.z?.[0] ?? 1
      if (kind === 'draw') return { kind: 'drawn', id, picture, z: Float32Array.of(z) }
      const after = Float32Array.of(latent(before.target, 1, z))
      this.#known.set(id, { ...before, step: before.step + 1, z: after })
      return {
        kind: 'stepped',
        id,
        report: report(before.step),
        z: after,
        warnings: fresh ? [`of ${before.target}`] : undefined,
      }
    })
    this.#resolve({ kind: 'done', results, stepMs, prepareMs: 0, measured: true })
    await turn()
  }

  async crash(): Promise<void> {
    this.#take()
    this.forgetAll()
    this.#reject(new Error('crashed'))
    await turn()
  }

  async break(): Promise<void> {
    this.#take()
    this.forgetAll()
    this.#resolve({ kind: 'broken', error: new FlexitError({ code: 'INTERNAL', message: 'an illegal address' }) })
    await turn()
  }

  async runOutOfMemory(): Promise<void> {
    this.#take()
    this.#resolve({ kind: 'out-of-memory', error: new FlexitError({ code: 'RESOURCE_EXHAUSTED', message: 'full' }) })
    await turn()
  }

  /** As when its worker is lost while it is idle. */
  forgetAll(): void {
    this.#known.clear()
  }

  #take(): DeviceBatch {
    const { batch } = this
    if (batch === undefined) throw new Error(`${this.name} has nothing to do`)
    this.batch = undefined
    return batch
  }
}

/** Let all that is ready to happen happen. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

function report(step: number): StepReport {
  const losses = { total: 0, clip: 0, lpips: undefined, latent: undefined }
  return { step, losses, similaritySource: 0, similarityTarget: 0, preview: picture, failure: undefined }
}
