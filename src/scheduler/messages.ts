// Messages between a device (worker-device.ts) and its thread (worker.ts). Plain data: structured clones lose classes.
// https://developer.mozilla.org/en-US/docs/Web/API/Web_Workers_API/Structured_clone_algorithm

import type { StepReport } from '../engine/edit.js'
import { type ErrorCode, FlexitError } from '../engine/errors.js'
import type { GivenParameters } from '../engine/parameters.js'
import type { Picture } from '../engine/picture.js'
import type { Device } from '../engine/runtime.js'
import type { DeviceBatch } from './device.js'

/** What a thread is to be. */
export interface WorkerSetup {
  readonly device: Device
  readonly threads: number
  /** Folders of the packs that it serves. */
  readonly packs: readonly string[]
  readonly cacheFolder: string
  /** What edits will mostly ask for, to be made ready. Default: what each pack has where nothing is asked for. */
  readonly usual?: GivenParameters | undefined
}

export interface WorkerData extends WorkerSetup {
  /** Shared, one element: not 0 asks the thread to end itself where it next runs JavaScript. */
  readonly killSwitch: Int32Array
}

export type Task =
  /** Open the packs and make the sessions of their usual parameters ready. */
  | { readonly kind: 'open' }
  | { readonly kind: 'run'; readonly batch: DeviceBatch }
  /** Nothing: to have a look at the kill switch. */
  | { readonly kind: 'wake' }
  | { readonly kind: 'close' }

export type Reply =
  | { readonly kind: 'ready' }
  | { readonly kind: 'failed'; readonly error: ErrorData }
  | {
      readonly kind: 'done'
      readonly results: readonly ItemReply[]
      readonly stepMs: number
      readonly prepareMs: number
      readonly measured: boolean
    }
  | { readonly kind: 'out-of-memory'; readonly error: ErrorData }

export type ItemReply =
  | {
      readonly kind: 'stepped'
      readonly id: number
      /** Without a failure: that is an item that failed. */
      readonly report: StepReport & { readonly failure: undefined }
      readonly z: Float32Array
      readonly warnings: readonly string[] | undefined
    }
  | { readonly kind: 'drawn'; readonly id: number; readonly picture: Picture; readonly z: Float32Array }
  | { readonly kind: 'failed'; readonly id: number; readonly error: ErrorData }
  | { readonly kind: 'unknown'; readonly id: number }

/** Sent at any time: the thread begins something that takes long. */
export interface ProgressMessage {
  readonly doing: string
}

/** A FlexitError as plain data. */
export interface ErrorData {
  readonly code: ErrorCode
  readonly message: string
  readonly cure: string | undefined
  readonly field: string | undefined
}

export function errorToData(error: unknown): ErrorData {
  if (error instanceof FlexitError) {
    const { code, message, cure, field } = error
    return { code, message, cure, field }
  }
  const message = error instanceof Error ? error.message : String(error)
  return { code: 'INTERNAL', message, cure: undefined, field: undefined }
}

export function errorFromData({ code, message, cure, field }: ErrorData): FlexitError {
  return new FlexitError({
    code,
    message,
    ...(cure === undefined ? {} : { cure }),
    ...(field === undefined ? {} : { field }),
  })
}
