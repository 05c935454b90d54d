// The options of commands that turn to servers, and what the client library makes of them.
// See `flexit serve --help` for the other end.

import type { Command } from 'commander'
import type { ConnectOptions } from '../client/client.js'
import { invalidArgument } from '../engine/errors.js'

export interface RemoteOptions {
  readonly server?: string
  readonly token?: string
  readonly tls?: boolean
  readonly tlsCa?: string
}

/** What `connect` is to be told. */
export function connectionOf({
  token = process.env['FLEXIT_TOKEN'],
  tls = false,
  tlsCa,
}: RemoteOptions): ConnectOptions {
  return {
    ...(token === undefined ? {} : { token }),
    ...(tlsCa !== undefined ? { tls: { ca: tlsCa } } : tls ? { tls: true } : {}),
  }
}

export function addRemoteOptions(command: Command): Command {
  return command
    .optionsGroup('On a server:')
    .option('--server <host:port>', 'let a server do it: see `flexit serve`; several, separated by commas')
    .option('--token <text>', 'of the server (default: $FLEXIT_TOKEN)')
    .option('--tls', 'speak TLS with the server')
    .option('--tls-ca <file>', 'PEM file of the authority to trust; means --tls')
}

/** Options that mean something only where the edit is made here. Errors: INVALID_ARGUMENT. */
export function checkRemote(options: Readonly<Record<string, unknown>>): void {
  const local = ['device', 'threads'].find((name) => options[name] !== undefined)
  if (local !== undefined) {
    throw invalidArgument(local, `--${local} cannot be given with --server`, 'The server chooses; leave it out.')
  }
}
