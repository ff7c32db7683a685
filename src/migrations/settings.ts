import { sql } from 'drizzle-orm'
import { type Database, only, rowsOf } from '../database.ts'
import type { MigrationSource } from './folder.ts'

/** The settings of a step, and of the statements that `--dry-run` prints. */
export const settingsOf = (
  lockTimeoutMs: number,
  { searchPath }: Pick<MigrationSource, 'searchPath'>,
): Readonly<Record<string, string>> => ({
  ...(searchPath === undefined ? {} : { search_path: searchPath }),
  // It takes as long as it takes.
  statement_timeout: '0',
  idle_in_transaction_session_timeout: '0',
  lock_timeout: `${lockTimeoutMs}ms`,
  // By which a data migration knows that it is not drizzle-kit that runs it.
  'plinth.migrating': 'on',
})

/** Makes settings for a transaction, or for the rest of a session. */
export async function applySettings(
  db: Database,
  settings: Readonly<Record<string, string>>,
  isLocal: boolean,
): Promise<void> {
  const calls = Object.entries(settings).map(
    ([name, value]) => sql`set_config(${name}, ${value}, ${isLocal})`,
  )
  await rowsOf(db, sql`select ${sql.join(calls, sql`, `)}`)
}

/** The same settings as they are now. */
export async function settingsBefore(
  tx: Database,
  settings: Readonly<Record<string, string>>,
): Promise<Record<string, string>> {
  const calls = Object.keys(settings).map(
    (name) => sql`coalesce(current_setting(${name}, true), '') as ${sql.identifier(name)}`,
  )
  return only(await rowsOf<Record<string, string>>(tx, sql`select ${sql.join(calls, sql`, `)}`))
}
