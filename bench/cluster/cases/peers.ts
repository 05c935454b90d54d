// TLS from the client to the load balancer, and the example client in Python through HAProxy.

import { execFile } from 'node:child_process'
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { connect } from '../../../src/client/client.js'
import { shippedFolder } from '../../../src/engine/pack/locations.js'
import type { Report } from '../../kit/report.js'
import { compare, mixed, pair, undisturbed, watchAll } from '../edits.js'
import { type ProxyKind, withProxy } from '../proxy.js'
import { type Replica, withReplicas } from '../replica.js'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../../../../', import.meta.url))

export async function peers(report: Report, folder: string): Promise<void> {
  await withReplicas(2, {}, async (replicas) => {
    for (const kind of ['haproxy', 'nginx'] as const) await secure(report, folder, kind, replicas)
    await python(report, folder, replicas)
  })
}

async function secure(report: Report, folder: string, kind: ProxyKind, replicas: Replica[]): Promise<void> {
  const [key, ca, certificate] = ['key.pem', 'ca.pem', 'both.pem'].map((name) => join(folder, name))
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1']
  await run('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key!, '-out', ca!, ...subject])
  await writeFile(certificate!, (await readFile(ca!, 'utf8')) + (await readFile(key!, 'utf8')))
  const requests = mixed(8)
  const alone = await undisturbed(replicas, requests)
  const addresses = replicas.map(({ address }) => address)
  await withProxy({ kind, replicas: addresses, folder, certificate: certificate! }, async (address) => {
    report.note(`TLS at ${kind}:`)
    const client = connect(address, { tls: { ca: ca! } })
    compare(report, pair(await watchAll(client, requests), alone))
    client.close()
  })
}

async function python(report: Report, folder: string, replicas: Replica[]): Promise<void> {
  const here = join(folder, 'python')
  await mkdir(here)
  await copyFile(join(root, 'examples', 'python', 'edit.py'), join(here, 'edit.py'))
  const protos = ['flexit/v1/types.proto', 'flexit/v1/editor.proto', 'google/rpc/status.proto']
  await run('protoc', ['-I', join(root, 'proto'), `--python_out=${here}`, ...protos])
  const addresses = replicas.map(({ address }) => address)
  await withProxy({ kind: 'haproxy', replicas: addresses, folder }, async (address) => {
    const apple = join(shippedFolder, 'tiny', 'examples', 'red-apple.png')
    const own = ['--server', address, '--steps', '4', '--out', join(here, 'out.png')]
    const args = ['edit.py', apple, 'red apple', 'tangerine', ...own]
    const { stdout } = await run('/usr/bin/python3', args, { cwd: here, timeout: 60_000 })
    const steps = stdout.split('\n').filter((line) => line.startsWith('step ')).length
    report.figure('steps seen by the client in Python, through HAProxy', steps, 'of 4', { exactly: 4 })
    report.figure('bytes of its picture', (await readFile(join(here, 'out.png'))).length, '', { atLeast: 100 })
  })
}
