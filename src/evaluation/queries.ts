// The queries of an evaluation: a picture, what is in it, what it should become; and the classes they are about.
// FlexIT (CVPR 2022), section 4.1: for each target eight pictures of other classes of its cluster, half for development.

import { createHash } from 'node:crypto'
import { dirname, join } from 'node:path'
import { stat } from 'node:fs/promises'
import { FlexitError, invalidArgument } from '../engine/errors.js'
import { checkText } from '../engine/parameters.js'
import { choose } from './bootstrap.js'
import { type Csv, type CsvRow, readCsv } from './csv.js'

export interface Query {
  /** In its file: the first column where that has no name, as pandas writes it, or else the number of the row. */
  readonly id: number
  /** Relative to the folder of pictures. */
  readonly image: string
  readonly source: string
  readonly target: string
  /** Outputs of the judge. */
  readonly sourceClass: number
  readonly targetClass: number
  readonly cluster: string
}

export interface QuerySet {
  readonly queries: readonly Query[]
  /** Names of the classes among which the judge chooses, by its output. */
  readonly classes: ReadonlyMap<number, string>
  /** The folders that each class that is a source has its pictures in, also in the other half of the file. */
  readonly folders: ReadonlyMap<number, readonly string[]>
  /** sha256 of queries and classes. */
  readonly digest: string
}

export type Half = 'dev' | 'test'
export type Split = Half | 'all'

export interface ReadQueriesOptions {
  /** Names of the judge's outputs; needed where the file has no columns `source_id` and `target_id`. */
  readonly labels: readonly string[] | undefined
  /** CSV with a column `label`: the classes to choose among. Default: `labels.csv` beside the queries, if it is there. */
  readonly labelFile?: string
  /** Which half of a file with a column `is_test`. Default: `half`, or all where there is no such column. */
  readonly split?: Split
  /** Default: the test half. */
  readonly half?: Half
}

/**
 * Read queries: columns `image` (or `path`), `source`, `target`; perhaps `source_id` and `target_id` (outputs of the
 * judge), `cluster`, `is_test`. Without a column `cluster`, classes that queries connect are a cluster. The classes to
 * choose among are those of the label file, or else all sources and targets of the file, of both halves.
 * Errors: those of reading; INVALID_ARGUMENT, naming the row: also for texts that no edit takes.
 */
export async function readQueries(path: string, options: ReadQueriesOptions): Promise<QuerySet> {
  const table = await readCsv(path)
  const columns = { image: columnOf(table, path, 'image', 'path'), ...required(table, path, 'source', 'target') }
  const outputs = outputsOf(table, options.labels, path)
  const all = table.rows.map((row, i): Query => {
    const where = `row ${i + 1} of ${path}`
    const source = textOf(row[columns.source]!, 'source', where)
    const target = textOf(row[columns.target]!, 'target', where)
    return {
      id: idOf(row, i, where),
      image: picturePath(row[columns.image]!, where),
      source,
      target,
      sourceClass: outputs(row, 'source', where),
      targetClass: outputs(row, 'target', where),
      cluster: row['cluster'] ?? '',
    }
  })
  const queries = table.columns.includes('cluster') ? all : connect(all)
  if (new Set(queries.map(({ id }) => id)).size < queries.length) {
    throw invalidArgument('queries', `two queries of ${path} have the same id`, 'Number them in the first column.')
  }
  const classes = (await readClasses(path, options)) ?? classesOf(queries)
  const foreign = queries.find(({ targetClass }) => !classes.has(targetClass))
  if (foreign !== undefined) {
    throw invalidArgument('labels', `"${foreign.target}" is a target but not among the labels`, 'Add it to the labels.')
  }
  const chosen = queriesOf(queries, table, path, options)
  if (chosen.length === 0) {
    throw invalidArgument('queries', `${path} has no queries${table.rows.length > 0 ? ' of that half' : ''}`)
  }
  return { queries: chosen, classes, folders: foldersOf(queries), digest: digestOf(chosen, classes) }
}

/** Some of the queries, by chance, in the order of the file; all of them where there are fewer. */
export function limitQueries(set: QuerySet, count: number, seed: number): QuerySet {
  const chosen = new Set(choose(set.queries, count, seed))
  const queries = set.queries.filter((query) => chosen.has(query))
  return { ...set, queries, digest: digestOf(queries, set.classes) }
}

function digestOf(queries: readonly Query[], classes: QuerySet['classes']): string {
  return createHash('sha256')
    .update(JSON.stringify([queries, [...classes]]))
    .digest('hex')
}

function columnOf({ columns }: Csv, path: string, ...names: readonly string[]): string {
  const found = names.find((name) => columns.includes(name))
  if (found !== undefined) return found
  throw new FlexitError({
    code: 'INVALID_ARGUMENT',
    field: 'queries',
    message: `${path} has no column ${names.join(' or ')}; it has ${columns.join(', ')}`,
    cure: names.includes('label')
      ? 'Labels have the column label.'
      : 'Queries have the columns image, source and target; see `flexit eval --help`.',
  })
}

function required<T extends string>(table: Csv, path: string, ...names: readonly T[]): Record<T, string> {
  return Object.fromEntries(names.map((name) => [name, columnOf(table, path, name)])) as Record<T, string>
}

function idOf(row: CsvRow, index: number, where: string): number {
  const text = row['']
  if (text === undefined) return index
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw invalidArgument('queries', `the id of ${where} is "${text}", not a whole number`)
}

