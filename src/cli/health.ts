// `flexit health`: asks a server how it is, for a container's health check and for probes that run a command.
// https://grpc.io/docs/guides/health-checking/

import { type ChannelCredentials, Client, type ServiceError, status as codes } from '@grpc/grpc-js'
import type { MethodDefinition } from '@grpc/proto-loader'
import { Command } from 'commander'
import { service as healthService } from 'grpc-health-check'
import { channelCredentials } from '../client/channel.js'
import { FlexitError, invalidArgument } from '../engine/errors.js'
import { CertificateFiles } from '../server/certificate-files.js'
import { parseCount } from './parameters.js'
import { type TlsFlags, addTlsOptions, tlsOf } from './remote.js'

interface HealthOptions extends TlsFlags {
  readonly server?: string
  readonly service: string
  readonly timeout: number
}

const checkMethod = healthService['Check'] as MethodDefinition<{ service: string }, { status: string }>

const notes = `
The services of \`flexit serve\`: flexit.v1.Editor takes edits, flexit.v1.Liveness works (also while it drains); without a
name: both. The answer is printed; anything but SERVING is an error.

Without --server and --tls… the server of this machine is meant, as $FLEXIT_PORT, $FLEXIT_TLS_CERT, $FLEXIT_TLS_KEY and
$FLEXIT_TLS_CLIENT_CA describe it. Its certificate is not verified then: it need not be one of localhost. A server that asks
for certificates is shown its own: it must be by an authority of $FLEXIT_TLS_CLIENT_CA, and fit for clients too (clientAuth).
Probes that speak no TLS ask http://HOST:$FLEXIT_METRICS_PORT/ready and /live instead: 200, or 503.`

export function healthCommand(): Command {
  const command = new Command('health')
    .summary('ask a server whether it is well')
    .description(
      'Ask a server whether it is well. Ends with 0 if it is serving, with 1 if it is not or cannot be reached.',
    )
    .option('--server <host:port>', 'its address (default: localhost:$FLEXIT_PORT, or localhost:50051)')
    .option('--service <name>', 'one of its services', '')
    .option('--timeout <ms>', 'how long to wait for the answer', parseCount, 3000)
  return addTlsOptions(command).addHelpText('after', notes).action(health)
}

async function health({ service, timeout, ...options }: HealthOptions) {
  const { FLEXIT_PORT: port = '50051', FLEXIT_TLS_CERT: ownCert } = process.env
  const { server = `localhost:${port}` } = options
  if (!/^\S+:\d{1,5}$/.test(server))
    throw invalidArgument('server', `"${server}" is not HOST:PORT`, 'Name it as localhost:50051.')
  const tls = tlsOf(options)
  const isOwn = options.server === undefined && tls === undefined && ownCert !== undefined
  const client = new Client(server, isOwn ? ownCredentials() : channelCredentials(tls))
  try {
    const status = await check(client, service, timeout).catch((error: unknown) => {
      throw translated(server, service, error as ServiceError)
    })
    console.log(status)
    if (status !== 'SERVING') throw unwell(server, `it says ${status}`)
  } finally {
    client.close()
  }
}

/**
 * Of the server whose options the variables are. To one that asks for certificates its own is shown. Errors: those of
 * CertificateFiles, then.
 */
function ownCredentials(): ChannelCredentials {
  const { FLEXIT_TLS_CERT: cert, FLEXIT_TLS_KEY: key, FLEXIT_TLS_CLIENT_CA: authorities } = process.env
  if (cert === undefined || key === undefined || authorities === undefined)
    return channelCredentials({}, { rejectUnauthorized: false })
  // Says which file is wrong, where TLS would only have a number.
  new CertificateFiles({ certificate: cert, key, authorities })
  return channelCredentials({ cert, key }, { rejectUnauthorized: false })
}

/** Errors: ServiceError. */
function check(client: Client, service: string, timeoutMs: number): Promise<string> {
  const { path, requestSerialize, responseDeserialize } = checkMethod
  const deadline = Date.now() + timeoutMs
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(path, requestSerialize, responseDeserialize, { service }, { deadline }, (error, answer) =>
      error === null ? resolve(answer!.status) : reject(error),
    )
  })
}

function translated(server: string, service: string, error: ServiceError): FlexitError {
  if (error.code === codes.NOT_FOUND) {
    return invalidArgument(
      'service',
      `the server at ${server} has no service "${service}"`,
      'See `flexit health --help`.',
    )
  }
  return unwell(server, error.details, error)
}

function unwell(server: string, why: string, cause?: ServiceError): FlexitError {
  return new FlexitError({
    code: 'UNAVAILABLE',
    message: `the server at ${server} is not well: ${why}`,
    cure: 'See its log; it may be starting, draining, or gone.',
    ...(cause === undefined ? {} : { cause }),
  })
}
