// A wish to start an edit, checked and with its defaults: everything that can be known before its picture is decoded.
// The rules are those of StartEdit in proto/flexit/v1/editor.proto.

import type { EditState } from '../engine/edit.js'
import type { PictureFormat } from '../engine/encode.js'
import { clipped, invalidArgument, quoted } from '../engine/errors.js'
import type { Pack } from '../engine/pack/pack.js'
import { type EditParameters, checkText, lengthOf, resolveParameters } from '../engine/parameters.js'
import { readPicture } from '../engine/picture.js'
import { variableShape } from '../engine/step-graph.js'
import { decodeLatent, decodeParameters } from '../proto/codec.js'
import { named, numberTypes, pictureFormats, priorities } from '../proto/enums.js'
import type { NumberType, Parameters, PictureOptions, StartEdit } from '../proto/messages.js'
import { WireError } from '../proto/status.js'
import { type Priority, graphKey } from '../scheduler/api.js'
import type { ServerOptions } from './options.js'

export interface PictureWish {
  readonly format: PictureFormat
  readonly quality?: number
  readonly size?: number
}

/** What is sent of an edit. 0 of `…Every`: nothing. */
export interface StreamWish {
  readonly stepEvery: number
  readonly previewEvery: number
  readonly preview: PictureWish
  readonly latentEvery: number
  readonly latentType: NumberType
  readonly lossless: boolean
  readonly result: PictureWish
  readonly windowBytes: number
}

export interface StartPlan {
  /** Its name. */
  readonly pack: string
  readonly parameters: EditParameters
  /** Of its pack and graph, for the scheduler. */
  readonly key: string
  readonly stream: StreamWish
  readonly priority: Priority
  readonly deadlineMs: number | undefined
  readonly runOn: boolean
  /** Since the client first asked for it. */
  readonly underWayMs: number
  /** Another server had begun it. */
  readonly begun: boolean
  /** Bytes that the request holds until its edit starts. */
  readonly bytes: number
  readonly firstStep: number
  /** Steps that are left to take. */
  readonly steps: number
  /** [C, h, w] of a latent of its pack. */
  readonly shapeOf: (space: EditParameters['space']) => readonly number[]
}

/** Decode the picture and put the state together. Errors: INVALID_ARGUMENT, RESOURCE_EXHAUSTED. */
export type LoadState = () => Promise<EditState>

const leastWindowBytes = 64 * 1024
/** As far as an edit from elsewhere may come before others. */
const mostUnderWayMs = 3_600_000
const usualWindowBytes = 4 * 1024 ** 2

/** Check a request. The first of `packs` is the usual one. Errors: INVALID_ARGUMENT (the field), NOT_FOUND (the pack). */
export function planStart(
  request: StartEdit,
  packs: readonly Pack[],
  options: ServerOptions,
): { readonly plan: StartPlan; readonly load: LoadState } {
  const { image, sourceText, targetText, resumeFrom } = request
  const pack = choosePack(request, packs)
  if (image.length === 0)
    throw invalidArgument('image', 'the request has no image', 'Send the bytes of a picture file.')
  if (image.length > options.maxImageBytes) {
    const message = `the image has ${image.length} bytes, at most ${options.maxImageBytes} are taken`
    throw invalidArgument('image', message, 'Send it smaller: the networks see a few hundred pixels.')
  }
  checkLength(sourceText, 'source', options)
  checkLength(targetText, 'target', options)
  const given = decodeParameters(request.parameters)
  checkSteps(given, options)
  const parameters = resolveParameters(given, pack)
  checkSteps(parameters, options)
  const stream = streamWish(request.stream, options)
  if (request.runOn === true && stream.lossless) {
    const cure = 'Leave one of them out: without a reader, lossless latents would make the edit wait for ever.'
    throw invalidArgument('run_on', 'run_on cannot be together with lossless latents', cure)
  }

  const shape = variableShape(pack, parameters.space)
  const step = resumeFrom?.step ?? 0
  const z = resumeFrom?.latent == null ? undefined : resumeLatent(resumeFrom.latent, shape)
  if (step > 0 && z === undefined) {
    throw invalidArgument('resume_from.latent', 'resume_from has a step but no latent', 'Send both, or none.')
  }
  if (step === 0 && z !== undefined) {
    throw invalidArgument('resume_from.step', 'resume_from has a latent but no step', 'Send both, or none.')
  }
  if (step > parameters.steps) {
    const message = `resume_from.step is ${step}, but the edit has ${parameters.steps} steps`
    throw invalidArgument('resume_from.step', message, 'Ask for at least as many steps as were taken.')
  }
  const digest = digestOf(request)
  if (digest !== '' && digest !== pack.digest) {
    const message = `the state belongs to another pack, or to another version of ${pack.manifest.name}`
    throw invalidArgument('resume_from.pack_digest', message, 'Resume it on a server with the pack that made it.')
  }
  const plan: StartPlan = {
    pack: pack.manifest.name,
    parameters,
    key: graphKey(pack.digest, parameters),
    stream,
    priority: named('priority', priorities, request.priority) ?? 'normal',
    deadlineMs: request.deadlineMs,
    runOn: request.runOn ?? false,
    underWayMs: Math.min(request.underWayMs ?? 0, mostUnderWayMs),
    begun: step > 0 || (request.begun ?? false),
    bytes: image.length + (z?.byteLength ?? 0),
    firstStep: step,
    steps: parameters.steps - step,
    shapeOf: shapesOf(pack),
  }
  const load: LoadState = async () => {
    const { size, background } = pack.manifest.image
    const limits = { maxBytes: options.maxImageBytes, maxPixels: options.maxImagePixels, svg: false }
    const picture = await readPicture(image, { height: size, width: size, background, ...limits })
    return { pack: pack.digest, parameters, source: sourceText, target: targetText, picture, step, z }
  }
  return { plan, load }
}

