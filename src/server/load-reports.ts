// How loaded the server is, for clients that balance by it (weighted_round_robin): at the end of every call, and out of
// band. https://github.com/grpc/proposal/blob/master/A51-custom-backend-metrics.md, A58-client-side-weighted-round-robin-lb-policy.md

import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { Server, ServerUnaryCall, ServerWritableStream } from '@grpc/grpc-js'
import { type PackageDefinition, type ServiceDefinition, loadSync } from '@grpc/proto-loader'
import type { Condition } from './health.js'
import type { Metrics } from './metrics.js'

type Recorder = ReturnType<ServerUnaryCall<unknown, unknown>['getMetricsRecorder']>

/** `xds.data.orca.v3.OrcaLoadReport`. A client's weight for the server is its rate over its utilisation. */
export interface LoadReport {
  /** Edits that want a step over those that the devices take at once: above 1, edits wait. */
  readonly applicationUtilization: number
  /** Edits per second: a step counts as its part of an edit, so that long edits count while they run. */
  readonly rpsFractional: number
  /** Edits that failed, per second. */
  readonly eps: number
}

interface ReportRequest {
  readonly reportInterval: { readonly seconds: number; readonly nanos: number } | null
}

type ReportCall = ServerWritableStream<ReportRequest, LoadReport>

/** Rates are means over about so long. */
const memoryMs = 10_000
const usualIntervalMs = 30_000
const leastIntervalMs = 1_000
const mostIntervalMs = 2 ** 31 - 1

// grpc-js has the files, and a ServerMetricRecorder: the latter (1.14) takes any interval, and writes to clients that do
// not read.
const protoFolder = join(dirname(createRequire(import.meta.url).resolve('@grpc/grpc-js/package.json')), 'proto')

export const orcaPackage: PackageDefinition = loadSync('xds/service/orca/v3/orca.proto', {
  includeDirs: [join(protoFolder, 'xds'), join(protoFolder, 'protoc-gen-validate')],
  longs: Number,
})

export const orcaService = orcaPackage['xds.service.orca.v3.OpenRcaService'] as ServiceDefinition

export class LoadReports {
  readonly #served: Metrics['served']
  readonly #condition: () => Condition
  readonly #calls = new Set<ReportCall>()
  #edits = 0
  #failures = 0
  #sampledMs: number
  #rates = { edits: 0, failures: 0 }

  constructor({ served }: Metrics, condition: () => Condition, nowMs: number) {
    this.#served = served
    this.#condition = condition
    this.#sampledMs = nowMs
  }

  get report(): LoadReport {
    const { dueEdits, slots } = this.#condition()
    return {
      applicationUtilization: dueEdits / Math.max(slots, 1),
      rpsFractional: this.#rates.edits,
      eps: this.#rates.failures,
    }
  }

  /** To be called about every second. */
  sample(nowMs: number): void {
    const passedMs = nowMs - this.#sampledMs
    if (passedMs <= 0) return
    const { edits, failures } = this.#served
    const weight = 1 - Math.exp(-passedMs / memoryMs)
    const mean = (before: number, count: number) => before + weight * ((1_000 * count) / passedMs - before)
    this.#rates = {
      edits: mean(this.#rates.edits, edits - this.#edits),
      failures: mean(this.#rates.failures, failures - this.#failures),
    }
    this.#edits = edits
    this.#failures = failures
    this.#sampledMs = nowMs
  }

  /** Put the report into what a call ends with. */
  record(recorder: Recorder): void {
    const { applicationUtilization, rpsFractional, eps } = this.report
    recorder.recordApplicationUtilizationMetric(applicationUtilization)
    recorder.recordQpsMetric(rpsFractional)
    recorder.recordEpsMetric(eps)
  }

  addToServer(server: Server): void {
    server.addService(orcaService, { StreamCoreMetrics: (call: ReportCall) => this.#stream(call) })
  }

  /** End the streams of reports. */
  close(): void {
    for (const call of this.#calls) call.end()
  }

  #stream(call: ReportCall): void {
    let writing = false
    const write = () => {
      if (writing) return
      writing = true
      call.write(this.report, () => (writing = false))
    }
    const timer = setInterval(write, intervalMs(call.request)).unref()
    const stop = () => {
      clearInterval(timer)
      this.#calls.delete(call)
    }
    this.#calls.add(call)
    call.once('cancelled', stop).once('close', stop).once('finish', stop)
    write()
  }
}

function intervalMs({ reportInterval }: ReportRequest): number {
  const { seconds = 0, nanos = 0 } = reportInterval ?? {}
  const wantedMs = 1_000 * seconds + nanos / 1e6
  return wantedMs > 0 ? Math.min(Math.max(wantedMs, leastIntervalMs), mostIntervalMs) : usualIntervalMs
}
