import { setTimeout as pause } from 'node:timers/promises'
import { is, sql } from 'drizzle-orm'
import { PgAsyncTransaction } from 'drizzle-orm/pg-core'
import { type Database, mapErrors, only, rowsOf, withSession } from '../database.ts'
import { LockError, ValidationError } from '../errors.ts'
import { getSpace } from '../queries/spaces.ts'
import type { Space } from '../schema/search.ts'
import { checkInteger, checkText } from '../validation.ts'

const POLL_MS = 500

/** What HNSW calls each distance, of halfvec. */
const OPERATORS: Record<Space['distance'], string> = {
  cosine: 'halfvec_cosine_ops',
  l2: 'halfvec_l2_ops',
  inner_product: 'halfvec_ip_ops',
}

export interface IndexProgress {
  /** As Postgres names it, such as `building index: loading tuples`. */
  phase: string
  /** Vectors in the index so far. */
  vectors: number
  /** How much of the partition was read, from 0 to 1; null where that is not known. */
  done: number | null
}

export interface BuildSpaceIndexOptions {
  /**
   * What the build may take, such as `2GB`; 256MB unless said. It bounds the build, and does not fail it:
   * what does not fit is inserted one by one, several times slower.
   */
  maintenanceMemory?: string
  /** Beside the one that builds, up to 64; as the server is set unless said. */
  parallelWorkers?: number
  /** How long another one that builds the same is waited for, in milliseconds; an hour unless said. */
  maxWaitMs?: number
  /** Called twice a second, where the database has a second connection to ask on. */
  onProgress?: (progress: IndexProgress) => void
  /** Ends it, and leaves nothing half done. */
  signal?: AbortSignal
}

export interface BuiltSpaceIndex {
  /** False if it was there already. */
  built: boolean
  durationMs: number
}

/**
 * Builds the HNSW index of a space that was created with `index: 'later'`, once it is filled: while others
 * read and write, with bounded memory. Idempotent; of two at once, one builds and the other waits for it.
 * What an interrupted build has left is removed first.
 *
 * Within a transaction, writers of the space wait until it has ended.
 *
 * @throws {ForbiddenError} for who does not own the tables. @throws {NotFoundError} for an unknown space.
 * @throws {LockError} if another one builds it for longer than `maxWaitMs`. @throws {ValidationError}
 * @throws the signal's reason.
 */
export async function buildSpaceIndex(
  db: Database,
  id: string,
  options: BuildSpaceIndexOptions = {},
): Promise<BuiltSpaceIndex> {
  const { maintenanceMemory = '256MB', parallelWorkers, maxWaitMs = 3_600_000, signal } = options
  checkText('maintenanceMemory', maintenanceMemory, { max: 20 })
  if (!/^[1-9]\d{0,5}(MB|GB)$/.test(maintenanceMemory)) {
    throw new ValidationError('maintenanceMemory', 'must be a size such as 512MB or 2GB')
  }
  if (parallelWorkers !== undefined) checkInteger('parallelWorkers', parallelWorkers, { max: 64 })
  checkInteger('maxWaitMs', maxWaitMs, { max: 86_400_000 })
  await checkMemory(db, maintenanceMemory)
  const space = await getSpace(db, id)
  const started = performance.now()
  const settings = {
    maintenance_work_mem: maintenanceMemory,
    ...(parallelWorkers !== undefined && {
      max_parallel_maintenance_workers: `${parallelWorkers}`,
    }),
    statement_timeout: '0',
    lock_timeout: '0',
  }
  const built = await withSession(db, async (session) => {
    await takeTurn(session, space, maxWaitMs, signal)
    const before = await readSettings(session, Object.keys(settings))
    try {
      await applySettings(session, settings)
      return await build(db, session, space, options)
    } finally {
      // The embedded database lends its only session.
      await applySettings(session, before).catch(() => {})
      await rowsOf(session, sql`select pg_advisory_unlock(${lockOf(space)})`).catch(() => {})
    }
  })
  return { built, durationMs: Math.round(performance.now() - started) }
}

/** What the server takes depends on what it was built for. */
async function checkMemory(db: Database, memory: string): Promise<void> {
  const { isTooMuch } = only(
    await rowsOf<{ isTooMuch: boolean }>(
      db,
      sql`select pg_size_bytes(${memory}) > max_val::bigint * 1024 as "isTooMuch"
        from pg_catalog.pg_settings where name = 'maintenance_work_mem'`,
    ),
  )
  if (isTooMuch) throw new ValidationError('maintenanceMemory', 'is more than the server takes')
}

