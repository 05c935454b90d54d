// A file of queries: CSV (RFC 4180) with a header, one edit a row. Read whole and checked before anything runs.
// Mistakes are told together, by line and column.

import { dirname, resolve } from 'node:path'
import { InvalidArgumentError } from 'commander'
import { type FlexitError, invalidArgument } from '../../engine/errors.js'
import type { EditParameters } from '../../engine/parameters.js'
import { type CsvLine, readLines, wrongWidth } from '../../evaluation/csv.js'
import { parameterKeys, parseList, parseNumberOf } from '../parameters.js'

export interface Query {
  /** Of the file, where its row ends. */
  readonly line: number
  /** As it is written, and where it is. */
  readonly image: string
  readonly imagePath: string
  readonly source: string
  readonly target: string
  /** Those that the row sets. */
  readonly parameters: Partial<EditParameters>
}

type ParameterKey = (typeof parameterKeys)[number]
type Meaning = 'image' | 'source' | 'target' | ParameterKey

export interface QueryFile {
  readonly path: string
  readonly queries: readonly Query[]
  /** The name that a column has in the file. */
  readonly columns: ReadonlyMap<Meaning, string>
  /** Columns that mean nothing here. */
  readonly ignored: readonly string[]
}

export interface RowMistake {
  readonly line: number
  readonly column: string | undefined
  readonly message: string
}

/** Mistakes that are told; of more only the number. */
const maxTold = 20

/**
 * Read a file of queries. Images are relative to `images`, or else to the file's folder. Errors: NOT_FOUND;
 * INVALID_ARGUMENT (not UTF-8, not CSV, columns that lack, rows that are wrong), naming lines and columns.
 */
export async function readQueries(path: string, images = dirname(path)): Promise<QueryFile> {
  const [header, ...rows] = await readLines(path)
  if (rows.length === 0) {
    throw invalidArgument('queries', `${path} has no queries`, 'Give it a header and a row for each edit.')
  }
  const meanings = header.fields.map(meaningOf)
  const columns = new Map<Meaning, string>()
  for (const [i, meaning] of meanings.entries()) {
    const before = meaning && columns.get(meaning)
    if (before !== undefined) {
      const message = `${path}: the columns ${before} and ${header.fields[i]!} mean the same`
      throw invalidArgument('queries', message, 'Leave one of them out.')
    }
    if (meaning !== undefined) columns.set(meaning, header.fields[i]!)
  }
  const missing = (['image', 'source', 'target'] as const).find((meaning) => !columns.has(meaning))
  if (missing !== undefined) {
    const found = header.fields.map((name) => JSON.stringify(name)).join(', ')
    const what = missing === 'image' ? 'image (or file, or path)' : missing
    const cure = 'Columns are separated by commas; see `npx flexit batch --help`.'
    throw invalidArgument('queries', `${path} has no column ${what}; it has ${found}`, cure)
  }

  const mistakes: RowMistake[] = []
  const queries = rows.flatMap((row) => {
    const query = toQuery(row, meanings, header, mistakes)
    return query === undefined ? [] : [{ ...query, imagePath: resolve(images, query.image) }]
  })
  if (mistakes.length > 0) throw rowErrors(path, mistakes, 'Ranges and pictures are looked at once these are mended.')
  const ignored = header.fields.filter((name, i) => meanings[i] === undefined && name !== '')
  return { path, queries, columns, ignored }
}

/** All that is wrong with the rows of a file, as one error. */
export function rowErrors(path: string, mistakes: readonly RowMistake[], cure?: string): FlexitError {
  const lines = mistakes.slice(0, maxTold).map(({ line, column, message }) => {
    return `  line ${line}${column === undefined ? '' : `, column ${column}`}: ${message}`
  })
  const more = mistakes.length > maxTold ? [`  and ${mistakes.length - maxTold} more`] : []
  const count = mistakes.length === 1 ? 'a mistake' : `${mistakes.length} mistakes`
  return invalidArgument('queries', [`${path} has ${count}; nothing was run`, ...lines, ...more].join('\n'), cure)
}

function toQuery(
  row: CsvLine,
  meanings: readonly (Meaning | undefined)[],
  header: CsvLine,
  mistakes: RowMistake[],
): Omit<Query, 'imagePath'> | undefined {
  const before = mistakes.length
  const { fields, line } = row
  const wrong = wrongWidth(row, header)
  if (wrong !== undefined) {
    mistakes.push({ line, column: undefined, message: wrong })
    return undefined
  }
  const texts = { image: '', source: '', target: '' }
  const parameters: Record<string, unknown> = {}
  for (const [i, meaning] of meanings.entries()) {
    const cell = fields[i]!
    const column = header.fields[i]!
    if (meaning === 'image' || meaning === 'source' || meaning === 'target') {
      if (cell === '') mistakes.push({ line, column, message: 'it is empty' })
      texts[meaning] = cell
    } else if (meaning !== undefined && cell !== '') {
      try {
        parameters[meaning] = parseCell(meaning, cell)
      } catch (error) {
        if (!(error instanceof InvalidArgumentError)) throw error
        mistakes.push({ line, column, message: `${JSON.stringify(cell)}: ${error.message}` })
      }
    }
  }
  return mistakes.length > before ? undefined : { line, ...texts, parameters: parameters }
}

function parseCell(key: ParameterKey, cell: string): unknown {
  if (key === 'networks') return parseList(cell)
  // pandas writes 64.0 where another row of the column has nothing.
  return key === 'preset' || key === 'space' ? cell : parseNumberOf(key, cell.replace(/^(\d+)\.0$/, '$1'))
}

/** `lambda_p`, `lambda-p` and `lambdaP` are one name. */
function meaningOf(name: string): Meaning | undefined {
  const plain = name.toLowerCase().replace(/[-_ ]/g, '')
  if (plain === 'image' || plain === 'file' || plain === 'path') return 'image'
  if (plain === 'source' || plain === 'target') return plain
  return parameterKeys.find((key) => key.toLowerCase() === plain)
}
