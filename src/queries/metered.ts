import { setTimeout as pause } from 'node:timers/promises'
import { ConnectionError, LockError, TimeoutError } from '../errors.ts'
import { BudgetExceededError, IdempotencyError, ReservationError } from '../guard-errors.ts'
import { type Tenancy, withTenant } from '../tenant.ts'
import { checkBigint, checkFunction, checkText } from '../validation.ts'
import { idempotently } from './idempotency.ts'
import { keepLease } from './leases.ts'
import {
  checkSettled,
  extendReservation,
  type HeldReservation,
  type ReserveOptions,
  release,
  reserve,
  type SettledUsage,
  type SettleOptions,
  settle,
} from './reservations.ts'

/** What a call did use, or cost. */
export type ReportedUsage = Omit<SettleOptions, 'id' | 'operation' | 'endpoint' | 'runId'>

export interface MeteredCall {
  reservation: HeldReservation
  /**
   * Says what the call did use: the last report counts, also if the call throws after it. A call that ends
   * without one is taken to have cost what was reserved, as an estimate.
   *
   * @throws {ValidationError} for what cannot be.
   */
  report(usage: ReportedUsage): void
  /** Aborts when the amount is not held any more, since nobody could extend the lease. */
  signal: AbortSignal
}

export interface MeteredOptions
  extends ReserveOptions,
    Pick<SettleOptions, 'operation' | 'endpoint' | 'runId' | 'metadata'> {
  /**
   * Of calls with one key one is made, also when they race: the others get its value, as JSON has it. A call
   * that throws is no call, and may be made again.
   */
  idempotencyKey?: string
  /** With a key: how long to wait for another call under it; not at all unless said. */
  waitMs?: number
  /**
   * Is told that the ledger did not take a call that was made. Without it `metered` throws then, and the value is lost,
   * unless there is a key: the next call with it settles this one, and gets its value.
   */
  onUnsettled?: (error: unknown, usage: SettleOptions) => void
}

export interface Metered<T> {
  value: T
  /** What was recorded, of an earlier call that is replayed too; undefined if it was not settled. */
  usage: SettledUsage | undefined
  /** The value is that of an earlier call with the same key. */
  replayed: boolean
}

/** How often the ledger is asked to take a call, and for how long to wait in between at first. */
const ATTEMPTS = 4
const FIRST_RETRY_MS = 100

/**
 * Calls a model within its budgets: reserves what the call can cost at most, makes it, and settles it by what
 * it reports. If it throws, what was reserved is given back.
 *
 * Outside of a scope, each step is a transaction of its own, and none is open during the call; the lease is
 * extended as long as it takes. Within one everything is in its transaction: others wait for the budgets until it
 * ends, and if it is rolled back, nothing is on record.
 *
 * With a key, the answer is kept before the call is settled, and whoever is given it again settles the call if that is
 * still to be done. What a process held that dies before that is given back when the lease ends, and its call is on no
 * ledger.
 *
 * @throws {BudgetExceededError} without calling, if a budget has no room. @throws {UnpricedError}
 * @throws {IdempotencyError} for a key that is in use, or that was used for something else.
 * @throws {ValidationError} as `reserve` and `settle`. @throws what `call` throws.
 */
export async function metered<T>(
  tenancy: Tenancy,
  { idempotencyKey, waitMs, onUnsettled, ...options }: MeteredOptions,
  call: (call: MeteredCall) => Promise<T>,
): Promise<Metered<T>> {
  checkFunction('call', call)
  const settling = async (usage: SettleOptions): Promise<SettledUsage | undefined> => {
    try {
      return await retried(() => withTenant(tenancy, (tenant) => settle(tenant, usage)))
    } catch (error) {
      if (!onUnsettled) throw error
      onUnsettled(error, usage)
    }
  }
  if (idempotencyKey === undefined) {
    const { value, used } = await run(tenancy, options, call, settling)
    return { value, usage: await settling(used), replayed: false }
  }
  checkText('idempotencyKey', idempotencyKey, { max: 190 })
  if (options.amountNanos !== undefined) checkBigint('amountNanos', options.amountNanos)
  const key = `metered ${idempotencyKey}`
  let made: Made<T> | undefined
  const { leaseMs, amountNanos, ...request } = options
  const { value: kept, replayed } = await idempotently(
    tenancy,
    {
      key,
      request: { ...request, amountNanos: amountNanos?.toString() },
      ...(leaseMs !== undefined && { leaseMs }),
      ...(waitMs !== undefined && { waitMs }),
    },
    async () => {
      made = await run(tenancy, options, call, settling)
      return { value: made.value, used: writeUsage(made.used) }
    },
  ).catch(async (error) => {
    // Whoever has the key by now: the call was made.
    if (made) await settling(made.used)
    if (!(error instanceof IdempotencyError) || error.key !== key) throw error
    // By the caller's name for it.
    throw new IdempotencyError(error.reason, idempotencyKey, error.retryAfterMs)
  })
  // After the answer is kept, and again with each replay: who dies in between has paid for a call that is not lost.
  const usage = await settling(readUsage(kept.used))
  return { value: kept.value, usage, replayed }
}

