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
  const contents = {
    certificate: readPem(certificate),
    privateKey: readPem(key),
    caCertificate: authorities === undefined ? undefined : readPem(authorities),
  }
  const own = parsed(certificate, () => new X509Certificate(contents.certificate))
  const ownKey = parsed(key, () => createPrivateKey(contents.privateKey))
  if (authorities !== undefined) parsed(authorities, () => new X509Certificate(contents.caCertificate!))
  if (own.checkPrivateKey(ownKey)) return contents
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

function parsed<T>(path: string, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    throw new FlexitError({
      code: 'INVALID_ARGUMENT',
      field: 'tls',
      message: `${path} is not a certificate or key in PEM form`,
      cure: 'Name a file that begins with -----BEGIN.',
      cause: error,
    })
  }
}
