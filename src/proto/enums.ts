// Enumerations of the contract: what their values are called in the program and on the wire.
// Used by both ends.

import { invalidArgument } from '../engine/errors.js'

export const presets = { paper: 'PRESET_PAPER', reference: 'PRESET_REFERENCE' } as const
export const spaces = { latent: 'SPACE_LATENT', pixels: 'SPACE_PIXELS' } as const
export const priorities = {
  interactive: 'PRIORITY_INTERACTIVE',
  normal: 'PRIORITY_NORMAL',
  batch: 'PRIORITY_BATCH',
} as const
export const pictureFormats = {
  png: 'PICTURE_FORMAT_PNG',
  webp: 'PICTURE_FORMAT_WEBP',
  jpeg: 'PICTURE_FORMAT_JPEG',
} as const
export const numberTypes = { float32: 'NUMBER_TYPE_FLOAT32', float16: 'NUMBER_TYPE_FLOAT16' } as const

type Names<K extends string> = Readonly<Record<K, string>>

/** A name of the contract; the number of a value that it does not have. */
type Value = string | number | undefined

/** The key whose name on the wire is `name`; undefined where it is not set, or not known here. */
export function known<K extends string>(names: Names<K>, name: Value): K | undefined {
  return (Object.keys(names) as K[]).find((key) => names[key] === name)
}

/** The same. Errors: INVALID_ARGUMENT, of `field` (a value that is not known here). */
export function named<K extends string>(field: string, names: Names<K>, name: Value): K | undefined {
  const key = known(names, name)
  if (key !== undefined || name === undefined || String(name).endsWith('_UNSPECIFIED')) return key
  throw invalidArgument(field, `${field} has a value that is not known here`, `Use ${Object.values(names).join(', ')}.`)
}
