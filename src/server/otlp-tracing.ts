// Spans for calls and edits, sent to a collector as OTLP over HTTP: https://opentelemetry.io/docs/specs/otlp/.
// Names and attributes of calls follow https://opentelemetry.io/docs/specs/semconv/rpc/grpc/.

import { type Metadata, status as codes } from '@grpc/grpc-js'
import {
  type Context,
  DiagLogLevel,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  type TextMapGetter,
  type TextMapSetter,
  type Tracer,
  diag,
  trace,
} from '@opentelemetry/api'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { defaultResource, detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources'
import { BasicTracerProvider, BatchSpanProcessor } from '@opentelemetry/sdk-trace-base'
import type { AdmittedEdit, CallTrace, EditTrace, Tracing, TracingSetup } from './tracing.js'

/** Events of an edit's span besides its steps. */
const otherEvents = 8

const propagator = new W3CTraceContextPropagator()
const setter: TextMapSetter<Metadata> = { set: (metadata, key, value) => metadata.set(key, value) }
const getter: TextMapGetter<Metadata> = {
  keys: (metadata) => Object.keys(metadata.getMap()),
  get: (metadata, key) => metadata.get(key).map(String),
}

export class OtlpTracing implements Tracing {
  readonly #provider: BasicTracerProvider
  readonly #tracer: Tracer

  constructor({ options: { otlpEndpoint, maxSteps }, version, logger }: TracingSetup) {
    const say = (message: string) => logger.warn({ detail: message }, 'tracing')
    diag.setLogger(
      { error: say, warn: say, info: () => undefined, debug: () => undefined, verbose: () => undefined },
      { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true },
    )
    const url = otlpEndpoint === undefined ? undefined : `${otlpEndpoint.replace(/\/$/, '')}/v1/traces`
    this.#provider = new BasicTracerProvider({
      // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come last: they win.
      resource: defaultResource()
        .merge(resourceFromAttributes({ 'service.name': 'flexit', 'service.version': version }))
        .merge(detectResources({ detectors: [envDetector] })),
      spanLimits: { eventCountLimit: maxSteps + otherEvents },
      spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter(url === undefined ? {} : { url }))],
    })
    this.#tracer = this.#provider.getTracer('flexit', version)
  }

  call(path: string, metadata: Metadata): CallTrace {
    const [, service = '', method = ''] = path.split('/')
    const attributes = { 'rpc.system': 'grpc', 'rpc.service': service, 'rpc.method': method }
    const parent = parentOf(metadata)
    const span = this.#tracer.startSpan(path.slice(1), { kind: SpanKind.SERVER, attributes }, parent)
    propagator.inject(trace.setSpan(parent, span), metadata, setter)
    return {
      ended: (code) => {
        span.setAttribute('rpc.grpc.status_code', code)
        if (serverErrors.has(code)) span.setStatus({ code: SpanStatusCode.ERROR, message: codes[code] })
        span.end()
      },
    }
  }

  edit(id: string, tenant: string, metadata: Metadata): EditTrace {
    const attributes = { 'flexit.edit.id': id, 'flexit.tenant': tenant }
    const parent = parentOf(metadata)
    return new EditSpan(this.#tracer, this.#tracer.startSpan('edit', { attributes }, parent), parent)
  }

  async close(limitMs: number): Promise<void> {
    const given = new Promise<void>((resolve) => setTimeout(resolve, limitMs).unref())
    await Promise.race([this.#provider.shutdown().catch(() => undefined), given])
    diag.disable()
  }
}

/** Those that semantic conventions call errors of a server. */
const serverErrors: ReadonlySet<codes> = new Set([
  codes.UNKNOWN,
  codes.DEADLINE_EXCEEDED,
  codes.UNIMPLEMENTED,
  codes.INTERNAL,
  codes.UNAVAILABLE,
  codes.DATA_LOSS,
])

class EditSpan implements EditTrace {
  readonly #tracer: Tracer
  readonly #span: Span
  readonly #context: Context
  /** From admission to the first step. */
  #wait: Span | undefined

  constructor(tracer: Tracer, span: Span, parent: Context) {
    this.#tracer = tracer
    this.#span = span
    this.#context = trace.setSpan(parent, span)
  }

  refused(reason: string): void {
    this.#span.setAttribute('flexit.edit.outcome', 'refused')
    this.#span.setStatus({ code: SpanStatusCode.ERROR, message: reason })
    this.#span.end()
  }

  admitted({ uid, pack, priority, position, steps }: AdmittedEdit): void {
    this.#span.setAttributes({ 'flexit.edit.uid': uid, 'flexit.pack': pack, 'flexit.priority': priority })
    this.#span.addEvent('admitted', { position, steps })
    this.#wait = this.#tracer.startSpan('wait', {}, this.#context)
  }

  started(): void {
    this.#endWait()
    this.#span.addEvent('started')
  }

  step(step: number, loss: number): void {
    this.#span.addEvent('step', { step, loss })
  }

  ended(outcome: string, step: number, code: codes | undefined): void {
    this.#endWait()
    this.#span.setAttributes({ 'flexit.edit.outcome': outcome, 'flexit.edit.step': step })
    if (code !== undefined) this.#span.setStatus({ code: SpanStatusCode.ERROR, message: codes[code] })
    this.#span.end()
  }

  #endWait(): void {
    this.#wait?.end()
    this.#wait = undefined
  }
}

function parentOf(metadata: Metadata): Context {
  return propagator.extract(ROOT_CONTEXT, metadata, getter)
}
