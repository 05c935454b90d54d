// Where edits are: in the queue, prepared on a device, in a batch, or blocked. The queue, the counts and the shares of their
// tenants (policies/fairness.ts) follow from it, and are kept in step here. Who goes where is decided in schedule.ts.

import { type DeviceState, type Place, type Scheduled, drawing } from './device-state.js'
import { FairShares, type Share } from './policies/fairness.js'
import { finishingLevel, levelCount } from './policies/levels.js'
import { WaitingQueue } from './queue.js'

export class Places {
  readonly waiting = new WaitingQueue<Scheduled>()
  /** Edits that were lost with a worker, and are on no device. */
  readonly suspects = new Set<Scheduled>()
  /** Edits by where they are. */
  readonly counts: Record<Place, number> = { waiting: 0, suspect: 0, resident: 0, running: 0, blocked: 0 }
  readonly #levels: readonly FairShares[]

  constructor(weightOf: (tenant: string) => number) {
    this.#levels = Array.from({ length: levelCount }, (_, level) => new FairShares(level, weightOf))
  }

  /** The share of a tenant, for an edit that comes, or comes back, to a level. */
  join(tenant: string, level: number): Share {
    return this.#levels[level]!.join(tenant)
  }

  /** A new edit waits. */
  add(edit: Scheduled): void {
    this.counts.waiting++
    this.waiting.push(edit)
  }

  /** Out of wherever it can be chosen from; a device keeps it prepared. */
  block(edit: Scheduled): void {
    if (edit.place === 'blocked') return
    this.#shares(edit).leave(edit.share)
    this.#take(edit, 'blocked')
  }

  unblock(edit: Scheduled, nowMs: number): void {
    edit.share = this.join(edit.share.tenant, edit.share.level)
    this.put(edit, nowMs)
  }

  /** Into the batch of a device. */
  run(edit: Scheduled, device: DeviceState): void {
    this.#take(edit, 'running')
    if (edit.key === drawing) return
    edit.device = device
    device.residents.add(edit)
  }

  /** To where it can be chosen from. */
  put(edit: Scheduled, nowMs: number): void {
    edit.waitingSinceMs = nowMs
    this.#set(edit, edit.device !== undefined ? 'resident' : edit.strikes > 0 ? 'suspect' : 'waiting')
    if (edit.place === 'waiting') this.waiting.push(edit)
    else if (edit.place === 'suspect') this.suspects.add(edit)
  }

  /** An edit that is neither running nor blocked comes to another level. */
  raise(edit: Scheduled, level: number, nowMs: number): void {
    if (edit.place === 'waiting') this.waiting.delete(edit)
    this.#shares(edit).leave(edit.share)
    edit.share = this.join(edit.share.tenant, level)
    edit.waitingSinceMs = nowMs
    if (edit.place === 'waiting') this.waiting.push(edit)
  }

  /** An edit that is not running is of another graph, or otherwise changed: no device has it prepared. */
  renew(edit: Scheduled, key: string, nowMs: number): void {
    const { place } = edit
    if (place !== 'blocked') this.#take(edit, 'blocked')
    this.evict(edit)
    edit.key = key
    if (place !== 'blocked') this.put(edit, nowMs)
  }

  /** An edit that is not running lacks only its picture. */
  finish(edit: Scheduled, nowMs: number): void {
    this.block(edit)
    this.evict(edit)
    edit.blocks.clear()
    edit.key = drawing
    edit.share = this.join(edit.share.tenant, finishingLevel)
    this.put(edit, nowMs)
  }

  /** It is nowhere any more. */
  drop(edit: Scheduled): void {
    this.block(edit)
    this.counts.blocked--
    this.evict(edit)
  }

  /** An edit that is prepared on a device, and not running, is prepared there no longer. */
  giveUp(edit: Scheduled): void {
    const { place } = edit
    if (place === 'resident') this.#set(edit, 'waiting')
    this.evict(edit)
    if (place === 'resident') this.waiting.push(edit)
  }

  /** The device is to forget the edit. */
  evict(edit: Scheduled): void {
    edit.device?.forget.add(edit.id)
    this.release(edit)
  }

  /** The device has forgotten the edit. */
  release(edit: Scheduled): void {
    edit.device?.residents.delete(edit)
    edit.device = undefined
  }

  /** The device's worker is gone: its edits go on elsewhere from their last state. */
  empty(device: DeviceState, nowMs: number): void {
    for (const edit of device.residents) {
      this.release(edit)
      if (edit.place === 'resident') this.put(edit, nowMs)
    }
    device.forget.clear()
  }

  /** `ms` of a device are given; negative: fewer than was thought. */
  charge(share: Share, ms: number): void {
    this.#levels[share.level]!.charge(share, ms)
    this.waiting.reorder(share)
  }

  /** Time goes on to that of the tenant who is served least: a resident leader may be ahead of one who waits. */
  advance({ share }: Scheduled): void {
    const waiting = this.waiting.first()?.share
    const rival = waiting?.level === share.level ? waiting.virtualMs : Infinity
    this.#levels[share.level]!.advance(Math.min(share.virtualMs, rival))
  }

  #shares({ share }: Scheduled): FairShares {
    return this.#levels[share.level]!
  }

  #take(edit: Scheduled, place: 'running' | 'blocked'): void {
    if (edit.place === 'waiting') this.waiting.delete(edit)
    else if (edit.place === 'suspect') this.suspects.delete(edit)
    this.#set(edit, place)
  }

  #set(edit: Scheduled, place: Place): void {
    this.counts[edit.place]--
    this.counts[place]++
    edit.place = place
  }
}
