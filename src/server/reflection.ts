// The contract as reflection tells it to tools: https://grpc.io/docs/guides/reflection/.
// proto-loader describes each package as one file, which lacks its imports: tools refuse it. They are added here. Maps it
// describes wrongly too, so that the details of errors, which the service does not name, are left out.

import { type MessageTypeDefinition, type PackageDefinition, loadSync } from '@grpc/proto-loader'
import { protoPath as healthProtoPath } from 'grpc-health-check'
import { contractFile, contractFolder } from '../proto/definition.js'

/** What reflection is to describe, with fields named as in the contract. */
export function reflectedDefinition(): PackageDefinition {
  const contract = loadSync(contractFile, { includeDirs: [contractFolder], keepCase: true })
  addImports(contract)
  return { ...contract, ...loadSync(healthProtoPath, { keepCase: true }) }
}

function addImports(definition: PackageDefinition): void {
  for (const [name, value] of Object.entries(definition)) {
    if (!isMessage(value)) continue
    // All messages that were loaded together have the same list.
    const files = value.fileDescriptorProtos
    const { field = [] } = value.type as { readonly field?: readonly { readonly typeName: string }[] }
    for (const { typeName } of field) {
      const imported = fileOf(resolve(typeName, name, definition) ?? name)
      const at = files.findIndex((bytes) => nameOf(bytes) === fileOf(name))
      const added = dependency(imported)
      if (imported !== fileOf(name) && !files[at]!.includes(added)) files[at] = Buffer.concat([files[at]!, added])
    }
  }
}

function isMessage(value: PackageDefinition[string]): value is MessageTypeDefinition<object, object> {
  return Array.isArray(value.fileDescriptorProtos)
}

/** The full name of a type as `scope` calls it: https://protobuf.dev/programming-guides/proto3/#name-resolution. */
function resolve(typeName: string, scope: string, definition: PackageDefinition): string | undefined {
  for (let at = scope; at !== ''; at = at.slice(0, Math.max(at.lastIndexOf('.'), 0))) {
    const name = `${at}.${typeName}`
    if (name in definition) return name
  }
  return typeName in definition ? typeName : undefined
}

/** The file in which proto-loader describes a message that is in no other. */
function fileOf(message: string): string {
  return `${message.slice(0, message.lastIndexOf('.')).replaceAll('.', '_')}.proto`
}

/** Of a FileDescriptorProto; its field 1 comes first. */
function nameOf(bytes: Buffer): string {
  return bytes.toString('utf8', 2, 2 + bytes[1]!)
}

/** Field 3 of a FileDescriptorProto: lists may go on anywhere in a message. */
function dependency(file: string): Buffer {
  return Buffer.from(`\x1a${String.fromCharCode(file.length)}${file}`)
}
