// Alerts, dashboard and scalers speak of metrics, labels and values that the server has; alerts fire when they should.
// Prometheus' own tool checks them where it is installed: https://prometheus.io/docs/prometheus/latest/command-line/promtool/

import { execFile } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { status as codes } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { parse } from 'yaml'
import { isOwnFault } from '../../src/server/metrics.js'
import { emptyMetrics } from '../../src/server/scheduler-metrics.js'
import { deployFolder, isThere, root } from './manifests.js'

const canCheck = isThere('promtool', '--version')
const checking = canCheck ? test : test.skip
if (!canCheck) console.warn('promtool is not on this machine: alerts are not tried out')

interface Rule {
  alert: string
  expr: string
  for?: string
  labels: Record<string, string>
  annotations?: Record<string, string>
}

interface Panel {
  id: number
  type: string
  title: string
  gridPos: { x: number; y: number; w: number; h: number }
  targets?: { expr: string }[]
}

const read = (...path: string[]) => readFileSync(join(deployFolder, 'components', ...path), 'utf8')
const rules = parse(read('monitoring', 'rules.yaml')) as { spec: { groups: [{ name: string; rules: Rule[] }] } }
const alerts = rules.spec.groups.flatMap((group) => group.rules)
const dashboard = JSON.parse(read('monitoring', 'dashboard.json')) as { panels: Panel[] }
const expressions = dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr))

const scaledObject = parse(read('autoscaling', 'scaled-object.yaml')) as {
  spec: { triggers: [{ metadata: { query: string } }] }
}
const adapter = parse(read('autoscaling-hpa', 'adapter-rule.yaml')) as {
  rules: [{ seriesQuery: string; metricsQuery: string }]
}
const scalers = [
  scaledObject.spec.triggers[0].metadata.query,
  adapter.rules[0].seriesQuery,
  adapter.rules[0].metricsQuery
    .replaceAll('<<.GroupBy>>', 'pod')
    .replaceAll('<<.LabelMatchers>>', 'namespace="flexit"'),
]

/** What Prometheus adds when it scrapes a pod. */
const added = ['namespace', 'pod']

/** Names of series, with their labels: from the server itself, and from the table of docs/metrics.md, which is tested. */
async function known() {
  const documentation = readFileSync(join(root, 'docs', 'metrics.md'), 'utf8')
  const labels = new Map<string, string[]>()
  for (const [, name, list] of documentation.matchAll(/^\| `(flexit_\w+)` \| \w+ \| ([^|]*)\|/gm)) {
    labels.set(
      name!,
      [...list!.matchAll(/`(\w+)`/g)].map(([, label]) => label!),
    )
  }
  const values = new Map<string, string>()
  for (const [, label, list] of documentation.matchAll(/^\| `(\w+)` \| (.*) \|$/gm)) values.set(label!, list!)
  const series = new Map<string, string[]>()
  for (const [, name, type] of (await emptyMetrics('0')).matchAll(/^# TYPE (\S+) (\S+)$/gm)) {
    const own = [...(labels.get(name!) ?? []), ...added]
    if (type === 'histogram') {
      for (const part of ['bucket', 'sum', 'count'])
        series.set(`${name!}_${part}`, part === 'bucket' ? [...own, 'le'] : own)
    } else series.set(name!, own)
  }
  return { series, values }
}

type Known = Awaited<ReturnType<typeof known>>

/** What an expression asks for and the server does not have. */
function strangers(expression: string, { series, values }: Known): string[] {
  const problems: string[] = []
  for (const [, name, selector = ''] of expression.matchAll(/\b((?:flexit|process|nodejs)_\w+)(?:\{([^}]*)\})?/g)) {
    const labels = series.get(name!)
    if (labels === undefined) problems.push(`no metric ${name!}`)
    for (const [, label, value] of selector.matchAll(/(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"/g)) {
      if (labels !== undefined && !labels.includes(label!)) problems.push(`${name!} has no label ${label!}`)
      const words = values.get(label!)?.includes('`') === true && label !== 'grpc_code' ? value!.split('|') : []
      for (const word of words)
        if (!values.get(label!)!.includes(`\`${word}\``)) problems.push(`${label!} is never ${word}`)
    }
  }
  const all = new Set([...series.values()].flat())
  for (const [, list] of expression.matchAll(/\b(?:by|on)\s*\(([^)]*)\)/g)) {
    for (const label of list!.split(',').map((one) => one.trim())) {
      if (!all.has(label)) problems.push(`nothing has a label ${label}`)
    }
  }
  return problems
}

test('alerts, dashboard and scalers ask for what there is', async (t) => {
  const all = await known()
  t.true(all.series.size > 40 && all.values.size > 4)
  const asked = [...alerts.map(({ expr }) => expr), ...expressions, ...scalers]
  t.true(asked.length > 50)
  for (const expression of asked) t.deepEqual(strangers(expression, all), [], expression)
})

test('alerts and dashboard count as the server’s fault what it counts itself', (t) => {
  const own = Object.values(codes).filter((code): code is codes => typeof code === 'number' && isOwnFault(code))
  const names = own.map((code) => codes[code]).sort()
  const asked = [...alerts.map(({ expr }) => expr), ...expressions].flatMap((expression) =>
    [...expression.matchAll(/\{([^}]*),code=~"([^"]*)"\}/g)].map(([, selector, list]) => {
      const ofAll = selector!.includes('completed')
      return [ofAll, list!.split('|').sort()] as const
    }),
  )
  t.is(asked.length, 4)
  for (const [ofAll, list] of asked) t.deepEqual(list, ofAll ? [...names, 'OK'].sort() : names)
})

