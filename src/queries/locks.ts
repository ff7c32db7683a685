import { type SQL, sql } from 'drizzle-orm'
import { type Database, only, rowsOf } from '../database.ts'
import { TransactionError, ValidationError } from '../errors.ts'
import { LockHeldError, LockLostError } from '../guard-errors.ts'
import { type Tenancy, withTenant } from '../tenant.ts'
import { checkFunction, checkInteger, checkText } from '../validation.ts'
import { askUntil, isTransaction, keepLease, LEASE_BOUNDS, MAX_WAIT_MS } from './leases.ts'

/** Where a lock is: with whom it acts for, in the organization; on a database alone, of the platform. */
export type LockPlace = Database | Tenancy

/** A lock as one holder has it. */
export interface Lock {
  readonly name: string
  /** The fencing token: greater than that of every holder before. */
  readonly token: bigint
}

/** A lock while `withLock` holds it. */
export interface HeldLock extends Lock {
  /** Aborts when the lease may be lost. Its reason is a LockLostError. */
  readonly signal: AbortSignal
}

export interface AcquireLockOptions {
  /** Unique in the organization, or among the locks of the platform. Up to 200 characters. */
  name: string
  /** How long it holds unless it is extended, by the database's clock; from 100 ms to a day. */
  leaseMs?: number
  /** Who holds it, for those who wait: a worker's name, say. */
  holder?: string
}

interface Acquired {
  /** Null: it is taken. */
  token: string | null
  held_by: string | null
  lease_left_ms: number | null
}

const dbOf = (place: LockPlace): Database => ('organizationId' in place ? place.db : place)

/** Calls a function of the place: a lock of an organization is reached within its scope only. */
async function call<Row>(
  place: LockPlace,
  verb: 'acquire' | 'extend' | 'release' | 'check',
  args: SQL,
): Promise<Row> {
  const ask = (db: Database, kind: string) =>
    rowsOf<Row>(db, sql`select * from ${sql.raw(`ops.${verb}_${kind}`)}(${args}) as answer`)
  const rows =
    'organizationId' in place
      ? await withTenant(place, ({ db }) => ask(db, 'tenant_lock'))
      : await ask(place, 'lock')
  return only(rows)
}

function checkAcquire({ name, leaseMs, holder }: AcquireLockOptions): void {
  checkText('name', name, { max: 200 })
  checkInteger('leaseMs', leaseMs, LEASE_BOUNDS)
  if (holder !== undefined) checkText('holder', holder, { max: 200 })
}

function checkIsLock({ name, token }: Lock): void {
  checkText('lock.name', name, { max: 200 })
  if (typeof token !== 'bigint' || token < 1n || token > 2n ** 63n - 1n) {
    throw new ValidationError('lock.token', 'must be the bigint that acquireLock returned')
  }
}

const acquire = (place: LockPlace, { name, leaseMs, holder }: AcquireLockOptions) =>
  call<Acquired>(
    place,
    'acquire',
    sql`${name}, ${holder ?? null}::text, ${leaseMs ?? null}::integer`,
  )

/**
 * Acquires a lock, in one statement, or returns undefined when it is taken. Whoever has it extends it in time, and
 * releases it: `withLock` does both.
 *
 * Within a transaction the lock is the holder's until that ends at least, and rolling back gives it up.
 *
 * @throws {ForbiddenError} as `inTenant`. @throws {ValidationError}
 */
export async function acquireLock(
  place: LockPlace,
  { name, leaseMs = 30_000, holder }: AcquireLockOptions,
): Promise<Lock | undefined> {
  checkAcquire({ name, leaseMs, holder })
  const { token } = await acquire(place, { name, leaseMs, holder })
  return token === null ? undefined : { name, token: BigInt(token) }
}

export interface ExtendLockOptions {
  /** From now on, by the database's clock; from 100 ms to a day. */
  leaseMs?: number
}

/**
 * Goes on with a lease, in one statement. One that has run out does not come back.
 *
 * @throws {LockLostError} also for a lock that was released. @throws {ValidationError}
 */
export async function extendLock(
  place: LockPlace,
  lock: Lock,
  { leaseMs = 30_000 }: ExtendLockOptions = {},
): Promise<void> {
  checkIsLock(lock)
  checkInteger('leaseMs', leaseMs, LEASE_BOUNDS)
  if (!(await extend(place, lock, leaseMs))) throw new LockLostError(lock.name, lock.token)
}

