import { AsyncLocalStorage } from 'node:async_hooks'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { type SQL, type SQLWrapper, sql } from 'drizzle-orm'
import type { NodePgClient } from 'drizzle-orm/node-postgres'
import type { PgAsyncDatabase, PgQueryResultHKT } from 'drizzle-orm/pg-core'
import type { Sql } from 'postgres'
import { toPlinthError } from './driver-errors.ts'
import { MissingPackageError, TransactionError } from './errors.ts'
import { lockFolder } from './folder.ts'
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
  /**
   * Lends one connection for as long as `work` takes, for what belongs to a session: its settings, and
   * advisory locks. It is closed afterwards. The embedded database lends its only one, and keeps it.
   */
  reserve<T>(work: (session: Database) => Promise<T>): Promise<T>
  /** Waits for what is under way, then closes. Twice is once. */
  close(): Promise<void>
}

export interface ConnectOptions extends PoolOptions {}

/** The options that are numbers: how many, and how long in milliseconds. */
const LIMITS = [
  'maxConnections',
  'connectTimeoutMs',
  'acquireTimeoutMs',
  'statementTimeoutMs',
  'idleInTransactionTimeoutMs',
  'idleTimeoutMs',
] as const satisfies (keyof ConnectOptions)[]

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
 * @throws {ValidationError} for an option out of range, and for what can be no folder.
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
  for (const name of LIMITS) {
    const value = options[name]
    if (value !== undefined) checkInteger(`options.${name}`, value, { min: 1, max: 2 ** 31 - 1 })
  }
  const [{ openPool }, { drizzle }] = await optional(
    ['postgres'],
    Promise.all([import('./pool.ts'), import('drizzle-orm/postgres-js')]),
  )
  const pool = openPool(url, options)
  return Object.assign(drizzle({ client: pool.client }), {
    engine: 'postgres' as const,
    reserve: <T>(work: (session: Database) => Promise<T>) =>
      pool.session((client) => work(drizzle({ client }))),
    close: () => pool.close(),
  })
}

/** Whether COMMIT may be sent as a statement, behind queries that are not answered yet: see pool.ts. */
export const isPipelined = (db: Database): boolean => 'engine' in db && db.engine === 'postgres'

/**
 * Runs `work` on one session, where there is a way to one: a connection of ours, of postgres.js or of node-postgres.
 * Otherwise on the database as it is.
 */
export async function withSession<T>(db: Database, work: (session: Database) => Promise<T>) {
  if (isConnection(db)) return db.reserve(work)
  const other = postgresOf(db)
  if (other) return onAnother(other, work)
  const pool = poolOf(db)
  if (!pool) return work(db)
  const { drizzle } = await import('drizzle-orm/node-postgres')
  const client = await mapErrors(() => pool.connect())
  try {
    return await work(drizzle({ client }))
  } finally {
    // Not into the pool again: settings and locks would go with it.
    client.release(true)
  }
}

/** Its own way of lending a connection hangs where types are not fetched, and has no transactions. */
async function onAnother<T>(client: Sql, work: (session: Database) => Promise<T>): Promise<T> {
  const [{ openAnother }, { drizzle }] = await Promise.all([
    import('./pipelined.ts'),
    import('drizzle-orm/postgres-js'),
  ])
  const own = openAnother(client)
  try {
    return await work(drizzle({ client: own }))
  } finally {
    await own.end({ timeout: 5 })
  }
}

const isConnection = (db: Database): db is Connection => 'reserve' in db && 'engine' in db

/** As much of node-postgres' pool as is used. */
interface NodePool {
  totalCount: number
  connect(): Promise<NodePgClient & { release(destroy: boolean): void }>
}

/** The client of postgres.js behind a database of Drizzle's. */
function postgresOf(db: Database) {
  const client = '$client' in db ? (db.$client as Partial<Sql> | undefined) : undefined
  return client?.unsafe && client.begin && client.options ? (client as Sql) : undefined
}

