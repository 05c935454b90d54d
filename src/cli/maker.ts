// What makes edits, wherever it is: an engine in this process, devices with threads of their own, or servers.
// All give the same bits; they differ in how steps are reached.

import { setImmediate } from 'node:timers/promises'
import type { EditState, StepReport } from '../engine/edit.js'
import type { Engine } from '../engine/engine.js'
import type { Pack } from '../engine/pack/pack.js'
import { type EditParameters, checkText, resolveParameters } from '../engine/parameters.js'
import { type Picture, readPicture } from '../engine/picture.js'
import { variableShape } from '../engine/step-graph.js'
import type { Outcome } from '../scheduler/api.js'

/** What is to be known of a pack to begin edits with it. */
export interface MakerPack {
  readonly name: string
  readonly digest: string
  /** Pixels of a side. */
  readonly size: number
  /** What transparent pictures are laid on. */
  readonly background: string
  /** Its CLIP networks, also those that an edit uses only when asked to. */
  readonly networks: readonly string[]
  /** [C, h, w] of the latent. */
  shape(space: EditParameters['space']): readonly number[]
  /** As `resolveParameters`. Errors: INVALID_ARGUMENT, naming the parameter. */
  resolve(given: Partial<EditParameters>): EditParameters
}

/** A step as its watcher hears of it; pictures come as they were asked for. */
export type WatchedStep = Omit<StepReport, 'preview' | 'failure'> & { readonly preview: Picture | undefined }

/** Called in order; the edit waits for what takes long. */
export interface Watcher {
  /** The first step is about to be taken. */
  onStarted(): void
  /** Something that the user should know. */
  onNote(text: string): void
  /** `after` is the state after the step, where it was asked for. */
  onStep(step: WatchedStep, after: EditState | undefined): void | Promise<void>
}

export interface Order {
  readonly watcher: Watcher
  /** The edit ends at the next step. */
  readonly signal: AbortSignal
  /** Pictures of every n-th step. Default: none need to come. */
  readonly previewEvery?: number | undefined
  /** States whose step is a multiple of this. Default: none need to come. */
  readonly stateEvery?: number | undefined
}

/** How an edit ended, and its last state. An error UNAVAILABLE means that the maker is gone, not that the edit is bad. */
export type Ended = Exclude<Outcome, { kind: 'handed-back' }>

export interface Maker {
  readonly pack: MakerPack
  /** How many edits it may take a step of at the same time, batches not counted. */
  readonly devices: number
  /** Begin, or go on from, `state`. Errors: those of the watcher, and of making ready what all edits need. */
  make(state: EditState, order: Order): Promise<Ended>
  close(): Promise<void>
}

/** A maker that says what the last bits of its results may depend on. */
export interface PlacedMaker extends Maker {
  /** Kinds of devices; servers, and their version. */
  readonly places: readonly string[]
}

export function makerPack(pack: Pack): MakerPack {
  const { name, image } = pack.manifest
  return {
    name,
    digest: pack.digest,
    size: image.size,
    background: image.background,
    networks: pack.networkNames,
    shape: (space) => variableShape(pack, space),
    resolve: (given) => resolveParameters(given, pack),
  }
}

/** The state before the first step. Errors: INVALID_ARGUMENT (texts, parameters), those of `readPicture`. */
export async function beginEdit(
  pack: MakerPack,
  image: string | Uint8Array,
  { source, target, parameters }: Pick<EditState, 'source' | 'target'> & { parameters: Partial<EditParameters> },
): Promise<EditState> {
  return {
    pack: pack.digest,
    parameters: pack.resolve(parameters),
    source: checkText(source, 'source'),
    target: checkText(target, 'target'),
    picture: await readPicture(image, { height: pack.size, width: pack.size, background: pack.background, svg: true }),
    step: 0,
    z: undefined,
  }
}

/** One edit at a time, in this thread. Between steps the event loop turns, so that signals are heard. */
export function engineMaker(engine: Engine): Maker {
  return {
    pack: makerPack(engine.pack),
    devices: 1,
    async make(state, { watcher, signal }) {
      const edit = await engine.prepare(state)
      for (const warning of edit.warnings) watcher.onNote(warning)
      watcher.onStarted()
      while (!edit.done) {
        await setImmediate()
        if (signal.aborted) return { kind: 'cancelled', state: edit.state }
        const [report] = await engine.step([edit])
        await watcher.onStep(report!, edit.state)
        if (edit.failure !== undefined) return { kind: 'failed', error: edit.failure, state: edit.state }
      }
      return { kind: 'completed', picture: await engine.picture(edit), state: edit.state }
    },
    close: () => engine.close(),
  }
}

/** The picture of a latent of an edit: that of one that has no step left. */
export async function drawLatent(maker: Maker, state: EditState, step: number, z: Float32Array): Promise<Picture> {
  const watcher = { onStarted: ignore, onNote: ignore, onStep: ignore }
  const finished = { ...state, step, z, parameters: { ...state.parameters, steps: step } }
  const ended = await maker.make(finished, { watcher, signal: new AbortController().signal })
  if (ended.kind === 'completed') return ended.picture
  throw ended.kind === 'failed' ? ended.error : new Error('the picture of a latent was not drawn')
}

function ignore(): void {
  // The steps of a latent that is there are over.
}