test('strangers are found', async (t) => {
  const all = await known()
  t.deepEqual(strangers('sum(flexit_edits_waiting)', all), ['no metric flexit_edits_waiting'])
  t.deepEqual(strangers('rate(flexit_queue_seconds[5m])', all), ['no metric flexit_queue_seconds'])
  t.deepEqual(strangers('flexit_edits{tenant="a"}', all), ['flexit_edits has no label tenant'])
  t.deepEqual(strangers('flexit_edits{state=~"pending|runing"}', all), ['state is never runing'])
  t.deepEqual(strangers('sum by (le, gpu) (rate(flexit_queue_seconds_bucket[5m]))', all), ['nothing has a label gpu'])
})

test('every alert says what it means and what to do, here and in the documentation', (t) => {
  const documentation = readFileSync(join(root, 'docs', 'operations.md'), 'utf8')
  t.is(new Set(alerts.map(({ alert }) => alert)).size, alerts.length)
  for (const { alert, labels, annotations = {} } of alerts) {
    t.regex(labels['severity'] ?? '', /^(critical|warning)$/, alert)
    for (const text of ['summary', 'description', 'runbook'])
      t.true((annotations[text] ?? '').length > 20, `${alert}: ${text}`)
    t.true(documentation.includes(`\`${alert}\``), alert)
  }
  const named = [...documentation.matchAll(/`(Flexit\w+)`/g)].map(([, one]) => one)
  t.deepEqual(
    named.filter((one) => !alerts.some(({ alert }) => alert === one)),
    [],
  )
})

test("the dashboard answers an operator's questions in order, and its panels do not overlap", (t) => {
  const { panels } = dashboard
  const rows = panels.filter(({ type }) => type === 'row').map(({ title }) => title)
  t.deepEqual(rows, ['Is it serving?', 'How loaded is it?', 'What do users feel?', 'Which device is ill?'])
  t.is(new Set(panels.map(({ id }) => id)).size, panels.length)
  const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
    Array.from({ length: w * h }, (_, i) => `${x + (i % w)} ${y + Math.floor(i / w)}`),
  )
  t.is(new Set(cells).size, cells.length)
  t.true(panels.every(({ gridPos: { x, w } }) => x + w <= 24))
})

/** What promtool says in a folder with these files. Errors: with its words, where it objects. */
async function promtool(t: ExecutionContext, args: readonly string[], files: Readonly<Record<string, unknown>>) {
  mkdirSync(join(root, '.cache'), { recursive: true })
  const cwd = mkdtempSync(join(root, '.cache', 'promtool-'))
  t.teardown(() => rmSync(cwd, { recursive: true }))
  for (const [name, content] of Object.entries(files)) writeFileSync(join(cwd, name), JSON.stringify(content))
  copyFileSync(join(root, 'test', 'deploy', 'alerts.yaml'), join(cwd, 'alerts.yaml'))
  return promisify(execFile)('promtool', args, { cwd })
}

checking('promtool accepts the alerts, and every expression of dashboard and scalers', async (t) => {
  const filled = [...expressions, ...scalers.filter((one) => one.includes('sum'))].map((expression) =>
    expression.replaceAll('$__rate_interval', '5m').replaceAll('$namespace', 'flexit'),
  )
  const asked = { name: 'asked', rules: filled.map((expr, i) => ({ record: `asked:${i}`, expr })) }
  const { stdout } = await promtool(t, ['check', 'rules', 'rules.yaml', 'asked.yaml'], {
    'rules.yaml': rules.spec,
    'asked.yaml': { groups: [asked] },
  })
  t.regex(stdout, new RegExp(`SUCCESS: ${alerts.length} rules`))
  t.regex(stdout, new RegExp(`SUCCESS: ${filled.length} rules`))
})

checking('alerts fire when they should, and not otherwise', async (t) => {
  // The tool compares annotations word for word; what they say is no matter here.
  const bare = alerts.map((rule) => ({ ...rule, annotations: {} }))
  const groups = (list: readonly object[]) => ({ 'rules.yaml': { groups: [{ name: 'flexit', rules: list }] } })
  await t.notThrowsAsync(promtool(t, ['test', 'rules', 'alerts.yaml'], groups(bare)))
  const cases = readFileSync(join(root, 'test', 'deploy', 'alerts.yaml'), 'utf8')
  for (const { alert } of bare) t.true(cases.includes(`alertname: ${alert}`), alert)

  const wrong = bare.map((rule) =>
    rule.alert === 'FlexitDeviceOut' ? { ...rule, expr: 'flexit_device_up == 1' } : rule,
  )
  await t.throwsAsync(promtool(t, ['test', 'rules', 'alerts.yaml'], groups(wrong)))
})
