import { Command } from 'commander'
import { migrate } from '../migrations/apply.ts'
import { type TargetOptions, targetOptions, withDatabase } from './connection.ts'
import { print, progress } from './terminal.ts'

interface MigrateCommandOptions extends TargetOptions {
  json?: boolean
}

export function migrateCommand(): Command {
  const command = new Command('migrate')
    .description('apply plinth’s migrations that the database does not have yet')
    .option('--json', 'print the names of the applied migrations as JSON')
    .action(async (options: MigrateCommandOptions) => {
      const ui = progress(options.json === true)
      const applied = await withDatabase(options, ui, (db) =>
        migrate(db, {
          onProgress: ({ name, step, steps }) => ui.doing(`migration ${step} of ${steps}: ${name}`),
        }),
      )
      for (const name of applied) ui.done(`applied ${name}`)
      if (options.json) print(JSON.stringify({ applied }))
      else print(applied.length > 0 ? `${applied.length} applied` : 'nothing to apply')
    })
  for (const option of targetOptions()) command.addOption(option)
  return command
}
