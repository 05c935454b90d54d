// Files that appear whole or not at all, and folders in awkward places.

import { existsSync } from 'node:fs'
import { chmod, lstat, mkdir, readFile, readdir, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { firstBytes, makeFolder, writeFileAtomic } from '../../src/engine/files.js'
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

test('a link stays, and what it leads to is written, there or not', (t) =>
  withFolder(async (folder) => {
    await mkdir(join(folder, 'real'))
    await mkdir(join(folder, 'links'))
    await writeFile(join(folder, 'real', 'old'), 'old')
    for (const [name, target] of [
      ['there', '../real/old'],
      ['not-there', '../real/new'],
      ['twice', 'not-there-2'],
      ['not-there-2', join(folder, 'real', 'newer')],
    ] as const) {
      await symlink(target, join(folder, 'links', name))
    }
    for (const name of ['there', 'not-there', 'twice']) {
      await writeFileAtomic(join(folder, 'links', name), name)
      t.true((await lstat(join(folder, 'links', name))).isSymbolicLink(), name)
    }
    t.is(await readlink(join(folder, 'links', 'twice')), 'not-there-2')
    const texts = ['old', 'new', 'newer'].map((name) => readFile(join(folder, 'real', name), 'utf8'))
    t.deepEqual(await Promise.all(texts), ['there', 'not-there', 'twice'])
    t.is((await readdir(join(folder, 'real'))).length, 3)

    const circle = join(folder, 'links', 'circle')
    await symlink('circle', circle)
    await t.throwsAsync(writeFileAtomic(circle, ''), { code: 'INVALID_ARGUMENT', message: /lead in a circle/ })
  }))

test('who may read a file may read what replaces it', (t) =>
  withFolder(async (folder) => {
    const path = join(folder, 'file')
    const mode = async () => (await stat(path)).mode & 0o777
    for (const mine of [0o600, 0o666, 0o400]) {
      await writeFile(path, 'old', { mode: 0o600 })
      await chmod(path, mine)
      await writeFileAtomic(path, 'new')
      t.is(await mode(), mine)
      t.is(await readFile(path, 'utf8'), 'new')
      await rm(path)
    }
  }))

test('a name may be as long as file systems take; a longer one is an error that says so', (t) =>
  withFolder(async (folder) => {
    for (const name of ['x'.repeat(255), '葡'.repeat(85)]) {
      await writeFileAtomic(join(folder, name), 'whole')
      t.is(await readFile(join(folder, name), 'utf8'), 'whole')
    }
    t.is((await readdir(folder)).length, 2)
    const error = { code: 'INVALID_ARGUMENT', message: /: the name is too long$/ }
    await t.throwsAsync(writeFileAtomic(join(folder, 'x'.repeat(256)), ''), error)
  }))

test('a text is cut between characters', (t) => {
  t.is(firstBytes('grapes', 6), 'grapes')
  t.is(firstBytes('grapes', 5), 'grape')
  t.is(firstBytes('葡萄葡萄', 8), '葡萄')
  t.is(firstBytes('🍇🍇', 7), '🍇')
})

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