function textOf(text: string, role: 'source' | 'target', where: string): string {
  try {
    return checkText(text, role)
  } catch (error) {
    if (!(error instanceof FlexitError)) throw error
    throw invalidArgument('queries', `${where}: ${error.message}`, 'Correct the row.')
  }
}

const classCure = 'Use one of the labels that its judge.json names.'

/** A path inside the folder of pictures; `field` names the option of its table. Errors: INVALID_ARGUMENT. */
export function picturePath(path: string, where: string, field: 'queries' | 'references' = 'queries'): string {
  if (path !== '' && !path.startsWith('/') && !path.split(/[\\/]/).includes('..')) return path
  throw invalidArgument(field, `the picture of ${where} is "${path}", not a path inside the folder of pictures`)
}

/** The judge's output for the source or the target of a row: by id where there is a column of ids, or else by label. */
function outputsOf({ columns }: Csv, labels: readonly string[] | undefined, path: string) {
  const missing = ['source_id', 'target_id'].filter((column) => !columns.includes(column))
  if (missing.length > 0 && labels === undefined) {
    const message = `${path} has no ${missing.join(' and no ')}, and the judge does not name its outputs`
    throw invalidArgument('queries', message, 'Add what is missing, or give the judge its labels.')
  }
  return (row: CsvRow, role: 'source' | 'target', where: string): number => {
    const isById = !missing.includes(`${role}_id`)
    const text = isById ? row[`${role}_id`]! : row[role]!
    const output = isById ? (/^\d{1,6}$/.test(text) ? Number(text) : undefined) : outputOf(text, labels!)
    if (output !== undefined && (labels === undefined || output < labels.length)) return output
    throw invalidArgument('queries', `the ${role} of ${where}, "${text}", is not a class of the judge`, classCure)
  }
}

/** The output that has a label; undefined where none has. Errors: INVALID_ARGUMENT where several have. */
function outputOf(label: string, labels: readonly string[]): number | undefined {
  const output = labels.indexOf(label)
  if (output !== labels.lastIndexOf(label)) {
    const message = `several outputs of the judge are named "${label}"`
    throw invalidArgument('judge', message, 'Give each a name of its own in judge.json, or the queries their ids.')
  }
  return output < 0 ? undefined : output
}

/** Queries of the half that is wanted. */
function queriesOf(
  queries: readonly Query[],
  { columns, rows }: Csv,
  path: string,
  { split, half = 'test' }: ReadQueriesOptions,
): readonly Query[] {
  if (!columns.includes('is_test')) {
    if (split === undefined || split === 'all') return queries
    throw invalidArgument('split', `${path} has no column is_test`, 'Leave --split out, or name the file of that half.')
  }
  const wanted = split ?? half
  const isTest = rows.map((row, i) => isTestOf(row['is_test']!, `row ${i + 1} of ${path}`))
  return queries.filter((_, i) => wanted === 'all' || isTest[i] === (wanted === 'test'))
}

function isTestOf(text: string, where: string): boolean {
  const flag = text.trim().toLowerCase()
  if (['true', '1', '1.0'].includes(flag)) return true
  if (['false', '0', '0.0'].includes(flag)) return false
  throw invalidArgument('queries', `is_test of ${where} is "${text}"`, 'Write true or false.')
}

/** Classes of the label file, where there is one. */
async function readClasses(
  path: string,
  { labels, labelFile }: ReadQueriesOptions,
): Promise<Map<number, string> | undefined> {
  const beside = join(dirname(path), 'labels.csv')
  const isThere = await stat(beside).then(Boolean, () => false)
  const file = labelFile ?? (isThere && labels !== undefined ? beside : undefined)
  if (file === undefined) return undefined
  const table = await readCsv(file)
  const { label } = required(table, file, 'label')
  if (labels === undefined) {
    const message = `the judge does not name its outputs, so that the labels of ${file} mean nothing`
    throw invalidArgument('labels', message, 'Leave --labels out, or name the outputs in judge.json.')
  }
  const entries = table.rows.map((row) => {
    const name = row[label]!
    const output = outputOf(name, labels)
    if (output !== undefined) return [output, name] as const
    throw invalidArgument('labels', `"${name}" of ${file} is not a class of the judge`, classCure)
  })
  return new Map(entries.sort(([a], [b]) => a - b))
}

function foldersOf(queries: readonly Query[]): Map<number, string[]> {
  const folders = new Map<number, Set<string>>()
  for (const { sourceClass, image } of queries) {
    folders.set(sourceClass, (folders.get(sourceClass) ?? new Set()).add(dirname(image)))
  }
  return new Map([...folders].map(([id, names]) => [id, [...names]]))
}

function classesOf(queries: readonly Query[]): Map<number, string> {
  const entries = queries.flatMap(({ source, target, sourceClass, targetClass }) => [
    [sourceClass, source] as const,
    [targetClass, target] as const,
  ])
  return new Map(entries.sort(([a], [b]) => a - b))
}

/** Clusters from the queries themselves, each named by its first class. */
function connect(queries: readonly Query[]): Query[] {
  const parents = new Map<number, number>()
  const root = (id: number): number => {
    const parent = parents.get(id) ?? id
    return parent === id ? id : root(parent)
  }
  for (const { sourceClass, targetClass } of queries) {
    const [a, b] = [root(sourceClass), root(targetClass)]
    parents.set(Math.max(a, b), Math.min(a, b))
  }
  const names = classesOf(queries)
  return queries.map((query) => ({ ...query, cluster: `${names.get(root(query.targetClass))!} …` }))
}
