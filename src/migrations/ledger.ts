import { type SQL, sql } from 'drizzle-orm'
import { readMigrationFiles } from 'drizzle-orm/migrator'
import { migrate as applyMigrations } from 'drizzle-orm/pg-core/async/session'
import { type Database, only, rowsOf } from '../database.ts'
import { quotedName } from './advice/names.ts'
import type { Migration, MigrationSource } from './folder.ts'

/**
 * Beside drizzle's own table, in its schema. What is in drizzle's table is applied, whoever applied it; a row in here
 * says how, and how far a migration of several steps has come.
 */
const LEDGER = sql.raw('drizzle.__plinth_migrations')

const CREATE_LEDGER = sql`
create table if not exists ${LEDGER} (
  name text primary key,
  source text not null,
  checksum text not null,
  content text,
  module text,
  status text not null check (status in ('running', 'applied', 'failed', 'reverting', 'reverted', 'retired', 'imported')),
  step integer not null default 0,
  steps integer not null default 1,
  step_started boolean not null default false,
  progress json,
  started_at timestamptz(3) not null default now(),
  applied_at timestamptz(3),
  applied_by text,
  duration_ms bigint,
  error text
)`

export interface LedgerRow {
  name: string
  /** Of the folder that it came from. */
  source: string
  checksum: string
  /** The text as it was applied; null where only drizzle-kit knew it. */
  content: string | null
  /** The same of its migration.ts; null without one. */
  module: string | null
  status: 'running' | 'applied' | 'failed' | 'reverting' | 'reverted' | 'retired' | 'imported'
  /** How many steps are done, of `steps`; while it is reverted, of its down. */
  step: number
  steps: number
  /** Whether the next step was begun: a step outside of a transaction may be half done. */
  isStarted: boolean
  /** How far a data migration has come. */
  progress: unknown
  startedAt: Date
  appliedAt: Date | null
  appliedBy: string | null
  durationMs: number | null
  error: string | null
}

/** A row of drizzle's table. */
export interface DrizzleRow {
  name: string
  checksum: string
  appliedAt: Date | null
}

export interface Ledger {
  rows: Map<string, LedgerRow>
  drizzle: Map<string, DrizzleRow>
  /** Whether a migrator holds the lock. */
  isLocked: boolean
}

const tableOf = ({ schema = 'drizzle', table = '__drizzle_migrations' }: MigrationSource) =>
  sql`${sql.identifier(schema)}.${sql.identifier(table)}`

const titleOf = ({ schema = 'drizzle', table = '__drizzle_migrations' }: MigrationSource) =>
  quotedName({ schema, name: table })

const exists = async (db: Database, name: string) =>
  only(await rowsOf<{ found: boolean }>(db, sql`select to_regclass(${name}) is not null as found`))
    .found

/** What is recorded. Reads only, also where nothing was ever migrated. */
export async function readLedger(
  db: Database,
  sources: readonly MigrationSource[],
): Promise<Ledger> {
  const found = await rowsOf<LedgerRow & Record<string, unknown>>(
    db,
    (await exists(db, 'drizzle.__plinth_migrations'))
      ? sql`${SELECT}`
      : sql`select 1 as name limit 0`,
  )
  const rows = new Map(found.map((row) => [row.name, readRow(row)]))
  const drizzle = new Map<string, DrizzleRow>()
  const tables = new Map(sources.map((source) => [titleOf(source), source]))
  for (const source of tables.values()) {
    for (const row of await readDrizzle(db, source)) drizzle.set(row.name, row)
  }
  return { rows, drizzle, isLocked: await isLocked(db) }
}

const SELECT = sql`select name, source, checksum, content, module, status, step, steps, step_started as "isStarted", progress,
  started_at as "startedAt", applied_at as "appliedAt", applied_by as "appliedBy", duration_ms::float8 as "durationMs", error from ${LEDGER}`

const date = (value: unknown) => (value === null ? null : new Date(value as string))

