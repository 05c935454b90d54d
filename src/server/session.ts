// One edit as its clients see it: what happens to it, as events, and what they may ask of it.
// The protocol is proto/flexit/v1/editor.proto; steps are the scheduler's (src/scheduler/api.ts).

import { randomUUID } from 'node:crypto'
import { status as codes } from '@grpc/grpc-js'
import { encodePicture } from '../engine/encode.js'
import type { EditState, StepReport } from '../engine/edit.js'
import { FlexitError } from '../engine/errors.js'
import type { Picture } from '../engine/picture.js'
import { encodeLatent, encodeParameters } from '../proto/codec.js'
import { pictureFormats } from '../proto/enums.js'
import type { EditStatus, EditSummary, EventBody, PictureFile, ResumePoint } from '../proto/messages.js'
import { WireError, toStatus } from '../proto/status.js'
import type { Outcome, RunningEdit, SchedulerApi, Ticket } from '../scheduler/api.js'
import { EventLog } from './event-log.js'
import type { Logger } from './logger.js'
import { type Metrics, isOver, isOwnFault, label } from './metrics.js'
import type { Sink } from './outbox.js'
import type { LoadState, PictureWish, StartPlan } from './start-request.js'
import type { EditTrace } from './tracing.js'

export interface SessionSetup {
  readonly id: string
  /** Of all edits of the server, counted from 0. */
  readonly index: number
  readonly tenant: string
  readonly plan: StartPlan
  readonly scheduler: SchedulerApi
  readonly metrics: Metrics
  readonly logger: Logger
  readonly disconnectGraceMs: number
  readonly trace: EditTrace | undefined
  /** Called once, when the edit has ended and its last event is on its way. */
  readonly onEnd: (session: Session) => void
}

/** How an edit ended, and the event that says so. */
type Ending = [status: EditStatus, event: EventBody]

/** Updates that wait for the step that is under way. */
const maxPendingUpdates = 64

const seconds = (fromMs: number) => (performance.now() - fromMs) / 1000

export class Session {
  readonly id: string
  readonly tenant: string
  readonly index: number
  readonly uid = randomUUID()
  readonly #setup: SessionSetup
  readonly #logger: Logger
  readonly #createTimeMs = Date.now()
  readonly #admittedMs = performance.now()
  readonly #log: EventLog
  #status: EditStatus = 'EDIT_STATUS_PENDING'
  #paused = false
  #ending = false
  #forgotten = false
  #step: number
  #steps: number
  #startedMs: number | undefined
  #steppedMs: number | undefined
  #cancelled = false
  /** It was the grace that cancelled it, and nobody else. */
  #abandoned = false
  #handingBack = false
  #stepsTaken = 0
  #previewed = false
  /** Set when the deadline has passed. */
  #overdue: WireError | undefined
  /** Numbers of updates that were not answered: a step is under way. */
  readonly #updates: number[] = []
  #running: RunningEdit | undefined
  /** Resolves when the scheduler has the edit; with undefined where it has ended. */
  #submitted: Promise<RunningEdit | undefined>
  #grace: NodeJS.Timeout | undefined
  #deadline: NodeJS.Timeout | undefined

