// Asks a server how it is, as probes of Kubernetes and load balancers do.
// https://grpc.io/docs/guides/health-checking/

import { Client, type ServiceDefinition, credentials, loadPackageDefinition } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { protoPath } from 'grpc-health-check'

export type Health = 'SERVING' | 'NOT_SERVING' | 'unreachable'

const { Health: service } = (
  loadPackageDefinition(loadSync(protoPath, { enums: String })) as unknown as {
    grpc: { health: { v1: { Health: { service: ServiceDefinition } } } }
  }
).grpc.health.v1
const { path, requestSerialize, responseDeserialize } = service.service['Check']!

/** Over a connection of its own, as a probe has. */
export function health(address: string): Promise<Health> {
  const client = new Client(address, credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
    'grpc.enable_retries': 0,
  })
  return new Promise((resolve) => {
    const deadline = Date.now() + 2_000
    const decode = responseDeserialize as (bytes: Buffer) => { status: string }
    client.makeUnaryRequest(path, requestSerialize, decode, {}, { deadline }, (error, answer) => {
      client.close()
      if (error !== null) resolve('unreachable')
      else resolve(answer?.status === 'SERVING' ? 'SERVING' : 'NOT_SERVING')
    })
  })
}
