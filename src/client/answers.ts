// What servers say of themselves and of edits, in the program's forms.
// The protocol is proto/flexit/v1/editor.proto.

import type { EditParameters } from '../engine/parameters.js'
import { knownParameters } from '../proto/codec.js'
import type * as wire from '../proto/messages.js'

/** `handed_back`: its server went away; `unknown`: a newer server says what this version does not know. */
export type EditStatus =
  'pending' | 'running' | 'paused' | 'completed' | 'cancelled' | 'failed' | 'handed_back' | 'unknown'

/** How an edit stands. */
export interface EditSummary {
  readonly editId: string
  /** Names this edit for ever; its id may be used again after it is forgotten. */
  readonly uid: string
  readonly status: EditStatus
  /** Steps taken, of `steps`. */
  readonly step: number
  readonly steps: number
  /** Number of its last event. */
  readonly sequence: number
  /** Milliseconds since 1970. */
  readonly createTimeMs: number
}

export interface ServerInfo {
  readonly version: string
  /** The usual one first. */
  readonly packs: readonly PackInfo[]
  /** `cpu`, `cpu:1`, `cuda:0`. */
  readonly devices: readonly string[]
  readonly limits: ServerLimits
  /** It takes no new edits. */
  readonly draining: boolean
}

export interface PackInfo {
  readonly name: string
  readonly digest: string
  /** Pixels of a side. */
  readonly imageSize: number
  readonly networks: readonly string[]
  /** [C, h, w] of the latent; [3, imageSize, imageSize] in the space `pixels`. */
  readonly latentShape: readonly number[]
  /** What an edit has that sets none. */
  readonly defaultParameters: Partial<EditParameters>
  /** CSS colour that transparent pictures are laid on. */
  readonly imageBackground: string
}

/** Past those of edits a start is refused: RESOURCE_EXHAUSTED. */
export interface ServerLimits {
  readonly imageBytes: number
  /** Width × height. */
  readonly imagePixels: number
  /** Characters of a text. */
  readonly textLength: number
  readonly steps: number
  /** That have not ended, for the stream to start another one. */
  readonly editsPerStream: number
  readonly windowBytes: number
  /** So long an edit whose client cannot be reached goes on. */
  readonly disconnectGraceMs: number
  /** That have not ended, in all. */
  readonly edits: number
  readonly editsPerTenant: number
  /** Before their first step, in all. */
  readonly waitingEdits: number
  readonly waitingEditsPerTenant: number
  /** Of the requests of waiting edits, in all. */
  readonly waitingBytes: number
  readonly waitingBytesPerTenant: number
  /** That take a step together. */
  readonly batch: number
  /** A stream without edits and commands ends after so long; 0: never. This library opens another one. */
  readonly idleStreamMs: number
}

const statuses: Readonly<Partial<Record<wire.EditStatus, EditStatus>>> = {
  EDIT_STATUS_PENDING: 'pending',
  EDIT_STATUS_RUNNING: 'running',
  EDIT_STATUS_PAUSED: 'paused',
  EDIT_STATUS_COMPLETED: 'completed',
  EDIT_STATUS_CANCELLED: 'cancelled',
  EDIT_STATUS_FAILED: 'failed',
  EDIT_STATUS_HANDED_BACK: 'handed_back',
}

export function toSummary(summary: wire.EditSummary): EditSummary {
  return { ...summary, status: statuses[summary.status] ?? 'unknown' }
}

export function toServerInfo(info: wire.ServerInfo): ServerInfo {
  const packs = info.packs.map((pack) => ({ ...pack, defaultParameters: knownParameters(pack.defaultParameters) }))
  return { ...info, packs, limits: info.limits! }
}
