// Structured logs, one line of JSON each on stderr: ids and numbers, never pictures, texts or tokens.
// https://getpino.io

import { destination, pino } from 'pino'

export type { Logger } from 'pino'

export function createLogger(level: string) {
  return pino({ level, base: null, redact: ['*.authorization', '*.image', '*.token'] }, destination(2))
}
