// What an edit is: a small state that determines all its later bits, and the constants that follow from it.

import { FlexitError } from './errors.js'
import type { EditParameters } from './parameters.js'
import { checkText } from './parameters.js'
import type { Picture } from './picture.js'
import type { FloatTensor } from './runtime.js'
import type { StepSpecification } from './step-graph.js'

/** (pack, parameters with seed, texts, picture, step, z): everything that a later step depends on. */
export interface EditState {
  /** `Pack.digest` of the pack that it belongs to. */
  readonly pack: string
  readonly parameters: EditParameters
  readonly source: string
  readonly target: string
  /** The input picture at the pack's size. */
  readonly picture: Picture
  /** Steps taken so far; z is the latent before step `step`. */
  readonly step: number
  /** [C, h, w] of the variable; undefined before the first step, where it is z0. */
  readonly z: Float32Array | undefined
  /** The shape that z was saved with, where it comes from a file. */
  readonly shape?: readonly number[] | undefined
}

/** Losses of one step, without their λ; a term that the parameters leave out is undefined. */
export interface StepLosses {
  readonly total: number
  readonly clip: number
  readonly lpips: number | undefined
  readonly latent: number | undefined
}

/** What one step computed about the latent that it started from. */
export interface StepReport {
  /** The number of the latent: 0 is the encoded input. */
  readonly step: number
  readonly losses: StepLosses
  /** Mean cosine similarity of the views to the source text and to the target text. */
  readonly similaritySource: number
  readonly similarityTarget: number
  /** The picture of the latent. */
  readonly preview: Picture
  /** Set where the step gave a loss or latent that is not finite; the edit keeps the latent before it. */
  readonly failure: FlexitError | undefined
}

/** Arrays that stay the same through an edit, ready to be fed. */
export interface EditConstants {
  /** z0 [C, h, w]. */
  readonly z0: Float32Array
  /** For each network: the target point P, and the unit embeddings of the two texts [E]. */
  readonly embeddings: ReadonlyMap<string, NetworkEmbeddings>
  /** LPIPS features of the input, five maps; empty where the parameters leave the term out. */
  readonly features: readonly FloatTensor[]
}

export interface NetworkEmbeddings {
  readonly target: Float32Array
  readonly sourceText: Float32Array
  readonly targetText: Float32Array
}

/** An edit under way. Made by `Engine.prepare`, moved on by `Engine.step`. */
export class Edit {
  readonly specification: StepSpecification
  readonly constants: EditConstants
  /** Things that the user should know: texts that were cut. */
  readonly warnings: readonly string[]
  #state: EditState & { readonly z: Float32Array }
  #failure: FlexitError | undefined

  constructor(
    state: EditState,
    specification: StepSpecification,
    constants: EditConstants,
    warnings: readonly string[],
  ) {
    this.#state = { ...state, z: state.z ?? constants.z0 }
    this.specification = specification
    this.constants = constants
    this.warnings = warnings
  }

  /** A snapshot: later steps do not change it. */
  get state(): EditState & { readonly z: Float32Array } {
    return this.#state
  }

  get parameters(): EditParameters {
    return this.#state.parameters
  }

  get step(): number {
    return this.#state.step
  }

  get z(): Float32Array {
    return this.#state.z
  }

  /** Why the edit cannot go on; its state is the last good one. */
  get failure(): FlexitError | undefined {
    return this.#failure
  }

  /** Whether no step is left to take. */
  get done(): boolean {
    return this.#failure !== undefined || this.step >= this.parameters.steps
  }

  /** The latent after one more step. */
  advance(z: Float32Array): void {
    this.#state = { ...this.#state, step: this.step + 1, z }
  }

  fail(failure: FlexitError): void {
    this.#failure = failure
  }
}

/** Check a state from outside against a pack's digest and the shape of its variable. Errors: INVALID_ARGUMENT. */
export function checkState(state: EditState, packDigest: string, variable: readonly number[], size: number): void {
  const reject = (message: string, cure: string) =>
    new FlexitError({ code: 'INVALID_ARGUMENT', field: 'state', message, cure })
  if (state.pack !== packDigest) {
    throw reject(
      'the saved edit belongs to another pack, or to another version of it',
      'Open it with the pack that made it.',
    )
  }
  checkText(state.source, 'source')
  checkText(state.target, 'target')
  const { height, width, data } = state.picture
  if (height !== size || width !== size || data.length !== size * size * 3) {
    throw reject(
      `the saved picture is ${width} × ${height}, expected ${size} × ${size}`,
      'Start the edit anew from its picture.',
    )
  }
  if (state.step < 0 || !Number.isInteger(state.step) || state.step > state.parameters.steps) {
    throw reject(
      `the saved step ${state.step} is not one of ${state.parameters.steps}`,
      'Ask for at least as many steps as were taken.',
    )
  }
  if (state.z === undefined) return
  if (state.shape !== undefined && state.shape.join() !== variable.join()) {
    throw reject(
      `the saved latent is ${state.shape.join(' × ')}, expected ${variable.join(' × ')}`,
      'Open it with the pack that made it.',
    )
  }
  const length = variable.reduce((product, n) => product * n, 1)
  if (state.z.length !== length) {
    throw reject(
      `the saved latent has ${state.z.length} values, expected ${length} (${variable.join(' × ')})`,
      'Open it with the pack that made it.',
    )
  }
  if (!state.z.every(Number.isFinite)) {
    throw reject('the saved latent has values that are not finite', 'Use an earlier save of the edit.')
  }
}
