// Progress of a pack that is being written: one bar over all its files.
// See `WriteProgress` for what is counted.

import { formatBytes } from '../../engine/pack/locations.js'
import type { WriteProgress } from '../../engine/pack/write-pack.js'
import type { Progress } from '../progress.js'

export function writeProgress(progress: Progress): (now: WriteProgress) => void {
  return ({ file, bytes, totalBytes }) =>
    progress.advance(bytes, totalBytes, [`${formatBytes(bytes)} of ${formatBytes(totalBytes)}`, file])
}
