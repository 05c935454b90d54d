// Other packs than the embedded one: copies of it, with other names and graphs that are built quickly.
// The format of manifests is that of src/engine/pack/manifest.ts.

import { cp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { tinyPack } from './edits.js'

/** A copy in `folder` with one CLIP network, no random views and no LPIPS term. Returns its path. */
export async function copyPack(folder: string, name: string): Promise<string> {
  const path = join(folder, name)
  await cp(tinyPack, path, { recursive: true })
  const manifest = JSON.parse(await readFile(join(path, 'pack.json'), 'utf8')) as { defaults: object; clip: object[] }
  const defaults = { ...manifest.defaults, views: 0, lambdaP: 0 }
  await writeFile(join(path, 'pack.json'), JSON.stringify({ ...manifest, name, defaults, clip: [manifest.clip[1]] }))
  return path
}
