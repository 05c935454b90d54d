// Sessions of an engine that are asked for, pushed out and asked for again. With the embedded pack.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { Pack } from '../../src/engine/pack/pack.js'
import { resolveParameters, specificationOf } from '../../src/engine/parameters.js'
import { Sessions } from '../../src/engine/sessions.js'
import { stepGraph } from '../../src/engine/step-graph.js'
import { tinyPack } from '../support/edits.js'

test('one that could not be made is not kept, and takes no other one with it', async (t) => {
  const cacheFolder = await mkdtemp(join(tmpdir(), 'flexit-sessions-'))
  const pack = await Pack.open(tinyPack)
  const sessions = new Sessions(pack, { cacheFolder, threads: 1 })
  t.teardown(async () => {
    await sessions.close()
    pack.close()
    await rm(cacheFolder, { recursive: true })
  })
  const parameters = resolveParameters({ views: 0, space: 'pixels', networks: ['vit'], lambdaP: 0 }, pack)
  const specification = specificationOf(parameters)
  const request = { kind: 'step', key: '', specification, build: () => stepGraph(pack, specification) } as const
  const failing = sessions.get({
    ...request,
    build: () => {
      throw new Error('no graph')
    },
  })
  const trimmed = sessions.trim()
  const second = sessions.get(request)
  await t.throwsAsync(failing, { message: 'no graph' })
  t.is(sessions.get(request), second)
  t.true(await trimmed)
  await t.notThrowsAsync(second)
})
