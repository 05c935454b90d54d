// The manifests of deploy/k8s: every overlay with many combinations of components renders, validates, and says of the
// program what is true. Without kubectl they cannot be rendered, and the tests are skipped.

import test from 'ava'
import {
  type Manifest,
  at,
  canRender,
  components,
  distinct,
  find,
  name,
  overlays,
  render,
  schemaProblems,
} from './manifests.js'
import { brokenPromises } from './promises.js'

const rendering = canRender ? test : test.skip
if (!canRender) console.warn('kubectl is not on this machine: manifests are not rendered')

const scalers = ['autoscaling', 'autoscaling-hpa']
const all = (scaler: string) => components.filter((one) => !scalers.includes(one) || one === scaler)

/**
 * Sets of components in which every two are together, apart, and each without the other, but for the two scalers, which are
 * never together: the 12 runs of Plackett and Burman, "The design of optimum multifactorial experiments", 1946, for up to
 * 11 factors, of which those with both scalers are divided.
 */
function combinations(names: readonly string[]): string[][] {
  const generator = [1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0]
  const runs = generator.map((_, shift) => names.filter((_name, i) => generator[(i + shift) % 11] === 1))
  const both = (run: readonly string[]) => scalers.every((scaler) => run.includes(scaler))
  const divided = (run: string[]) => scalers.map((scaler) => run.filter((one) => one !== scaler))
  return [...runs, []].flatMap((run) => (both(run) ? divided(run) : [run]))
}

rendering('every two components are together in one combination, apart in another, and each alone of the two', (t) => {
  t.true(components.length <= 11)
  const runs = combinations(components)
  for (const a of components) {
    for (const b of components.filter((one) => one !== a)) {
      const seen = new Set(runs.map((run) => `${run.includes(a)} ${run.includes(b)}`))
      t.is(seen.size, scalers.includes(a) && scalers.includes(b) ? 3 : 4, `${a} and ${b}`)
    }
  }
})

for (const overlay of overlays) {
  rendering(`${overlay} with many combinations of components`, async (t) => {
    const seen: Manifest[] = []
    for (const names of [...combinations(components), ...scalers.map(all)]) {
      const manifests = await render(overlay, names)
      t.deepEqual(brokenPromises(manifests), [], names.join(', '))
      t.deepEqual(new Set(manifests.map(name)).size, manifests.length, 'each once')
      t.true(manifests.every(({ kind, metadata }) => kind === 'Namespace' || metadata.namespace === 'flexit'))
      seen.push(...manifests)
    }
    t.deepEqual(await schemaProblems(distinct(seen)), [])
  })
}

rendering('both scalers together are refused', async (t) => {
  await t.throwsAsync(render('cpu', scalers), { message: /\/spec\/replicas/ })
})

