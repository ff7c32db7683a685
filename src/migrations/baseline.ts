import { sql } from 'drizzle-orm'
import { type Database, only, rowsOf } from '../database.ts'
import { MigrationError } from '../errors.ts'
import { migrate } from './apply.ts'
import type { ScratchOptions } from './catalog/scratch.ts'
import { type Verification, verify } from './catalog/verify.ts'
import { findMigration, plinthSource } from './folder.ts'
import * as ledger from './ledger.ts'
import { type LegacyMigration, readLegacyFiles, readLegacyTable } from './legacy.ts'
import { type MigrationStatus, type MigrationsOptions, readStatuses } from './status.ts'
import { inTurn, type RunOptions, settle } from './turns.ts'

export interface BaselineOptions extends MigrationsOptions, ScratchOptions, RunOptions {
  /** The last migration that the database has already: its name, the beginning of it, or its place in the list. */
  to?: string
  /** What is not compared, as in `verify`. */
  ignore?: readonly string[]
  /** The history of the system before: its version table, or a list of files. */
  legacy?: { table: string } | { files: string }
}

export interface Baseline {
  /** The names that are recorded as applied; none if the database differs. */
  recorded: string[]
  /** The names that the system before had applied. */
  imported: string[]
  /** The comparison with a scratch database in which the migrations were run. */
  verification: Verification
}

/**
 * Adopts a database that has its tables already: records migrations as applied, without running anything. It must be
 * what the migrations make: if `verification` shows a difference, nothing is recorded.
 *
 * @throws {MigrationError} if none is left to record, or plinth's own are not applied to the database of a project.
 * @throws {ScratchError} where no scratch database can be made.
 */
export async function baseline(db: Database, options: BaselineOptions = {}): Promise<Baseline> {
  const { sources = [plinthSource], to, ignore = [], legacy } = options
  const { migrations, statuses } = await readStatuses(db, sources)
  const last = to === undefined ? migrations.at(-1) : findMigration(migrations, to)
  if (!last) throw new MigrationError('there is no migration to record')
  const upTo = migrations.slice(0, migrations.indexOf(last) + 1)
  // One that failed and left nothing is as good as new: `up` was tried before.
  const isOpen = ({ state, step, isStarted }: MigrationStatus) =>
    state === 'pending' || state === 'late' || (state === 'failed' && step === 0 && !isStarted)
  const open = new Set(statuses.filter(isOpen).map(({ name }) => name))
  const due = upTo.filter(({ name }) => open.has(name))
  if (due.length === 0)
    throw new MigrationError(`${last.name} is recorded already; nothing is left`)

  const own = due.findLast(({ source }) => source.name === plinthSource.name)
  if (own && sources.length > 1) {
    throw new MigrationError(
      `the database has nothing of plinth's yet: first run plinth migrate up --to ${own.name}`,
    )
  }

  const history = legacy ? await readHistory(db, legacy) : []
  const verification = await verify(db, {
    ...options,
    schemas: 'declared',
    ignore: [
      ...ignore,
      ...(legacy && 'table' in legacy ? [await keyOfTable(db, legacy.table)] : []),
    ],
    build: async (scratch) => {
      await migrate(scratch, { sources, to: last.name })
    },
  })
  if (!verification.equal) return { recorded: [], imported: [], verification }

  await inTurn(db, settle(options, plinthSource), async (tx) => {
    await ledger.ensureLedger(tx, sources)
    const { user } = only(
      await rowsOf<{ user: string }>(tx, sql`select session_user::text as user`),
    )
    for (const migration of due) {
      const row = { ...ledger.appliedRow(migration), appliedAt: new Date(), appliedBy: user }
      await ledger.recordKnown(tx, row)
      await ledger.recordInDrizzle(tx, migration)
    }
    for (const one of history) {
      await ledger.recordKnown(tx, { ...one, source: 'before plinth', status: 'imported' })
    }
  })
  return {
    recorded: due.map(({ name }) => name),
    imported: history.map(({ name }) => name),
    verification,
  }
}

/** What `verify` calls a table, whatever it is called here. */
async function keyOfTable(db: Database, table: string): Promise<string> {
  const [found] = await rowsOf<{ name: string }>(
    db,
    sql`select format('%I.%I', n.nspname, c.relname) as name from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass(${table})`,
  )
  return `table ${found?.name ?? table}`
}

const readHistory = (
  db: Database,
  legacy: NonNullable<BaselineOptions['legacy']>,
): Promise<LegacyMigration[]> =>
  'table' in legacy ? readLegacyTable(db, legacy.table) : readLegacyFiles(legacy.files)
