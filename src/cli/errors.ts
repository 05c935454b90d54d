// How errors are told: what happened and what to do, on stderr; a stack only to those who ask for it.

import { CommanderError } from 'commander'
import { FlexitError } from '../engine/errors.js'
import { WireError } from '../proto/status.js'
import { parameterKeys } from './parameters.js'
import { printable } from './printable.js'

/** Print an error and return the exit code that it asks for. With `json`, one line of JSON. */
export function reportError(error: unknown, { json }: { readonly json: boolean }): number {
  if (error instanceof CommanderError && error.exitCode === 0) return 0
  const told = translated(error)
  if (told === undefined) return 2
  const { code, field, cure } = told
  const message = printable(inFlags(told.message, field))
  if (json) {
    process.stderr.write(`${JSON.stringify({ error: { code, message, cure, field } })}\n`)
  } else {
    const what = code === 'CANCELLED' ? 'stopped' : 'error'
    process.stderr.write(`${what}: ${message}\n${cure === undefined ? '' : `${printable(cure)}\n`}`)
  }
  if (process.env['FLEXIT_DEBUG'] === '1') console.error(error)
  return code === 'CANCELLED' ? 130 : code === 'INVALID_ARGUMENT' ? 2 : 1
}

/** Undefined for help that was asked for in vain: commander has printed it. */
function translated(error: unknown): FlexitError | undefined {
  if (error instanceof WireError && error.status === 'UNAUTHENTICATED') {
    const { message } = error
    return new FlexitError({ code: error.code, message, cure: 'Give --token, or set FLEXIT_TOKEN.', cause: error })
  }
  if (error instanceof FlexitError) return error
  if (error instanceof CommanderError) return undefined
  return new FlexitError({
    code: 'INTERNAL',
    message: `something went wrong that should not: ${error instanceof Error ? error.message : String(error)}`,
    cure: 'Please report it, with what FLEXIT_DEBUG=1 prints when you run the command again.',
    cause: error,
  })
}

/** Parameters by the names that they have on the command line. */
function inFlags(message: string, field: string | undefined): string {
  const key = parameterKeys.find((name) => name === field && message.startsWith(`${name} `))
  if (key === undefined) return message
  return `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}${message.slice(key.length)}`
}
