// What an application hears of an edit: the wire's events as a discriminated union, with numbers and errors of its own.
// The protocol is proto/flexit/v1/editor.proto.

import type { PictureFormat } from '../engine/encode.js'
import type { EditParameters } from '../engine/parameters.js'
import { checkLatent, decodeLatent, knownParameters } from '../proto/codec.js'
import { known, pictureFormats } from '../proto/enums.js'
import type { EditEvent, Latent, PictureFile, ResumePoint } from '../proto/messages.js'
import { WireError, fromStatus } from '../proto/status.js'

/** A picture file. */
export interface EncodedPicture {
  readonly format: PictureFormat
  readonly data: Uint8Array
}

/** From where an edit can go on: before step `step`. */
export interface EditPoint {
  readonly step: number
  /** [C, h, w]; undefined before the first step. */
  readonly latent: Float32Array | undefined
  readonly shape: readonly number[]
  readonly packDigest: string
}

export interface AcceptedEvent {
  readonly kind: 'accepted'
  readonly uid: string
  readonly position: number
  readonly estimatedStartMs: number | undefined
  readonly estimatedDurationMs: number | undefined
  readonly parameters: Partial<EditParameters>
}

export interface StepEvent {
  readonly kind: 'step'
  /** The number of the latent that the losses and the preview are of. */
  readonly step: number
  readonly losses: {
    readonly total: number
    readonly clip: number
    readonly lpips: number | undefined
    readonly latent: number | undefined
  }
  readonly similaritySource: number
  readonly similarityTarget: number
  readonly preview: EncodedPicture | undefined
  /** Where latents were asked for. */
  readonly point: EditPoint | undefined
  /** Previews that were left out since the last event, because the application was behind. */
  readonly droppedPreviews: number
}

export interface CompletedEvent {
  readonly kind: 'completed'
  readonly picture: EncodedPicture
  readonly point: EditPoint
  readonly statistics: { readonly steps: number; readonly queueMs: number; readonly runMs: number }
}

export interface StartedEvent {
  readonly kind: 'started'
}

export interface WarningEvent {
  readonly kind: 'warning'
  readonly message: string
}

export interface UpdatedEvent {
  readonly kind: 'updated'
  readonly target: string
  readonly parameters: Partial<EditParameters>
}

/** An update, or the step of `acceptAt`, was wrong and changed nothing. */
export interface RejectedEvent {
  readonly kind: 'rejected'
  readonly error: WireError
}

/** The connection was lost, or the server went away: the edit goes on from step `step`. */
export interface ResumedEvent {
  readonly kind: 'resumed'
  readonly step: number
}

export interface CancelledEvent {
  readonly kind: 'cancelled'
  readonly point: EditPoint | undefined
}

export interface FailedEvent {
  readonly kind: 'failed'
  readonly error: WireError
  readonly point: EditPoint | undefined
}

/** What comes last. */
export type TerminalEvent = CompletedEvent | CancelledEvent | FailedEvent

export type ClientEvent =
  AcceptedEvent | StartedEvent | StepEvent | WarningEvent | UpdatedEvent | RejectedEvent | ResumedEvent | TerminalEvent

/**
 * The event of a message; undefined for one of a kind that this version does not know, and for `handed_back`, which is
 * the library's own affair. `droppedBefore` is the count of the event before. Errors: DATA_LOSS (what cannot be read).
 */
export function toClientEvent(event: EditEvent, droppedBefore: number): ClientEvent | undefined {
  const { accepted, started, step, warning, updated, rejected, completed, cancelled, failed } = event
  if (accepted !== undefined) {
    const { uid, position, estimatedStartMs, estimatedDurationMs } = accepted
    const parameters = knownParameters(accepted.parameters)
    return { kind: 'accepted', uid, position, estimatedStartMs, estimatedDurationMs, parameters }
  }
  if (started !== undefined) return { kind: 'started' }
  if (step !== undefined) {
    const { losses, similaritySource, similarityTarget, preview, resumePoint } = step
    const { total = NaN, clip = NaN, lpips, latent } = losses ?? {}
    return {
      kind: 'step',
      step: step.step,
      losses: { total, clip, lpips, latent },
      similaritySource,
      similarityTarget,
      preview: toPicture(preview),
      point: toPoint(resumePoint),
      droppedPreviews: Math.max(0, event.droppedPreviews - droppedBefore),
    }
  }
  if (warning !== undefined) return { kind: 'warning', message: warning.message }
  if (updated !== undefined) {
    return { kind: 'updated', target: updated.targetText, parameters: knownParameters(updated.parameters) }
  }
  if (rejected?.status != null) return { kind: 'rejected', error: fromStatus(rejected.status) }
  if (completed !== undefined) {
    const [picture, point] = [toPicture(completed.picture), toPoint(completed.resumePoint)]
    const { statistics } = completed
    if (picture === undefined || point === undefined || statistics == null)
      throw unreadable('a result without its parts')
    return { kind: 'completed', picture, point, statistics }
  }
  if (cancelled !== undefined) return { kind: 'cancelled', point: toPoint(cancelled.resumePoint) }
  if (failed?.status != null) {
    return { kind: 'failed', error: fromStatus(failed.status), point: toPoint(failed.resumePoint) }
  }
  return undefined
}

export function isTerminal(event: ClientEvent): event is TerminalEvent {
  return event.kind === 'completed' || event.kind === 'cancelled' || event.kind === 'failed'
}

function toPicture(file: PictureFile | null | undefined): EncodedPicture | undefined {
  const format = known(pictureFormats, file?.format)
  return file == null || format === undefined ? undefined : { format, data: file.data }
}

/** Errors: DATA_LOSS (a latent of another size than it says). */
export function toPoint(point: ResumePoint | null | undefined): EditPoint | undefined {
  if (point == null) return undefined
  const { step, latent, packDigest } = point
  return {
    step,
    packDigest,
    shape: latent?.shape ?? [],
    latent: latent == null ? undefined : received(latent, decodeLatent),
  }
}

/** Errors: DATA_LOSS, as those of `toPoint`. */
export function checkPoint(point: ResumePoint | null | undefined): void {
  if (point?.latent != null) received(point.latent, checkLatent)
}

function received<T>(latent: Latent, read: (latent: Latent) => T): T {
  try {
    return read(latent)
  } catch (cause) {
    throw unreadable((cause as Error).message, cause)
  }
}

function unreadable(what: string, cause?: unknown): WireError {
  const message = `the server sent what cannot be read: ${what}`
  return new WireError({ code: 'DATA_LOSS', message, cure: 'Tell who runs the server.', cause })
}
