// Traces as a collector receives them, over HTTP on a local port.
// https://opentelemetry.io/docs/specs/otlp/#otlphttp, in its JSON form.

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Metadata, status as codes } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { createLogger } from '../../src/server/logger.js'
import { openTracing } from '../../src/server/tracing.js'
import { serve, startEdit } from '../support-server/start.js'

interface Attribute {
  readonly key: string
  readonly value: { readonly stringValue?: string; readonly intValue?: number | string; readonly doubleValue?: number }
}

interface Span {
  readonly name: string
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId?: string
  readonly kind: number
  readonly attributes: readonly Attribute[]
  readonly events: readonly { readonly name: string; readonly attributes: readonly Attribute[] }[]
  readonly status: { readonly code?: number; readonly message?: string }
}

/** What was sent to a collector so far. */
async function collector(t: ExecutionContext) {
  const bodies: string[] = []
  const server = createServer((request, response) => {
    let body = ''
    request.setEncoding('utf8').on('data', (part: string) => (body += part))
    request.on('end', () => {
      bodies.push(`${request.url ?? ''} ${body}`)
      response.writeHead(200, { 'content-type': 'application/json' }).end('{}')
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  const spans = () =>
    bodies.flatMap((body) => {
      const { resourceSpans } = JSON.parse(body.slice(body.indexOf(' '))) as {
        resourceSpans: { scopeSpans: { spans: Span[] }[] }[]
      }
      return resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap(({ spans: own }) => own))
    })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, bodies, spans }
}

const setup = { version: '1.2.3', logger: createLogger('silent') }
const [traceId, spanId] = ['0af7651916cd43dd8448eb211c80319c', 'b7ad6b7169203331']

function value(attributes: readonly Attribute[], key: string) {
  const found = attributes.find((attribute) => attribute.key === key)?.value
  return (
    found?.stringValue ?? found?.doubleValue ?? (found?.intValue === undefined ? undefined : Number(found.intValue))
  )
}

test('calls and edits are spans of the caller’s trace', async (t) => {
  const { url, bodies, spans } = await collector(t)
  const options = { otlpEndpoint: url, maxSteps: 1000 }
  const tracing = await openTracing({ ...setup, options, environment: {} })
  const { peer } = await serve(t, { tracing: tracing! })
  const metadata = new Metadata()
  metadata.set('traceparent', `00-${traceId}-${spanId}-01`)
  const stream = peer.edit(metadata)
  stream.send('good', { start: startEdit({ parameters: { steps: 150 } }) })
  stream.send('bad', { start: startEdit({ targetText: 'explode' }) })
  stream.send('refused', { start: startEdit({ sourceText: '' }) })
  stream.end()
  await stream.over
  await t.throwsAsync(peer.unary('GetEdit', { editId: 'nowhere' }))
  await tracing!.close(10_000)

  t.true(bodies[0]!.startsWith('/v1/traces {'))
  t.true(bodies[0]!.includes('"flexit"') && bodies[0]!.includes('1.2.3'))
  for (const secret of ['red apple', 'tangerine', 'explode']) t.false(bodies.join('').includes(secret), secret)
  const called = (name: string) => spans().filter((span) => span.name === name)
  const [call] = called('flexit.v1.Editor/Edit')
  t.like(call, { traceId, parentSpanId: spanId, kind: 2 })
  t.is(value(call!.attributes, 'rpc.grpc.status_code'), 0)
  t.is(value(call!.attributes, 'rpc.method'), 'Edit')
  const edit = (id: string) => called('edit').find(({ attributes }) => value(attributes, 'flexit.edit.id') === id)!
  const good = edit('good')
  t.like(good, { traceId, parentSpanId: call!.spanId })
  t.deepEqual(
    good.events.map(({ name }) => name),
    ['admitted', 'started', ...Array<string>(150).fill('step')],
  )
  t.is(value(good.events.at(-1)!.attributes, 'step'), 149)
  t.is(typeof value(good.events.at(-1)!.attributes, 'loss'), 'number')
  t.is(value(good.attributes, 'flexit.edit.outcome'), 'completed')
  t.is(value(good.attributes, 'flexit.pack'), 'tiny')
  const [wait] = called('wait').filter(({ parentSpanId }) => parentSpanId === good.spanId)
  t.is(wait?.traceId, traceId)
  t.like(edit('bad').status, { code: 2, message: 'INTERNAL' })
  t.like(edit('refused').status, { code: 2, message: 'invalid_argument' })
  const [unary] = called('flexit.v1.Editor/GetEdit')
  t.not(unary!.traceId, traceId, 'a call without a parent is a trace of its own')
  t.is(value(unary!.attributes, 'rpc.grpc.status_code'), 5)
})

test('tracing is off unless it is asked for, by an option or a standard variable', async (t) => {
  const { url, spans } = await collector(t)
  const open = (environment: Record<string, string>, otlpEndpoint?: string) =>
    openTracing({ ...setup, options: { otlpEndpoint, maxSteps: 10 }, environment })
  t.is(await open({}), undefined)
  t.is(await open({ OTEL_EXPORTER_OTLP_ENDPOINT: '' }), undefined)
  t.is(await open({ OTEL_SDK_DISABLED: 'true' }, url), undefined)
  const tracing = await open({}, `${url}/`)
  tracing!.call('/flexit.v1.Editor/Edit', new Metadata()).ended(codes.OK)
  await tracing!.close(10_000)
  t.is(spans().length, 1)
  t.not(await open({ OTEL_EXPORTER_OTLP_ENDPOINT: url }), undefined)
})

test('a collector that is not there harms nothing', async (t) => {
  const { url, spans } = await collector(t)
  const options = { otlpEndpoint: 'http://127.0.0.1:1', maxSteps: 10 }
  const tracing = await openTracing({ ...setup, options, environment: { OTEL_EXPORTER_OTLP_ENDPOINT: url } })
  const { peer } = await serve(t, { tracing: tracing! })
  const run = peer.stream('RunEdit', { start: startEdit() })
  await run.first('completed')
  t.is(await run.over, undefined)
  await tracing!.close(0)
  t.deepEqual(spans(), [], 'the option comes before the variable')
})
