// What the server says of its health: to balancers, whether it takes edits; to those who would restart it, whether it
// lives. https://github.com/grpc/grpc/blob/master/doc/health-checking.md

import type { Server } from '@grpc/grpc-js'
import { HealthImplementation } from 'grpc-health-check'
import { serviceName } from '../proto/definition.js'

/** NOT_SERVING means that only a restart helps. A server that drains lives. */
export const livenessService = 'flexit.v1.Liveness'

/** How the scheduler is. */
export interface Condition {
  /** Devices that still work. */
  readonly workingDevices: number
  /** Edits that wait for a device or are in a batch. */
  readonly dueEdits: number
  /** Edits that the working devices take at once. */
  readonly slots: number
  /** Grows with every batch that was run and every edit that ended. */
  readonly progress: number
}

/** Longer than the watchdog of a worker takes, so that the scheduler may help itself first. */
export const stalledAfterMs = 20 * 60_000

export class Health {
  readonly #services = new HealthImplementation()
  #draining = false
  #alive = true
  #progress = -1
  #progressMs = 0

  constructor() {
    this.#tell()
  }

  /** A restart would not help. */
  get alive(): boolean {
    return this.#alive
  }

  get takesEdits(): boolean {
    return this.#alive && !this.#draining
  }

  addToServer(server: Server): void {
    this.#services.addToServer(server)
  }

  /** No more edits are taken. */
  drain(): void {
    this.#draining = true
    this.#tell()
  }

  /** Dead is: no device works, or edits are due and nothing has happened for `stalledAfterMs`. */
  look({ workingDevices, dueEdits, progress }: Condition, nowMs: number): void {
    if (progress !== this.#progress || dueEdits === 0) this.#progressMs = nowMs
    this.#progress = progress
    const alive = workingDevices > 0 && nowMs - this.#progressMs < stalledAfterMs
    if (alive === this.#alive) return
    this.#alive = alive
    this.#tell()
  }

  #tell(): void {
    const status = (well: boolean) => (well ? 'SERVING' : 'NOT_SERVING')
    this.#services.setStatus('', status(this.takesEdits))
    this.#services.setStatus(serviceName, status(this.takesEdits))
    this.#services.setStatus(livenessService, status(this.alive))
  }
}
