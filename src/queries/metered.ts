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
   * unless there is a key: under it the value is kept, and not paid for again.
   */
  onUnsettled?: (error: unknown, usage: SettleOptions) => void
}

export interface Metered<T> {
  value: T
  /** Undefined if it was not settled, and for the value of an earlier call. */
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
 * A process that dies in between gives back what it held when the lease ends. Its call is on no ledger.
 *
 * @throws {BudgetExceededError} without calling, if a budget has no room. @throws {UnpricedError}
 * @throws {IdempotencyError} for a key that is in use, or that was used for something else.
 * @throws {ValidationError} as `reserve` and `settle`. @throws what `call` throws.
 */
export async function metered<T>(
  tenancy: Tenancy,
  { idempotencyKey, waitMs, ...options }: MeteredOptions,
  call: (call: MeteredCall) => Promise<T>,
): Promise<Metered<T>> {
  checkFunction('call', call)
  if (idempotencyKey === undefined) {
    const { value, usage } = settledOf(await run(tenancy, options, call))
    return { value, usage, replayed: false }
  }
  checkText('idempotencyKey', idempotencyKey, { max: 190 })
  if (options.amountNanos !== undefined) checkBigint('amountNanos', options.amountNanos)
  const key = `metered ${idempotencyKey}`
  let made: Made<T> | undefined
  const { onUnsettled: _, leaseMs, amountNanos, ...request } = options
  const { value, replayed } = await idempotently(
    tenancy,
    {
      key,
      request: { ...request, amountNanos: amountNanos?.toString() },
      ...(leaseMs !== undefined && { leaseMs }),
      ...(waitMs !== undefined && { waitMs }),
    },
    async () => {
      made = await run(tenancy, options, call)
      return made.value
    },
  ).catch((error) => {
    if (made) settledOf(made)
    if (!(error instanceof IdempotencyError) || error.key !== key) throw error
    // By the caller's name for it.
    throw new IdempotencyError(error.reason, idempotencyKey, error.retryAfterMs)
  })
  return { value, usage: made && settledOf(made).usage, replayed }
}

/** A call that was made: settled, or not, for a reason that `metered` throws once the value is kept under the key. */
interface Made<T> {
  value: T
  usage?: SettledUsage | undefined
  unsettled?: { error: unknown }
}

function settledOf<T>(made: Made<T>): Made<T> {
  if (made.unsettled) throw made.unsettled.error
  return made
}

async function run<T>(
  tenancy: Tenancy,
  {
    operation,
    endpoint,
    runId,
    metadata,
    onUnsettled,
    ...options
  }: Omit<MeteredOptions, 'idempotencyKey'>,
  call: (call: MeteredCall) => Promise<T>,
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
  const settled = async (usage: ReportedUsage) => {
    const whole: SettleOptions = {
      ...{ metadata, latencyMs: Math.round(performance.now() - started) },
      ...usage,
      // What a provider reports has an id of its own.
      ...{ id, operation, endpoint, runId },
    }
    try {
      return { usage: await retried(() => withTenant(tenancy, (tenant) => settle(tenant, whole))) }
    } catch (error) {
      if (!onUnsettled) return { unsettled: { error } }
      onUnsettled(error, whole)
    }
  }
  const report = (usage: ReportedUsage) => {
    // Whatever is wrong with the report, the call was made.
    reported ??= unknown
    checkSettled(usage)
    reported = usage
  }
  let value: T
  try {
    value = await call({ reservation, report, signal: lease.signal })
  } catch (error) {
    await lease.stop()
    // What the call threw is the error to know of; what could not be given back ends with the lease.
    if (reported) await settled(reported).catch(() => {})
    else await withTenant(tenancy, (tenant) => release(tenant, id)).catch(() => {})
    throw error
  }
  await lease.stop()
  return { value, ...(await settled(reported ?? unknown)) }
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
