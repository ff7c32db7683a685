import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { SQL } from 'drizzle-orm'
import type { PgAsyncDatabase, PgQueryResultHKT } from 'drizzle-orm/pg-core'
import { DatabaseInUseError, MissingPackageError, toPlinthError } from './errors.ts'
import type { PoolOptions } from './pool.ts'
import { checkInteger, checkText } from './validation.ts'

/**
 * Anything that runs a query: what `connect` returns, any other Drizzle database on Postgres, or a
 * transaction of either.
 *
 * Platform queries take this and nothing wider, so every one of them composes inside `db.transaction`.
 */
// biome-ignore lint/suspicious/noExplicitAny: the only type that accepts a database with any relations
export type Database = PgAsyncDatabase<PgQueryResultHKT, any>

/** A database that was opened here, and has to be closed. */
export type Connection = Database & {
  readonly engine: 'pglite' | 'postgres'
  /** Waits for what is under way, then closes. Twice is once. */
  close(): Promise<void>
}

export interface ConnectOptions extends PoolOptions {}

const EMBEDDED_FOLDER = '.plinth'

/**
 * Opens a database.
 *
 * Without a target, or with a folder: the embedded one (PGlite), in that folder (`.plinth` by default),
 * which it makes. `memory://`: the same, kept nowhere. `postgres://…`: a pool of connections to a
 * server. The options are the pool's; the embedded database has one session and needs none.
 *
 * @throws {DatabaseInUseError} if another process has the folder open.
 * @throws {MissingPackageError} without the driver's package, which is an optional peer.
 * @throws {ValidationError} for an option out of range.
 */
export async function connect(
  target = EMBEDDED_FOLDER,
  options: ConnectOptions = {},
): Promise<Connection> {
  checkText('target', target)
  return /^postgres(ql)?:\/\//.test(target)
    ? connectPostgres(target, options)
    : connectEmbedded(target)
}

async function connectPostgres(url: string, options: ConnectOptions): Promise<Connection> {
  for (const [name, value] of Object.entries(options)) {
    if (typeof value === 'number')
      checkInteger(`options.${name}`, value, { min: 1, max: 2 ** 31 - 1 })
  }
  const [{ openPool }, { drizzle }] = await optional(
    ['postgres'],
    Promise.all([import('./pool.ts'), import('drizzle-orm/postgres-js')]),
  )
  const pool = openPool(url, options)
  return Object.assign(drizzle({ client: pool.client }), {
    engine: 'postgres' as const,
    close: () => pool.close(),
  })
}

/** Whether COMMIT may be sent as a statement, behind queries that are not answered yet: see pool.ts. */
export const isPipelined = (db: Database): boolean => 'engine' in db && db.engine === 'postgres'

async function connectEmbedded(folder: string): Promise<Connection> {
  const inMemory = folder.startsWith('memory://')
  const unlock = inMemory ? async () => {} : await lockFolder(folder)
  try {
    const { drizzle } = await optional(EMBEDDED_PACKAGES, import('drizzle-orm/pglite'))
    const client = await openPglite(inMemory ? {} : { dataDir: pgdata(folder) })
    const close = async () => {
      if (!client.closed) await client.close()
      await unlock()
    }
    return Object.assign(drizzle({ client }), { engine: 'pglite' as const, close })
  } catch (error) {
    await unlock()
    throw error
  }
}

/** Where the files of an embedded database are, beside its lock. */
export const pgdata = (folder = EMBEDDED_FOLDER) => join(folder, 'pgdata')

const EMBEDDED_PACKAGES = ['@electric-sql/pglite', '@electric-sql/pglite-pgvector']

/** A PGlite with the extensions that the schema needs, and pg_trgm. In memory without a folder. */
export async function openPglite(options: { dataDir?: string; loadDataDir?: Blob | File } = {}) {
  const [{ PGlite }, { vector }, { pg_trgm }, { btree_gin }, { btree_gist }] = await optional(
    EMBEDDED_PACKAGES,
    Promise.all([
      import('@electric-sql/pglite'),
      import('@electric-sql/pglite-pgvector'),
      import('@electric-sql/pglite/contrib/pg_trgm'),
      import('@electric-sql/pglite/contrib/btree_gin'),
      import('@electric-sql/pglite/contrib/btree_gist'),
    ]),
  )
  if (options.dataDir) await mkdir(options.dataDir, { recursive: true })
  return PGlite.create({ ...options, extensions: { vector, pg_trgm, btree_gin, btree_gist } })
}

/** Waits for the import of packages that the user may not have installed. */
async function optional<T>(packages: string[], imported: Promise<T>): Promise<T> {
  try {
    return await imported
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ERR_MODULE_NOT_FOUND') {
      throw new MissingPackageError(packages, { cause: error })
    }
    throw error
  }
}

/** Makes a folder this process's own: PGlite has one writer, and a second one would destroy the files. */
async function lockFolder(folder: string): Promise<() => Promise<void>> {
  const file = join(folder, 'lock')
  await mkdir(folder, { recursive: true })
  const take = () => writeFile(file, String(process.pid), { flag: 'wx' })
  await take().catch(async () => {
    const pid = Number(await readFile(file, 'utf8').catch(() => 0))
    if (isRunning(pid)) throw new DatabaseInUseError(folder, pid)
    await rm(file, { force: true })
    await take()
  })
  return () => rm(file, { force: true })
}

function isRunning(pid: number): boolean {
  try {
    return pid > 0 && process.kill(pid, 0)
  } catch {
    return false
  }
}

/** Runs a piece of work, and turns what the database refuses into plinth's errors. */
export async function mapErrors<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw toPlinthError(error)
  }
}

/**
 * Sends a query at once, and not at the await, so that queries keep the order in which they are called.
 *
 * @throws what `toPlinthError` makes of the database's errors.
 */
export const run = <T>(query: { execute(): Promise<T> }): Promise<T> =>
  mapErrors(() => query.execute())

/** The rows of a raw query, which each driver wraps in its own way. */
export async function rowsOf<Row>(db: Database, query: SQL): Promise<Row[]> {
  const result = await run(db.execute(query))
  return (Array.isArray(result) ? result : (result as { rows: Row[] }).rows) as Row[]
}

/** The row of a one-row statement that returns exactly one, or threw. */
export const only = <Row>(rows: Row[]): Row => rows[0] as Row
