import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { sql } from 'drizzle-orm'
import { type Database, rowsOf } from '../database.ts'
import { MigrationError } from '../errors.ts'

/** A migration of the system before plinth. */
export interface LegacyMigration {
  name: string
  checksum: string
  appliedAt: Date | null
  appliedBy: string | null
  durationMs: number | null
}

/** What the columns of version tables are called, the first that is there being taken. */
const COLUMNS = {
  name: ['script', 'filename', 'file_name', 'migration_name', 'name', 'migration', 'version', 'id'],
  appliedAt: [
    'applied_at',
    'installed_on',
    'executed_at',
    'migrated_at',
    'run_on',
    'migration_time',
    'finished_at',
    'created_at',
    'timestamp',
    'inserted_at',
  ],
  appliedBy: ['applied_by', 'installed_by', 'executed_by'],
  durationMs: ['duration_ms', 'execution_time', 'execution_time_ms'],
  checksum: ['checksum', 'hash'],
  /** Where a row can say that it failed. */
  success: ['success'],
  description: ['description', 'title'],
} as const

const MAX_ROWS = 10_000

/**
 * Reads a version table: `schema_version(version, applied_at, …)`, `schema_migrations(version)`, Flyway's, Knex's and
 * the like. Oldest first; those that failed are left out.
 *
 * @throws {MigrationError} if there is no such table, or no column that names a migration.
 */
export async function readLegacyTable(db: Database, table: string): Promise<LegacyMigration[]> {
  const columns = await rowsOf<{ name: string; kind: string; relation: string }>(
    db,
    sql`select a.attname as name, t.typcategory::text as kind, a.attrelid::regclass::text as relation
      from pg_catalog.pg_attribute a
      join pg_catalog.pg_type t on t.oid = a.atttypid
      where a.attrelid = to_regclass(${table}) and a.attnum > 0 and not a.attisdropped`,
  )
  const [first] = columns
  if (!first) throw new MigrationError(`there is no table ${table}; write schema.table`)
  const find = (names: readonly string[]) =>
    names.find((name) => columns.some((one) => one.name === name))
  const has = Object.fromEntries(Object.entries(COLUMNS).map(([key, names]) => [key, find(names)]))
  if (!has.name) {
    throw new MigrationError(
      `${table} has no column that names a migration (${COLUMNS.name.join(', ')}); it has ${columns.map(({ name }) => name).join(', ')}`,
    )
  }
  const text = (column: string | undefined) =>
    column ? sql`${sql.identifier(column)}::text` : sql`null::text`
  const isTime = columns.some(({ name, kind }) => name === has.appliedAt && kind === 'D')
  const rows = await rowsOf<
    Record<'name' | 'at' | 'by' | 'ms' | 'checksum' | 'description', string | null>
  >(
    db,
    sql`select ${text(has.name)} as name, ${text(has.description)} as description, ${text(has.appliedBy)} as by,
        ${text(has.durationMs)} as ms, ${text(has.checksum)} as checksum,
        ${has.appliedAt ? (isTime ? sql`to_char(${sql.identifier(has.appliedAt)}::timestamptz at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')` : text(has.appliedAt)) : sql`null::text`} as at
      from ${sql.raw(first.relation)}
      ${has.success ? sql`where ${sql.identifier(has.success)}::text in ('t', 'true', '1')` : sql``}
      order by ${sql.identifier(has.appliedAt ?? has.name)}, ${sql.identifier(has.name)} limit ${MAX_ROWS}`,
  )
  return rows.map(({ name, description, at, by, ms, checksum }) => ({
    name: description && /^[\d.]+$/.test(name ?? '') ? `${name} ${description}` : String(name),
    checksum: checksum ?? '',
    appliedAt: timeOf(at),
    appliedBy: by,
    durationMs: ms !== null && Number.isFinite(Number(ms)) ? Math.round(Number(ms)) : null,
  }))
}

/** A time as text, or in seconds or milliseconds since 1970. */
function timeOf(text: string | null): Date | null {
  if (text === null) return null
  const number = Number(text)
  const time = Number.isFinite(number)
    ? new Date(number < 100_000_000_000 ? number * 1_000 : number)
    : new Date(text)
  return Number.isNaN(time.getTime()) ? null : time
}

/**
 * Reads a list of what was applied: the SQL files of a folder, or a text file with one name a line.
 *
 * @throws {MigrationError} if there is neither, or nothing in it.
 */
export async function readLegacyFiles(path: string): Promise<LegacyMigration[]> {
  const kind = await stat(path).catch(() => undefined)
  if (!kind) throw new MigrationError(`there is no file or folder ${path}`)
  const names = kind.isDirectory()
    ? (await readdir(path))
        .filter((name) => name.endsWith('.sql') && !name.endsWith('.down.sql'))
        .sort()
    : (await readFile(path, 'utf8')).split('\n').map((line) => line.trim())
  const listed = names.filter((name) => name !== '' && !name.startsWith('#'))
  if (listed.length === 0) throw new MigrationError(`${path} names no migration`)
  return listed.slice(0, MAX_ROWS).map((name) => ({
    name: basename(join('/', name)),
    checksum: '',
    appliedAt: null,
    appliedBy: null,
    durationMs: null,
  }))
}
