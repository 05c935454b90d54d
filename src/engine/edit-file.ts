// A saved edit: everything that its later steps depend on, and the latents that were kept on the way, in one file.
// A safetensors file (https://github.com/huggingface/safetensors): the state as JSON in its metadata, arrays as tensors.

import { z } from 'zod'
import type { EditState } from './edit.js'
import { FlexitError } from './errors.js'
import { writeFileAtomic } from './files.js'
import { manifestSchema } from './pack/manifest.js'
import { isAltered, openSafetensors, sealSafetensors, type Safetensors, type TensorData } from './pack/safetensors.js'
import { parametersSchema } from './parameters.js'

const format = 'flexit-edit/1'
const cure = 'Name a file that `flexit edit --latents` wrote, or start the edit anew.'

export interface SavedEdit {
  readonly state: EditState
  /** Name of the pack that the state's digest is of. */
  readonly packName: string
  /** Latents [C, h, w] that were kept, by the number of steps that were taken before each. */
  readonly snapshots: ReadonlyMap<number, Float32Array>
}

const stateSchema = z.strictObject({
  pack: z.string().regex(/^[0-9a-f]{64}$/, 'a sha256'),
  packName: manifestSchema.shape.name.max(200),
  parameters: parametersSchema,
  source: z.string(),
  target: z.string(),
  step: z.int().nonnegative(),
})

/**
 * Write a saved edit, atomically: tensors `picture` [H, W, 3], `z` (absent before the first step) and `z.STEP`, each of
 * `shape`, the variable's [C, h, w], and a sha256 of all of it. The same edit gives the same bytes. Errors:
 * FAILED_PRECONDITION (space, permission).
 */
export async function writeEditFile(
  path: string,
  { state, packName, snapshots }: SavedEdit,
  shape: readonly number[],
): Promise<void> {
  const { pack, parameters, source, target, step, picture } = state
  const latent = (name: string, data: Float32Array): TensorData => ({ name, dtype: 'F32', shape, data })
  const tensors: TensorData[] = [
    ...(state.z === undefined ? [] : [latent('z', state.z)]),
    ...[...snapshots].sort(([a], [b]) => a - b).map(([at, z]) => latent(`z.${at}`, z)),
    { name: 'picture', dtype: 'U8', shape: [picture.height, picture.width, 3], data: picture.data },
  ]
  const metadata = { format, state: JSON.stringify({ pack, packName, parameters, source, target, step }) }
  await writeFileAtomic(path, sealSafetensors(tensors, metadata))
}

/**
 * Read a saved edit. Whether it fits a pack is for `Engine.prepare` to say. Errors: NOT_FOUND; INVALID_ARGUMENT (no
 * regular file); DATA_LOSS (not a saved edit, truncated, altered, values that are not finite), naming the part.
 * Earlier versions wrote no sha256: in their files altered values are not seen.
 */
export function readEditFile(path: string): SavedEdit {
  const file = open(path)
  try {
    if (file.metadata.get('format') !== format) {
      throw damaged(path, `it is not a saved edit of the format ${format}`)
    }
    if (isAltered(file)) throw damaged(path, 'it was altered: its sha256 is not the one that it was written with')
    const { packName, ...state } = parseState(path, file.metadata.get('state') ?? '')
    const [height, width] = tensorShape(path, file, 'picture', 'U8', [undefined, undefined, 3]) as [number, number]
    const picture = { height, width, data: file.raw('picture') }

    const z = file.tensors.has('z') ? readLatent(path, file, 'z', [undefined, undefined, undefined]) : undefined
    if (z === undefined && state.step > 0)
      throw damaged(path, `it has no tensor z, though ${state.step} steps were taken`)
    const shape = file.tensors.get('z')?.shape
    const snapshots = new Map<number, Float32Array>()
    for (const name of file.tensors.keys()) {
      if (name === 'picture' || name === 'z') continue
      const at = Number(/^z\.(0|[1-9]\d{0,8})$/.exec(name)?.[1] ?? NaN)
      if (!(at <= state.step)) throw damaged(path, `it has a tensor ${JSON.stringify(name)} that no saved edit has`)
      snapshots.set(at, readLatent(path, file, name, shape ?? []))
    }
    return { state: { ...state, picture, z, shape }, packName, snapshots }
  } finally {
    file.close()
  }
}

function open(path: string): Safetensors {
  try {
    return openSafetensors(path)
  } catch (error) {
    const isDamaged = error instanceof FlexitError && error.code === 'DATA_LOSS'
    throw isDamaged ? new FlexitError({ code: error.code, message: error.message, cure, cause: error }) : error
  }
}

function parseState(path: string, text: string): z.infer<typeof stateSchema> {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (error) {
    throw damaged(path, 'its state is not JSON', error)
  }
  const parsed = stateSchema.safeParse(json)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw damaged(
    path,
    `in its state, ${issue!.path.join('.') || 'the top level'} is wrong: ${issue!.message}`,
    parsed.error,
  )
}

function readLatent(path: string, file: Safetensors, name: string, shape: Pattern): Float32Array {
  tensorShape(path, file, name, 'F32', shape)
  const values = file.read(name)
  if (values.every(Number.isFinite)) return values
  throw damaged(path, `its tensor ${name} has values that are not finite`)
}

/** Sizes of a shape; undefined stands for any size. */
type Pattern = readonly (number | undefined)[]

/** The shape of a tensor that must be there, of a type and sizes. */
function tensorShape(
  path: string,
  file: Safetensors,
  name: string,
  dtype: string,
  pattern: Pattern,
): readonly number[] {
  const found = file.tensors.get(name)
  if (found === undefined) throw damaged(path, `it has no tensor ${name}`)
  const { shape } = found
  const fits = shape.length === pattern.length && shape.every((n, i) => n === (pattern[i] ?? n))
  if (found.dtype === dtype && fits) return shape
  const wanted = `${dtype} [${pattern.map((n) => n ?? '…').join(', ')}]`
  throw damaged(path, `its tensor ${name} is ${found.dtype} [${shape.join(', ')}], expected ${wanted}`)
}

function damaged(path: string, what: string, cause?: unknown): FlexitError {
  return new FlexitError({
    code: 'DATA_LOSS',
    message: `${path} cannot be resumed: ${what}`,
    cure,
    cause,
  })
}
