// Tables of text: comma-separated values as RFC 4180 has them, with a header.
// https://www.rfc-editor.org/rfc/rfc4180

import { readFile } from 'node:fs/promises'
import { parse } from 'csv-parse/sync'
import { FlexitError, fileError } from '../engine/errors.js'

/** A line after the header, by column. */
export type CsvRow = Readonly<Record<string, string>>

export interface Csv {
  readonly columns: readonly string[]
  readonly rows: readonly CsvRow[]
}

/**
 * Read a file. Empty lines are left out. Errors: those of reading; INVALID_ARGUMENT for a file that is no table: no
 * header, columns of the same name, a line with another number of fields, a quote that does not end, not UTF-8.
 */
export async function readCsv(path: string): Promise<Csv> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw fileError(error, path, 'read')
  })
  return parseCsv(decodeTable(bytes, path), path)
}

/** The text of a file. Errors: INVALID_ARGUMENT, naming the first line that is not UTF-8. */
export function decodeTable(bytes: Uint8Array, path: string): string {
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

/** The same from a text; `where` names it in messages. */
export function parseCsv(text: string, where: string): Csv {
  const reject = (what: string, cause?: unknown) =>
    new FlexitError({
      code: 'INVALID_ARGUMENT',
      message: `${where} is not a table of comma-separated values: ${what}`,
      cure: 'Save it as CSV with a header, in UTF-8.',
      cause,
    })
  let lines: string[][]
  try {
    lines = parse(text, { bom: true, skipEmptyLines: true })
  } catch (error) {
    throw reject(error instanceof Error ? error.message : String(error), error)
  }
  const [columns, ...rest] = lines
  if (columns === undefined) throw reject('it is empty')
  if (new Set(columns).size < columns.length) throw reject('two of its columns have the same name')
  return { columns, rows: rest.map((fields) => Object.fromEntries(columns.map((column, i) => [column, fields[i]!]))) }
}

/** Text of a table; undefined is an empty field. Numbers are written so that they read back to the same bits. */
export function formatCsv(rows: readonly Readonly<Record<string, string | number | undefined>>[]): string {
  const columns = Object.keys(rows[0] ?? {})
  const lines = [columns, ...rows.map((row) => columns.map((column) => row[column]))]
  return lines.map((fields) => `${fields.map((value) => quoted(String(value ?? ''))).join(',')}\n`).join('')
}

function quoted(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