  /**
   * Takes `ticket` over. The first event, `accepted`, is there when this returns. `load` is not kept, for it holds the
   * request's picture.
   */
  constructor(setup: SessionSetup, ticket: Ticket, load: LoadState) {
    const { id, index, tenant, plan, metrics, logger } = setup
    this.id = id
    this.index = index
    this.tenant = tenant
    this.#setup = setup
    this.#step = plan.firstStep
    this.#steps = plan.parameters.steps
    this.#logger = logger.child({ editId: id, uid: this.uid, tenant })
    const { windowBytes } = plan.stream
    this.#log = new EventLog({ editId: id, windowBytes, metrics, onCredit: () => this.#hold() })
    metrics.moved(undefined, this.#status, plan.pack)
    const { position, estimatedStartMs, estimatedDurationMs } = ticket
    const parameters = encodeParameters(plan.parameters)
    this.#log.tell({
      accepted: {
        uid: this.uid,
        position,
        ...(estimatedStartMs === undefined ? {} : { estimatedStartMs: Math.round(estimatedStartMs) }),
        ...(estimatedDurationMs === undefined ? {} : { estimatedDurationMs: Math.round(estimatedDurationMs) }),
        parameters,
      },
    })
    this.#logger.info({ position, steps: plan.steps, priority: plan.priority, pack: plan.pack }, 'edit accepted')
    setup.trace?.admitted({ uid: this.uid, position, steps: plan.steps, priority: plan.priority, pack: plan.pack })
    if (plan.deadlineMs !== undefined) this.#limitTime(plan.deadlineMs)
    this.#submitted = this.#submit(ticket, load)
  }

  get status(): EditStatus {
    return this.#status
  }

  get over(): boolean {
    return isOver(this.#status)
  }

  /** It needs no reader: its stream may go without it. */
  get runsOn(): boolean {
    return this.#setup.plan.runOn
  }

  get summary(): EditSummary {
    const { id: editId, uid } = this
    const counters = {
      step: this.#step,
      steps: this.#steps,
      sequence: this.#log.sequence,
      createTimeMs: this.#createTimeMs,
    }
    return { editId, uid, status: this.#status, ...counters }
  }

  /** Stop at the next step. Does nothing after the end, but while the edit is handed back it counts. */
  cancel(): void {
    if (this.over) return
    this.#cancelled = true
    this.#abandoned = false
    this.#running?.cancel()
  }

  #abandon(): void {
    if (this.#ending || this.#cancelled) return
    // Before the cancel: an edit that is in no batch ends in it.
    this.#cancelled = true
    this.#abandoned = true
    this.#running?.cancel()
  }

  /** End at the next step, with the state to go on from elsewhere. */
  async handBack(): Promise<void> {
    const edit = await this.#submitted
    if (edit === undefined || this.#ending) return
    this.#handingBack = true
    edit.cancel()
  }

  async accept(step?: number): Promise<void> {
    const edit = await this.#submitted
    if (!this.#ending) edit?.accept(step)
  }

  async pause(paused: boolean): Promise<void> {
    const edit = await this.#submitted
    if (edit === undefined || this.#ending) return
    if (paused) edit.pause()
    else edit.resume()
    this.#paused = paused
    this.#watchAbsence()
    this.#move(paused ? 'EDIT_STATUS_PAUSED' : this.#started ? 'EDIT_STATUS_RUNNING' : 'EDIT_STATUS_PENDING')
  }

  /**
   * Does nothing where the answer to one with the same number, if it has one, is on its way. Errors, with the edit unchanged:
   * INVALID_ARGUMENT; RESOURCE_EXHAUSTED where the answers are not read, or many updates wait for a step.
   */
  async update(change: Parameters<RunningEdit['update']>[0], number = 0): Promise<void> {
    const edit = await this.#submitted
    if (edit === undefined || this.#ending || (number > 0 && this.#answers(number))) return
    if (this.#log.reader.behind)
      throw tooMuch('too many events were not acknowledged', 'Acknowledge the events that came.')
    if (this.#updates.length >= maxPendingUpdates) {
      throw tooMuch(`${maxPendingUpdates} updates wait for the step that is under way`, 'Wait for their answers.')
    }
    const { pending, parameters } = edit.update(change)
    this.#steps = parameters.steps
    this.#updates.push(number)
    if (!pending) this.#tellUpdates(edit.state)
  }

  /** Its answer is on its way, or waits for a step that is under way. */
  #answers(number: number): boolean {
    return this.#log.reader.answers(number) || this.#updates.includes(number)
  }

  /** Together they are in force from `state` on, or come too late for it. The last has the state, which is that of all. */
  #tellUpdates(state: EditState): void {
    const numbers = this.#updates.splice(0)
    if (numbers.length === 0) return
    this.#steps = state.parameters.steps
    const aims = { targetText: state.target, parameters: encodeParameters(state.parameters) }
    for (const [i, number] of numbers.entries()) {
      const point = i === numbers.length - 1 ? { resumePoint: this.#point(state, true) } : {}
      this.#log.tell({ updated: { ...aims, number, ...point } })
    }
  }

  /** Events up to `sequence` arrived at the reader. */
  acknowledge(sequence: number): void {
    this.#log.reader.acknowledge(sequence)
  }

  /** Let `sink` be the reader, from the event after `afterSequence` on. */
  attach(sink: Sink, afterSequence: number): void {
    this.#log.reader.attach(sink, afterSequence)
    this.#watchAbsence()
  }

  /** The reader's stream is gone. Its edit goes on for the grace, or to its end where that was asked for. */
  detach(sink: Sink): void {
    if (this.#log.reader.sink !== sink) return
    this.#log.reader.detach()
    if (this.#forgotten) this.#log.reader.clear()
    if (!this.#ending) this.#logger.info('reader disconnected')
    this.#watchAbsence()
  }

  /** Without a reader an edit goes on for the grace only; one that runs on does too where it is paused, for it never ends. */
  #watchAbsence(): void {
    clearTimeout(this.#grace)
    if (this.#ending || this.#log.reader.sink !== undefined || (this.runsOn && !this.#paused)) return
    this.#grace = setTimeout(() => this.#abandon(), this.#setup.disconnectGraceMs).unref()
  }

  /** Send events after `afterSequence` to `sink` as well; where none is to come, it is only ended. Returns how to stop. */
  observe(sink: Sink, afterSequence: number): () => void {
    return this.#log.observe(sink, afterSequence)
  }

  /** What the edit holds in memory for its readers. */
  get bytes(): number {
    return this.#log.bytes
  }

  /** Keep nothing for readers to come; the present one still gets everything. */
  forget(): void {
    this.#forgotten = true
    if (this.#log.reader.sink === undefined) this.#log.reader.clear()
  }

  get #started(): boolean {
    return this.#startedMs !== undefined
  }

  async #submit(ticket: Ticket, load: LoadState): Promise<RunningEdit | undefined> {
    const { scheduler } = this.#setup
    try {
      const state = await load()
      if (this.#cancelled) throw new FlexitError({ code: 'CANCELLED', message: 'cancelled' })
      const edit = scheduler.submit(ticket, state, {
        onStarted: () => this.#onStarted(),
        onWarnings: (warnings) => this.#warn(warnings),
        onRenewed: (renewed) => this.#tellUpdates(renewed),
        onStep: (report, after) => this.#onStep(report, after),
        onEnd: (outcome) => void this.#onEnd(outcome),
      })
      this.#running = edit
      return edit
    } catch (error) {
      ticket.release()
      const cancelled = error instanceof FlexitError && error.code === 'CANCELLED'
      if (cancelled) this.#end(...this.#cancellation())
      else this.#end(...this.#failure(error))
      return undefined
    }
  }

  #onStarted(): void {
    this.#startedMs = performance.now()
    this.#setup.trace?.started()
    const { metrics, plan } = this.#setup
    metrics.queueSeconds.observe({ priority: plan.priority }, seconds(this.#admittedMs))
    if (!this.#paused) this.#move('EDIT_STATUS_RUNNING')
    this.#log.tell({ started: {} })
  }

  #warn(warnings: readonly string[]): void {
    for (const message of warnings) this.#log.tell({ warning: { message } })
  }

  #onStep(report: StepReport, after: EditState): void {
    if (this.#ending) return
    const { metrics, plan, trace } = this.#setup
    const { stepEvery, previewEvery, latentEvery, lossless, preview } = plan.stream
    metrics.stepped(plan)
    trace?.step(report.step, report.losses.total)
    if (this.#steppedMs !== undefined) metrics.interStepSeconds.observe({ pack: plan.pack }, seconds(this.#steppedMs))
    this.#steppedMs = performance.now()
    this.#step = after.step
    this.#stepsTaken += 1
    const { step, losses, similaritySource, similarityTarget } = report
    const due = (every: number) => every > 0 && step % every === 0
    const hasLatent = latentEvery > 0 && after.step % latentEvery === 0 && after.z !== undefined
    const hasPreview = due(previewEvery)
    if (!due(stepEvery) && !hasLatent && !hasPreview) return

    const latent = hasLatent ? { resumePoint: this.#point(after) } : {}
    const bare = { step, losses, similaritySource, similarityTarget, ...(lossless ? latent : {}) }
    if (!hasPreview && (lossless || !hasLatent)) this.#log.tell({ step: bare })
    else {
      // What waits holds this, and nothing else of the report.
      const raw = hasPreview ? report.preview : undefined
      const whole = async () => {
        const picture = raw === undefined ? {} : { preview: await this.#preview(raw, preview) }
        return { step: { ...bare, ...latent, ...picture } }
      }
      const latentBytes = lossless ? 0 : (latent.resumePoint?.latent?.data.length ?? 0)
      this.#log.tell({ step: bare }, { whole, estimatedBytes: latentBytes + (raw?.data.length ?? 0) })
    }
    this.#hold()
  }

  async #preview(picture: Picture, wish: PictureWish): Promise<PictureFile | null> {
    try {
      const file = await encode(picture, { ...wish, fast: true })
      const { metrics, plan } = this.#setup
      if (!this.#previewed) metrics.firstPreviewSeconds.observe({ pack: plan.pack }, seconds(this.#admittedMs))
      this.#previewed = true
      return file
    } catch (error) {
      this.#logger.error({ err: error }, 'a preview could not be encoded')
      return null
    }
  }

  async #onEnd(outcome: Outcome): Promise<void> {
    if (this.#ending) return
    this.#ending = true
    this.#step = outcome.state.step
    this.#tellUpdates(outcome.state)
    const end = await this.#ended(outcome).catch((error: unknown) => this.#failure(error, outcome.state))
    // Asked last, for a cancel may come until now: what is handed back would go on elsewhere.
    const cancelled = end[0] === 'EDIT_STATUS_HANDED_BACK' && this.#cancelled
    this.#end(...(cancelled ? this.#cancellation(outcome.state) : end))
  }

  async #ended(outcome: Outcome): Promise<Ending> {
    const { state } = outcome
    switch (outcome.kind) {
      case 'completed': {
        const picture = await encode(outcome.picture, this.#setup.plan.stream.result)
        const completed = { picture, resumePoint: this.#point(state, true), statistics: this.#statistics() }
        return ['EDIT_STATUS_COMPLETED', { completed }]
      }
      case 'cancelled':
        return this.#handingBack && !this.#cancelled ? this.#handedBack(state) : this.#cancellation(state)
      case 'failed':
        return this.#failure(outcome.error, state)
      case 'handed-back':
        return this.#handedBack(state)
    }
  }

  async #handedBack(state: EditState): Promise<Ending> {
    const image = await encodePicture(state.picture, { format: 'png' })
    const { source: sourceText, target: targetText } = state
    const parameters = encodeParameters(state.parameters)
    const handedBack = { image, sourceText, targetText, parameters, resumePoint: this.#point(state, true) }
    return ['EDIT_STATUS_HANDED_BACK', { handedBack: { state: handedBack } }]
  }

  #cancellation(state?: EditState): Ending {
    if (this.#overdue !== undefined) return this.#failure(this.#overdue, state)
    return ['EDIT_STATUS_CANCELLED', { cancelled: { ...this.#pointOf(state), abandoned: this.#abandoned } }]
  }

  #failure(error: unknown, state?: EditState): Ending {
    return ['EDIT_STATUS_FAILED', { failed: { status: this.#describe(error), ...this.#pointOf(state) } }]
  }

  #end(status: EditStatus, event: EventBody): void {
    const { metrics, plan, trace, onEnd } = this.#setup
    this.#ending = true
    clearTimeout(this.#grace)
    clearTimeout(this.#deadline)
    // It holds arrays that nobody needs any more.
    this.#running = undefined
    this.#submitted = Promise.resolve(undefined)
    const outcome = label(status)
    metrics.editSeconds.observe({ outcome, pack: plan.pack }, seconds(this.#admittedMs))
    const code = event.failed?.status?.code
    trace?.ended(outcome, this.#step, code)
    this.#move(status, code)
    this.#log.tell(event)
    const why = code === undefined ? {} : { code: codes[code] }
    this.#logger.info({ outcome, ...why, step: this.#step, ...this.#statistics() }, 'edit ended')
    onEnd(this)
  }

  #move(status: EditStatus, code?: codes): void {
    const { metrics, plan } = this.#setup
    if (status !== this.#status) metrics.moved(this.#status, status, plan.pack, code)
    this.#status = status
  }

  /** Lossless latents make the edit wait for its reader. */
  #hold(): void {
    if (this.#setup.plan.stream.lossless) this.#running?.hold(this.#log.reader.behind)
  }

  #limitTime(deadlineMs: number): void {
    const onDeadline = () => {
      const message = `the edit did not end within its ${deadlineMs} ms`
      this.#overdue = new WireError({
        code: 'DEADLINE_EXCEEDED',
        message,
        cure: 'Allow more time, or take fewer steps.',
      })
      this.cancel()
    }
    // Longer ones would overflow to now; nobody waits that long.
    this.#deadline = setTimeout(onDeadline, Math.min(deadlineMs, 2 ** 31 - 1)).unref()
  }

  #pointOf(state: EditState | undefined): { resumePoint?: ResumePoint } {
    return state === undefined ? {} : { resumePoint: this.#point(state, true) }
  }

  /** Where an edit can go on: always float32 at its end. */
  #point({ pack, step, z, parameters }: EditState, exact = false): ResumePoint {
    const { shapeOf, stream } = this.#setup.plan
    const type = exact ? 'NUMBER_TYPE_FLOAT32' : stream.latentType
    // An update may have changed the space before the first step; until then it is the encoded picture, and not sent.
    const latent = z === undefined || step === 0 ? {} : { latent: encodeLatent(z, shapeOf(parameters.space), type) }
    return { step, packDigest: pack, ...latent }
  }

  #statistics() {
    const startedMs = this.#startedMs ?? performance.now()
    const queueMs = Math.round(startedMs - this.#admittedMs)
    return { steps: this.#stepsTaken, queueMs, runMs: Math.round(performance.now() - startedMs) }
  }

  #describe(error: unknown) {
    const status = toStatus(error)
    if (isOwnFault(status.code)) this.#logger.error({ err: error }, 'edit failed')
    return status
  }
}

function tooMuch(message: string, cure: string): WireError {
  return new WireError({ code: 'RESOURCE_EXHAUSTED', message, cure })
}

async function encode(
  picture: Picture,
  { format, ...options }: PictureWish & { fast?: boolean },
): Promise<PictureFile> {
  return { format: pictureFormats[format], data: await encodePicture(picture, { format, ...options }) }
}