/** A call that was made, and what is to be settled. */
interface Made<T> {
  value: T
  used: SettleOptions
}

const writeUsage = ({ costNanos, ...usage }: SettleOptions) => ({
  ...usage,
  ...(costNanos != null && { costNanos: String(costNanos) }),
})

const readUsage = ({ costNanos, ...usage }: ReturnType<typeof writeUsage>): SettleOptions => ({
  ...usage,
  ...(costNanos !== undefined && { costNanos: BigInt(costNanos) }),
})

async function run<T>(
  tenancy: Tenancy,
  {
    operation,
    endpoint,
    runId,
    metadata,
    ...options
  }: Omit<MeteredOptions, 'idempotencyKey' | 'waitMs' | 'onUnsettled'>,
  call: (call: MeteredCall) => Promise<T>,
  settling: (usage: SettleOptions) => Promise<unknown>,
): Promise<Made<T>> {
  const asked = performance.now()
  const outcome = await withTenant(tenancy, (tenant) => reserve(tenant, options))
  if (!outcome.granted) throw new BudgetExceededError(outcome)
  const { reservation } = outcome
  const { id, amountNanos } = reservation

  const unknown: ReportedUsage = { costNanos: amountNanos, status: 'estimated' }
  let reported: ReportedUsage | undefined
  const leaseMs = reservation.leasedUntil.getTime() - reservation.createdAt.getTime()
  const lease = keepLease({
    ...{ db: tenancy.db, leaseMs, since: asked },
    lost: () => new ReservationError('ended', id),
    extend: () => extended(tenancy, { id, leaseMs }),
  })
  const started = performance.now()
  const used = (usage: ReportedUsage): SettleOptions => ({
    ...{ metadata, latencyMs: Math.round(performance.now() - started) },
    ...usage,
    // What a provider reports has an id of its own.
    ...{ id, operation, endpoint, runId },
  })
  const report = (usage: ReportedUsage) => {
    // Whatever is wrong with the report, the call was made.
    reported ??= unknown
    checkSettled(usage)
    reported = usage
  }
  try {
    const value = await call({ reservation, report, signal: lease.signal })
    await lease.stop()
    return { value, used: used(reported ?? unknown) }
  } catch (error) {
    await lease.stop()
    // What the call threw is the error to know of; what could not be given back ends with the lease.
    if (reported) await settling(used(reported)).catch(() => {})
    else await withTenant(tenancy, (tenant) => release(tenant, id)).catch(() => {})
    throw error
  }
}

/** Extends a reservation; false if it is not held any more. */
const extended = (tenancy: Tenancy, options: { id: string; leaseMs: number }): Promise<boolean> =>
  withTenant(tenancy, (tenant) => extendReservation(tenant, options)).then(
    () => true,
    (error) => {
      if (error instanceof ReservationError) return false
      throw error
    },
  )

/** Tries again what a lost connection, a timeout or a lock kept from being done. To settle twice is to settle once. */
async function retried<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work()
    } catch (error) {
      if (!isTransient(error) || attempt === ATTEMPTS) throw error
      await pause(FIRST_RETRY_MS * 4 ** (attempt - 1))
    }
  }
}

const isTransient = (error: unknown) =>
  error instanceof ConnectionError || error instanceof TimeoutError || error instanceof LockError
