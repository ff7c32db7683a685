import { and, desc, eq, lt, sql } from 'drizzle-orm'
import { only, type RawRow, rowsOf, run } from '../database.ts'
import { NotFoundError, ValidationError } from '../errors.ts'
import { ReservationError, UnpricedError } from '../guard-errors.ts'
import { uuidV7 } from '../schema/columns.ts'
import { type Reservation, reservationState, reservations } from '../schema/costs-budgets.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkBigint,
  checkInstant,
  checkInteger,
  checkLimit,
  checkOneOf,
  checkProvider,
  checkText,
  checkUuid,
  MAX_MODEL,
} from '../validation.ts'
import { type ExceededBudget, windowFrom } from './charging.ts'
import { OWN_KEYS } from './ledger.ts'
import { type CallEstimate, estimateCost, listPrices, type UsageCounts } from './prices.ts'
import { checkUsage, type RecordedUsage, type RecordUsageOptions, writeUsages } from './usage.ts'

const MAX_PAGE = 500
const DAY_MS = 86_400_000
const LEASE_MS = 300_000

export interface ReserveOptions extends CallEstimate {
  provider: string
  /** As it is called in `costs.model_prices`. */
  model: string
  /** What the call costs at most, where the caller knows: no price is looked up then. 0n passes any budget. */
  amountNanos?: bigint
  /** The user in scope unless said, and nobody (null) for a service. */
  userId?: string | null
  projectId?: string | null
  /** After how long the amount is given back unless it is settled; five minutes unless said, up to a day. */
  leaseMs?: number
}

export interface HeldReservation {
  id: string
  /** Nano-dollars. */
  amountNanos: bigint
  createdAt: Date
  /** By the database's clock. */
  leasedUntil: Date
}

/** A budget that has no room for an amount. */
export interface BlockingBudget extends ExceededBudget {
  /**
   * When it may have room: when enough of what is reserved is over, at the latest at the end of its window.
   * Null: never by itself, since the amount is above the limit, or the budget is a total that is spent.
   */
  freesUpAt: Date | null
}

export type ReserveOutcome =
  | { granted: true; reservation: HeldReservation }
  | {
      granted: false
      amountNanos: bigint
      /** All that have no room, in the order in which they were made. */
      blockedBy: BlockingBudget[]
      /** When all of them may have room; null if one never has. */
      freesUpAt: Date | null
    }

/**
 * Reserves what a call may cost at most in every budget that it belongs to, or in none: the organization's,
 * its user's, its project's and its model's. Never beyond a limit, however many ask at once. A budget that only
 * warns blocks nothing, and a call that costs nothing passes.
 *
 * Whoever asks next waits until the transaction ends: reserve in one of its own, and not around the call.
 *
 * @throws {UnpricedError} if no price of the model is known, and no amount was given.
 * @throws {ForbiddenError} for another member's userId, unless the scope is an admin's.
 * @throws {LockError} `deadlock`, for several reservations in one transaction.
 * @throws {ValidationError} also for neither an amount nor any count.
 */
export async function reserve(
  { db, userId: scopedUser }: Tenant,
  {
    provider,
    model,
    amountNanos,
    userId = scopedUser ?? null,
    projectId = null,
    leaseMs = LEASE_MS,
    ...estimate
  }: ReserveOptions,
): Promise<ReserveOutcome> {
  checkProvider('provider', provider)
  checkText('model', model, { max: MAX_MODEL })
  if (userId !== null) checkUuid('userId', userId)
  if (projectId !== null) checkUuid('projectId', projectId)
  checkLease(leaseMs)
  if (amountNanos !== undefined) checkBigint('amountNanos', amountNanos)
  const amount = amountNanos ?? (await estimated({ db }, { provider, model, ...estimate }))

  const id = uuidV7()
  const { isGranted, createdAt, leasedUntil, blocked } = only(
    await rowsOf<RawOutcome>(
      db,
      sql`
        select is_granted as "isGranted", created_at as "createdAt", leased_until as "leasedUntil", blocked
        from costs.reserve(${id}, ${userId}, ${projectId}, ${provider}, ${model}, ${amount}, ${leaseMs})`,
    ),
  )
  if (isGranted) {
    const [from, until] = [new Date(createdAt), new Date(leasedUntil)]
    return {
      granted: true,
      reservation: { id, amountNanos: amount, createdAt: from, leasedUntil: until },
    }
  }
  const blockedBy = blocked.map(({ freesUpAt, ...budget }) => ({
    ...windowFrom(budget),
    freesUpAt: freesUpAt === null ? null : new Date(freesUpAt),
  }))
  return { granted: false, amountNanos: amount, blockedBy, freesUpAt: latest(blockedBy) }
}

