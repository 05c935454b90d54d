// An engine: one pack on one device. It prepares edits, takes batches of them a step further, and draws their pictures.
// The method is FlexIT's (CVPR 2022), section 3.

import { checkPath, checkRequest } from './check-request.js'
import { Edit, type EditState, type NetworkEmbeddings, type StepReport, checkState } from './edit.js'
import { FlexitError, invalidArgument } from './errors.js'
import { Pack } from './pack/pack.js'
import { type GivenParameters, checkText, resolveParameters, specificationKey, specificationOf } from './parameters.js'
import { type Picture, pictureToTensor, tensorToPicture } from './picture.js'
import { tapCount } from './networks/lpips.js'
import { type FloatTensor, type Tensor, type TensorData, checkDevice } from './runtime.js'
import { Sessions, type SessionsOptions } from './sessions.js'
import {
  type StepSpecification,
  decodeGraph,
  names,
  prepareGraph,
  stepGraph,
  textGraph,
  variableShape,
} from './step-graph.js'
import { StepInputs, viewInputs } from './step-inputs.js'
import { centreView } from './views.js'

export interface EngineOptions extends SessionsOptions {
  /** Folder of the pack. */
  readonly pack: string
}

export interface EditRequest {
  /** At the pack's size: `readPicture(…, { height: engine.size, width: engine.size, … })`. */
  readonly picture: Picture
  /** What is in the picture. */
  readonly source: string
  /** What it should become. */
  readonly target: string
  /** What is left out comes from the pack and the preset. */
  readonly parameters?: GivenParameters | undefined
}

export class Engine {
  readonly pack: Pack
  readonly #sessions: Sessions
  readonly #inputs: StepInputs
  /** Under way: `close` waits for it. */
  readonly #work = new Set<Promise<unknown>>()
  #closing: Promise<void> | undefined

  private constructor(pack: Pack, options: EngineOptions) {
    this.pack = pack
    this.#sessions = new Sessions(pack, options)
    this.#inputs = new StepInputs(pack)
  }

  /**
   * Open a pack. Sessions are made when first needed. Errors: INVALID_ARGUMENT (`pack`, `cacheFolder`, `device`), those of
   * `Pack.open`.
   */
  static async open(options: EngineOptions): Promise<Engine> {
    checkPath(options.pack, 'pack', "Give the folder of a pack: (await requirePack('tiny')).folder.")
    checkPath(options.cacheFolder, 'cacheFolder', 'Use cacheFolder(), or a folder of your own for built graphs.')
    if (options.device !== undefined) checkDevice(options.device)
    return new Engine(await Pack.open(options.pack), options)
  }

  /** Height and width of the pictures of this pack. */
  get size(): number {
    return this.pack.manifest.image.size
  }

  /**
   * Check a request and make it the state before the first step. Errors: INVALID_ARGUMENT, with the `field` that is wrong:
   * `picture` for one that has not the pack's size.
   */
  begin(request: EditRequest): EditState {
    checkRequest(request, this.size)
    const { picture, source, target, parameters = {} } = request
    return {
      pack: this.pack.digest,
      parameters: resolveParameters(parameters, this.pack),
      source: checkText(source, 'source'),
      target: checkText(target, 'target'),
      picture,
      step: 0,
      z: undefined,
    }
  }

  /**
   * Compute what stays constant through an edit: z0, the target points, the LPIPS features of the input. The same state
   * gives the same bits, also on another machine with the same kind of device (of CPUs: the same vector instructions).
   * Errors: INVALID_ARGUMENT (a state that does not fit this pack), FAILED_PRECONDITION (the engine was closed), and those
   * of building and loading graphs.
   */
  prepare(state: EditState): Promise<Edit> {
    return this.#whileOpen(() => this.#prepare(state))
  }

