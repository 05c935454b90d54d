// The decision: which edits take a step next, on which device, in which batch. Pure: no timers, threads or I/O; the
// clock is handed in. After the schedulers of vLLM and nano-vllm, for optimisation steps instead of tokens.

import type { Priority } from './api.js'
import { type Block, DeviceState, type Part, type Place, type Scheduled, drawing } from './device-state.js'
import { BatchLimits, type BatchLimitOptions } from './policies/batch-limit.js'
import type { BatchLimit } from './policies/batch-tuner.js'
import { rankOf } from './policies/deadlines.js'
import { aged, finishingLevel, levelCount, levelOf } from './policies/levels.js'
import { fairPart, movePays } from './policies/moves.js'
import { patienceMs, waitsLonger } from './policies/pace.js'
import { Places } from './places.js'

export interface ScheduleOptions extends BatchLimitOptions {
  /** Most edits that a device keeps prepared beyond its batch. Default 32. */
  readonly maxResidents?: number
  /** An edit that waits this long for a step rises by one class. Default 60,000. */
  readonly ageMs?: number
  /** Share of a tenant within its class. Default 1 each. */
  readonly weightOf?: (tenant: string) => number
  /** Losses of a device's worker without a step between them, after which it is taken out. Default 3. */
  readonly maxLosses?: number
}

export interface NewEdit {
  readonly id: number
  readonly tenant: string
  readonly priority: Priority
  /** Specification of its graph. */
  readonly key: string
  readonly stepsLeft: number
  /** Since it was first asked for, on whichever server. */
  readonly underWayMs?: number
  /** It had begun on another server. */
  readonly begun?: boolean
  /** When the caller gives up, on the clock that is handed in. */
  readonly deadlineMs?: number | undefined
  /** Expected time of all its steps. */
  readonly durationMs?: number | undefined
}

/** Pictures drawn in one batch: they are drawn one by one, and steps wait meanwhile. */
const maxDrawings = 4

/** Edits that may rise by a class in one decision, so that it stays quick. */
const maxRaised = 16

/** What a device is to do next. Without entries it only forgets. */
export interface Batch {
  readonly key: string
  /** `fresh`: the device does not know the edit and needs its state. */
  readonly entries: readonly { readonly id: number; readonly fresh: boolean }[]
  /** Edits that the device prepared and that it will not see again as they are. */
  readonly forget: readonly number[]
}

/** What became of a device's batch. */
export type BatchOutcome =
  | {
      readonly kind: 'stepped'
      /** False: the times are no measure, since the device built or loaded a graph meanwhile. */
      readonly measured: boolean
      readonly stepMs: number
      /** For all fresh entries together. */
      readonly prepareMs: number
      /** Edits that the device turned out not to know: its worker was replaced meanwhile. */
      readonly unknown: readonly number[]
    }
  | { readonly kind: 'out-of-memory' }
  /** The worker crashed or hung; whatever it had prepared is gone. `blameless`: for no fault of the edits. */
  | { readonly kind: 'lost'; readonly blameless: boolean }

export class Schedule {
  readonly #maxResidents: number
  readonly #ageMs: number
  readonly #maxLosses: number
  readonly #limits: BatchLimits
  readonly #places: Places
  readonly #edits = new Map<number, Scheduled>()
  readonly #devices = new Map<string, DeviceState>()
  #idle = 0

  constructor({
    maxResidents = 32,
    ageMs = 60_000,
    weightOf = () => 1,
    maxLosses = 3,
    ...limits
  }: ScheduleOptions = {}) {
    this.#maxResidents = maxResidents
    this.#ageMs = ageMs
    this.#maxLosses = maxLosses
    this.#limits = new BatchLimits(limits)
    this.#places = new Places(weightOf)
  }

  /** Edits by where they are. `resident`: prepared on a device, but not in its present batch. */
  get counts(): Readonly<Record<Place, number>> {
    return this.#places.counts
  }

  /** Whether an idle device might find something to do. */
  get hasWork(): boolean {
    const { waiting, suspects, counts } = this.#places
    return waiting.size > 0 || suspects.size > 0 || counts.resident > 0
  }

  addDevice(id: string): void {
    this.#devices.set(id, new DeviceState(id, this.#maxResidents))
    this.#idle++
  }

  /** What was measured of a device: the batch limit of each graph, and why. */
  batchLimits(device: string): Map<string, BatchLimit> {
    return this.#limits.describe(device)
  }

