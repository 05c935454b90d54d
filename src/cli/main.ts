// The command `flexit`: its subcommands, and the one place where errors become words and exit codes.
// Exit codes: 0 done, 1 failed, 2 the request was wrong, 130 stopped by a signal (128 + SIGINT).

import { readFileSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import { Command, type CommanderError } from 'commander'
import { FlexitError, fileError, invalidArgument } from '../engine/errors.js'
import { reportError } from './errors.js'

/** Loaded when they are asked for: each brings libraries of its own. In the order of the help. */
const commands: Readonly<Record<string, () => Promise<Command>>> = {
  edit: async () => (await import('./edit.js')).editCommand(),
  batch: async () => (await import('./batch.js')).batchCommand(),
  demo: async () => (await import('./demo.js')).demoCommand(),
  models: async () => (await import('./models.js')).modelsCommand(),
  cache: async () => (await import('./cache.js')).cacheCommand(),
  serve: async () => (await import('./serve.js')).serveCommand(),
  eval: async () => (await import('./eval.js')).evalCommand(),
  sweep: async () => (await import('./sweep.js')).sweepCommand(),
  health: async () => (await import('./health.js')).healthCommand(),
  bench: async () => (await import('./bench.js')).benchCommand(),
}

/** Run the program with `process.argv`. Never throws: sets `process.exitCode`. */
export async function main(argv: readonly string[]): Promise<void> {
  // A reader that went away (`flexit … | head -1`) is no error; what else a command does about it is its own affair. Of a
  // full disk under stderr nobody can be told.
  let unwritable: Error | undefined
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') unwritable ??= error
  })
  process.stderr.on('error', () => undefined)
  const report = (error: unknown) => (process.exitCode = reportError(error, { json: argv.includes('--json') }))
  let failure: unknown
  try {
    await (await program(argv[2])).parseAsync(argv)
  } catch (error) {
    failure = error
  }
  // What could not be written is told a turn later.
  await setImmediate()
  const stopped = failure instanceof FlexitError && failure.code === 'CANCELLED'
  if (unwritable !== undefined && (failure === undefined || stopped))
    report(fileError(unwritable, 'to stdout', 'write'))
  else if (failure !== undefined) report(failure)
}

/** With the command `wanted` alone, or with all where there is none of that name: for help, and for what is misspelt. */
async function program(wanted: string | undefined): Promise<Command> {
  const { version, description } = JSON.parse(
    readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'),
  ) as { version: string; description: string }
  const root = new Command('flexit')
    .description(description)
    .version(version)
    .addHelpText('after', '\nBegin with `flexit demo`: it edits a picture in seconds and needs no download.')
  const load = wanted !== undefined && Object.hasOwn(commands, wanted) ? [commands[wanted]!] : Object.values(commands)
  for (const command of await Promise.all(load.map((make) => make()))) root.addCommand(command)
  for (const command of everyCommand(root)) {
    command.configureOutput({ outputError: () => undefined }).exitOverride((error) => {
      throw usageError(error, command)
    })
  }
  return root
}

/** What commander objects to, as one of our errors; help and version are no errors, and pass. */
function usageError(error: CommanderError, command: Command): Error {
  if (error.exitCode === 0 || error.code === 'commander.help') return error
  const cure = `See \`npx ${fullName(command)} --help\`.`
  return invalidArgument('command line', error.message.replace(/^error: /, ''), cure)
}

function fullName(command: Command): string {
  return command.parent === null ? command.name() : `${fullName(command.parent)} ${command.name()}`
}

function everyCommand(command: Command): Command[] {
  return [command, ...command.commands.flatMap(everyCommand)]
}
