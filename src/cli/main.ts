#!/usr/bin/env node
import { readFile } from 'node:fs/promises'
import { Command, CommanderError } from 'commander'
import { demoCommand } from './demo.ts'
import { generateCommand } from './generate.ts'
import { migrateCommand } from './migrate.ts'
import { partitionsCommand } from './partitions.ts'
import { exitCodeOf, tell } from './terminal.ts'

const { version } = JSON.parse(
  await readFile(new URL('../../package.json', import.meta.url), 'utf8'),
) as { version: string }

/** Hands the settings of a command down to all below it. */
function inherit(command: Command, parent: Command): Command {
  command.copyInheritedSettings(parent)
  for (const one of command.commands) inherit(one, command)
  return command
}

const program = new Command('plinth')
  .description('The database layer of an AI product: on PGlite without a server, and on Postgres.')
  .version(version)
  .exitOverride()
for (const command of [demoCommand(), generateCommand(), migrateCommand(), partitionsCommand()]) {
  program.addCommand(inherit(command, program))
}

try {
  await program.parseAsync()
} catch (error) {
  // Commander has said already what is wrong.
  if (!(error instanceof CommanderError)) tell(error)
  process.exitCode = exitCodeOf(error)
}