  add(wanted: NewEdit, nowMs: number): void {
    const { id, tenant, priority, key, stepsLeft, underWayMs = 0, begun = false, deadlineMs, durationMs } = wanted
    const edit: Scheduled = {
      id,
      key,
      stepsLeft,
      begun,
      rank: rankOf({ arrivedMs: nowMs - underWayMs, deadlineMs, durationMs }),
      waitingSinceMs: nowMs,
      share: this.#places.join(tenant, levelOf(priority)),
      place: 'waiting',
      device: undefined,
      blocks: new Set(),
      strikes: 0,
      lostOn: undefined,
      leaving: false,
    }
    this.#edits.set(id, edit)
    this.#places.add(edit)
  }

  /** Take an edit out: at once, or when its step is over. Nothing happens where it is not in. */
  remove(id: number): void {
    const edit = this.#edits.get(id)
    if (edit === undefined) return
    this.#edits.delete(id)
    if (edit.place === 'running') edit.leaving = true
    else this.#places.drop(edit)
  }

  /** Do not schedule an edit for a reason, or no longer for that reason. One that is running keeps its step. */
  block(id: number, reason: Block, blocked: boolean, nowMs: number): void {
    const edit = this.#edits.get(id)
    if (edit === undefined || edit.share.level === finishingLevel) return
    if (blocked) edit.blocks.add(reason)
    else edit.blocks.delete(reason)
    if (edit.place === 'running') return
    if (edit.blocks.size > 0) this.#places.block(edit)
    else if (edit.place === 'blocked') this.#places.unblock(edit, nowMs)
  }

  /** An edit that is not running has changed: it must be prepared anew, and has `stepsLeft` steps in a graph `key`. */
  renew(id: number, key: string, stepsLeft: number, nowMs: number): void {
    const edit = this.#boundary(id)
    edit.stepsLeft = stepsLeft
    this.#places.renew(edit, key, nowMs)
  }

  /** An edit that is not running lacks only its picture, even if it is blocked. It leaves once that is drawn. */
  finish(id: number, nowMs: number): void {
    const edit = this.#boundary(id)
    if (edit.share.level !== finishingLevel) this.#places.finish(edit, nowMs)
  }

  /** An edit is about to be added (1), or is not any more (-1). */
  announce(tenant: string, priority: Priority, change: 1 | -1): void {
    this.#places.waiting.announce(levelOf(priority), tenant, change)
  }

  /** About how many edits a new one would find before it. */
  ahead(tenant: string, priority: Priority): number {
    return this.#places.waiting.ahead(levelOf(priority), tenant)
  }

  /**
   * At least how many steps all devices take together, in full batches, before a new edit of graph `key` has a place with
   * `position` edits before it: those of its tenant and graph that have begun go first.
   */
  stepsBefore(tenant: string, priority: Priority, key: string, position: number): number {
    const level = levelOf(priority)
    const begun: number[] = []
    for (const edit of this.#edits.values()) {
      if (!edit.begun || edit.place === 'blocked' || edit.key !== key) continue
      if (edit.share.tenant === tenant && edit.share.level <= level) begun.push(edit.stepsLeft)
    }
    const places = this.#devices.size * this.#limits.maxBatch
    const first = begun.length - places + position
    if (begun.length === 0 || first < 0) return 0
    const left = begun.sort((a, b) => a - b)[Math.min(first, begun.length - 1)]!
    return left * Math.min(places, begun.length)
  }

