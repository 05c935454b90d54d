// An engine: one pack on one device. It prepares edits, takes batches of them a step further, and draws their pictures.
// The method is FlexIT's (CVPR 2022), section 3.

import { LRUCache } from 'lru-cache'
import { checkPath, checkRequest } from './check-request.js'
import { Edit, type EditState, type NetworkEmbeddings, type StepReport, checkState } from './edit.js'
import { FlexitError, invalidArgument } from './errors.js'
import { GraphCache } from './graph-cache.js'
import type { Graph } from './graph/graph.js'
import { Pack } from './pack/pack.js'
import {
  type EditParameters,
  type GivenParameters,
  checkText,
  resolveParameters,
  specificationKey,
  specificationOf,
} from './parameters.js'
import { type Picture, pictureToTensor, tensorToPicture } from './picture.js'
import { tapCount } from './networks/lpips.js'
import { type Device, type FloatTensor, Session, checkDevice, type Tensor, type TensorData } from './runtime.js'
import {
  type StepSpecification,
  decodeGraph,
  names,
  prepareGraph,
  stepGraph,
  textGraph,
  variableShape,
} from './step-graph.js'
import { type ViewSample, centreView, sampleView, viewInputNames } from './views.js'

export interface EngineOptions {
  /** Folder of the pack. */
  readonly pack: string
  readonly device?: Device | undefined
  /** Threads within one operation on the CPU. Default 0: one for each physical core. */
  readonly threads?: number | undefined
  /** Where built graphs are kept. */
  readonly cacheFolder: string
  /** Write the time of every operation of a step to a trace file with this prefix, when the engine is closed. */
  readonly profile?: string | undefined
  /** Called before work that takes long: building a graph, loading it. */
  readonly onProgress?: ((doing: string) => void) | undefined
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

/** Sessions kept ready: those of steps, and those around them. */
const maxSessions = 12

/** The same for those of steps: each keeps the memory of its largest step, which grows with its views. */
const maxStepSize = 24

type Sessions = LRUCache<string, Promise<Session>>

function newSessions(limits: { readonly max: number; readonly maxSize?: number }): Sessions {
  return new LRUCache({
    ...limits,
    dispose: (loading) => void loading.then((session) => session.release()).catch(() => undefined),
  })
}

/** 2 for an edit with the embedded pack's default parameters, 9 for one with 64 views of two networks. */
function stepSize({ views, networks }: StepSpecification): number {
  return Math.min(1 + Math.ceil((views * networks.length) / 16), maxStepSize)
}

export class Engine {
  readonly pack: Pack
  readonly #options: EngineOptions
  readonly #cache: GraphCache
  readonly #steps = newSessions({ max: maxSessions, maxSize: maxStepSize })
  readonly #around = newSessions({ max: maxSessions })
  /** Under way: `close` waits for it. */
  readonly #work = new Set<Promise<unknown>>()
  #closing: Promise<void> | undefined
  #lastBatch: { readonly edits: readonly Edit[]; readonly inputs: Record<string, Tensor> } | undefined

