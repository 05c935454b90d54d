// Admission: how many edits, and edits and bytes that wait for a first step, are taken in, in all and for each tenant.
// Shed load early and say when to come back: https://sre.google/sre-book/handling-overload/

import { AdmissionError } from '../api.js'

export interface AdmissionLimits {
  /** Edits that did not end yet. Default 10,000. */
  readonly edits?: number | undefined
  /** The same for one tenant. Default: as many as in all. */
  readonly editsPerTenant?: number | undefined
  /** Edits that did not start yet. Default: as many as may be under way. */
  readonly waiting?: number | undefined
  /** The same for one tenant. Default: as many as in all. */
  readonly waitingPerTenant?: number | undefined
  /** Bytes of the requests of edits that did not start yet. Default 1 GiB. */
  readonly bytes?: number | undefined
  /** The same for one tenant. Default: as many as in all. */
  readonly bytesPerTenant?: number | undefined
}

/** Which limit refused an edit. */
export type AdmissionLimit =
  'edits' | 'waiting edits' | 'waiting bytes' | `${'edits' | 'waiting edits' | 'waiting bytes'} of this tenant`

/** What an admitted edit occupies. */
export interface Holding {
  readonly tenant: string
  edits: number
  waiting: number
  bytes: number
}

type Used = Omit<Holding, 'tenant'>

const retryBounds = { leastMs: 100, mostMs: 60_000, unmeasuredMs: 1_000 } as const

export class Admission {
  readonly #limits: Readonly<Record<keyof AdmissionLimits, number>>
  readonly #all: Used = { edits: 0, waiting: 0, bytes: 0 }
  readonly #tenants = new Map<string, Used>()
  /**
   * Those who were refused are told to come back one after another. For each limit, by tenant, so that one tenant's tries
   * do not put off another one: how many edits will have ended when there was a place for all that it was refused.
   */
  readonly #queues = new Map<string, Map<string, number>>()
  /** Edits that have ended, in all and of each tenant. */
  #ended = 0
  readonly #endedOf = new Map<string, number>()

  constructor({
    edits = 10_000,
    editsPerTenant = edits,
    waiting = edits,
    waitingPerTenant = waiting,
    bytes = 1024 ** 3,
    bytesPerTenant = bytes,
  }: AdmissionLimits = {}) {
    this.#limits = { edits, editsPerTenant, waiting, waitingPerTenant, bytes, bytesPerTenant }
  }

  get used(): Readonly<Used> {
    return this.#all
  }

  /** Take a place. Errors: AdmissionError, with the time after which one is likely free if an edit ends every `endEveryMs`. */
  admit(tenant: string, bytes: number, endEveryMs: number | undefined): Holding {
    const own = this.#tenants.get(tenant) ?? { edits: 0, waiting: 0, bytes: 0 }
    const limit = this.#exceeded(own, bytes)
    if (limit !== undefined) throw this.#refusal(tenant, own.edits, limit, endEveryMs)
    this.#tenants.set(tenant, own)
    const holding = { tenant, edits: 0, waiting: 0, bytes: 0 }
    this.#add(holding, { edits: 1, waiting: 1, bytes })
    return holding
  }

  /** The edit has started: its request is no longer held. */
  started(holding: Holding): void {
    this.#add(holding, { edits: 0, waiting: -holding.waiting, bytes: -holding.bytes })
  }

  /** The edit has ended, or never came. Once is enough. */
  release(holding: Holding): void {
    if (holding.edits === 0) return
    this.#add(holding, { edits: -holding.edits, waiting: -holding.waiting, bytes: -holding.bytes })
    this.#ended++
    this.#endedOf.set(holding.tenant, (this.#endedOf.get(holding.tenant) ?? 0) + 1)
  }

  #exceeded(own: Used, bytes: number): AdmissionLimit | undefined {
    const [all, limits] = [this.#all, this.#limits]
    if (all.edits >= limits.edits) return 'edits'
    if (all.waiting >= limits.waiting) return 'waiting edits'
    if (all.bytes + bytes > limits.bytes) return 'waiting bytes'
    if (own.edits >= limits.editsPerTenant) return 'edits of this tenant'
    if (own.waiting >= limits.waitingPerTenant) return 'waiting edits of this tenant'
    if (own.bytes + bytes > limits.bytesPerTenant) return 'waiting bytes of this tenant'
    return undefined
  }

  #refusal(tenant: string, edits: number, limit: AdmissionLimit, endEveryMs: number | undefined): AdmissionError {
    const { leastMs, mostMs, unmeasuredMs } = retryBounds
    // A tenant's edits end as seldom as they are few among all.
    const seldom = isOfTenant(limit) ? this.#all.edits / Math.max(edits, 1) : 1
    const everyMs = seldom * (endEveryMs ?? unmeasuredMs)
    const places = this.#queue(tenant, limit, everyMs)
    const expectedMs = endEveryMs === undefined ? unmeasuredMs : places * everyMs
    const retryAfterMs = Math.round(Math.min(Math.max(expectedMs, leastMs), mostMs))
    return new AdmissionError({
      code: 'RESOURCE_EXHAUSTED',
      reason: limit,
      retryAfterMs,
      message: `the server is full: the limit of ${limit} is reached`,
      cure: `Try again in ${(retryAfterMs / 1_000).toFixed(1)} s.`,
    })
  }

  /**
   * Put one more refused edit in its tenant's queue for a limit. Returns after how many ends it is to come back: after
   * those before it in the queue, and no sooner than each tenant that waits has had a place. It is no more than what can be
   * told: an edit that tries again counts again, and must not pile up.
   */
  #queue(tenant: string, limit: AdmissionLimit, endEveryMs: number): number {
    const [key, ended] = isOfTenant(limit)
      ? [`${limit} ${tenant}`, this.#endedOf.get(tenant) ?? 0]
      : [limit, this.#ended]
    const queues = this.#queues.get(key) ?? new Map<string, number>()
    this.#queues.set(key, queues)
    for (const [other, served] of queues) if (served <= ended) queues.delete(other)
    const length = (queues.get(tenant) ?? ended) - ended + 1
    const tenants = queues.size + (queues.has(tenant) ? 0 : 1)
    const longest = Math.ceil(retryBounds.mostMs / Math.max(endEveryMs, 1))
    const places = Math.min(Math.max(length, tenants), longest)
    queues.set(tenant, ended + places)
    return places
  }

  #add(holding: Holding, { edits, waiting, bytes }: Used): void {
    const own = this.#tenants.get(holding.tenant)!
    for (const used of [this.#all, own, holding]) {
      used.edits += edits
      used.waiting += waiting
      used.bytes += bytes
    }
    if (own.edits === 0) this.#tenants.delete(holding.tenant)
  }
}

function isOfTenant(limit: AdmissionLimit): boolean {
  return limit.endsWith('of this tenant')
}
