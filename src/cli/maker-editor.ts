// Edits of an evaluation by a maker: devices of this machine, or servers.
// What it asks of an editor: src/evaluation/editor.ts.

import { setMaxListeners } from 'node:events'
import { codeDigest } from '../engine/graph-cache.js'
import { FlexitError } from '../engine/errors.js'
import type { Picture } from '../engine/picture.js'
import { runtimeVersion } from '../engine/runtime.js'
import type { Editor } from '../evaluation/editor.js'
import { WireError } from '../proto/status.js'
import type { PlacedMaker } from './maker.js'
import { patiently } from './patience.js'

/** A full batch (16 at most), and some to take the place of those that end. */
const editsPerDevice = 24

/** The maker stays open. */
export function makerEditor(maker: PlacedMaker): Editor {
  const stopping = new AbortController()
  // One for each edit under way.
  setMaxListeners(0, stopping.signal)
  return {
    identity: [codeDigest, runtimeVersion, maker.pack.digest, ...maker.places],
    parallel: editsPerDevice * maker.devices,
    async edit({ picture, source, target, parameters }, { from, wanted, onStep }) {
      const { steps } = parameters
      // By step: an edit that comes back to a full server may take its last steps again.
      const pictures = new Map<number, Picture>()
      const first = from?.step ?? 0
      let reached = first
      const watcher = {
        onStarted: ignore,
        onNote: ignore,
        onStep: ({ step, preview }: { readonly step: number; readonly preview: Picture | undefined }) => {
          if (wanted.includes(step) && preview !== undefined) pictures.set(step, preview)
          if (step >= reached) onStep()
          reached = Math.max(reached, step + 1)
        },
      }
      const state = { pack: maker.pack.digest, parameters, source, target, picture, step: 0, z: undefined, ...from }
      const every = { previewEvery: wanted.reduce(greatestCommonDivisor), stateEvery: steps }
      const order = { watcher, signal: stopping.signal, ...every }
      const ended = await patiently(state, stopping.signal, (at) => maker.make(at, order))
      if (ended.kind === 'cancelled') {
        if (stopping.signal.aborted) throw new FlexitError({ code: 'CANCELLED', message: 'the edit was stopped' })
        throw unavailable('somebody else cancelled an edit at the server')
      }
      if (ended.kind === 'failed') {
        // Only numbers that are no longer finite end an edit that has begun like this.
        const { error } = ended
        const code = error instanceof WireError ? error.status : error.code
        if (code !== 'FAILED_PRECONDITION' || reached === first) throw error
        return { pictures, latent: undefined }
      }
      pictures.set(steps, ended.picture)
      if (pictures.size < wanted.length) throw unavailable('the server left out a picture on the way')
      const { step, z } = ended.state
      return { pictures, latent: step === steps && z !== undefined ? { step, z } : undefined }
    },
    stop: () => stopping.abort(),
  }
}

function unavailable(message: string): FlexitError {
  const cure = 'Run the command again: it goes on with the edits that are missing.'
  return new FlexitError({ code: 'UNAVAILABLE', message, cure })
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b)
}

function ignore(): void {
  // Only pictures are wanted.
}
