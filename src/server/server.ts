// The server as a whole: the edit service with health, reflection and metrics, from its start to its end.
// https://grpc.io/docs/guides/health-checking/, https://grpc.io/docs/guides/reflection/

import { Server, ServerCredentials, type ServerOptions as GrpcOptions, experimental } from '@grpc/grpc-js'
import { ReflectionService } from '@grpc/reflection'
import type { Pack } from '../engine/pack/pack.js'
import type { SchedulerApi } from '../scheduler/api.js'
import type { Tenants } from './auth.js'
import { CertificateFiles } from './certificate-files.js'
import { EditDesk } from './edit-desk.js'
import { EditorService } from './editor-service.js'
import { guardCalls } from './guard-calls.js'
import { type Condition, Health } from './health.js'
import { LoadReports } from './load-reports.js'
import type { Logger } from './logger.js'
import type { Metrics } from './metrics.js'
import { cannotListen, serveMetrics } from './metrics-server.js'
import type { ServerOptions } from './options.js'
import { reflectedDefinition } from './reflection.js'
import { reloader } from './reloader.js'
import { serverInfo } from './server-info.js'
import type { Tracing } from './tracing.js'
import { watchCalls } from './watch-calls.js'

export interface ServerSetup {
  readonly scheduler: SchedulerApi
  /** Ask the scheduler to end every edit at its next step, with `handed-back`. */
  readonly handBack: () => void
  /** How the scheduler is. */
  readonly condition: () => Condition
  /** The first is the usual one. */
  readonly packs: readonly Pack[]
  readonly tenants: Tenants
  readonly options: ServerOptions
  readonly logger: Logger
  readonly version: string
  readonly metrics: Metrics
  readonly tracing: Tracing | undefined
}

export interface RunningServer {
  readonly port: number
  readonly metricsPort: number
  /** End at once, as a crash would: connections break, nobody is told. */
  kill(): void
  /** Look at the files of certificates and tokens now. */
  reload(): void
  /**
   * Go away within `drainMs`: NOT_SERVING, no new edits, let edits end, hand the others back, close. Never rejects; may be
   * called again, to no effect.
   */
  drain(): Promise<void>
}

/** How much of a drain is kept for handing edits back and for last events to reach their readers. */
export function farewellMs(drainMs: number): number {
  return Math.min(Math.max(drainMs / 4, 2_000), 5_000)
}

const messageOverheadBytes = 2 * 1024 ** 2

/** How often the files of certificates and tokens are looked at, and the scheduler's condition. */
const lookIntervalMs = 5_000

const reportIntervalMs = 1_000

/** At the end, for calls that are no edits: watchers of health stay for ever. */
const otherCallsMs = 1_000