async function extend(place: LockPlace, { name, token }: Lock, leaseMs: number): Promise<boolean> {
  const args = sql`${name}, ${String(token)}::bigint, ${leaseMs}::integer`
  return (await call<{ answer: boolean }>(place, 'extend', args)).answer
}

/** Releases a lock, in one statement. One that was lost or released before stays as it is. @throws {ValidationError} */
export async function releaseLock(place: LockPlace, lock: Lock): Promise<void> {
  checkIsLock(lock)
  await release(place, lock)
}

/** Returns whether nobody has had the lock since. */
async function release(place: LockPlace, { name, token }: Lock): Promise<boolean> {
  const args = sql`${name}, ${String(token)}::bigint`
  return (await call<{ answer: boolean }>(place, 'release', args)).answer
}

/**
 * Fences the writes of a transaction: from here to its end nobody else gets the lock, however long the holder pauses.
 * Call it in the transaction that writes, before it ends: `checkLock(tenant, lock)` for a lock of the organization,
 * `checkLock(tx, lock)` for one of the platform.
 *
 * @throws {LockLostError} unless the token is the newest and its lease goes on, by the database's clock.
 * @throws {TransactionError} outside of a transaction, where it would hold for nothing.
 * @throws {ValidationError}
 */
export async function checkLock(place: LockPlace, lock: Lock): Promise<void> {
  checkIsLock(lock)
  if (!isTransaction(dbOf(place))) {
    throw new TransactionError(
      'checkLock holds until its transaction ends: call it in the one that writes',
    )
  }
  const args = sql`${lock.name}, ${String(lock.token)}::bigint`
  const { answer } = await call<{ answer: boolean }>(place, 'check', args)
  if (!answer) throw new LockLostError(lock.name, lock.token)
}

export interface WithLockOptions extends AcquireLockOptions {
  /** How long to wait for the holder before, in milliseconds; 0 unless said. */
  waitMs?: number
}

/**
 * Runs `work` as the only holder of a lock, and releases it. Until then the lease is extended three times in its
 * length. It is no session's lock: it holds behind a pooler too, and its holder's death frees it after the lease.
 *
 * A holder that pauses for longer than its lease does not know that it has lost the lock. Its writes are fenced by
 * `checkLock` in their transaction; elsewhere, by sending `lock.token` along and refusing one below the greatest seen.
 *
 * Within a transaction nobody else has the lock before that ends, and nothing is extended.
 *
 * @throws {LockHeldError} when another has it, after `waitMs`: `work` has not run.
 * @throws {LockLostError} when another has had it before `work` ended; what `work` throws goes first.
 * @throws {ForbiddenError} as `inTenant`. @throws {ValidationError}
 */
export async function withLock<T>(
  place: LockPlace,
  { name, leaseMs = 30_000, waitMs = 0, holder }: WithLockOptions,
  work: (lock: HeldLock) => Promise<T>,
): Promise<T> {
  checkFunction('work', work)
  checkAcquire({ name, leaseMs, holder })
  checkInteger('waitMs', waitMs, { max: MAX_WAIT_MS })
  let since = performance.now()
  const acquired = await askUntil(
    waitMs,
    ({ token }) => token !== null,
    () => {
      since = performance.now()
      return acquire(place, { name, leaseMs, holder })
    },
  )
  if (acquired.token === null) {
    throw new LockHeldError(
      name,
      acquired.held_by ?? undefined,
      Math.max(acquired.lease_left_ms ?? 0, 1),
    )
  }

  const lock: Lock = { name, token: BigInt(acquired.token) }
  const lost = () => new LockLostError(name, lock.token)
  const { signal, stop } = keepLease({
    ...{ db: dbOf(place), leaseMs, since, lost },
    extend: () => extend(place, lock, leaseMs),
  })
  try {
    const result = await work({ ...lock, signal })
    await stop()
    if (!(await release(place, lock))) throw lost()
    return result
  } catch (error) {
    await stop()
    // It ends by itself, where the database is away or the transaction is lost.
    await release(place, lock).catch(() => {})
    throw error
  }
}
