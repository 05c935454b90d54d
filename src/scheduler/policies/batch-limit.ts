// The largest batch for each device and graph, found by measuring: it doubles while throughput grows by enough, steps
// back where it does not, and halves when memory runs out. Batching pays or steps aside.

import { LRUCache } from 'lru-cache'

export interface BatchLimitOptions {
  /** Never larger. Default 16. */
  readonly maxBatch?: number
  /** Throughput must grow by this factor for a batch of twice the size. Default 1.1. */
  readonly gain?: number
}

/** A size is judged by its best step once there were more than this many: the first one warms up. */
const samples = 3

/** Full batches after which the next larger size is tried again: a machine may have been busy. */
const retryAfter = 300

/** Graphs remembered for a device. */
const maxGraphs = 256

export interface BatchLimit {
  readonly limit: number
  /** Best time of a step for each size that was measured. */
  readonly stepMs: ReadonlyMap<number, number>
  readonly why: string
}

/** Why a limit is what it is before anything was found out. */
export const unmeasured = 'not measured yet'

interface Measured {
  count: number
  bestMs: number
  lastMs: number
}

/** The batch limit of one graph on one device. */
class Tuner {
  readonly #gain: number
  readonly #sizes = new Map<number, Measured>()
  #ceiling: number
  #limit = 1
  #settledSteps: number | undefined
  #why: string = unmeasured

  constructor(maxBatch: number, gain: number) {
    this.#ceiling = maxBatch
    this.#gain = gain
  }

  get limit(): number {
    return this.#limit
  }

  describe(): BatchLimit {
    const stepMs = new Map([...this.#sizes].filter(([, { count }]) => count > 1).map(([n, { bestMs }]) => [n, bestMs]))
    return { limit: this.#limit, stepMs, why: this.#why }
  }

  record(size: number, stepMs: number): void {
    const known = this.#sizes.get(size)
    if (known === undefined) this.#sizes.set(size, { count: 1, bestMs: stepMs, lastMs: stepMs })
    else {
      known.bestMs = Math.min(known.bestMs, stepMs)
      known.lastMs += (stepMs - known.lastMs) / 4
      known.count++
    }
    if (size !== this.#limit) return
    if (this.#settledSteps === undefined) this.#judge()
    else if (++this.#settledSteps >= retryAfter && this.#limit * 2 <= this.#ceiling) this.#grow()
  }

  /** A batch of `size` did not fit into memory. */
  halve(size: number): void {
    this.#ceiling = Math.max(1, size >> 1)
    this.#limit = Math.min(this.#limit, this.#ceiling)
    this.#settle(`a batch of ${size} does not fit into memory`)
  }

  /** Expected time of a step with `size` edits, from the nearest size that was measured. */
  estimateMs(size: number): number | undefined {
    let nearest: [size: number, measured: Measured] | undefined
    for (const entry of this.#sizes) {
      if (nearest === undefined || Math.abs(entry[0] - size) < Math.abs(nearest[0] - size)) nearest = entry
    }
    return nearest?.[1].lastMs
  }

  #judge(): void {
    const size = this.#limit
    const now = this.#sizes.get(size)!
    if (now.count <= samples) return
    const half = this.#sizes.get(size >> 1)
    const ratio = half === undefined ? Infinity : size / now.bestMs / ((size >> 1) / half.bestMs)
    if (ratio < this.#gain) {
      this.#limit = size >> 1
      this.#settle(`a batch of ${size} has ${ratio.toFixed(2)} times the throughput of one of ${size >> 1}`)
    } else if (size * 2 <= this.#ceiling) this.#grow()
    else this.#settle(`${size} is the largest batch that is allowed`)
  }

  #grow(): void {
    this.#limit *= 2
    this.#settledSteps = undefined
    this.#sizes.delete(this.#limit)
  }

  #settle(why: string): void {
    this.#settledSteps = 0
    this.#why = why
  }
}

/** The batch limits of all devices and graphs. */
export class BatchLimits {
  readonly #maxBatch: number
  readonly #gain: number
  readonly #tuners = new Map<string, LRUCache<string, Tuner>>()

  constructor({ maxBatch = 16, gain = 1.1 }: BatchLimitOptions = {}) {
    this.#maxBatch = maxBatch
    this.#gain = gain
  }

  limit(device: string, key: string): number {
    return this.#tuner(device, key).limit
  }

  /** A step of a batch of `size` took `stepMs`. */
  record(device: string, key: string, size: number, stepMs: number): void {
    this.#tuner(device, key).record(size, stepMs)
  }

  halve(device: string, key: string, size: number): void {
    this.#tuner(device, key).halve(size)
  }

  /** Expected time of a step; undefined: nothing was measured. */
  estimateMs(device: string, key: string, size: number): number | undefined {
    return this.#tuners.get(device)?.get(key)?.estimateMs(size)
  }

  /** What was chosen for a device's graphs, and why. */
  describe(device: string): Map<string, BatchLimit> {
    return new Map([...(this.#tuners.get(device) ?? [])].map(([key, tuner]) => [key, tuner.describe()]))
  }

  #tuner(device: string, key: string): Tuner {
    let graphs = this.#tuners.get(device)
    if (graphs === undefined) this.#tuners.set(device, (graphs = new LRUCache({ max: maxGraphs })))
    let tuner = graphs.get(key)
    if (tuner === undefined) graphs.set(key, (tuner = new Tuner(this.#maxBatch, this.#gain)))
    return tuner
  }
}
