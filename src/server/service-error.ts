// Errors as grpc-js ends a call with them: the one place where the server's errors take their form on the wire.
// https://github.com/grpc/proposal/blob/master/A0-grpc-nodejs.md, with google.rpc details in a trailer.

import { Metadata, type ServiceError } from '@grpc/grpc-js'
import { serialiseStatus, toStatus } from '../proto/status.js'

export function toServiceError(error: unknown): ServiceError {
  const status = toStatus(error)
  const metadata = new Metadata()
  metadata.set('grpc-status-details-bin', serialiseStatus(status))
  return Object.assign(new Error(status.message), {
    code: status.code,
    details: status.message,
    metadata,
  })
}