/** The pool of node-postgres behind a database of Drizzle's. */
function poolOf(db: Database) {
  const client = '$client' in db ? (db.$client as Partial<NodePool> | undefined) : undefined
  return client && 'totalCount' in client && client.connect ? (client as NodePool) : undefined
}

async function connectEmbedded(folder: string): Promise<Connection> {
  const { drizzle } = await optional(EMBEDDED_PACKAGES, import('drizzle-orm/pglite'))
  const client = folder.startsWith('memory://') ? await openPglite() : await openEmbedded(folder)
  let closing: Promise<void> | undefined
  const close = () => {
    closing ??= client.close()
    return closing
  }
  const db = drizzle({ client })
  const reserve = <T>(work: (session: Database) => Promise<T>) => work(db)
  return Object.assign(db, { engine: 'pglite' as const, reserve, close })
}

/** Opens the PGlite of a folder, which is this process's own until it is closed. */
export async function openEmbedded(folder = EMBEDDED_FOLDER) {
  const unlock = await lockFolder(folder)
  try {
    const client = await openPglite({ dataDir: join(folder, 'pgdata') })
    const close = client.close.bind(client)
    client.close = () => close().finally(unlock)
    return client
  } catch (error) {
    await unlock()
    throw error
  }
}

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
  const extensions = { vector, pg_trgm, btree_gin, btree_gist }
  return guard(await PGlite.create({ ...options, extensions }))
}

type Method = (...args: never[]) => Promise<unknown>

/**
 * Refuses a query beside the transaction that it is called from. A PGlite has one session: the query would
 * wait for the transaction, and the transaction for it.
 */
function guard<Client extends { transaction: Method; query: Method; exec: Method }>(
  client: Client,
) {
  const calls = new AsyncLocalStorage<{ isOpen: boolean }>()
  const refused = <M extends Method>(method: M) =>
    ((...args) => {
      if (!calls.getStore()?.isOpen) return method.apply(client, args)
      const problem = 'the embedded database has one session; in a transaction, use its own handle'
      return Promise.reject(new TransactionError(problem))
    }) as M
  const begin = client.transaction
  const transaction: Method = async (work: Method) => {
    const call = { isOpen: true }
    const within: Method = (tx) => calls.run(call, () => work(tx))
    return begin.apply(client, [within as never]).finally(() => {
      call.isOpen = false
    })
  }
  return Object.assign(client, {
    query: refused(client.query),
    exec: refused(client.exec),
    transaction: refused(transaction),
  }) as Client
}

/** Waits for the import of packages that the user may not have installed. @throws {MissingPackageError} */
export async function optional<T>(packages: string[], imported: Promise<T>): Promise<T> {
  try {
    return await imported
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ERR_MODULE_NOT_FOUND') {
      throw new MissingPackageError(packages, { cause: error })
    }
    throw error
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

/** A row as a raw query has it, if all but its strings and nulls are read as text. */
export type RawRow<Row> = {
  [Column in keyof Row]: Row[Column] extends string
    ? Row[Column]
    : string | Extract<Row[Column], null>
}

/** The rows of a raw query, which each driver wraps in its own way. */
export async function rowsOf<Row>(db: Database, query: SQL): Promise<Row[]> {
  const result = await run(db.execute(query))
  return (Array.isArray(result) ? result : (result as { rows: Row[] }).rows) as Row[]
}

/**
 * That a row comes after another one in a list that is newest first. A row comparison, which an index
 * serves at any depth; the bound on the time alone is what partitions are chosen by.
 */
export const isBefore = (
  occurredAt: SQLWrapper,
  id: SQLWrapper,
  after: { occurredAt: Date; id: string },
): SQL => {
  const time = after.occurredAt.toISOString()
  return sql`(${occurredAt}, ${id}) < (${time}, ${after.id}) and ${occurredAt} <= ${time}`
}

/** The row of a one-row statement that returns exactly one, or threw. */
export const only = <Row>(rows: Row[]): Row => rows[0] as Row
