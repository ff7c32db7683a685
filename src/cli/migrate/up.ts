import type { Command } from 'commander'
import { migrate } from '../../migrations/apply.ts'
import { planMigrate } from '../../migrations/script.ts'
import { print } from '../terminal.ts'
import {
  migrationCommand,
  printPlan,
  type RunCommandOptions,
  runOf,
  runOptions,
  withMigrations,
} from './shared.ts'

interface UpOptions extends RunCommandOptions {
  to?: string
  dryRun?: boolean
}

export function upCommand(): Command {
  const command = migrationCommand('up', 'apply the migrations that the database does not have yet')
    .option(
      '--to <migration>',
      'the last one to apply: its name, the beginning of it, or its number',
    )
    .option('--dry-run', 'print the SQL that would run, and change nothing')
    .action(async (options: UpOptions) => {
      const { to, dryRun = false, json = false } = options
      await withMigrations(options, async ({ db, sources, ui }) => {
        const all = { sources, ...runOf(options, ui), ...(to === undefined ? {} : { to }) }
        if (dryRun) return printPlan({ migrations: await planMigrate(db, all) }, json)
        const applied = await migrate(db, all)
        for (const name of applied) ui.done(`applied ${name}`)
        if (json) print(JSON.stringify({ applied }))
        else print(applied.length > 0 ? `${applied.length} applied` : 'nothing to apply')
      })
    })
  for (const option of runOptions()) command.addOption(option)
  return command
}
