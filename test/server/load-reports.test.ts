// Load reports as clients receive them: at the end of calls, and out of band.
// https://github.com/grpc/proposal/blob/master/A51-custom-backend-metrics.md

import { type Metadata, status as codes } from '@grpc/grpc-js'
import type { MessageTypeDefinition } from '@grpc/proto-loader'
import test from 'ava'
import { LoadReports, type LoadReport, orcaPackage, orcaService } from '../../src/server/load-reports.js'
import { Metrics } from '../../src/server/metrics.js'
import { editorService } from '../../src/proto/definition.js'
import { serve, startEdit } from '../support-server/start.js'
import type { Peer } from '../support-server/peer.js'

const reportType = orcaPackage['xds.data.orca.v3.OrcaLoadReport'] as unknown as MessageTypeDefinition<
  LoadReport,
  LoadReport
>

/** The report that a call ends with. */
async function trailing(peer: Peer): Promise<LoadReport | undefined> {
  const { path, requestSerialize, responseDeserialize } = editorService['GetServerInfo']!
  const trailer = await new Promise<Metadata>((resolve) =>
    peer.client
      .makeUnaryRequest(path, requestSerialize, responseDeserialize, {}, () => undefined)
      .on('status', ({ metadata }) => resolve(metadata)),
  )
  const [bytes] = trailer.get('endpoint-load-metrics-bin')
  return bytes === undefined ? undefined : reportType.deserialize(bytes as Buffer)
}

function outOfBand(peer: Peer, request: object) {
  const { path, requestSerialize, responseDeserialize } = orcaService['StreamCoreMetrics']!
  const deserialize = responseDeserialize as (bytes: Buffer) => LoadReport
  const call = peer.client.makeServerStreamRequest(path, requestSerialize, deserialize, request)
  const first = new Promise<LoadReport>((resolve, reject) => call.once('data', resolve).once('error', reject))
  const over = new Promise<void>((resolve) => call.once('end', resolve).once('error', () => resolve()))
  return { call, first, over }
}

test('the load goes out with every call and, at once and then regularly, out of band', async (t) => {
  const { peer, server } = await serve(t, { options: { orca: true }, allowed: 0 })
  t.like(await trailing(peer), { applicationUtilization: 0, rpsFractional: 0, eps: 0 })
  const stream = peer.edit()
  for (const id of ['a', 'b', 'c']) stream.send(id, { start: startEdit() })
  for (const id of ['a', 'b', 'c']) await stream.first('accepted', ({ editId }) => editId === id)
  t.is((await trailing(peer))?.applicationUtilization, 1.5, 'three edits, two of which the devices take at once')
  const reports = outOfBand(peer, { reportInterval: { seconds: 0, nanos: 1 } })
  t.is((await reports.first).applicationUtilization, 1.5)
  const second = new Promise((resolve) => reports.call.once('data', resolve))
  t.like(await second, { applicationUtilization: 1.5 }, 'not a billion times a second, but within one')
  stream.cancel()
  await server.drain()
  await reports.over
})

test('without --orca there are none', async (t) => {
  const { peer } = await serve(t)
  t.is(await trailing(peer), undefined)
  await t.throwsAsync(outOfBand(peer, {}).first, { message: /UNIMPLEMENTED/ })
})

test('rates are means over some seconds, in edits', (t) => {
  const metrics = new Metrics({ version: '1', packs: [] })
  const condition = { workingDevices: 1, dueEdits: 6, slots: 4, progress: 0 }
  const reports = new LoadReports(metrics, () => condition, 0)
  for (let second = 1; second <= 60; second++) {
    // Two edits of 20 steps at ten steps per second each, one of which fails every second.
    for (let i = 0; i < 20; i++) metrics.stepped({ pack: 'tiny', steps: 20 })
    metrics.moved('EDIT_STATUS_RUNNING', 'EDIT_STATUS_FAILED', 'tiny', codes.INTERNAL)
    // What callers do wrong is no failure of the server.
    metrics.moved('EDIT_STATUS_RUNNING', 'EDIT_STATUS_FAILED', 'tiny', codes.INVALID_ARGUMENT)
    reports.sample(1000 * second)
    reports.sample(1000 * second)
  }
  const { applicationUtilization, rpsFractional, eps } = reports.report
  t.is(applicationUtilization, 1.5)
  t.true(Math.abs(rpsFractional - 1) < 0.01 && Math.abs(eps - 1) < 0.01)
  for (let second = 61; second <= 120; second++) reports.sample(1000 * second)
  t.true(reports.report.rpsFractional < 0.01, 'what is long past does not count')
  condition.slots = 0
  t.is(reports.report.applicationUtilization, 6, 'also where no device works')
})
