// The server as a whole: the edit service with health, reflection and metrics, from its start to its end.
// https://grpc.io/docs/guides/health-checking/, https://grpc.io/docs/guides/reflection/

import { Server, ServerCredentials, type ServerOptions as GrpcOptions, experimental } from '@grpc/grpc-js'
import { ReflectionService } from '@grpc/reflection'
import { loadSync } from '@grpc/proto-loader'
import { protoPath as healthProtoPath } from 'grpc-health-check'
import type { Pack } from '../engine/pack/pack.js'
import { resolveParameters } from '../engine/parameters.js'
import { variableShape } from '../engine/step-graph.js'
import { encodeParameters } from '../proto/codec.js'
import { packageDefinition } from '../proto/definition.js'
import type { ServerInfo } from '../proto/messages.js'
import type { SchedulerApi } from '../scheduler/api.js'
import { openToAll, readAuthFile } from './auth.js'
import { callMetrics } from './call-metrics.js'
import { CertificateFiles } from './certificate-files.js'
import { EditDesk } from './edit-desk.js'
import { EditorService } from './editor-service.js'
import { type Condition, Health } from './health.js'
import type { Logger } from './logger.js'
import type { Metrics } from './metrics.js'
import { cannotListen, serveMetrics } from './metrics-server.js'
import type { ServerOptions } from './options.js'

export interface ServerSetup {
  readonly scheduler: SchedulerApi
  /** Ask the scheduler to end every edit at its next step, with `handed-back`. */
  readonly handBack: () => void
  /** How the scheduler is; left out: well. */
  readonly condition?: () => Condition
  readonly pack: Pack
  readonly options: ServerOptions
  readonly logger: Logger
  readonly version: string
  readonly metrics: Metrics
}

export interface RunningServer {
  readonly port: number
  readonly metricsPort: number
  /** End at once, as a crash would: connections break, nobody is told. */
  kill(): void
  /** Look at the files of certificates now. */
  reloadCertificates(): void
  /**
   * Go away: NOT_SERVING, no new edits, let edits end within `drainMs`, hand the others back, close. Never rejects; may
   * be called again, to no effect.
   */
  drain(): Promise<void>
}

/** Time for last events to reach their readers, and for an edit to come to its next step. */
export const farewellMs = 10_000
const messageOverheadBytes = 2 * 1024 ** 2

/** How often the files of certificates are looked at, and the scheduler's condition. */
const lookIntervalMs = 5_000

/** Start to listen. Errors: FAILED_PRECONDITION (ports), those of the files of tokens and certificates. */
export async function startServer(setup: ServerSetup): Promise<RunningServer> {
  const { scheduler, pack, options, logger, version, metrics } = setup
  const authenticate = options.authFile === undefined ? openToAll : readAuthFile(options.authFile)
  const certificates = certificateFiles(options)
  const desk = new EditDesk({ scheduler, pack, options, metrics, logger })
  const server = new Server({ ...transportOptions(options), interceptors: [callMetrics(metrics)] })
  const info = serverInfo(pack, options, version)
  new EditorService({ desk, authenticate, options, logger, info }).addToServer(server)
  const health = new Health()
  health.addToServer(server)
  new ReflectionService({ ...packageDefinition, ...loadSync(healthProtoPath) }).addToServer(server)

  const { host } = options
  const port = await bind(server, host, options.port, credentialsOf(certificates, options))
  const metricsServer = await serveMetrics(metrics, host, options.metricsPort).catch((error: unknown) => {
    server.forceShutdown()
    throw error
  })

  const looking = setInterval(() => {
    reload(certificates, logger)
    if (setup.condition !== undefined) health.look(setup.condition(), performance.now())
  }, lookIntervalMs).unref()

  const drain = async () => {
    logger.info({ drainMs: options.drainMs, edits: desk.registry.live.length }, 'draining')
    health.drain()
    if (!(await desk.drain(options.drainMs))) {
      setup.handBack()
      await desk.ended(farewellMs)
    }
    await shutDown(server)
    desk.registry.clear()
    metricsServer.close()
    clearInterval(looking)
    logger.info('ended')
  }
  let draining: Promise<void> | undefined
  return {
    port,
    metricsPort: metricsServer.port,
    kill: () => server.forceShutdown(),
    reloadCertificates: () => reload(certificates, logger),
    drain: () => (draining ??= drain()),
  }
}

function certificateFiles({ tlsCert, tlsKey, tlsClientCa }: ServerOptions): CertificateFiles | undefined {
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

function reload(files: CertificateFiles | undefined, logger: Logger): void {
  try {
    if (files?.reload()) logger.info('certificates reloaded')
  } catch (error) {
    logger.warn({ err: error }, 'the certificates on disk cannot be used; the old ones are kept')
  }
}

function transportOptions(options: ServerOptions): GrpcOptions {
  return {
    'grpc.max_receive_message_length': options.maxImageBytes + messageOverheadBytes,
    'grpc.max_send_message_length': -1,
    'grpc.max_concurrent_streams': options.maxStreamsPerConnection,
    'grpc.keepalive_time_ms': options.keepaliveMs,
    'grpc.keepalive_timeout_ms': 10_000,
    'grpc.keepalive_permit_without_calls': 1,
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
async function shutDown(server: Server): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => {
      server.forceShutdown()
      resolve()
    }, farewellMs)
    server.tryShutdown(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}

function serverInfo(pack: Pack, options: ServerOptions, version: string): Omit<ServerInfo, 'draining'> {
  const { name, image } = pack.manifest
  const { maxImageBytes, maxImagePixels, maxTextLength, maxSteps, maxEditsPerStream, maxWindowBytes } = options
  return {
    version,
    packs: [
      {
        name,
        digest: pack.digest,
        imageSize: image.size,
        imageBackground: image.background,
        networks: pack.networkNames,
        latentShape: [...variableShape(pack, 'latent')],
        defaultParameters: encodeParameters(resolveParameters({}, pack)),
      },
    ],
    devices: options.device,
    limits: {
      imageBytes: maxImageBytes,
      imagePixels: maxImagePixels,
      textLength: maxTextLength,
      steps: maxSteps,
      editsPerStream: maxEditsPerStream,
      windowBytes: maxWindowBytes,
      disconnectGraceMs: options.disconnectGraceMs,
    },
  }
}
