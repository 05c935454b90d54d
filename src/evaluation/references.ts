// Real pictures of the classes: what RETRIEVE answers with, and what the feature statistics are of.
// FlexIT (CVPR 2022), section 4.1: validation pictures for the one, training pictures for the other.

import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type FlexitError, fileError, invalidArgument } from '../engine/errors.js'
import { uniforms } from '../engine/random.js'
import { readCsv } from './csv.js'
import { type Query, type QuerySet, picturePath } from './queries.js'

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
   * A table (columns `image` or `path`, `label` or `class_id`, perhaps `split`; rows of other classes are left out), or
   * a folder with folders of pictures for each class, named as in the paths of the queries.
   */
  readonly references: string
}

/** What the names of pictures end with: folders hold other files too. */
const isPicture = (name: string) => /^[^.].*\.(?:jpe?g|png|webp|avif|gif|tiff?|svg)$/i.test(name)

/**
 * Find real pictures for every target. A table's paths are relative to `images`; its rows of the split `validation` are
 * for RETRIEVE, all others for the statistics (each is for both where there is no such column). With a folder, as of
 * ImageNet, RETRIEVE chooses among `images`. Errors: those of reading; INVALID_ARGUMENT for a target without pictures,
 * for folders that do not keep classes apart, and for a path that leaves `images`.
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
  if (isFolder) checkApart(folders, classes)
  const found = isFolder ? await readFolders(folders, images, references) : await readTable(references, images, classes)
  for (const { target, targetClass } of queries) {
    if (isFolder && !folders.has(targetClass)) throw unknownFolder(target)
    for (const [what, pictures] of Object.entries(found) as [keyof References, References['statistics']][]) {
      if ((pictures.get(targetClass) ?? []).length > 0) continue
      const root = isFolder && what === 'retrieval' ? images : references
      const message = `there is no real picture of "${target}" for ${what} in ${root}`
      throw invalidArgument('references', message, isFolder ? 'Add one to the folder of its class.' : tableCure)
    }
  }
  return found
}

const tableCure =
  'Add a row of it; where there is a column split, RETRIEVE has the rows validation, the statistics are of all others.'

const nameTable = 'Name a CSV of real pictures with --references: image and label, or path and class_id.'

function unknownFolder(target: string): FlexitError {
  const message = `no query has "${target}" as its source, so that the folder of its pictures is not known`
  return invalidArgument('references', message, nameTable)
}

/** A folder that two classes share would give each the pictures of the other. */
function checkApart(folders: QuerySet['folders'], classes: QuerySet['classes']): void {
  const owners = new Map<string, number>()
  for (const [id, names] of folders) {
    for (const name of names) {
      const other = owners.get(name)
      if (other !== undefined) {
        const [one, two] = [other, id].map((owner) => `"${classes.get(owner) ?? `class ${owner}`}"`)
        const message = `queries have pictures of ${one!} and of ${two!} in the same folder ${name}, so that it does not tell them apart`
        throw invalidArgument('references', message, nameTable)
      }
      owners.set(name, id)
    }
  }
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
  const isSplit = columns.includes('split')
  const chosen = (of: 'statistics' | 'retrieval') =>
    rows.flatMap((row, i) => {
      const id = classOf(row)
      const isOther = isSplit && (row['split'] === 'validation') !== (of === 'retrieval')
      if (id === undefined || isOther) return []
      return [[id, join(images, picturePath(row[image]!, `row ${i + 1} of ${path}`, 'references'))] as const]
    })
  return { statistics: group(chosen('statistics')), retrieval: group(chosen('retrieval')) }
}

async function readFolders(folders: QuerySet['folders'], images: string, references: string): Promise<References> {
  const list = async (root: string) => {
    const entries = []
    for (const [id, folder] of [...folders].flatMap(([id, names]) => names.map((name) => [id, name] as const))) {
      const found = await readdir(join(root, folder), { withFileTypes: true }).catch((error: unknown) => {
        throw fileError(error, join(root, folder), 'read')
      })
      const names = found.filter((entry) => !entry.isDirectory() && isPicture(entry.name)).map(({ name }) => name)
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
