// Certificates from files that may be replaced while the server runs. A pair that does not fit together (read in the
// middle of a replacement) is passed over, where grpc-js 1.14's own FileWatcherCertificateProvider hands it on.
// https://github.com/grpc/proposal/blob/master/A29-xds-tls-security.md

import { X509Certificate, createPrivateKey } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { experimental } from '@grpc/grpc-js'
import { FlexitError, fileError } from '../engine/errors.js'

export interface CertificatePaths {
  /** Chain, its own certificate first. */
  readonly certificate: string
  readonly key: string
  /** Authorities of clients. */
  readonly authorities?: string | undefined
}

interface Contents {
  readonly certificate: Buffer
  readonly privateKey: Buffer
  readonly caCertificate: Buffer | undefined
  readonly expiryMs: number
}

export class CertificateFiles implements experimental.CertificateProvider {
  readonly #paths: CertificatePaths
  readonly #identityListeners = new Set<experimental.IdentityCertificateUpdateListener>()
  readonly #caListeners = new Set<experimental.CaCertificateUpdateListener>()
  #contents: Contents

  /** Errors: those of reading the files; INVALID_ARGUMENT for contents that are no certificates or do not fit. */
  constructor(paths: CertificatePaths) {
    this.#paths = paths
    this.#contents = read(paths)
  }

  /** When the own certificate in use ends, in ms since 1970. */
  get expiryMs(): number {
    return this.#contents.expiryMs
  }

  /** Read the files again. Returns whether they changed. Errors: as at the beginning, with the old ones kept. */
  reload(): boolean {
    const contents = read(this.#paths)
    if (digest(contents) === digest(this.#contents)) return false
    this.#contents = contents
    for (const listener of this.#identityListeners) listener(contents)
    for (const listener of this.#caListeners) this.#tellAuthorities(listener)
    return true
  }

  addIdentityCertificateListener(listener: experimental.IdentityCertificateUpdateListener): void {
    this.#identityListeners.add(listener)
    process.nextTick(() => listener(this.#contents))
  }

  removeIdentityCertificateListener(listener: experimental.IdentityCertificateUpdateListener): void {
    this.#identityListeners.delete(listener)
  }

  addCaCertificateListener(listener: experimental.CaCertificateUpdateListener): void {
    this.#caListeners.add(listener)
    process.nextTick(() => this.#tellAuthorities(listener))
  }

  removeCaCertificateListener(listener: experimental.CaCertificateUpdateListener): void {
    this.#caListeners.delete(listener)
  }

  #tellAuthorities(listener: experimental.CaCertificateUpdateListener): void {
    const { caCertificate } = this.#contents
    if (caCertificate !== undefined) listener({ caCertificate })
  }
}

function digest({ certificate, privateKey, caCertificate }: Contents): string {
  return [certificate, privateKey, caCertificate].map((part) => part?.toString('latin1')).join('\0')
}

function read({ certificate, key, authorities }: CertificatePaths): Contents {
  const [chain, privateKey] = [readPem(certificate), readPem(key)]
  const caCertificate = authorities === undefined ? undefined : readPem(authorities)
  const [own] = certificatesOf(certificate, chain)
  const ownKey = parsed(key, () => createPrivateKey(privateKey))
  if (authorities !== undefined) certificatesOf(authorities, caCertificate!)
  const expiryMs = Date.parse(own.validTo)
  if (own.checkPrivateKey(ownKey)) return { certificate: chain, privateKey, caCertificate, expiryMs }
  throw new FlexitError({
    code: 'INVALID_ARGUMENT',
    field: 'tlsKey',
    message: `${key} is not the key of the certificate in ${certificate}`,
    cure: 'Name the two files that were made together.',
  })
}

function readPem(path: string): Buffer {
  try {
    return readFileSync(path)
  } catch (error) {
    throw fileError(error, path, 'read')
  }
}

const certificateBegin = /(?=-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----)/

/** Every certificate of a file: OpenSSL would stop at one that is none, or pass it over. */
function certificatesOf(path: string, contents: Buffer): [X509Certificate, ...X509Certificate[]] {
  const blocks = contents.toString('latin1').split(certificateBegin)
  const [first = '', ...others] = blocks.filter((block) => certificateBegin.test(block))
  const certificate = (block: string, where: string) => parsed(where, () => new X509Certificate(block))
  return [certificate(first, path), ...others.map((block, i) => certificate(block, `certificate ${i + 2} in ${path}`))]
}

/** Errors: INVALID_ARGUMENT, of `what`. */
function parsed<T>(what: string, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    throw new FlexitError({
      code: 'INVALID_ARGUMENT',
      field: 'tls',
      message: `${what} is not a certificate or key in PEM form`,
      cure: 'Name a file of whole blocks from -----BEGIN to -----END.',
      cause: error,
    })
  }
}
