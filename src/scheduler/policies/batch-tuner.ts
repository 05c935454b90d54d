// The largest batch of one graph on one device, found by comparing two sizes at a time, powers of two and the largest that
// is allowed: their steps alternate, so that what else the machine does meanwhile falls on both, and the best of each count.

/** Steps of each size before a comparison is decided where it is clear, and where it is not. */
const fewSteps = 3
const manySteps = 8

/** A comparison is clear where the throughput differs by this factor from what decides it. */
const clear = 1.15

/** First steps of a size on a session measure nothing: memory is laid out during them. */
const warmUpSteps = 2

/** Full batches after which the limit is doubted again: at first few, for the machine may have been busy, then more. */
const firstDoubt = 32
const lastDoubt = 2048

/** Full batches after which memory is tried again, and how much longer each time: to try costs the batch. */
const shortageLasts = 8192
const shortageGrows = 4

export interface BatchLimit {
  readonly limit: number
  /** Best time of a step for each size that was measured, since the last comparison of it. */
  readonly stepMs: ReadonlyMap<number, number>
  readonly why: string
}

/** Why a limit is what it is before anything was found out. */
export const unmeasured = 'not measured yet'

interface Size {
  /** All steps ever. */
  count: number
  /** Steps in the present comparison, and the best of them. */
  compared: number
  bestMs: number
  /** Running mean. */
  meanMs: number
}

/** Two sizes that are compared. */
interface Pair {
  readonly larger: number
  readonly smaller: number
}

export class BatchTuner {
  readonly #maxBatch: number
  readonly #gain: number
  readonly #sizes = new Map<number, Size>()
  /** What fits into memory, as far as is known. */
  #ceiling: number
  #limit = 1
  #pair: Pair | undefined
  /** Full batches since memory ran short, and after how many it is tried again. */
  #sinceShortage = 0
  #shortageLasts = shortageLasts / shortageGrows
  #doubtAfter = firstDoubt
  #fullBatches = 0
  #doubtUp = true
  #why: string = unmeasured

  /** `gain`: throughput must grow by this factor for a batch of twice the size. */
  constructor(maxBatch: number, gain: number) {
    this.#maxBatch = maxBatch
    this.#ceiling = maxBatch
    this.#gain = gain
    this.#grow()
  }

  /** How many of `available` edits the next batch may have. */
  limit(available: number): number {
    if (this.#pair === undefined) return this.#limit
    const { larger, smaller } = this.#pair
    const { count, compared } = this.#of(larger)
    // A size that was never tried is tried as far as it can be filled.
    if (available < larger) return count === 0 ? larger : smaller
    return compared < this.#of(smaller).compared ? larger : smaller
  }

  describe(): BatchLimit {
    const measured = [...this.#sizes].filter(([, { bestMs }]) => bestMs < Infinity)
    return { limit: this.#limit, stepMs: new Map(measured.map(([n, { bestMs }]) => [n, bestMs])), why: this.#why }
  }

  /** A step of `size` edits took `stepMs`. */
  record(size: number, stepMs: number): void {
    const known = this.#of(size)
    known.count++
    known.meanMs += (stepMs - known.meanMs) / Math.min(known.count, 4)
    if (known.count <= warmUpSteps) return
    // While there are too few edits for the larger size, only the newest step of the smaller one counts.
    const alone = this.#pair?.smaller === size && this.#of(this.#pair.larger).compared === 0
    known.bestMs = alone ? stepMs : Math.min(known.bestMs, stepMs)
    known.compared = alone ? 1 : known.compared + 1
    if (size === this.#limit && ++this.#sinceShortage >= this.#shortageLasts) this.#ceiling = this.#maxBatch
    if (this.#pair !== undefined) this.#judge(this.#pair)
    else if (size === this.#limit && ++this.#fullBatches >= this.#doubtAfter) this.#doubt()
  }

  /** A batch of `size` did not fit into memory. */
  halve(size: number): void {
    this.#ceiling = Math.max(1, below(size))
    this.#limit = Math.min(this.#limit, this.#ceiling)
    this.#sinceShortage = 0
    this.#shortageLasts *= shortageGrows
    this.#settle(`a batch of ${size} does not fit into memory`)
  }

  /** Expected time of a step with `size` edits, from the nearest size that was measured. */
  estimateMs(size: number): number | undefined {
    let nearest: [size: number, measured: Size] | undefined
    for (const entry of this.#sizes) {
      if (entry[1].count === 0) continue
      if (nearest === undefined || Math.abs(entry[0] - size) < Math.abs(nearest[0] - size)) nearest = entry
    }
    return nearest?.[1].meanMs
  }

  #of(size: number): Size {
    let known = this.#sizes.get(size)
    if (known === undefined) this.#sizes.set(size, (known = { count: 0, compared: 0, bestMs: Infinity, meanMs: 0 }))
    return known
  }

  /** The next size above the limit; the limit itself: there is none. */
  get #above(): number {
    return Math.min(2 * this.#limit, this.#ceiling)
  }

  /** Compare the limit with the next size above it. */
  #grow(): void {
    if (this.#above > this.#limit) this.#compare(this.#above)
    else if (this.#ceiling < this.#maxBatch) this.#settle(`${this.#limit} is the largest batch that fits into memory`)
    else this.#settle(`${this.#limit} is the largest batch that is allowed`)
  }

  #compare(larger: number): void {
    const smaller = below(larger)
    this.#pair = { larger, smaller }
    for (const size of [larger, smaller]) Object.assign(this.#of(size), { compared: 0, bestMs: Infinity })
  }

  #judge({ larger, smaller }: Pair): void {
    const [large, small] = [this.#of(larger), this.#of(smaller)]
    const steps = Math.min(large.compared, small.compared)
    if (steps < fewSteps) return
    const ratio = (larger * small.bestMs) / (smaller * large.bestMs)
    const needed = this.#gain ** Math.log2(larger / smaller)
    const isClear = Math.abs(Math.log(ratio / needed)) > Math.log(clear)
    if (steps < manySteps && !isClear) return
    this.#why = `a batch of ${larger} has ${ratio.toFixed(2)} times the throughput of one of ${smaller}`
    const before = this.#limit
    this.#limit = ratio >= needed ? larger : smaller
    if (this.#limit === larger && larger > before) this.#grow()
    else this.#settle()
  }

  /** Compare the limit with the next size above it, and the next time with the one below. */
  #doubt(): void {
    this.#fullBatches = 0
    this.#doubtAfter = Math.min(2 * this.#doubtAfter, lastDoubt)
    const up = (this.#doubtUp || this.#limit === 1) && this.#above > this.#limit
    this.#doubtUp = !up
    const larger = up ? this.#above : this.#limit
    if (larger > 1) this.#compare(larger)
  }

  #settle(why = this.#why): void {
    this.#pair = undefined
    this.#fullBatches = 0
    this.#why = why
  }
}

/** The largest power of two below a size above 1. */
function below(size: number): number {
  return 2 ** Math.ceil(Math.log2(size) - 1)
}
