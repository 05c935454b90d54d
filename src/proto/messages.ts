// The messages of proto/flexit/v1 and google/rpc as they are sent and received. What they mean is said there.
// As in proto3, a field that is left out when sending has its default; `?` marks those that are also left out on receipt.

import type { status } from '@grpc/grpc-js'

export type PresetName = 'PRESET_UNSPECIFIED' | 'PRESET_PAPER' | 'PRESET_REFERENCE'
export type SpaceName = 'SPACE_UNSPECIFIED' | 'SPACE_LATENT' | 'SPACE_PIXELS'
export type NumberType = 'NUMBER_TYPE_UNSPECIFIED' | 'NUMBER_TYPE_FLOAT32' | 'NUMBER_TYPE_FLOAT16'
export type PictureFormatName =
  'PICTURE_FORMAT_UNSPECIFIED' | 'PICTURE_FORMAT_PNG' | 'PICTURE_FORMAT_WEBP' | 'PICTURE_FORMAT_JPEG'
export type PriorityName = 'PRIORITY_UNSPECIFIED' | 'PRIORITY_INTERACTIVE' | 'PRIORITY_NORMAL' | 'PRIORITY_BATCH'
export type EditStatus =
  | 'EDIT_STATUS_UNSPECIFIED'
  | 'EDIT_STATUS_PENDING'
  | 'EDIT_STATUS_RUNNING'
  | 'EDIT_STATUS_PAUSED'
  | 'EDIT_STATUS_COMPLETED'
  | 'EDIT_STATUS_CANCELLED'
  | 'EDIT_STATUS_FAILED'
  | 'EDIT_STATUS_HANDED_BACK'

export interface Parameters {
  preset?: PresetName
  space?: SpaceName
  steps?: number | undefined
  learningRate?: number | undefined
  lambdaP?: number | undefined
  lambdaZ?: number | undefined
  lambdaS?: number | undefined
  lambdaI?: number | undefined
  networks?: string[]
  views?: number | undefined
  seed?: number | undefined
}

export interface Latent {
  shape: number[]
  type: NumberType
  data: Uint8Array
}

export interface ResumePoint {
  step: number
  latent?: Latent | null
  packDigest: string
}

export interface EditState {
  image: Uint8Array
  sourceText: string
  targetText: string
  parameters: Parameters | null
  resumePoint: ResumePoint | null
}

export interface PictureFile {
  format: PictureFormatName
  data: Uint8Array
}

export interface PictureOptions {
  format?: PictureFormatName
  quality?: number | undefined
  size?: number | undefined
}

export interface StreamOptions {
  stepEvery?: number | undefined
  previews?: { every?: number | undefined; picture?: PictureOptions | null } | null
  latents?: { every?: number | undefined; type?: NumberType; lossless?: boolean } | null
  result?: PictureOptions | null
  windowBytes?: number | undefined
}

export interface StartEdit {
  pack?: string
  image: Uint8Array
  sourceText: string
  targetText: string
  parameters?: Parameters | null
  resumeFrom?: ResumePoint | null
  stream?: StreamOptions | null
  priority?: PriorityName
  deadlineMs?: number | undefined
  runOn?: boolean
  underWayMs?: number
  begun?: boolean
}

/** A command: besides the edit's id, one of the others. */
export interface EditRequest {
  editId?: string
  start?: StartEdit
  attach?: { afterSequence?: number; uid?: string }
  cancel?: object
  accept?: { step?: number | undefined }
  pause?: object
  resume?: object
  update?: UpdateCommand
  acknowledge?: { sequence: number }
  ping?: { everyMs?: number }
}

export interface UpdateCommand {
  targetText?: string | undefined
  parameters?: Parameters | null
  number?: number
}

export interface Accepted {
  uid: string
  position: number
  estimatedStartMs?: number | undefined
  estimatedDurationMs?: number | undefined
  parameters: Parameters | null
}

export interface StepTaken {
  step: number
  losses: { total: number; clip: number; lpips?: number | undefined; latent?: number | undefined } | null
  similaritySource: number
  similarityTarget: number
  preview?: PictureFile | null
  resumePoint?: ResumePoint | null
}

export interface Completed {
  picture: PictureFile | null
  resumePoint: ResumePoint | null
  statistics: { steps: number; queueMs: number; runMs: number } | null
}

/** What happened: one of these. */
export interface EventBody {
  accepted?: Accepted
  started?: object
  step?: StepTaken
  warning?: { message: string }
  updated?: { targetText: string; parameters: Parameters | null; number?: number; resumePoint?: ResumePoint | null }
  rejected?: { status: Status | null; updateNumber?: number }
  completed?: Completed
  cancelled?: { resumePoint?: ResumePoint | null; abandoned?: boolean }
  failed?: { status: Status | null; resumePoint?: ResumePoint | null }
  handedBack?: { state: EditState | null }
  pong?: object
}

export interface EditEvent extends EventBody {
  editId: string
  sequence: number
  droppedPreviews: number
}

export interface RunEditRequest {
  editId?: string
  start: StartEdit | null
}

export interface AttachRequest {
  editId: string
  afterSequence?: number
}

export interface CancelEditRequest {
  editId: string
  uid?: string
}

export interface GetEditRequest {
  editId: string
}

export interface ListEditsRequest {
  states?: EditStatus[]
  pageSize?: number
  pageToken?: string
}

export interface ListEditsResponse {
  edits: EditSummary[]
  nextPageToken: string
}

export interface EditSummary {
  editId: string
  uid: string
  status: EditStatus
  step: number
  steps: number
  sequence: number
  createTimeMs: number
}

export interface ServerInfo {
  version: string
  packs: PackInfo[]
  devices: string[]
  limits: ServerLimits | null
  draining: boolean
}

export interface PackInfo {
  name: string
  digest: string
  imageSize: number
  networks: string[]
  latentShape: number[]
  defaultParameters: Parameters | null
  imageBackground: string
}

export interface ServerLimits {
  imageBytes: number
  imagePixels: number
  textLength: number
  steps: number
  editsPerStream: number
  windowBytes: number
  disconnectGraceMs: number
  edits: number
  editsPerTenant: number
  waitingEdits: number
  waitingEditsPerTenant: number
  waitingBytes: number
  waitingBytesPerTenant: number
  batch: number
  idleStreamMs: number
}

/** `google.rpc.Status`. */
export interface Status {
  code: status
  message: string
  /** `google.protobuf.Any`, whose field names are not put into camel case. */
  details: { type_url: string; value: Uint8Array }[]
}
