// Edits made by the devices of this machine, each with a thread of its own: edits that can share a step do.
// The scheduler is the server's (src/scheduler).

import type { EditState } from '../engine/edit.js'
import { FlexitError, invalidArgument } from '../engine/errors.js'
import { cacheFolder } from '../engine/pack/locations.js'
import { Pack } from '../engine/pack/pack.js'
import { type EditParameters, resolveParameters } from '../engine/parameters.js'
import { formatDevice, parseDevice } from '../engine/runtime.js'
import type { Outcome, SchedulerApi } from '../scheduler/api.js'
import type { StepDevice } from '../scheduler/device.js'
import { Scheduler } from '../scheduler/scheduler.js'
import { openDevices } from '../scheduler/worker-device.js'
import { chosenPack } from './chosen-pack.js'
import { type Ended, type Order, type PlacedMaker, makerPack } from './maker.js'
import type { Progress } from './progress.js'

export interface DeviceChoice {
  /** Name or path. Default: the embedded one. */
  readonly pack?: string | undefined
  readonly networks?: readonly string[] | undefined
  readonly devices: readonly string[]
  /** Of each CPU device. Default: the cores, shared evenly. */
  readonly threads?: number | undefined
}

/**
 * Open the pack at once, and the devices when the first edit needs them. Errors: those of `parseDevice`, `chosenPack`
 * and `Pack.open`; `make` has those of `openDevices`.
 */
export async function deviceMaker(choice: DeviceChoice, progress: Progress): Promise<PlacedMaker> {
  const devices = choice.devices.map(parseDevice)
  if (new Set(devices.map(formatDevice)).size < devices.length) {
    throw invalidArgument('device', 'a device is named twice', 'Name each once; several of the CPU are cpu:0, cpu:1.')
  }
  const { folder } = await chosenPack(choice.pack, choice.networks)
  const pack = await Pack.open(folder)
  // With what the first edit asks for: most batches ask for the same in all.
  const open = async (usual: EditParameters) => {
    const setup = { devices, packs: [folder], threads: choice.threads, cacheFolder: cacheFolder(), usual }
    const opened = await openDevices({ ...setup, onProgress: (doing) => progress.doing(doing) })
    return schedulerOf(opened, pack)
  }
  let scheduler: Promise<Scheduler> | undefined
  return {
    pack: makerPack(pack),
    devices: devices.length,
    places: [...new Set(devices.map(({ kind }) => kind))].sort(),
    make: async (state, order) => makeBy(await (scheduler ??= open(state.parameters)), state, order),
    close: async () => {
      await scheduler?.then((opened) => opened.close()).catch(() => undefined)
      pack.close()
    },
  }
}

/** What has not been told yet of an edit, at most, before it waits for its watcher. */
const mostUntold = 4

/** A scheduler for a command's own edits: it makes as many as it is given, at once. */
export function schedulerOf(devices: readonly StepDevice[], pack: Pack): Scheduler {
  const limits = { edits: Infinity }
  return new Scheduler({ devices, limits, resolve: (given) => resolveParameters(given, pack) })
}

/** Leave an edit to a scheduler. Errors: those of the watcher, and of admission. */
export function makeBy(scheduler: SchedulerApi, state: EditState, { watcher, signal }: Order): Promise<Ended> {
  const steps = state.parameters.steps - state.step
  const ticket = scheduler.admit({ tenant: '', priority: 'normal', bytes: 0, steps })
  return new Promise((resolve, reject) => {
    let told: Promise<void> = Promise.resolve()
    let untold = 0
    let held = false
    /** In order, also where some of it takes long; an edit whose watcher fails is stopped. */
    const tell = (act: () => void | Promise<void>) => {
      untold++
      if (untold === mostUntold) edit.hold((held = true))
      told = told.then(act).then(() => {
        untold--
        // Not sooner: who is held may lose what was prepared for it.
        if (held && untold === 0) edit.hold((held = false))
      })
      told.catch(() => edit.cancel())
    }
    const edit = scheduler.submit(ticket, state, {
      onStarted: () => tell(() => watcher.onStarted()),
      onWarnings: (warnings) =>
        tell(() => {
          for (const warning of warnings) watcher.onNote(warning)
        }),
      onStep: (report, after) => tell(() => watcher.onStep(report, after)),
      onEnd: (outcome) => {
        signal.removeEventListener('abort', stop)
        told.then(() => resolve(endedOf(outcome)), reject)
      },
    })
    const stop = () => edit.cancel()
    signal.addEventListener('abort', stop)
    if (signal.aborted) stop()
  })
}

/** A scheduler hands edits back that nobody closed when none of its devices works any more. */
function endedOf(outcome: Outcome): Ended {
  if (outcome.kind !== 'handed-back') return outcome
  const error = new FlexitError({
    code: 'UNAVAILABLE',
    message: 'no device works any more',
    cure: 'Check the devices, their drivers and the memory.',
  })
  return { kind: 'failed', error, state: outcome.state }
}
