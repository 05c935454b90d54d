// The server's options on the scheduler, with devices that are fakes: limits, batches, tenants, and the condition.
// What the limits mean is tested in test/scheduler.

import test, { type ExecutionContext } from 'ava'
import { resolveParameters } from '../../src/engine/parameters.js'
import { AdmissionError, type EditListener } from '../../src/scheduler/api.js'
import { openTenants } from '../../src/server/auth.js'
import { drive } from '../../src/server/drive.js'
import { type ServerOptions, resolveOptions } from '../../src/server/options.js'
import { FakeDevice, newState, turn } from '../scheduler/fake-device.js'
import { pack } from '../support-server/start.js'

function driven(t: ExecutionContext, flags: Partial<ServerOptions>, weightOf = openTenants(undefined).weightOf) {
  const devices = [new FakeDevice('cpu'), new FakeDevice('cpu:1')]
  const options = resolveOptions({ flags, environment: {} })
  let waitingBytes = () => NaN
  const { scheduler, condition } = drive(devices, [pack], options, { ...openTenants(undefined), weightOf }, (bytes) => {
    waitingBytes = bytes
    return {}
  })
  const admit = (tenant: string, bytes = 1) => scheduler.admit({ tenant, priority: 'normal', bytes, steps: 3 })
  const refusal = (tenant: string, bytes?: number) => {
    const error = t.throws(() => admit(tenant, bytes), { instanceOf: AdmissionError, code: 'RESOURCE_EXHAUSTED' })
    t.true(error.retryAfterMs! > 0)
    return error.reason
  }
  return { devices, scheduler, condition, admit, refusal, waitingBytes: () => waitingBytes() }
}

test('limits of edits, of waiting ones and of their bytes, in all and for each tenant', (t) => {
  const edits = driven(t, { maxEdits: 3, maxEditsPerTenant: 2 })
  for (const tenant of ['a', 'a', 'b']) edits.admit(tenant)
  t.is(edits.refusal('c'), 'edits')
  const own = driven(t, { maxEditsPerTenant: 1 })
  own.admit('a')
  t.is(own.refusal('a'), 'edits of this tenant')
  const waiting = driven(t, { maxWaitingEdits: 2, maxWaitingEditsPerTenant: 1 })
  waiting.admit('a')
  t.is(waiting.refusal('a'), 'waiting edits of this tenant')
  waiting.admit('b')
  t.is(waiting.refusal('c'), 'waiting edits')
  const bytes = driven(t, { maxImageBytes: 1024, maxWaitingBytes: 5000, maxWaitingBytesPerTenant: 2000 })
  bytes.admit('a', 1500)
  t.is(bytes.refusal('a', 1000), 'waiting bytes of this tenant')
  bytes.admit('b', 2000)
  t.is(bytes.refusal('c', 2000), 'waiting bytes')
  t.is(bytes.waitingBytes(), 3500)
})

test('without options the limits are those of the defaults', (t) => {
  const { admit, refusal } = driven(t, {})
  for (let i = 0; i < 1_000; i++) admit('a')
  t.is(refusal('b'), 'edits')
  const { refusal: tooMuch } = driven(t, {})
  t.is(tooMuch('a', 512 * 1024 ** 2 + 1), 'waiting bytes')
})

test('batches, weights, updates and the condition', async (t) => {
  const { devices, scheduler, condition, admit } = driven(t, { maxBatch: 2 }, (tenant) => (tenant === 'a' ? 3 : 1))
  const steps = { a: 0, b: 0 }
  const state = { ...newState('cat', { ...resolveParameters({}, pack), steps: 1000 }), pack: pack.digest }
  const run = (tenant: 'a' | 'b') => {
    const listener: EditListener = {
      onStarted: () => undefined,
      onStep: () => (steps[tenant] += 1),
      onEnd: () => undefined,
    }
    return scheduler.submit(admit(tenant), state, listener)
  }
  t.like(condition(), { workingDevices: 2, dueEdits: 0, slots: 2, progress: 0 })
  const edits = Array.from({ length: 12 }, () => [run('a'), run('b')]).flat()
  await turn()
  for (let i = 0; i < 400; i++) await devices[i % 2]!.step()
  t.true(devices.every(({ log }) => Math.max(...log.map(({ items }) => items.length)) === 2))
  const share = steps.a / (steps.a + steps.b)
  t.true(share > 0.7 && share < 0.8, `three quarters of the time are a’s: ${share}`)
  t.like(condition(), { workingDevices: 2, dueEdits: 24, progress: 400 })
  t.true(condition().slots >= 2)

  const [edit] = edits
  edit!.update({ parameters: { seed: 5 } })
  t.throws(() => edit!.update({ parameters: { networks: ['nope'] } }), { code: 'INVALID_ARGUMENT' })
  const closing = scheduler.close()
  for (const device of devices) await device.step()
  await closing
  t.is(condition().dueEdits, 0)
})
