// The metrics over HTTP, on a port of their own: GET or HEAD /metrics, whatever its query.
// https://prometheus.io/docs/instrumenting/exposition_formats/

import { type Server, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { FlexitError } from '../engine/errors.js'
import type { Metrics } from './metrics.js'

export interface MetricsServer {
  readonly port: number
  close(): void
}

/** Errors: FAILED_PRECONDITION where the port cannot be had. */
export async function serveMetrics({ registry }: Metrics, host: string, port: number): Promise<MetricsServer> {
  const server = createServer((request, response) => {
    const [path] = (request.url ?? '').split('?')
    if (path !== '/metrics' || !['GET', 'HEAD'].includes(request.method ?? '')) {
      response.writeHead(404).end('GET /metrics\n')
      return
    }
    registry.metrics().then(
      (text) => response.writeHead(200, { 'content-type': registry.contentType }).end(text),
      () => response.writeHead(500).end(),
    )
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
