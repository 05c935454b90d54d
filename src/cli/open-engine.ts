// Opens the engine that a command asks for: its pack, its device, its threads.
// Built graphs go to the cache folder, where all commands share them.

import { Engine } from '../engine/engine.js'
import { cacheFolder } from '../engine/pack/locations.js'
import { parseDevice } from '../engine/runtime.js'
import { chosenPack } from './chosen-pack.js'
import type { Progress } from './progress.js'

export interface EngineChoice {
  /** Name or path. Default: the embedded one. */
  readonly pack?: string | undefined
  readonly networks?: readonly string[] | undefined
  readonly device?: string | undefined
  readonly threads?: number | undefined
}

/** Run `work` with an engine, and close it. Errors: those of `parseDevice`, `chosenPack` and `Engine.open`. */
export async function withEngine<T>(
  { pack, networks, device = 'cpu', threads = 0 }: EngineChoice,
  progress: Progress,
  work: (engine: Engine) => Promise<T>,
): Promise<T> {
  const options = { device: parseDevice(device), threads }
  const { folder } = await chosenPack(pack, networks)
  const engine = await Engine.open({
    ...options,
    pack: folder,
    cacheFolder: cacheFolder(),
    onProgress: (doing) => progress.doing(doing),
  })
  try {
    return await work(engine)
  } finally {
    progress.end()
    await engine.close()
  }
}
