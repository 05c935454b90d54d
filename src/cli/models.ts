// `flexit models`: the packs of networks that edits are made with.
// Each subcommand has a file of its own.

import { Command } from 'commander'
import { importCommand } from './models/import.js'
import { listCommand } from './models/list.js'
import { pullCommand } from './models/pull.js'
import { synthCommand } from './models/synth.js'
import { verifyCommand } from './models/verify.js'

const notes = `
A pack is a folder with a pack.json, named by its path (./FOLDER) or, where it ships or was pulled, by its name.
Packs are kept in $FLEXIT_HOME/packs (default: ~/.local/share/flexit/packs).`

export function modelsCommand(): Command {
  const command = new Command('models').summary('list, download, check and make packs of networks')
  command.description('List, download, check and make packs of networks.').addHelpText('after', notes)
  const commands = [listCommand(), pullCommand(), verifyCommand(), importCommand(), synthCommand()]
  for (const subcommand of commands) command.addCommand(subcommand)
  return command
}