const readRow = (row: LedgerRow): LedgerRow => ({
  ...row,
  startedAt: date(row.startedAt) as Date,
  appliedAt: date(row.appliedAt),
})

async function readDrizzle(db: Database, source: MigrationSource) {
  // The table of an older drizzle has no names: it is brought up to date before anything is applied.
  if (!(await hasNames(db, source))) return []
  const rows = await rowsOf<DrizzleRow>(
    db,
    sql`select name, hash as checksum, applied_at as "appliedAt" from ${tableOf(source)} where name is not null order by id`,
  )
  return rows.map((row) => ({ ...row, appliedAt: date(row.appliedAt) }))
}

/** How far a migration has come. */
export type Stage = Pick<LedgerRow, 'name' | 'status' | 'step' | 'isStarted'>

/** What tells whether a migration may begin, without the texts. */
export async function readStages(
  tx: Database,
  migrations: readonly Migration[],
): Promise<{ stages: Map<string, Stage>; recorded: Set<string> }> {
  const stages = await rowsOf<Stage>(
    tx,
    sql`select name, status, step, step_started as "isStarted" from ${LEDGER}`,
  )
  const recorded = new Set<string>()
  const tables = new Map(migrations.map(({ source }) => [titleOf(source), source]))
  for (const source of tables.values()) {
    const rows = await rowsOf<{ name: string }>(
      tx,
      sql`select name from ${tableOf(source)} where name is not null`,
    )
    for (const { name } of rows) recorded.add(name)
  }
  return { stages: new Map(stages.map((stage) => [stage.name, stage])), recorded }
}

/** Makes both tables, unless they are there: whoever finds them needs no right to make them. */
export async function ensureLedger(db: Database, sources: readonly MigrationSource[]) {
  for (const { schema, table, folder } of sources) {
    const config = { migrationsFolder: folder, migrationsSchema: schema, migrationsTable: table }
    const source = { schema, table, folder, name: '' }
    if (!(await exists(db, titleOf(source)))) {
      await applyMigrations([], db, config)
    } else if (await isOutdated(db, source)) {
      // With `init`, drizzle upgrades its table, finds rows in it, and leaves it at that.
      await applyMigrations(readMigrationFiles(config), db, {
        ...config,
        init: true,
      } as typeof config)
    }
  }
  if (!(await exists(db, 'drizzle.__plinth_migrations'))) {
    await db.execute(sql`create schema if not exists drizzle`)
    await db.execute(CREATE_LEDGER)
  }
}

/** Asks the catalog: information_schema hides what the login may not read, and then nothing would be applied. */
async function hasNames(db: Database, source: MigrationSource): Promise<boolean> {
  const { found } = only(
    await rowsOf<{ found: boolean }>(
      db,
      sql`select exists (select from pg_catalog.pg_attribute where attrelid = to_regclass(${titleOf(source)})
        and attname = 'name' and not attisdropped) as found`,
    ),
  )
  return found
}

async function isOutdated(db: Database, source: MigrationSource): Promise<boolean> {
  if (await hasNames(db, source)) return false
  return (await rowsOf(db, sql`select 1 from ${tableOf(source)} limit 1`)).length > 0
}

const KEY = sql`hashtextextended('plinth.migrate', 0)`

/** Takes the one lock of all migrators until the transaction ends; false if another one has it. */
export async function tryLock(tx: Database): Promise<boolean> {
  return only(
    await rowsOf<{ locked: boolean }>(tx, sql`select pg_try_advisory_xact_lock(${KEY}) as locked`),
  ).locked
}

/** The same for a session, in which no transaction is open. */
export async function trySessionLock(session: Database): Promise<boolean> {
  return only(
    await rowsOf<{ locked: boolean }>(session, sql`select pg_try_advisory_lock(${KEY}) as locked`),
  ).locked
}

/** Gives it back. */
export async function releaseSessionLock(session: Database): Promise<void> {
  await rowsOf(session, sql`select pg_advisory_unlock(${KEY})`)
}

