// What manifests say of the program, held against the program itself, so that the two cannot drift apart.
// Pods: https://kubernetes.io/docs/concepts/security/pod-security-standards/ (restricted).

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { modelsCommand } from '../../src/cli/models.js'
import { serveCommand } from '../../src/cli/serve.js'
import { cacheFolder, packsFolder } from '../../src/engine/pack/locations.js'
import { serviceName } from '../../src/proto/definition.js'
import { livenessService } from '../../src/server/health.js'
import { livePath, readyPath } from '../../src/server/metrics-server.js'
import { optionNames, resolveOptions, variableName } from '../../src/server/options.js'
import { type Manifest, at, find, root } from './manifests.js'

interface Probe {
  grpc?: { port: number; service?: string }
  httpGet?: { port: string; path: string }
  periodSeconds: number
  failureThreshold?: number
}

interface Container {
  name: string
  image: string
  command?: string[]
  args: string[]
  env: { name: string; value?: string }[]
  ports?: { name: string; containerPort: number }[]
  startupProbe?: Probe
  readinessProbe?: Probe
  livenessProbe?: Probe
  lifecycle?: { preStop: { sleep: { seconds: number } } }
  resources: { requests?: Record<string, string>; limits?: Record<string, string> }
  securityContext: Record<string, unknown>
  volumeMounts: { name: string; mountPath: string; readOnly?: boolean }[]
}

interface Pod {
  initContainers?: Container[]
  containers: [Container]
  enableServiceLinks?: boolean
  automountServiceAccountToken?: boolean
  terminationGracePeriodSeconds: number
  securityContext: Record<string, unknown>
  topologySpreadConstraints: unknown[]
  volumes: { name: string; emptyDir?: object; ephemeral?: object; secret?: object }[]
}

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }

/** For a step under way when the drain ends, and for closing devices. */
const closingSeconds = 15

/** Where the file of the image's program is, seen from its working folder. */
const launcher = 'bin/flexit.js'

/** What manifests promise and the program does not keep; empty where all is well. */
export function brokenPromises(manifests: readonly Manifest[]): string[] {
  const pod = at(find(manifests, 'Deployment'), 'spec.template.spec') as unknown as Pod
  const options = manifests.find(({ kind, metadata }) => kind === 'ConfigMap' && /^flexit-options-/.test(metadata.name))
  const variables = options?.data ?? {}
  return [
    ...optionProblems(pod.containers[0], variables),
    ...probeProblems(pod.containers[0], variables),
    ...endProblems(pod, variables),
    ...fileProblems(pod),
    ...imageProblems(pod),
    ...securityProblems(pod),
    ...serviceProblems(manifests, pod.containers[0]),
    ...budgetProblems(manifests),
    ...certificateProblems(manifests),
  ]
}

/** `flexit health` shows the server's own certificate to a server that asks for one. */
function certificateProblems(manifests: readonly Manifest[]): string[] {
  const certificate = manifests.find(({ kind, metadata }) => kind === 'Certificate' && metadata.name === 'flexit')
  const usages = (certificate?.spec?.['usages'] ?? []) as string[]
  if (certificate === undefined || ['server auth', 'client auth'].every((usage) => usages.includes(usage))) return []
  return ['`flexit health` cannot show the certificate']
}

/** An empty selector is of every pod of the namespace. */
function budgetProblems(manifests: readonly Manifest[]): string[] {
  const [budget, deployment] = ['PodDisruptionBudget', 'Deployment'].map((kind) => {
    return at(find(manifests, kind), 'spec')['selector'] as { matchLabels?: Record<string, string> }
  })
  const [covered, pods] = [budget, deployment].map((selector) => JSON.stringify(selector?.matchLabels ?? {}))
  return covered === pods && pods !== '{}' ? [] : ["the disruption budget is not of the server's pods"]
}

