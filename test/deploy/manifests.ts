// Manifests as they would be applied: rendered by kubectl, and held against the schemas of Kubernetes and its extensions.
// https://kubectl.docs.kubernetes.io/references/kustomize/, https://github.com/tommy351/kubernetes-models-ts

import { execFile, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import ts from 'typescript'
import { parseAllDocuments } from 'yaml'

/** Of the repository, seen from `dist/test/deploy`. */
export const root = fileURLToPath(new URL('../../../', import.meta.url))
export const deployFolder = join(root, 'deploy', 'k8s')

export const overlays = ['cpu', 'nvidia'] as const
export type Overlay = (typeof overlays)[number]

export const components = readdirSync(join(deployFolder, 'components')).sort()

/** A part of a manifest. */
export type Tree = Record<string, unknown>

/** What kubectl renders; of any kind. */
export interface Manifest {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: { name: string; namespace?: string }
  readonly spec?: Tree
  readonly data?: Record<string, string>
}

/** Whether a program is on this machine. */
export function isThere(program: string, ...args: string[]): boolean {
  return spawnSync(program, args, { stdio: 'ignore' }).status === 0
}

export const canRender = isThere('kubectl', 'version', '--client')

/** An overlay with components, as `kubectl apply -k` would send it. Errors: kubectl's, with its words. */
export async function render(overlay: Overlay, names: readonly string[] = []): Promise<Manifest[]> {
  mkdirSync(join(root, '.cache'), { recursive: true })
  const folder = mkdtempSync(join(root, '.cache', 'kustomization-'))
  const from = (...path: string[]) => relative(folder, join(deployFolder, ...path))
  try {
    const kustomization = {
      apiVersion: 'kustomize.config.k8s.io/v1beta1',
      kind: 'Kustomization',
      resources: [from('overlays', overlay)],
      components: names.map((name) => from('components', name)),
    }
    writeFileSync(join(folder, 'kustomization.yaml'), JSON.stringify(kustomization))
    const { stdout } = await promisify(execFile)('kubectl', ['kustomize', folder], { maxBuffer: 64 * 1024 ** 2 })
    return parseAllDocuments(stdout).map((document) => document.toJS() as Manifest)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const packages: Readonly<Record<string, string>> = {
  'gateway.networking.k8s.io': '@kubernetes-models/gateway-api/',
  'keda.sh': '@kubernetes-models/keda/',
  'cert-manager.io': '@kubernetes-models/cert-manager/',
  'monitoring.coreos.com': '@kubernetes-models/prometheus-operator/',
}

/** Of these no schema is to be had as a package. */
export const withoutSchema = ['gateway.envoyproxy.io/v1alpha1 BackendTrafficPolicy']

function moduleOf({ apiVersion }: Manifest): string {
  return `${packages[apiVersion.split('/')[0]!] ?? 'kubernetes-models/'}${apiVersion}`
}

type Models = Record<string, (new (data: Manifest) => { validate(): void }) | undefined>

/** What is wrong with manifests by their schemas: values, and (schemas allow them, servers do not) unknown fields. */
export async function schemaProblems(manifests: readonly Manifest[]): Promise<string[]> {
  const known = distinct(manifests).filter((one) => !withoutSchema.includes(`${one.apiVersion} ${one.kind}`))
  const problems: string[] = []
  for (const one of known) {
    try {
      const Model = ((await import(moduleOf(one))) as Models)[one.kind]
      if (Model === undefined) throw new Error(`${one.apiVersion} has no ${one.kind}`)
      new Model(one).validate()
    } catch (error) {
      problems.push(`${name(one)}: ${(error as Error).message}`)
    }
  }
  return [...problems, ...unknownFields(known)]
}

/** The type checker finds fields that a literal of an interface may not have, and the interfaces come with the schemas. */
function unknownFields(manifests: readonly Manifest[]): string[] {
  const lines = manifests.map(
    (one, i) =>
      `import type { I${one.kind} as T${i} } from '${moduleOf(one)}'; export const v${i}: T${i} = ${JSON.stringify(one)}`,
  )
  const file = join(root, 'manifests.mts')
  const options: ts.CompilerOptions = {
    noEmit: true,
    strict: true,
    skipLibCheck: true,
    types: [],
    lib: ['lib.es2022.d.ts'],
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
  }
  const plain = ts.createCompilerHost(options)
  const host: ts.CompilerHost = {
    ...plain,
    fileExists: (path) => path === file || plain.fileExists(path),
    getSourceFile: (path, target) =>
      path === file ? ts.createSourceFile(path, lines.join('\n'), target) : plain.getSourceFile(path, target),
  }
  const program = ts.createProgram([file], options, host)
  const source = program.getSourceFile(file)!
  return program.getSemanticDiagnostics(source).map(({ start = 0, messageText }) => {
    const { line } = source.getLineAndCharacterOfPosition(start)
    return `${name(manifests[line]!)}: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`
  })
}

export function distinct(manifests: readonly Manifest[]): Manifest[] {
  return [...new Map(manifests.map((one) => [JSON.stringify(one), one])).values()]
}

export function name({ kind, metadata }: Manifest): string {
  return `${kind} ${metadata.name}`
}

/** The one of a kind (and of a name). Errors: where there is none. */
export function find(manifests: readonly Manifest[], kind: string, named?: string): Manifest {
  const found = manifests.find((one) => one.kind === kind && (named === undefined || one.metadata.name === named))
  if (found === undefined) throw new Error(`no ${kind} ${named ?? ''}`)
  return found
}

/** The part of a tree at a path like `spec.ports.0`. Errors: where there is none. */
export function at(tree: Manifest | Tree, path: string): Tree {
  let part: unknown = tree
  for (const step of path.split('.')) part = (part as Tree | undefined)?.[step]
  if (typeof part !== 'object' || part === null) throw new Error(`nothing is at ${path}`)
  return part as Tree
}
