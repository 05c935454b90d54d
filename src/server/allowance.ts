// What may lie in the process for the streams of one tenant that do not read: each has a copy of its own of an event that
// is one object until it is written, and nothing limits how many streams watch an edit.

/** Bytes that wait for others to be given back. */
export interface Claim {
  readonly bytes: number
  readonly granted: Promise<void>
  /** Grant them now, whatever there is. */
  force(): void
}

/** A stream that bytes lie in the process for. */
export interface Holder {
  /** Since when it has taken nothing of them; undefined: there are none. */
  stuckSinceMs(): number | undefined
  /** Give them back. */
  drop(): void
}

interface Waiting extends Claim {
  readonly tookMs: number
  readonly go: () => void
}

export class Allowance {
  readonly #most: number
  readonly #patienceMs: number
  #used = 0
  readonly #holders = new Set<Holder>()
  readonly #waiting = new Set<Waiting>()
  #clock: NodeJS.Timeout | undefined

  /** While somebody waits, who has taken nothing for `patienceMs` is dropped. */
  constructor(most: number, patienceMs: number) {
    this.#most = most
    this.#patienceMs = patienceMs
  }

  /** Returns how to leave. */
  join(holder: Holder): () => void {
    this.#holders.add(holder)
    return () => this.#holders.delete(holder)
  }

  /** Without waiting, whatever there is. */
  take(bytes: number): void {
    this.#used += bytes
  }

  /**
   * Undefined: they are taken. More than there are at all come alone. Of those that wait who took something last, at `tookMs`,
   * goes first: most likely it reads.
   */
  claim(bytes: number, tookMs: number): Claim | undefined {
    if (this.#waiting.size === 0 && this.#fits(bytes)) {
      this.#used += bytes
      return undefined
    }
    let go!: () => void
    const granted = new Promise<void>((resolve) => (go = resolve))
    const claim = { bytes, tookMs, granted, go, force: () => this.#grant(claim) }
    this.#waiting.add(claim)
    this.#clock ??= setInterval(() => this.#dropStuck(), Math.max(this.#patienceMs / 4, 1)).unref()
    return claim
  }

  give(bytes: number): void {
    this.#used -= bytes
    for (let next = this.#next(); next !== undefined && this.#fits(next.bytes); next = this.#next()) this.#grant(next)
  }

  #fits(bytes: number): boolean {
    return this.#used === 0 || this.#used + bytes <= this.#most
  }

  #next(): Waiting | undefined {
    let next: Waiting | undefined
    for (const claim of this.#waiting) if (next === undefined || claim.tookMs > next.tookMs) next = claim
    return next
  }

  #grant(claim: Waiting): void {
    if (!this.#waiting.delete(claim)) return
    this.#used += claim.bytes
    claim.go()
    if (this.#waiting.size > 0) return
    clearInterval(this.#clock)
    this.#clock = undefined
  }

  #dropStuck(): void {
    const nowMs = performance.now()
    for (const holder of this.#holders) {
      const sinceMs = holder.stuckSinceMs()
      if (sinceMs !== undefined && nowMs - sinceMs >= this.#patienceMs) holder.drop()
    }
  }
}

/** So long a stream may take nothing while others of its tenant wait for it. */
const patienceMs = 30_000

/** Each tenant's own. */
export class Allowances {
  readonly #most: number
  readonly #tenants = new Map<string, Allowance>()

  constructor(most: number) {
    this.#most = most
  }

  of(tenant: string): Allowance {
    let allowance = this.#tenants.get(tenant)
    if (allowance === undefined) this.#tenants.set(tenant, (allowance = new Allowance(this.#most, patienceMs)))
    return allowance
  }
}
