// Real pictures of the classes: what RETRIEVE answers with, and what the feature statistics are of.
// FlexIT (CVPR 2022), section 4.1: validation pictures for the one, training pictures for the other.

import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { fileError, invalidArgument } from '../engine/errors.js'
import { uniforms } from '../engine/random.js'
import { readCsv } from './csv.js'
import type { Query, QuerySet } from './queries.js'

export interface References {
  /** Paths of the pictures that the statistics of each class are of. */
  readonly statistics: ReadonlyMap<number, readonly string[]>
  /** Paths of the pictures that RETRIEVE chooses among. */
  readonly retrieval: ReadonlyMap<number, readonly string[]>
}

export interface FindReferencesOptions {
  /** Folder of the queries' pictures. */
  readonly images: string
  /**
   * A table (columns `image` or `path`, `label` or `class_id`, perhaps `split`; rows of other classes are left out), or a folder with a folder of pictures
   * for each class, named as in the paths of the queries.
   */
  readonly references: string
}

/**
 * Find real pictures for every target. A table's paths are relative to `images`; its rows of the split `validation` (all,
 * where there is no such column) are for RETRIEVE, all are for the statistics. With a folder, as of ImageNet, RETRIEVE
 * chooses among `images`. Errors: those of reading; INVALID_ARGUMENT for a target without pictures.
 */
export async function findReferences(
  { queries, classes, folders }: QuerySet,
  { images, references }: FindReferencesOptions,
): Promise<References> {
  const isFolder = await stat(references).then(
    (found) => found.isDirectory(),
    (error: unknown) => {
      throw fileError(error, references, 'read')
    },
  )
  const found = isFolder ? await readFolders(folders, images, references) : await readTable(references, images, classes)
  for (const { target, targetClass } of queries) {
    for (const [what, pictures] of Object.entries(found) as [string, References['statistics']][]) {
      if ((pictures.get(targetClass) ?? []).length > 0) continue
      throw invalidArgument('references', `there is no real picture of "${target}" for ${what} in ${references}`)
    }
  }
  return found
}

/** The picture that RETRIEVE answers a query with: one of its target's by chance, keyed by seed and query. */
export function retrieve({ retrieval }: References, { id, targetClass }: Query, seed: number): string {
  const pictures = retrieval.get(targetClass)!
  return pictures[Math.floor(uniforms(seed, id, 0, 0).next().value * pictures.length)]!
}

async function readTable(path: string, images: string, classes: ReadonlyMap<number, string>): Promise<References> {
  const { columns, rows } = await readCsv(path)
  const image = ['image', 'path'].find((name) => columns.includes(name))
  const isById = columns.includes('class_id')
  if (image === undefined || !(isById || columns.includes('label'))) {
    const message = `${path} has the columns ${columns.join(', ')}; image and label, or path and class_id, are needed`
    throw invalidArgument('references', message)
  }
  const byName = new Map([...classes].map(([id, name]) => [name, id]))
  // Rows of other classes count for nothing: the statistics over all pictures are of the classes of the queries.
  const classOf = (row: Readonly<Record<string, string>>) => {
    if (!isById) return byName.get(row['label']!)
    const text = row['class_id']!.trim()
    return text !== '' && classes.has(Number(text)) ? Number(text) : undefined
  }
  const grouped = (chosen: typeof rows) =>
    group(
      chosen.flatMap((row) => {
        const id = classOf(row)
        return id === undefined ? [] : [[id, join(images, row[image]!)] as const]
      }),
    )
  const validation = columns.includes('split') ? rows.filter((row) => row['split'] === 'validation') : rows
  return { statistics: grouped(rows), retrieval: grouped(validation) }
}

async function readFolders(
  folders: ReadonlyMap<number, string>,
  images: string,
  references: string,
): Promise<References> {
  const list = async (root: string) => {
    const entries = []
    for (const [id, folder] of folders) {
      const names = await readdir(join(root, folder)).catch((error: unknown) => {
        throw fileError(error, join(root, folder), 'read')
      })
      entries.push(...names.sort().map((name) => [id, join(root, folder, name)] as const))
    }
    return group(entries)
  }
  return { statistics: await list(references), retrieval: await list(images) }
}

function group(entries: readonly (readonly [number, string])[]): Map<number, string[]> {
  const groups = new Map<number, string[]>()
  for (const [id, path] of entries.toSorted(([a], [b]) => a - b)) groups.set(id, [...(groups.get(id) ?? []), path])
  return groups
}
