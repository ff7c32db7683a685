import { type Command, Option } from 'commander'
import { audit, type Severity } from '../../migrations/advice/audit.ts'
import { plinthSource, readMigrations } from '../../migrations/folder.ts'
import { sourcesOf } from '../../migrations/project.ts'
import { migrationStatus } from '../../migrations/status.ts'
import { formatAudit } from '../audit-report.ts'
import { FailedCheck, print } from '../terminal.ts'
import { configOf, list, migrationCommand, type SharedOptions, withMigrations } from './shared.ts'

interface AuditOptions extends SharedOptions {
  folder?: string[]
  database?: boolean
  failOn: 'error' | 'warning' | 'never'
}

const FAILING: Record<AuditOptions['failOn'], readonly Severity[]> = {
  error: ['error'],
  warning: ['error', 'warning'],
  never: [],
}

export function auditCommand(): Command {
  return migrationCommand(
    'audit',
    'look through whole folders of migrations for what is wrong or risky; prints Markdown',
  )
    .option(
      '--folder <path>',
      'another folder of SQL files, of any system, in place of the project’s; may be repeated',
      list,
    )
    .option('--database', 'look also at what the database has applied')
    .addOption(
      new Option('--fail-on <severity>', 'what to exit with 1 for')
        .choices(['error', 'warning', 'never'])
        .default('error'),
    )
    .action(async (options: AuditOptions) => {
      const { folder: folders, database = false, failOn, json = false } = options
      const config = await configOf(options)
      const where = folders ? { folders } : { sources: sourcesOf(config) }
      const applied = database ? await appliedOf(options) : undefined
      const found = await audit({ ...where, ...(applied ? { applied } : {}) })
      // What a project can mend is in its own migrations; plinth's are read for what they make.
      const plinths =
        config?.source === plinthSource || folders ? [] : await readMigrations([plinthSource])
      const findings = config
        ? found.filter(({ migration }) => !plinths.some(({ name }) => name === migration))
        : found
      print(formatAudit(findings, json ? 'json' : 'markdown'))
      if (findings.some(({ severity }) => FAILING[failOn].includes(severity)))
        throw new FailedCheck()
    })
}

const appliedOf = (options: SharedOptions) =>
  withMigrations(options, async ({ db, sources }) => {
    const statuses = await migrationStatus(db, { sources })
    return statuses.flatMap(({ name, checksum }) =>
      checksum === undefined ? [] : [{ name, checksum }],
    )
  })
