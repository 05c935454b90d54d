// Edit a picture with the library, without the command line: `node examples/edit.mjs` in the repository, after a build.
// Writes flexit-out/example/grapes.png and the way there.

import console from 'node:console'
import { writeFile } from 'node:fs/promises'
import process from 'node:process'
import { URL, fileURLToPath } from 'node:url'
import { Engine, cacheFolder, filmstrip, readPicture, requirePack, writePicture } from 'flexit'

const steps = Number(process.argv[2] ?? 64)
const image = fileURLToPath(new URL('../models/tiny/examples/strawberry.png', import.meta.url))

const { folder, manifest } = await requirePack('tiny')
const engine = await Engine.open({ pack: folder, cacheFolder: cacheFolder() })
const { size, background } = manifest.image
const picture = await readPicture(image, { height: size, width: size, background })

const edit = await engine.prepare(
  engine.begin({ picture, source: 'strawberry', target: 'grapes', parameters: { steps } }),
)
const frames = [picture]
while (!edit.done) {
  const [report] = await engine.step([edit])
  if (report.failure) throw report.failure
  if (report.step % 8 === 0) {
    console.log(`step ${report.step}: similarity to the target ${report.similarityTarget.toFixed(3)}`)
    frames.push(report.preview)
  }
}

const result = await engine.picture(edit)
await writePicture('flexit-out/example/grapes.png', result)
await writeFile('flexit-out/example/way.png', await filmstrip([...frames, result]))
await engine.close()
console.log('wrote flexit-out/example/grapes.png and way.png')
