// The scheduler as the server's options want it: limits, batches, tenants; and how it is at any time.
// The options are those of options.ts, the contract is src/scheduler/scheduler.ts.

import type { Pack } from '../engine/pack/pack.js'
import { resolveParameters } from '../engine/parameters.js'
import type { StepDevice } from '../scheduler/device.js'
import type { SchedulerObserver } from '../scheduler/observer.js'
import { Scheduler } from '../scheduler/scheduler.js'
import type { Tenants } from './auth.js'
import type { Condition } from './health.js'
import type { ServerOptions } from './options.js'

/** A scheduler for the devices, and how it is at any time. */
export function drive(
  devices: readonly StepDevice[],
  packs: readonly Pack[],
  options: ServerOptions,
  { weightOf }: Tenants,
  observe: (waitingBytes: () => number) => SchedulerObserver,
): { readonly scheduler: Scheduler; readonly condition: () => Condition } {
  let progress = 0
  const observer = observe(() => scheduler.counts.bytes)
  const scheduler: Scheduler = new Scheduler({
    devices,
    resolve: (given, digest) =>
      resolveParameters(
        given,
        packs.find((pack) => pack.digest === digest)!,
      ),
    limits: {
      edits: options.maxEdits,
      editsPerTenant: options.maxEditsPerTenant,
      waiting: options.maxWaitingEdits,
      waitingPerTenant: options.maxWaitingEditsPerTenant,
      bytes: options.maxWaitingBytes,
      bytesPerTenant: options.maxWaitingBytesPerTenant,
    },
    maxBatch: options.maxBatch,
    maxResidents: options.maxResidents,
    ageMs: options.ageMs,
    weightOf,
    observer: {
      ...observer,
      onStep: (event) => {
        progress++
        observer.onStep?.(event)
      },
      onEnd: (event) => {
        progress++
        observer.onEnd?.(event)
      },
    },
  })
  const condition = (): Condition => {
    const { waiting, running, resting } = scheduler.counts
    const working = scheduler.devices.filter(({ status }) => status !== 'out')
    const largestBatches = working.map(({ batchLimits }) =>
      Math.max(1, ...[...batchLimits.values()].map(({ limit }) => limit)),
    )
    const slots = largestBatches.reduce((sum, size) => sum + size, 0)
    return { workingDevices: working.length, dueEdits: waiting + running + resting, slots, progress }
  }
  return { scheduler, condition }
}
