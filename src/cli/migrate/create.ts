import { relative } from 'node:path'
import { Command, Option } from 'commander'
import { createMigration } from '../../migrations/create.ts'
import { print } from '../terminal.ts'
import { configOption } from './shared.ts'

interface CreateOptions {
  config?: string
  sql?: boolean
  ts?: boolean
  json?: boolean
}

export function createCommand(): Command {
  return new Command('create')
    .description('make a migration to be written by hand')
    .argument('<name>', 'what to call it')
    .option('--sql', 'of SQL alone (the default)')
    .addOption(new Option('--ts', 'of rows, in TypeScript, batch by batch').conflicts('sql'))
    .addOption(configOption())
    .option('--json', 'print JSON')
    .action(async (name: string, { config, ts = false, json = false }: CreateOptions) => {
      const cwd = process.cwd()
      const kind = ts ? 'ts' : 'sql'
      const path = await createMigration({
        name,
        kind,
        cwd,
        ...(config === undefined ? {} : { config }),
      })
      const file = relative(cwd, path)
      print(
        json
          ? JSON.stringify({ path: file })
          : `write it into ${file}${kind === 'sql' ? ', and what undoes it into a down.sql beside it' : ''}`,
      )
    })
}
