// A replica: `flexit serve` in a process of its own, which can be drained, killed, started again at the same address, and
// put into a network namespace. Nothing of it is left behind when this process ends.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { type OptionName, type ServerOptions, flagName } from '../../src/server/options.js'
import { Metrics } from '../kit/metrics.js'
import { type Health, health } from './health.js'

const launcher = fileURLToPath(new URL('../../../bin/flexit.js', import.meta.url))
const usual = { device: ['cpu'], threads: 1, logLevel: 'info' } as const
const children = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL')
})

/** A child of this process, which does not outlive it. */
export function startProcess(command: string, args: readonly string[], cwd?: string): ChildProcess {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...(cwd !== undefined && { cwd }) })
  children.add(child)
  child.once('exit', () => children.delete(child))
  child.once('error', () => children.delete(child))
  return child
}

export interface Place {
  readonly host: string
  readonly port: number
  readonly metricsPort: number
  readonly namespace?: string
}

export interface LogLine {
  readonly time: number
  readonly msg: string
  readonly editId?: string
  readonly outcome?: string
}

/** Of an edit over all its starts, whose number the client library adds to its id. */
export function nameOf({ editId = '' }: LogLine): string {
  return editId.replace(/:\d+$/, '')
}

export class Replica {
  readonly address: string
  /** What it logged, over all its lives. */
  readonly log: LogLine[] = []
  readonly #place: Place
  readonly #options: Partial<ServerOptions>
  #child: ChildProcess | undefined
  #complaints = ''

  constructor(place: Place, options: Partial<ServerOptions>) {
    this.#place = place
    this.#options = options
    this.address = `${place.host}:${place.port}`
  }

  /** Start the process. */
  spawn(): void {
    const { namespace, ...place } = this.#place
    const flags = Object.entries({ ...usual, ...this.#options, ...place }).flatMap(([name, value]) =>
      [value].flat().flatMap((one) => [`--${flagName(name as OptionName)}`, String(one)]),
    )
    const inside = namespace === undefined ? [] : ['ip', 'netns', 'exec', namespace]
    const [command, ...args] = [...inside, process.execPath, launcher, 'serve', ...flags]
    const child = startProcess(command!, args)
    this.#child = child
    this.#complaints = ''
    child.stdout!.resume()
    const lines = createInterface({ input: child.stderr!, crlfDelay: Infinity })
    lines.on('line', (line) => {
      if (line.startsWith('{')) this.log.push(JSON.parse(line) as LogLine)
      else this.#complaints += `${line}\n`
    })
  }

  /** Start it, and wait until it serves. Errors: where it does not. */
  async start(): Promise<void> {
    this.spawn()
    const child = this.#child!
    while ((await this.health()) !== 'SERVING') {
      if (child.exitCode !== null) throw new Error(`${this.address} ended at its start: ${this.#complaints}`)
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }

  /** Of the process, once it was started. */
  get pid(): number {
    return this.#child!.pid!
  }

  health(): Promise<Health> {
    return health(this.address)
  }

  async metrics(): Promise<Metrics> {
    const answer = await fetch(`http://${this.#place.host}:${this.#place.metricsPort}/metrics`)
    return new Metrics(await answer.text())
  }

  /** Ask it to go away. Resolves with its exit code and how long it took. */
  async drain(): Promise<{ readonly code: number | null; readonly ms: number }> {
    const begin = performance.now()
    const code = await this.#end('SIGTERM')
    return { code, ms: performance.now() - begin }
  }

  /** As a crash does. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL')
  }

  async #end(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#child
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null
    const exit = once(child, 'exit') as Promise<[number | null]>
    child.kill(signal)
    return (await exit)[0]
  }
}

/** A port of a loopback address that is free now. */
export async function freePort(host = '127.0.0.1'): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, host, resolve))
  const { port } = server.address() as AddressInfo
  server.close()
  return port
}

/** Start replicas at loopback addresses of their own, run `work`, and end them. */
export async function withReplicas<T>(
  count: number,
  options: Partial<ServerOptions>,
  work: (replicas: Replica[]) => Promise<T>,
): Promise<T> {
  const places = await Promise.all(
    Array.from({ length: count }, async (_, i): Promise<Place> => {
      const host = `127.0.1.${i + 1}`
      return { host, port: await freePort(host), metricsPort: await freePort(host) }
    }),
  )
  return running(
    places.map((place) => new Replica(place, options)),
    work,
  )
}

export async function running<T>(replicas: Replica[], work: (replicas: Replica[]) => Promise<T>): Promise<T> {
  try {
    // One after the other: the first builds the graphs that the others load.
    for (const replica of replicas) await replica.start()
    return await work(replicas)
  } finally {
    await Promise.all(replicas.map((replica) => replica.kill()))
  }
}
