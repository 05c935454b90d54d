// What the server measures, in the words of Prometheus: https://prometheus.io/docs/practices/naming/.
// No ids in labels. Times are of one monotonic clock. A registry of its own for every server.

import { status as codes } from '@grpc/grpc-js'
import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'
import type { EditStatus } from '../proto/messages.js'

/** Gauges of prom-client that have a counter's name; their sums over types stay, as `nodejs_active_handles` and so on. */
const misnamed = ['nodejs_active_handles_total', 'nodejs_active_requests_total', 'nodejs_active_resources_total']

/** From a fast GPU's milliseconds to a CPU's seconds. */
export const stepBuckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
/** From a call that is answered at once to an edit of many minutes. */
const editBuckets = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800]

const outcomes = ['completed', 'cancelled', 'failed', 'handed_back']

/**
 * Codes of failures that are the server's doing. A bad picture, a deadline that has passed, an edit that does not fit into
 * memory (flexit_out_of_memory_total counts that) are asked for.
 */
const ownFaults: readonly string[] = ['INTERNAL', 'DATA_LOSS', 'UNAVAILABLE']

/** What metrics tell of a pack. */
export interface PackLabels {
  readonly name: string
  readonly digest: string
}

export class Metrics {
  readonly registry = new Registry()
  /** Edits, counted by their steps, and failures of ours: what load reports are made from (load-reports.ts). */
  readonly served = { edits: 0, failures: 0 }
  readonly edits
  readonly finished
  readonly rejected
  readonly steps
  readonly queueSeconds
  readonly firstPreviewSeconds
  readonly interStepSeconds
  readonly editSeconds
  readonly droppedPreviews
  readonly bufferedBytes
  readonly callsStarted
  readonly callsHandled
  readonly callSeconds
  readonly reloadFailed
  readonly certificateExpiry

  constructor({ version, packs }: { readonly version: string; readonly packs: readonly PackLabels[] }) {
    const registers = [this.registry]
    const counter = <L extends string>(name: string, help: string, labelNames: readonly L[] = []) =>
      new Counter({ name, help, labelNames, registers })
    const histogram = <L extends string>(
      name: string,
      help: string,
      buckets: number[],
      labelNames: readonly L[] = [],
    ) => new Histogram({ name, help, buckets, labelNames, registers })
    const gauge = <L extends string>(name: string, help: string, labelNames: readonly L[] = []) =>
      new Gauge({ name, help, labelNames, registers })

    collectDefaultMetrics({ register: this.registry })
    for (const name of misnamed) this.registry.removeSingleMetric(name)
    this.edits = gauge('flexit_edits', 'Edits that have not ended.', ['state'])
    this.finished = counter('flexit_edits_finished_total', 'Edits that have ended.', ['outcome', 'code', 'pack'])
    this.rejected = counter('flexit_edits_rejected_total', 'Edits that were not admitted.', ['reason'])
    this.steps = counter('flexit_steps_total', 'Steps taken.', ['pack'])
    this.queueSeconds = histogram('flexit_queue_seconds', 'From admission to the first step.', editBuckets, [
      'priority',
    ])
    this.firstPreviewSeconds = histogram(
      'flexit_first_preview_seconds',
      'From admission to the first preview that was encoded.',
      editBuckets,
      ['pack'],
    )
    this.interStepSeconds = histogram('flexit_inter_step_seconds', 'Between two steps of an edit.', stepBuckets, [
      'pack',
    ])
    this.editSeconds = histogram('flexit_edit_seconds', 'From admission to the end.', editBuckets, ['outcome', 'pack'])
    this.droppedPreviews = counter('flexit_dropped_previews_total', 'Previews left out for readers that were behind.')
    this.bufferedBytes = gauge('flexit_buffered_bytes', 'Events that were not acknowledged, over all edits.')
    const labels = ['grpc_method', 'grpc_type'] as const
    this.callsStarted = counter('flexit_grpc_started_total', 'Calls started.', labels)
    this.callsHandled = counter('flexit_grpc_handled_total', 'Calls ended.', [...labels, 'grpc_code'])
    this.callSeconds = histogram('flexit_grpc_handling_seconds', 'Duration of calls.', editBuckets, [
      ...labels,
      'grpc_code',
    ])
    this.reloadFailed = gauge('flexit_reload_failed', '1: the files on disk cannot be used, the old ones are.', [
      'what',
    ])
    for (const what of ['certificates', 'tokens']) this.reloadFailed.set({ what }, 0)
    this.certificateExpiry = gauge(
      'flexit_certificate_expiry_timestamp_seconds',
      'When the certificate in use ends; only with TLS.',
    )
    // Would be 0, which is long ago.
    this.certificateExpiry.remove()
    const { version: node } = process
    gauge('flexit_build_info', 'Always 1; the labels tell what runs.', ['version', 'node']).set({ version, node }, 1)
    const pack = gauge('flexit_pack_info', 'Always 1; the labels tell which packs are served.', ['pack', 'digest'])
    for (const { name, digest } of packs) pack.set({ pack: name, digest }, 1)
    for (const state of ['pending', 'running', 'paused']) this.edits.set({ state }, 0)
    for (const { name } of packs) {
      // Alerts need it from the start: no series is not the same as none.
      this.steps.inc({ pack: name }, 0)
      for (const outcome of outcomes)
        for (const code of outcome === 'failed' ? ownFaults : ['OK'])
          this.finished.inc({ outcome, code, pack: name }, 0)
    }
  }

  /** An edit took a step of `steps`. */
  stepped({ pack, steps }: { readonly pack: string; readonly steps: number }): void {
    this.steps.inc({ pack })
    this.served.edits += 1 / steps
  }

  /** An edit went from one state into another; `undefined` is before its admission. `code`: of one that failed. */
  moved(from: EditStatus | undefined, to: EditStatus, pack: string, code = codes.OK): void {
    if (from !== undefined) this.edits.dec({ state: label(from) })
    if (isOwnFault(code)) this.served.failures += 1
    if (isOver(to)) this.finished.inc({ outcome: label(to), code: codes[code], pack })
    else this.edits.inc({ state: label(to) })
  }
}

/** Whether an edit that failed so is the server's fault, not its caller's. */
export function isOwnFault(code: codes): boolean {
  return ownFaults.includes(codes[code])
}

export function isOver(status: EditStatus): boolean {
  return !['EDIT_STATUS_PENDING', 'EDIT_STATUS_RUNNING', 'EDIT_STATUS_PAUSED'].includes(status)
}

/** `EDIT_STATUS_HANDED_BACK` → `handed_back`. */
export function label(status: EditStatus): string {
  return status.replace('EDIT_STATUS_', '').toLowerCase()
}
