// Progress over files: a bar for each, with the speed at which its bytes come.
// The speed is that of the whole file so far, without what was there before.

import { formatBytes } from '../../engine/pack/locations.js'
import { type Progress, formatDuration } from '../progress.js'

export interface FileProgress {
  readonly file: string
  readonly receivedBytes: number
  readonly totalBytes: number | undefined
}

/** What `pullPack`, `verifyPack` and, by way of `fileProgress`, the makers of packs tell. */
export function fileProgress(progress: Progress): { onProgress: (now: FileProgress) => void } {
  let started = { file: '', bytes: 0, ms: 0 }
  return {
    onProgress({ file, receivedBytes, totalBytes }) {
      const ms = performance.now()
      if (file !== started.file) {
        progress.end()
        started = { file, bytes: receivedBytes, ms }
      }
      const perSecond = ((receivedBytes - started.bytes) / Math.max(ms - started.ms, 1)) * 1000
      const total = totalBytes ?? receivedBytes
      const details = [file, `${formatBytes(receivedBytes)} of ${totalBytes === undefined ? '?' : formatBytes(total)}`]
      if (perSecond > 0) {
        details.push(`${formatBytes(perSecond)}/s`, `${formatDuration((total - receivedBytes) / perSecond)} left`)
      }
      progress.advance(receivedBytes, total, details)
    },
  }
}
