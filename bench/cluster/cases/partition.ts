// A replica is cut off: its packets are dropped in both directions, nothing is refused. Its clients notice within one and
// a half keepalives, go on elsewhere, and the cut-off side stops within three keepalives and its grace. Then it is healed.
// Network namespaces joined by veth pairs, with a queue that drops everything (tc-tbf with a burst of one byte).

import { execFile } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import type { Report } from '../../kit/report.js'
import { compare, mixed, reportGaps, undisturbed, watchDuring } from '../edits.js'
import { type LogLine, type Place, Replica, nameOf, running } from '../replica.js'
import { type Way, withClient } from '../way.js'

const keepaliveMs = 2_000
const graceMs = 3_000
/** Until nothing runs on the cut-off side: three keepalives, a step under way, and the grace. */
const stopMs = 4 * keepaliveMs + graceMs
const run = promisify(execFile)
const ip = (...args: string[]) => run('ip', args)

/** A network namespace with a way to it, 198.18.NUMBER.1 to 198.18.NUMBER.2 (RFC 2544: for benchmarks). */
class Island {
  readonly name: string
  readonly host: string
  readonly #number: number

  constructor(number: number) {
    this.#number = number
    this.name = `flexit-${process.pid}-${number}`
    this.host = `198.18.${number}.2`
  }

  async create(): Promise<void> {
    const { name } = this
    await ip('netns', 'add', name)
    await ip('link', 'add', this.#outer, 'type', 'veth', 'peer', 'name', 'inner', 'netns', name)
    await ip('addr', 'add', `198.18.${this.#number}.1/30`, 'dev', this.#outer)
    await ip('link', 'set', this.#outer, 'up')
    await ip('-n', name, 'addr', 'add', `${this.host}/30`, 'dev', 'inner')
    for (const device of ['inner', 'lo']) await ip('-n', name, 'link', 'set', device, 'up')
  }

  async cut(): Promise<void> {
    const nothing = ['root', 'tbf', 'rate', '1kbit', 'burst', '1', 'latency', '1ms']
    await run('tc', ['qdisc', 'add', 'dev', this.#outer, ...nothing])
    await run('tc', ['-n', this.name, 'qdisc', 'add', 'dev', 'inner', ...nothing])
  }

  async heal(): Promise<void> {
    await run('tc', ['qdisc', 'del', 'dev', this.#outer, 'root'])
    await run('tc', ['-n', this.name, 'qdisc', 'del', 'dev', 'inner', 'root'])
  }

  /** Its veth pair goes with it. */
  async remove(): Promise<void> {
    await ip('netns', 'del', this.name).catch(() => undefined)
  }

  get #outer(): string {
    return `fx${process.pid}-${this.#number}`
  }
}

export const partition = (way: Way) => async (report: Report, folder: string) => {
  const islands = [1, 2, 3].map((number) => new Island(number))
  try {
    for (const island of islands) await island.create()
    const options = { keepaliveMs, disconnectGraceMs: graceMs, drainMs: 1_000 }
    const replicas = islands.map(({ name, host }) => {
      const place: Place = { host, port: 50_051, metricsPort: 9_464, namespace: name }
      return new Replica(place, options)
    })
    await running(replicas, () => measure(report, folder, way, replicas, islands[0]!))
  } finally {
    for (const island of islands) await island.remove()
  }
}

async function measure(report: Report, folder: string, way: Way, replicas: Replica[], island: Island): Promise<void> {
  const requests = mixed(60)
  const alone = await undisturbed(replicas, requests)
  const [lost, ...others] = replicas
  await withClient(way, replicas, folder, { keepaliveMs }, async (client) => {
    const pairs = await watchDuring(client, requests, alone, async () => {
      await sleep(3_000)
      await island.cut()
      // Not before: an edit that ends while the commands run has told its client.
      const cutMs = Date.now()
      await sleep(stopMs + 1_000)
      report.note('while it is cut off:')
      reportCut(report, lost!, others, cutMs)
      const healMs = performance.now()
      await island.heal()
      while ((await lost!.health()) !== 'SERVING') await sleep(50)
      report.figure('from healing to an answer', performance.now() - healMs, 'ms')
      await sleep(3_000)
      const again = lost!.log.filter(({ time, msg }) => msg === 'edit accepted' && time > Date.now() - 3_000)
      report.figure('edits that it is given again in 3 s', again.length, '', { atLeast: 1 })
    })
    compare(report, pairs)
    reportGaps(report, pairs)
  })
}

/** What became of the edits that a replica had when it was cut off. */
function reportCut(report: Report, lost: Replica, others: readonly Replica[], cutMs: number): void {
  const had = new Set<string>()
  for (const line of lost.log) {
    if (line.msg === 'edit accepted' && line.time < cutMs) had.add(nameOf(line))
    if (line.msg === 'edit ended' && line.time < cutMs) had.delete(nameOf(line))
  }
  const after = (log: readonly LogLine[], msg: string) =>
    log.flatMap((line) => (line.msg === msg && line.time >= cutMs && had.has(nameOf(line)) ? [line.time - cutMs] : []))
  const elsewhere = after(
    others.flatMap((replica) => replica.log),
    'edit accepted',
  )
  const stopped = after(lost.log, 'edit ended')
  report.figure('edits that it had', had.size, '', { atLeast: 1 })
  report.figure('of these, accepted elsewhere', elsewhere.length, '', { atLeast: had.size })
  report.figure('the first of them, after the cut', Math.min(...elsewhere), 'ms', { atMost: 2 * keepaliveMs })
  report.figure('the last of them, after the cut', Math.max(...elsewhere), 'ms', { atMost: 3 * keepaliveMs })
  report.figure('edits that ended on the cut-off side', stopped.length, '', { exactly: had.size })
  report.figure('the last of them, after the cut', Math.max(...stopped), 'ms', { atMost: stopMs })
}
