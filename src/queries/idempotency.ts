import { createHash } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { type SQL, sql } from 'drizzle-orm'
import { only, rowsOf } from '../database.ts'
import { ConnectionError, TimeoutError, TransactionError, ValidationError } from '../errors.ts'
import { IdempotencyError } from '../guard-errors.ts'
import { uuidV7 } from '../schema/columns.ts'
import { type Tenancy, type Tenant, withTenant } from '../tenant.ts'
import { checkFunction, checkInteger, checkJsonValue, checkText, checkUuid } from '../validation.ts'
import { askUntil, isTransaction, keepLease, LEASE_BOUNDS, MAX_WAIT_MS } from './leases.ts'

/** A key while its work is done. */
export interface Claim {
  readonly key: string
  readonly id: string
  /** From 1; above it, a holder before died or was too slow, and may have done a part. */
  readonly attempts: number
  /** Aborts when the lease may be lost. Its reason is an IdempotencyError. */
  readonly signal: AbortSignal
}

export interface IdempotentlyOptions {
  /** The caller's name for this one request, such as an Idempotency-Key header. Up to 200 characters. */
  key: string
  /** What is asked for, as JSON: under the same key it has to be the same. Only its hash is stored. */
  request: unknown
  /** After how long the key of a holder that has died is free, in milliseconds; from 100 to a day. */
  leaseMs?: number
  /** How long the answer is stored, in milliseconds; a year at most. */
  retentionMs?: number
  /** The largest answer to store, as JSON; 1,000,000 at most. */
  maxResponseBytes?: number
  /** How long to wait for another call with the key, in milliseconds; 0 unless said. */
  waitMs?: number
}

export interface Idempotent<T> {
  /** What `work` returned; replayed, what JSON has kept of it. */
  value: T
  /** Whether it was stored, and `work` did not run. */
  replayed: boolean
}

interface Claimed {
  outcome: 'claimed' | 'conflict' | 'completed' | 'not_kept' | 'in_progress'
  attempts: number | null
  response: string | null
  lease_left_ms: number | null
}

const YEAR_MS = 366 * 86_400_000

/**
 * Does a piece of work once, however often it is asked for: the first call under a key runs `work` and stores what it
 * returns, and each later one is given that. Each user of an organization has keys of the own, and so has the service:
 * nobody finds out, or blocks, what another has asked for.
 *
 * Out of scope, the key is claimed in one transaction and completed in another, and `work` runs in neither. The lease is
 * extended while it runs. If it throws, the key is free again; if the process dies, it is after the lease, and the work
 * is done anew: let its writes be in one transaction with `checkClaim`, or know the key themselves. Within a scope
 * everything is in that transaction, which commits the work and its key, or neither; others wait for its end.
 *
 * @throws {IdempotencyError} `in_progress` after `waitMs`; `conflict` for another request; `not_kept` for an answer that
 * was no JSON or too large; `lost` when the lease ran out before `work` ended, and another call has the key.
 * @throws {ForbiddenError} as `inTenant`. @throws {ValidationError}; and what `work` throws.
 */
export async function idempotently<T>(
  tenancy: Tenancy,
  options: IdempotentlyOptions,
  work: (claim: Claim) => Promise<T>,
): Promise<Idempotent<T>> {
  const { key, request, leaseMs = 60_000, retentionMs = 86_400_000, waitMs = 0 } = options
  const { maxResponseBytes = 65_536 } = options
  checkFunction('work', work)
  checkText('key', key, { max: 200 })
  checkInteger('leaseMs', leaseMs, LEASE_BOUNDS)
  checkInteger('retentionMs', retentionMs, { min: 1, max: YEAR_MS })
  checkInteger('waitMs', waitMs, { max: MAX_WAIT_MS })
  checkInteger('maxResponseBytes', maxResponseBytes, { max: 1_000_000 })
  const fingerprint = createHash('sha256').update(canonicalJson('request', request)).digest('hex')

  const id = uuidV7()
  let since = performance.now()
  const found = await askUntil(
    waitMs,
    ({ outcome }) => outcome !== 'in_progress',
    () => {
      since = performance.now()
      const args = sql`${key}, ${fingerprint}, ${id}::uuid, ${leaseMs}::integer, ${retentionMs}::bigint`
      return call<Claimed>(tenancy, 'claim_key', args)
    },
  )
  if (found.outcome === 'completed') {
    return { value: replayedAs<T>(found.response), replayed: true }
  }
  if (found.outcome !== 'claimed') {
    const left = found.lease_left_ms === null ? undefined : Math.max(found.lease_left_ms, 1)
    throw new IdempotencyError(found.outcome, key, left)
  }

  const lost = () => new IdempotencyError('lost', key)
  const { signal, stop } = keepLease({
    ...{ db: tenancy.db, leaseMs, since, lost },
    extend: () => extend(tenancy, { key, id }, options),
  })
  const args = sql`${key}, ${id}::uuid`
  let value: T
  try {
    value = await work({ key, id, attempts: found.attempts ?? 1, signal })
  } catch (error) {
    await stop()
    // It frees itself, where the database is away or the transaction is lost.
    await call(tenancy, 'release_key', args).catch(() => {})
    throw error
  }
  try {
    const { answer, kept } = writeAnswer(value, maxResponseBytes)
    const result = sql`${args}, ${answer}::text, ${kept}::boolean, ${retentionMs}::bigint`
    if (await complete(tenancy, result, signal)) return { value, replayed: false }
  } finally {
    await stop()
  }
  throw lost()
}