function optionProblems({ env, resources }: Container, variables: Readonly<Record<string, string>>): string[] {
  const known = optionNames.map(variableName)
  const given = [...Object.keys(variables), ...env.map(({ name }) => name)].filter((name) => name.startsWith('FLEXIT_'))
  const problems = given.filter((name) => !known.includes(name)).map((name) => `the server has no option ${name}`)
  try {
    const devices = resolveOptions({ flags: {}, environment: variables }).device
    const gpus = devices.filter((device) => !device.startsWith('cpu'))
    const asked = Number(resources.limits?.['nvidia.com/gpu'] ?? 0)
    if (gpus.length !== asked) problems.push(`${asked} GPUs for the devices ${devices.join(', ')}`)
    if (gpus.some((device, i) => device !== `cuda:${i}`))
      problems.push(`a pod's GPUs are cuda:0 and on: ${gpus.join(', ')}`)
  } catch (error) {
    problems.push((error as Error).message)
  }
  return problems
}

function probeProblems(container: Container, variables: Readonly<Record<string, string>>): string[] {
  const [port, metricsPort] = [Number(variables['FLEXIT_PORT']), Number(variables['FLEXIT_METRICS_PORT'])]
  const ports = Object.fromEntries((container.ports ?? []).map(({ name, containerPort }) => [name, containerPort]))
  const problems: string[] = []
  if (ports['grpc'] !== port) problems.push(`port grpc is not ${port}`)
  if (ports['metrics'] !== metricsPort) problems.push(`port metrics is not ${metricsPort}`)
  const wanted = { startupProbe: serviceName, readinessProbe: serviceName, livenessProbe: livenessService } as const
  const secure = variables['FLEXIT_TLS_CERT'] !== undefined
  for (const [name, service] of Object.entries(wanted) as [keyof typeof wanted, string][]) {
    const probe = container[name]
    const path = service === livenessService ? livePath : readyPath
    const { grpc, httpGet } = probe ?? {}
    if (secure !== (grpc === undefined)) problems.push(`${name}: gRPC probes are for plain text`)
    if (httpGet !== undefined) {
      if (httpGet.path !== path) problems.push(`${name} does not get ${path}`)
      if (httpGet.port !== 'metrics') problems.push(`${name} does not ask at the port of the metrics`)
    } else {
      if (grpc?.service !== service) problems.push(`${name} does not ask for ${service}`)
      if (grpc?.port !== port) problems.push(`${name} does not ask at ${port}`)
    }
  }
  return problems
}

/** The time that a pod is given must do for everything that an end may take. */
function endProblems(pod: Pod, variables: Readonly<Record<string, string>>): string[] {
  const { drainMs } = resolveOptions({ flags: {}, environment: { FLEXIT_DRAIN_MS: variables['FLEXIT_DRAIN_MS'] } })
  const sleepSeconds = pod.containers[0].lifecycle?.preStop.sleep.seconds ?? 0
  const needed = sleepSeconds + drainMs / 1000 + closingSeconds
  const problems = sleepSeconds > 0 ? [] : ['no time for balancers to hear of the end']
  if (pod.terminationGracePeriodSeconds < needed) problems.push(`the grace period is less than ${needed} s`)
  return problems
}

/** With a read-only root, what the program writes must be mounted. */
function fileProblems({ containers, initContainers = [], volumes }: Pod): string[] {
  const problems: string[] = []
  const needs = (container: Container, folder: string, writable: boolean) => {
    const mount = container.volumeMounts.find(
      ({ mountPath }) => folder === mountPath || folder.startsWith(`${mountPath}/`),
    )
    if (mount === undefined) problems.push(`${container.name}: nothing is mounted for ${folder}`)
    else if (writable && mount.readOnly === true) problems.push(`${container.name}: cannot write to ${folder}`)
  }
  const [server] = containers
  needs(server, folderOf(cacheFolder, server), true)
  for (const init of initContainers) {
    needs(init, folderOf(packsFolder, init), true)
    needs(server, folderOf(packsFolder, server), false)
  }
  const known = volumes.map(({ name }) => name)
  for (const { name, volumeMounts } of [...containers, ...initContainers]) {
    for (const mount of volumeMounts) if (!known.includes(mount.name)) problems.push(`${name}: no volume ${mount.name}`)
  }
  return problems
}

