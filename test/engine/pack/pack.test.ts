// What a pack is told apart by, and what of it is looked at before anything uses it.
// The format of manifests is that of src/engine/pack/manifest.ts.

import { cp, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { FlexitError } from '../../../src/engine/errors.js'
import { Pack } from '../../../src/engine/pack/pack.js'
import { tinyPack } from '../../support/edits.js'

let folder: string

test.beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'flexit-pack-'))
  await cp(tinyPack, folder, { recursive: true })
})

test.afterEach.always(() => rm(folder, { recursive: true }))

/** Changes one byte, and no size. */
async function alter(file: string): Promise<void> {
  const bytes = await readFile(join(folder, file))
  bytes[bytes.length - 2]! ^= 1
  await writeFile(join(folder, file), bytes)
}

async function digest(): Promise<string> {
  const pack = await Pack.open(folder)
  pack.close()
  return pack.digest
}

test.serial('merges that were altered are refused at once', async (t) => {
  await alter('merges.txt')
  const error = await t.throwsAsync(Pack.open(folder), { instanceOf: FlexitError, code: 'DATA_LOSS' })
  t.regex(error.message, /merges\.txt was altered/)
})

test.serial('a pack whose manifest has no sha256 is told apart by its files all the same', async (t) => {
  const shipped = await digest()
  const path = join(folder, 'pack.json')
  const manifest = JSON.parse(await readFile(path, 'utf8')) as { files: Record<string, object> }
  const files = Object.keys(manifest.files).map((name) => [name, {}])
  await writeFile(path, JSON.stringify({ ...manifest, files: Object.fromEntries(files) as object }))
  const before = await digest()
  t.not(before, shipped)
  t.is(await digest(), before)
  await alter('autoencoder.safetensors')
  t.not(await digest(), before)
})

test.serial('what is compared is the file that the weights are read from, whatever replaces it', async (t) => {
  const file = join(folder, 'autoencoder.safetensors')
  const whole = await readFile(file)
  const replace = async (bytes: Uint8Array) => {
    await writeFile(`${file}.new`, bytes)
    await rename(`${file}.new`, file)
  }
  const good = await Pack.open(folder)
  await replace(whole.map((byte, i) => (i === whole.length - 2 ? byte ^ 1 : byte)))
  const altered = await Pack.open(folder)
  await replace(whole)
  try {
    await t.notThrowsAsync(good.verify(['vit']))
    await t.throwsAsync(altered.verify(['vit']), { code: 'DATA_LOSS', message: /autoencoder\.safetensors was altered/ })
  } finally {
    good.close()
    altered.close()
  }
})

test.serial('a file that was altered and is mended in its place is looked at again', async (t) => {
  await alter('vgg16.safetensors')
  const pack = await Pack.open(folder)
  try {
    for (let i = 0; i < 2; i++) await t.throwsAsync(pack.verify([]), { code: 'DATA_LOSS', message: /vgg16/ })
    await alter('vgg16.safetensors')
    await t.notThrowsAsync(pack.verify([]))
  } finally {
    pack.close()
  }
})
