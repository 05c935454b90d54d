// What an application has heard of an edit, for one that is started anew says some of it again.

import type { ClientEvent } from './events.js'

/** Steps are not kept here: their numbers tell. */
export class Told {
  readonly #keys = new Set<string>()

  add(event: ClientEvent): void {
    const key = keyOf(event)
    if (key !== undefined) this.#keys.add(key)
  }

  /** It is one of those that every start says, and an earlier one was told. */
  has(event: ClientEvent): boolean {
    const key = keyOf(event)
    return key !== undefined && this.#keys.has(key)
  }

  get started(): boolean {
    return this.#keys.has('started')
  }
}

function keyOf(event: ClientEvent): string | undefined {
  if (event.kind === 'accepted' || event.kind === 'started') return event.kind
  return event.kind === 'warning' ? `warning ${event.message}` : undefined
}
