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

/** How many graphs are remembered: clients choose the parameters that make one. */
const mostGraphs = 256

/** Of one graph, or of all. */
class StepRates {
  readonly #stepMs = new Mean()
  readonly #sampleMs = new Mean()

  /** Time of a step, as an edit in it sees it. */
  get stepMs(): number | undefined {
    return this.#stepMs.value
  }

  /** Device time for one step of one edit. */
  get sampleMs(): number | undefined {
    return this.#sampleMs.value
  }

  record(samples: number, stepMs: number): void {
    this.#stepMs.add(stepMs)
    this.#sampleMs.add(stepMs / samples)
  }
}

export class Rates {
  /** Of all edits, whatever their graphs: what a queue is made of. */
  readonly all = new StepRates()
  /** The least recently used first. */
  readonly #graphs = new Map<string, StepRates>()
  readonly #endEveryMs = new Mean()
  #lastEndMs: number | undefined

  /** Time between the ends of two edits. */
  get endEveryMs(): number | undefined {
    return this.#endEveryMs.value
  }

  /** What was measured of steps of one pack and graph; undefined: nothing was. */
  of(key: string): Pick<StepRates, 'stepMs' | 'sampleMs'> | undefined {
    return this.#graphs.get(key)
  }

  recordStep(key: string, samples: number, stepMs: number): void {
    const graph = this.#graphs.get(key) ?? new StepRates()
    this.#graphs.delete(key)
    this.#graphs.set(key, graph)
    if (this.#graphs.size > mostGraphs) this.#graphs.delete(this.#graphs.keys().next().value!)
    for (const rates of [graph, this.all]) rates.record(samples, stepMs)
  }

  recordEnd(nowMs: number): void {
    if (this.#lastEndMs !== undefined) this.#endEveryMs.add(nowMs - this.#lastEndMs)
    this.#lastEndMs = nowMs
  }
}
