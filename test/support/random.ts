// Seeded random numbers for tests, independent of the code under test: Mulberry32 (https://gist.github.com/tommyettinger/46a874533244883189143505d203312c).

export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed
  }

  /** In [0, 1). */
  uniform(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }

  /** Of mean 0 and variance 1 (Box and Muller). */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform())
  }

  normals(length: number): Float32Array {
    return Float32Array.from({ length }, () => this.normal())
  }

  /** 0, 1, …, length − 1 in random order. */
  permutation(length: number): number[] {
    const order = Array.from({ length }, (_, i) => i)
    for (let i = length - 1; i > 0; i--) {
      const j = Math.floor(this.uniform() * (i + 1))
      ;[order[i], order[j]] = [order[j]!, order[i]!]
    }
    return order
  }
}
