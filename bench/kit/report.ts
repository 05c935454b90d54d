// What a case found: figures, and which of them had to be so. In words for people, or a line of JSON for each.
// A figure that is asked for and does not hold makes `flexit bench` fail.

export type Asked = { readonly atLeast: number } | { readonly atMost: number } | { readonly exactly: number }

export interface Figure {
  readonly what: string
  readonly value: number
  /** `ms`, `steps/s`; empty for ratios and counts. */
  readonly unit: string
  readonly asked: Asked | undefined
  readonly holds: boolean
}

export interface ReportSink {
  figure(figure: Figure): void
  note(text: string): void
}

export class Report {
  readonly #sink: ReportSink
  #failures = 0

  constructor(sink: ReportSink) {
    this.#sink = sink
  }

  /** Figures that do not hold. */
  get failures(): number {
    return this.#failures
  }

  /** A figure; with `asked`, one that must be so. NaN never is. */
  figure(what: string, value: number, unit = '', asked?: Asked): void {
    const holds = asked === undefined || isMet(value, asked)
    if (!holds) this.#failures++
    this.#sink.figure({ what, value, unit, asked, holds })
  }

  /** Something to know about the figures. */
  note(text: string): void {
    this.#sink.note(text)
  }
}

function isMet(value: number, asked: Asked): boolean {
  if ('atLeast' in asked) return value >= asked.atLeast
  return 'atMost' in asked ? value <= asked.atMost : value === asked.exactly
}

/** `12.3 ms (asked: at most 50): holds` */
export function formatFigure({ what, value, unit, asked, holds }: Figure): string {
  const figure = `${what.padEnd(46)} ${formatNumber(value)}${unit === '' ? '' : ` ${unit}`}`
  return asked === undefined ? figure : `${figure} (asked: ${formatAsked(asked)}): ${holds ? 'holds' : 'DOES NOT HOLD'}`
}

function formatAsked(asked: Asked): string {
  if ('atLeast' in asked) return `at least ${formatNumber(asked.atLeast)}`
  return 'atMost' in asked ? `at most ${formatNumber(asked.atMost)}` : `exactly ${formatNumber(asked.exactly)}`
}

/** Three digits, or all of a whole number. */
export function formatNumber(value: number): string {
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return Math.round(value).toLocaleString('en')
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)))
}
