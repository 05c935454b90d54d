// Errors on their way over the wire: what of them arrives, and that none is too long for headers.
// https://google.aip.dev/193

import test from 'ava'
import { invalidArgument } from '../../src/engine/errors.js'
import { WireError, fromStatus, parseStatus, serialiseStatus, toStatus } from '../../src/proto/status.js'

test('an error arrives as it was', (t) => {
  const options = {
    code: 'RESOURCE_EXHAUSTED',
    message: 'full',
    cure: 'Wait.',
    field: 'image',
    retryAfterMs: 1500,
  } as const
  const sent = new WireError({ ...options, resource: { type: 'edit', name: 'a' } })
  const { status, message, cure, field, retryAfterMs, resource } = fromStatus(
    parseStatus(serialiseStatus(toStatus(sent)))!,
  )
  t.deepEqual({ code: status, message, cure, field, retryAfterMs }, options)
  t.deepEqual(resource, { type: 'edit', name: 'a' })
})

test('what is told is short enough for headers, whatever it quotes', (t) => {
  const status = toStatus(invalidArgument('networks', 'ü'.repeat(100_000), '\ud800'.repeat(100_000)))
  t.true(serialiseStatus(status).length < 10_000)
  const { message, cure } = fromStatus(status)
  t.regex(message, /^ü{1000}…$/)
  t.regex(cure!, /^\ufffd{1000}…$/)
})

test('the words of what is no error of ours stay here', (t) => {
  const { message } = toStatus(new Error('a secret'))
  t.false(message.includes('secret'))
})

test('a detail that cannot be read hides nothing else', (t) => {
  const { details, ...status } = toStatus(new WireError({ code: 'RESOURCE_EXHAUSTED', message: 'full', cure: 'Wait.' }))
  const types = ['BadRequest', 'RetryInfo', 'ResourceInfo', 'ErrorInfo']
  const broken = types.map((type) => ({
    type_url: `type.googleapis.com/google.rpc.${type}`,
    value: Buffer.from([0x0a, 0xff, 0xff]),
  }))
  t.like(fromStatus({ ...status, details: [...broken, ...details] }), { message: 'full', cure: 'Wait.' })
})
