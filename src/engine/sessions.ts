// The sessions of an engine: loaded when first asked for, kept ready while they are among the last used ones.

import { LRUCache } from 'lru-cache'
import { GraphCache } from './graph-cache.js'
import type { Graph } from './graph/graph.js'
import type { Pack } from './pack/pack.js'
import { type Device, Session } from './runtime.js'
import type { StepSpecification } from './step-graph.js'

export interface SessionsOptions {
  readonly device?: Device | undefined
  /** Threads within one operation on the CPU. Default 0: one for each physical core. */
  readonly threads?: number | undefined
  /** Where built graphs are kept. */
  readonly cacheFolder: string
  /** Called before work that takes long: building a graph, loading it. */
  readonly onProgress?: ((doing: string) => void) | undefined
}

/** What the session is of. */
export interface SessionRequest {
  readonly kind: 'prepare' | 'text' | 'step' | 'decode'
  /** Tells its graph from the others of its kind. */
  readonly key: string
  readonly specification: StepSpecification
  readonly build: () => Graph
}

/** Sessions kept ready: those of steps, and those around them. */
const maxSessions = 12

/** The same for those of steps: each keeps the memory of its largest step, which grows with its views. */
const maxStepSize = 24

/** 2 for an edit with the embedded pack's default parameters, 9 for one with 64 views of two networks. */
function stepSize({ views, networks }: StepSpecification): number {
  return Math.min(1 + Math.ceil((views * networks.length) / 16), maxStepSize)
}

export class Sessions {
  readonly #pack: Pack
  readonly #options: SessionsOptions
  readonly #cache: GraphCache
  readonly #steps = this.#kept({ max: maxSessions, maxSize: maxStepSize })
  readonly #around = this.#kept({ max: maxSessions })
  /** Those that are no longer kept, until they are freed. */
  readonly #leaving = new Set<Promise<void>>()

  constructor(pack: Pack, options: SessionsOptions) {
    this.#pack = pack
    this.#options = options
    this.#cache = new GraphCache(options.cacheFolder)
  }

  /**
   * To be used at once: one that others push out is freed when what runs by then has ended. Errors: those of building and
   * loading graphs.
   */
  get(request: SessionRequest): Promise<Session> {
    const { kind, key, specification } = request
    const id = `${kind} ${key}`
    const sessions = kind === 'step' ? this.#steps : this.#around
    const known = sessions.get(id)
    if (known !== undefined) return known
    const loading = this.#load(request)
    sessions.set(id, loading, kind === 'step' ? { size: stepSize(specification) } : {})
    loading.catch(() => {
      // It may have been pushed out meanwhile, and asked for again.
      if (sessions.peek(id) === loading) sessions.delete(id)
    })
    return loading
  }

  /** Free those of steps. Returns whether there were any. */
  async trim(): Promise<boolean> {
    const any = this.#steps.size > 0
    this.#steps.clear()
    await Promise.all(this.#leaving)
    return any
  }

  /** Free all. */
  async close(): Promise<void> {
    this.#around.clear()
    await this.trim()
  }

  #kept(limits: { readonly max: number; readonly maxSize?: number }): LRUCache<string, Promise<Session>> {
    return new LRUCache({ ...limits, dispose: (loading) => this.#free(loading) })
  }

  /** Whoever got it before has asked it to run by the time that it is told to go, as both wait for the same promise. */
  #free(loading: Promise<Session>): void {
    const leaving = loading
      .then((session) => session.release())
      .catch(() => undefined)
      .finally(() => this.#leaving.delete(leaving))
    this.#leaving.add(leaving)
  }

  async #load({ kind, key, specification, build }: SessionRequest): Promise<Session> {
    const { device = { kind: 'cpu', index: 0 }, threads = 0, onProgress } = this.#options
    const checkAndBuild = async () => {
      onProgress?.(`building the ${kind} graph`)
      await this.#pack.verify(specification.networks)
      return build()
    }
    const create = (path: string) => {
      onProgress?.(`loading the ${kind} graph`)
      return Session.create(path, { device, threads })
    }
    return this.#cache.use(kind, [this.#pack.digest, key], checkAndBuild, create)
  }
}
