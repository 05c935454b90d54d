// Edits of an evaluation by a maker: devices of this machine, or servers.
// What it asks of an editor: src/evaluation/editor.ts.

import { setMaxListeners } from 'node:events'
import { codeDigest } from '../engine/graph-cache.js'
import { FlexitError } from '../engine/errors.js'
import type { Picture } from '../engine/picture.js'
import { runtimeVersion } from '../engine/runtime.js'
import type { Editor, Latent } from '../evaluation/editor.js'
import { WireError } from '../proto/status.js'
import type { Ended, PlacedMaker } from './maker.js'
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
    async edit({ name, picture, source, target, parameters }, { from, wanted, onStep }) {
      const { steps } = parameters
      // By step: an edit that comes back to a full server may take its last steps again.
      const pictures = new Map<number, Picture>()
      let reached = from?.step ?? 0
      let taken = 0
      const watcher = {
        onStarted: ignore,
        onNote: ignore,
        onStep: ({ step, preview }: { readonly step: number; readonly preview: Picture | undefined }) => {
          taken++
          if (wanted.includes(step) && preview !== undefined) pictures.set(step, preview)
          if (step >= reached) onStep()
          reached = Math.max(reached, step + 1)
        },
      }
      const every = { previewEvery: wanted.reduce(greatestCommonDivisor), stateEvery: steps }
      const order = { watcher, signal: stopping.signal, ...every }
      const make = (latent: Latent | undefined) => {
        const begin = { pack: maker.pack.digest, parameters, source, target, picture, step: 0, z: undefined }
        return patiently({ ...begin, ...latent }, stopping.signal, (at) => maker.make(at, order))
      }
      let ended = await make(from)
      // It may be its numbers, or something else that lets no edit begin: from its beginning the edit tells which.
      if (from !== undefined && taken === 0 && isOfNumbers(ended)) ended = await make(undefined)
      if (ended.kind === 'cancelled') {
        if (stopping.signal.aborted) throw new FlexitError({ code: 'CANCELLED', message: 'the edit was stopped' })
        throw unavailable('somebody else cancelled an edit at the server')
      }
      if (ended.kind === 'failed') {
        // Only numbers that are no longer finite end an edit that has begun like this.
        if (taken === 0 || !isOfNumbers(ended)) throw named(name, ended.error)
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

/** Whether an edit ended as one does whose numbers are no longer finite. */
function isOfNumbers(ended: Ended): boolean {
  return ended.kind === 'failed' && statusOf(ended.error) === 'FAILED_PRECONDITION'
}

function statusOf(error: FlexitError): string {
  return error instanceof WireError ? error.status : error.code
}

/** Says of which query an error is; those of servers and of who may use them are of none. */
function named(name: string, error: FlexitError): FlexitError {
  const { code, message, cure, field } = error
  if (code === 'UNAVAILABLE' || statusOf(error) !== code) return error
  const more = { ...(cure === undefined ? {} : { cure }), ...(field === undefined ? {} : { field }) }
  return new FlexitError({ code, message: `${name}: ${message}`, ...more, cause: error })
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