rendering('what schemas refuse', async (t) => {
  const rendered = await render('cpu', all('autoscaling'))
  const container = 'spec.template.spec.containers.0'
  const cases: [kind: string, change: (one: Manifest) => unknown, expected: RegExp][] = [
    ['Deployment', (one) => (at(one, 'spec')['replicas'] = 'two'), /replicas must be integer/],
    ['Deployment', (one) => (at(one, container)['readinesProbe'] = {}), /'?"?readinesProbe"?'? does not exist/],
    ['Deployment', (one) => (at(one, container)['startupProbe'] = { grpc: { port: 'grpc' } }), /port must be integer/],
    ['Deployment', (one) => delete at(one, 'spec')['selector'], /required property selector/],
    ['Service', (one) => (at(one, 'spec')['clusterIp'] = 'None'), /clusterIp"?'? does not exist/],
    ['GRPCRoute', (one) => (at(one, 'spec.rules.0')['timeouts'] = { request: '0s' }), /timeouts"?'? does not exist/],
    ['Gateway', (one) => (at(one, 'spec.listeners.0')['port'] = 100_000), /port must be <= 65535/],
    ['ScaledObject', (one) => delete at(one, 'spec')['triggers'], /required property triggers/],
    ['ScaledObject', (one) => (at(one, 'spec.triggers.0')['metricTyp'] = 'Value'), /metricTyp"?'? does not exist/],
    ['Certificate', (one) => delete at(one, 'spec')['secretName'], /required property secretName/],
    ['PodMonitor', (one) => (at(one, 'spec')['endpoints'] = []), /endpoints"?'? does not exist/],
    ['PrometheusRule', (one) => (at(one, 'spec.groups.0')['interval'] = 'soon'), /interval must match pattern/],
    ['NetworkPolicy', (one) => (at(one, 'spec')['policyTypes'] = 'Ingress'), /policyTypes must be array/],
  ]
  const broken = cases.map(([kind, change], i) => {
    const one = structuredClone(find(rendered, kind))
    one.metadata.name = `case-${i}`
    change(one)
    return one
  })
  const problems = await schemaProblems(broken)
  for (const [i, [kind, , expected]] of cases.entries()) {
    const its = problems.filter((problem) => problem.startsWith(`${kind} case-${i}: `))
    t.true(
      its.some((problem) => expected.test(problem)),
      `${String(expected)}: ${its.join('; ')}`,
    )
  }
})

rendering('promises that the program would not keep', async (t) => {
  const rendered = await render('cpu')
  const options = (manifests: Manifest[]) => manifests.find(({ kind }) => kind === 'ConfigMap')!.data!
  const pod = (manifests: Manifest[]) => at(find(manifests, 'Deployment'), 'spec.template.spec')
  const container = (manifests: Manifest[]) => at(pod(manifests), 'containers.0')
  const budget = (manifests: Manifest[]) => at(find(manifests, 'PodDisruptionBudget'), 'spec')
  const ports = [{ name: 'grpc', port: 50051, targetPort: 'web' }]
  const cases: [change: (manifests: Manifest[]) => unknown, expected: RegExp][] = [
    [(all) => (options(all)['FLEXIT_DRIAN_MS'] = '1'), /^the server has no option FLEXIT_DRIAN_MS$/],
    [(all) => (options(all)['FLEXIT_DEVICE'] = 'gpu:0'), /FLEXIT_DEVICE: Use cpu/],
    [(all) => (options(all)['FLEXIT_DEVICE'] = 'cuda:0'), /^0 GPUs for the devices cuda:0$/],
    [(all) => (options(all)['FLEXIT_PORT'] = '50052'), /^port grpc is not 50052$/],
    [(all) => (options(all)['FLEXIT_DRAIN_MS'] = '50000'), /^the grace period is less than 70 s$/],
    [(all) => (options(all)['FLEXIT_TLS_CERT'] = '/a'), /--tls-cert and --tls-key belong together/],
    [(all) => delete pod(all)['enableServiceLinks'], /^Kubernetes sets FLEXIT_PORT$/],
    [(all) => (pod(all)['automountServiceAccountToken'] = true), /^a token of the service account is mounted$/],
    [(all) => delete at(pod(all), 'securityContext')['seccompProfile'], /^no seccomp profile$/],
    [(all) => delete container(all)['lifecycle'], /^no time for balancers to hear of the end$/],
    [
      (all) => (at(container(all), 'livenessProbe.grpc')['service'] = ''),
      /^livenessProbe does not ask for flexit\.v1\.Live/,
    ],
    [(all) => (container(all)['args'] = ['server']), /^the program has no command server$/],
    [(all) => (container(all)['image'] = 'flexit:0.0.9-cpu'), /^flexit: image flexit:0\.0\.9-cpu$/],
    [(all) => (container(all)['volumeMounts'] = []), /^flexit: nothing is mounted for \/var\/cache\/flexit$/],
    [(all) => (container(all)['securityContext'] = {}), /^flexit may write to its root$/],
    [(all) => (at(find(all, 'Service', 'flexit'), 'spec')['ports'] = ports), /^Service flexit: no port web$/],
    [(all) => (budget(all)['selector'] = {}), /^the disruption budget is not of the server's pods$/],
  ]
  for (const [change, expected] of cases) {
    const manifests = structuredClone(rendered)
    change(manifests)
    const problems = brokenPromises(manifests)
    t.true(
      problems.some((problem) => expected.test(problem)),
      `${String(expected)}: ${problems.join('; ')}`,
    )
  }
  const secure = await render('cpu', ['tls'])
  const secureContainer = container(secure)
  at(find(secure, 'Certificate', 'flexit'), 'spec')['usages'] = ['server auth']
  at(secureContainer, 'livenessProbe.httpGet')['path'] = '/ready'
  at(secureContainer, 'readinessProbe.httpGet')['port'] = 'grpc'
  t.deepEqual(brokenPromises(secure), [
    'readinessProbe does not ask at the port of the metrics',
    'livenessProbe does not get /live',
    '`flexit health` cannot show the certificate',
  ])
  const nvidia = await render('nvidia')
  options(nvidia)['FLEXIT_DEVICE'] = 'cuda:0'
  t.deepEqual(brokenPromises(nvidia), ['2 GPUs for the devices cuda:0'])
})

rendering('both scalers aim at the same and move alike', async (t) => {
  const keda = find(await render('cpu', ['autoscaling']), 'ScaledObject')
  const plain = find(await render('cpu', ['autoscaling-hpa']), 'HorizontalPodAutoscaler')
  const { behavior } = at(keda, 'spec.advanced.horizontalPodAutoscalerConfig')
  t.deepEqual(behavior, at(plain, 'spec')['behavior'])
  t.is(at(keda, 'spec.triggers.0.metadata')['threshold'], at(plain, 'spec.metrics.0.pods.target')['averageValue'])
  t.is(at(keda, 'spec.triggers.0.metadata')['ignoreNullValues'], 'false', 'no series are not no edits')
  const { minReplicaCount, maxReplicaCount } = at(keda, 'spec')
  const { minReplicas, maxReplicas } = at(plain, 'spec')
  t.deepEqual([minReplicaCount, maxReplicaCount], [minReplicas, maxReplicas])
})
