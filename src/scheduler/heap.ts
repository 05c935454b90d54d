// A binary heap whose items can be moved and taken out wherever they are.
// https://en.wikipedia.org/wiki/Binary_heap; the place of every item is kept beside it.

export class Heap<T> {
  readonly #items: T[] = []
  readonly #places = new Map<T, number>()
  readonly #before: (a: T, b: T) => boolean

  /** `before` says whether one item is to come out before another. */
  constructor(before: (a: T, b: T) => boolean) {
    this.#before = before
  }

  get size(): number {
    return this.#items.length
  }

  /** The first item, left in its place. */
  peek(): T | undefined {
    return this.#items[0]
  }

  push(item: T): void {
    this.#place(item, this.#items.length)
    this.#rise(item)
  }

  /** Take an item out; nothing happens where it is not in. */
  delete(item: T): void {
    const place = this.#places.get(item)
    if (place === undefined) return
    this.#places.delete(item)
    const last = this.#items.pop()!
    if (last === item) return
    this.#place(last, place)
    this.update(last)
  }

  /** Restore the order after what `before` compares of an item has changed. */
  update(item: T): void {
    if (!this.#places.has(item)) return
    this.#rise(item)
    this.#sink(item)
  }

  #rise(item: T): void {
    let place = this.#places.get(item)!
    const from = place
    while (place > 0) {
      const parent = this.#items[(place - 1) >> 1]!
      if (!this.#before(item, parent)) break
      this.#place(parent, place)
      place = (place - 1) >> 1
    }
    if (place !== from) this.#place(item, place)
  }

  #sink(item: T): void {
    let place = this.#places.get(item)!
    const from = place
    for (;;) {
      let below = 2 * place + 1
      if (below >= this.#items.length) break
      if (below + 1 < this.#items.length && this.#before(this.#items[below + 1]!, this.#items[below]!)) below++
      const child = this.#items[below]!
      if (!this.#before(child, item)) break
      this.#place(child, place)
      place = below
    }
    if (place !== from) this.#place(item, place)
  }

  #place(item: T, place: number): void {
    this.#items[place] = item
    this.#places.set(item, place)
  }
}