interface RawOutcome {
  isGranted: boolean
  createdAt: string
  leasedUntil: string
  blocked: (RawRow<ExceededBudget> & { freesUpAt: string | null })[]
}

const checkLease = (leaseMs: number) => checkInteger('leaseMs', leaseMs, { min: 100, max: DAY_MS })

async function estimated(
  { db }: Pick<Tenant, 'db'>,
  { provider, model, ...estimate }: CallEstimate & { provider: string; model: string },
): Promise<bigint> {
  // Refuses what is wrong with the counts before any price is read.
  estimateCost([], estimate)
  const prices = await listPrices(db, { provider, model, at: new Date(), limit: MAX_PAGE })
  const cost = estimateCost(prices, estimate)
  if (cost === undefined) throw new UnpricedError(provider, model)
  // It would pass any budget.
  const isCounted = Object.values(estimate).some((count) => count !== undefined)
  if (cost === 0n && !isCounted && prices.some(({ nanosPerMillion }) => nanosPerMillion > 0n)) {
    const problem = 'is needed, or what the call may use: inputTokens and maxOutputTokens, say'
    throw new ValidationError('amountNanos', problem)
  }
  return cost
}

const latest = (budgets: readonly BlockingBudget[]): Date | null => {
  const times = budgets.map(({ freesUpAt }) => freesUpAt?.getTime() ?? Number.POSITIVE_INFINITY)
  const last = Math.max(...times)
  return Number.isFinite(last) ? new Date(last) : null
}

export interface SettleOptions
  extends UsageCounts,
    Partial<
      Pick<
        RecordUsageOptions,
        | 'model'
        | 'operation'
        | 'endpoint'
        | 'runId'
        | 'metadata'
        | 'latencyMs'
        | 'costNanos'
        | 'status'
      >
    > {
  /** The reservation's. */
  id: string
}

export interface SettledUsage extends RecordedUsage {
  /** The lease was over, so that others may have been granted what was given back. */
  late: boolean
  /** Blocking budgets of which more is spent and reserved than their limit now: the call cost more than reserved, or was late. */
  exceeded: ExceededBudget[]
}

/**
 * Ends a reservation with what the call did use: gives back what was held, and records the call in the ledger,
 * at the time at which it was reserved. Again, it changes nothing, and returns what was recorded.
 *
 * Also after the lease, and for more than was reserved, since the money is spent: `late` and `exceeded` say
 * so. What has no price is recorded at the amount reserved, as an estimate; so is a call of which no count is given.
 *
 * @throws {ReservationError} `released`: record the call by `recordUsage` if it was made after all.
 * @throws {NotFoundError} for an unknown one, or another member's. @throws {ValidationError} as `recordUsage`: the
 * reservation is held as before then.
 */
export async function settle(
  tenant: Tenant,
  { id, model, operation = 'call', ...usage }: SettleOptions,
): Promise<SettledUsage> {
  checkUuid('id', id)
  checkSettled({ model, operation, ...usage })
  const held = only(await resolve(tenant, id, 'settled'))
  const usages = [
    {
      ...{ ...usage, provider: held.provider, model: model ?? held.model, operation },
      ...{ userId: held.userId, projectId: held.projectId },
      estimateNanos: BigInt(held.amountNanos),
      occurredAt: new Date(held.createdAt),
      idempotencyKey: `${OWN_KEYS}reservation ${id.toLowerCase()}`,
    },
  ]
  const settled = held.was === 'settled' ? undefined : id
  const { recorded, exceeded } = await writeUsages(tenant, usages, { settled, ownKeys: true })
  return { ...only(recorded), late: held.isLate, exceeded }
}

/** Checks what a call is said to have used, before anything is asked of the database. @throws {ValidationError} */
export const checkSettled = ({ model, operation, ...usage }: Omit<SettleOptions, 'id'>) =>
  checkUsage('usage', {
    ...{ ...usage, provider: 'any', model: model ?? 'any', operation: operation ?? 'call' },
  })

/**
 * Gives back what was reserved for a call that was not made. Again, and after the lease, it changes nothing.
 *
 * @throws {ReservationError} `settled`. @throws {NotFoundError} for an unknown one, or another member's.
 * @throws {ValidationError}
 */
