// The server on the embedded pack and this CPU, in one process with its clients:
//   node dist/bench/server.js [bits] [overhead] [cancel] [soak]        (default: all)
// bits: 64 edits over 16 connections and two devices against 64 solo runs. overhead: steps per second through the
// server, previews and latents streamed, against the bare engine. cancel: 1,000 edits cancelled at random moments. soak:
// 2,000 short edits, each over a connection of its own.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type ClientEditRequest, type ClientEvent, type FlexitClient, connect } from '../src/client/client.js'
import { Engine } from '../src/engine/engine.js'
import { cacheFolder, shippedFolder } from '../src/engine/pack/locations.js'
import type { EditParameters } from '../src/engine/parameters.js'
import { readPicture } from '../src/engine/picture.js'
import { type LaunchedServer, launchServer } from '../src/server/launch.js'
import { resolveOptions } from '../src/server/options.js'

const image = await readFile(join(shippedFolder, 'tiny', 'examples', 'red-apple.png'))

async function serve(device: readonly string[]): Promise<LaunchedServer> {
  const flags = { port: 0, metricsPort: 0, logLevel: 'silent', device, drainMs: 0 }
  return launchServer(resolveOptions({ flags, environment: {} }), { version: 'bench' })
}

const clientOf = (server: LaunchedServer) => connect(`127.0.0.1:${server.port}`)

/** Edits of one specification and many parameters. */
const request = (i: number, parameters: Partial<EditParameters>): ClientEditRequest => ({
  image,
  source: 'red apple',
  target: ['tangerine', 'green apple', 'tomato', 'lemon'][i % 4]!,
  parameters: { seed: i, learningRate: 0.03 + 0.001 * (i % 20), lambdaP: 0.1 + 0.01 * (i % 7), ...parameters },
})

async function solo(engine: Engine, { source, target, parameters }: ClientEditRequest): Promise<Float32Array> {
  const { size } = engine
  const picture = await readPicture(image, { height: size, width: size, background: 'white' })
  const edit = await engine.prepare(engine.begin({ picture, source, target, ...(parameters && { parameters }) }))
  while (!edit.done) await engine.step([edit])
  return edit.z
}

async function bits(engine: Engine): Promise<void> {
  const server = await serve(['cpu', 'cpu:1'])
  const clients = Array.from({ length: 16 }, () => clientOf(server))
  const requests = Array.from({ length: 64 }, (_, i) => request(i, { steps: 10 }))
  const results = await Promise.all(requests.map((r, i) => clients[i % 16]!.edit(r).result()))
  let equal = 0
  for (const [i, r] of requests.entries()) {
    const alone = await solo(engine, r)
    if (results[i]!.point.latent!.every((value, j) => Object.is(value, alone[j]))) equal++
  }
  console.log(`bits: ${equal} of ${requests.length} edits have the latents of solo runs`)
  for (const client of clients) client.close()
  await server.drain()
}

/** Steps per second of `count` edits through the bare engine, `batch` at a time. */
async function bareRate(engine: Engine, batch: number, steps: number): Promise<number> {
  const { size } = engine
  const picture = await readPicture(image, { height: size, width: size, background: 'white' })
  const edits = []
  for (let i = 0; i < batch; i++) {
    const { source, target, parameters } = request(i, { steps })
    edits.push(await engine.prepare(engine.begin({ picture, source, target, ...(parameters && { parameters }) })))
  }
  await engine.step(edits)
  const start = performance.now()
  while (!edits[0]!.done) await engine.step(edits)
  return (batch * (steps - 1) * 1000) / (performance.now() - start)
}

async function overhead(engine: Engine): Promise<void> {
  const steps = 60
  const batches = [1, 2, 4, 8]
  const rates: number[] = []
  for (const batch of batches) rates.push(await bareRate(engine, batch, steps))
  const server = await serve(['cpu'])
  const client = clientOf(server)
  const count = 8
  const rounds = 3
  let through = 0
  for (let round = 0; round < rounds; round++) {
    let first = Infinity
    await Promise.all(
      Array.from({ length: count }, async (_, i) => {
        const edit = client.edit({ ...request(i, { steps }), previews: { every: 1 }, latents: { every: 1 } })
        for await (const event of edit) if (event.kind === 'step') first = Math.min(first, performance.now())
      }),
    )
    through = Math.max(through, ((count * steps - 1) * 1000) / (performance.now() - first))
  }
  const best = Math.max(...rates)
  const bare = batches.map((batch, i) => `${rates[i]!.toFixed(1)} in batches of ${batch}`).join(', ')
  console.log(`overhead: bare engine ${bare} steps/s; server ${through.toFixed(1)} steps/s (best of ${rounds} rounds)`)
  console.log(`overhead: server at ${((100 * through) / best).toFixed(0)} % of the engine's best`)
  client.close()
  await server.drain()
}

