// Counts and times every call, of any service, by its method and the code that it ended with.
// A server interceptor: https://github.com/grpc/proposal/blob/master/L112-node-server-interceptors.md.

import {
  type ServerInterceptor,
  ResponderBuilder,
  ServerInterceptingCall,
  ServerListenerBuilder,
  status as codes,
} from '@grpc/grpc-js'
import type { Metrics } from './metrics.js'

/** By whether requests and responses are streams; words as in https://github.com/grpc-ecosystem/go-grpc-middleware. */
const callTypes = {
  'false false': 'unary',
  'false true': 'server_stream',
  'true false': 'client_stream',
  'true true': 'bidi_stream',
} as const

export function callMetrics(metrics: Metrics): ServerInterceptor {
  return (method, call) => {
    const labels = {
      grpc_method: method.path.slice(1),
      grpc_type: callTypes[`${method.requestStream} ${method.responseStream}`],
    }
    const startedMs = performance.now()
    let handled = false
    metrics.callsStarted.inc(labels)
    const handle = (code: codes) => {
      // A cancellation is told after every end, also a good one.
      if (handled) return
      handled = true
      metrics.callsHandled.inc({ ...labels, grpc_code: codes[code] })
      metrics.callSeconds.observe(labels, (performance.now() - startedMs) / 1000)
    }
    const listener = new ServerListenerBuilder().withOnReceiveMetadata((metadata, next) => next(metadata))
    const responder = new ResponderBuilder()
      .withStart((next) => next(listener.withOnCancel(() => handle(codes.CANCELLED)).build()))
      .withSendStatus((status, next) => {
        handle(status.code)
        next(status)
      })
    return new ServerInterceptingCall(call, responder.build())
  }
}
