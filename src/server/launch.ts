// A server with everything below it: pack, devices with their threads, scheduler.
// What `flexit serve` starts.

import { cacheFolder, requirePack } from '../engine/pack/locations.js'
import { Pack } from '../engine/pack/pack.js'
import { resolveParameters } from '../engine/parameters.js'
import { formatDevice, parseDevice } from '../engine/runtime.js'
import { Scheduler } from '../scheduler/scheduler.js'
import { WorkerDevice, shareThreads } from '../scheduler/worker-device.js'
import type { Condition } from './health.js'
import { createLogger } from './logger.js'
import { Metrics } from './metrics.js'
import type { ServerOptions } from './options.js'
import { schedulerMetrics } from './scheduler-metrics.js'
import { type RunningServer, startServer } from './server.js'

export interface LaunchedServer extends RunningServer {
  readonly pack: Pack
  readonly devices: readonly string[]
}

/**
 * Open the pack and the devices, and listen. `drain` closes all of it. Errors: those of `requirePack`,
 * `WorkerDevice.open` (a device that cannot be used) and `startServer`.
 */
export async function launchServer(
  options: ServerOptions,
  { version, onProgress }: { readonly version: string; readonly onProgress?: (doing: string) => void },
): Promise<LaunchedServer> {
  const { folder } = await requirePack(options.pack)
  const pack = await Pack.open(folder)
  const opened: WorkerDevice[] = []
  try {
    // One after the other: the first builds the graphs that the others load.
    const wanted = options.device.map(parseDevice)
    const shares = shareThreads(wanted)
    for (const [i, device] of wanted.entries()) {
      const threads = options.threads === 0 ? shares[i]! : options.threads
      const report = onProgress && ((doing: string) => onProgress(`${formatDevice(device)}: ${doing}`))
      opened.push(
        await WorkerDevice.open({
          device,
          packs: [folder],
          threads,
          cacheFolder: cacheFolder(),
          ...(report && { onProgress: report }),
        }),
      )
    }
    const logger = createLogger(options.logLevel)
    const metrics = new Metrics({ version, pack: pack.manifest.name })
    const devices = opened.map((device) => device.name)
    let progress = 0
    const observer = schedulerMetrics(metrics, devices, logger)
    const scheduler = new Scheduler({
      devices: opened,
      resolve: (given) => resolveParameters(given, pack),
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
      const workingDevices = scheduler.devices.filter(({ status }) => status !== 'out').length
      return { workingDevices, dueEdits: waiting + running + resting, progress }
    }
    const handBack = () => scheduler.handBack()
    const server = await startServer({ scheduler, handBack, condition, pack, options, logger, version, metrics })
    const drain = async () => {
      await server.drain()
      await scheduler.close()
      pack.close()
    }
    return { ...server, pack, devices, drain }
  } catch (error) {
    await Promise.all(opened.map((device) => device.close()))
    pack.close()
    throw error
  }
}
