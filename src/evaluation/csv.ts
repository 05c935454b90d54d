// Tables of text: comma-separated values as RFC 4180 has them, with a header.
// https://www.rfc-editor.org/rfc/rfc4180

import { readFile } from 'node:fs/promises'
import { parse } from 'csv-parse/sync'
import { FlexitError, fileError } from '../engine/errors.js'

/** A line that is not empty, without the spaces around its fields. */
export interface CsvLine {
  readonly fields: readonly string[]
  /** Of the file, where it ends. */
  readonly line: number
}

/** A line after the header, by column; of columns without a name the first. */
export type CsvRow = Readonly<Record<string, string>>

export interface Csv {
  readonly columns: readonly string[]
  readonly rows: readonly CsvRow[]
}

/** Read a file whose lines all have as many fields as its header. Errors: those of `readLines`; INVALID_ARGUMENT. */
export async function readCsv(path: string): Promise<Csv> {
  return tableOf(await readLines(path), path)
}

/**
 * Read the lines of a file, the header first. Errors: those of reading; INVALID_ARGUMENT for one that is not UTF-8 or empty,
 * has a quote that does not end, or columns of the same name.
 */
export async function readLines(path: string): Promise<readonly [header: CsvLine, ...rows: CsvLine[]]> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw fileError(error, path, 'read')
  })
  return parseLines(decodeText(bytes, path), path)
}

/** What is wrong with a line that has not as many fields as the header. */
export function wrongWidth({ fields }: CsvLine, header: CsvLine): string | undefined {
  const [found, expected] = [fields.length, header.fields.length]
  if (found === expected) return undefined
  return `it has ${found} columns, the header has ${expected}; texts with commas need quotes`
}

/** The text of a file. Errors: INVALID_ARGUMENT, naming the first line that is not UTF-8. */
function decodeText(bytes: Uint8Array, path: string): string {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  try {
    return decoder.decode(bytes)
  } catch (error) {
    const line = firstLineThat(bytes, (part) => !isText(part))
    throw new FlexitError({
      code: 'INVALID_ARGUMENT',
      message: `${path}, line ${line}: it is not UTF-8`,
      cure: 'Save the file as CSV in UTF-8.',
      cause: error,
    })
  }
}

function firstLineThat(bytes: Uint8Array, wrong: (part: Uint8Array) => boolean): number {
  let start = 0
  for (let line = 1; ; line++) {
    const end = bytes.indexOf(0x0a, start)
    if (end < 0 || wrong(bytes.subarray(start, end))) return line
    start = end + 1
  }
}

function isText(bytes: Uint8Array): boolean {
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    return true
  } catch {
    return false
  }
}

/** As `readCsv`, from a text; `where` names it in messages. */
export function parseCsv(text: string, where: string): Csv {
  return tableOf(parseLines(text, where), where)
}

function tableOf([header, ...lines]: readonly [CsvLine, ...CsvLine[]], where: string): Csv {
  const columns = header.fields
  const kept = [...columns.keys()].filter((i) => columns.indexOf(columns[i]!) === i)
  const rows = lines.map((line) => {
    const wrong = wrongWidth(line, header)
    if (wrong !== undefined) throw noTable(where, `line ${line.line}: ${wrong}`)
    return Object.fromEntries(kept.map((i) => [columns[i]!, line.fields[i]!]))
  })
  return { columns, rows }
}

function parseLines(text: string, where: string): readonly [CsvLine, ...CsvLine[]] {
  const options = { bom: true, info: true, trim: true, skip_empty_lines: true, relax_column_count: true } as const
  let lines: CsvLine[]
  try {
    const records = parse(text, options) as unknown as { record: string[]; info: { lines: number } }[]
    lines = records.map(({ record, info }) => ({ fields: record, line: info.lines }))
  } catch (error) {
    throw noTable(where, error instanceof Error ? error.message : String(error), error)
  }
  const [header, ...rows] = lines
  if (header === undefined) throw noTable(where, 'it is empty')
  const names = header.fields.filter((name) => name !== '')
  const twice = names.find((name, i) => names.indexOf(name) < i)
  if (twice !== undefined) throw noTable(where, `two of its columns are called "${twice}"`)
  return [header, ...rows]
}

function noTable(where: string, what: string, cause?: unknown): FlexitError {
  return new FlexitError({
    code: 'INVALID_ARGUMENT',
    message: `${where} is not a table of comma-separated values: ${what}`,
    cure: 'Save it as CSV with a header that names each column once; texts with commas or quotes are put into "…".',
    cause,
  })
}

/** Text of a table; undefined is an empty field. Numbers are written so that they read back to the same bits. */
export function formatCsv(rows: readonly Readonly<Record<string, string | number | undefined>>[]): string {
  const columns = Object.keys(rows[0] ?? {})
  const lines = [columns, ...rows.map((row) => columns.map((column) => row[column]))]
  return lines.map((fields) => `${fields.map((value) => quoted(String(value ?? ''))).join(',')}\n`).join('')
}

function quoted(text: string): string {
  return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
