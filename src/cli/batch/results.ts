// The folder of a batch: what is finished, what is half done, and the table of results.
// A query is known by a hash of all that its result depends on, so that old results never pass for new ones.

import { createHash } from 'node:crypto'
import { existsSync, statSync } from 'node:fs'
import { appendFile, readFile, rm, rmdir } from 'node:fs/promises'
import { basename, extname, join } from 'node:path'
import { z } from 'zod'
import { type SavedEdit, readEditFile } from '../../engine/edit-file.js'
import { FlexitError, fileError, systemErrorCode } from '../../engine/errors.js'
import { writeFileAtomic } from '../../engine/files.js'
import type { EditParameters } from '../../engine/parameters.js'
import { slug } from '../outputs.js'
import type { Query } from './queries.js'

/** What a finished edit came to; losses and similarities are those of its last step. */
const resultSchema = z.object({
  key: z.string(),
  steps: z.number(),
  seconds: z.number(),
  losses: z
    .object({
      total: z.number(),
      clip: z.number(),
      lpips: z.number().optional(),
      latent: z.number().optional(),
    })
    .optional(),
  similaritySource: z.number().optional(),
  similarityTarget: z.number().optional(),
})

export type Result = z.infer<typeof resultSchema>

/** An edit of a batch. */
export interface Job {
  /** Rows that ask for just this. */
  readonly queries: readonly Query[]
  readonly key: string
  readonly parameters: EditParameters
  readonly files: { readonly picture: string; readonly filmstrip: string; readonly latents: string }
}

/** What became of a job. */
export type Status =
  | { readonly kind: 'done'; readonly result: Result }
  | { readonly kind: 'failed'; readonly error: FlexitError }
  | { readonly kind: 'unfinished' }

/** Of the bytes of the picture's file, the texts, the parameters and the pack. */
export function keyOf(image: Uint8Array, { source, target }: Query, parameters: EditParameters, pack: string): string {
  const picture = createHash('sha256').update(image).digest('hex')
  const all = ['flexit-batch/1', pack, picture, source, target, parameters]
  return createHash('sha256').update(JSON.stringify(all)).digest('hex')
}

export class BatchFolder {
  readonly path: string
  readonly table: string
  readonly #journal: string
  readonly #wanted: readonly ('filmstrip' | 'latents')[]
  #finished = new Map<string, Result>()

  /** Whether a finished job has these besides its picture. */
  constructor(path: string, { filmstrips, latents }: { readonly filmstrips: boolean; readonly latents: boolean }) {
    this.path = path
    this.table = join(path, 'results.csv')
    this.#journal = join(path, 'finished.jsonl')
    this.#wanted = [...(filmstrips ? (['filmstrip'] as const) : []), ...(latents ? (['latents'] as const) : [])]
  }

  /** Read what was finished in it, if it is there. Errors: those of the file system. */
  async open(): Promise<void> {
    const text = await readFile(this.#journal, 'utf8').catch((error: unknown) => {
      if (systemErrorCode(error) === 'ENOENT') return ''
      throw fileError(error, this.#journal, 'read')
    })
    for (const line of text.split('\n')) this.#remember(line)
  }

  /** A name that tells what it is, and is nobody else's. */
  filesOf({ image, target }: Query, key: string): Job['files'] {
    const stem = basename(image, extname(image)).slice(0, 40)
    const name = `${stem}-${slug(target).slice(0, 30)}-${key.slice(0, 8)}`
    return {
      picture: join(this.path, 'pictures', `${name}.png`),
      filmstrip: join(this.path, 'filmstrips', `${name}.png`),
      latents: join(this.path, 'latents', `${name}.safetensors`),
    }
  }

  /** What a job came to, if it is finished and all its files are there. */
  finished({ key, files }: Job): Result | undefined {
    const there = (['picture', ...this.#wanted] as const).every(
      (kind) => (statSync(files[kind], { throwIfNoEntry: false })?.size ?? 0) > 0,
    )
    return there ? this.#finished.get(key) : undefined
  }

  /** A job that was begun and did not end; undefined where there is none that can be gone on with. */
  unfinished({ files }: Job): SavedEdit | undefined {
    try {
      return existsSync(files.latents) ? readEditFile(files.latents) : undefined
    } catch (error) {
      if (error instanceof FlexitError && error.code === 'DATA_LOSS') return undefined
      throw error
    }
  }

  /** Its files are written, and the table was: remember it, also after a crash. Errors: those of writing. */
  async finish({ files }: Job, result: Result): Promise<void> {
    this.#finished.set(result.key, result)
    try {
      // A line that a crash has cut off ends here.
      await appendFile(this.#journal, `\n${JSON.stringify(result)}`)
    } catch (error) {
      throw fileError(error, this.#journal, 'write')
    }
    if (!this.#wanted.includes('latents')) await rm(files.latents, { force: true })
  }

  /** Write `results.csv`: a row for each query, in their order. Errors: those of writing. */
  async writeTable(jobs: readonly Job[], statusOf: (job: Job) => Status): Promise<void> {
    const rows = jobs.flatMap((job) => job.queries.map((query) => ({ query, job, status: statusOf(job) })))
    rows.sort((a, b) => a.query.line - b.query.line)
    const lines = rows.map(({ query, job, status }) => csvLine(this.#row(query, job, status)))
    await writeFileAtomic(this.table, [csvLine(columns), ...lines, ''].join('\n'))
    // Where the states of unfinished edits were, unless some are left.
    await rmdir(join(this.path, 'latents')).catch(() => undefined)
  }

  #row({ line, image, source, target }: Query, { key, files, parameters }: Job, status: Status): Cell[] {
    const result = status.kind === 'done' ? status.result : undefined
    const { losses, similaritySource, similarityTarget } = result ?? {}
    const file = (kind: 'picture' | 'filmstrip' | 'latents', wanted: boolean) =>
      result !== undefined && wanted ? files[kind].slice(this.path.length + 1) : undefined
    const { message, cure = '' } = status.kind === 'failed' ? status.error : {}
    return [
      ...[line, image, source, target, status.kind, result?.steps, parameters.seed, result?.seconds],
      ...[losses?.total, losses?.clip, losses?.lpips, losses?.latent, similaritySource, similarityTarget],
      file('picture', true),
      file('filmstrip', this.#wanted.includes('filmstrip')),
      file('latents', this.#wanted.includes('latents')),
      ...[message === undefined ? undefined : `${message} ${cure}`.trim(), key],
    ]
  }

  #remember(line: string): void {
    try {
      const result = resultSchema.parse(JSON.parse(line))
      this.#finished.set(result.key, result)
    } catch {
      // Cut off by a crash: the job is done again.
    }
  }
}

type Cell = string | number | undefined

export const columns = [
  ...['line', 'image', 'source', 'target', 'status', 'steps', 'seed', 'seconds'],
  ...['loss', 'loss_clip', 'loss_lpips', 'loss_latent', 'similarity_source', 'similarity_target'],
  ...['picture', 'filmstrip', 'latents', 'error', 'key'],
] as const

function csvLine(cells: readonly Cell[]): string {
  return cells.map((cell = '') => quoted(String(cell))).join(',')
}

function quoted(text: string): string {
  return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
