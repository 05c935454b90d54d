// What an application has heard of an edit, for one that is started anew says some of it again.

import type { ClientEvent } from './events.js'

/** Steps are not kept here: their numbers tell. */
export class Told {
  readonly #keys = new Set<string>()
  #isRestarted = false

  /** Up to its next new step it says again what was told. */
  restart(): void {
    this.#isRestarted = true
  }

  get started(): boolean {
    return this.#keys.has('started')
  }

  /** A new step is told. */
  step(): void {
    this.#isRestarted = false
  }

  /** Take note of another event. Returns whether it is one that every start says, and was told before. */
  repeats(event: ClientEvent): boolean {
    const key = keyOf(event)
    if (key === undefined) return false
    const known = this.#keys.has(key)
    this.#keys.add(key)
    return known && this.#isRestarted
  }
}

function keyOf(event: ClientEvent): string | undefined {
  if (event.kind === 'accepted' || event.kind === 'started') return event.kind
  return event.kind === 'warning' ? `warning ${event.message}` : undefined
}
