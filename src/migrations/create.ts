import { writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { checkText } from '../validation.ts'
import { readState, writeObjects } from './generate/generate.ts'
import { writeSnapshot } from './generate/kit.ts'
import { loadProject } from './project.ts'

export interface CreateMigrationOptions {
  /** What it is called, behind the time. */
  name: string
  /** `sql`: statements alone. `ts`: a data migration behind them. */
  kind?: 'sql' | 'ts'
  /** The config file; otherwise the drizzle.config of the working directory. */
  config?: string
  /** What paths are relative to. */
  cwd: string
}

// The line itself would divide the file.
const SQL = `-- Between two statements stands a line of its own, as drizzle-kit writes it: an arrow and "statement-breakpoint".
-- "-- plinth: concurrently" above a CREATE INDEX builds it beside the writers; "-- plinth: step" begins a new transaction.
`

const DOWN = `-- The rows stay as they are, unless migration.ts has a \`down\`.
`

// drizzle-kit would record it as applied, and the rows would stay as they are.
const GUARD = `do $$ begin
  if coalesce(current_setting('plinth.migrating', true), '') <> 'on' then
    raise exception 'this migration goes on in TypeScript, in its migration.ts'
      using hint = 'Run: npx plinth migrate up';
  end if;
end $$;
`

const MODULE = `import { sql } from 'drizzle-orm'
import { defineDataMigration } from 'plinth/migrations'

export default defineDataMigration<{ id: string; title: string }>({
  table: 'app.posts',
  // The rows that are still to be migrated. None may be left in the end.
  pending: sql\`slug is null\`,
  columns: ['id', 'title'],
  batchSize: 1_000,
  pauseMs: 0,
  // One batch, in a transaction of its own. The rows are locked.
  async migrate(tx, rows) {
    for (const { id, title } of rows) {
      const slug = title.toLowerCase().replaceAll(' ', '-')
      await tx.execute(sql\`update app.posts set slug = \${slug} where id = \${id}\`)
    }
  },
})
`

/**
 * Makes a migration to be written by hand, with the snapshots of the one before it.
 *
 * @returns the path of the file to write.
 * @throws {ValidationError} for a name of other than letters, digits, _ and -.
 * @throws {MigrationError} for a project that cannot be loaded. @throws {MissingPackageError} without drizzle-kit.
 */
export async function createMigration({
  name,
  kind = 'sql',
  config,
  cwd,
}: CreateMigrationOptions): Promise<string> {
  checkText('name', name)
  const { files, source } = await loadProject({ cwd, ...(config === undefined ? {} : { config }) })
  const out = source.folder
  const { objects } = await readState(out)
  const path = await writeSnapshot({ schema: files, out, name, renames: [], isCustom: true })
  const folder = dirname(path)
  await writeObjects(folder, objects)
  await writeFile(path, kind === 'ts' ? GUARD : SQL)
  // Without a down.sql it cannot be reverted, and that is said.
  if (kind === 'sql') return path
  await writeFile(join(folder, 'down.sql'), DOWN)
  await writeFile(join(folder, 'migration.ts'), MODULE)
  return join(folder, 'migration.ts')
}