/** A folder as the program would choose it in a container. */
function folderOf(choose: () => string, { env }: Container): string {
  const before = process.env
  process.env = Object.fromEntries(env.map(({ name, value }) => [name, value]))
  try {
    return choose()
  } finally {
    process.env = before
  }
}

function imageProblems({ containers, initContainers = [] }: Pod): string[] {
  const problems: string[] = []
  for (const { name, image } of [...containers, ...initContainers]) {
    if (!/:[^:]+-(cpu|cuda)$/.test(image) || !image.includes(`:${version}-`)) problems.push(`${name}: image ${image}`)
  }
  if (containers[0].args[0] !== serveCommand().name())
    problems.push(`the program has no command ${containers[0].args[0]!}`)
  const models = modelsCommand().commands.map((command) => command.name())
  for (const { name, args } of initContainers) {
    const calls = [...args.join('\n').matchAll(/^\s*node (\S+) models (\S+)/gm)]
    if (calls.length === 0) problems.push(`${name} does nothing with packs`)
    for (const [, program, call] of calls) {
      if (program !== launcher || !models.includes(call!)) problems.push(`${name}: the program has no models ${call!}`)
    }
  }
  return problems
}

/** Pod Security Standards, restricted, and a little more. */
function securityProblems(pod: Pod): string[] {
  const problems: string[] = []
  const expect = (holds: boolean, what: string) => {
    if (!holds) problems.push(what)
  }
  const { securityContext: of } = pod
  expect(of['runAsNonRoot'] === true && Number(of['runAsUser']) > 0, 'the pod may run as root')
  expect((of['seccompProfile'] as { type?: string } | undefined)?.type === 'RuntimeDefault', 'no seccomp profile')
  expect(pod.automountServiceAccountToken === false, 'a token of the service account is mounted')
  expect(pod.enableServiceLinks === false, 'Kubernetes sets FLEXIT_PORT')
  for (const { name, securityContext: its, resources } of [...pod.containers, ...(pod.initContainers ?? [])]) {
    expect(its['allowPrivilegeEscalation'] === false, `${name} may gain privileges`)
    expect(its['readOnlyRootFilesystem'] === true, `${name} may write to its root`)
    expect(JSON.stringify(its['capabilities']) === '{"drop":["ALL"]}', `${name} keeps capabilities`)
    expect(resources.requests?.['memory'] !== undefined, `${name} asks for no memory`)
    expect(resources.limits?.['memory'] !== undefined, `${name} has no limit of memory`)
  }
  return problems
}

/** Services, routes and scrapers name ports that are there. */
function serviceProblems(manifests: readonly Manifest[], { ports = [] }: Container): string[] {
  const names = ports.map(({ name }) => name)
  const problems: string[] = []
  const services = manifests.filter(({ kind }) => kind === 'Service')
  for (const { metadata, spec } of services) {
    for (const { name, targetPort, port } of (spec as { ports: { name: string; targetPort: string; port: number }[] })
      .ports) {
      if (!names.includes(targetPort)) problems.push(`Service ${metadata.name}: no port ${targetPort}`)
      if (port !== ports.find((one) => one.name === name)?.containerPort)
        problems.push(`Service ${metadata.name}: ${port}`)
    }
  }
  for (const { kind, spec } of manifests) {
    const text = JSON.stringify(spec ?? {})
    const targets = kind === 'GRPCRoute' ? [...text.matchAll(/"name":"([^"]+)","port":(\d+)/g)] : []
    for (const [, name, port] of targets) {
      const service = services.find(({ metadata }) => metadata.name === name)
      const served = (service?.spec as { ports: { port: number }[] } | undefined)?.ports.some(
        (one) => one.port === Number(port),
      )
      if (served !== true) problems.push(`${kind}: no service ${name!}:${port!}`)
    }
    if (kind === 'PodMonitor') {
      for (const { port } of (spec as { podMetricsEndpoints: { port: string }[] }).podMetricsEndpoints) {
        if (!names.includes(port)) problems.push(`${kind}: no port ${port}`)
      }
    }
  }
  return problems
}
