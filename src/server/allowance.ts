// What may lie in the process for the streams of one tenant that do not read: each has a copy of its own of an event that
// is one object until it is written, and nothing limits how many streams watch an edit.

/** Bytes that wait for others to be given back. */
export interface Claim {
  readonly bytes: number
  readonly granted: Promise<void>
  /** Grant them now, whatever there is. */
  force(): void
}

export class Allowance {
  readonly #most: number
  #used = 0
  /** First come, first served. */
  readonly #waiting: (Claim & { readonly go: () => void })[] = []

  constructor(most: number) {
    this.#most = most
  }

  /** Without waiting, whatever there is. */
  take(bytes: number): void {
    this.#used += bytes
  }

  /** Undefined: they are taken. More than there are at all come alone. */
  claim(bytes: number): Claim | undefined {
    if (this.#waiting.length === 0 && this.#fits(bytes)) {
      this.#used += bytes
      return undefined
    }
    let go!: () => void
    const granted = new Promise<void>((resolve) => (go = resolve))
    const force = () => {
      const place = this.#waiting.indexOf(claim)
      if (place < 0) return
      this.#waiting.splice(place, 1)
      this.#used += bytes
      go()
    }
    const claim = { bytes, granted, force, go }
    this.#waiting.push(claim)
    return claim
  }

  give(bytes: number): void {
    this.#used -= bytes
    this.#admit()
  }

  #fits(bytes: number): boolean {
    return this.#used === 0 || this.#used + bytes <= this.#most
  }

  #admit(): void {
    while (this.#waiting[0] !== undefined && this.#fits(this.#waiting[0].bytes)) {
      const { bytes, go } = this.#waiting.shift()!
      this.#used += bytes
      go()
    }
  }
}

/** Each tenant's own. */
export class Allowances {
  readonly #most: number
  readonly #tenants = new Map<string, Allowance>()

  constructor(most: number) {
    this.#most = most
  }

  of(tenant: string): Allowance {
    let allowance = this.#tenants.get(tenant)
    if (allowance === undefined) this.#tenants.set(tenant, (allowance = new Allowance(this.#most)))
    return allowance
  }
}
