// Replicas under a day's load, second by second: edits share a device's batches, the others wait; replicas take their time to
// come, and hand over what they have when they go. The scheduler's own limits: src/scheduler/schedule.ts.

import type { Random } from '../kit/random.js'

export interface FleetSettings {
  /** A step of a batch of n takes `launchMs + sampleMs * n`. */
  readonly launchMs: number
  readonly sampleMs: number
  /** From the wish for a replica until it takes edits. */
  readonly startS: number
  /** Edits that may wait at a replica; the clients of others try another one. */
  readonly maxWaiting: number
}

const maxBatch = 16
const maxResidents = 32

/** After which the client of an edit that was refused tries again. */
const retryS = 5

interface WaitingEdit {
  readonly sinceS: number
  readonly steps: number
  /** It has waited for its first step already. */
  readonly moved: boolean
}

interface Replica {
  readonly readyS: number
  /** Steps that an edit which was there from the beginning would have taken. */
  steps: number
  /** For each edit that is stepped, the value of `steps` at which it ends, and since when it is there. */
  readonly residents: { readonly end: number; readonly sinceS: number }[]
  readonly waiting: WaitingEdit[]
}

/** Steps per second of one of `count` edits. */
export function stepRate({ launchMs, sampleMs }: FleetSettings, count: number): number {
  const batch = Math.min(count, maxBatch)
  return (1000 / (launchMs + sampleMs * batch)) * (batch / Math.max(count, 1))
}

export class Fleet {
  readonly #settings: FleetSettings
  readonly #random: Random
  readonly #rates: readonly number[]
  #replicas: Replica[] = []
  #ready: Replica[] = []
  #refused: { readonly edit: WaitingEdit; readonly againS: number }[] = []
  /** Seconds of waiting for a first step, and of whole edits, by how many edits there were. */
  readonly queueS = new Counts()
  readonly editS = new Counts()
  handedOver = 0
  replicaSeconds = 0

  constructor(settings: FleetSettings, random: Random, replicas: number) {
    this.#settings = settings
    this.#random = random
    this.#rates = Array.from({ length: maxResidents + 1 }, (_, count) => stepRate(settings, count))
    this.resize(replicas, -settings.startS)
    this.#ready = this.#replicas
  }

  get size(): number {
    return this.#replicas.length
  }

  /** Edits that wait or run, as the replicas that are ready report them. */
  get edits(): number {
    return this.#ready.reduce((sum, { residents, waiting }) => sum + residents.length + waiting.length, 0)
  }

  /** More replicas, or fewer: those that are not ready go first, then the newest. Their edits go on elsewhere. */
  resize(replicas: number, nowS: number): void {
    while (this.size < replicas) {
      this.#replicas.push({ readyS: nowS + this.#settings.startS, steps: 0, residents: [], waiting: [] })
    }
    const gone = this.#replicas.splice(replicas)
    this.#ready = this.#replicas.filter(({ readyS }) => readyS <= nowS)
    for (const { residents, waiting, steps } of gone) {
      this.handedOver += residents.length + waiting.length
      for (const { end, sinceS } of residents) this.#place({ sinceS, steps: end - steps, moved: true }, nowS)
      for (const edit of waiting) this.#place(edit, nowS)
    }
  }

  arrive(steps: number, nowS: number): void {
    this.#place({ sinceS: nowS, steps, moved: false }, nowS)
  }

  /** A second passes. */
  tick(nowS: number): void {
    this.replicaSeconds += this.size
    if (this.#ready.length < this.size) this.#ready = this.#replicas.filter(({ readyS }) => readyS <= nowS)
    const due = this.#refused.filter(({ againS }) => againS <= nowS)
    if (due.length > 0) this.#refused = this.#refused.filter(({ againS }) => againS > nowS)
    for (const { edit } of due) this.#place(edit, nowS)
    for (const replica of this.#ready) this.#advance(replica, nowS)
  }

  /** The less loaded of two: what Envoy's LeastRequest does. */
  #place(edit: WaitingEdit, nowS: number): void {
    const load = ({ residents, waiting }: Replica) => residents.length + waiting.length
    const [a, b] = [this.#random.pick(this.#ready), this.#random.pick(this.#ready)]
    const less = load(a) <= load(b) ? a : b
    if (less.waiting.length < this.#settings.maxWaiting) less.waiting.push(edit)
    else this.#refused.push({ edit, againS: nowS + retryS })
  }

  #advance(replica: Replica, nowS: number): void {
    const { residents, waiting } = replica
    while (waiting.length > 0 && residents.length < maxResidents) {
      const { sinceS, steps, moved } = waiting.shift()!
      residents.push({ end: replica.steps + steps, sinceS })
      if (!moved) this.queueS.add(nowS - sinceS)
    }
    replica.steps += this.#rates[residents.length]!
    for (let i = residents.length - 1; i >= 0; i--) {
      const { end, sinceS } = residents[i]!
      if (end > replica.steps) continue
      this.editS.add(nowS + 1 - sinceS)
      residents[i] = residents.at(-1)!
      residents.pop()
    }
  }
}

/** How often each whole number was seen. */
class Counts {
  readonly #counts: number[] = []
  #total = 0

  add(value: number): void {
    this.#counts[value] = (this.#counts[value] ?? 0) + 1
    this.#total++
  }

  /** The value below or at which `part` of them lies. */
  percentile(part: number): number {
    let seen = 0
    for (let value = 0; value < this.#counts.length; value++) {
      seen += this.#counts[value] ?? 0
      if (seen >= part * this.#total && seen > 0) return value
    }
    return NaN
  }
}
