// What reflection describes: files that tools can put together. test/peers lets one try.

import test from 'ava'
import { reflectedDefinition } from '../../src/server/reflection.js'

test('files have their imports, and fields the names of the contract', (t) => {
  const definition = reflectedDefinition()
  const files = new Map(
    ['flexit.v1.StartEdit', 'grpc.health.v1.HealthCheckRequest'].flatMap((message) =>
      (definition[message]!.fileDescriptorProtos as Buffer[]).map((bytes) => {
        const text = bytes.toString('latin1')
        const [name, ...imported] = [...text.matchAll(/([a-z0-9_]+)\.proto(?!buf)/g)].map((match) => match[1]!)
        return [name!, { text, imported }] as const
      }),
    ),
  )
  t.deepEqual(
    [...files].map(([name, { imported }]) => [name, imported]),
    [
      ['flexit_v1', ['google_rpc']],
      ['google_protobuf', []],
      ['google_rpc', ['google_protobuf']],
      ['grpc_health_v1', []],
    ],
  )
  const { text } = files.get('flexit_v1')!
  t.true(text.includes('resume_from'))
  t.false(text.includes('resumeFrom'))
})
