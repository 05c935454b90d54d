// Progress on stderr: a bar on a terminal, now and then a line elsewhere, nothing when it is to be quiet.
// Colours follow https://no-color.org.

import { styleText } from 'node:util'
import { type Options, SingleBar } from 'cli-progress'
import { printable } from './printable.js'

/** Texts are shown without control characters, whatever names they tell. */
export interface Progress {
  /** A line that stays, and what it ends with in dim letters. */
  say(line: string, aside?: string): void
  /** Work of unknown length has begun; forgotten as soon as anything else is shown. */
  doing(what: string): void
  /** `value` of `total`, and what else to tell, most important first: what does not fit is left out. */
  advance(value: number, total: number, details: readonly string[]): void
  /** Leave the bar as it is. To be called before others write to the terminal. */
  end(): void
}

export function createProgress({ quiet }: { readonly quiet: boolean }): Progress {
  if (quiet) return { say: ignore, doing: ignore, advance: ignore, end: ignore }
  return process.stderr.isTTY ? new TerminalProgress() : new PlainProgress()
}

function dim(text: string): string {
  return process.stderr.isTTY && !process.env['NO_COLOR'] ? styleText('dim', text) : text
}

/** "12 s", "3 min 20 s", "2 h 5 min". */
export function formatDuration(seconds: number): string {
  if (seconds < 59.5) return `${seconds < 9.95 ? Number(seconds.toFixed(1)) : Math.round(seconds)} s`
  const minutes = Math.round(seconds) / 60
  if (minutes < 60) return `${Math.floor(minutes)} min ${Math.round(seconds) % 60} s`
  return `${Math.floor(minutes / 60)} h ${Math.floor(minutes % 60)} min`
}

/** "1 step", "2 steps". */
export function counted(count: number, thing: string): string {
  return `${count} ${count === 1 ? thing : `${thing}s`}`
}

/** Three digits after the point, with a minus that is one. */
export function formatNumber(value: number): string {
  return value.toFixed(3).replace('-', '−')
}

/** "12.3 steps/s", "6.2 s/step". */
export function formatRate(secondsPerStep: number): string {
  return secondsPerStep < 1 ? `${(1 / secondsPerStep).toFixed(1)} steps/s` : `${secondsPerStep.toFixed(1)} s/step`
}

const barWidth = 24
/** Of a terminal that does not say how wide it is. */
const usualColumns = 80
const options: Options = {
  format: (_, { progress }, { text }: { text: string }) => {
    const filled = Math.round(progress * barWidth)
    return `${'█'.repeat(filled)}${dim('░'.repeat(barWidth - filled))} ${text}`
  },
  hideCursor: true,
  // Lines may have been written where the bar was.
  forceRedraw: true,
  // Signals are handled elsewhere.
  gracefulExit: false,
}

class TerminalProgress implements Progress {
  #bar: SingleBar | undefined

  /** Above the bar, where there is one. */
  say(line: string, aside?: string): void {
    process.stderr.write(`\r\x1b[K${lineOf(line, aside)}\n`)
  }

  doing(what: string): void {
    this.end()
    process.stderr.write(`\r\x1b[K${dim(`${printable(what)} …`)}`)
  }

  advance(value: number, total: number, details: readonly string[]): void {
    const text = fit(details.map(printable), (process.stderr.columns || usualColumns) - barWidth - 2)
    if (this.#bar !== undefined) {
      this.#bar.update(value, { text })
      return
    }
    process.stderr.write('\r\x1b[K')
    this.#bar = new SingleBar(options)
    this.#bar.start(total, value, { text })
  }

  end(): void {
    if (this.#bar === undefined) process.stderr.write('\r\x1b[K')
    this.#bar?.stop()
    this.#bar = undefined
  }
}

/** About ten lines for all the work. */
class PlainProgress implements Progress {
  #tenth = 0

  say(line: string, aside?: string): void {
    process.stderr.write(`${lineOf(line, aside)}\n`)
  }

  doing(what: string): void {
    this.say(what)
  }

  advance(value: number, total: number, details: readonly string[]): void {
    const tenth = Math.floor((10 * value) / total)
    if (tenth > this.#tenth) this.say(details.join('  '))
    this.#tenth = tenth
  }

  end(): void {
    this.#tenth = 0
  }
}

function lineOf(line: string, aside: string | undefined): string {
  return aside === undefined ? printable(line) : `${printable(line)} ${dim(printable(aside))}`
}

function fit(parts: readonly string[], width: number): string {
  let text = ''
  for (const part of parts) {
    const longer = text === '' ? part : `${text}  ${part}`
    if (longer.length > width) break
    text = longer
  }
  return text
}

function ignore(): void {
  // Nothing is shown.
}
