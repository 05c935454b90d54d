// A device as the schedule sees it: the edits that it has prepared, who of them goes first, and who may come in.
// Preparing an edit is dear, so that devices keep what they have; policies/moves.ts says how dear.

import type { Share } from './policies/fairness.js'
import { servedBefore } from './policies/fairness.js'
import { displacementMs, residentAdvantageMs } from './policies/moves.js'
import { hadItsTurn, stillness } from './policies/pace.js'
import { type Waiting, ranksBefore } from './queue.js'

/** Why an edit is not scheduled though it could be. */
export type Block = 'paused' | 'held'

/** Where an edit is. Only a `waiting`, `suspect` or `resident` one can be put into a batch. */
export type Place = 'waiting' | 'suspect' | 'resident' | 'running' | 'blocked'

/** An edit as the schedule sees it. */
export interface Scheduled extends Waiting {
  place: Place
  /** The device that has it prepared. */
  device: DeviceState | undefined
  stepsLeft: number
  readonly blocks: Set<Block>
  /** Workers that were lost with it; one with a strike runs alone until it has taken a step. */
  strikes: number
  lostOn: DeviceState | undefined
  /** Removed while running. */
  leaving: boolean
}

/** The key of batches that draw the pictures of finished edits. They need no preparation, and any device can do it. */
export const drawing = 'drawing'

/** An edit in a batch, and what its tenant was charged for that beforehand. */
export interface Part {
  readonly edit: Scheduled
  readonly share: Share
  readonly fresh: boolean
  readonly chargedMs: number
}

export class DeviceState {
  readonly id: string
  /** Edits that it has prepared, the running ones among them. */
  readonly residents = new Set<Scheduled>()
  readonly forget = new Set<number>()
  running: { readonly key: string; readonly parts: readonly Part[] } | undefined
  /** Of its worker, since the last step. */
  losses = 0
  #nowMs = 0
  readonly #maxResidents: number
  /** Of each tenant the graph that went first here the last time, and since when. */
  readonly #turns = new WeakMap<Share, { readonly key: string; readonly sinceMs: number }>()
  /** Of each tenant the graph that goes first in the present decision. */
  readonly #onTurn = new Map<Share, string>()
  #prepareMs = 0
  /** What it may still spend on new edits that take the place of others. */
  #allowanceMs = 0

  constructor(id: string, maxResidents: number) {
    this.id = id
    this.#maxResidents = maxResidents
  }

  /** Running mean of the time to prepare one edit. */
  get prepareMs(): number {
    return this.#prepareMs
  }

  /** Prepared edits that could be in the next batch. */
  get resting(): Scheduled[] {
    return [...this.residents].filter((edit) => edit.place === 'resident')
  }

  /**
   * A decision begins. Whose turn it is, is found once, so that `better` is an order among the edits of a tenant: of each
   * tenant that of the present graph, unless the candidate of another one that waits longest has waited it out.
   */
  decide(candidates: Iterable<Scheduled>, nowMs: number): void {
    this.#nowMs = nowMs
    this.#onTurn.clear()
    const others = new Map<Share, Scheduled>()
    for (const edit of candidates) {
      const { share, key, device, waitingSinceMs } = edit
      const other = others.get(share)
      if (key !== this.#turns.get(share)?.key) {
        if (other === undefined || waitingSinceMs < other.waitingSinceMs) others.set(share, edit)
      } else if (device === this) this.#onTurn.set(share, key)
    }
    for (const [share, other] of others) {
      if (hadItsTurn(this.#turns.get(share)?.sinceMs ?? -Infinity, other, nowMs)) this.#onTurn.set(share, other.key)
    }
  }

  /** An edit goes first here, and with it its graph among those of its tenant. */
  lead({ share, key }: Scheduled): void {
    if (this.#turns.get(share)?.key !== key) this.#turns.set(share, { key, sinceMs: this.#nowMs })
  }

  /**
   * Who of two edits goes first here: by level, by what their tenants have got, by whose graph has its turn, by who stands
   * still, by who is prepared here, by rank.
   */
  better(a: Scheduled | undefined, b: Scheduled | undefined): Scheduled | undefined {
    if (a === undefined || b === undefined) return a ?? b
    if (a.share.level !== b.share.level) return a.share.level < b.share.level ? a : b
    const [ownsA, ownsB] = [a.device === this, b.device === this]
    if (a.share !== b.share) {
      const advantage = residentAdvantageMs(this.#prepareMs)
      const aheadA = a.share.virtualMs - (ownsA ? advantage : 0)
      const aheadB = b.share.virtualMs - (ownsB ? advantage : 0)
      if (aheadA !== aheadB) return aheadA < aheadB ? a : b
      return servedBefore(a.share, b.share) ? a : b
    }
    const onTurn = this.#onTurn.get(a.share)
    if (a.key !== b.key && (a.key === onTurn || b.key === onTurn)) return a.key === onTurn ? a : b
    const [stillA, stillB] = [stillness(a, this.#nowMs), stillness(b, this.#nowMs)]
    if (stillA !== stillB) return stillA > stillB ? a : b
    if (ownsA !== ownsB) return ownsA ? a : b
    return ranksBefore(a, b) ? a : b
  }

  /** A waiting edit, if it may come in: one of a lower level always may, within a level it must be affordable. */
  entrant(edit: Scheduled | undefined): Scheduled | undefined {
    const last = edit === undefined ? undefined : this.#last(edit)
    if (edit === undefined || last === undefined || last.place === 'blocked') return edit
    if (edit.share.level < last.share.level) return edit
    const affordable = this.#allowanceMs >= displacementMs(this.#prepareMs)
    return affordable && this.better(edit, last) === edit ? edit : undefined
  }

  /** A waiting edit comes in. Returns the one that must give up its place for it. */
  displace(edit: Scheduled): Scheduled | undefined {
    const last = this.#last(edit)
    if (last?.place === 'resident') this.#allowanceMs -= displacementMs(this.#prepareMs)
    return last
  }

  /** A step was measured, for which `prepared` edits were prepared. */
  measure(stepMs: number, prepareMs: number, prepared: number): void {
    if (prepared > 0) this.#prepareMs += (prepareMs / prepared - this.#prepareMs) / (this.#prepareMs === 0 ? 1 : 4)
    this.#allowanceMs = Math.min(this.#allowanceMs + stepMs, displacementMs(this.#prepareMs) * this.#maxResidents)
  }

  /** Who is served last of all here, blocked ones before others; undefined: there is room, or none is needed. */
  #last(edit: Scheduled): Scheduled | undefined {
    if (this.residents.size < this.#maxResidents || edit.key === drawing) return undefined
    let last: Scheduled | undefined
    for (const other of this.residents) {
      if (other.place === 'blocked') return other
      if (other.place === 'resident' && (last === undefined || this.better(last, other) === last)) last = other
    }
    return last
  }
}
