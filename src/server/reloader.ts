// Files of certificates and tokens, looked at again while the server runs.
// What cannot be used is passed over; the log, a metric and an alert tell of it.

import type { Tenants } from './auth.js'
import type { CertificateFiles } from './certificate-files.js'
import type { Logger } from './logger.js'
import type { Metrics } from './metrics.js'

export interface ReloaderSetup {
  /** Undefined: no TLS. */
  readonly certificates: CertificateFiles | undefined
  readonly tenants: Tenants
  readonly metrics: Metrics
  readonly logger: Logger
}

/** To be called for a look at the files. What is wrong with them is said once, not at every look. */
export function reloader({ certificates, tenants, metrics, logger }: ReloaderSetup): () => void {
  const said = new Map<string, string>()
  const renew = (what: string, files: { reload(): boolean } | undefined) => {
    try {
      if (files?.reload()) logger.info(`${what} reloaded`)
      metrics.reloadFailed.set({ what }, 0)
      if (said.delete(what)) logger.info(`the ${what} on disk can be used again`)
    } catch (error) {
      metrics.reloadFailed.set({ what }, 1)
      const problem = String(error)
      if (said.get(what) === problem) return
      said.set(what, problem)
      logger.warn({ err: error }, `the ${what} on disk cannot be used; the old ones are kept`)
    }
  }
  const tellExpiry = () => {
    if (certificates !== undefined) metrics.certificateExpiry.set(certificates.expiryMs / 1000)
  }
  tellExpiry()
  return () => {
    renew('certificates', certificates)
    renew('tokens', tenants)
    tellExpiry()
  }
}