export async function release(tenant: Tenant, id: string): Promise<void> {
  checkUuid('id', id)
  await resolve(tenant, id, 'released')
}

const resolve = ({ db }: Tenant, id: string, outcome: 'settled' | 'released') =>
  rowsOf<{
    was: Reservation['state']
    isLate: boolean
    userId: string | null
    projectId: string | null
    provider: string
    model: string
    amountNanos: string
    createdAt: string
  }>(
    db,
    sql`
      select was, is_late as "isLate", user_id as "userId", project_id as "projectId", provider, model,
        amount_nanos::text as "amountNanos", created_at as "createdAt"
      from costs.resolve_reservation(${id}, ${outcome})`,
  )

export interface ExtendReservationOptions {
  id: string
  /** From now on; five minutes unless said, up to a day. */
  leaseMs?: number
}

/**
 * Holds a reservation for longer. Returns until when, which is never earlier than before.
 *
 * @throws {ReservationError} `ended` if it is not held any more. @throws {ValidationError}
 */
export async function extendReservation(
  { db }: Tenant,
  { id, leaseMs = LEASE_MS }: ExtendReservationOptions,
): Promise<Date> {
  checkUuid('id', id)
  checkLease(leaseMs)
  const { until } = only(
    await rowsOf<{ until: string | null }>(
      db,
      sql`select costs.extend_reservation(${id}, ${leaseMs}) as until`,
    ),
  )
  if (until === null) throw new ReservationError('ended', id)
  return new Date(until)
}

/**
 * Gives back what is held by reservations of the organization whose lease is over. Returns how many these
 * were. Nothing waits for it: `reserve` does the same when there would be no room.
 *
 * @throws {ValidationError}
 */
export async function expireReservations(
  { db }: Tenant,
  { limit = 1_000 }: { limit?: number } = {},
): Promise<number> {
  checkLimit(limit, 10_000)
  const { count } = only(
    await rowsOf<{ count: number }>(db, sql`select costs.expire_reservations(${limit}) as count`),
  )
  return count
}

export interface PurgeReservationsOptions {
  /** How old one is at least. A reservation that is gone cannot be settled again. */
  olderThanMs: number
  /** How many at a time; up to 10,000. */
  limit?: number
}

/** Deletes old reservations that are not held, oldest first; none for members below admin. Returns how many. @throws {ValidationError} */
export async function purgeReservations(
  { db }: Tenant,
  { olderThanMs, limit = 1_000 }: PurgeReservationsOptions,
): Promise<number> {
  checkInteger('olderThanMs', olderThanMs, { min: DAY_MS })
  checkLimit(limit, 10_000)
  // An id begins with its time.
  const time = Math.max(0, Date.now() - olderThanMs)
    .toString(16)
    .padStart(12, '0')
  const before = `${time.slice(0, 8)}-${time.slice(8)}-7000-8000-000000000000`
  const { count } = only(
    await rowsOf<{ count: number }>(
      db,
      sql`select costs.purge_reservations(${before}, ${limit}) as count`,
    ),
  )
  return count
}

/** Returns a reservation. @throws {NotFoundError} for an unknown one, or another member's. @throws {ValidationError} */
export async function getReservation(
  { db, organizationId }: Tenant,
  id: string,
): Promise<Reservation> {
  checkUuid('id', id)
  const [found] = await run(
    db
      .select()
      .from(reservations)
      .where(and(eq(reservations.organizationId, organizationId), eq(reservations.id, id))),
  )
  if (!found) throw new NotFoundError('reservation', id)
  return found
}

export interface ListReservationsOptions {
  state?: Reservation['state']
  /** The earliest time at which one was made. */
  since?: Date
  /** The id of the last one of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists reservations, newest first: to admins all, to other members their own. @throws {ValidationError} */
export async function listReservations(
  { db, organizationId }: Tenant,
  { state, since, after, limit = 50 }: ListReservationsOptions = {},
): Promise<Reservation[]> {
  if (state !== undefined) checkOneOf('state', state, reservationState.enumValues)
  if (since !== undefined) checkInstant('since', since)
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, MAX_PAGE)
  return run(
    db
      .select()
      .from(reservations)
      .where(
        and(
          eq(reservations.organizationId, organizationId),
          state && eq(reservations.state, state),
          since && sql`${reservations.createdAt} >= ${since.toISOString()}`,
          after !== undefined ? lt(reservations.id, after) : undefined,
        ),
      )
      .orderBy(desc(reservations.id))
      .limit(limit),
  )
}
