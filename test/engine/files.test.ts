// Files that appear whole or not at all, and folders in awkward places.

import { existsSync } from 'node:fs'
import { readFile, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { makeFolder, writeFileAtomic } from '../../src/engine/files.js'
import { withFolder } from '../support/graphs.js'

test('a file is written with the folders above it, and replaced as a whole', (t) =>
  withFolder(async (folder) => {
    const path = join(folder, 'a', 'b', 'file')
    await writeFileAtomic(path, 'old')
    await writeFileAtomic(path, [Buffer.from('new'), Buffer.from('er')])
    t.is(await readFile(path, 'utf8'), 'newer')
    t.deepEqual(await readdir(join(folder, 'a', 'b')), ['file'])
  }))

test('a source of bytes that fails leaves the old file and nothing beside it', (t) =>
  withFolder(async (folder) => {
    const path = join(folder, 'file')
    await writeFile(path, 'old')
    function* broken(): Generator<Uint8Array> {
      yield Buffer.from('half')
      throw new Error('the source broke')
    }
    await t.throwsAsync(writeFileAtomic(path, broken()), { message: /the source broke/ })
    t.is(await readFile(path, 'utf8'), 'old')
    t.deepEqual(await readdir(folder), ['file'])
  }))

test('a file in the way of a folder is an error that names the path', (t) =>
  withFolder(async (folder) => {
    await writeFile(join(folder, 'file'), '')
    for (const path of [join(folder, 'file', 'x'), join(folder, 'file', 'x', 'y')])
      await t.throwsAsync(writeFileAtomic(path, ''), {
        message: `cannot write ${path}: a part of the path is not a folder`,
      })
  }))

test('folders are made by several at once', (t) =>
  withFolder(async (folder) => {
    for (let i = 0; i < 100; i++) {
      const path = join(folder, String(i), 'b', 'c')
      await Promise.all([makeFolder(path), makeFolder(path), makeFolder(join(path, 'd'))])
      t.true(existsSync(join(path, 'd')))
    }
  }))

if (existsSync('/proc/self')) {
  test('a place where no folder can be made is an error, not an endless loop', (t) =>
    t.throwsAsync(writeFileAtomic('/proc/flexit/file', ''), { code: 'NOT_FOUND' }).then(() => t.pass()))
} else {
  test.skip('a place where no folder can be made (there is no /proc)', () => undefined)
}
