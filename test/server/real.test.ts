// The server on the real scheduler and the embedded networks: many edits share steps and give the bits of the engine,
// and an edit that is handed back goes on to the same bits.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { type ClientEvent, type FlexitClient, connect } from '../../src/client/client.js'
import { Engine } from '../../src/engine/engine.js'
import { shippedFolder } from '../../src/engine/pack/locations.js'
import { readPicture } from '../../src/engine/picture.js'
import { type LaunchedServer, launchServer } from '../../src/server/launch.js'
import { resolveOptions } from '../../src/server/options.js'
import { apple } from '../support-server/start.js'

const home = mkdtempSync(join(tmpdir(), 'flexit-'))
process.env['FLEXIT_HOME'] = home
const parameters = { steps: 6, networks: ['vit'], views: 1, lambdaP: 0 }
const request = { image: apple, source: 'red apple', target: 'tangerine', parameters }

const launch = (device: string[]): Promise<LaunchedServer> => {
  const flags = { port: 0, metricsPort: 0, logLevel: 'silent', device, threads: 1, drainMs: 0 }
  return launchServer(resolveOptions({ flags, environment: {} }), { version: '1.2.3' })
}

let engine: Engine
let servers: LaunchedServer[]
let client: FlexitClient

test.before(async () => {
  engine = await Engine.open({ pack: join(shippedFolder, 'tiny'), threads: 1, cacheFolder: join(home, 'cache') })
  servers = [await launch(['cpu', 'cpu:1']), await launch(['cpu'])]
  client = connect(servers.map(({ port }) => `127.0.0.1:${port}`))
})

test.after.always(async () => {
  client.close()
  for (const server of servers) await server.drain()
  await engine.close()
  rmSync(home, { recursive: true, force: true })
})

/** The latent that the engine alone comes to. */
async function solo(seed: number): Promise<Float32Array> {
  const { size, pack } = engine
  const picture = await readPicture(apple, { height: size, width: size, background: pack.manifest.image.background })
  const edit = await engine.prepare(engine.begin({ ...request, picture, parameters: { ...parameters, seed } }))
  while (!edit.done) await engine.step([edit])
  return edit.z
}

test.serial('edits that share devices and steps have the bits of the engine alone', async (t) => {
  const seeds = [1, 2, 3, 4, 5]
  const runs = seeds.map((seed) => client.edit({ ...request, parameters: { ...parameters, seed } }).result())
  const results = await Promise.all(runs)
  for (const [i, seed] of seeds.entries()) t.deepEqual(results[i]!.point.latent, await solo(seed), `seed ${seed}`)
  t.is(results[0]!.statistics.steps, parameters.steps)
})

test.serial('an edit that a server hands back goes on at the next, to the same bits', async (t) => {
  const run = client.edit({ ...request, parameters: { ...parameters, seed: 9 } })
  const events: ClientEvent[] = []
  let drained: Promise<void> | undefined
  for await (const event of run) {
    events.push(event)
    if (event.kind === 'step' && event.step === 1) {
      run.pause()
      run.update({})
    }
    if (event.kind === 'updated' && drained === undefined) {
      drained = servers[0]!.drain()
      run.resume()
    }
  }
  await drained
  const steps = events.flatMap((event) => (event.kind === 'step' ? [event.step] : []))
  t.deepEqual(steps, [0, 1, 2, 3, 4, 5])
  const last = events.at(-1)!
  t.is(last.kind, 'completed')
  if (last.kind === 'completed') t.deepEqual(last.point.latent, await solo(9))
})