  /**
   * At least how long a new edit of graph `key` waits for its graph's turn: other graphs of its tenant have theirs on all
   * devices, until their edits end. It joins those of its graph, which may have waited for a while, or are another tenant's.
   */
  turnInMs(tenant: string, priority: Priority, key: string, nowMs: number): number {
    const level = levelOf(priority)
    const busyMs = new Map<DeviceState, number>()
    let turnMs = patienceMs
    for (const edit of this.#edits.values()) {
      if (edit.place === 'blocked') continue
      const { device, share } = edit
      const own = share.tenant === tenant
      if (edit.key === key) {
        if (device !== undefined || !own || share.level < level) return 0
        turnMs = Math.min(turnMs, Math.max(0, patienceMs - (nowMs - edit.waitingSinceMs)))
      } else if (device !== undefined && own && share.level <= level) {
        const leftMs = edit.stepsLeft * (this.#limits.estimateMs(device.id, edit.key, 1) ?? 0)
        busyMs.set(device, Math.max(busyMs.get(device) ?? 0, leftMs))
      }
    }
    return busyMs.size < this.#devices.size ? 0 : Math.min(turnMs, ...busyMs.values())
  }

  /** The next batch of an idle device; undefined: there is nothing for it to do. */
  next(deviceId: string, nowMs: number): Batch | undefined {
    const device = this.#devices.get(deviceId)
    if (device === undefined || device.running !== undefined) throw new Error(`the device ${deviceId} is not idle`)
    this.#age(device, nowMs)
    const leader = this.#leader(device, nowMs) ?? this.#steal(device)
    if (leader === undefined) return device.forget.size > 0 ? this.#start(device, drawing, []) : undefined
    const { key } = leader
    this.#places.advance(leader)
    device.lead(leader)
    const alone = leader.strikes > 0
    const mates = alone ? [] : device.resting.filter((edit) => edit.key === key)
    const available = mates.length + this.#places.waiting.count(key)
    const limit = alone ? 1 : key === drawing ? maxDrawings : this.#limits.limit(deviceId, key, available)
    const sampleMs = (this.#limits.estimateMs(deviceId, key, limit) ?? 0) / limit
    const newcomers =
      mates.length <= limit && this.#spread(device, leader, mates) ? 0 : fairPart(available, this.#idle - 1)
    const parts = [this.#join(device, leader, sampleMs)]
    while (parts.length < limit) {
      let best = parts.length < newcomers ? device.entrant(this.#newcomer(leader, mates)) : undefined
      for (const mate of mates) if (mate.place === 'resident') best = device.better(best, mate)
      if (best === undefined) break
      parts.push(this.#join(device, best, sampleMs))
    }
    return this.#start(device, key, parts)
  }

  /** What became of the batch of a device. Returns the edits that cannot go on, now removed, and whether it is out. */
  update(deviceId: string, outcome: BatchOutcome, nowMs: number): { failed: number[]; deviceOut: boolean } {
    const device = this.#devices.get(deviceId)!
    const { key, parts } = device.running!
    device.running = undefined
    this.#idle++
    const failed = outcome.kind === 'stepped' ? [] : this.#blame(device, key, parts, outcome)
    if (outcome.kind === 'stepped') device.losses = 0
    if (outcome.kind === 'stepped' && outcome.measured && parts.length > 0) this.#measure(device, key, parts, outcome)
    const unknown = new Set(outcome.kind === 'stepped' ? outcome.unknown : [])
    for (const { edit, fresh } of parts) {
      const stepped = outcome.kind === 'stepped' && !unknown.has(edit.id)
      if (stepped) {
        edit.strikes = 0
        edit.begun = true
        edit.stepsLeft--
      }
      if (outcome.kind === 'lost' || unknown.has(edit.id)) this.#places.release(edit)
      else if (outcome.kind === 'out-of-memory' && fresh) this.#places.evict(edit)
      const ends = edit.leaving || failed.includes(edit.id) || (stepped && key === drawing)
      if (ends) {
        this.#edits.delete(edit.id)
        this.#places.drop(edit)
      } else if (edit.blocks.size > 0) this.#places.block(edit)
      else this.#places.put(edit, nowMs)
    }
    if (outcome.kind === 'lost') this.#places.empty(device, nowMs)
    const deviceOut = device.losses >= this.#maxLosses
    if (deviceOut) {
      this.#devices.delete(deviceId)
      this.#idle--
    }
    return { failed, deviceOut }
  }

  #measure(
    device: DeviceState,
    key: string,
    parts: readonly Part[],
    { stepMs, prepareMs, unknown }: BatchOutcome & { kind: 'stepped' },
  ): void {
    const fresh = parts.filter((part) => part.fresh).length
    if (key !== drawing && unknown.length === 0) {
      this.#limits.record(device.id, key, parts.length, stepMs)
      device.measure(stepMs, prepareMs, fresh)
    }
    for (const part of parts) {
      this.#places.charge(part.share, stepMs / parts.length - part.chargedMs + (part.fresh ? prepareMs / fresh : 0))
    }
  }

  /** Edits that cannot go on after a batch that did not come back. */
  #blame(
    device: DeviceState,
    key: string,
    parts: readonly Part[],
    outcome: Exclude<BatchOutcome, { kind: 'stepped' }>,
  ): number[] {
    for (const { share, chargedMs } of parts) this.#places.charge(share, -chargedMs)
    const ids = parts.map(({ edit }) => edit.id)
    if (outcome.kind === 'lost') {
      device.losses++
      if (outcome.blameless) return []
      for (const { edit } of parts) {
        edit.strikes++
        edit.lostOn = device
      }
      return parts.filter(({ edit }) => edit.strikes > 1).map(({ edit }) => edit.id)
    }
    if (parts.length > 1 && key !== drawing) {
      this.#limits.halve(device.id, key, parts.length)
      return []
    }
    const others = [...device.residents].filter((edit) => edit.place !== 'running')
    for (const edit of others) this.#places.giveUp(edit)
    return others.length > 0 ? [] : ids
  }

  /** Who goes first on a device; undefined where there is no one to choose. */
  #leader(device: DeviceState, nowMs: number): Scheduled | undefined {
    // Of each graph, for its turn may have come though another one's edits rank before.
    const waiting = this.#places.waiting.firsts()
    // Where it was lost a suspect is tried again only if there is no other device.
    const suspects = [...this.#places.suspects].filter((edit) => edit.lostOn !== device || this.#devices.size === 1)
    const here = [...device.resting, ...suspects]
    device.decide([...waiting, ...here], nowMs)
    const better = (best: Scheduled | undefined, edit: Scheduled) => device.better(best, edit)
    return here.reduce(better, device.entrant(waiting.reduce(better, undefined)))
  }

  /** Take over edits that wait on the device that has most of them, half of them, where that pays. */
  #steal(thief: DeviceState): Scheduled | undefined {
    if (this.#places.counts.resident === 0) return undefined
    let victims: Scheduled[] = []
    for (const device of this.#devices.values()) {
      if (device.running === undefined) continue
      const stepMs = this.#limits.estimateMs(device.id, device.running.key, device.running.parts.length)
      const movable = device.resting.filter((edit) => movePays(edit.stepsLeft, stepMs, thief.prepareMs))
      if (movable.length > victims.length) victims = movable
    }
    for (const edit of victims.slice(0, Math.ceil(victims.length / 2))) this.#places.giveUp(edit)
    return this.#places.waiting.first()
  }

  /** Give up edits that were to be in this batch, so that idle devices get theirs, where it pays. Returns whether it did. */
  #spread(device: DeviceState, leader: Scheduled, mates: readonly Scheduled[]): boolean {
    const others = this.#idle - 1
    const extra = mates.length - fairPart(mates.length, others)
    if (extra === 0 || this.#places.waiting.size >= others) return false
    const stepMs = this.#limits.estimateMs(device.id, leader.key, mates.length)
    const prepareMs = Math.max(...[...this.#devices.values()].map((other) => other.prepareMs))
    // A batch of fewer edits saves a part of the step only.
    const pays = (edit: Scheduled) => edit !== leader && movePays(edit.stepsLeft / 2, stepMs, prepareMs)
    const movable = mates.filter(pays).sort((a, b) => b.stepsLeft - a.stepsLeft)
    for (const edit of movable.slice(0, extra)) this.#places.giveUp(edit)
    return movable.length > 0
  }

  /**
   * Who may fill up a batch. In one that another tenant leads, not while one of the same tenant waits too long for another
   * graph, whose turn would never come.
   */
  #newcomer({ key, share }: Scheduled, mates: readonly Scheduled[]): Scheduled | undefined {
    const edit = this.#places.waiting.firstOf(key)
    if (edit === undefined || edit.share === share || mates.length === 0) return edit
    const others = this.#places.waiting.firstsOf(edit.share)
    return others.some((other) => waitsLonger(other, edit)) ? undefined : edit
  }

  /** Edits that have waited too long rise. */
  #age(device: DeviceState, nowMs: number): void {
    const raise = (edit: Scheduled): boolean => {
      const level = aged(edit.share.level, edit.waitingSinceMs, nowMs, this.#ageMs)
      if (level !== undefined) this.#places.raise(edit, level, nowMs)
      return level !== undefined
    }
    for (const edit of device.resting) raise(edit)
    for (const edit of this.#places.suspects) raise(edit)
    let left = maxRaised
    for (let level = levelCount - 1; level > finishingLevel; level--) {
      let oldest = this.#places.waiting.oldest(level)
      while (oldest !== undefined && left > 0 && raise(oldest)) {
        left--
        oldest = this.#places.waiting.oldest(level)
      }
    }
  }

  /** Put an edit into the batch of a device, charged with what that should cost. */
  #join(device: DeviceState, edit: Scheduled, sampleMs: number): Part {
    const fresh = edit.device !== device
    const displaced = fresh ? device.displace(edit) : undefined
    if (displaced !== undefined) this.#places.giveUp(displaced)
    this.#places.run(edit, device)
    this.#places.charge(edit.share, sampleMs)
    return { edit, share: edit.share, fresh, chargedMs: sampleMs }
  }

  #start(device: DeviceState, key: string, parts: readonly Part[]): Batch {
    device.running = { key, parts }
    this.#idle--
    const forget = [...device.forget]
    device.forget.clear()
    return { key, entries: parts.map(({ edit, fresh }) => ({ id: edit.id, fresh })), forget }
  }

  #boundary(id: number): Scheduled {
    const edit = this.#edits.get(id)
    if (edit === undefined || edit.place === 'running') throw new Error(`edit ${id} is not at a step boundary`)
    return edit
  }
}
