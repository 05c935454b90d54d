// A server of the tests: on free ports, with the embedded pack and (unless another is given) the fake scheduler.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { shippedFolder } from '../../src/engine/pack/locations.js'
import { Pack } from '../../src/engine/pack/pack.js'
import { variableShape } from '../../src/engine/step-graph.js'
import { openTenants } from '../../src/server/auth.js'
import { EditDesk } from '../../src/server/edit-desk.js'
import { type Logger, createLogger } from '../../src/server/logger.js'
import { Metrics } from '../../src/server/metrics.js'
import { type ServerOptions, resolveOptions } from '../../src/server/options.js'
import { startServer } from '../../src/server/server.js'
import type { Tracing } from '../../src/server/tracing.js'
import type { StartEdit } from '../../src/proto/messages.js'
import { FakeScheduler } from './fake-scheduler.js'
import { Peer } from './peer.js'

export const pack = await Pack.open(join(shippedFolder, 'tiny'))
export const latentShape = variableShape(pack, 'latent')
export const latentLength = latentShape.reduce((a, b) => a * b, 1)
export const apple = readFileSync(join(shippedFolder, 'tiny', 'examples', 'red-apple.png'))

export interface TestSetup {
  readonly options?: Partial<ServerOptions>
  readonly allowed?: number
  readonly places?: number
  readonly retryAfterMs?: number
  /** Default: the embedded one. */
  readonly packs?: readonly Pack[]
  /** Default: a fake one. */
  readonly scheduler?: FakeScheduler
  readonly logger?: Logger
  readonly tracing?: Tracing
}

/** A server that is gone when the test ends, and a peer that speaks with it. */
export async function serve(
  t: ExecutionContext,
  { options = {}, packs = [pack], logger = createLogger('silent'), tracing, ...fakes }: TestSetup = {},
) {
  const scheduler = fakes.scheduler ?? new FakeScheduler({ length: latentLength, ...fakes })
  const free = { port: 0, metricsPort: 0, logLevel: 'silent', drainMs: 0 }
  const server = await startServer({
    scheduler,
    handBack: () => scheduler.handBack(),
    condition: () => ({ workingDevices: 1, dueEdits: scheduler.admitted.length, slots: 2, progress: 0 }),
    packs,
    tenants: openTenants(options.authFile),
    options: resolveOptions({ flags: { ...free, ...options }, environment: {} }),
    logger,
    version: '1.2.3',
    metrics: new Metrics({ version: '1.2.3', packs: packs.map(({ manifest, digest }) => ({ ...manifest, digest })) }),
    tracing,
  })
  const address = `127.0.0.1:${server.port}`
  const peer = new Peer(address)
  t.teardown(async () => {
    peer.close()
    await server.drain()
  })
  return { server, scheduler, address, peer }
}

/** What a server has behind its calls. */
export function newDesk(scheduler: FakeScheduler): EditDesk {
  return new EditDesk({
    scheduler,
    packs: [pack],
    tenants: openTenants(undefined),
    options: resolveOptions({ flags: {}, environment: {} }),
    metrics: new Metrics({ version: '1.2.3', packs: [] }),
    logger: createLogger('silent'),
    tracing: undefined,
  })
}

/** What starts an edit that works. */
export function startEdit(changes: Partial<StartEdit> = {}): StartEdit {
  return {
    image: apple,
    sourceText: 'red apple',
    targetText: 'tangerine',
    parameters: { steps: 5, seed: 7 },
    ...changes,
  }
}
