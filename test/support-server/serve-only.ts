// A server that does what a test says, right or wrong.

import { Server, ServerCredentials, type UntypedServiceImplementation } from '@grpc/grpc-js'
import type { ExecutionContext } from 'ava'
import { editorService } from '../../src/proto/definition.js'
import type { EditRequest } from '../../src/proto/messages.js'
import type { EditCall } from '../../src/server/edit-stream.js'

/** The address of a server whose `Edit` does only this; `calls`: of its other ones. */
export async function serveOnly(
  t: ExecutionContext,
  onRequest: (request: EditRequest, call: EditCall) => void,
  calls: UntypedServiceImplementation = {},
) {
  const server = new Server()
  server.addService(editorService, {
    Edit: (call: EditCall) => {
      call.on('data', (request: EditRequest) => onRequest(request, call))
      call.on('end', () => call.end())
    },
    ...calls,
  })
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  )
  t.teardown(() => server.forceShutdown())
  return `127.0.0.1:${port}`
}
