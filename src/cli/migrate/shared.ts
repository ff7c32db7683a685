import { Command, InvalidArgumentError, Option } from 'commander'
import type { Connection } from '../../database.ts'
import type { MigrationSource } from '../../migrations/folder.ts'
import { loadConfig, type ProjectConfig, sourcesOf } from '../../migrations/project.ts'
import type { PlannedMigration } from '../../migrations/script.ts'
import type { MigrationProgress } from '../../migrations/turns.ts'
import { type TargetOptions, targetOptions, withDatabase } from '../connection.ts'
import { type Progress, print, progress } from '../terminal.ts'

export interface SharedOptions extends TargetOptions {
  config?: string
  json?: boolean
}

/** A command with the options that all of them have. */
export function migrationCommand(name: string, description: string): Command {
  const command = new Command(name).description(description)
  for (const option of targetOptions()) command.addOption(option)
  return command.addOption(configOption()).option('--json', 'print JSON')
}

export const configOption = () =>
  new Option(
    '--config <file>',
    'the project’s drizzle config (default: drizzle.config.ts, if there is one)',
  )

export const list = (value: string, before: string[] = []): string[] => [...before, value]

/** The options of what compares the database with another one. */
export const comparisonOptions = () => [
  new Option(
    '--scratch-url <postgres-url>',
    'where to make the database to compare with (default: beside this one)',
  ),
  new Option(
    '--ignore <pattern>',
    'a schema, or a kind and a name such as "index app.tmp_*", not to compare; may be repeated',
  ).argParser(list),
]

const milliseconds = (text: string): number => {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1)
    throw new InvalidArgumentError('write whole milliseconds.')
  return value
}

export interface RunCommandOptions extends SharedOptions {
  accept?: string[]
  lockTimeout?: number
  maxWait?: number
}

/** The options of what changes the database. */
export const runOptions = () => [
  new Option(
    '--accept <migration>',
    'go on though this one was edited, renamed, removed or merged late; may be repeated',
  ).argParser(list),
  new Option(
    '--lock-timeout <ms>',
    'how long a statement waits for a table before it makes way (default: 750)',
  ).argParser(milliseconds),
  new Option(
    '--max-wait <ms>',
    'how long one migration goes on trying (default: 600000)',
  ).argParser(milliseconds),
]

export interface MigrationContext {
  db: Connection
  sources: readonly MigrationSource[]
  config: ProjectConfig | undefined
  /** Of the server; undefined for the embedded database. */
  url: string | undefined
  ui: Progress
}

/** Opens the database that the options, or else the project's config, name. */
export async function withMigrations<T>(
  options: SharedOptions,
  work: (context: MigrationContext) => Promise<T>,
): Promise<T> {
  const config = await configOf(options)
  const url = options.data === undefined ? (options.url ?? config?.url) : undefined
  const ui = progress(options.json === true)
  const target = {
    ...(options.data === undefined ? {} : { data: options.data }),
    ...(url ? { url } : {}),
  }
  return withDatabase(target, ui, (db) => work({ db, sources: sourcesOf(config), config, url, ui }))
}

/** The config file that the options name, or that there is. */
export const configOf = ({ config }: Pick<SharedOptions, 'config'>) =>
  loadConfig({ cwd: process.cwd(), ...(config === undefined ? {} : { config }) })

export const runOf = ({ accept = [], lockTimeout, maxWait }: RunCommandOptions, ui: Progress) => ({
  accept,
  ...(lockTimeout === undefined ? {} : { lockTimeoutMs: lockTimeout }),
  ...(maxWait === undefined ? {} : { maxWaitMs: maxWait }),
  onProgress: ({ name, step, steps, doing }: MigrationProgress) =>
    ui.doing(`migration ${step} of ${steps}: ${name}${doing ? `, ${doing}` : ''}`),
})

interface Loss {
  name: string
  rows: number
}

/** What a dry run prints: SQL that psql takes, with what would be lost in comments. */
export function printPlan(
  { migrations, losses = [] }: { migrations: readonly PlannedMigration[]; losses?: Loss[] },
  json: boolean,
): void {
  if (json) {
    print(JSON.stringify({ dryRun: true, migrations, losses }))
    return
  }
  for (const { name, rows } of losses) {
    print(`-- loses ${name}: ${rows.toLocaleString('en')} rows`)
  }
  if (migrations.length === 0) print('-- nothing to do')
  else
    for (const { name, direction, script } of migrations)
      print(`-- ${name}, ${direction}\n${script}\n`)
}