const lockOf = ({ id }: Space) => sql`hashtextextended(${`plinth.space_index ${id}`}, 0)`

/** Polled: a statement that waited for the lock would be waited for by the build, and both for ever. */
async function takeTurn(
  session: Database,
  space: Space,
  maxWaitMs: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const deadline = performance.now() + maxWaitMs
  for (;;) {
    signal?.throwIfAborted()
    const { isOurs } = only(
      await rowsOf<{ isOurs: boolean }>(
        session,
        sql`select pg_try_advisory_lock(${lockOf(space)}) as "isOurs"`,
      ),
    )
    if (isOurs) return
    if (performance.now() > deadline) throw new LockError('not_available')
    await pause(POLL_MS, undefined, { signal })
  }
}

async function readSettings(session: Database, names: readonly string[]) {
  const reads = names.map((name) => sql`current_setting(${name}) as ${sql.identifier(name)}`)
  return only(
    await rowsOf<Record<string, string>>(session, sql`select ${sql.join(reads, sql`, `)}`),
  )
}

async function applySettings(session: Database, settings: Record<string, string>): Promise<void> {
  const calls = Object.entries(settings).map(
    ([name, value]) => sql`set_config(${name}, ${value}, false)`,
  )
  await rowsOf(session, sql`select ${sql.join(calls, sql`, `)}`)
}

/** Builds it unless it is there. Returns whether it did. */
async function build(
  db: Database,
  session: Database,
  { id, dimensions, distance }: Space,
  { onProgress, signal }: BuildSpaceIndexOptions,
): Promise<boolean> {
  const table = `embeddings_${id.replaceAll('-', '')}`
  const index = `${table}_hnsw`
  const [found] = await rowsOf<{ isValid: boolean }>(
    session,
    sql`select indisvalid as "isValid" from pg_catalog.pg_index
      where indexrelid = to_regclass(${`partitions.${index}`})`,
  )
  if (found?.isValid) return false
  const concurrently = sql.raw(is(db, PgAsyncTransaction) ? '' : 'concurrently')
  const drop = () =>
    mapErrors(() =>
      session.execute(
        sql`drop index ${concurrently} if exists partitions.${sql.identifier(index)}`,
      ),
    )
  if (found) await drop()
  const stop = await watch(db, session, onProgress, signal)
  try {
    signal?.throwIfAborted()
    const type = sql.raw(`public.halfvec(${dimensions})`)
    await mapErrors(() =>
      session.execute(sql`create index ${concurrently} ${sql.identifier(index)}
        on partitions.${sql.identifier(table)}
        using hnsw ((embedding::${type}) public.${sql.identifier(OPERATORS[distance])})`),
    )
    return true
  } catch (error) {
    // Of no use as it is, and a burden on every write.
    await drop().catch(() => {})
    signal?.throwIfAborted()
    throw error
  } finally {
    stop()
  }
}

/** Says how far the build is, and ends it at a signal, over another connection. Returns what ends that. */
async function watch(
  db: Database,
  session: Database,
  onProgress: ((progress: IndexProgress) => void) | undefined,
  signal: AbortSignal | undefined,
): Promise<() => void> {
  const { pid } = only(await rowsOf<{ pid: number }>(session, sql`select pg_backend_pid() as pid`))
  let isAsking = false
  const ask = async () => {
    if (isAsking) return
    isAsking = true
    try {
      const [row] = await rowsOf<{ phase: string; vectors: string; done: number | null }>(
        db,
        sql`select phase, tuples_done as vectors, blocks_done::float8 / nullif(blocks_total, 0) as done
          from pg_catalog.pg_stat_progress_create_index where pid = ${pid}`,
      )
      if (row) onProgress?.({ ...row, vectors: Number(row.vectors) })
    } catch {
      // Without a second connection nothing is said; the build goes on.
    } finally {
      isAsking = false
    }
  }
  const timer = onProgress && setInterval(() => void ask(), POLL_MS)
  const cancel = () => void rowsOf(db, sql`select pg_cancel_backend(${pid})`).catch(() => {})
  signal?.addEventListener('abort', cancel, { once: true })
  return () => {
    clearInterval(timer)
    signal?.removeEventListener('abort', cancel)
  }
}
