// Whom a call may make the server hold bytes for: grpc-js reads a request as a whole before its handler hears of the call,
// so strangers are refused at the metadata, and what needs no token may be no longer than it has reason to be.
// A server interceptor: https://github.com/grpc/proposal/blob/master/L112-node-server-interceptors.md.

import { ServerInterceptingCall, type ServerInterceptor, ServerListenerBuilder } from '@grpc/grpc-js'
import { serviceName } from '../proto/definition.js'
import type { Tenants } from './auth.js'
import { limitRequest } from './connection.js'
import { toServiceError } from './service-error.js'

/** Of health, reflection and load reports: names. */
const maxOpenBytes = 64 * 1024

/** To be the last of the interceptors, for the others to see what is refused. */
export function guardCalls({ authenticate }: Pick<Tenants, 'authenticate'>): ServerInterceptor {
  return ({ path }, call) => {
    if (!path.startsWith(`/${serviceName}/`)) {
      limitRequest(call, maxOpenBytes)
      return new ServerInterceptingCall(call)
    }
    const listener = new ServerListenerBuilder().withOnReceiveMetadata((metadata, next) => {
      try {
        authenticate(metadata)
      } catch (error) {
        const { code, details, metadata: trailers } = toServiceError(error)
        call.sendStatus({ code, details, metadata: trailers })
        return
      }
      next(metadata)
    })
    return new ServerInterceptingCall(call, { start: (next) => next(listener.build()) })
  }
}
