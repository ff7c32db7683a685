import { type Command, Option } from 'commander'
import { baseline } from '../../migrations/baseline.ts'
import { formatDifferences } from '../differences.ts'
import { FailedCheck, print } from '../terminal.ts'
import {
  comparisonOptions,
  migrationCommand,
  type SharedOptions,
  withMigrations,
} from './shared.ts'

interface BaselineCommandOptions extends SharedOptions {
  to?: string
  scratchUrl?: string
  ignore?: string[]
  legacyTable?: string
  legacyFiles?: string
}

export function baselineCommand(): Command {
  const command = migrationCommand(
    'baseline',
    'adopt a database that has its tables already: record migrations without running them',
  )
    .option('--to <migration>', 'the last one that the database has (default: the last of all)')
    .addOption(
      new Option(
        '--legacy-table <schema.table>',
        'import the history of the version table of the system before',
      ),
    )
    .addOption(
      new Option(
        '--legacy-files <path>',
        'import a history from a folder of SQL files, or a list of names',
      ).conflicts('legacyTable'),
    )
    .action(async (options: BaselineCommandOptions) => {
      const { to, scratchUrl, ignore = [], legacyTable, legacyFiles, json = false } = options
      await withMigrations(options, async ({ db, sources, url, ui }) => {
        ui.doing('comparing the database with what the migrations make')
        const legacy = legacyTable
          ? { table: legacyTable }
          : legacyFiles
            ? { files: legacyFiles }
            : undefined
        const result = await baseline(db, {
          sources,
          ignore,
          ...(to === undefined ? {} : { to }),
          ...(url === undefined ? {} : { url }),
          ...(scratchUrl === undefined ? {} : { scratchUrl }),
          ...(legacy ? { legacy } : {}),
        })
        const { recorded, imported, verification } = result
        for (const name of imported) ui.done(`imported ${name}`)
        for (const name of recorded) ui.done(`recorded ${name}`)
        if (json) print(JSON.stringify(result))
        else if (verification.equal)
          print(`${recorded.length} recorded, ${imported.length} imported`)
        else
          print(
            `nothing was recorded: the database is not what the migrations make\n\n${formatDifferences(verification)}`,
          )
        if (!verification.equal) throw new FailedCheck()
      })
    })
  for (const option of comparisonOptions()) command.addOption(option)
  return command
}
