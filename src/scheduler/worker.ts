// The thread of one device: owns the engines of its packs and the edits that it prepared. Run by piscina, one task at a time.
// It answers with data, never with an exception: a task that rejects means that the thread is lost.

import { parentPort } from 'node:worker_threads'
import { move, transferableSymbol, valueSymbol, workerData } from 'piscina'
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

const { killSwitch, packs, ...setup } = workerData as WorkerData
const edits = new Map<number, Edit>()
let opening: Promise<Engines> | undefined

/** Edits of the present task that failed in a way that nobody foresaw. */
const strange = new Set<number>()

/** Set while a graph is built or loaded: times of such a task measure nothing. */
let disturbed = false

/** The thread's only entry. */
export async function handle(task: Task): Promise<Reply> {
  obeyKillSwitch()
  if (task.kind === 'wake') return { kind: 'ready' }
  try {
    const engines = await (opening ??= open())
    switch (task.kind) {
      case 'open':
        for (const engine of engines.values()) await engine.warmUp()
        return { kind: 'ready' }
      case 'run':
        return await run(engines, task.batch).catch(async (error: unknown) => {
          // Graphs that are not needed now may be what fills the memory.
          if (isOutOfMemory(error) && (await trim(engines))) return run(engines, task.batch)
          throw error
        })
      case 'close':
        for (const engine of engines.values()) await engine.close()
        return { kind: 'ready' }
    }
  } catch (error) {
    const kind = isOutOfMemory(error) ? 'out-of-memory' : 'failed'
    return { kind, error: errorToData(isOutOfMemory(error) ? outOfMemory(error) : error) }
  }
}

/** Returns whether there was anything to free. */
async function trim(engines: Engines): Promise<boolean> {
  let freed = false
  for (const engine of engines.values()) freed = (await engine.trim()) || freed
  return freed
}

async function open(): Promise<Engines> {
  const onProgress = (doing: string) => {
    disturbed = true
    const message: ProgressMessage = { doing }
    parentPort?.postMessage(message)
  }
  const engines = new Map<string, Engine>()
  for (const pack of packs) {
    const engine = await Engine.open({ ...setup, pack, onProgress })
    engines.set(engine.pack.digest, engine)
  }
  return engines
}

/** The engine of an edit's pack. Errors: INVALID_ARGUMENT. */
function engineOf(engines: Engines, { pack }: EditState): Engine {
  const engine = engines.get(pack)
  if (engine !== undefined) return engine
  throw invalidArgument('pack', 'the pack of the edit is not one that its device has open', 'Use one that is served.')
}

/** A thread that is ended from outside while it is in ONNX Runtime takes the whole process with it (Napi::Error). */
function obeyKillSwitch(): void {
  if (Atomics.exchange(killSwitch, 0, 0) !== 0) process.exit(1)
}

async function run(engines: Engines, { kind, items, forget }: DeviceBatch): Promise<Reply> {
  for (const id of forget) edits.delete(id)
  strange.clear()
  disturbed = false
  const replies = new Map<number, ItemReply>()
  const warnings = new Map<number, readonly string[]>()
  const startedMs = performance.now()
  for (const item of kind === 'step' ? items : []) {
    await perItem(item, replies, async ({ id, state }) => {
      if (state !== undefined) {
        const edit = await engineOf(engines, state).prepare(state)
        edits.set(id, edit)
        warnings.set(id, edit.warnings)
      }
      return undefined
    })
  }
  obeyKillSwitch()
  const preparedMs = performance.now()
  if (kind === 'draw') for (const item of items) await perItem(item, replies, () => draw(engines, item))
  else await step(engines, items, replies, warnings)
  obeyKillSwitch()
  if (items.length > 0 && items.every(({ id }) => strange.has(id))) await probe(engines, items[0]!)
  const reply: Reply = {
    kind: 'done',
    results: items.map(({ id }) => replies.get(id) ?? { kind: 'unknown', id }),
    prepareMs: preparedMs - startedMs,
    stepMs: performance.now() - preparedMs,
    measured: !disturbed,
  }
  return move({ [transferableSymbol]: buffers(reply.results), [valueSymbol]: reply }) as unknown as Reply
}

/**
 * Whether the device computes anything at all, with the networks of an edit that failed. Errors: of whatever does not work.
 */
async function probe(engines: Engines, { id, state = edits.get(id)?.state }: BatchItem): Promise<void> {
  if (state === undefined) return
  const { picture, parameters } = state
  const engine = engineOf(engines, state)
  const black = { ...picture, data: new Uint8Array(picture.data.length) }
  await engine.prepare(engine.begin({ picture: black, source: 'a', target: 'b', parameters }))
}

/** All of `items` have the same pack and the same graph. */
async function step(
  engines: Engines,
  items: readonly BatchItem[],
  replies: Map<number, ItemReply>,
  warnings: ReadonlyMap<number, readonly string[]>,
): Promise<void> {
  const batch = items.filter(({ id }) => edits.has(id) && !replies.has(id))
  const take = async (part: readonly BatchItem[]) => {
    const taking = part.map(({ id }) => edits.get(id)!)
    const reports = await engineOf(engines, taking[0]!.state).step(taking)
    part.forEach(({ id }, i) => {
      const { failure, ...report } = reports[i]!
      if (failure !== undefined) replies.set(id, { kind: 'failed', id, error: errorToData(failure) })
      else {
        // The edit goes on from its own copy: what is transferred is gone here.
        const z = edits.get(id)!.z.slice()
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
      for (const item of batch) await perItem(item, replies, () => take([item]))
    } catch (outOfMemory) {
      // No edit took a step: those that did are prepared anew from where they were.
      for (const { id } of batch) if (replies.get(id)?.kind === 'stepped') edits.delete(id)
      throw outOfMemory
    }
  }
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
  replies: Map<number, ItemReply>,
  work: (item: BatchItem) => Promise<ItemReply | undefined>,
): Promise<void> {
  try {
    const reply = await work(item)
    if (reply !== undefined) replies.set(item.id, reply)
  } catch (error) {
    if (isOutOfMemory(error)) throw error
    if (!(error instanceof FlexitError)) strange.add(item.id)
    replies.set(item.id, { kind: 'failed', id: item.id, error: errorToData(error) })
  }
}

function buffers(results: readonly ItemReply[]): ArrayBufferLike[] {
  return results.flatMap((result) => {
    if (result.kind === 'stepped') return [result.z.buffer, result.report.preview.data.buffer]
    return result.kind === 'drawn' ? [result.z.buffer, result.picture.data.buffer] : []
  })
}

/** What ONNX Runtime's CPU and CUDA allocators, CUDA itself and V8 say. */
function isOutOfMemory(error: unknown): boolean {
  const message = error instanceof Error ? error.message : ''
  return /out of memory|failed to allocate|bad_alloc|smaller than requested bytes|allocation failed|alloc_failed/i.test(
    message,
  )
}

function outOfMemory(error: unknown): FlexitError {
  return new FlexitError({
    code: 'RESOURCE_EXHAUSTED',
    message: `the memory of ${formatDevice(setup.device)} is not enough for one edit`,
    cure: 'Use fewer views or networks, or a device with more memory.',
    cause: error,
  })
}
