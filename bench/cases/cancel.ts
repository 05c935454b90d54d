// 1,000 edits cancelled at random moments, seen on the wire and in the server's metrics, beside edits that are let be.
// A slot is free at the next step boundary when a cancel wastes one step at most: the one that is under way.

import { setTimeout as sleep } from 'node:timers/promises'
import { decodeLatent } from '../../src/proto/codec.js'
import type { EditEvent } from '../../src/proto/messages.js'
import { cheap, countSoloBits, request } from '../kit/edits.js'
import { Random } from '../kit/random.js'
import type { Report } from '../kit/report.js'
import { withServerProcess } from '../kit/server.js'
import { Wire, isTerminal } from '../kit/wire.js'

const cancels = 1000
const streams = 4
const atOnce = 3
const witnesses = 4
const witnessSteps = 300
const parameters = { ...cheap, steps: 500 }

/** What came of one edit. */
interface Trace {
  steps: number
  /** Steps that were told of after the cancel was sent: they were on their way. */
  stepsAfter: number
  cancelled: boolean
  ends: number
  afterEnd: number
  onStep: () => void
  onEnd: (event: EditEvent) => void
}

export async function run(report: Report): Promise<void> {
  await withServerProcess({}, async (server) => {
    const random = new Random(1)
    const traces = new Map<string, Trace>()
    const onEvent = (event: EditEvent) => {
      const trace = traces.get(event.editId)
      if (trace === undefined) return
      if (trace.ends > 0) trace.afterEnd++
      if (event.step !== undefined) {
        trace.steps++
        if (trace.cancelled) trace.stepsAfter++
        trace.onStep()
      }
      if (!isTerminal(event)) return
      trace.ends++
      trace.onEnd(event)
    }
    const wires = Array.from({ length: streams }, () => new Wire(server.address, onEvent))
    const begin = (wire: Wire, id: string, own: Parameters<typeof request>) => {
      const trace: Trace = {
        steps: 0,
        stepsAfter: 0,
        cancelled: false,
        ends: 0,
        afterEnd: 0,
        onStep: () => undefined,
        onEnd: () => undefined,
      }
      traces.set(id, trace)
      const ended = new Promise<EditEvent>((resolve) => (trace.onEnd = resolve))
      wire.start(id, request(...own))
      return { trace, ended }
    }

    /** Cancel after some steps and some milliseconds, sometimes twice, sometimes again when it is over. */
    const cancelOne = async (wire: Wire, i: number): Promise<EditEvent> => {
      const id = `cancelled-${i}`
      const [after, delayMs, again] = [random.below(4), random.below(30), random.next() < 0.3]
      const { trace, ended } = begin(wire, id, [i, parameters])
      if (after > 0) {
        await new Promise<void>((resolve) => {
          trace.onStep = () => {
            if (trace.steps >= after) resolve()
          }
        })
      }
      await sleep(delayMs)
      trace.cancelled = true
      wire.send(id, { cancel: {} })
      if (again) wire.send(id, { cancel: {} })
      const end = await ended
      if (again) wire.send(id, { cancel: {} })
      return end
    }

    const left = Array.from({ length: witnesses }, (_, i) =>
      begin(wires[i % streams]!, `witness-${i}`, [i, { ...parameters, steps: witnessSteps }]),
    )
    const ends: EditEvent[] = []
    let next = 0
    const worker = async (wire: Wire) => {
      for (let i = next++; i < cancels; i = next++) ends.push(await cancelOne(wire, i))
    }
    await Promise.all(wires.flatMap((wire) => Array.from({ length: atOnce }, () => worker(wire))))
    const witnessed = await Promise.all(left.map(({ ended }) => ended))
    // Streams keep the order: what had been sent before these ends has come.
    await Promise.all(wires.map((wire, i) => begin(wire, `last-${i}`, [i, { ...cheap, steps: 1 }]).ended))

    const all = [...traces.values()]
    const sum = (of: (trace: Trace) => number) => all.reduce((total, trace) => total + of(trace), 0)
    report.figure('edits that ended cancelled', ends.filter(({ cancelled }) => cancelled !== undefined).length, '', {
      exactly: cancels,
    })
    report.figure(
      'ends, of all edits',
      sum(({ ends: count }) => count),
      '',
      { exactly: all.length },
    )
    report.figure(
      'events after an end',
      sum(({ afterEnd }) => afterEnd),
      '',
      { exactly: 0 },
    )
    const metrics = await server.metrics()
    const wasted = metrics.sum('flexit_wasted_steps_total')
    report.figure('steps wasted, in the server', wasted, '', { atMost: cancels })
    const unaccounted = metrics.sum('flexit_samples_total') - wasted - metrics.sum('flexit_steps_total')
    report.figure('slots taken neither by a step told nor wasted', unaccounted, '', { exactly: 0 })
    report.figure('steps told after the cancel was sent, of one edit', Math.max(...all.map((t) => t.stepsAfter)))
    const bucket = (name: string, part: number) => 1000 * metrics.bucket(name, part)
    report.figure('from cancel to free slot, p50: at most', bucket('flexit_cancel_to_freed_seconds', 0.5), 'ms')
    report.figure('from cancel to free slot, p99: at most', bucket('flexit_cancel_to_freed_seconds', 0.99), 'ms')
    report.figure('a step of a batch, p99: at most', bucket('flexit_step_seconds', 0.99), 'ms')
    const requests = left.map((_, i) => request(i, { ...parameters, steps: witnessSteps }))
    const latents = witnessed.map(({ completed }) => completed?.resumePoint?.latent)
    report.figure(
      `of ${witnesses} edits beside them, those with solo bits`,
      await countSoloBits(
        requests,
        latents.map((latent) => (latent == null ? undefined : decodeLatent(latent))),
      ),
      '',
      { exactly: witnesses },
    )
    for (const wire of wires) wire.close()
  })
}
