// What the thread of one device does: owns the engines of its packs and the edits that it prepared.
// It answers with data, never with an exception: a task that rejects means that the thread is lost.

import { Edit, type EditState } from '../engine/edit.js'
import { Engine } from '../engine/engine.js'
import { FlexitError, invalidArgument } from '../engine/errors.js'
import { specificationOf } from '../engine/parameters.js'
import { formatDevice } from '../engine/runtime.js'
import type { BatchItem, DeviceBatch } from './device.js'
import {
  type ItemReply,
  type ProgressMessage,
  type Reply,
  type Task,
  type WorkerData,
  errorToData,
} from './messages.js'

/** By the digests of their packs. */
type Engines = ReadonlyMap<string, Engine>

/** What became of the items of a batch, so far. */
interface Outcomes {
  readonly replies: Map<number, ItemReply>
  /** Of edits that were prepared. */
  readonly warnings: Map<number, readonly string[]>
  /** Items that failed for something else than what was asked for: perhaps it is the device. */
  readonly suspect: Set<number>
}

export class DeviceThread {
  readonly #setup: WorkerData
  readonly #tell: (message: ProgressMessage) => void
  readonly #edits = new Map<number, Edit>()
  #opening: Promise<Engines> | undefined
  /** Set while a graph is built or loaded: times of such a task measure nothing. */
  #disturbed = false

  constructor(setup: WorkerData, tell: (message: ProgressMessage) => void) {
    this.#setup = setup
    this.#tell = tell
  }