const isLocked = (db: Database) => hasLock(db, sql`true`)

/** Whether the session of this statement is the one that has the lock. */
export const hasSessionLock = (session: Database): Promise<boolean> =>
  hasLock(session, sql`pid = pg_backend_pid()`)

async function hasLock(db: Database, whose: SQL): Promise<boolean> {
  return only(
    await rowsOf<{ locked: boolean }>(
      db,
      sql`select exists (select from pg_catalog.pg_locks where locktype = 'advisory' and granted and objsubid = 1
        and database = (select oid from pg_catalog.pg_database where datname = current_database())
        and (classid::bigint << 32) | objid::bigint = ${KEY} and ${whose}) as locked`,
    ),
  ).locked
}

export const findRow = async (db: Database, name: string): Promise<LedgerRow | undefined> => {
  const [row] = await rowsOf<LedgerRow>(db, sql`${SELECT} where name = ${name}`)
  return row && readRow(row)
}

export type Direction = 'up' | 'down'

/** Records that a migration is begun, or gone on with. */
export async function recordStart(db: Database, migration: Migration, direction: Direction) {
  const { name, source, checksum, content, steps, down = [] } = migration
  const module = migration.module ?? null
  const status = direction === 'up' ? 'running' : 'reverting'
  const unfinished =
    direction === 'up' ? sql`l.status in ('running', 'failed')` : sql`l.status = 'reverting'`
  const count = direction === 'up' ? steps.length : down.length
  await rowsOf(
    db,
    sql`insert into ${LEDGER} as l (name, source, checksum, content, module, status, steps, applied_by)
      values (${name}, ${source.name}, ${checksum}, ${content}, ${module}, ${status}, ${count}, session_user)
      on conflict (name) do update set
        source = excluded.source, checksum = excluded.checksum, content = excluded.content, module = excluded.module,
        status = excluded.status, steps = excluded.steps, applied_by = excluded.applied_by, error = null,
        -- An interrupted one goes on where it stopped, and any other begins.
        step = case when ${unfinished} then l.step else 0 end,
        step_started = case when ${unfinished} then l.step_started else false end,
        progress = case when ${unfinished} then l.progress end,
        started_at = case when ${unfinished} then l.started_at else now() end
      returning name`,
  )
}

/** Takes back that other migrations are begun in the opposite direction, where nothing of them is done. */
export async function recallOthers(db: Database, name: string, direction: Direction) {
  const [from, to] =
    direction === 'up'
      ? [sql`('reverting')`, sql`'applied'`]
      : [sql`('running', 'failed')`, sql`'reverted'`]
  await rowsOf(
    db,
    sql`update ${LEDGER} set status = ${to} where status in ${from} and step = 0 and not step_started
      and name <> ${name} returning name`,
  )
}

/** Records that a step outside of a transaction is begun: from here on it may be half done. */
export async function recordStepStarted(db: Database, name: string) {
  await rowsOf(
    db,
    sql`update ${LEDGER} set step_started = true where name = ${name} returning name`,
  )
}

/** Records how many steps are done. */
export async function recordStep(db: Database, name: string, step: number) {
  await rowsOf(
    db,
    sql`update ${LEDGER} set step = ${step}, step_started = false, progress = null where name = ${name} returning name`,
  )
}

/** Records how far a data migration has come. */
export async function recordProgress(db: Database, name: string, progress: unknown) {
  await rowsOf(
    db,
    sql`update ${LEDGER} set progress = ${JSON.stringify(progress)}::text::json where name = ${name} returning name`,
  )
}

/** Records the end, in both tables. */
export async function recordApplied(db: Database, migration: Migration) {
  const { name, checksum, source, steps } = migration
  await rowsOf(
    db,
    sql`update ${LEDGER} set status = 'applied', step = ${steps.length}, step_started = false, progress = null, error = null,
      applied_at = clock_timestamp(), duration_ms = extract(epoch from clock_timestamp() - started_at) * 1000
      where name = ${name} returning name`,
  )
  await recordInDrizzle(db, { name, checksum, source })
}

