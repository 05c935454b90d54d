// The loop that drives devices: as soon as one is free it gets the next batch of the schedule, and only then are
// listeners told of the last. Everything that is wished of an edit happens between two of its steps.

import type { EditState } from '../engine/edit.js'
import { FlexitError } from '../engine/errors.js'
import type { EditParameters } from '../engine/parameters.js'
import {
  AdmissionError,
  type AdmissionRequest,
  type EditListener,
  type Outcome,
  type RunningEdit,
  type SchedulerApi,
  type Ticket,
} from './api.js'
import type { BatchItem, DeviceResult, ItemResult, StepDevice } from './device.js'
import { type Block, drawing } from './device-state.js'
import { type Driver, LiveEdit } from './live-edit.js'
import type { SchedulerObserver } from './observer.js'
import { Admission, type AdmissionLimits } from './policies/admission.js'
import type { BatchLimit } from './policies/batch-tuner.js'
import { Rates } from './policies/rates.js'
import { type Batch, Schedule, type ScheduleOptions } from './schedule.js'
import { AdmittedTicket, checkDeadline, estimateOf, unavailable } from './tickets.js'

export interface SchedulerOptions extends ScheduleOptions {
  readonly devices: readonly StepDevice[]
  /** Fill in and check the parameters of an update: `resolveParameters` with the pack of this digest. */
  readonly resolve: (given: Partial<EditParameters>, pack: string) => EditParameters
  readonly limits?: AdmissionLimits
  readonly observer?: SchedulerObserver
  /** Monotonic, in ms. Default: `performance.now`. */
  readonly now?: () => number
}

export interface DeviceStatus {
  readonly name: string
  readonly status: 'idle' | 'busy' | 'out'
  /** The batch limit of each graph that was run, and why. */
  readonly batchLimits: ReadonlyMap<string, BatchLimit>
}

export interface SchedulerCounts {
  /** Edits that wait for a device. */
  readonly waiting: number
  /** Edits in a batch that runs. */
  readonly running: number
  /** Edits that are prepared, and have their turn later. */
  readonly resting: number
  /** Edits that are paused or held. */
  readonly blocked: number
  /** Bytes of requests of edits that did not start yet. */
  readonly bytes: number
}

export class Scheduler implements SchedulerApi {
  readonly #schedule: Schedule
  readonly #admission: Admission
  readonly #rates = new Rates()
  readonly #observer: SchedulerObserver
  readonly #now: () => number
  readonly #devices: ReadonlyMap<string, StepDevice>
  readonly #idle: Set<string>
  readonly #out = new Set<string>()
  readonly #batches = new Set<Promise<void>>()
  readonly #edits = new Map<number, LiveEdit>()
  readonly #driver: Driver
  #nextId = 1
  #pumping = false
  #gone = false
  #closed = false
  /** What listeners are to hear, in order. */
  readonly #events: (() => void)[] = []
  #telling = false

  constructor({ devices, resolve, limits, observer = {}, now, ...options }: SchedulerOptions) {
    this.#schedule = new Schedule(options)
    this.#admission = new Admission(limits)
    this.#observer = observer
    this.#now = now ?? (() => performance.now())
    this.#devices = new Map(devices.map((device) => [device.name, device]))
    if (this.#devices.size < devices.length) throw new Error('two devices have the same name')
    this.#idle = new Set(this.#devices.keys())
    for (const name of this.#idle) this.#schedule.addDevice(name)
    this.#driver = {
      resolve,
      now: this.#now,
      onWish: (edit) => {
        if (!edit.running) this.#boundary(edit)
        this.#pump()
        this.#tell()
      },
      onBlock: (edit, reason: Block, blocked) => {
        this.#schedule.block(edit.id, reason, blocked, this.#now())
        this.#pump()
      },
    }
  }

  get counts(): SchedulerCounts {
    const { waiting, suspect, running, resident, blocked } = this.#schedule.counts
    return { waiting: waiting + suspect, running, resting: resident, blocked, bytes: this.#admission.used.bytes }
  }

  get devices(): DeviceStatus[] {
    return [...this.#devices.keys()].map((name) => ({
      name,
      status: this.#out.has(name) ? 'out' : this.#idle.has(name) ? 'idle' : 'busy',
      batchLimits: this.#schedule.batchLimits(name),
    }))
  }