/** Time between two attempts to store what was done, in milliseconds. */
const STORE_AGAIN_MS = 100

/**
 * Stores what was done, for as long as the key is certainly held: a connection that is lost then would have it done
 * again.
 */
async function complete(tenancy: Tenancy, result: SQL, held: AbortSignal): Promise<boolean> {
  for (;;) {
    try {
      return (await call<{ answer: boolean }>(tenancy, 'complete_key', result)).answer
    } catch (error) {
      const mayPass = error instanceof ConnectionError || error instanceof TimeoutError
      if (!mayPass || held.aborted || isTransaction(tenancy.db)) throw error
      await pause(STORE_AGAIN_MS)
    }
  }
}

async function extend(
  tenancy: Tenancy,
  { key, id }: Pick<Claim, 'key' | 'id'>,
  { leaseMs = 60_000, retentionMs = 86_400_000 }: IdempotentlyOptions,
): Promise<boolean> {
  const args = sql`${key}, ${id}::uuid, ${leaseMs}::integer, ${retentionMs}::bigint`
  return (await call<{ answer: boolean }>(tenancy, 'extend_key', args)).answer
}

/**
 * Fences the writes of a transaction to a claim: from here to its end nobody else gets the key, however long the
 * holder pauses.
 *
 * @throws {IdempotencyError} `lost`, when the lease has run out. @throws {TransactionError} outside of a transaction.
 * @throws {ValidationError}
 */
export async function checkClaim(
  tenant: Tenant,
  { key, id }: Pick<Claim, 'key' | 'id'>,
): Promise<void> {
  checkText('claim.key', key, { max: 200 })
  checkUuid('claim.id', id)
  if (!isTransaction(tenant.db)) {
    throw new TransactionError(
      'checkClaim holds until its transaction ends: call it in the one that writes',
    )
  }
  const { answer } = await call<{ answer: boolean }>(tenant, 'check_key', sql`${key}, ${id}::uuid`)
  if (!answer) throw new IdempotencyError('lost', key)
}

async function call<Row>(tenancy: Tenancy, name: string, args: SQL): Promise<Row> {
  const query = sql`select * from ${sql.raw(`ops.${name}`)}(${args}) as answer`
  return only(await withTenant(tenancy, ({ db }) => rowsOf<Row>(db, query)))
}

/** JSON that is the same for the same value, whatever order its members came in: RFC 8785. */
function canonicalJson(argument: string, value: unknown): string {
  const sorted = (at: unknown): unknown => {
    if (Array.isArray(at)) return at.map(sorted)
    if (typeof at !== 'object' || at === null) return at
    // As pairs, since an object has keys that are numbers first.
    return {
      members: Object.entries(at)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([name, member]) => [name, sorted(member)]),
    }
  }
  return JSON.stringify(sorted(JSON.parse(checkJsonValue(argument, value))))
}

/** An answer as it is stored: null for undefined, which JSON has not, and for what is not kept. */
function writeAnswer(value: unknown, maxBytes: number): { answer: string | null; kept: boolean } {
  if (value === undefined) return { answer: null, kept: true }
  try {
    const answer = checkJsonValue('response', value)
    if (Buffer.byteLength(answer) <= maxBytes) return { answer, kept: true }
  } catch (error) {
    if (!(error instanceof ValidationError)) throw error
  }
  return { answer: null, kept: false }
}

/** A stored answer, as the type of the work that had given it. */
const replayedAs = <T>(response: string | null): T =>
  (response === null ? undefined : JSON.parse(response)) as T
