// Counts, times and traces every call, of any service, by its method and the code that it ended with.
// A server interceptor: https://github.com/grpc/proposal/blob/master/L112-node-server-interceptors.md.

import {
  type ServerInterceptor,
  ResponderBuilder,
  ServerInterceptingCall,
  ServerListenerBuilder,
  status as codes,
} from '@grpc/grpc-js'
import type { LoadReports } from './load-reports.js'
import type { Metrics } from './metrics.js'
import type { CallTrace, Tracing } from './tracing.js'

/** By whether requests and responses are streams; words as in https://github.com/grpc-ecosystem/go-grpc-middleware. */
const callTypes = {
  'false false': 'unary',
  'false true': 'server_stream',
  'true false': 'client_stream',
  'true true': 'bidi_stream',
} as const

export interface CallWatch {
  readonly metrics: Metrics
  readonly tracing: Tracing | undefined
  /** Go out with the end of every call. */
  readonly reports: LoadReports | undefined
}

export function watchCalls({ metrics, tracing, reports }: CallWatch): ServerInterceptor {
  return (method, call) => {
    const labels = {
      grpc_method: method.path.slice(1),
      grpc_type: callTypes[`${method.requestStream} ${method.responseStream}`],
    }
    const startedMs = performance.now()
    let handled = false
    let trace: CallTrace | undefined
    metrics.callsStarted.inc(labels)
    const handle = (code: codes) => {
      // A cancellation is told after every end, also a good one.
      if (handled) return
      handled = true
      const ended = { ...labels, grpc_code: codes[code] }
      trace?.ended(code)
      metrics.callsHandled.inc(ended)
      metrics.callSeconds.observe(ended, (performance.now() - startedMs) / 1000)
    }
    const listener = new ServerListenerBuilder().withOnReceiveMetadata((metadata, next) => {
      trace = tracing?.call(method.path, metadata)
      next(metadata)
    })
    const responder = new ResponderBuilder()
      .withStart((next) => next(listener.withOnCancel(() => handle(codes.CANCELLED)).build()))
      .withSendStatus((status, next) => {
        handle(status.code)
        reports?.record(call.getMetricsRecorder())
        next(status)
      })
    return new ServerInterceptingCall(call, responder.build())
  }
}
