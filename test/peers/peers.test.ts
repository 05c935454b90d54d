// Programs that share no code with this project speak with the server: Python's grpcio, Prometheus' promtool.
// Where one is not installed its test says so and passes.

import { execFile, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { protoPath as healthProto } from 'grpc-health-check'
import test from 'ava'
import { shippedFolder } from '../../src/engine/pack/locations.js'
import { serve } from '../support-server/start.js'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../../../', import.meta.url))
const works = (command: string, ...args: string[]) => spawnSync(command, args).status === 0

test('a Python client runs edits, cancels one, and finds health and reflection', async (t) => {
  const python = ['python3', '/usr/bin/python3'].find((path) => works(path, '-c', 'import grpc, google.protobuf'))
  if (python === undefined || !works('protoc', '--version')) {
    t.log('skipped: python3 with grpcio, or protoc, is not installed')
    t.pass()
    return
  }
  const modules = mkdtempSync(join(tmpdir(), 'flexit-python-'))
  t.teardown(() => rmSync(modules, { recursive: true }))
  const reflection = join(root, 'node_modules/@grpc/reflection/build/proto/grpc/reflection/v1')
  const folders = [join(root, 'proto'), dirname(dirname(dirname(healthProto))), reflection]
  const ours = ['types', 'editor'].map((name) => `flexit/v1/${name}.proto`)
  const protos = [...ours, 'google/rpc/status.proto', 'health/v1/health.proto', 'reflection.proto']
  const include = folders.flatMap((folder) => ['-I', folder])
  await run('protoc', [...include, `--python_out=${modules}`, ...protos])

  const [whole, stopping] = [await serve(t), await serve(t, { allowed: 2 })]
  const script = join(root, 'test/peers/python_peer.py')
  const image = join(shippedFolder, 'tiny/examples/red-apple.png')
  const options = { env: { ...process.env, PYTHONPATH: modules }, timeout: 60_000 }
  const { stdout } = await run(python, [script, whole.address, stopping.address, image], options)
  t.deepEqual(stdout.trim().split('\n'), [
    'edit: accepted started step step step step step completed',
    'cancelled: accepted started step step cancelled',
    "health of '': SERVING",
    "health of 'flexit.v1.Editor': SERVING",
    'services: flexit.v1.Editor grpc.health.v1.Health',
    'described: edit_id start attach cancel accept pause resume update acknowledge ping',
    'imported: google.rpc.Status',
  ])
})

test('promtool finds nothing wrong with the live metrics', async (t) => {
  if (!works('promtool', '--version')) {
    t.log('skipped: promtool is not installed')
    t.pass()
    return
  }
  const { server } = await serve(t)
  const metrics = await (await fetch(`http://127.0.0.1:${server.metricsPort}/metrics`)).text()
  t.true(metrics.includes('flexit_'))
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input: metrics, encoding: 'utf8' })
  t.is(status, 0, stdout + stderr)
})