  async #prepare(state: EditState): Promise<Edit> {
    const specification = specificationOf(state.parameters)
    checkState(state, this.pack.digest, variableShape(this.pack, specification.space), this.size)
    const image = pictureToTensor(state.picture)
    const outputs = await this.#runPrepare(image, specification)
    const { embeddings, warnings } = await this.#targets(state, specification, outputs)
    const features = specification.perceptual ? featureNames.map((name) => floatTensor(outputs, name)) : []
    const z0 = specification.space === 'latent' ? floats(outputs, 'z0') : image
    return new Edit(state, specification, { z0, embeddings, features }, warnings)
  }

  /**
   * Take every edit one step further, in one batch. All must have the same specification (`specificationKey`) and a step
   * left, and none may be there twice. An edit's results do not depend on the others; one whose numbers are no longer
   * finite fails alone, at its last good latent. Reports are in the order of the edits. Errors, with no edit moved on:
   * INVALID_ARGUMENT (`edits`: different specifications, an edit twice), FAILED_PRECONDITION (an edit that is done, or that
   * another call is taking a step of; the engine was closed), and those of building and loading graphs.
   */
  async step(edits: readonly Edit[]): Promise<StepReport[]> {
    const [first] = edits
    if (first === undefined) return []
    checkBatch(edits)
    for (const edit of edits) underWay.add(edit)
    try {
      return await this.#whileOpen(() => this.#takeStep(edits, first))
    } finally {
      for (const edit of edits) underWay.delete(edit)
    }
  }

  async #takeStep(edits: readonly Edit[], first: Edit): Promise<StepReport[]> {
    const { specification } = first
    const session = await this.#sessions.get({
      kind: 'step',
      key: specificationKey(specification),
      specification,
      build: () => stepGraph(this.pack, specification),
    })
    const outputs = await session.run(this.#inputs.of(edits, specification))
    const reports = edits.map((edit, i) => this.#settle(edit, outputs, i))
    if (edits.some(({ done }) => done)) this.#inputs.forget()
    return reports
  }

  /**
   * The picture of an edit's latent: after the last step, its result. Errors: FAILED_PRECONDITION (the engine was closed),
   * and those of building and loading graphs.
   */
  picture(edit: Edit): Promise<Picture> {
    return this.#whileOpen(() => this.#picture(edit))
  }

  async #picture(edit: Edit): Promise<Picture> {
    const { z, specification } = edit
    if (specification.space === 'pixels') return tensorToPicture(z, { height: this.size, width: this.size })
    const shape = [1, ...variableShape(this.pack, 'latent')]
    const build = () => decodeGraph(this.pack)
    const session = await this.#sessions.get({ kind: 'decode', key: '', specification, build })
    return this.#preview(await session.run({ z: { shape, data: z } }), 0)
  }

  /** Make all sessions of an edit ready, so that its first step does not wait. Networks that are absent are needed only where named. */
  async warmUp(parameters: GivenParameters = {}): Promise<void> {
    const { networkNames: present, defaultNetworks } = this.pack
    const usual = defaultNetworks.filter((name) => present.includes(name))
    const networks = parameters.networks ?? [usual, present, defaultNetworks].find((names) => names.length > 0)!
    const picture = { height: this.size, width: this.size, data: new Uint8Array(this.size ** 2 * 3) }
    const begun = this.begin({ picture, source: 'a', target: 'b', parameters: { ...parameters, networks } })
    const edit = await this.prepare(begun)
    await this.step([edit])
    await this.picture(edit)
  }

  /** Free the sessions of steps: they are loaded again when needed. Returns whether there were any. To be called between steps. */
  trim(): Promise<boolean> {
    this.#inputs.forget()
    return this.#sessions.trim()
  }

  /** Wait for work under way, free the sessions and close the pack's files. An engine that was closed does no work again. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  async #close(): Promise<void> {
    await Promise.allSettled(this.#work)
    this.#inputs.forget()
    await this.#sessions.close()
    this.pack.close()
  }

  async #whileOpen<T>(start: () => Promise<T>): Promise<T> {
    if (this.#closing !== undefined) {
      throw new FlexitError({
        code: 'FAILED_PRECONDITION',
        message: 'the engine was closed',
        cure: 'Open another one with `Engine.open`, or close it after its last edit.',
      })
    }
    const work = start()
    this.#work.add(work)
    try {
      return await work
    } finally {
      this.#work.delete(work)
    }
  }

  async #runPrepare(image: Float32Array, specification: StepSpecification): Promise<Record<string, Tensor>> {
    const { space, networks, perceptual } = specification
    const key = JSON.stringify([space, networks, perceptual])
    const build = () => prepareGraph(this.pack, specification)
    const session = await this.#sessions.get({ kind: 'prepare', key, specification, build })
    const inputs: Record<string, Tensor> = { image: { shape: [1, 3, this.size, this.size], data: image } }
    for (const name of networks) {
      const { config } = this.pack.clip(name)
      const view = centreView(this.size, this.size, config.imageResolution)
      Object.assign(inputs, viewInputs(name, [[view]], false))
    }
    return session.run(inputs)
  }

  /** P = C_t(T) + λ_I·C_i(I0) − λ_S·C_t(S) for each network (equation 1). */
  async #targets(
    { source, target, parameters }: EditState,
    specification: StepSpecification,
    prepared: Readonly<Record<string, Tensor>>,
  ): Promise<{ embeddings: Map<string, NetworkEmbeddings>; warnings: string[] }> {
    const inputs: Record<string, Tensor> = {}
    const warnings = new Set<string>()
    for (const name of specification.networks) {
      const { contextLength } = this.pack.clip(name).config
      const ids = new BigInt64Array(2 * contextLength)
      const last = new Float32Array(2 * contextLength)
      ;[source, target].forEach((text, row) => {
        const encoded = this.pack.tokenizer.encode(text, contextLength)
        encoded.ids.forEach((id, i) => (ids[row * contextLength + i] = BigInt(id)))
        last[row * contextLength + encoded.ids.indexOf(Math.max(...encoded.ids))] = 1
        if (encoded.truncated) {
          const which = row === 0 ? 'source' : 'target'
          warnings.add(
            `the ${which} text has ${encoded.tokens} tokens; CLIP reads ${contextLength}, the rest is cut off`,
          )
        }
      })
      inputs[`ids.${name}`] = { shape: [2, contextLength], data: ids }
      inputs[`last.${name}`] = { shape: [2, 1, contextLength], data: last }
    }
    const key = JSON.stringify(specification.networks)
    const build = () => textGraph(this.pack, specification)
    const session = await this.#sessions.get({ kind: 'text', key, specification, build })
    const texts = await session.run(inputs)
    const { lambdaI, lambdaS } = parameters
    const embeddings = new Map<string, NetworkEmbeddings>()
    for (const name of specification.networks) {
      const both = floats(texts, names.embedding(name))
      const [sourceText, targetText] = [both.slice(0, both.length / 2), both.slice(both.length / 2)]
      const image = floats(prepared, names.embedding(name))
      const point = targetText.map((value, i) => value + lambdaI * image[i]! - lambdaS * sourceText[i]!)
      embeddings.set(name, { target: point, sourceText, targetText })
    }
    return { embeddings, warnings: [...warnings] }
  }

  #settle(edit: Edit, outputs: Readonly<Record<string, Tensor>>, i: number): StepReport {
    const scalar = (name: string) => floats(outputs, name)[i]!
    const { perceptual, latent } = edit.specification
    const next = sample(outputs['next']!, i) as Float32Array
    const losses = {
      total: scalar('loss'),
      clip: scalar('loss_clip'),
      lpips: perceptual ? scalar('loss_lpips') : undefined,
      latent: latent ? scalar('loss_latent') : undefined,
    }
    const { step } = edit
    if (Number.isFinite(losses.total) && next.every(Number.isFinite)) edit.advance(next)
    else edit.fail(notFinite(step))
    return {
      step,
      losses,
      similaritySource: scalar('similarity_source'),
      similarityTarget: scalar('similarity_target'),
      preview: this.#preview(outputs, i),
      failure: edit.failure,
    }
  }

  #preview(outputs: Readonly<Record<string, Tensor>>, i: number): Picture {
    return { height: this.size, width: this.size, data: sample(outputs['preview']!, i) as Uint8Array }
  }
}

