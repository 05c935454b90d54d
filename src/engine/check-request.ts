// Checks of what applications hand to an engine, whose JavaScript no compiler has read.

import { type FlexitError, invalidArgument } from './errors.js'
import { parametersSchema } from './parameters.js'

/**
 * Check the form of an `EditRequest`; its texts and parameters have checks of their own. Errors: INVALID_ARGUMENT, naming
 * the field.
 */
export function checkRequest(request: unknown, size: number): void {
  if (!isRecord(request)) {
    throw invalidArgument(
      'request',
      `an edit cannot begin from ${kindOf(request)}`,
      'Give { picture, source, target }.',
    )
  }
  for (const field of Object.keys(parametersSchema.shape)) {
    if (!Object.hasOwn(request, field)) continue
    throw invalidArgument(field, `${field} lies beside the parameters`, `Give { parameters: { ${field}: … } }.`)
  }
  for (const field of ['source', 'target']) {
    const text = request[field]
    if (typeof text === 'string') continue
    throw invalidArgument(field, `the ${field} text is ${kindOf(text)}`, `Give ${field} as a string.`)
  }
  const { picture, parameters } = request
  if (parameters !== undefined && !isRecord(parameters)) {
    throw invalidArgument(
      'parameters',
      `the parameters are ${kindOf(parameters)}`,
      'Give an object, or leave them out.',
    )
  }
  checkPicture(picture, size)
}

function checkPicture(picture: unknown, size: number): void {
  const reject = (message: string): FlexitError => {
    const cure = 'Use readPicture(…, { height: engine.size, width: engine.size, background: … }).'
    return invalidArgument('picture', message, cure)
  }
  if (!isRecord(picture)) throw reject(`the picture is ${kindOf(picture)}`)
  const { height, width, data } = picture
  if (!(data instanceof Uint8Array)) throw reject(`the picture's data is ${kindOf(data)}, expected a Uint8Array`)
  if (height !== size || width !== size) {
    throw reject(`the picture is ${String(width)} × ${String(height)}, expected ${size} × ${size}`)
  }
  if (data.length !== size * size * 3) {
    throw reject(`the picture has ${data.length} values, expected ${size * size * 3} (RGB)`)
  }
}

/** Check that an option that must be there is a text. Errors: INVALID_ARGUMENT, naming it. */
export function checkPath(path: unknown, field: string, cure: string): void {
  if (typeof path === 'string' && path !== '') return
  throw invalidArgument(field, `${field} is ${path === '' ? 'empty' : kindOf(path)}, expected a path`, cure)
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function kindOf(value: unknown): string {
  if (value === undefined) return 'missing'
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`
}
