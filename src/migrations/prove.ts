import { sql } from 'drizzle-orm'
import { type Connection, type Database, openPglite, rowsOf } from '../database.ts'
import { MigrationError } from '../errors.ts'
import { migrate } from './apply.ts'
import { catalogOf } from './catalog.ts'
import { EMPTY, type MigrationPlan, planMigration, type SchemaState } from './plan.ts'

/** What a migration made instead of what is declared, object by object. */
interface Difference {
  readonly object: string
  readonly declared: string | undefined
  readonly made: string | undefined
}

export interface ProveOptions {
  prev: SchemaState
  plan: MigrationPlan
  /** Where unqualified names are looked for: `public`, unless everything is qualified. */
  searchPath?: string
}

/**
 * Runs a plan on a scratch database, in a transaction that is rolled back: up from `prev`, which has to make
 * the same as what is declared makes from nothing, and down again.
 *
 * @throws {MigrationError} for a statement that fails, and for an object that comes out different.
 */
export async function provePlan(db: Database, options: ProveOptions): Promise<void> {
  const { prev, plan } = options
  const declared = await scratch(db, options, async (tx) => {
    await build(tx, plan.next)
    return catalog(tx)
  })
  await scratch(db, options, async (tx) => {
    await build(tx, prev)
    const before = await catalog(tx)
    await run(tx, plan.up, 'the migration')
    check('the migration does not make what is declared', differences(declared, await catalog(tx)))
    await run(tx, plan.down, 'its down.sql')
    check('down.sql does not bring back what was there', differences(before, await catalog(tx)))
  })
}

/** Runs work in a transaction and undoes it. */
async function scratch<T>(
  db: Database,
  { searchPath = 'public' }: ProveOptions,
  work: (tx: Database) => Promise<T>,
): Promise<T> {
  let result: { value: T } | undefined
  try {
    await db.transaction(async (tx) => {
      await tx.execute(sql.raw(`set local search_path = '${searchPath}'`))
      result = { value: await work(tx) }
      tx.rollback()
    })
  } catch (error) {
    if (!result) throw error
  }
  if (!result) throw new MigrationError('the scratch database answered nothing')
  return result.value
}

/** The catalog with every name in full, whatever the search path is. */
async function catalog(tx: Database) {
  const [before] = await rowsOf<{ path: string }>(
    tx,
    sql`select current_setting('search_path') as path, set_config('search_path', '', true)`,
  )
  const found = await catalogOf(tx)
  await tx.execute(sql`select set_config('search_path', ${before?.path ?? ''}, true)`)
  return found
}

const build = async (tx: Database, state: SchemaState) =>
  run(tx, (await planMigration(EMPTY, state)).up, 'what is declared')

async function run(tx: Database, statements: readonly string[], what: string): Promise<void> {
  for (const statement of statements) {
    try {
      await tx.execute(sql.raw(statement))
    } catch (error) {
      throw new MigrationError(
        `${what} fails: ${messageOf(error)}, in:\n${statement}\nTake the change in smaller steps, or write it by hand: plinth migrate create`,
        { cause: error },
      )
    }
  }
}

/** What Postgres says, and not that a query failed. */
const messageOf = (error: unknown): string =>
  error instanceof Error
    ? error.cause instanceof Error
      ? messageOf(error.cause)
      : error.message
    : String(error)

/** Roles are the cluster's, and stay. */
const isOwn = (object: string) => !object.startsWith('role ')

/** The words of a view: its columns may stand in another order where they do so in the table. */
const words = (definition: string) =>
  definition
    .split(/[\s,();]+/)
    .sort()
    .join(' ')

function differences(declared: Record<string, string>, made: Record<string, string>): Difference[] {
  const objects = new Set([...Object.keys(declared), ...Object.keys(made)])
  return [...objects].filter(isOwn).flatMap((object) => {
    const [want, got] = [declared[object], made[object]]
    if (want === got) return []
    const isView = /^(materialized )?view /.test(object) && want !== undefined && got !== undefined
    if (isView && words(want) === words(got)) return []
    return [{ object, declared: want, made: got }]
  })
}

function check(problem: string, found: readonly Difference[]): void {
  if (found.length === 0) return
  const shown = found
    .slice(0, 5)
    .map(
      ({ object, declared, made }) =>
        `${object}: ${made ?? 'missing'} instead of ${declared ?? 'nothing'}`,
    )
  const rest = found.length > shown.length ? `\nand ${found.length - shown.length} more` : ''
  throw new MigrationError(
    `${problem}:\n${shown.join('\n')}${rest}\nTake the change in smaller steps, or write it by hand: plinth migrate create`,
  )
}

/** Opens an empty database in memory to prove migrations on; with plinth's own schema, for what refers to it. */
export async function openScratch({ withPlinth }: { withPlinth: boolean }): Promise<Connection> {
  const { drizzle } = await import('drizzle-orm/pglite')
  const client = await openPglite()
  const db: Connection = Object.assign(drizzle({ client }), {
    engine: 'pglite' as const,
    close: () => client.close(),
  })
  if (withPlinth) await migrate(db)
  return db
}

const EXTENSIONS = /^create extension (?:if not exists )?"?([\w-]+)/i
const AVAILABLE = ['vector', 'pg_trgm', 'btree_gin', 'btree_gist', 'plpgsql']

/** The extensions that a state needs and the scratch database does not have. */
export const missingExtensions = (...states: readonly SchemaState[]): string[] => [
  ...new Set(
    states.flatMap(({ objects }) =>
      objects.flatMap(({ create }) => {
        const [, name] = EXTENSIONS.exec(create) ?? []
        return name && !AVAILABLE.includes(name) ? [name] : []
      }),
    ),
  ),
]