/** Edits that a step is being taken of, by any engine: two at once would start from the same latent. */
const underWay = new WeakSet<Edit>()

function checkBatch(edits: readonly Edit[]): void {
  const notReady = (message: string, cure: string) => new FlexitError({ code: 'FAILED_PRECONDITION', message, cure })
  if (new Set(edits).size < edits.length) {
    throw invalidArgument('edits', 'a batch has an edit twice', 'Name every edit of a batch once.')
  }
  const keys = new Set(edits.map(({ specification }) => specificationKey(specification)))
  if (keys.size > 1) {
    const message = 'a batch has edits of different specifications, which share no graph'
    throw invalidArgument('edits', message, 'Step edits together whose `specificationKey` is the same.')
  }
  if (edits.some(({ done }) => done)) {
    throw notReady('a batch has an edit that is done', 'Leave out edits whose `done` is true.')
  }
  if (edits.some((edit) => underWay.has(edit))) {
    const message = 'a batch has an edit that another call is taking a step of'
    throw notReady(message, 'Await each `step` of an edit before the next.')
  }
}

const featureNames = Array.from({ length: tapCount }, (_, tap) => names.feature(tap))

function notFinite(step: number): FlexitError {
  const usual = 'Lower the learning rate or the weights (λ), and resume from the saved latent or start anew.'
  return new FlexitError({
    code: 'FAILED_PRECONDITION',
    message: `the loss or its gradient is no longer finite at step ${step}; the latent before it is kept`,
    cure:
      step > 0 ? usual : `${usual} At the very first step it may also be a built graph: try \`flexit cache clear\`.`,
  })
}

function floatTensor(tensors: Readonly<Record<string, Tensor>>, name: string): FloatTensor {
  const { data, shape } = tensors[name] ?? {}
  if (!(data instanceof Float32Array) || shape === undefined) throw new Error(`${name} is not a float32 output`)
  return { data, shape }
}

function floats(tensors: Readonly<Record<string, Tensor>>, name: string): Float32Array {
  return floatTensor(tensors, name).data
}

/** One sample of a batch, copied. */
function sample({ data, shape }: Tensor, i: number): TensorData {
  const size = data.length / shape[0]!
  return data.slice(i * size, (i + 1) * size)
}
