// Which edits there are: those under way, and for a while those that have ended.
// An id belongs to a tenant; tenants do not see each other's edits.

import { LRUCache } from 'lru-cache'
import { quoted } from '../engine/errors.js'
import { WireError } from '../proto/status.js'
import type { Session } from './session.js'

export const maxIdLength = 128

const maxFinishedBytes = 256 * 1024 ** 2

export class Registry {
  readonly #live = new Map<string, Session>()
  readonly #finished: LRUCache<string, Session>

  constructor({ finishedEdits, finishedMs }: { readonly finishedEdits: number; readonly finishedMs: number }) {
    this.#finished = new LRUCache({
      max: finishedEdits,
      maxSize: maxFinishedBytes,
      // A ttl of 0 would mean: for ever.
      ttl: Math.max(finishedMs, 1),
      sizeCalculation: (session) => Math.min(Math.max(session.bytes, 1), maxFinishedBytes),
      dispose: (session) => session.forget(),
    })
  }

  get live(): Session[] {
    return [...this.#live.values()]
  }

  add(session: Session): void {
    this.#live.set(key(session.tenant, session.id), session)
  }

  /** To be called when an edit has ended. */
  finish(session: Session): void {
    const name = key(session.tenant, session.id)
    this.#live.delete(name)
    this.#finished.set(name, session)
  }

  /** Let go of edits that ended long ago: to be called now and then. */
  purge(): void {
    this.#finished.purgeStale()
  }

  find(tenant: string, id: string): Session | undefined {
    const name = key(tenant, id)
    return this.#live.get(name) ?? this.#finished.get(name)
  }

  /** Errors: NOT_FOUND. */
  get(tenant: string, id: string, uid = ''): Session {
    const session = this.find(tenant, id)
    if (session !== undefined && (uid === '' || session.uid === uid)) return session
    throw session === undefined ? noSuchEdit(id) : anotherEdit(id)
  }

  /** A tenant's edits, oldest first. */
  of(tenant: string): Session[] {
    const all = [...this.#finished.values(), ...this.#live.values()].filter((session) => session.tenant === tenant)
    return all.sort((a, b) => a.index - b.index)
  }

  /** Let go of all that has ended. */
  clear(): void {
    this.#finished.clear()
  }
}

export function noSuchEdit(id: string): WireError {
  return new WireError({
    code: 'NOT_FOUND',
    message: `there is no edit ${quoted(id)}`,
    cure: 'Check its id; ended edits are remembered for a while only.',
    resource: { type: 'edit', name: id.slice(0, maxIdLength) },
  })
}

/** The one that had this id is forgotten. */
function anotherEdit(id: string): WireError {
  return new WireError({
    code: 'NOT_FOUND',
    message: `the edit ${quoted(id)} is another one now`,
    cure: 'Leave the uid out to mean that one.',
    resource: { type: 'edit', name: id },
  })
}

function key(tenant: string, id: string): string {
  return `${tenant}/${id}`
}
