import { setTimeout as pause } from 'node:timers/promises'
import { type SQL, sql, type Table } from 'drizzle-orm'
import { PgDialect } from 'drizzle-orm/pg-core'
import { type Database, only, rowsOf } from '../database.ts'
import { MigrationError, ValidationError } from '../errors.ts'
import { checkInteger } from '../validation.ts'
import { type Direction, findRow, recordProgress } from './ledger.ts'

/**
 * What the default export of a migration.ts is: rows of one table, brought up to date batch by batch, in the order of a
 * key. Each batch is a transaction, and records how far it has come: what is interrupted goes on there.
 */
export interface DataMigration<Row = Record<string, unknown>> {
  /** Of Drizzle, or `schema.table`. */
  table: Table | string
  /** The condition of the rows that are still to be migrated. None may be left in the end. */
  pending: SQL
  /** Migrates one batch. The rows are locked until it ends. */
  migrate(tx: Database, rows: Row[]): Promise<void>
  /** The columns of `rows`, as the database calls them; all unless said, and always the key. */
  columns?: readonly string[]
  /** A unique key, in whose order the rows come; the primary key unless said. */
  key?: readonly string[]
  /** At most 10,000; 1,000 unless said. */
  batchSize?: number
  /** How long the others are left alone between two batches, in milliseconds. */
  pauseMs?: number
  /** Counts what must be equal in the end, such as the rows of two tables. */
  verify?(tx: Database): Promise<{ expected: number; found: number }>
  /** What `plinth migrate down` does to the rows first; nothing unless said. */
  down?: Omit<DataMigration<Row>, 'down'>
}

/** Checks a data migration's types. Returns it as it is. */
export const defineDataMigration = <Row>(migration: DataMigration<Row>): DataMigration<Row> =>
  migration

interface Progress {
  /** Rows that were pending at the beginning. */
  total: number
  done: number
  /** Of the last row, as text. */
  cursor: string[] | null
}

export interface DataRun {
  name: string
  direction: Direction
  isDone(tx: Database): Promise<boolean>
  finish(tx: Database): Promise<true>
  inTurn<T>(work: (tx: Database) => Promise<T>): Promise<T>
  say(doing: string): void
}

/** Rows that were written behind the cursor are met in a later pass. */
interface Passes {
  count: number
  /** Rows that were pending after the one before. */
  left: number
}

const BATCH_SIZE = 1_000
const MAX_BATCH_SIZE = 10_000
const MAX_PASSES = 3

/**
 * Runs the batches that are left. Several migrators take turns.
 *
 * @returns whether the last batch was done here.
 * @throws {MigrationError} if rows are left that `migrate` does not change, if the counts of `verify` differ, and where
 * row level security would hide rows from the login.
 */
export async function runDataMigration(module: string, run: DataRun): Promise<boolean> {
  const loaded = await load(module)
  const migration = run.direction === 'up' ? loaded : loaded.down
  if (!migration) return run.inTurn((tx) => run.finish(tx))
  const { pauseMs = 0 } = migration
  const key = await run.inTurn((tx) => readKey(tx, migration))
  const passes: Passes = { count: 1, left: Number.POSITIVE_INFINITY }
  for (;;) {
    const state = await run.inTurn((tx) => runBatch(tx, migration, key, run, passes))
    if (typeof state === 'boolean') return state
    run.say(`${state.done.toLocaleString('en')} of ${state.total.toLocaleString('en')} rows`)
    if (pauseMs > 0) await pause(pauseMs)
  }
}

async function load(module: string): Promise<DataMigration> {
  const { createJiti } = await import('jiti')
  const loaded = await createJiti(import.meta.url, { moduleCache: false }).import<DataMigration>(
    module,
    { default: true },
  )
  for (const part of [loaded, ...(loaded?.down ? [loaded.down] : [])]) {
    if (typeof part?.migrate !== 'function' || !part.table || !part.pending) {
      throw new MigrationError(`${module} must export by default { table, pending, migrate }`)
    }
    checkInteger('batchSize', part.batchSize ?? BATCH_SIZE, { min: 1, max: MAX_BATCH_SIZE })
    checkInteger('pauseMs', part.pauseMs ?? 0, { min: 0, max: 3_600_000 })
  }
  return loaded
}

interface KeyColumn {
  name: string
  type: string
}

const tableOf = ({ table }: DataMigration): SQL => {
  if (typeof table !== 'string') return sql`${table}`
  const parts = table.split('.')
  if (parts.length !== 2) throw new ValidationError('table', 'must be schema.table')
  return sql.join(
    parts.map((part) => sql.identifier(part)),
    sql`.`,
  )
}

const dialect = new PgDialect()

