// Several packs on one device: which edits share a batch, and whose parameters and networks each edit has.
// The first half is on a fake device, the second on a thread with two packs of the same networks.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { Pack } from '../../src/engine/pack/pack.js'
import { type EditParameters, resolveParameters } from '../../src/engine/parameters.js'
import type { EditListener, Outcome } from '../../src/scheduler/api.js'
import { Scheduler } from '../../src/scheduler/scheduler.js'
import { WorkerDevice } from '../../src/scheduler/worker-device.js'
import { randomPicture } from '../support/edits.js'
import { copyPack } from '../support/packs.js'
import { FakeDevice, newState, turn } from './fake-device.js'

const deaf: EditListener = { onStarted: () => undefined, onStep: () => undefined, onEnd: () => undefined }

test('edits of two packs share no batch, and an update is resolved with the pack of its edit', async (t) => {
  const device = new FakeDevice('a')
  const packs: string[] = []
  const resolve = (given: Partial<EditParameters>, pack: string) => {
    packs.push(pack)
    return given as EditParameters
  }
  const scheduler = new Scheduler({ devices: [device], resolve })
  for (const pack of ['p', 'q', 'p', 'q']) {
    const state = { ...newState('cat', { steps: 20 }), pack }
    scheduler.submit(scheduler.admit({ tenant: 'x', priority: 'normal', bytes: 0, steps: 20 }), state, deaf)
  }
  await turn()
  for (let i = 0; i < 100 && device.batch !== undefined; i++) await device.step()
  const steps = device.log.filter(({ kind }) => kind === 'step').map(({ items }) => items.map(({ id }) => id % 2))
  t.true(steps.some((ids) => ids.length === 2))
  t.true(steps.every((ids) => new Set(ids).size === 1))
  const last = scheduler.submit(
    scheduler.admit({ tenant: 'x', priority: 'normal', bytes: 0, steps: 3 }),
    { ...newState('cat'), pack: 'q' },
    deaf,
  )
  last.update({ parameters: { seed: 3 } })
  t.deepEqual(packs, ['q'])
  const closing = scheduler.close()
  if (device.batch !== undefined) await device.step()
  await closing
})

test('a thread with two packs runs the edits of both', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'flexit-packs-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  const folders = await Promise.all(['first', 'second'].map((name) => copyPack(folder, name)))
  const packs = await Promise.all(folders.map((each) => Pack.open(each)))
  const device = await WorkerDevice.open({
    device: { kind: 'cpu', index: 0 },
    packs: folders,
    threads: 1,
    cacheFolder: join(folder, 'cache'),
  })
  const scheduler = new Scheduler({ devices: [device], resolve: (given) => given as EditParameters })
  const run = (pack: Pack, digest = pack.digest) =>
    new Promise<Outcome>((resolve) => {
      const parameters = resolveParameters({ steps: 2 }, pack)
      const picture = randomPicture(pack.manifest.image.size, 1)
      const state = { pack: digest, parameters, source: 'cat', target: 'dog', picture, step: 0, z: undefined }
      const ticket = scheduler.admit({ tenant: 'x', priority: 'normal', bytes: 0, steps: 2 })
      scheduler.submit(ticket, state, { ...deaf, onEnd: resolve })
    })
  const [first, second, stranger] = await Promise.all([run(packs[0]!), run(packs[1]!), run(packs[0]!, 'f'.repeat(64))])
  t.is(first.kind, 'completed')
  t.is(second.kind, 'completed')
  t.deepEqual(first.state.z, second.state.z, 'the weights are the same')
  t.not(packs[0]!.digest, packs[1]!.digest)
  t.is(stranger.kind === 'failed' && stranger.error.code, 'INVALID_ARGUMENT', 'a pack that is not open')
  await scheduler.close()
  for (const pack of packs) pack.close()
})
