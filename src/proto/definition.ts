// The contract as grpc-js takes it, read from proto/. Field names in camel case, enums by name, 64-bit integers as numbers.
// Follows https://github.com/grpc/grpc-node/tree/master/packages/proto-loader.

import { fileURLToPath } from 'node:url'
import {
  loadSync,
  type MessageTypeDefinition,
  type PackageDefinition,
  type ServiceDefinition,
} from '@grpc/proto-loader'

export const contractFolder = fileURLToPath(new URL('../../../proto', import.meta.url))

export const contractFile = 'flexit/v1/editor.proto'

export const packageDefinition: PackageDefinition = loadSync([contractFile, 'google/rpc/error_details.proto'], {
  includeDirs: [contractFolder],
  longs: Number,
  enums: String,
  defaults: true,
  arrays: true,
  oneofs: true,
})

export const serviceName = 'flexit.v1.Editor'

export const editorService = packageDefinition[serviceName] as ServiceDefinition

/** A message type of the contract, by its full name. */
export function messageType<T extends object>(name: string): MessageTypeDefinition<T, T> {
  const found = packageDefinition[name]
  if (found === undefined || !('deserialize' in found)) throw new Error(`${name} is not a message of the contract`)
  return found as unknown as MessageTypeDefinition<T, T>
}
