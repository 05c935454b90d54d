// When a device takes over edits, and when it keeps those it has: an edit's constants live on the device that prepared
// it, so that every move costs a preparation.

/** A move must win back this many times what it costs. */
const worth = 2

/** Steps that make a move worth it before anything was measured. */
const unmeasuredSteps = 8

/** Whether an idle device should take an edit that waits on a busy one. */
export function movePays(stepsLeft: number, stepMs: number | undefined, prepareMs: number): boolean {
  return stepMs === undefined ? stepsLeft >= unmeasuredSteps : stepsLeft * stepMs > worth * prepareMs
}

/**
 * Virtual time, in ms, by which an edit that is prepared on a device goes before one that is not: with it tenants take
 * turns after stretches that are long against a preparation, without it after every step.
 */
export function residentAdvantageMs(prepareMs: number): number {
  return 4 * prepareMs
}

/** The largest batch that new edits may fill up, so that `idle` other devices get theirs of `available` edits. */
export function fairPart(available: number, idle: number): number {
  return Math.ceil(available / (idle + 1))
}

/** Time in which a device must have taken steps for each unfinished edit whose place a new one takes. */
export function displacementMs(prepareMs: number): number {
  return 10 * prepareMs
}