/** Start to listen. Errors: FAILED_PRECONDITION (ports), those of the files of certificates. */
export async function startServer(setup: ServerSetup): Promise<RunningServer> {
  const { scheduler, packs, tenants, options, logger, version, metrics, tracing } = setup
  const certificates = certificateFiles(options)
  const desk = new EditDesk({ scheduler, packs, tenants, options, metrics, logger, tracing })
  const reports = options.orca ? new LoadReports(metrics, setup.condition, performance.now()) : undefined
  const interceptors = [watchCalls({ metrics, tracing, reports }), guardCalls(tenants)]
  const server = new Server({ ...transportOptions(options), interceptors })
  const info = serverInfo(packs, options, version)
  const editor = new EditorService({ desk, authenticate: tenants.authenticate, options, logger, info })
  editor.addToServer(server)
  const health = new Health()
  health.addToServer(server)
  reports?.addToServer(server)
  new ReflectionService(reflectedDefinition()).addToServer(server)

  const { host } = options
  const port = await bind(server, host, options.port, credentialsOf(certificates, options))
  const metricsServer = await serveMetrics({ metrics, health, host, port: options.metricsPort }).catch(
    (error: unknown) => {
      server.forceShutdown()
      throw error
    },
  )

  const reload = reloader({ certificates, tenants, metrics, logger })
  const looking = setInterval(() => {
    reload()
    desk.registry.purge()
    health.look(setup.condition(), performance.now())
  }, lookIntervalMs).unref()
  const reporting = setInterval(() => reports?.sample(performance.now()), reportIntervalMs).unref()

  const drain = async () => {
    const { drainMs } = options
    const farewell = farewellMs(drainMs)
    const endMs = performance.now() + Math.max(drainMs, farewell)
    const leftMs = () => Math.max(0, endMs - performance.now())
    logger.info({ drainMs, edits: desk.registry.live.length }, 'draining')
    health.drain()
    if (!(await desk.drain(Math.max(0, leftMs() - farewell)))) setup.handBack()
    await desk.ended(leftMs())
    await within(leftMs(), editor.quiet())
    reports?.close()
    await shutDown(server, Math.min(leftMs(), otherCallsMs))
    desk.registry.clear()
    metricsServer.close()
    clearInterval(looking)
    clearInterval(reporting)
    logger.info('ended')
  }
  let draining: Promise<void> | undefined
  return {
    port,
    metricsPort: metricsServer.port,
    kill: () => server.forceShutdown(),
    reload,
    drain: () => (draining ??= drain()),
  }
}

/** Undefined: plain text. Errors: those of the files. */
export function certificateFiles({ tlsCert, tlsKey, tlsClientCa }: ServerOptions): CertificateFiles | undefined {
  if (tlsCert === undefined || tlsKey === undefined) return undefined
  return new CertificateFiles({ certificate: tlsCert, key: tlsKey, authorities: tlsClientCa })
}

function credentialsOf(files: CertificateFiles | undefined, { tlsClientCa }: ServerOptions): ServerCredentials {
  if (files === undefined) return ServerCredentials.createInsecure()
  const mutual = tlsClientCa !== undefined
  // grpc-js 1.14 declares these parameters in the order authorities, identity, but takes them in this one.
  const create = experimental.createCertificateProviderServerCredentials
  return create(files, mutual ? files : null, mutual)
}

function transportOptions(options: ServerOptions): GrpcOptions {
  return {
    'grpc.max_receive_message_length': options.maxImageBytes + messageOverheadBytes,
    'grpc.max_send_message_length': -1,
    'grpc.max_concurrent_streams': options.maxStreamsPerConnection,
    'grpc.keepalive_time_ms': options.keepaliveMs,
    'grpc.keepalive_timeout_ms': 10_000,
    'grpc.keepalive_permit_without_calls': 1,
    'grpc.server_call_metric_recording': options.orca ? 1 : 0,
    ...(options.maxConnectionAgeMs === 0
      ? {}
      : {
          'grpc.max_connection_age_ms': options.maxConnectionAgeMs,
          'grpc.max_connection_age_grace_ms': options.maxConnectionAgeGraceMs,
        }),
  }
}

function bind(server: Server, host: string, port: number, credentials: Parameters<Server['bindAsync']>[1]) {
  const address = host.includes(':') ? `[${host}]` : host
  return new Promise<number>((resolve, reject) => {
    server.bindAsync(`${address}:${port}`, credentials, (error, bound) => {
      if (error === null) resolve(bound)
      else reject(cannotListen('gRPC', host, port, error))
    })
  })
}

/** `tryShutdown` waits for open streams, if need be for ever. */
async function shutDown(server: Server, limitMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => server.tryShutdown(() => resolve()))
  if (!(await within(limitMs, closed))) server.forceShutdown()
}

/** Wait for `work`, but not for longer than `limitMs`. Returns whether it was done. */
async function within(limitMs: number, work: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => (timer = setTimeout(() => resolve(false), limitMs)))
  const done = await Promise.race([work.then(() => true), late])
  clearTimeout(timer)
  return done
}
