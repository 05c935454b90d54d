// What an application asks for, and its form on the wire.
// The protocol is proto/flexit/v1/editor.proto; limits and defaults are the server's.

import type { PictureFormat } from '../engine/encode.js'
import type { EditParameters, GivenParameters } from '../engine/parameters.js'
import { encodeLatent, encodeParameters } from '../proto/codec.js'
import { numberTypes, pictureFormats, priorities } from '../proto/enums.js'
import type { Parameters, PictureOptions, ResumePoint, StartEdit, StreamOptions } from '../proto/messages.js'
import { WireError } from '../proto/status.js'
import type { EditPoint } from './events.js'

export interface PictureRequest {
  readonly format?: PictureFormat | undefined
  /** 1 to 100, for WebP and JPEG. Default 90. */
  readonly quality?: number | undefined
  /** Pixels of a side. Default: the pack's. */
  readonly size?: number | undefined
}

export interface ClientEditRequest {
  /** Bytes of a picture file. */
  readonly image: Uint8Array
  readonly source: string
  readonly target: string
  /** What is left out comes from the pack. */
  readonly parameters?: GivenParameters | undefined
  /** Go on from here, with the same picture, texts and parameters. */
  readonly resumeFrom?: EditPoint | undefined
  /**
   * 1 to 120 of A-Z a-z 0-9 . _ : -. Default: a new one. Started anew, on servers it has the ids `ID:1`, `ID:2`, …: give
   * them to no other edit.
   */
  readonly id?: string | undefined
  /** Name of the pack. Default: the server's. */
  readonly pack?: string | undefined
  /** Losses of every n-th step; 0: none. Default 1. */
  readonly stepEvery?: number | undefined
  /** Previews of every n-th step (default 1), as JPEG unless said otherwise. Default: none. */
  readonly previews?: (PictureRequest & { readonly every?: number | undefined }) | undefined
  /** Latents after every n-th step (default 1); lossless ones make the edit wait for the application. Default: none. */
  readonly latents?:
    | {
        readonly every?: number | undefined
        readonly type?: 'float32' | 'float16' | undefined
        readonly lossless?: boolean | undefined
      }
    | undefined
  /** The final picture: PNG unless said otherwise. */
  readonly result?: PictureRequest | undefined
  /** Bytes on the way that the application has not dealt with. Default 4 MiB. */
  readonly windowBytes?: number | undefined
  readonly priority?: 'interactive' | 'normal' | 'batch' | undefined
  readonly deadlineMs?: number | undefined
  /** Let the edit end though this program is gone: `FlexitClient.attach` gives its events and its result, by its id. */
  readonly runOn?: boolean | undefined
  /** Cancels the edit, as `EditRun.cancel` does. Aborted before: nothing is sent. */
  readonly signal?: AbortSignal | undefined
}

/** Steps between two latents that the library asks for, to go on from, where the application wants none. */
const resumeEvery = 8

/** Shorter than the server's limit: the library adds `:1`, `:2`, … to it where it starts the edit anew. */
const idPattern = /^[\w.:-]{1,120}$/

/** What is wrong with the id of an edit: INVALID_ARGUMENT, or undefined. */
export function wrongId(id: string): WireError | undefined {
  if (idPattern.test(id)) return undefined
  const message = 'the edit id has characters that are not allowed, or too many'
  const cure = 'Use 1 to 120 of A-Z a-z 0-9 . _ : -, or leave it out.'
  return new WireError({ code: 'INVALID_ARGUMENT', field: 'id', message, cure })
}

export function toStartEdit(request: ClientEditRequest): StartEdit {
  const { image, source, target, parameters, resumeFrom, pack = '', priority, deadlineMs, runOn = false } = request
  return {
    pack,
    image,
    sourceText: source,
    targetText: target,
    parameters: toParameters(parameters ?? {}),
    resumeFrom: resumeFrom === undefined ? null : toResumePoint(resumeFrom),
    stream: toStreamOptions(request),
    ...(priority === undefined ? {} : { priority: priorities[priority] }),
    deadlineMs: toDeadline(deadlineMs),
    runOn,
  }
}

export function toParameters(given: GivenParameters): Parameters {
  // On the wire what is undefined is not set.
  return encodeParameters(given as Partial<EditParameters>)
}

/** As a uint32; undefined for none. */
export function toDeadline(ms = Infinity): number | undefined {
  return ms === Infinity ? undefined : Math.min(Math.max(1, Math.round(ms)), 2 ** 32 - 1)
}

function toResumePoint({ step, latent, shape, packDigest }: EditPoint): ResumePoint {
  return {
    step,
    packDigest,
    // Before the first step it is the encoded picture.
    latent: latent === undefined || step === 0 ? null : encodeLatent(latent, shape, 'NUMBER_TYPE_FLOAT32'),
  }
}

function toStreamOptions({ stepEvery, previews, latents, result, windowBytes }: ClientEditRequest): StreamOptions {
  const { every, type = 'float32', lossless = false } = latents ?? { every: resumeEvery }
  return {
    stepEvery,
    previews: previews === undefined ? null : { every: previews.every, picture: toPictureOptions(previews) },
    latents: { every, type: numberTypes[type], lossless },
    result: result === undefined ? null : toPictureOptions(result),
    windowBytes,
  }
}

function toPictureOptions({ format, quality, size }: PictureRequest): PictureOptions {
  return { ...(format === undefined ? {} : { format: pictureFormats[format] }), quality, size }
}
