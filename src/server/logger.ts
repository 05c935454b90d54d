// Structured logs, one line of JSON each on stderr: ids and numbers, never pictures, texts or tokens.
// https://getpino.io

import { type DestinationStream, destination, pino, stdSerializers } from 'pino'

export type { Logger } from 'pino'

/** Of errors only what they say: foreign ones may carry what they were given. */
function err(error: unknown): object {
  const { type, code, message, stack } = stdSerializers.err(error instanceof Error ? error : new Error(String(error)))
  return { type, code: code as unknown, message, stack }
}

export function createLogger(level: string, to: DestinationStream = destination(2)) {
  return pino({ level, base: null, serializers: { err } }, to)
}
