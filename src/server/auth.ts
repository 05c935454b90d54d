// Who calls: tokens from a file, each of a tenant.
// RFC 6750 bearer tokens, or the header `x-api-key`. The file may hold tokens or their sha256.

import { createHash, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Metadata } from '@grpc/grpc-js'
import { z } from 'zod'
import { FlexitError, fileError } from '../engine/errors.js'
import { WireError } from '../proto/status.js'

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
})

/** The tenant of a call's metadata. Errors: UNAUTHENTICATED. */
export type Authenticate = (metadata: Metadata) => string

/** Of a server that lets everyone in. */
export const openToAll: Authenticate = () => 'default'

/**
 * Read `{"tokens": [{"tenant": "a", "sha256": "…"}, {"tenant": "b", "token": "…"}]}`.
 * Errors: those of reading the file; INVALID_ARGUMENT, without what the file holds.
 */
export function readAuthFile(path: string): Authenticate {
  const digests = parseAuthFile(path).tokens.map((entry) => ({
    tenant: entry.tenant,
    digest: 'sha256' in entry ? Buffer.from(entry.sha256, 'hex') : sha256(entry.token),
  }))
  return (metadata) => {
    const digest = sha256(tokenOf(metadata))
    // Every entry is compared, so that the time tells nothing.
    const matches = digests.filter((entry) => timingSafeEqual(entry.digest, digest))
    if (matches[0] !== undefined) return matches[0].tenant
    throw refused('the token is not known here')
  }
}

function parseAuthFile(path: string): z.infer<typeof authFileSchema> {
  try {
    return authFileSchema.parse(JSON.parse(readFileSync(path, 'utf8')))
  } catch (error) {
    if (!(error instanceof SyntaxError) && !(error instanceof z.ZodError)) throw fileError(error, path, 'read')
    const where = error instanceof z.ZodError ? `, at ${error.issues[0]!.path.join('.') || 'its top level'}` : ''
    throw new FlexitError({
      code: 'INVALID_ARGUMENT',
      field: 'authFile',
      message: `${path} is not a file of tokens${where}`,
      cure: 'Write {"tokens": [{"tenant": "NAME", "sha256": "HEX"}]}.',
    })
  }
}

function tokenOf(metadata: Metadata): string {
  const [authorization] = metadata.get('authorization')
  const bearer = /^bearer +(\S+)$/i.exec(String(authorization ?? ''))?.[1]
  const token = bearer ?? metadata.get('x-api-key')[0]
  if (token === undefined) throw refused('the call has no token')
  return token.toString()
}

function refused(message: string): WireError {
  const cure = 'Send `authorization: Bearer TOKEN` or `x-api-key: TOKEN`, with a token that this server knows.'
  return new WireError({ code: 'UNAUTHENTICATED', message, cure })
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
