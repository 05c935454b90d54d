// The pack that a command uses, where it is this machine that makes the edits.

import { type ResolvedPack, requirePack } from '../engine/pack/locations.js'

/** The pack of a name or path, or the embedded one where none is named. Errors: those of `requirePack`. */
export function chosenPack(pack: string | undefined, networks?: readonly string[]): Promise<ResolvedPack> {
  return requirePack(pack ?? 'tiny', networks)
}
