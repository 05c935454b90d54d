// Edits under disturbance: what the application was given, next to what it was given of the same edits undisturbed.

import { type ClientEditRequest, type EditRun, type FlexitClient, connect } from '../../src/client/client.js'
import type { EditParameters } from '../../src/engine/parameters.js'
import { request } from '../kit/edits.js'
import type { Report } from '../kit/report.js'
import { summarise } from '../kit/statistics.js'
import type { Replica } from './replica.js'

/** What a step costs least with, that there are many of them in a second. */
const quick: Partial<EditParameters> = { views: 1, networks: ['vit'], lambdaP: 0, lambdaZ: 0, space: 'pixels' }

/** The `i`-th edit, of so many steps. */
export function editOf(i: number, steps: number): ClientEditRequest {
  return request(i, { ...quick, steps })
}

/** For a look at a case on a busy machine: fewer edits. */
const scale = Number(process.env['CLUSTER_SCALE'] ?? 1)
export const scaled = (count: number) => Math.max(1, Math.round(count * scale))

/** Edits of 12 to 28 steps. */
export const mixed = (count: number) => Array.from({ length: scaled(count) }, (_, i) => editOf(i, 12 + ((i * 13) % 17)))

/** Of a replica that is asked to go away; nobody may wait for longer. */
export const drainMs = 4_000

export interface Watched {
  /** Step numbers, as they came. */
  readonly steps: number[]
  readonly losses: number[]
  /** Between two steps one after the other, ms. */
  longestGapMs: number
  resumed: number
  latent: Float32Array | undefined
  error: string | undefined
}

/** Follow an edit to its end. */
export async function watch(run: EditRun, onStep: () => void = () => undefined): Promise<Watched> {
  const seen: Watched = {
    steps: [],
    losses: [],
    longestGapMs: 0,
    resumed: 0,
    latent: undefined,
    error: undefined,
  }
  let lastMs: number | undefined
  for await (const event of run) {
    if (event.kind === 'step') {
      const nowMs = performance.now()
      seen.longestGapMs = Math.max(seen.longestGapMs, nowMs - (lastMs ?? nowMs))
      lastMs = nowMs
      seen.steps.push(event.step)
      seen.losses.push(event.losses.total)
      onStep()
    } else if (event.kind === 'resumed') seen.resumed += 1
    else if (event.kind === 'completed') seen.latent = event.point.latent
    else if (event.kind === 'failed') seen.error = `${event.error.status}: ${event.error.message}`
    else if (event.kind === 'cancelled') seen.error = 'cancelled'
  }
  return seen
}

/** An edit that was disturbed, and the same undisturbed. */
export interface Pair {
  readonly seen: Watched
  readonly alone: Watched
}

export const watchAll = (client: FlexitClient, requests: readonly ClientEditRequest[]) =>
  Promise.all(requests.map((one) => watch(client.edit(one))))

/** All edits at once, each again and again until `work` is over; with how they were undisturbed. */
export async function watchDuring(
  client: FlexitClient,
  requests: readonly ClientEditRequest[],
  alone: readonly Watched[],
  work: () => Promise<void>,
): Promise<Pair[]> {
  const state = { over: false }
  const pairs: Pair[] = []
  const following = requests.map(async (one, i) => {
    do pairs.push({ seen: await watch(client.edit(one)), alone: alone[i]! })
    while (!state.over && pairs.at(-1)!.seen.error === undefined)
  })
  await work().finally(() => (state.over = true))
  await Promise.all(following)
  return pairs
}

/** The same edits on replicas that nobody disturbs, asked directly. */
export async function undisturbed(replicas: readonly Replica[], requests: readonly ClientEditRequest[]) {
  const client = connect(replicas.map(({ address }) => address))
  try {
    return await watchAll(client, requests)
  } finally {
    client.close()
  }
}

const equal = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  a.length === b.length && Array.from(a).every((value, i) => Object.is(value, b[i]))

export const pair = (seen: readonly Watched[], alone: readonly Watched[]): Pair[] =>
  seen.map((one, i) => ({ seen: one, alone: alone[i]! }))

/** None failed, steps neither repeat nor skip, losses and latents are those of the undisturbed edits. */
export function compare(report: Report, pairs: readonly Pair[]): void {
  const count = pairs.length
  const those = (what: (pair: Pair) => boolean) => pairs.filter(what).length
  const asked = { exactly: count }
  report.figure(
    'edits that completed',
    those(({ seen }) => seen.latent !== undefined),
    `of ${count}`,
    asked,
  )
  for (const error of new Set(pairs.map(({ seen }) => seen.error))) {
    if (error !== undefined) report.note(`failed: ${error}`)
  }
  report.figure(
    'edits without a step repeated or left out',
    those(({ seen, alone }) => equal(seen.steps, alone.steps) && seen.steps.every((step, i) => step === i)),
    `of ${count}`,
    asked,
  )
  report.figure(
    'edits with the bits of undisturbed runs',
    those(
      ({ seen, alone }) => equal(seen.losses, alone.losses) && equal(seen.latent ?? [], alone.latent ?? [Number.NaN]),
    ),
    `of ${count}`,
    asked,
  )
  report.figure(
    'edits that went on elsewhere',
    those(({ seen }) => seen.resumed > 0),
    `of ${count}`,
  )
}

/** Between two steps of an edit, which somebody waits for. */
export function reportGaps(report: Report, pairs: readonly Pair[], atMost?: number): void {
  const undisturbedMs = summarise(pairs.map(({ alone }) => alone.longestGapMs))
  const { p50, p99, max } = summarise(pairs.map(({ seen }) => seen.longestGapMs))
  report.figure('longest wait for a step, undisturbed, max', undisturbedMs.max, 'ms')
  report.figure('longest wait for a step, p50', p50, 'ms')
  report.figure('longest wait for a step, p99', p99, 'ms')
  report.figure('longest wait for a step, max', max, 'ms', atMost === undefined ? undefined : { atMost })
}
