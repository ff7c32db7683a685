import { setTimeout as pause } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import { type Database, only, rowsOf } from '../database.ts'
import { LockError, ValidationError } from '../errors.ts'
import { managedObjects } from '../schema/objects.ts'
import { checkInstant } from '../validation.ts'

/** The quoted names of the tables that are partitioned by month. */
const TABLES = managedObjects.flatMap(({ phase, create, table }) =>
  phase === 'within' && create.startsWith('partition by range') && table ? [table] : [],
)

const MONTHS_AHEAD = 12
const MAX_YEARS = 50
/**
 * Whoever waits to make a partition makes the writers wait behind it: shortly, then again. Shorter than
 * deadlock_timeout (1 s), so that of the two it is never the writer who fails.
 */
const LOCK_TIMEOUT_MS = 500
const ATTEMPTS = 40

export interface EnsurePartitionsOptions {
  /** A time in the first month (UTC); now unless said. */
  from?: Date
  /** A time in the last month (UTC); 12 months after `from` unless said, and at most 50 years. */
  to?: Date
}

export interface EnsuredPartitions {
  /** Such as `activity.activity_logs`. */
  table: string
  /** How many months were missing. */
  made: number
}

/**
 * Makes the monthly partitions that are missing, for every table of plinth that has such. Idempotent,
 * and safe for two at once. Returns what it made, by the name of the table.
 *
 * Each table has a transaction of its own, so that the lock for it is held shortly; a failure leaves
 * the tables before it done.
 *
 * @throws {LockError} if a table was never free for half a minute; run it again.
 * @throws {ForbiddenError} without the role `plinth_platform`. @throws {ValidationError}
 */
export async function ensurePartitions(
  db: Database,
  { from = new Date(), to = monthsAfter(from, MONTHS_AHEAD) }: EnsurePartitionsOptions = {},
): Promise<EnsuredPartitions[]> {
  checkInstant('from', from)
  checkInstant('to', to)
  if (to < from) throw new ValidationError('to', 'must not be before from')
  if (to > monthsAfter(from, MAX_YEARS * 12)) {
    throw new ValidationError('to', `must be at most ${MAX_YEARS} years after from`)
  }
  const results: EnsuredPartitions[] = []
  for (const { table } of await listPartitions(db)) {
    results.push({ table, made: await createMonths(db, table, { from, to }) })
  }
  return results
}

function monthsAfter(time: Date, months: number): Date {
  checkInstant('from', time)
  // The first of the month, since the 31st of most months is in the next one.
  return new Date(Date.UTC(time.getUTCFullYear(), time.getUTCMonth() + months, 1))
}

async function createMonths(
  db: Database,
  table: string,
  { from, to }: Required<EnsurePartitionsOptions>,
): Promise<number> {
  const [schema, name] = table.split('.')
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await db.transaction(async (tx) => {
        await rowsOf(tx, sql`select set_config('lock_timeout', ${`${LOCK_TIMEOUT_MS}ms`}, true)`)
        const { made } = only(
          await rowsOf<{ made: number }>(
            tx,
            sql`select partitions.create_months(${schema}, ${name}, ${from.toISOString()}, ${to.toISOString()}) as made`,
          ),
        )
        return made
      })
    } catch (error) {
      if (!(error instanceof LockError) || attempt === ATTEMPTS) throw error
      await pause(LOCK_TIMEOUT_MS)
    }
  }
}

export interface TimeRange {
  from: Date
  /** Not in it any more. */
  to: Date
}

export interface TablePartitions {
  /** Such as `activity.activity_logs`. */
  table: string
  count: number
  /** Where the earliest partition begins; undefined without any. */
  from: Date | undefined
  /** Where the latest one ends. */
  to: Date | undefined
  /** What no partition holds between the two. */
  gaps: TimeRange[]
}

/** Lists what is there of every table that is partitioned by month, by name. Reads the catalog only. */
export async function listPartitions(db: Database): Promise<TablePartitions[]> {
  const rows = await rowsOf<{ table: string; from: number | null; to: number | null }>(
    db,
    sql`
      select n.nspname || '.' || c.relname as "table",
        (extract(epoch from bound.lower) * 1000)::float8 as "from",
        (extract(epoch from bound.upper) * 1000)::float8 as "to"
      from pg_catalog.pg_partitioned_table p
      join pg_catalog.pg_class c on c.oid = p.partrelid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      left join pg_catalog.pg_inherits i on i.inhparent = c.oid
      left join pg_catalog.pg_class child on child.oid = i.inhrelid
      -- Printed and read in the same session, so in the same time zone.
      left join lateral (select matched[1]::timestamptz as lower, matched[2]::timestamptz as upper
        from regexp_match(pg_get_expr(child.relpartbound, child.oid),
          $$FROM \\('(.*)'\\) TO \\('(.*)'\\)$$) as matched) as bound on true
      where '"' || n.nspname || '"."' || c.relname || '"' in ${TABLES}
      order by 1, 2`,
  )
  const tables = new Map<string, TimeRange[]>()
  for (const { table, from, to } of rows) {
    const ranges = tables.get(table) ?? []
    tables.set(table, ranges)
    if (from !== null && to !== null) ranges.push({ from: new Date(from), to: new Date(to) })
  }
  return [...tables].map(([table, ranges]) => ({
    table,
    count: ranges.length,
    from: ranges[0]?.from,
    to: ranges.at(-1)?.to,
    gaps: gapsBetween(ranges),
  }))
}

const gapsBetween = (ranges: readonly TimeRange[]): TimeRange[] =>
  ranges.flatMap(({ to }, index) => {
    const next = ranges[index + 1]
    return next && next.from > to ? [{ from: to, to: next.from }] : []
  })