/** On its own: a function made beside the request would keep its image for as long as the edit is known. */
function shapesOf(pack: Pack): StartPlan['shapeOf'] {
  return (space) => variableShape(pack, space)
}

/** The change that an update asks for. Errors: INVALID_ARGUMENT. */
export function planUpdate(
  targetText: string | undefined,
  parameters: Parameters | null | undefined,
  options: ServerOptions,
): { target?: string; parameters?: Partial<EditParameters> } {
  if (targetText !== undefined) checkLength(targetText, 'target', options)
  const given = decodeParameters(parameters)
  checkSteps(given, options)
  return { ...(targetText === undefined ? {} : { target: targetText }), parameters: given }
}

/** Of the pack that made the state to go on from, or nothing. Errors: INVALID_ARGUMENT. */
function digestOf({ resumeFrom }: StartEdit): string {
  const digest = (resumeFrom?.packDigest ?? '').toLowerCase()
  if (/^(?:[0-9a-f]{64})?$/.test(digest)) return digest
  const cure = 'Send what came with the latent, or leave it out.'
  throw invalidArgument('resume_from.pack_digest', 'resume_from.pack_digest is not 64 hex digits', cure)
}

/** The pack that is named, or else the one that the state to go on from belongs to, or else the usual one. */
function choosePack(request: StartEdit, packs: readonly Pack[]): Pack {
  const { pack: name = '' } = request
  const asked = digestOf(request)
  const wanted = ({ manifest, digest }: Pack) => (name === '' ? digest === asked : manifest.name === name)
  const found = packs.find(wanted) ?? (name === '' ? packs[0] : undefined)
  if (found !== undefined) return found
  throw new WireError({
    code: 'NOT_FOUND',
    message: `the pack ${quoted(name)} is not served here`,
    cure: `Use ${packs.map(({ manifest }) => manifest.name).join(' or ')}, or leave it out.`,
    field: 'pack',
    resource: { type: 'pack', name: clipped(name) },
  })
}

function checkLength(text: string, field: 'source' | 'target', { maxTextLength }: ServerOptions): void {
  checkText(text, field)
  if (text.includes('\ufffd')) {
    // What a decoder makes of bytes that are no UTF-8: protobuf's strings have to be.
    throw invalidArgument(field, `the ${field} text has bytes that are no UTF-8`, 'Send it as UTF-8.')
  }
  const length = lengthOf(text)
  if (length <= maxTextLength) return
  const message = `the ${field} text has ${length} characters, at most ${maxTextLength} are taken`
  throw invalidArgument(field, message, 'Shorten it: CLIP reads a sentence or two.')
}

function checkSteps({ steps = 1 }: Partial<EditParameters>, { maxSteps }: ServerOptions): void {
  if (steps >= 1 && steps <= maxSteps) return
  throw invalidArgument('steps', `steps is ${steps}, this server takes up to ${maxSteps}`, `Use 1 to ${maxSteps}.`)
}

function resumeLatent(latent: NonNullable<NonNullable<StartEdit['resumeFrom']>['latent']>, shape: readonly number[]) {
  const field = 'resume_from.latent'
  named(`${field}.type`, numberTypes, latent.type)
  if (latent.type === 'NUMBER_TYPE_FLOAT16') {
    throw invalidArgument(field, 'a float16 latent has lost digits that the next step needs', 'Resume from a float32.')
  }
  if (latent.shape.join() !== shape.join()) {
    const said = `${latent.shape.slice(0, 8).join(' × ') || 'no shape'}, expected ${shape.join(' × ')}`
    throw invalidArgument(field, `the latent is ${said}`, 'Resume it with the pack and the space that made it.')
  }
  const z = decodeLatent(latent, field)
  if (z.every(Number.isFinite)) return z
  throw invalidArgument(field, 'the latent has values that are not finite', 'Resume from an earlier one.')
}

function streamWish(wish: StartEdit['stream'], { maxWindowBytes }: ServerOptions): StreamWish {
  const { stepEvery = 1, previews, latents, result, windowBytes } = wish ?? {}
  const usual = Math.min(usualWindowBytes, maxWindowBytes)
  return {
    stepEvery,
    previewEvery: every('previews', previews),
    preview: pictureWish('stream.previews.picture', previews?.picture, 'jpeg'),
    latentEvery: every('latents', latents),
    latentType: numberTypes[named('stream.latents.type', numberTypes, latents?.type) ?? 'float32'],
    lossless: latents?.lossless ?? false,
    result: pictureWish('stream.result', result, 'png'),
    windowBytes: between('stream.window_bytes', windowBytes ?? usual, leastWindowBytes, maxWindowBytes),
  }
}

function every(what: string, wish: { every?: number | undefined } | null | undefined): number {
  return wish == null ? 0 : between(`stream.${what}.every`, wish.every ?? 1, 1, 2 ** 32 - 1)
}

function pictureWish(field: string, wish: PictureOptions | null | undefined, usual: PictureFormat): PictureWish {
  const { format, quality, size } = wish ?? {}
  return {
    format: named(`${field}.format`, pictureFormats, format) ?? usual,
    ...(quality === undefined ? {} : { quality: between(`${field}.quality`, quality, 1, 100) }),
    ...(size === undefined ? {} : { size: between(`${field}.size`, size, 16, 2048) }),
  }
}

function between(field: string, value: number, least: number, most: number): number {
  if (value >= least && value <= most) return value
  throw invalidArgument(field, `${field} is ${value}`, `Use ${least} to ${most}.`)
}
