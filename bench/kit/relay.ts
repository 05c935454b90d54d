// A connection between a client and a server that can be made bad: bytes stop, trickle, or vanish, and nobody closes it.
// What a stuck program, a slow link and a host without power look like to the server's kernel.

import { type Server, type Socket, connect, createServer } from 'node:net'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'

/** `stopped`: the client reads nothing. `trickle`: a byte a second. `vanished`: nothing passes in either direction. */
export type Illness = 'stopped' | 'trickle' | 'vanished'

export class Relay {
  readonly port: number
  readonly #server: Server
  readonly #pairs: { readonly client: Socket; readonly upstream: Socket }[] = []
  readonly #timers: NodeJS.Timeout[] = []

  private constructor(server: Server, port: number, upstreamPort: number) {
    this.#server = server
    this.port = port
    server.on('connection', (client) => {
      const upstream = connect(upstreamPort, '127.0.0.1')
      for (const socket of [client, upstream]) socket.on('error', () => undefined)
      client.pipe(upstream)
      upstream.pipe(client)
      this.#pairs.push({ client, upstream })
    })
  }

  static async start(upstreamPort: number): Promise<Relay> {
    const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new Relay(server, (server.address() as AddressInfo).port, upstreamPort)
  }

  /** From now on, for the connections that there are. */
  sicken(illness: Illness): void {
    for (const { client, upstream } of this.#pairs) {
      upstream.unpipe(client).pause()
      if (illness === 'vanished') client.unpipe(upstream).pause()
      if (illness === 'trickle') this.#timers.push(setInterval(() => client.write(passOne(upstream)), 1000))
    }
  }

  close(): void {
    for (const timer of this.#timers) clearInterval(timer)
    for (const { client, upstream } of this.#pairs) {
      client.destroy()
      upstream.destroy()
    }
    this.#server.close()
  }
}

function passOne(from: Socket): Buffer {
  return (from.read(1) as Buffer | null) ?? Buffer.alloc(0)
}
