// Admission: how many edits, and bytes of edits that did not start yet, are taken in, in all and for each tenant.
// Shed load early and say when to come back: https://sre.google/sre-book/handling-overload/

import { AdmissionError } from '../api.js'

export interface AdmissionLimits {
  /** Edits that did not end yet. Default 10,000. */
  readonly edits?: number
  /** The same for one tenant. Default: as many as in all. */
  readonly editsPerTenant?: number
  /** Bytes of the requests of edits that did not start yet. Default 1 GiB. */
  readonly bytes?: number
  /** The same for one tenant. Default: as many as in all. */
  readonly bytesPerTenant?: number
}

/** Which limit refused an edit. */
export type AdmissionLimit = 'edits' | 'edits of this tenant' | 'bytes' | 'bytes of this tenant'

/** What an admitted edit occupies. */
export interface Place {
  readonly tenant: string
  bytes: number
  edits: number
}

interface Used {
  edits: number
  bytes: number
}

const retryBounds = { leastMs: 100, mostMs: 60_000, unmeasuredMs: 1_000 } as const

export class Admission {
  readonly #limits: Required<AdmissionLimits>
  readonly #all: Used = { edits: 0, bytes: 0 }
  readonly #tenants = new Map<string, Used>()
  /** Refused since places became free: they are told to come back one after another. */
  #refused = 0

  constructor({
    edits = 10_000,
    editsPerTenant = edits,
    bytes = 1024 ** 3,
    bytesPerTenant = bytes,
  }: AdmissionLimits = {}) {
    this.#limits = { edits, editsPerTenant, bytes, bytesPerTenant }
  }

  get used(): Readonly<Used> {
    return this.#all
  }

  /** Take a place. Errors: AdmissionError, with the time after which one is likely free if an edit ends every `endEveryMs`. */
  admit(tenant: string, bytes: number, endEveryMs: number | undefined): Place {
    const own = this.#tenants.get(tenant) ?? { edits: 0, bytes: 0 }
    const limit = this.#exceeded(own, bytes)
    if (limit !== undefined) throw this.#refusal(limit, endEveryMs)
    this.#tenants.set(tenant, own)
    const place = { tenant, bytes: 0, edits: 0 }
    this.#add(place, 1, bytes)
    return place
  }

  /** The edit has started: its request is no longer held. */
  started(place: Place): void {
    this.#add(place, 0, -place.bytes)
  }

  /** The edit has ended, or never came. Once is enough. */
  release(place: Place): void {
    if (place.edits === 0) return
    this.#add(place, -place.edits, -place.bytes)
    this.#refused = Math.max(0, this.#refused - 1)
  }

  #exceeded(own: Used, bytes: number): AdmissionLimit | undefined {
    const limits = this.#limits
    if (this.#all.edits >= limits.edits) return 'edits'
    if (this.#all.bytes + bytes > limits.bytes) return 'bytes'
    if (own.edits >= limits.editsPerTenant) return 'edits of this tenant'
    if (own.bytes + bytes > limits.bytesPerTenant) return 'bytes of this tenant'
    return undefined
  }

  #refusal(limit: AdmissionLimit, endEveryMs: number | undefined): AdmissionError {
    this.#refused++
    const { leastMs, mostMs, unmeasuredMs } = retryBounds
    const expectedMs = endEveryMs === undefined ? unmeasuredMs : this.#refused * endEveryMs
    const retryAfterMs = Math.round(Math.min(Math.max(expectedMs, leastMs), mostMs))
    return new AdmissionError({
      code: 'RESOURCE_EXHAUSTED',
      reason: limit,
      retryAfterMs,
      message: `the server is full: the limit of waiting ${limit} is reached`,
      cure: `Try again in ${(retryAfterMs / 1_000).toFixed(1)} s.`,
    })
  }

  #add(place: Place, edits: number, bytes: number): void {
    const own = this.#tenants.get(place.tenant)!
    for (const used of [this.#all, own, place]) {
      used.edits += edits
      used.bytes += bytes
    }
    if (own.edits === 0) this.#tenants.delete(place.tenant)
  }
}
