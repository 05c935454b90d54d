// Several packs on one server: which of them an edit gets, and what is told of them.
// The contract is StartEdit.pack in proto/flexit/v1/editor.proto.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { Pack } from '../../src/engine/pack/pack.js'
import { resolveParameters } from '../../src/engine/parameters.js'
import { graphKey } from '../../src/scheduler/api.js'
import type { ServerInfo } from '../../src/proto/messages.js'
import { fromStatus } from '../../src/proto/status.js'
import { launchServer } from '../../src/server/launch.js'
import { resolveOptions } from '../../src/server/options.js'
import { copyPack } from '../support/packs.js'
import { latentLength, latentShape, pack, serve, startEdit } from '../support-server/start.js'

let folder: string
let path: string
let other: Pack

test.before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'flexit-packs-'))
  path = await copyPack(folder, 'other')
  other = await Pack.open(path)
})

test.after.always(() => {
  other.close()
  rmSync(folder, { recursive: true, force: true })
})

test('an edit has the pack that it names, that of its state, or the first', async (t) => {
  const { peer, scheduler, server } = await serve(t, { packs: [pack, other] })
  const info = await peer.unary<ServerInfo>('GetServerInfo', {})
  t.deepEqual(
    info.packs.map(({ name, digest, networks }) => [name, digest, networks]),
    [
      ['tiny', pack.digest, ['rn', 'vit']],
      ['other', other.digest, ['vit']],
    ],
  )
  t.is(info.packs[1]!.defaultParameters?.views, 0)
  const latent = { shape: [...latentShape], type: 'NUMBER_TYPE_FLOAT32' as const, data: Buffer.alloc(4 * latentLength) }
  const resumeFrom = { step: 1, packDigest: other.digest, latent }
  const stream = peer.edit()
  stream.send('first', { start: startEdit() })
  stream.send('named', { start: startEdit({ pack: 'other' }) })
  stream.send('resumed', { start: startEdit({ resumeFrom }) })
  stream.send('contradicted', { start: startEdit({ pack: 'tiny', resumeFrom }) })
  stream.send('unknown', { start: startEdit({ pack: 'nope' }) })
  stream.end()
  await stream.over
  const [tiny, another] = [pack, other].map((of) => graphKey(of.digest, resolveParameters({}, of)))
  t.deepEqual(
    scheduler.admitted.map(({ key }) => key),
    [tiny, another, another],
    'their times are estimated by it',
  )
  // Which of them is set up first is nobody's business.
  const views = scheduler.edits.map(({ state }) => [
    state.pack === pack.digest ? 'tiny' : 'other',
    state.parameters.views,
  ])
  t.deepEqual(views.sort(), [
    ['other', 0],
    ['other', 0],
    ['tiny', pack.manifest.defaults.views],
  ])
  const failure = (id: string) => fromStatus(stream.all.find(({ editId }) => editId === id)!.failed!.status!)
  t.like(failure('contradicted'), { status: 'INVALID_ARGUMENT', field: 'resumeFrom.packDigest' })
  t.like(failure('unknown'), { status: 'NOT_FOUND', field: 'pack', resource: { type: 'pack', name: 'nope' } })
  t.regex(failure('unknown').cure!, /tiny or other/)

  const text = await (await fetch(`http://127.0.0.1:${server.metricsPort}/metrics`)).text()
  for (const line of [
    `flexit_pack_info{pack="other",digest="${other.digest}"} 1`,
    'flexit_edits_finished_total{outcome="completed",code="OK",pack="other"} 2',
    'flexit_edits_finished_total{outcome="completed",code="OK",pack="tiny"} 1',
    'flexit_steps_total{pack="other"} 9',
  ]) {
    t.true(text.includes(`${line}\n`), line)
  }
})

test('two packs of one name are refused before any device is opened', async (t) => {
  const again = await copyPack(mkdtempSync(join(folder, 'again-')), 'other')
  const options = resolveOptions({ flags: { pack: [path, again], device: ['cuda:99'] }, environment: {} })
  await t.throwsAsync(launchServer(options, { version: '1.2.3' }), {
    code: 'INVALID_ARGUMENT',
    message: /two of the packs are called "other"/,
  })
})
