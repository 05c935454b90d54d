// Who calls: tokens from a file, each of a tenant, and what the tenants may have.
// RFC 6750 bearer tokens, or the header `x-api-key`. The file may hold tokens or their sha256.

import { createHash, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Metadata } from '@grpc/grpc-js'
import { z } from 'zod'
import { FlexitError, fileError } from '../engine/errors.js'
import { WireError } from '../proto/status.js'
import type { Priority } from '../scheduler/api.js'

const tenant = z.string().regex(/^[\w.-]{1,64}$/, '1 to 64 letters, digits, or . _ -')
const authFileSchema = z.strictObject({
  tokens: z
    .array(
      z.union([
        z.strictObject({ tenant, token: z.string().min(16, 'at least 16 characters') }),
        z.strictObject({ tenant, sha256: z.string().regex(/^[0-9a-f]{64}$/, '64 hex digits') }),
      ]),
    )
    .min(1),
  tenants: z
    .record(
      tenant,
      z.strictObject({
        weight: z.number().min(0.001).max(1000).default(1),
        priority: z.enum(['interactive', 'normal', 'batch']).default('interactive'),
      }),
    )
    .default({}),
})

/** From the most urgent. */
const urgency: readonly Priority[] = ['interactive', 'normal', 'batch']

export interface Tenants {
  /** The tenant of a call's metadata. Errors: UNAUTHENTICATED. */
  readonly authenticate: (metadata: Metadata) => string
  /** Its share of the devices against others of the same priority: 1 is usual. */
  readonly weightOf: (tenant: string) => number
  /** The priority of its edit: the one that is wanted, or the highest that it may have. */
  readonly priorityOf: (tenant: string, wanted: Priority) => Priority
  /** Look again at where all this comes from. Returns whether it changed. Errors: with the old kept, as at the beginning. */
  reload(): boolean
}

/** Of a server that lets everyone in. */
const openToAll: Tenants = {
  authenticate: () => 'default',
  weightOf: () => 1,
  priorityOf: (_, wanted) => wanted,
  reload: () => false,
}

/** Errors: those of AuthFile. */
export function openTenants(authFile: string | undefined): Tenants {
  return authFile === undefined ? openToAll : new AuthFile(authFile)
}

/**
 * `{"tokens": [{"tenant": "a", "sha256": "…"}, {"tenant": "b", "token": "…"}], "tenants": {"a": {"weight": 2, "priority":
 * "batch"}}}`. `tenants` may leave out some, or be left out, and names none without a token; `priority` is the highest that a tenant's edits get.
 */
export class AuthFile implements Tenants {
  readonly #path: string
  #contents: Contents

  /** Errors: those of reading the file; INVALID_ARGUMENT, without what the file holds. */
  constructor(path: string) {
    this.#path = path
    this.#contents = read(path)
  }

  reload(): boolean {
    const contents = read(this.#path)
    const changed = contents.text !== this.#contents.text
    this.#contents = contents
    return changed
  }

  readonly authenticate = (metadata: Metadata): string => {
    const digest = sha256(tokenOf(metadata))
    // Every entry is compared, so that the time tells nothing.
    const matches = this.#contents.tokens.filter((entry) => timingSafeEqual(entry.digest, digest))
    if (matches[0] !== undefined) return matches[0].tenant
    throw unknownToken()
  }

  readonly weightOf = (name: string): number => this.#contents.tenants.get(name)?.weight ?? 1

  readonly priorityOf = (name: string, wanted: Priority): Priority => {
    const highest = this.#contents.tenants.get(name)?.priority ?? 'interactive'
    return urgency.indexOf(wanted) < urgency.indexOf(highest) ? highest : wanted
  }
}

interface Contents {
  readonly text: string
  readonly tokens: readonly { readonly tenant: string; readonly digest: Buffer }[]
  readonly tenants: ReadonlyMap<string, { readonly weight: number; readonly priority: Priority }>
}

function read(path: string): Contents {
  const { text, tokens, tenants } = parseFile(path)
  const digests = tokens.map((entry) => ({
    tenant: entry.tenant,
    digest: 'sha256' in entry ? Buffer.from(entry.sha256, 'hex') : sha256(entry.token),
  }))
  const owners = new Map<string, string>()
  for (const [i, { tenant, digest }] of digests.entries()) {
    const owner = owners.get(digest.toString('hex')) ?? tenant
    owners.set(digest.toString('hex'), owner)
    // Its callers would see the edits of the one that stands first.
    if (owner !== tenant) {
      throw wrongFile(
        path,
        `tokens.${i}: its token is also of the tenant "${owner}"`,
        'Give each tenant its own tokens.',
      )
    }
  }
  // Most likely misspelt: who is meant would have the weight and the priority of all others.
  const stranger = Object.keys(tenants).find((name) => tokens.every((entry) => entry.tenant !== name))
  if (stranger !== undefined) {
    const what = `tenants.${stranger}: no token is of this tenant`
    throw wrongFile(path, what, 'Give it a token, or take it out of "tenants".')
  }
  return { text, tokens: digests, tenants: new Map(Object.entries(tenants)) }
}

function parseFile(path: string) {
  try {
    const text = readFileSync(path, 'utf8')
    return { text, ...authFileSchema.parse(JSON.parse(text)) }
  } catch (error) {
    if (!(error instanceof SyntaxError) && !(error instanceof z.ZodError)) throw fileError(error, path, 'read')
    const where = (error instanceof z.ZodError && error.issues[0]!.path.join('.')) || 'its top level'
    throw wrongFile(path, where, 'Write {"tokens": [{"tenant": "NAME", "sha256": "HEX"}]}.')
  }
}

function wrongFile(path: string, where: string, cure: string): FlexitError {
  const message = `${path} is not a file of tokens, at ${where}`
  return new FlexitError({ code: 'INVALID_ARGUMENT', field: 'authFile', message, cure })
}

function tokenOf(metadata: Metadata): string {
  const [authorization] = metadata.get('authorization')
  const bearer = /^bearer +(\S+)$/i.exec(String(authorization ?? ''))?.[1]
  const token = bearer ?? metadata.get('x-api-key')[0]
  if (token === undefined) throw refused('the call has no token')
  return token.toString()
}

/** The error of a token that is of no tenant, or not of the one that a stream began with. */
export function unknownToken(): WireError {
  return refused('the token is not known here')
}

function refused(message: string): WireError {
  const cure = 'Send `authorization: Bearer TOKEN` or `x-api-key: TOKEN`, with a token that this server knows.'
  return new WireError({ code: 'UNAUTHENTICATED', message, cure })
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
