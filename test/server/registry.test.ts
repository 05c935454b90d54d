// Which edits a server keeps, and for how long.

import { setImmediate } from 'node:timers/promises'
import test from 'ava'
import { Registry } from '../../src/server/registry.js'
import type { Session } from '../../src/server/session.js'

test('edits that ended long ago are let go of though nobody asks for any', async (t) => {
  const registry = new Registry({ finishedEdits: 8, finishedMs: 1 })
  const forgotten: string[] = []
  for (const id of ['a', 'b']) {
    registry.finish({ tenant: 't', id, bytes: 1, forget: () => forgotten.push(id) } as unknown as Session)
  }
  while (forgotten.length < 2) {
    await setImmediate()
    registry.purge()
  }
  t.deepEqual(forgotten, ['a', 'b'])
})
