// What the scheduler tells of devices and batches, in the words of Prometheus.
// The mean batch is flexit_samples_total / flexit_executions_total; a device's occupancy the rate of its busy seconds.

import { Counter, Gauge, Histogram } from 'prom-client'
import type { SchedulerObserver } from '../scheduler/observer.js'
import { type Logger, createLogger } from './logger.js'
import { Metrics, stepBuckets } from './metrics.js'

const batchBuckets = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64]

export interface SchedulerMetricsSetup {
  readonly devices: readonly string[]
  /** Of requests of edits that did not start yet. */
  readonly waitingBytes: () => number
  readonly logger: Logger
}

/** An observer that counts into the registry of `metrics` and logs what went wrong. */
export function schedulerMetrics(
  { registry }: Metrics,
  { devices, waitingBytes, logger }: SchedulerMetricsSetup,
): SchedulerObserver {
  const registers = [registry]
  const labelNames = ['device'] as const
  const counter = (name: string, help: string) => new Counter({ name, help, labelNames, registers })
  const histogram = (name: string, help: string, buckets: number[]) =>
    new Histogram({ name, help, buckets, labelNames, registers })
  const executions = counter('flexit_executions_total', 'Batches of steps that were run.')
  const samples = counter('flexit_samples_total', 'Steps of edits in batches that were run.')
  const wasted = counter('flexit_wasted_steps_total', 'Steps thrown away, of edits cancelled or accepted meanwhile.')
  const busy = counter('flexit_device_busy_seconds_total', 'Time in steps, preparations and drawings.')
  const restarts = counter(
    'flexit_worker_restarts_total',
    'Workers that crashed, hung or computed nothing, and were replaced.',
  )
  const outOfMemory = counter('flexit_out_of_memory_total', 'Batches that did not fit into memory.')
  const stepSeconds = histogram(
    'flexit_step_seconds',
    'Duration of a batch of steps, without preparations.',
    stepBuckets,
  )
  const batchSize = histogram('flexit_batch_size', 'Edits in a batch.', batchBuckets)
  const cancelSeconds = new Histogram({
    name: 'flexit_cancel_to_freed_seconds',
    help: 'From a cancel until its edit is in no batch any more.',
    buckets: stepBuckets,
    registers,
  })
  new Gauge({
    name: 'flexit_waiting_bytes',
    help: 'Requests of edits that wait for their first step.',
    registers,
    collect() {
      this.set(waitingBytes())
    },
  })
  const up = new Gauge({ name: 'flexit_device_up', help: '0: kept failing, used no more.', labelNames, registers })
  for (const device of devices) {
    up.set({ device }, 1)
    for (const each of [executions, samples, wasted, busy, restarts, outOfMemory]) each.inc({ device }, 0)
  }

  return {
    onStep: ({ device, samples: size, wasted: lost, stepMs, prepareMs }) => {
      executions.inc({ device })
      samples.inc({ device }, size)
      wasted.inc({ device }, lost)
      busy.inc({ device }, (stepMs + prepareMs) / 1000)
      stepSeconds.observe({ device }, stepMs / 1000)
      batchSize.observe({ device }, size)
    },
    onDrawn: ({ device, drawMs }) => busy.inc({ device }, drawMs / 1000),
    onFreed: ({ cancelToFreedMs }) => cancelSeconds.observe(cancelToFreedMs / 1000),
    onWorkerLost: ({ device, error }) => {
      restarts.inc({ device })
      logger.error({ device, err: error }, 'a worker was lost and is replaced')
    },
    onOutOfMemory: ({ device, samples: size }) => {
      outOfMemory.inc({ device })
      logger.warn({ device, samples: size }, 'a batch did not fit into memory')
    },
    onDeviceOut: ({ device, error }) => {
      up.set({ device }, 0)
      logger.error({ device, err: error }, 'a device kept failing and is used no more')
    },
  }
}

/** Everything that a server measures, as its port shows it before anything has happened; no server is started. */
export function emptyMetrics(version: string): Promise<string> {
  const metrics = new Metrics({ version, packs: [] })
  schedulerMetrics(metrics, { devices: [], waitingBytes: () => 0, logger: createLogger('silent') })
  return metrics.registry.metrics()
}
