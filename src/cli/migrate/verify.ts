import { type Command, Option } from 'commander'
import { verify } from '../../migrations/catalog/verify.ts'
import { declaredBuild } from '../../migrations/declared.ts'
import { formatDifferences } from '../differences.ts'
import { FailedCheck, print } from '../terminal.ts'
import {
  comparisonOptions,
  migrationCommand,
  type SharedOptions,
  withMigrations,
} from './shared.ts'

interface VerifyCommandOptions extends SharedOptions {
  against: 'typescript' | 'migrations'
  scratchUrl?: string
  ignore?: string[]
  schemas?: 'all' | 'declared'
}

export function verifyCommand(): Command {
  const command = migrationCommand(
    'verify',
    'compare the database, object by object, with what TypeScript declares',
  )
    .addOption(
      new Option(
        '--against <what>',
        'build what is declared from the schema files, or from the migrations',
      )
        .choices(['typescript', 'migrations'])
        .default('typescript'),
    )
    .addOption(
      new Option(
        '--schemas <which>',
        'compare all of the database, or the schemas in which something is declared',
      ).choices(['all', 'declared']),
    )
    .action(async (options: VerifyCommandOptions) => {
      const { against, scratchUrl, ignore = [], json = false } = options
      await withMigrations(options, async ({ db, sources, config, url, ui }) => {
        ui.doing('building what is declared in a scratch database')
        const result = await verify(db, {
          build: await declaredBuild(against, { sources, config }),
          ignore,
          // Without a project, nobody has declared what else is in the database.
          schemas: options.schemas ?? (config ? 'all' : 'declared'),
          ...(url === undefined ? {} : { url }),
          ...(scratchUrl === undefined ? {} : { scratchUrl }),
        })
        print(json ? JSON.stringify(result) : formatDifferences(result))
        if (!result.equal) throw new FailedCheck()
      })
    })
  for (const option of comparisonOptions()) command.addOption(option)
  return command
}
