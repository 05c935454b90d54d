// The metrics over HTTP, on a port of their own, and health for probes that speak no TLS: GET or HEAD /metrics, /live and
// /ready, whatever the query. https://prometheus.io/docs/instrumenting/exposition_formats/

import { type Server, type ServerResponse, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { FlexitError } from '../engine/errors.js'
import type { Health } from './health.js'
import type { Metrics } from './metrics.js'

export interface MetricsServer {
  readonly port: number
  close(): void
}

/** 200 while a restart would not help, else 503: as flexit.v1.Liveness. */
export const livePath = '/live'
/** 200 while edits are taken, else 503: as flexit.v1.Editor. */
export const readyPath = '/ready'

export interface MetricsServerSetup {
  readonly metrics: Metrics
  readonly health: Health
  readonly host: string
  /** 0: any that is free. */
  readonly port: number
}

/** Errors: FAILED_PRECONDITION where the port cannot be had. */
export async function serveMetrics({ metrics, health, host, port }: MetricsServerSetup): Promise<MetricsServer> {
  const { registry } = metrics
  const answers: Readonly<Record<string, (response: ServerResponse) => void>> = {
    '/metrics': (response) => {
      registry.metrics().then(
        (text) => response.writeHead(200, { 'content-type': registry.contentType }).end(text),
        () => response.writeHead(500).end(),
      )
    },
    [livePath]: (response) => tell(response, health.alive),
    [readyPath]: (response) => tell(response, health.takesEdits),
  }
  const server = createServer((request, response) => {
    const [path = ''] = (request.url ?? '').split('?')
    const answer = Object.hasOwn(answers, path) ? answers[path] : undefined
    if (answer !== undefined && ['GET', 'HEAD'].includes(request.method ?? '')) answer(response)
    else response.writeHead(404).end(`GET ${Object.keys(answers).join(', ')}\n`)
  })
  await listen(server, host, port)
  return {
    port: (server.address() as AddressInfo).port,
    close: () => {
      server.close()
      server.closeAllConnections()
    },
  }
}

function tell(response: ServerResponse, well: boolean): void {
  response.writeHead(well ? 200 : 503).end(well ? 'SERVING\n' : 'NOT_SERVING\n')
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(cannotListen('metrics', host, port, error)))
    server.listen(port, host, resolve)
  })
}

/** A port that cannot be had. */
export function cannotListen(what: string, host: string, port: number, cause: Error): FlexitError {
  return new FlexitError({
    code: 'FAILED_PRECONDITION',
    message: `cannot listen for ${what} on ${host}:${port}: ${cause.message}`,
    cure: 'Choose another port or address, or end what uses it.',
    cause,
  })
}
