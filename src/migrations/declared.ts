import { sql } from 'drizzle-orm'
import type { Database } from '../database.ts'
import { migrate } from './apply.ts'
import { type MigrationSource, plinthSource } from './folder.ts'
import { stateOfExports } from './generate/kit.ts'
import { EMPTY, planMigration } from './generate/plan.ts'
import { loadProject, type ProjectConfig } from './project.ts'

export interface Declaration {
  sources: readonly MigrationSource[]
  config: ProjectConfig | undefined
}

/**
 * How to build what is declared in an empty database: from the schema files alone, or by the migrations. plinth's own
 * tables, for a project that has others, come from its migrations, which make the same.
 *
 * @throws {MigrationError} for schema files that cannot be loaded. @throws {MissingPackageError} without drizzle-kit.
 */
export async function declaredBuild(
  against: 'typescript' | 'migrations',
  { sources, config }: Declaration,
): Promise<(scratch: Database) => Promise<void>> {
  if (against === 'migrations' || !config) {
    return async (scratch) => {
      await migrate(scratch, { sources })
    }
  }
  const { exports, objects } = await loadProject({ cwd: config.cwd, config: config.path })
  const { up } = await planMigration(EMPTY, { ddl: await stateOfExports(exports), objects })
  const isOwn = config.source === plinthSource
  return async (scratch) => {
    if (!isOwn) await migrate(scratch)
    await scratch.transaction(async (tx) => {
      await tx.execute(sql.raw(`set local search_path = '${isOwn ? '' : 'public'}'`))
      for (const statement of up) await tx.execute(sql.raw(statement))
    })
  }
}
