// HAProxy or nginx before replicas, with the example configurations of deploy/proxy: only addresses are replaced.

import { readFile, writeFile } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { freePort, startProcess } from './replica.js'

export type ProxyKind = 'haproxy' | 'nginx'

export interface ProxySetup {
  readonly kind: ProxyKind
  /** `HOST:PORT` of each replica. */
  readonly replicas: readonly string[]
  /** For its configuration and logs. */
  readonly folder: string
  /** PEM file of the certificate and its key. */
  readonly certificate?: string
}

const examples = fileURLToPath(new URL('../../../deploy/proxy/', import.meta.url))

/** Start it, and run `work` with its address. */
export async function withProxy<T>(setup: ProxySetup, work: (address: string) => Promise<T>): Promise<T> {
  const { kind, folder } = setup
  const port = await freePort()
  const file = join(folder, kind === 'haproxy' ? 'haproxy.cfg' : 'nginx.conf')
  await writeFile(file, await (kind === 'haproxy' ? haproxyFile(port, setup) : nginxFile(port, setup)))
  const child =
    kind === 'haproxy'
      ? startProcess('haproxy', ['-db', '-f', file])
      : startProcess('nginx', ['-c', file, '-p', folder, '-g', `daemon off; pid ${join(folder, 'nginx.pid')};`])
  let said = ''
  child.stdout!.on('data', (data: Buffer) => (said += data.toString()))
  child.stderr!.on('data', (data: Buffer) => (said += data.toString()))
  const exit = new Promise<void>((resolve) => child.once('close', () => resolve()))
  try {
    while (!(await listens(port))) {
      if (child.exitCode !== null) throw new Error(`${kind} ended at its start: ${said}`)
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    return await work(`127.0.0.1:${port}`)
  } finally {
    child.kill(kind === 'haproxy' ? 'SIGKILL' : 'SIGTERM')
    await exit
  }
}

async function haproxyFile(port: number, { replicas, certificate }: ProxySetup): Promise<string> {
  const example = await readFile(join(examples, 'haproxy.cfg'), 'utf8')
  const secure = certificate === undefined ? 'proto h2' : `ssl crt ${certificate} alpn h2`
  const servers = replicas.map((address, i) => `  server replica-${i + 1} ${address}\n`).join('')
  return example
    .replace(/^ {2}bind :50050 proto h2$/m, `  bind 127.0.0.1:${port} ${secure}`)
    .replace(/(?: {2}server replica-\d \S+\n)+/, servers)
}

async function nginxFile(port: number, { replicas, certificate }: ProxySetup): Promise<string> {
  const example = await readFile(join(examples, 'nginx.conf'), 'utf8')
  const secure =
    certificate === undefined
      ? `listen 127.0.0.1:${port} http2;`
      : `listen 127.0.0.1:${port} ssl http2; ssl_certificate ${certificate}; ssl_certificate_key ${certificate};`
  const servers = replicas.map((address) => `    server ${address} max_fails=1 fail_timeout=2s;\n`).join('')
  return example.replace('listen 50050 http2;', secure).replace(/(?: {4}server 10\S+ .*\n)+/, servers)
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}