  async handle(task: Task): Promise<Reply> {
    this.#obeyKillSwitch()
    if (task.kind === 'wake') return { kind: 'ready' }
    try {
      const engines = await (this.#opening ??= this.#open())
      switch (task.kind) {
        case 'open':
          for (const engine of engines.values()) await engine.warmUp(this.#setup.usual)
          return { kind: 'ready' }
        case 'run':
          return await this.#run(engines, task.batch).catch(async (error: unknown) => {
            // Graphs that are not needed now may be what fills the memory.
            if (isOutOfMemory(error) && (await trim(engines))) return this.#run(engines, task.batch)
            throw error
          })
        case 'close':
          for (const engine of engines.values()) await engine.close()
          return { kind: 'ready' }
      }
    } catch (error) {
      if (!isOutOfMemory(error)) return { kind: 'failed', error: errorToData(error) }
      return { kind: 'out-of-memory', error: errorToData(this.#outOfMemory(error)) }
    }
  }

  async #open(): Promise<Engines> {
    const onProgress = (doing: string) => {
      this.#disturbed = true
      this.#tell({ doing })
    }
    const engines = new Map<string, Engine>()
    for (const pack of this.#setup.packs) {
      const engine = await Engine.open({ ...this.#setup, pack, onProgress })
      engines.set(engine.pack.digest, engine)
    }
    return engines
  }

  /** A thread that is ended from outside while it is in ONNX Runtime takes the whole process with it (Napi::Error). */
  #obeyKillSwitch(): void {
    if (Atomics.exchange(this.#setup.killSwitch, 0, 0) !== 0) process.exit(1)
  }

  async #run(engines: Engines, { kind, items, forget }: DeviceBatch): Promise<Reply> {
    for (const id of forget) this.#edits.delete(id)
    this.#disturbed = false
    const outcomes: Outcomes = { replies: new Map(), warnings: new Map(), suspect: new Set() }
    const { replies, warnings, suspect } = outcomes
    const startedMs = performance.now()
    for (const item of kind === 'step' ? items : []) {
      await perItem(item, outcomes, async ({ id, state }) => {
        if (state !== undefined) {
          const edit = await engineOf(engines, state).prepare(state)
          this.#edits.set(id, edit)
          warnings.set(id, edit.warnings)
        }
        return undefined
      })
    }
    this.#obeyKillSwitch()
    const preparedMs = performance.now()
    if (kind === 'draw') for (const item of items) await perItem(item, outcomes, () => draw(engines, item))
    else await this.#step(engines, items, outcomes)
    this.#obeyKillSwitch()
    const stepMs = performance.now() - preparedMs
    // Nothing worked. Where a plain edit does not either it is the device, and no edit's fault.
    if (items.length > 0 && items.every(({ id }) => suspect.has(id))) {
      for (const engine of engines.values()) await engine.warmUp(this.#setup.usual)
    }
    return {
      kind: 'done',
      results: items.map(({ id }) => replies.get(id) ?? { kind: 'unknown', id }),
      prepareMs: preparedMs - startedMs,
      stepMs,
      measured: !this.#disturbed,
    }
  }

  /** All of `items` have the same pack and the same graph. */
  async #step(engines: Engines, items: readonly BatchItem[], outcomes: Outcomes): Promise<void> {
    const { replies, warnings } = outcomes
    const batch = items.filter(({ id }) => this.#edits.has(id) && !replies.has(id))
    const take = async (part: readonly BatchItem[]) => {
      const taking = part.map(({ id }) => this.#edits.get(id)!)
      const reports = await engineOf(engines, taking[0]!.state).step(taking)
      part.forEach(({ id }, i) => {
        const { failure, ...report } = reports[i]!
        if (failure !== undefined) replies.set(id, { kind: 'failed', id, error: errorToData(failure) })
        else {
          // The edit goes on from its own copy: what is transferred is gone here.
          const z = taking[i]!.z.slice()
          replies.set(id, { kind: 'stepped', id, report: { ...report, failure }, z, warnings: warnings.get(id) })
        }
      })
      return undefined
    }
    if (batch.length === 0) return
    try {
      await take(batch)
    } catch (error) {
      if (isOutOfMemory(error)) throw error
      try {
        for (const item of batch) await perItem(item, outcomes, () => take([item]))
      } catch (error) {
        // As if no edit had taken a step: those that did are prepared anew, from where they were.
        for (const { id } of batch) if (replies.get(id)?.kind === 'stepped') this.#edits.delete(id)
        throw error
      }
    }
  }

  #outOfMemory(error: unknown): FlexitError {
    return new FlexitError({
      code: 'RESOURCE_EXHAUSTED',
      message: `the memory of ${formatDevice(this.#setup.device)} is not enough for one edit`,
      cure: 'Use fewer views or networks, or a device with more memory.',
      cause: error,
    })
  }
}

/** Returns whether there was anything to free. */
async function trim(engines: Engines): Promise<boolean> {
  let freed = false
  for (const engine of engines.values()) freed = (await engine.trim()) || freed
  return freed
}

/** The engine of an edit's pack. Errors: INVALID_ARGUMENT. */
function engineOf(engines: Engines, { pack }: EditState): Engine {
  const engine = engines.get(pack)
  if (engine !== undefined) return engine
  throw invalidArgument('pack', 'the pack of the edit is not one that its device has open', 'Use one that is served.')
}

/** The picture of a latent needs no preparation; before the first step there is none yet. */
async function draw(engines: Engines, { id, state }: BatchItem): Promise<ItemReply> {
  const engine = engineOf(engines, state!)
  const edit = hasLatent(state!)
    ? new Edit(state, specificationOf(state.parameters), { z0: state.z, embeddings: new Map(), features: [] }, [])
    : await engine.prepare(state!)
  return { kind: 'drawn', id, picture: await engine.picture(edit), z: edit.z.slice() }
}

function hasLatent(state: EditState): state is EditState & { readonly z: Float32Array } {
  return state.z !== undefined
}

/** Do something for one item; where that fails, the item fails alone. Out of memory is the whole batch's affair. */
async function perItem(
  item: BatchItem,
  { replies, suspect }: Outcomes,
  work: (item: BatchItem) => Promise<ItemReply | undefined>,
): Promise<void> {
  try {
    const reply = await work(item)
    if (reply !== undefined) replies.set(item.id, reply)
  } catch (error) {
    if (isOutOfMemory(error)) throw error
    if (!(error instanceof FlexitError && error.code === 'INVALID_ARGUMENT')) suspect.add(item.id)
    replies.set(item.id, { kind: 'failed', id: item.id, error: errorToData(error) })
  }
}

/** What ONNX Runtime's CPU and CUDA allocators, CUDA itself and V8 say. */
function isOutOfMemory(error: unknown): boolean {
  const message = error instanceof Error ? error.message : ''
  const words =
    /out of memory|failed to allocate|bad_alloc|smaller than requested bytes|allocation failed|alloc_failed/i
  return words.test(message)
}