/** Where drizzle-kit looks. Its stamp is the beginning of the name, in milliseconds. */
export async function recordInDrizzle(
  db: Database,
  { name, checksum, source }: Pick<Migration, 'name' | 'checksum' | 'source'>,
) {
  const table = tableOf(source)
  const [, ...parts] = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)/.exec(name)?.map(Number) ?? []
  const [year = 1970, month = 1, ...rest] = parts
  const stamp = Date.UTC(year, month - 1, ...rest)
  await rowsOf(
    db,
    sql`insert into ${table} (hash, created_at, name) select ${checksum}, ${stamp}::bigint, ${name}
      where not exists (select from ${table} where name = ${name}) returning id`,
  )
}

/** Records that nothing of it is there any more. */
export async function recordReverted(db: Database, { name, source }: Migration) {
  await rowsOf(db, sql`delete from ${tableOf(source)} where name = ${name} returning id`)
  await rowsOf(
    db,
    sql`update ${LEDGER} set status = 'reverted', step = 0, step_started = false, progress = null, error = null,
      duration_ms = extract(epoch from clock_timestamp() - started_at) * 1000, applied_at = null
      where name = ${name} returning name`,
  )
}

/** Keeps what went wrong, for `status`. */
export async function recordFailure(db: Database, name: string, error: string) {
  await rowsOf(
    db,
    sql`update ${LEDGER} set error = ${error}, status = case
        when status <> 'reverting' then 'failed' when step = 0 and not step_started then 'applied' else status end
      where name = ${name} and status in ('running', 'reverting', 'failed') returning name`,
  )
}

/** The row of a migration that is applied with the text that it has. */
export const appliedRow = ({ name, source, checksum, content, module, steps }: Migration) => ({
  ...{ name, checksum, content, source: source.name, steps: steps.length },
  module: module ?? null,
  status: 'applied' as const,
})

/** A row for what is applied already: by drizzle-kit, by a system before plinth, or by `baseline`. */
export async function recordKnown(
  db: Database,
  row: Pick<LedgerRow, 'name' | 'source' | 'checksum' | 'status'> & Partial<LedgerRow>,
) {
  const { name, source, checksum, status, content = null, module = null, steps = 1 } = row
  const { appliedAt = null, appliedBy = null } = row
  await rowsOf(
    db,
    sql`insert into ${LEDGER} (name, source, checksum, content, module, status, step, steps, started_at, applied_at, applied_by, duration_ms)
      values (${name}, ${source}, ${checksum}, ${content}, ${module}, ${status}, ${steps}, ${steps},
        coalesce(${appliedAt?.toISOString() ?? null}::timestamptz, now()), ${appliedAt?.toISOString() ?? null}::timestamptz,
        ${appliedBy}, ${row.durationMs ?? null}::bigint)
      on conflict (name) do update set source = excluded.source, checksum = excluded.checksum, content = excluded.content,
        module = excluded.module, status = excluded.status, step = excluded.step, steps = excluded.steps, step_started = false, error = null
      returning name`,
  )
}

/** Gives a migration that was renamed the name that it has now. */
export async function recordRename(db: Database, from: string, migration: Migration) {
  const { name, source } = migration
  await rowsOf(db, sql`update ${LEDGER} set name = ${name} where name = ${from} returning name`)
  await rowsOf(
    db,
    sql`update ${tableOf(source)} set name = ${name} where name = ${from} returning name`,
  )
}

/** Takes an edited text for the one that was applied. */
export async function recordEdit(db: Database, migration: Migration) {
  const { name, source, checksum, content } = migration
  const module = migration.module ?? null
  await rowsOf(
    db,
    sql`update ${LEDGER} set checksum = ${checksum}, content = ${content}, module = ${module}
      where name = ${name} returning name`,
  )
  await rowsOf(
    db,
    sql`update ${tableOf(source)} set hash = ${checksum} where name = ${name} returning name`,
  )
}
