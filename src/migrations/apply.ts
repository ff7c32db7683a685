import { fileURLToPath } from 'node:url'
import { sql } from 'drizzle-orm'
import { readMigrationFiles } from 'drizzle-orm/migrator'
import { migrate as applyMigrations } from 'drizzle-orm/pg-core/async/session'
import { type Database, mapErrors, rowsOf } from '../database.ts'

/** Where the package's own migrations are, whatever the working directory is. */
export const migrationsFolder = fileURLToPath(new URL('../../drizzle', import.meta.url))

/** How long another migration, or a lock on a table, is waited for. */
const LOCK_TIMEOUT_MS = 600_000

export interface MigrationProgress {
  name: string
  /** From 1. */
  step: number
  /** How many are to be applied in this run. */
  steps: number
}

export interface MigrateOptions {
  /** Called before each migration that is applied. */
  onProgress?: (progress: MigrationProgress) => void
}

/**
 * Applies plinth's migrations that the database does not have yet, all or none. Two callers at once take
 * turns. They are recorded in drizzle's own table, as `drizzle-kit migrate` records them.
 *
 * Needs the rights of an owner: see docs/production.md.
 *
 * @returns the names of those applied, oldest first; none if the database is up to date.
 * @throws {ForbiddenError} without the rights; {LockError} after ten minutes of waiting
 * for another one.
 */
export function migrate(db: Database, { onProgress }: MigrateOptions = {}): Promise<string[]> {
  const config = { migrationsFolder }
  return mapErrors(() =>
    db.transaction(async (tx) => {
      // A migration takes as long as it takes, and so does the one that is under way elsewhere.
      await tx.execute(sql`set local statement_timeout = 0`)
      await tx.execute(sql.raw(`set local lock_timeout = ${LOCK_TIMEOUT_MS}`))
      await tx.execute(sql`select pg_advisory_xact_lock(hashtextextended('plinth.migrate', 0))`)
      // A migration that leaves a name unqualified fails here, and not at somebody's search_path.
      await tx.execute(sql`set local search_path = ''`)
      await applyMigrations([], tx, config)
      const applied = await rowsOf<{ name: string }>(
        tx,
        sql`select name from drizzle.__drizzle_migrations`,
      )
      const known = new Set(applied.map(({ name }) => name))
      const due = readMigrationFiles(config).filter(({ name }) => !known.has(name))
      for (const [at, migration] of due.entries()) {
        onProgress?.({ name: migration.name, step: at + 1, steps: due.length })
        await applyMigrations([migration], tx, config)
      }
      return due.map(({ name }) => name)
    }),
  )
}