  admit(request: AdmissionRequest): Ticket {
    try {
      if (this.#working === 0) throw unavailable('no device', 'no device of the server works any more')
      if (this.#gone) throw unavailable('draining', 'the server is going away')
      const { tenant, priority, bytes, key } = request
      const position = this.#schedule.ahead(tenant, priority)
      const stepsBefore = key === undefined ? 0 : this.#schedule.stepsBefore(tenant, priority, key, position)
      const turnInMs = key === undefined ? 0 : this.#schedule.turnInMs(tenant, priority, key, this.#now())
      const estimate = estimateOf(request, { position, stepsBefore, turnInMs }, this.#working, this.#rates)
      checkDeadline(request, estimate)
      const holding = this.#admission.admit(tenant, bytes, this.#rates.endEveryMs)
      this.#schedule.announce(tenant, priority, 1)
      return new AdmittedTicket(request, holding, estimate, this.#now(), () => {
        this.#schedule.announce(tenant, priority, -1)
        this.#admission.release(holding)
      })
    } catch (error) {
      if (error instanceof AdmissionError) this.#observer.onRefused?.({ reason: error.reason })
      throw error
    }
  }

  submit(ticket: Ticket, state: EditState, listener: EditListener): RunningEdit {
    if (!(ticket instanceof AdmittedTicket) || !ticket.isOpen) {
      throw new Error('the ticket is not one of this scheduler, or was used')
    }
    ticket.submit()
    const { request, holding, deadlineMs, estimatedDurationMs: durationMs } = ticket
    const { tenant, priority, underWayMs = 0, begun = false } = request
    const nowMs = this.#now()
    const edit = new LiveEdit(this.#nextId++, state, holding, listener, nowMs, this.#driver)
    const { id, key, stepsLeft } = edit
    this.#edits.set(id, edit)
    this.#schedule.announce(tenant, priority, -1)
    this.#schedule.add({ id, tenant, priority, key, stepsLeft, underWayMs, begun, deadlineMs, durationMs }, nowMs)
    if (stepsLeft <= 0) this.#boundary(edit)
    this.#pump()
    return edit
  }

  /** End every edit with its last state, to go on elsewhere, and admit no more. A step under way is thrown away. */
  handBack(): void {
    this.#gone = true
    for (const edit of [...this.#edits.values()]) this.#end(edit, { kind: 'handed-back', state: edit.resumable })
    this.#tell()
  }

  /** Hand back what is left, wait for the batches under way, and close the devices. */
  async close(): Promise<void> {
    this.#closed = true
    this.handBack()
    while (this.#batches.size > 0) await Promise.all(this.#batches)
    await Promise.all([...this.#devices.values()].map((device) => device.close()))
  }

  get #working(): number {
    return this.#devices.size - this.#out.size
  }

  /** Give idle devices something to do, once all that happens now has happened. */
  #pump(): void {
    if (this.#pumping) return
    this.#pumping = true
    queueMicrotask(() => {
      this.#pumping = false
      if (this.#gone) this.handBack()
      for (const name of [...this.#idle]) this.#dispatch(name)
      this.#tell()
    })
  }

  #dispatch(name: string): void {
    const batch = this.#closed ? undefined : this.#schedule.next(name, this.#now())
    if (batch === undefined) return
    this.#idle.delete(name)
    const driven = this.#drive(this.#devices.get(name)!, batch).finally(() => this.#batches.delete(driven))
    this.#batches.add(driven)
  }

  async #drive(device: StepDevice, { key, entries, forget }: Batch): Promise<void> {
    const { name } = device
    const items = entries.map(({ id, fresh }): BatchItem => {
      const edit = this.#edits.get(id)!
      edit.running = true
      this.#start(edit)
      return fresh ? { id, state: edit.state } : { id }
    })
    const kind = key === drawing ? 'draw' : 'step'
    await device.run({ kind, items, forget }).then(
      (result) => this.#settle(name, key, items, result),
      (error: unknown) => this.#lose(name, items, error),
    )
    if (!this.#out.has(name)) {
      this.#idle.add(name)
      this.#dispatch(name)
    }
    if (this.#schedule.hasWork && this.#idle.size > 0) this.#pump()
    this.#tell()
  }

  #settle(device: string, key: string, items: readonly BatchItem[], result: DeviceResult): void {
    const nowMs = this.#now()
    if (result.kind === 'broken') {
      this.#lose(device, items, result.error, true)
      return
    }
    if (result.kind === 'out-of-memory') {
      this.#observer.onOutOfMemory?.({ device, samples: items.length, error: result.error })
      this.#return(items, this.#schedule.update(device, { kind: 'out-of-memory' }, nowMs).failed, result.error)
      return
    }
    const { results, stepMs, prepareMs, measured } = result
    const unknown = results.flatMap(({ kind, id }) => (kind === 'unknown' ? [id] : []))
    this.#schedule.update(device, { kind: 'stepped', stepMs, prepareMs, measured, unknown }, nowMs)
    const wasted = results.filter((item) => !this.#apply(item)).length
    if (items.length === 0) return
    if (key === drawing) {
      this.#observer.onDrawn?.({ device, drawMs: stepMs })
      return
    }
    if (measured) this.#rates.recordStep(key, items.length, stepMs)
    const prepared = items.filter(({ state }) => state !== undefined).length
    this.#observer.onStep?.({ device, samples: items.length, wasted, prepared, stepMs, prepareMs })
  }

  /** The worker is gone, and with it what it had prepared. */
  #lose(device: string, items: readonly BatchItem[], error: unknown, blameless = false): void {
    this.#observer.onWorkerLost?.({ device, error })
    const { failed, deviceOut } = this.#schedule.update(device, { kind: 'lost', blameless }, this.#now())
    this.#return(items, failed, deadly(error))
    if (!deviceOut) return
    this.#out.add(device)
    this.#observer.onDeviceOut?.({ device, error })
    if (this.#working === 0) this.handBack()
  }

  /** Edits come back from a batch in which none took a step; some cannot go on. */
  #return(items: readonly BatchItem[], failed: readonly number[], error: FlexitError): void {
    for (const { id } of items) {
      const edit = this.#edits.get(id)
      if (edit === undefined) continue
      edit.running = false
      if (failed.includes(id) && edit.cancelledMs === undefined) {
        this.#end(edit, { kind: 'failed', error, state: edit.resumable })
      } else this.#boundary(edit)
    }
  }

  /** What a batch made of one edit. Returns false for a step that is thrown away. */
  #apply(result: ItemResult): boolean {
    const edit = this.#edits.get(result.id)
    if (edit === undefined) return false
    edit.running = false
    const wanted = edit.cancelledMs === undefined && (edit.finishing || !edit.accepted)
    if (wanted && result.kind === 'stepped') {
      edit.advance(result.z)
      const { listener, state } = edit
      this.#warn(edit, result.warnings)
      this.#events.push(() => listener.onStep(result.report, state))
    } else if (wanted && result.kind === 'drawn') {
      edit.settle(result.z)
      this.#end(edit, { kind: 'completed', picture: result.picture, state: edit.state })
    } else if (wanted && result.kind === 'failed') {
      this.#end(edit, { kind: 'failed', error: result.error, state: edit.resumable })
    }
    this.#boundary(edit)
    return wanted
  }

  /** Do what was wished of an edit that is in no batch. */
  #boundary(edit: LiveEdit): void {
    if (edit.ended) return
    const nowMs = this.#now()
    if (edit.cancelledMs !== undefined) {
      this.#observer.onFreed?.({ cancelToFreedMs: nowMs - edit.cancelledMs })
      this.#end(edit, { kind: 'cancelled', state: edit.resumable })
      return
    }
    if (edit.finishing) return
    if (edit.renew()) {
      const { listener, state } = edit
      this.#schedule.renew(edit.id, edit.key, edit.stepsLeft, nowMs)
      this.#events.push(() => listener.onRenewed?.(state))
    }
    edit.finishing = edit.isComplete
    if (edit.finishing) this.#schedule.finish(edit.id, nowMs)
  }

  /** An edit goes into a batch. One that is lost with it does so again. */
  #start(edit: LiveEdit): void {
    if (edit.started) return
    edit.started = true
    this.#admission.started(edit.holding)
    this.#events.push(() => edit.listener.onStarted())
  }

  /** An edit was prepared, for the first time or after an update, if `warnings` are given. */
  #warn(edit: LiveEdit, warnings: readonly string[] | undefined): void {
    if (warnings === undefined || !edit.unprepared) return
    edit.unprepared = false
    if (warnings.length > 0) this.#events.push(() => edit.listener.onWarnings?.(warnings))
  }

  #end(edit: LiveEdit, outcome: Outcome): void {
    const nowMs = this.#now()
    edit.ended = true
    this.#edits.delete(edit.id)
    this.#schedule.remove(edit.id)
    this.#admission.release(edit.holding)
    this.#rates.recordEnd(nowMs)
    this.#observer.onEnd?.({ kind: outcome.kind, totalMs: nowMs - edit.submittedMs })
    this.#events.push(() => edit.listener.onEnd(outcome))
  }

  /** Tell listeners what happened. What they bring about is told after what had happened before. */
  #tell(): void {
    if (this.#telling) return
    this.#telling = true
    try {
      for (let event = this.#events.shift(); event !== undefined; event = this.#events.shift()) event()
    } finally {
      this.#telling = false
    }
  }
}

/** An edit that brought down a worker twice, the second time alone. */
function deadly(cause: unknown): FlexitError {
  return new FlexitError({
    code: 'INTERNAL',
    message: 'the edit brought a worker down twice, the second time alone',
    cure: 'Try it with other parameters, and report it with its picture and texts.',
    cause,
  })
}
