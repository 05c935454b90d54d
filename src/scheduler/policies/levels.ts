// Classes of urgency and ageing: a lower level is served first, and what has waited long rises by one.
// Strict priorities with ageing, as in operating systems: https://en.wikipedia.org/wiki/Aging_(scheduling)

import type { Priority } from '../api.js'

/** Edits that took their last step and lack only their picture: cheap, and they free what they hold. */
export const finishingLevel = 0

const levels: Readonly<Record<Priority, number>> = { interactive: 1, normal: 2, batch: 3 }

export const levelCount = 4

export function levelOf(priority: Priority): number {
  return levels[priority]
}

/** The level above, for an edit that has waited since `sinceMs` without a step; undefined: it stays where it is. */
export function aged(level: number, sinceMs: number, nowMs: number, ageMs: number): number | undefined {
  return level > levels.interactive && nowMs - sinceMs >= ageMs ? level - 1 : undefined
}