/** Cancel after a number of steps; what came, and how long the end took to come. */
async function cancelled(client: FlexitClient, i: number, after: number): Promise<{ clean: boolean; ms: number }> {
  const edit = client.edit(request(i, { steps: 500, views: 1 }))
  const kinds: ClientEvent['kind'][] = []
  let seen = 0
  let at = 0
  const cancel = () => {
    at = performance.now()
    edit.cancel()
  }
  if (after === 0) cancel()
  for await (const event of edit) {
    kinds.push(event.kind)
    if (event.kind === 'step' && ++seen === after) cancel()
  }
  const terminal = kinds.filter((kind) => kind === 'cancelled' || kind === 'completed' || kind === 'failed')
  return { clean: terminal.length === 1 && kinds.at(-1) === 'cancelled', ms: performance.now() - at }
}

async function cancel(engine: Engine): Promise<void> {
  const server = await serve(['cpu'])
  const client = clientOf(server)
  const witness = request(1, { steps: 400, views: 1 })
  const witnessed = client.edit(witness).result()
  const outcomes: { clean: boolean; ms: number }[] = []
  let next = 0
  const worker = async () => {
    for (let i = next++; i < 1000; i = next++) outcomes.push(await cancelled(client, i, (i * 7919) % 5))
  }
  await Promise.all(Array.from({ length: 8 }, worker))
  let running = 0
  for await (const edit of client.listEdits()) if (edit.status === 'EDIT_STATUS_RUNNING') running++
  const alone = await solo(engine, witness)
  const { point } = await witnessed
  const same = point.latent!.every((value, j) => Object.is(value, alone[j]))
  const times = outcomes.map(({ ms }) => ms).sort((a, b) => a - b)
  console.log(
    `cancel: ${outcomes.filter(({ clean }) => clean).length} of ${outcomes.length} ended cancelled, once, with nothing after it; ` +
      `to the end event p50 ${times[500]!.toFixed(0)} ms, p99 ${times[990]!.toFixed(0)} ms; ` +
      `still running afterwards: ${running} (at most the witness); the witness has the bits of a solo run: ${same}`,
  )
  client.close()
  await server.drain()
}

async function soak(): Promise<void> {
  const server = await serve(['cpu'])
  const count = 2000
  let next = 0
  const samples: { edits: number; mebibytes: number; handles: number }[] = []
  const worker = async () => {
    for (let i = next++; i < count; i = next++) {
      const client = clientOf(server)
      await client.edit(request(i, { steps: 2, views: 1, networks: ['vit'] })).result()
      client.close()
      if (i % 250 === 249) {
        const handles = process.getActiveResourcesInfo().length
        samples.push({ edits: i + 1, mebibytes: Math.round(process.memoryUsage.rss() / 2 ** 20), handles })
      }
    }
  }
  await Promise.all(Array.from({ length: 4 }, worker))
  for (const { edits, mebibytes, handles } of samples) {
    console.log(`soak: after ${edits} edits ${mebibytes} MiB, ${handles} active resources`)
  }
  const [early, late] = [samples[3]!, samples.at(-1)!]
  const slope = ((late.mebibytes - early.mebibytes) * 1024) / (late.edits - early.edits)
  console.log(`soak: ${slope.toFixed(1)} KiB an edit in the second half`)
  await server.drain()
}

const cases = { bits, overhead, cancel, soak }
const wanted = process.argv.slice(2)
const engine = await Engine.open({ pack: join(shippedFolder, 'tiny'), cacheFolder: cacheFolder() })
for (const [name, run] of Object.entries(cases)) if (wanted.length === 0 || wanted.includes(name)) await run(engine)
await engine.close()
