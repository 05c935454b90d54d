// Several replicas on this machine, with a load balancer before them or balanced by their clients:
//   node dist/bench/cluster/main.js [CASE…]        (default: all; `--list` names them)
//   CLUSTER_SCALE=0.2 node …                 (with a fifth of the edits)
// Needs haproxy and nginx; `partition` needs root, for network namespaces. Exits with 1 where something asked for does
// not hold.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Report, formatFigure } from '../kit/report.js'
import { cases } from './cases.js'

const mostMs = 600_000

const wanted = process.argv.slice(2)
if (wanted.includes('--list')) {
  for (const { name, shows } of cases) console.log(`${name.padEnd(18)} ${shows}`)
  process.exit(0)
}
const unknown = wanted.find((name) => !cases.some((one) => one.name === name))
if (unknown !== undefined) {
  console.error(`error: there is no case "${unknown}"\nUse ${cases.map(({ name }) => name).join(', ')}.`)
  process.exit(2)
}

const report = new Report({
  figure: (figure) => console.log(`  ${formatFigure(figure)}`),
  note: (text) => console.log(`  ${text}`),
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(130))
process.exitCode = await runAll()

async function runAll(): Promise<number> {
  const failed: string[] = []
  for (const { name, shows, run } of cases) {
    if (wanted.length > 0 && !wanted.includes(name)) continue
    console.log(`${name}: ${shows}`)
    const begin = performance.now()
    const before = report.failures
    const folder = await mkdtemp(join(tmpdir(), 'flexit-cluster-'))
    const clock = setTimeout(() => {
      console.error(`error: ${name} did not end within ${mostMs / 1000} s`)
      process.exit(1)
    }, mostMs)
    try {
      await run(report, folder)
      if (report.failures > before) failed.push(name)
    } catch (error) {
      console.error(error)
      failed.push(name)
    } finally {
      clearTimeout(clock)
      await rm(folder, { recursive: true, force: true })
    }
    console.log(`  took ${((performance.now() - begin) / 1000).toFixed(0)} s`)
  }
  console.log(failed.length === 0 ? 'all holds' : `does not hold: ${failed.join(', ')}`)
  // Channels of grpc-js that nobody uses any more would keep the process for a while.
  setTimeout(() => process.exit(), 1000).unref()
  return failed.length === 0 ? 0 : 1
}
