// Servers of the embedded pack on free ports: in this process, or in one of their own, whose memory is the server's alone.
// A process is the command that users start, `flexit serve`.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { type LaunchedServer, launchServer } from '../../src/server/launch.js'
import { type OptionName, type ServerOptions, flagName, resolveOptions } from '../../src/server/options.js'
import { Metrics } from './metrics.js'

const launcher = fileURLToPath(new URL('../../../bin/flexit.js', import.meta.url))
const usual = { port: 0, metricsPort: 0, logLevel: 'error', drainMs: 0 } as const

/** In this process. To be drained. */
export function serveHere(options: Partial<ServerOptions> = {}): Promise<LaunchedServer> {
  return launchServer(resolveOptions({ flags: { ...usual, ...options }, environment: {} }), { version: 'bench' })
}

export class ServerProcess {
  readonly port: number
  readonly metricsPort: number
  readonly #child: ChildProcess
  #errors = ''

  private constructor(child: ChildProcess, port: number, metricsPort: number) {
    this.#child = child
    this.port = port
    this.metricsPort = metricsPort
    child.stderr!.on('data', (text: string) => (this.#errors += text))
    const end = () => child.kill('SIGKILL')
    process.once('exit', end)
    child.once('exit', () => process.off('exit', end))
  }

  /** Resolves when it listens. Errors: where it ends instead, with what it said. */
  static async start(options: Partial<ServerOptions> = {}): Promise<ServerProcess> {
    const flags = Object.entries({ ...usual, ...options }).flatMap(([name, value]) =>
      [value].flat().flatMap((one) => [`--${flagName(name as OptionName)}`, String(one)]),
    )
    const child = spawn(process.execPath, [launcher, 'serve', ...flags], { stdio: ['ignore', 'pipe', 'pipe'] })
    const [stdout, stderr] = [child.stdout.setEncoding('utf8'), child.stderr.setEncoding('utf8')]
    let said = ''
    let complaints = ''
    const listen = (text: string) => (complaints += text)
    stderr.on('data', listen)
    const ports = new Promise<[number, number]>((resolve, reject) => {
      stdout.on('data', (text: string) => {
        said += text
        const found = /listens on \S+:(\d+) .*http:\/\/\S+:(\d+)\/metrics/.exec(said)
        if (found !== null) resolve([Number(found[1]), Number(found[2])])
      })
      child.once('exit', () => reject(new Error(`the server ended at its start: ${complaints}`)))
    })
    const [port, metricsPort] = await ports
    stderr.off('data', listen)
    return new ServerProcess(child, port, metricsPort)
  }

  get address(): string {
    return `127.0.0.1:${this.port}`
  }

  get alive(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null
  }

  /** What it wrote on stderr since it listens. */
  get errors(): string {
    return this.#errors
  }

  metrics(): Promise<Metrics> {
    return Metrics.read(this.metricsPort)
  }

  /** Threads of the process; undefined where the system does not tell. */
  async threads(): Promise<number | undefined> {
    return (await readdir(`/proc/${this.#child.pid}/task`).catch(() => undefined))?.length
  }

  /** End it as a power cut would. */
  async kill(): Promise<void> {
    if (!this.alive) return
    const gone = once(this.#child, 'exit')
    this.#child.kill('SIGKILL')
    await gone
  }
}

/** Run `work` with a server in a process of its own, and end it. */
export async function withServerProcess<T>(
  options: Partial<ServerOptions>,
  work: (server: ServerProcess) => Promise<T>,
): Promise<T> {
  const server = await ServerProcess.start(options)
  try {
    return await work(server)
  } finally {
    await server.kill()
  }
}
