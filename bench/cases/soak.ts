// 2,000 short edits, each over a connection of its own, on a server whose process is watched: memory, handles, threads.
// As many go before them: until then caches, the heap and what the allocator keeps grow to their size.

import { connect } from '../../src/client/client.js'
import type { Progress } from '../../src/cli/progress.js'
import { cheap, request } from '../kit/edits.js'
import type { Report } from '../kit/report.js'
import { type ServerProcess, withServerProcess } from '../kit/server.js'
import { slope } from '../kit/statistics.js'

const warmUp = 2000
const edits = warmUp + 2000
const atOnce = 4
const sampleEvery = 100

interface Sample {
  readonly edits: number
  readonly kibibytes: number
  readonly handles: number
  readonly threads: number
}

export async function run(report: Report, progress: Progress): Promise<void> {
  await withServerProcess({}, async (server) => {
    const samples: Sample[] = []
    let [next, ended] = [0, 0]
    const worker = async () => {
      for (let i = next++; i < edits; i = next++) {
        const client = connect(server.address)
        await client.edit(request(i, { ...cheap, steps: 2 })).result()
        client.close()
        if (++ended % sampleEvery !== 0) continue
        samples.push(await sample(server, ended))
        progress.advance(ended, edits, [`${ended}/${edits}`, `${Math.round(samples.at(-1)!.kibibytes / 1024)} MiB`])
      }
    }
    await Promise.all(Array.from({ length: atOnce }, worker))
    progress.end()
    const late = samples.filter((one) => one.edits >= warmUp)
    const grown = (what: string, of: (one: Sample) => number, unit: string, most: number) => {
      const { slope: each, error } = slope(late.map((one) => ({ x: one.edits / 1000, y: of(one) })))
      report.note(
        `${what}: ${of(samples[0]!)} at first, ${of(late[0]!)} after the first ones, ${of(late.at(-1)!)} at the end`,
      )
      report.figure(`${what}, growth in 1,000 edits (± ${error.toPrecision(2)})`, each, unit, {
        atMost: most + 2 * error,
      })
    }
    grown('memory', (one) => Math.round(one.kibibytes / 102.4) / 10, 'MiB', 4)
    grown('handles', (one) => one.handles, '', 1)
    grown('threads', (one) => one.threads, '', 0.5)
  })
}

async function sample(server: ServerProcess, ended: number): Promise<Sample> {
  const metrics = await server.metrics()
  return {
    edits: ended,
    kibibytes: metrics.sum('process_resident_memory_bytes') / 1024,
    handles: metrics.sum('process_open_fds') + metrics.sum('nodejs_active_handles'),
    threads: (await server.threads()) ?? 0,
  }
}
