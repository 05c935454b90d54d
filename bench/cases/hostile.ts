// Thousands of malformed and malicious requests, chosen by a seed: each gets a status, the server stays, and edits that
// run beside them have the bits of solo runs. What is attacked: HTTP/2, gRPC's framing, protobuf, and every field.

import { connect as connectSocket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Progress } from '../../src/cli/progress.js'
import { type CompletedEvent, connect } from '../../src/client/client.js'
import { countSoloBits, request } from '../kit/edits.js'
import { attacks } from '../kit/attacks.js'
import { Random } from '../kit/random.js'
import { RawConnection } from '../kit/raw-call.js'
import type { Report } from '../kit/report.js'
import { type ServerProcess, withServerProcess } from '../kit/server.js'

const requests = 2000
const callsPerConnection = 40
const atOnce = 6
const sockets = 300
const witnesses = 3
/** For bytes that may be the beginning of something. */
const patienceMs = 300
/** Until a connection that says nothing more is ended: what is set below, what grpc-js waits for an answer, and some more. */
const keepaliveMs = 5_000
const keepaliveLimitMs = keepaliveMs + 10_000 + 5_000
/** Connections of the clients that look, and what a runtime opens when it likes. */
const spareFiles = 5
const parameters = { steps: 150, views: 1 }

/** What `toStatus` says of an error that nobody foresaw. */
const unforeseen = 'something went wrong in the server that should not'

export async function run(report: Report, progress: Progress): Promise<void> {
  await withServerProcess({ disconnectGraceMs: 0, keepaliveMs }, async (server) => {
    const client = connect(server.address)
    const counts = new Map<string, Map<string, number>>()
    const unexpected: string[] = []
    const count = (attack: string, answer: string) => {
      const own = counts.get(attack) ?? new Map<string, number>()
      counts.set(attack, own.set(answer, (own.get(answer) ?? 0) + 1))
    }
    let attacked = false
    const witnessed: { readonly seed: number; readonly end: CompletedEvent }[] = []
    const witness = async (seed: number) => {
      for (let own = seed; !attacked; own += witnesses) {
        witnessed.push({ seed: own, end: await client.edit(request(own, parameters)).result() })
      }
    }
    const beside = Promise.all(Array.from({ length: witnesses }, (_, i) => witness(i)))
    // It is awaited at the end; till then a failure waits.
    beside.catch(() => undefined)
    const before = await server.metrics()

    let next = 0
    const attack = async () => {
      while (next < requests) {
        const connection = new RawConnection(server.port)
        for (let calls = 0; calls < callsPerConnection && next < requests; calls++) {
          // Each its own seed: what is sent does not depend on which worker sends it.
          const random = new Random(++next)
          const { name, make } = random.pick(attacks)
          const { answer, message } = await connection.call(await make(random))
          count(name, answer)
          if (message.includes(unforeseen)) unexpected.push(`${name} (seed ${next})`)
          progress.advance(next, requests, [`${next}/${requests}`, name])
        }
        connection.close()
      }
    }
    await Promise.all(Array.from({ length: atOnce }, attack))
    for (let i = 0; i < sockets; i++) count('bytes on a socket', await throwBytes(server, new Random(i)))
    progress.end()
    attacked = true
    await beside

    for (const [name, answers] of [...counts].sort()) {
      const words = [...answers].sort(([, a], [, b]) => b - a).map(([answer, times]) => `${answer} ${times}`)
      report.note(`${name}: ${words.join(', ')}`)
    }
    for (const one of unexpected.slice(0, 5)) report.note(`unforeseen: ${one}`)
    const total = (wanted: string) => [...counts.values()].reduce((sum, own) => sum + (own.get(wanted) ?? 0), 0)
    report.figure('requests without an answer', total('no answer'), '', { exactly: 0 })
    report.figure('errors that the server did not foresee', unexpected.length, '', { exactly: 0 })
    report.figure('the server is the same process', Number(server.alive), '', { exactly: 1 })
    const { packs } = await client.serverInfo()
    report.figure('and answers', packs.length, '', { atLeast: 1 })
    const logged = server.errors.split('\n').filter((line) => line.startsWith('{'))
    for (const line of logged.slice(0, 3)) report.note(line)
    report.figure('errors that it logged', logged.length, '', { exactly: 0 })
    // Sockets that broke off within a frame are found by keepalive.
    const openFiles = async () => (await server.metrics()).sum('process_open_fds') - before.sum('process_open_fds')
    for (let waited = 0; waited < keepaliveLimitMs && (await openFiles()) > 0; waited += 500) await sleep(500)
    const metrics = await server.metrics()
    const grown = (name: string) => metrics.sum(name) - before.sum(name)
    report.figure('its memory has grown by', grown('process_resident_memory_bytes') / 1024 ** 2, 'MiB')
    report.figure('its open files and sockets have grown by', grown('process_open_fds'), '', { atMost: spareFiles })
    const same = await countSoloBits(
      witnessed.map(({ seed }) => request(seed, parameters)),
      witnessed.map(({ end }) => end.point.latent),
    )
    report.figure(`of ${witnessed.length} edits beside them, those with solo bits`, same, '', {
      exactly: witnessed.length,
    })
    client.close()
  })
}

const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')

/** Bytes that are no HTTP/2, or frames that are no gRPC, and then silence. */
async function throwBytes({ port }: ServerProcess, random: Random): Promise<string> {
  const socket = connectSocket(port, '127.0.0.1').on('error', () => undefined)
  const closed = new Promise<string>((resolve) => socket.once('close', () => resolve('closed')))
  const silent = new Promise<string>((resolve) => socket.setTimeout(patienceMs, () => resolve('waits for more')))
  socket.resume()
  const garbage = random.bytes(1 + random.below(600))
  const settings = Buffer.from('000000040000000000', 'hex')
  socket.write(random.pick([garbage, Buffer.concat([preface, garbage]), Buffer.concat([preface, settings, garbage])]))
  const answer = await Promise.race([closed, silent])
  socket.destroy()
  return answer
}
