// Edits that wait for a device, in an order that is cheap to ask at any size: one heap of tenants for each level, and
// below it one for each graph, so that a batch of one graph fills up without looking at the others.

import { Heap } from './heap.js'
import { type Share, servedBefore } from './policies/fairness.js'
import { levelCount } from './policies/levels.js'

export interface Waiting {
  readonly id: number
  /** Specification of its graph: edits with the same one can share a batch. */
  key: string
  /** It has taken steps, or had on another server: among the edits of one tenant it goes before those that have not. */
  begun: boolean
  /** Order among the edits of one tenant that have begun, and among those that have not; the least first. */
  readonly rank: number
  waitingSinceMs: number
  /** Its tenant's, at its level. */
  share: Share
}

/** A tenant's edits of one graph. */
interface Bucket<T> {
  readonly share: Share
  readonly edits: Heap<T>
}

interface Level<T> {
  /** Tenants that have an edit here. */
  readonly tenants: Heap<Share>
  readonly buckets: Map<Share, Map<string, Bucket<T>>>
  readonly graphs: Map<string, Heap<Bucket<T>>>
  readonly ages: Heap<T>
}

export class WaitingQueue<T extends Waiting> {
  readonly #levels: readonly Level<T>[] = Array.from({ length: levelCount }, (): Level<T> => ({
    tenants: new Heap(servedBefore),
    buckets: new Map(),
    graphs: new Map(),
    ages: new Heap((a, b) => a.waitingSinceMs < b.waitingSinceMs),
  }))
  readonly #counts = new Map<string, number>()
  /** Edits that are about to be pushed, of each tenant at each level. */
  readonly #announced = Array.from({ length: levelCount }, () => new Map<string, number>())
  #size = 0

  get size(): number {
    return this.#size
  }

  push(edit: T): void {
    const { share, key } = edit
    const level = this.#levels[share.level]!
    let buckets = level.buckets.get(share)
    if (buckets === undefined) {
      buckets = new Map<string, Bucket<T>>()
      level.buckets.set(share, buckets)
      level.tenants.push(share)
    }
    let bucket = buckets.get(key)
    if (bucket === undefined) {
      bucket = { share, edits: new Heap<T>(ranksBefore) }
      buckets.set(key, bucket)
      let graph = level.graphs.get(key)
      if (graph === undefined) level.graphs.set(key, (graph = new Heap((a, b) => servedBefore(a.share, b.share))))
      graph.push(bucket)
    }
    bucket.edits.push(edit)
    level.ages.push(edit)
    this.#counts.set(key, this.count(key) + 1)
    this.#size++
  }

  delete(edit: T): void {
    const { share, key } = edit
    const level = this.#levels[share.level]!
    const buckets = level.buckets.get(share)!
    const bucket = buckets.get(key)!
    bucket.edits.delete(edit)
    level.ages.delete(edit)
    const count = this.count(key) - 1
    if (count > 0) this.#counts.set(key, count)
    else this.#counts.delete(key)
    this.#size--
    if (bucket.edits.size > 0) return
    buckets.delete(key)
    const graph = level.graphs.get(key)!
    graph.delete(bucket)
    if (graph.size === 0) level.graphs.delete(key)
    if (buckets.size > 0) return
    level.buckets.delete(share)
    level.tenants.delete(share)
  }

  /** Restore the order after a tenant's virtual time has changed. */
  reorder(share: Share): void {
    const { tenants, buckets, graphs } = this.#levels[share.level]!
    const own = buckets.get(share)
    if (own === undefined) return
    tenants.update(share)
    for (const [key, bucket] of own) graphs.get(key)!.update(bucket)
  }

  /** The next edit of any graph, from the lowest level that has one. */
  first(): T | undefined {
    return this.firsts().reduce<T | undefined>((a, b) => (a === undefined || ranksBefore(b, a) ? b : a), undefined)
  }

  /** The next edit of each graph of the tenant that goes first, from the lowest level that has one. */
  firsts(): T[] {
    const share = this.#levels.find(({ tenants }) => tenants.size > 0)?.tenants.peek()
    return share === undefined ? [] : this.firstsOf(share)
  }

  /** The next edit of each graph of a tenant at a level. */
  firstsOf(share: Share): T[] {
    return Array.from(this.#levels[share.level]!.buckets.get(share)?.values() ?? [], ({ edits }) => edits.peek()!)
  }

  /** The next edit of one graph, from the lowest level that has one. */
  firstOf(key: string): T | undefined {
    for (const { graphs } of this.#levels) {
      const bucket = graphs.get(key)?.peek()
      if (bucket !== undefined) return bucket.edits.peek()
    }
    return undefined
  }

  /** The edit of a level that has waited longest. */
  oldest(level: number): T | undefined {
    return this.#levels[level]!.ages.peek()
  }

  /** Edits of one graph. */
  count(key: string): number {
    return this.#counts.get(key) ?? 0
  }

  /** An edit of `tenant` is about to be pushed (1), or is not any more (-1): `ahead` counts it. */
  announce(level: number, tenant: string, change: 1 | -1): void {
    const announced = this.#announced[level]!
    const count = (announced.get(tenant) ?? 0) + change
    if (count > 0) announced.set(tenant, count)
    else announced.delete(tenant)
  }

  /** About how many edits a new one of `tenant` at `level` would find before it, where tenants take turns. */
  ahead(level: number, tenant: string): number {
    let ahead = 0
    for (const { ages } of this.#levels.slice(0, level)) ahead += ages.size
    for (const announced of this.#announced.slice(0, level)) for (const count of announced.values()) ahead += count
    const waiting = new Map(this.#announced[level])
    for (const [share, buckets] of this.#levels[level]!.buckets) {
      let edits = 0
      for (const bucket of buckets.values()) edits += bucket.edits.size
      waiting.set(share.tenant, (waiting.get(share.tenant) ?? 0) + edits)
    }
    const own = waiting.get(tenant) ?? 0
    for (const edits of waiting.values()) ahead += Math.min(edits, own + 1)
    return ahead
  }
}

/** Order among the edits of one tenant. */
export function ranksBefore(a: Waiting, b: Waiting): boolean {
  if (a.begun !== b.begun) return a.begun
  return a.rank === b.rank ? a.id < b.id : a.rank < b.rank
}
