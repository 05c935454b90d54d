// Weighted fairness between the tenants of one level: each has a virtual time, and the least is served first.
// Start-time fair queueing (Goyal, Vin, Cheng, 1997), with service counted in device time.

import { Heap } from '../heap.js'

/** What a tenant got at one level. */
export interface Share {
  readonly level: number
  readonly tenant: string
  /** Device time received, in ms, divided by the weight of then. */
  virtualMs: number
  /** Edits that want service or are getting it. */
  active: number
  /** Breaks ties: whoever came first. */
  readonly order: number
}

export function servedBefore(a: Share, b: Share): boolean {
  return a.virtualMs === b.virtualMs ? a.order < b.order : a.virtualMs < b.virtualMs
}

/** The tenants of one level. One that comes back from idling starts level with the others: idling saves up nothing. */
export class FairShares {
  readonly #level: number
  readonly #weightOf: (tenant: string) => number
  readonly #shares = new Map<string, Share>()
  /** Tenants without work whose virtual time is still ahead: what they got too much of is not forgotten. */
  readonly #ahead = new Heap<Share>(servedBefore)
  #clockMs = 0
  #order = 0

  constructor(level: number, weightOf: (tenant: string) => number) {
    this.#level = level
    this.#weightOf = weightOf
  }

  /** An edit of `tenant` wants service. */
  join(tenant: string): Share {
    let share = this.#shares.get(tenant)
    if (share === undefined) {
      share = { level: this.#level, tenant, virtualMs: this.#clockMs, active: 0, order: this.#order++ }
      this.#shares.set(tenant, share)
    }
    if (share.active === 0) this.#ahead.delete(share)
    share.active++
    return share
  }

  /** An edit of the share wants no more service. */
  leave(share: Share): void {
    share.active--
    if (share.active === 0) this.#ahead.push(share)
  }

  /** `ms` of a device were given, at the tenant's present weight; negative: fewer than was thought. */
  charge(share: Share, ms: number): void {
    share.virtualMs += ms / this.#weightOf(share.tenant)
    this.#ahead.update(share)
  }

  /** Someone with virtual time `virtualMs` is the next to be served: whoever lags behind that had no work. */
  advance(virtualMs: number): void {
    this.#clockMs = Math.max(this.#clockMs, virtualMs)
    for (;;) {
      const share = this.#ahead.peek()
      if (share === undefined || share.virtualMs > this.#clockMs) return
      this.#ahead.delete(share)
      this.#shares.delete(share.tenant)
    }
  }
}