  private constructor(pack: Pack, options: EngineOptions) {
    this.pack = pack
    this.#options = options
    this.#cache = new GraphCache(options.cacheFolder)
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
    const key = specificationKey(first.specification)
    const session = await this.#session(
      'step',
      key,
      () => stepGraph(this.pack, first.specification),
      first.specification,
    )
    const outputs = await session.run(this.#stepInputs(edits, first.specification))
    return edits.map((edit, i) => this.#settle(edit, outputs, i))
  }

  /**
   * The picture of an edit's latent: after the last step, its result. Errors: FAILED_PRECONDITION (the engine was closed),
   * and those of building and loading graphs.
   */
  picture(edit: Edit): Promise<Picture> {
    return this.#whileOpen(() => this.#picture(edit))
  }

  async #picture(edit: Edit): Promise<Picture> {
    const { z } = edit
    if (edit.specification.space === 'pixels') return tensorToPicture(z, { height: this.size, width: this.size })
    const shape = [1, ...variableShape(this.pack, 'latent')]
    const session = await this.#session('decode', '', () => decodeGraph(this.pack), edit.specification)
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
  async trim(): Promise<boolean> {
    const sessions = [...this.#steps.values()]
    this.#steps.clear()
    // What frees each was told to wait for it first.
    await Promise.allSettled(sessions)
    return sessions.length > 0
  }

  /** Wait for work under way, free the sessions and close the pack's files. An engine that was closed does no work again. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  async #close(): Promise<void> {
    await Promise.allSettled(this.#work)
    const sessions = [...this.#steps.values(), ...this.#around.values()]
    this.#steps.clear()
    this.#around.clear()
    await Promise.allSettled(sessions)
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

  #session(kind: string, key: string, build: () => Graph, specification: StepSpecification): Promise<Session> {
    const id = `${kind} ${key}`
    const sessions = kind === 'step' ? this.#steps : this.#around
    const known = sessions.get(id)
    if (known !== undefined) return known
    const loading = this.#load(kind, key, build, specification)
    sessions.set(id, loading, kind === 'step' ? { size: stepSize(specification) } : {})
    loading.catch(() => sessions.delete(id))
    return loading
  }

  async #load(kind: string, key: string, build: () => Graph, specification: StepSpecification): Promise<Session> {
    const { device = { kind: 'cpu', index: 0 }, threads = 0, profile, onProgress } = this.#options
    const parts = [this.pack.digest, key]
    const checkAndBuild = async () => {
      onProgress?.(`building the ${kind} graph`)
      await this.pack.verify(specification.networks)
      return build()
    }
    const create = (path: string) => {
      onProgress?.(`loading the ${kind} graph`)
      return Session.create(path, { device, threads, ...(kind === 'step' && profile !== undefined ? { profile } : {}) })
    }
    return this.#cache.use(kind, parts, checkAndBuild, create)
  }

  async #runPrepare(image: Float32Array, specification: StepSpecification): Promise<Record<string, Tensor>> {
    const { space, networks, perceptual } = specification
    const key = JSON.stringify([space, networks, perceptual])
    const session = await this.#session('prepare', key, () => prepareGraph(this.pack, specification), specification)
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
    const session = await this.#session('text', key, () => textGraph(this.pack, specification), specification)
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

  #stepInputs(edits: readonly Edit[], specification: StepSpecification): Record<string, Tensor> {
    const inputs: Record<string, Tensor> = { ...this.#constantInputs(edits, specification) }
    const variable = variableShape(this.pack, specification.space)
    inputs['z'] = stack(
      edits.map((edit) => edit.z),
      variable,
    )
    for (const name of specification.networks) {
      Object.assign(
        inputs,
        viewInputs(
          name,
          edits.map((edit) => this.#views(edit, name)),
          specification.views > 0,
        ),
      )
    }
    return inputs
  }

  /** The inputs that stay the same as long as a batch has the same edits; those of the last batch are kept. */
  #constantInputs(edits: readonly Edit[], specification: StepSpecification): Record<string, Tensor> {
    const last = this.#lastBatch
    if (last?.edits.length === edits.length && edits.every((edit, i) => edit === last.edits[i])) return last.inputs
    const [first] = edits
    const inputs: Record<string, Tensor> = {
      z0: stack(
        edits.map((edit) => edit.constants.z0),
        variableShape(this.pack, specification.space),
      ),
      learning_rate: scalars(edits, (p) => p.learningRate),
    }
    if (specification.latent) inputs['lambda_z'] = scalars(edits, (p) => p.lambdaZ)
    if (specification.perceptual) {
      inputs['lambda_p'] = scalars(edits, (p) => p.lambdaP)
      first!.constants.features.forEach(({ shape }, tap) => {
        inputs[names.feature(tap)] = stack(
          edits.map((edit) => edit.constants.features[tap]!.data),
          shape.slice(1),
        )
      })
    }
    for (const name of specification.networks) {
      const of = (part: keyof NetworkEmbeddings) => {
        const rows = edits.map((edit) => edit.constants.embeddings.get(name)![part])
        return stack(rows, [rows[0]!.length])
      }
      inputs[names.target(name)] = of('target')
      inputs[names.sourceText(name)] = of('sourceText')
      inputs[names.targetText(name)] = of('targetText')
    }
    this.#lastBatch = { edits: [...edits], inputs }
    return inputs
  }

  #views(edit: Edit, name: string): ViewSample[] {
    const { index, config } = this.pack.clip(name)
    const { seed, views } = edit.parameters
    if (views === 0) return [centreView(this.size, this.size, config.imageResolution)]
    return Array.from({ length: views }, (_, view) =>
      sampleView({ seed, step: edit.step, network: index, view }, this.size, this.size, config.imageResolution),
    )
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

/** Arrays of equal shape as a batch; a batch of one is not copied. */
function stack(rows: readonly Float32Array[], shape: readonly number[]): Tensor {
  const [first] = rows
  if (rows.length === 1) return { shape: [1, ...shape], data: first! }
  const data = new Float32Array(rows.length * first!.length)
  rows.forEach((row, i) => data.set(row, i * row.length))
  return { shape: [rows.length, ...shape], data }
}

function scalars(edits: readonly Edit[], of: (parameters: EditParameters) => number): Tensor {
  return { shape: [edits.length], data: Float32Array.from(edits, (edit) => of(edit.parameters)) }
}

/** The inputs of `views` (views.ts) for the views of each edit. */
function viewInputs(
  network: string,
  samples: readonly (readonly ViewSample[])[],
  rotate: boolean,
): Record<string, Tensor> {
  const input = viewInputNames(network)
  const count = samples[0]!.length
  const flat = samples.flat()
  const size = flat[0]!.y.length
  const of = (row: (view: ViewSample) => ArrayLike<number>, length: number): Tensor => {
    const data = new Float32Array(flat.length * length)
    flat.forEach((view, i) => data.set(row(view), i * length))
    return { shape: [samples.length, count, length], data }
  }
  return {
    [input.y]: of((view) => view.y, size),
    [input.x]: of((view) => view.x, size),
    ...(rotate ? { [input.shear]: of((view) => view.shear, 2) } : {}),
  }
}
