// Where edits are admitted and found: the one place that knows the scheduler, the pack and all sessions.
// Admission comes before any picture is decoded.

import { randomUUID } from 'node:crypto'
import type { Metadata } from '@grpc/grpc-js'
import { FlexitError, invalidArgument } from '../engine/errors.js'
import type { Pack } from '../engine/pack/pack.js'
import type { StartEdit } from '../proto/messages.js'
import { WireError } from '../proto/status.js'
import { AdmissionError, type SchedulerApi } from '../scheduler/api.js'
import type { Tenants } from './auth.js'
import type { Logger } from './logger.js'
import type { Metrics } from './metrics.js'
import type { ServerOptions } from './options.js'
import { Registry, maxIdLength } from './registry.js'
import { Session } from './session.js'
import { planStart } from './start-request.js'
import type { Tracing } from './tracing.js'

export interface DeskSetup {
  readonly scheduler: SchedulerApi
  /** The first is the usual one. */
  readonly packs: readonly Pack[]
  readonly tenants: Tenants
  readonly options: ServerOptions
  readonly metrics: Metrics
  readonly logger: Logger
  readonly tracing: Tracing | undefined
}

const idPattern = /^[\w.:-]+$/

/** How long a client is to wait where nothing tells how long it takes: before it turns to another stream, or server. */
const retryAfterMs = 1000
/** Behind a load balancer the next try is likely with another one. */
const goingAwayRetryMs = 250

export class EditDesk {
  readonly registry: Registry
  readonly #setup: DeskSetup
  readonly #drainListeners = new Set<() => void>()
  readonly #endListeners = new Set<() => void>()
  #count = 0
  #draining = false

  constructor(setup: DeskSetup) {
    this.#setup = setup
    this.registry = new Registry(setup.options)
  }

  get draining(): boolean {
    return this.#draining
  }

  /** An id for a new edit: the one that is wanted, or one of our own. Errors: INVALID_ARGUMENT, ALREADY_EXISTS. */
  newId(tenant: string, wanted: string): string {
    if (wanted === '') return randomUUID()
    if (wanted.length > maxIdLength || !idPattern.test(wanted)) throw wrongId()
    if (this.registry.find(tenant, wanted) === undefined) return wanted
    throw new WireError({
      code: 'ALREADY_EXISTS',
      message: `there is an edit "${wanted}" already`,
      cure: 'Choose another id, or attach to that edit.',
      resource: { type: 'edit', name: wanted },
    })
  }

  /**
   * Admit an edit and set it going. `id` comes from `newId`, `metadata` from the call.
   * Errors: those of `planStart` and `SchedulerApi.admit`, UNAVAILABLE (draining).
   */
  start(tenant: string, id: string, request: StartEdit, metadata: Metadata): Session {
    const { scheduler, packs, tenants, options, metrics, logger, tracing } = this.#setup
    const trace = tracing?.edit(id, tenant, metadata)
    try {
      if (this.#draining) {
        throw goingAway('the server is going away and takes no new edits', 'Try again on another server.')
      }
      const { plan: asked, load } = planStart(request, packs, options)
      const plan = { ...asked, priority: tenants.priorityOf(tenant, asked.priority) }
      const { priority, bytes, steps, key, underWayMs, begun, deadlineMs } = plan
      const ticket = scheduler.admit({
        tenant,
        priority,
        bytes,
        steps,
        key,
        underWayMs,
        begun,
        ...(deadlineMs === undefined ? {} : { deadlineMs }),
      })
      const { disconnectGraceMs } = options
      const onEnd = (ended: Session) => {
        this.registry.finish(ended)
        for (const listener of this.#endListeners) listener()
      }
      const index = this.#count++
      const common = { scheduler, metrics, logger, disconnectGraceMs, trace, onEnd }
      const session = new Session({ id, index, tenant, plan, ...common }, ticket, load)
      this.registry.add(session)
      return session
    } catch (error) {
      this.#refuse(tenant, id, refusalReason(error))
      trace?.refused(refusalReason(error))
      throw error
    }
  }

  /**
   * Errors: UNAVAILABLE where the connection of the stream is to end (`leaving`); RESOURCE_EXHAUSTED where one that has
   * `count` edits under way may not have another.
   */
  checkStream(
    tenant: string,
    id: string,
    { count, leaving }: { readonly count: number; readonly leaving: boolean },
  ): void {
    const { maxEditsPerStream } = this.#setup.options
    if (leaving) {
      this.#refuse(tenant, id, 'connection_age')
      throw goingAway('the connection has reached its age and takes no new edits', 'Open a new stream.')
    }
    if (count < maxEditsPerStream) return
    this.#refuse(tenant, id, 'edits_of_this_stream')
    throw new WireError({
      code: 'RESOURCE_EXHAUSTED',
      message: `the stream has ${maxEditsPerStream} edits that have not ended`,
      cure: 'Wait for one of them, or open another stream.',
      retryAfterMs,
    })
  }

  #refuse(tenant: string, editId: string, reason: string): void {
    this.#setup.metrics.rejected.inc({ reason })
    this.#setup.logger.info({ editId, tenant, reason }, 'edit refused')
  }

  /** Call `listener` when the server begins to drain. Returns how to stop. */
  onDraining(listener: () => void): () => void {
    this.#drainListeners.add(listener)
    return () => this.#drainListeners.delete(listener)
  }

  /** Admit nothing more. Resolves when the last edit has ended, or after `limitMs`; with whether all have ended. */
  async drain(limitMs: number): Promise<boolean> {
    this.#draining = true
    for (const listener of this.#drainListeners) listener()
    return this.ended(limitMs)
  }

  /** Resolves when no edit is under way, or after `limitMs`; with whether none is. */
  async ended(limitMs: number): Promise<boolean> {
    const none = () => this.registry.live.length === 0
    if (none()) return true
    return new Promise((resolve) => {
      const finish = () => {
        if (!none() && !late) return
        clearTimeout(timer)
        this.#endListeners.delete(finish)
        resolve(none())
      }
      let late = false
      const timer = setTimeout(() => {
        late = true
        finish()
      }, limitMs)
      this.#endListeners.add(finish)
    })
  }
}

/** An id that no edit can have. */
export function wrongId(): FlexitError {
  const cure = `Use 1 to ${maxIdLength} of A-Z a-z 0-9 . _ : -, or leave it empty.`
  return invalidArgument('edit_id', 'the edit id has characters that are not allowed, or too many', cure)
}

/** A word for metrics and logs. */
function refusalReason(error: unknown): string {
  if (error instanceof AdmissionError) return error.reason.replaceAll(' ', '_')
  return error instanceof FlexitError ? error.code.toLowerCase() : 'internal'
}

/** An error that is told with a new edit, where others that are under way may still end. */
function goingAway(message: string, cure: string): AdmissionError {
  return new AdmissionError({ code: 'UNAVAILABLE', reason: 'draining', message, cure, retryAfterMs: goingAwayRetryMs })
}
