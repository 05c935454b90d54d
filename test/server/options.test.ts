// Options of the server: where they come from, and what is said of wrong ones.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { optionNames, resolveOptions, variableName } from '../../src/server/options.js'

function write(t: ExecutionContext, text: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'flexit-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'options.json')
  writeFileSync(path, text)
  return path
}

test('flags come before variables, variables before the file, the file before defaults', (t) => {
  const file = write(t, JSON.stringify({ port: 1, maxSteps: 1, pack: ['file'], device: ['cuda:0'] }))
  const environment = { FLEXIT_PORT: '2', FLEXIT_MAX_STEPS: '2', FLEXIT_DEVICE: 'cpu,cpu:1', UNRELATED: 'x' }
  const options = resolveOptions({ flags: { port: '3', logLevel: undefined }, environment, file })
  t.like(options, { port: 3, maxSteps: 2, pack: ['file'], host: '127.0.0.1', logLevel: 'info' })
  t.deepEqual(options.device, ['cpu', 'cpu:1'])
})

test('all that is wrong is said at once, and where it comes from', (t) => {
  const file = write(t, JSON.stringify({ colour: 'red', host: 7 }))
  const environment = { FLEXIT_MAX_STEPS: 'many', FLEXIT_DEVICE: 'gpu' }
  const flags = { port: '70000', tlsKey: 'x' }
  const error = t.throws(() => resolveOptions({ flags, environment, file }), { code: 'INVALID_ARGUMENT' })
  for (const part of ['colour in ', 'host in ', 'FLEXIT_MAX_STEPS', 'FLEXIT_DEVICE', '--port']) {
    t.true(error.message.includes(part), part)
  }
  const nothing = write(t, JSON.stringify({ threads: false, drainMs: null }))
  t.throws(() => resolveOptions({ flags: {}, environment: {}, file: nothing }), { message: /threads in[^]*drainMs in/ })
  t.throws(() => resolveOptions({ flags: { tlsKey: 'x' }, environment: {} }), { message: /belong together/ })
  t.throws(() => resolveOptions({ flags: { tlsClientCa: 'x' }, environment: {} }), { message: /tls-client-ca needs/ })
  const wrong: [flags: object, message: RegExp][] = [
    [{ device: ['cpu', 'cpu'] }, /--device: A device is named twice/],
    [{ device: ['cpu', 'cpu:0'] }, /--device: A device is named twice/],
    [{ pack: ['tiny', 'tiny'] }, /--pack: A pack is named twice/],
    [{ pack: [] }, /--pack/],
    [{ maxBatch: '64' }, /--max-residents is less than --max-batch/],
    [{ maxWaitingBytesPerTenant: '1024' }, /--max-waiting-bytes-per-tenant is less than --max-image-bytes/],
    [{ maxEdits: '0', ageMs: '0' }, /--max-edits[^]*--age-ms/],
    [{ port: '9464' }, /--port and --metrics-port are the same/],
    [{ port: '' }, /--port: Use a whole number/],
    [{ drainMs: ' ' }, /--drain-ms: Use a whole number/],
    [{ host: '' }, /--host/],
    [{ orca: 'yes' }, /--orca: Use true or false/],
    [{ otlpEndpoint: 'ftp://collector' }, /--otlp-endpoint: Use a URL/],
  ]
  for (const [given, message] of wrong) {
    t.throws(() => resolveOptions({ flags: { ...given }, environment: {} }), { code: 'INVALID_ARGUMENT', message })
  }
})

test('a variable of ours that is misspelt is not passed over', (t) => {
  const environment = { FLEXIT_AUTHFILE: 'tokens.json', FLEXIT_AUTH_FIL: 'x' }
  const message = /FLEXIT_AUTHFILE: there is no such option\n {2}FLEXIT_AUTH_FIL: there is no such option/
  t.throws(() => resolveOptions({ flags: {}, environment }), { code: 'INVALID_ARGUMENT', message })
  const others = {
    FLEXIT_HOME: '/x',
    FLEXIT_TOKEN: 'x',
    FLEXIT_DEBUG: '1',
    FLEXIT_SERVICE_HOST: '10.0.0.1',
    FLEXIT_SERVICE_PORT_GRPC: '50051',
    FLEXIT_PORT_50051_TCP_ADDR: '10.0.0.1',
    FLEXIT_WEB_SERVICE_PORT: '80',
    FLEXIT_GATEWAY_PORT: 'tcp://10.0.0.1:80',
  }
  t.notThrows(() => resolveOptions({ flags: {}, environment: others }))
})

test('files that cannot be used', (t) => {
  const read = (file: string) => () => resolveOptions({ flags: {}, environment: {}, file })
  t.throws(read('/nowhere/options.json'), { code: 'NOT_FOUND' })
  for (const text of ['', '[]', '7', '{']) t.throws(read(write(t, text)), { code: 'INVALID_ARGUMENT' })
})

test('both ports may be any that are free', (t) => {
  t.notThrows(() => resolveOptions({ flags: { port: '0', metricsPort: '0' }, environment: {} }))
})

test('what is printed can be read again', (t) => {
  const lists = { device: ['cpu', 'cpu:1'], pack: ['tiny', 'other'] }
  const flags = { tlsCert: 'a', tlsKey: 'b', orca: 'true', otlpEndpoint: 'http://localhost:4318', ...lists }
  const options = resolveOptions({ flags, environment: {} })
  t.deepEqual(resolveOptions({ flags: {}, environment: {}, file: write(t, JSON.stringify(options)) }), options)
  t.is(variableName('maxSteps'), 'FLEXIT_MAX_STEPS')
  t.is(new Set(optionNames.map(variableName)).size, optionNames.length)
})
