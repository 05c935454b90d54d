// What the server measures: the table in docs/metrics.md against the live registry, and what counts what.
// Names follow https://prometheus.io/docs/practices/naming/.

import { readFileSync } from 'node:fs'
import test from 'ava'
import { Metrics } from '../../src/server/metrics.js'
import { createLogger } from '../../src/server/logger.js'
import { emptyMetrics, schedulerMetrics } from '../../src/server/scheduler-metrics.js'
import { FlexitError } from '../../src/engine/errors.js'
import { fromStatus } from '../../src/proto/status.js'
import { serve, startEdit } from '../support-server/start.js'

const documented = readFileSync(new URL('../../../docs/metrics.md', import.meta.url), 'utf8')

function allMetrics(): Metrics {
  const metrics = new Metrics({ version: '1.2.3', packs: [{ name: 'tiny', digest: 'd' }] })
  schedulerMetrics(metrics, { devices: ['cpu'], waitingBytes: () => 7, logger: createLogger('silent') })
  return metrics
}

/** Lines of the metrics' text form that are not comments. */
async function samples({ registry }: Metrics): Promise<string[]> {
  return (await registry.metrics()).split('\n').filter((line) => line !== '' && !line.startsWith('#'))
}

test('the table of the documentation is that of the registry', (t) => {
  const rows = allMetrics()
    .registry.getMetricsAsArray()
    .filter(({ name }) => name.startsWith('flexit_'))
    .map((metric) => {
      const { name, type, help, labelNames } = metric as typeof metric & { readonly labelNames: readonly string[] }
      const labels = labelNames.map((label) => `\`${label}\``).join(', ')
      return `| \`${name}\` | ${String(type)} | ${labels} | ${help} |`
    })
  t.true(rows.length > 25)
  const squeezed = documented.replace(/ +/g, ' ')
  for (const row of rows) t.true(squeezed.includes(`${row.replace(/ +/g, ' ')}\n`), row)
  t.is(squeezed.match(/^\| `flexit_/gm)?.length, rows.length, 'and no others')
})

test('all metrics can be listed without a server', async (t) => {
  const text = await emptyMetrics('1.2.3')
  const names = (of: string) => [...of.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name)
  t.deepEqual(names(text), names(await allMetrics().registry.metrics()))
  for (const name of ['process_cpu_seconds_total', 'nodejs_eventloop_lag_seconds', 'flexit_build_info']) {
    t.true(names(text).includes(name), name)
  }
})

test('a server that has taken no step says so of each pack', async (t) => {
  const packs = ['tiny', 'large'].map((name) => ({ name, digest: 'd' }))
  const lines = await samples(new Metrics({ version: '1.2.3', packs }))
  for (const { name } of packs) t.true(lines.includes(`flexit_steps_total{pack="${name}"} 0`), name)
})

test('without TLS no certificate ends', async (t) => {
  const lines = await samples(allMetrics())
  t.false(lines.some((line) => line.startsWith('flexit_certificate_expiry')))
  t.true(lines.includes('flexit_reload_failed{what="tokens"} 0'))
})

test('buckets fit milliseconds and seconds', async (t) => {
  const metrics = allMetrics()
  for (const { name, type } of metrics.registry.getMetricsAsArray()) {
    if (!/^flexit_.*(?<!_timestamp)_seconds$/.test(name)) continue
    t.is(String(type), 'histogram', name)
    const histogram = metrics.registry.getSingleMetric(name) as unknown as { readonly upperBounds: readonly number[] }
    const { upperBounds } = histogram
    t.true(upperBounds[0]! <= 0.001 && upperBounds.at(-1)! >= 30, name)
  }
  t.true((await samples(metrics)).includes('flexit_waiting_bytes 7'))
})

test('what the scheduler tells is counted for each device', async (t) => {
  const metrics = new Metrics({ version: '1.2.3', packs: [] })
  const observer = schedulerMetrics(metrics, {
    devices: ['cpu', 'cuda:0'],
    waitingBytes: () => 0,
    logger: createLogger('silent'),
  })
  const device = 'cuda:0'
  observer.onStep?.({ device, samples: 4, wasted: 1, prepared: 2, stepMs: 20, prepareMs: 5 })
  observer.onDrawn?.({ device, drawMs: 7 })
  observer.onFreed?.({ cancelToFreedMs: 12 })
  const error = new FlexitError({ code: 'RESOURCE_EXHAUSTED', message: 'full' })
  observer.onOutOfMemory?.({ device, samples: 8, error })
  observer.onWorkerLost?.({ device, error })
  observer.onDeviceOut?.({ device, error })
  const lines = await samples(metrics)
  for (const line of [
    'flexit_executions_total{device="cuda:0"} 1',
    'flexit_executions_total{device="cpu"} 0',
    'flexit_samples_total{device="cuda:0"} 4',
    'flexit_wasted_steps_total{device="cuda:0"} 1',
    'flexit_device_busy_seconds_total{device="cuda:0"} 0.032',
    'flexit_batch_size_bucket{le="4",device="cuda:0"} 1',
    'flexit_step_seconds_bucket{le="0.025",device="cuda:0"} 1',
    'flexit_step_seconds_bucket{le="0.01",device="cuda:0"} 0',
    'flexit_cancel_to_freed_seconds_bucket{le="0.025"} 1',
    'flexit_out_of_memory_total{device="cuda:0"} 1',
    'flexit_worker_restarts_total{device="cuda:0"} 1',
    'flexit_device_up{device="cuda:0"} 0',
    'flexit_device_up{device="cpu"} 1',
  ]) {
    t.true(lines.includes(line), line)
  }
})

test('edits and calls are counted by how they end, refusals by their reason', async (t) => {
  const { peer, server } = await serve(t, { places: 1, allowed: 0, options: { maxEditsPerStream: 1 } })
  const stream = peer.edit()
  stream.send('a', { start: startEdit() })
  stream.send('b', { start: startEdit() })
  const error = fromStatus((await stream.first('failed')).failed.status!)
  t.is(error.status, 'RESOURCE_EXHAUSTED')
  t.is(error.retryAfterMs, 1000)
  t.truthy(error.cure)
  await peer.stream('RunEdit', { start: startEdit() }).over
  await peer.stream('RunEdit', { start: startEdit({ sourceText: '' }) }).over
  stream.send('a', { cancel: {} })
  await stream.first('cancelled')
  stream.end()
  await stream.over
  const text = await (await fetch(`http://127.0.0.1:${server.metricsPort}/metrics`)).text()
  for (const line of [
    'flexit_edits_rejected_total{reason="edits_of_this_stream"} 1',
    'flexit_edits_rejected_total{reason="edits"} 1',
    'flexit_edits_rejected_total{reason="invalid_argument"} 1',
    'flexit_edits_finished_total{outcome="cancelled",code="OK",pack="tiny"} 1',
    'flexit_edit_seconds_count{outcome="cancelled",pack="tiny"} 1',
    'flexit_edits{state="pending"} 0',
    'flexit_grpc_handling_seconds_count{grpc_method="flexit.v1.Editor/RunEdit",grpc_type="server_stream",grpc_code="RESOURCE_EXHAUSTED"} 1',
    'flexit_grpc_started_total{grpc_method="flexit.v1.Editor/RunEdit",grpc_type="server_stream"} 2',
  ]) {
    t.true(text.includes(`${line}\n`), line)
  }
})
