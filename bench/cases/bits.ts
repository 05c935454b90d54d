// 64 edits with different parameters, over 16 connections and two devices, against the same edits made alone.
// Invariance: docs/architecture.md, "Sums are written so that they do not depend on the batch".

import { connect } from '../../src/client/client.js'
import { countSoloBits, request } from '../kit/edits.js'
import type { Report } from '../kit/report.js'
import { serveHere } from '../kit/server.js'

const edits = 64
const streams = 16

export async function run(report: Report): Promise<void> {
  const server = await serveHere({ device: ['cpu', 'cpu:1'] })
  const clients = Array.from({ length: streams }, () => connect(`127.0.0.1:${server.port}`))
  const requests = Array.from({ length: edits }, (_, i) => request(i, { steps: 10 }))
  const results = await Promise.all(requests.map((one, i) => clients[i % streams]!.edit(one).result()))
  for (const client of clients) client.close()
  await server.drain()
  const equal = await countSoloBits(
    requests,
    results.map(({ point }) => point.latent),
  )
  report.figure(`of ${edits} edits, those with the bits of solo runs`, equal, '', { exactly: edits })
}
