// A server with everything below it: packs, devices with their threads, scheduler.
// What `flexit serve` starts.

import { lookup } from 'node:dns/promises'
import { createServer } from 'node:net'
import { FlexitError, quoted } from '../engine/errors.js'
import { cacheFolder, requirePack } from '../engine/pack/locations.js'
import { Pack } from '../engine/pack/pack.js'
import { parseDevice } from '../engine/runtime.js'
import { type WorkerDevice, openDevices } from '../scheduler/worker-device.js'
import { openTenants } from './auth.js'
import { drive } from './drive.js'
import { createLogger } from './logger.js'
import { Metrics } from './metrics.js'
import { cannotListen } from './metrics-server.js'
import type { ServerOptions } from './options.js'
import { schedulerMetrics } from './scheduler-metrics.js'
import { type RunningServer, certificateFiles, startServer } from './server.js'
import { openTracing } from './tracing.js'

export interface LaunchedServer extends RunningServer {
  /** The first is the usual one. */
  readonly packs: readonly Pack[]
  readonly devices: readonly string[]
  /** End the thread of a device as a crash would (WorkerDevice.kill). For tests and benchmarks. */
  killWorker(device: string): Promise<void>
}

export interface Launch {
  readonly version: string
  readonly onProgress?: (doing: string) => void
}

/** Time for the last spans to reach their collector. */
const lastSpansMs = 2_000

/**
 * Open the packs and the devices, and listen. `drain` closes all of it. Errors: those of `openTenants`, `requirePack`,
 * `openDevices` (a device that cannot be used) and `startServer`; INVALID_ARGUMENT for packs of the same name.
 */
export async function launchServer(options: ServerOptions, { version, onProgress }: Launch): Promise<LaunchedServer> {
  const logger = createLogger(options.logLevel)
  const tenants = openTenants(options.authFile)
  // Before the graphs are loaded, which takes long.
  certificateFiles(options)
  await checkHost(options.host)
  await checkPorts(options)
  const folders: string[] = []
  const packs: Pack[] = []
  let devices: WorkerDevice[] = []
  try {
    for (const name of options.pack) {
      const { folder } = await requirePack(name)
      folders.push(folder)
      packs.push(await Pack.open(folder))
    }
    checkNames(packs)
    devices = await openDevices({
      devices: options.device.map(parseDevice),
      packs: folders,
      threads: options.threads === 0 ? undefined : options.threads,
      cacheFolder: cacheFolder(),
      onProgress,
    })
    const names = devices.map((device) => device.name)
    const metrics = new Metrics({
      version,
      packs: packs.map(({ manifest, digest }) => ({ name: manifest.name, digest })),
    })
    const { scheduler, condition } = drive(devices, packs, options, tenants, (waitingBytes) =>
      schedulerMetrics(metrics, { devices: names, waitingBytes, logger }),
    )
    const tracing = await openTracing({ options, version, logger, environment: process.env })
    const handBack = () => scheduler.handBack()
    const common = { packs, tenants, options, logger, version, metrics, tracing }
    const server = await startServer({ scheduler, handBack, condition, ...common })
    const drain = async () => {
      await server.drain()
      await Promise.all([scheduler.close(), tracing?.close(lastSpansMs)])
      for (const pack of packs) pack.close()
    }
    const killWorker = async (name: string) => devices.find((device) => device.name === name)?.kill()
    return { ...server, packs, devices: names, killWorker, drain }
  } catch (error) {
    await Promise.all(devices.map((device) => device.close()))
    for (const pack of packs) pack.close()
    throw error
  }
}

async function checkHost(host: string): Promise<void> {
  await lookup(host).catch((error: unknown) => {
    const cure = 'Use 127.0.0.1, 0.0.0.0 for every network, or a name or address of this machine.'
    const message = `the address ${quoted(host)} is not known here`
    throw new FlexitError({ code: 'INVALID_ARGUMENT', field: 'host', message, cure, cause: error })
  })
}

async function checkPorts({ host, port, metricsPort }: ServerOptions): Promise<void> {
  await checkPort('gRPC', host, port)
  await checkPort('metrics', host, metricsPort)
}

async function checkPort(what: string, host: string, port: number): Promise<void> {
  const server = createServer()
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(cannotListen(what, host, port, error)))
    server.listen(port, host, resolve)
  })
  await new Promise((resolve) => server.close(resolve))
}

/** Clients name packs by what their manifests say. */
function checkNames(packs: readonly Pack[]): void {
  const names = packs.map(({ manifest }) => manifest.name)
  const twice = names.find((name, i) => names.indexOf(name) !== i)
  if (twice === undefined) return
  throw new FlexitError({
    code: 'INVALID_ARGUMENT',
    field: 'pack',
    message: `two of the packs are called "${twice}"`,
    cure: 'Serve one of them, or give it another name in its pack.json.',
  })
}
