// The largest batch for each device and graph (batch-tuner.ts): batching pays or steps aside.

import { LRUCache } from 'lru-cache'
import { type BatchLimit, BatchTuner } from './batch-tuner.js'

export interface BatchLimitOptions {
  /** Never larger. Default 16. */
  readonly maxBatch?: number
  /** Throughput must grow by this factor for a batch of twice the size. Default 1.05. */
  readonly gain?: number
}

/** Graphs remembered for a device. */
const maxGraphs = 256

/** The batch limits of all devices and graphs. */
export class BatchLimits {
  readonly maxBatch: number
  readonly #gain: number
  readonly #tuners = new Map<string, LRUCache<string, BatchTuner>>()

  constructor({ maxBatch = 16, gain = 1.05 }: BatchLimitOptions = {}) {
    this.maxBatch = maxBatch
    this.#gain = gain
  }

  /** How many of `available` edits the next batch may have. */
  limit(device: string, key: string, available: number): number {
    return this.#tuner(device, key).limit(available)
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

  #tuner(device: string, key: string): BatchTuner {
    let graphs = this.#tuners.get(device)
    if (graphs === undefined) this.#tuners.set(device, (graphs = new LRUCache({ max: maxGraphs })))
    let tuner = graphs.get(key)
    if (tuner === undefined) graphs.set(key, (tuner = new BatchTuner(this.maxBatch, this.#gain)))
    return tuner
  }
}
