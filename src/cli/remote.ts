// The options of commands that turn to servers, and what the client library makes of them.
// See `flexit serve --help` for the other end.

import type { Command } from 'commander'
import type { TlsOptions } from '../client/channel.js'
import type { ConnectOptions } from '../client/client.js'
import { invalidArgument } from '../engine/errors.js'

export interface TlsFlags {
  readonly tls?: boolean
  readonly tlsCa?: string
  readonly tlsCert?: string
  readonly tlsKey?: string
}

export interface RemoteOptions extends TlsFlags {
  readonly server?: string
  readonly token?: string
}

/** What `connect` is to be told. Errors: INVALID_ARGUMENT. */
export function connectionOf({ token = process.env['FLEXIT_TOKEN'], ...flags }: RemoteOptions): ConnectOptions {
  const tls = tlsOf(flags)
  return { ...(token === undefined ? {} : { token }), ...(tls === undefined ? {} : { tls }) }
}

/** Undefined: plain text. Errors: INVALID_ARGUMENT. */
export function tlsOf({ tls, tlsCa: ca, tlsCert: cert, tlsKey: key }: TlsFlags): TlsOptions | true | undefined {
  if ((cert === undefined) !== (key === undefined)) {
    throw invalidArgument('tlsCert', '--tls-cert and --tls-key belong together', 'Give both.')
  }
  if (ca === undefined && cert === undefined) return tls === true ? true : undefined
  return { ...(ca === undefined ? {} : { ca }), ...(cert === undefined || key === undefined ? {} : { cert, key }) }
}

export function addRemoteOptions(command: Command): Command {
  command
    .optionsGroup('On a server:')
    .option('--server <host:port>', 'let a server do it: see `flexit serve`; several, separated by commas')
  return addConnectionOptions(command)
}

/** How to speak with the server that is named otherwise. */
export function addConnectionOptions(command: Command): Command {
  return addTlsOptions(command.option('--token <text>', 'of the server (default: $FLEXIT_TOKEN)'))
}

export function addTlsOptions(command: Command): Command {
  return command
    .option('--tls', 'speak TLS with the server')
    .option('--tls-ca <file>', 'PEM file of the authority to trust; means --tls')
    .option('--tls-cert <file>', 'PEM file of a certificate to show; means --tls')
    .option('--tls-key <file>', 'PEM file of its private key')
}

/** Options that mean something only here, or only on a server. Errors: INVALID_ARGUMENT. */
export function checkServerOptions(options: Readonly<Record<string, unknown>>): void {
  const isRemote = options['server'] !== undefined
  const foreign = isRemote ? ['device', 'threads'] : ['token', 'tls', 'tlsCa', 'tlsCert', 'tlsKey']
  const name = foreign.find((name) => options[name] !== undefined)
  if (name === undefined) return
  const flag = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
  const [message, cure] = isRemote
    ? [`${flag} cannot be given with --server`, 'The server chooses; leave it out.']
    : [`${flag} means nothing without --server`, 'Name the server, or leave it out.']
  throw invalidArgument(name, message, cure)
}
