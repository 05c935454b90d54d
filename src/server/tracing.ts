// Traces of calls and edits, where they are asked for: https://opentelemetry.io/docs/concepts/signals/traces/.
// Nothing of OpenTelemetry is loaded otherwise. Ids and numbers, never texts or pictures.

import type { Metadata, status } from '@grpc/grpc-js'
import type { Logger } from './logger.js'
import type { ServerOptions } from './options.js'

/** A call, from its metadata to its status. */
export interface CallTrace {
  ended(code: status): void
}

export interface AdmittedEdit {
  readonly uid: string
  readonly pack: string
  readonly priority: string
  readonly position: number
  /** To be taken. */
  readonly steps: number
}

/** An edit, from its request to its last event. Either `refused` or `ended` comes last, once. */
export interface EditTrace {
  refused(reason: string): void
  admitted(edit: AdmittedEdit): void
  started(): void
  step(step: number, loss: number): void
  /** `code`: of the failure. */
  ended(outcome: string, step: number, code: status | undefined): void
}

/** Parents come from the caller's `traceparent`: https://www.w3.org/TR/trace-context/. */
export interface Tracing {
  /** `metadata` gets the call's own `traceparent`: what the call does becomes its child. */
  call(path: string, metadata: Metadata): CallTrace
  edit(id: string, tenant: string, metadata: Metadata): EditTrace
  /** Send what was not sent. Never rejects; takes `limitMs` at most. */
  close(limitMs: number): Promise<void>
}

const endpointVariables = ['OTEL_EXPORTER_OTLP_ENDPOINT', 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT']

export interface TracingSetup {
  readonly options: Pick<ServerOptions, 'otlpEndpoint' | 'maxSteps'>
  readonly version: string
  readonly logger: Logger
  readonly environment: Readonly<Record<string, string | undefined>>
}

/**
 * Tracing as `--otlp-endpoint` or the standard variables ask for it (OTEL_EXPORTER_OTLP_*, OTEL_TRACES_SAMPLER, …);
 * undefined where they do not.
 */
export async function openTracing(setup: TracingSetup): Promise<Tracing | undefined> {
  const { options, environment } = setup
  const named = endpointVariables.some((name) => (environment[name] ?? '') !== '')
  if (environment['OTEL_SDK_DISABLED'] === 'true' || (options.otlpEndpoint === undefined && !named)) return undefined
  const { OtlpTracing } = await import('./otlp-tracing.js')
  return new OtlpTracing(setup)
}
