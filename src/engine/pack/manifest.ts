// The manifest of a model pack (`pack.json`): which networks it has, where their weights are, how they are to be used.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { FlexitError, fileError } from '../errors.js'
import { numbersSchema } from '../limits.js'

/** A plain file name: no folders, nothing hidden, so that no manifest can reach outside its pack. */
const fileName = z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9._-]*$/, 'a plain file name')
const rgb = z.tuple([z.number(), z.number(), z.number()])
const sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'a sha256 in lower-case hexadecimal')

/** One file of a pack. `sources` are tried in order: `https://…`, or `hf://OWNER/REPO/PATH` on the Hugging Face hub. */
const fileSchema = z.strictObject({
  bytes: z.int().nonnegative().optional(),
  sha256: sha256.optional(),
  /** Where only the first digits are published (torchvision puts 8 of them into the name). */
  sha256Prefix: z
    .string()
    .regex(/^[0-9a-f]{8,63}$/)
    .optional(),
  sources: z.array(z.union([z.string().regex(/^hf:\/\/[^/]+\/[^/]+\/.+$/), z.url()])).optional(),
})

const clipSchema = z.strictObject({
  /** How users name it in `--networks`. */
  name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]*$/),
  weights: fileName,
  mean: rgb.default([0.48145466, 0.4578275, 0.40821073]),
  std: rgb.default([0.26862954, 0.26130258, 0.27577711]),
  /** Attention heads, where they are not width / 64 as in OpenAI's networks. */
  heads: z.strictObject({ image: z.int().positive(), text: z.int().positive() }).optional(),
  /** Pulled and used only when asked for by name. */
  optional: z.boolean().default(false),
})

const perceptualSchema = z.strictObject({
  trunk: z.enum(['vgg16', 'alexnet']),
  weights: fileName,
  linear: fileName,
  shift: rgb.default([-0.03, -0.088, -0.188]),
  scale: rgb.default([0.458, 0.448, 0.45]),
})

export const manifestSchema = z.strictObject({
  format: z.literal(1),
  name: z.string().regex(/^[a-z0-9][a-z0-9._-]*$/, 'a name of a-z 0-9 . _ -, beginning with a letter or digit'),
  description: z.string(),
  licence: z.string(),
  attribution: z
    .array(z.strictObject({ set: z.string(), holder: z.string(), licence: z.string(), url: z.url().optional() }))
    .default([]),
  image: z.strictObject({
    /** Height and width of the pictures that the networks are run at, in pixels. */
    size: z.int().positive().max(2048, 'at most 2048 pixels'),
    /** What transparent pictures are laid on, as a CSS colour. */
    background: z.string().default('white'),
  }),
  autoencoder: z.strictObject({ weights: fileName, normGroups: z.int().positive().default(32) }),
  clip: z.array(clipSchema).min(1),
  perceptual: perceptualSchema,
  tokenizer: z.strictObject({
    merges: fileName,
    /** Symbols in all, the two end marks included: CLIP reads only the first vocabularySize − 514 merges of its file. */
    vocabularySize: z.int().positive(),
  }),
  /** What a rotated view shows beyond the picture's border. */
  views: z.strictObject({ padding: z.enum(['zeros', 'reflect']).default('zeros') }).prefault({}),
  /** What an edit has that sets none. */
  defaults: numbersSchema.partial().default({}),
  files: z.record(fileName, fileSchema),
})

export type Manifest = z.infer<typeof manifestSchema>
export type ClipEntry = Manifest['clip'][number]
export type PackFile = Manifest['files'][string]

/** What a pack's manifest is called. */
export const manifestName = 'pack.json'

/** The files that a manifest needs with these CLIP networks; the usual ones are those that are not optional. */
export function requiredFiles(
  manifest: Manifest,
  networks: readonly ClipEntry[] = manifest.clip.filter((c) => !c.optional),
): string[] {
  return [
    manifest.autoencoder.weights,
    ...networks.map((clip) => clip.weights),
    manifest.perceptual.weights,
    manifest.perceptual.linear,
    manifest.tokenizer.merges,
  ]
}

/** Check the text of a manifest. Errors: DATA_LOSS, naming `where` and every wrong field. */
export function parseManifest(text: string, where: string): Manifest {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (error) {
    throw manifestError(where, error instanceof Error ? error.message : String(error), error)
  }
  const parsed = manifestSchema.safeParse(json)
  if (!parsed.success) {
    const issues = parsed.error.issues.map((issue) => `${issue.path.join('.') || '(top)'}: ${issue.message}`)
    throw manifestError(where, issues.join('; '), parsed.error)
  }
  const manifest = parsed.data
  const listed = new Set(Object.keys(manifest.files))
  const missing = requiredFiles(manifest, manifest.clip).filter((file) => !listed.has(file))
  if (missing.length > 0) throw manifestError(where, `files: ${missing.join(', ')} not listed`)
  const names = manifest.clip.map((clip) => clip.name)
  if (new Set(names).size < names.length) throw manifestError(where, 'clip: two networks have the same name')
  return manifest
}

/** Read `FOLDER/pack.json`. Errors: NOT_FOUND, DATA_LOSS. */
export async function readManifest(folder: string): Promise<Manifest> {
  const path = join(folder, manifestName)
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    throw fileError(error, path, 'read')
  })
  return parseManifest(text, path)
}

function manifestError(where: string, what: string, cause?: unknown): FlexitError {
  return new FlexitError({
    code: 'DATA_LOSS',
    message: `${where} is not a valid pack manifest: ${what}`,
    cure: 'Restore the file, or build the pack again with `flexit models import`.',
    cause,
  })
}
