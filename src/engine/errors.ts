// The catalogue of errors: every failure that a user can meet has a code, a cause and a cure.
// Codes are the gRPC status names (https://grpc.io/docs/guides/status-codes/), so that the server translates them 1:1.

export type ErrorCode =
  | 'INVALID_ARGUMENT' // the request is wrong whatever the state of the system
  | 'NOT_FOUND' // a named pack, file or edit does not exist
  | 'FAILED_PRECONDITION' // the system is not in the state that the request needs (pack not downloaded, no space)
  | 'RESOURCE_EXHAUSTED' // a limit was reached
  | 'DATA_LOSS' // a file is truncated, altered or not what it says it is
  | 'UNAVAILABLE' // a passing fault (network): trying again may help
  | 'CANCELLED'
  | 'INTERNAL' // a bug of ours

export interface FlexitErrorOptions {
  readonly code: ErrorCode
  /** What happened and why, one sentence, naming the file, tensor or parameter. */
  readonly message: string
  /** What the user can do about it, one sentence. */
  readonly cure?: string | undefined
  /** The parameter that is wrong, as the user named it (`steps`, `image`). */
  readonly field?: string | undefined
  readonly cause?: unknown
}

/** The only error class that crosses a floor of the house. Foreign errors are translated where they enter. */
export class FlexitError extends Error {
  readonly code: ErrorCode
  readonly cure: string | undefined
  readonly field: string | undefined

  constructor(options: FlexitErrorOptions) {
    super(options.message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'FlexitError'
    this.code = options.code
    this.cure = options.cure
    this.field = options.field
  }
}

/** An argument that is wrong: `field` names it. */
export function invalidArgument(field: string, message: string, cure?: string): FlexitError {
  return new FlexitError({ code: 'INVALID_ARGUMENT', field, message, cure })
}

/** Node's file-system error code (`ENOENT`), or undefined for another kind of error. */
export function systemErrorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}

/** Translate a failed file operation on `path`; an error that is already ours passes through. */
export function fileError(error: unknown, path: string, doing: string): FlexitError {
  if (error instanceof FlexitError) return error
  const code = systemErrorCode(error)
  const because = (text: string, kind: ErrorCode, cure: string) =>
    new FlexitError({ code: kind, message: `cannot ${doing} ${path}: ${text}`, cure, cause: error })
  switch (code) {
    case 'ENOENT':
      return because('no such file or folder', 'NOT_FOUND', 'Check the path.')
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return because(
        'permission denied',
        'FAILED_PRECONDITION',
        'Choose a place that you may use, or change its permissions.',
      )
    case 'EISDIR':
      return because('it is a folder', 'INVALID_ARGUMENT', 'Name a file.')
    case 'EEXIST': // of making a folder: a file has its name
    case 'ENOTDIR':
      return because('a part of the path is not a folder', 'INVALID_ARGUMENT', 'Check the path.')
    case 'ENAMETOOLONG':
      return because('the name is too long', 'INVALID_ARGUMENT', 'Choose a shorter one.')
    case 'ELOOP':
      return because('its links lead in a circle', 'INVALID_ARGUMENT', 'Check the path.')
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
      return because('no space left on the device', 'FAILED_PRECONDITION', 'Free some space, or choose another disk.')
    default:
      return because(error instanceof Error ? error.message : String(error), 'INTERNAL', 'See the cause.')
  }
}

/** The beginning of a name that was not made here. */
export function clipped(name: string): string {
  return name.length > 120 ? `${name.slice(0, 120)}…` : name
}

/** A name that was not made here, made fit for a message: clipped, in quotes, without control characters. */
export function quoted(name: string): string {
  return JSON.stringify(clipped(name)).replace(/[\x7f-\x9f]/g, '?')
}
