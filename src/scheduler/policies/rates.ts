// What estimates are made from: running means of measured steps and of how often an edit ends.
// Exponential means: https://en.wikipedia.org/wiki/Exponential_smoothing

const weight = 0.1

class Mean {
  #value: number | undefined

  get value(): number | undefined {
    return this.#value
  }

  add(value: number): void {
    this.#value = this.#value === undefined ? value : this.#value + weight * (value - this.#value)
  }
}

export class Rates {
  readonly #stepMs = new Mean()
  readonly #sampleMs = new Mean()
  readonly #endEveryMs = new Mean()
  #lastEndMs: number | undefined

  /** Time of a step, as an edit in it sees it. */
  get stepMs(): number | undefined {
    return this.#stepMs.value
  }

  /** Device time for one step of one edit. */
  get sampleMs(): number | undefined {
    return this.#sampleMs.value
  }

  /** Time between the ends of two edits. */
  get endEveryMs(): number | undefined {
    return this.#endEveryMs.value
  }

  recordStep(samples: number, stepMs: number): void {
    this.#stepMs.add(stepMs)
    this.#sampleMs.add(stepMs / samples)
  }

  recordEnd(nowMs: number): void {
    if (this.#lastEndMs !== undefined) this.#endEveryMs.add(nowMs - this.#lastEndMs)
    this.#lastEndMs = nowMs
  }
}
