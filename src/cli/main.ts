// The command `flexit`: its subcommands, and the one place where errors become words and exit codes.
// Exit codes: 0 done, 1 failed, 2 the request was wrong, 130 stopped by a signal (128 + SIGINT).

import { readFileSync } from 'node:fs'
import { Command } from 'commander'
import { cacheCommand } from './cache.js'
import { demoCommand } from './demo.js'
import { editCommand } from './edit.js'
import { reportError } from './errors.js'
import { modelsCommand } from './models.js'

/** Run the program with `process.argv`. Never throws: sets `process.exitCode`. */
export async function main(argv: readonly string[]): Promise<void> {
  // A reader that went away (`flexit … | head -1`) is no error; what else a command does about it is its own affair.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', ignoreClosedPipe)
  try {
    await program().parseAsync(argv)
  } catch (error) {
    process.exitCode = reportError(error, { json: argv.includes('--json') })
  }
}

function program(): Command {
  const { version, description } = JSON.parse(
    readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'),
  ) as { version: string; description: string }
  const root = new Command('flexit')
    .description(description)
    .version(version)
    .addHelpText('after', '\nBegin with `flexit demo`: it edits a picture in seconds and needs no download.')
  for (const command of [editCommand(), demoCommand(), modelsCommand(), cacheCommand()]) root.addCommand(command)
  for (const command of everyCommand(root)) {
    command.exitOverride().configureOutput({ outputError: () => undefined })
  }
  return root
}

function everyCommand(command: Command): Command[] {
  return [command, ...command.commands.flatMap(everyCommand)]
}

function ignoreClosedPipe(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPIPE') throw error
}