/** The key's columns; without one, batches would miss rows or meet them twice. */
async function readKey(db: Database, migration: DataMigration): Promise<KeyColumn[]> {
  const name = await nameOf(db, migration)
  const keys = await rowsOf<{ columns: KeyColumn[]; isPrimary: boolean }>(
    db,
    sql`select i.indisprimary as "isPrimary", (select json_agg(json_build_object('name', a.attname, 'type',
          format_type(a.atttypid, a.atttypmod)) order by k.place)
        from unnest(i.indkey::smallint[]) with ordinality as k (number, place)
        join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number and a.attnotnull) as columns
      from pg_catalog.pg_index i
      where i.indrelid = to_regclass(${name}) and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
        and i.indnatts = i.indnkeyatts`,
  )
  const wanted = migration.key
  const found = keys.find(({ columns, isPrimary }) =>
    wanted ? wanted.join() === (columns ?? []).map(({ name }) => name).join() : isPrimary,
  )
  if (found?.columns) return found.columns
  throw new MigrationError(
    `${name} has no ${wanted ? `unique index on (${wanted.join(', ')})` : 'primary key'} without nulls to go by; name one as key`,
  )
}

/** The quoted name of the table, which is there, and of which this login sees every row. */
async function nameOf(db: Database, migration: DataMigration): Promise<string> {
  const name = dialect.sqlToQuery(tableOf(migration)).sql
  const [table] = await rowsOf<{ isHidden: boolean }>(
    db,
    sql`select row_security_active(c.oid) as "isHidden" from pg_catalog.pg_class c where c.oid = to_regclass(${name})`,
  )
  if (!table) throw new MigrationError(`${name} does not exist`)
  if (table.isHidden) {
    throw new MigrationError(
      `row level security hides rows of ${name} from this login; migrate as the owner of the table, without FORCE ROW LEVEL SECURITY`,
    )
  }
  return name
}

async function runBatch(
  tx: Database,
  migration: DataMigration,
  key: readonly KeyColumn[],
  run: DataRun,
  passes: Passes,
): Promise<Progress | boolean> {
  if (await run.isDone(tx)) return false
  const { pending, batchSize = BATCH_SIZE } = migration
  const row = await findRow(tx, run.name)
  const progress = (row?.progress ?? {
    total: await countPending(tx, migration),
    done: 0,
    cursor: null,
  }) as Progress

  const names = sql.join(
    key.map(({ name }) => sql.identifier(name)),
    sql`, `,
  )
  const texts = key.map(
    ({ name }, at) => sql`${sql.identifier(name)}::text as ${sql.identifier(alias(at))}`,
  )
  const columns = migration.columns
    ? sql.join(
        [...new Set([...migration.columns, ...key.map(({ name }) => name)])].map((name) =>
          sql.identifier(name),
        ),
        sql`, `,
      )
    : sql`*`
  const values = key.map(({ type }, at) => sql`${progress.cursor?.[at]}::text::${sql.raw(type)}`)
  const after = progress.cursor ? sql`and (${names}) > (${sql.join(values, sql`, `)})` : sql``
  const found = await rowsOf<Record<string, unknown>>(
    tx,
    sql`select ${columns}, ${sql.join(texts, sql`, `)} from ${tableOf(migration)} where (${pending}) ${after}
      order by ${names} limit ${batchSize} for no key update`,
  )
  if (found.length === 0) return endPass(tx, migration, progress, run, passes)

  const cursor = key.map((_, at) => String(found.at(-1)?.[alias(at)]))
  for (const row of found) for (const at of key.keys()) delete row[alias(at)]
  await migration.migrate(tx, found)
  const next = { ...progress, done: progress.done + found.length, cursor }
  await recordProgress(tx, run.name, next)
  return next
}

const alias = (at: number) => `plinth_key_${at}`

const countPending = async (tx: Database, migration: DataMigration): Promise<number> =>
  Number(
    only(
      await rowsOf<{ count: string }>(
        tx,
        sql`select count(*)::text as count from ${tableOf(migration)} where (${migration.pending})`,
      ),
    ).count,
  )

async function endPass(
  tx: Database,
  migration: DataMigration,
  progress: Progress,
  run: DataRun,
  passes: Passes,
): Promise<Progress | boolean> {
  const left = await countPending(tx, migration)
  if (left > 0) {
    if (passes.count >= MAX_PASSES || left >= passes.left) {
      throw new MigrationError(
        `${left.toLocaleString('en')} rows are still pending after ${passes.count} passes; does migrate() change what pending asks for?`,
      )
    }
    passes.count += 1
    passes.left = left
    const next = { ...progress, cursor: null }
    await recordProgress(tx, run.name, next)
    return next
  }
  const counts = await migration.verify?.(tx)
  if (counts && counts.expected !== counts.found) {
    throw new MigrationError(`verify expected ${counts.expected} and found ${counts.found}`)
  }
  return run.finish(tx)
}
