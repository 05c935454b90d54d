// `flexit bench`: what the server promises, measured; and a load on any server.
// The work is done in bench/, which is loaded only when it is wanted.

import { Command } from 'commander'
import { type BenchCase, benchCases } from '../../bench/cases.js'
import type { Figure } from '../../bench/kit/report.js'
import { FlexitError, invalidArgument } from '../engine/errors.js'
import { loadCommand } from './bench/load.js'
import { endBy, interruptible } from './interruption.js'
import { createProgress } from './progress.js'

interface CaseOptions {
  readonly json?: boolean
  readonly quiet?: boolean
}

const notes = `
Cases, with the seconds that they take on two cores:
${benchCases.map(({ name, seconds, shows }) => `  ${name.padEnd(14)}${String(seconds).padStart(4)} s  ${shows}`).join('\n')}

Each starts what it needs, with the embedded pack. A busy machine shows in the figures.

Examples:
  flexit bench cancel overload
  flexit bench all --json
  flexit bench load --server localhost:50051 --sweep

Exit codes: 0 done, 1 a figure is not what is asked, 2 a wrong request, 130 stopped.`

export function benchCommand(): Command {
  return new Command('bench')
    .summary('measure what the server promises, or put a load on a server')
    .description('Measure what the server promises, case by case; or put a load on a server, with `flexit bench load`.')
    .argument('[cases...]', 'which to run, one after the other; all: every one')
    .option('--json', 'a line of JSON for every figure')
    .option('--quiet', 'no progress')
    .addCommand(loadCommand())
    .addHelpText('after', notes)
    .action((names: readonly string[], options: CaseOptions, command: Command) => {
      if (names.length === 0) command.help({ error: true })
      const cases = chosen(names)
      return interruptible((signal) => runCases(cases, options, signal))
    })
}

function chosen(names: readonly string[]): readonly BenchCase[] {
  if (names.includes('all')) return benchCases
  return names.map((wanted) => {
    const found = benchCases.find(({ name }) => name === wanted)
    if (found !== undefined) return found
    const cure = `Use all, or some of ${benchCases.map(({ name }) => name).join(', ')}.`
    throw invalidArgument('cases', `there is no case "${wanted}"`, cure)
  })
}

async function runCases(cases: readonly BenchCase[], { json, quiet = false }: CaseOptions, signal: AbortSignal) {
  const { Report, formatFigure } = await import('../../bench/kit/report.js')
  const progress = createProgress({ quiet })
  // A case that is stopped in its middle has nothing to tell, and its servers end with this process.
  signal.addEventListener('abort', () => endBy('SIGINT'))
  const unmet: string[] = []
  for (const { name, shows, load } of cases) {
    const print = (what: object, words: string) => {
      progress.end()
      process.stdout.write(`${json === true ? JSON.stringify({ case: name, ...what }) : words}\n`)
    }
    progress.say(`${name}: ${shows}`)
    const report = new Report({
      figure: (figure: Figure) => print(figure, `  ${formatFigure(figure)}`),
      note: (note) => print({ note }, `  ${note}`),
    })
    const { run } = await load()
    await run(report, progress)
    if (report.failures > 0) unmet.push(name)
  }
  if (unmet.length === 0) return
  throw new FlexitError({
    code: 'FAILED_PRECONDITION',
    message: `not everything that is asked holds: ${unmet.join(', ')}`,
    cure: 'See the figures above; on a busy machine, run the case again when it is quiet.',
  })
}
