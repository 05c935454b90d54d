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
export interface Place {
  readonly tenant: string
  edits: number
  waiting: number
  bytes: number
}

/** Those who were refused: they are told to come back one after another. */
interface Queue {
  readonly length: number
  /** How many edits had ended when `length` was right. */
  readonly ended: number
}

type Used = Omit<Place, 'tenant'>

const retryBounds = { leastMs: 100, mostMs: 60_000, unmeasuredMs: 1_000 } as const

export class Admission {
  readonly #limits: Readonly<Record<keyof AdmissionLimits, number>>
  readonly #all: Used = { edits: 0, waiting: 0, bytes: 0 }
  readonly #tenants = new Map<string, Used>()
  /** By tenant and limit, so that one tenant's tries do not put off another one. */
  readonly #queues = new Map<string, Queue>()
  /** Edits that have ended. */
  #ended = 0

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
  admit(tenant: string, bytes: number, endEveryMs: number | undefined): Place {
    const own = this.#tenants.get(tenant) ?? { edits: 0, waiting: 0, bytes: 0 }
    const limit = this.#exceeded(own, bytes)
    if (limit !== undefined) throw this.#refusal(tenant, limit, endEveryMs)
    this.#tenants.set(tenant, own)
    const place = { tenant, edits: 0, waiting: 0, bytes: 0 }
    this.#add(place, { edits: 1, waiting: 1, bytes })
    return place
  }

  /** The edit has started: its request is no longer held. */
  started(place: Place): void {
    this.#add(place, { edits: 0, waiting: -place.waiting, bytes: -place.bytes })
  }

  /** The edit has ended, or never came. Once is enough. */
  release(place: Place): void {
    if (place.edits === 0) return
    this.#add(place, { edits: -place.edits, waiting: -place.waiting, bytes: -place.bytes })
    this.#ended++
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

  #refusal(tenant: string, limit: AdmissionLimit, endEveryMs: number | undefined): AdmissionError {
    const { leastMs, mostMs, unmeasuredMs } = retryBounds
    const places = this.#queue(tenant, limit, endEveryMs ?? unmeasuredMs)
    const expectedMs = endEveryMs === undefined ? unmeasuredMs : places * endEveryMs
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
   * Put one more refused edit in its tenant's queue for a limit. Returns its length. It falls by one with each edit that
   * ends, and is no longer than what can be told: an edit that tries again counts again, and must not pile up.
   */
  #queue(tenant: string, limit: AdmissionLimit, endEveryMs: number): number {
    const key = `${limit} ${tenant}`
    const { length, ended } = this.#queues.get(key) ?? { length: 0, ended: this.#ended }
    const left = Math.max(0, length - (this.#ended - ended))
    const longest = Math.ceil(retryBounds.mostMs / Math.max(endEveryMs, 1))
    const queue = { length: Math.min(left + 1, longest), ended: this.#ended }
    this.#queues.set(key, queue)
    return queue.length
  }

  #add(place: Place, { edits, waiting, bytes }: Used): void {
    const own = this.#tenants.get(place.tenant)!
    for (const used of [this.#all, own, place]) {
      used.edits += edits
      used.waiting += waiting
      used.bytes += bytes
    }
    if (own.edits === 0) this.#tenants.delete(place.tenant)
  }
}
