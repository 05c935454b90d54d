// What tests of file readers share: seeded damage to bytes, and the check that only our errors come out.
// mulberry32 (Tommy Ettinger, public domain) gives the same damage in every run.

import type { ExecutionContext } from 'ava'
import { FlexitError } from '../../../src/engine/errors.js'
import type { ErrorCode } from '../../../src/engine/errors.js'

export type Random = (below: number) => number

export function seededRandom(seed: number): Random {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let x = Math.imul(state ^ (state >>> 15), 1 | state)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) % below
  }
}

/** A copy with one to four bytes changed, and in one of four cases cut short. */
export function damage(bytes: Uint8Array, random: Random): Uint8Array {
  const copy = Uint8Array.from(bytes)
  for (let count = 1 + random(4); count > 0; count--) copy[random(copy.length)] = random(256)
  return random(4) === 0 ? copy.subarray(0, random(copy.length)) : copy
}

/** The error of `work`, which must be ours, or undefined. */
export async function ourError(t: ExecutionContext, work: () => unknown): Promise<FlexitError | undefined> {
  try {
    await work()
    return undefined
  } catch (error) {
    if (error instanceof FlexitError) return error
    t.log(error)
    t.fail('an error that is not a FlexitError came out')
    return undefined
  }
}

/** `work` must fail with DATA_LOSS (or `code`), name `path`, and have a message that matches. */
export async function refuses(
  t: ExecutionContext,
  work: () => unknown,
  path: string,
  message: RegExp,
  code: ErrorCode = 'DATA_LOSS',
): Promise<void> {
  const error = await ourError(t, work)
  t.is(error?.code, code)
  t.true(error?.message.includes(path), error?.message)
  t.regex(error?.message ?? '', message)
  t.truthy(error?.cure)
}
