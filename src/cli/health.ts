// `flexit health`: asks a server how it is, for a container's health check and for probes that run a command.
// https://grpc.io/docs/guides/health-checking/

import { Client, type ServiceError, status as codes } from '@grpc/grpc-js'
import type { MethodDefinition } from '@grpc/proto-loader'
import { Command } from 'commander'
import { service as healthService } from 'grpc-health-check'
import { channelCredentials } from '../client/channel.js'
import { FlexitError, invalidArgument } from '../engine/errors.js'
import { parseCount } from './parameters.js'

interface HealthOptions {
  readonly server: string
  readonly service: string
  readonly timeout: number
  readonly tls?: boolean
  readonly tlsCa?: string
  readonly tlsCert?: string
  readonly tlsKey?: string
}

const checkMethod = healthService['Check'] as MethodDefinition<{ service: string }, { status: string }>

const notes = `
The services of \`flexit serve\`: flexit.v1.Editor takes edits, flexit.v1.Liveness works (also while it drains); without a
name: both. The answer is printed; anything but SERVING is an error.`

export function healthCommand(): Command {
  const port = process.env['FLEXIT_PORT'] ?? '50051'
  return new Command('health')
    .summary('ask a server whether it is well')
    .description(
      'Ask a server whether it is well. Ends with 0 if it is serving, with 1 if it is not or cannot be reached.',
    )
    .option('--server <host:port>', 'its address; the port: $FLEXIT_PORT', `localhost:${port}`)
    .option('--service <name>', 'one of its services', '')
    .option('--timeout <ms>', 'how long to wait for the answer', parseCount, 3000)
    .option('--tls', 'speak TLS with it')
    .option('--tls-ca <file>', 'PEM file of the authority to trust; means --tls')
    .option('--tls-cert <file>', 'PEM file of a certificate to show; means --tls')
    .option('--tls-key <file>', 'PEM file of its private key')
    .addHelpText('after', notes)
    .action(health)
}

async function health({ server, service, timeout, tls, tlsCa: ca, tlsCert: cert, tlsKey: key }: HealthOptions) {
  if (!/^\S+:\d{1,5}$/.test(server)) throw invalidArgument('server', `${server} is not HOST:PORT`)
  if ((cert === undefined) !== (key === undefined)) {
    throw invalidArgument('tlsCert', '--tls-cert and --tls-key belong together')
  }
  const files = {
    ...(ca !== undefined && { ca }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
  }
  const secure = tls === true || ca !== undefined || cert !== undefined
  const client = new Client(server, channelCredentials(secure ? files : undefined))
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
