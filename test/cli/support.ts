// Runs the command as a user does: a process of its own, in a folder of its own.
// One FLEXIT_HOME for each test file, so that graphs are built once.

import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Of the repository, seen from `dist/test/cli`. */
export const root = fileURLToPath(new URL('../../../', import.meta.url))
export const tiny = join(root, 'models', 'tiny')
export const strawberry = join(tiny, 'examples', 'strawberry.png')

/** Parameters that the embedded pack has of its own. */
export const { defaults: tinyDefaults } = JSON.parse(readFileSync(join(tiny, 'pack.json'), 'utf8')) as {
  defaults: Record<string, number>
}

/** Enough for an edit, and quick. */
export const quick = ['--networks', 'vit', '--views', '1', '--threads', '1']
export const texts = ['--source', 'strawberry', '--target', 'grapes']

export interface Result {
  readonly code: number | null
  /** Where one ended it. */
  readonly signal?: NodeJS.Signals
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
  /** Called with the process and all of stdout so far, whenever some of it arrives. */
  readonly onOutput?: (child: ChildProcess, stdout: string) => void
  /** The same, of stderr. */
  readonly onError?: (child: ChildProcess, stderr: string) => void
}

const folders: string[] = []

/** A new folder, gone when the process ends. */
export function newFolder(): string {
  if (folders.length === 0) process.on('exit', () => folders.forEach((path) => rmSync(path, { recursive: true })))
  const path = mkdtempSync(join(tmpdir(), 'flexit-cli-'))
  folders.push(path)
  return path
}

const home = newFolder()

function environment(more: RunOptions['env'] = {}): NodeJS.ProcessEnv {
  return { ...process.env, FLEXIT_HOME: home, FLEXIT_DEBUG: '', NO_COLOR: '1', ...more }
}

/** Run any program. */
export function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<Result> {
  const env = environment(options.env)
  const child = spawn(program, args, { cwd: options.cwd, env, stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
    options.onOutput?.(child, stdout)
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
    options.onError?.(child, stderr)
  })
  return new Promise((resolve, reject) => {
    child
      .on('error', reject)
      .on('close', (code, signal) => resolve({ code, ...(signal === null ? {} : { signal }), stdout, stderr }))
  })
}

/** `flexit ARGS` */
export function flexit(args: readonly string[], options: RunOptions = {}): Promise<Result> {
  return run(process.execPath, [launcher, ...args], options)
}

/** `flexit ARGS` for each of `requests`, one after another in one process: for what is refused before any work. */
export async function flexitEach(requests: readonly (readonly string[])[], cwd = newFolder()): Promise<Result[]> {
  const child = fork(new URL('requests.js', import.meta.url), { cwd, env: environment() })
  const ended = once(child, 'exit')
  const results: Result[] = []
  for (const args of requests) {
    child.send(args)
    const [result] = (await Promise.race([once(child, 'message'), ended])) as [Result | number | null]
    if (typeof result !== 'object' || result === null) throw new Error(`the process ended at: ${args.join(' ')}`)
    results.push(result)
  }
  child.kill()
  return results
}

export const launcher = join(root, 'bin', 'flexit.js')

/** The lines of `--json`. */
export function parseLines(text: string): Record<string, unknown>[] {
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
}
