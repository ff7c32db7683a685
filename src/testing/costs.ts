import type { Database } from '../database.ts'
import { BudgetExceededError } from '../guard-errors.ts'
import { rollUpUsage } from '../lifecycle/usage-daily.ts'
import { type CreateBudgetOptions, createBudget } from '../queries/budgets.ts'
import { type RecordUsageOptions, recordUsage } from '../queries/costs.ts'
import { type CreatePriceOptions, createPrice } from '../queries/prices.ts'
import { type ReserveOptions, reserve } from '../queries/reservations.ts'
import type { Tenant } from '../tenant.ts'
import { unique } from './factories.ts'

/** A price of the model that `makeUsageEvent` uses, since long ago: $1 per million of input tokens. */
export const makeModelPrice = (db: Database, price: Partial<CreatePriceOptions> = {}) =>
  createPrice(db, {
    provider: 'test',
    model: 'test-model',
    unit: 'input',
    nanosPerMillion: 1_000_000_000n,
    validFrom: new Date('2020-01-01T00:00:00Z'),
    ...price,
  })

/** A call of a thousand input tokens, unpriced without `makeModelPrice`. */
export const makeUsageEvent = (tenant: Tenant, usage: Partial<RecordUsageOptions> = {}) =>
  recordUsage(tenant, {
    provider: 'test',
    model: 'test-model',
    operation: 'chat',
    inputTokens: 1_000,
    ...usage,
  })

/** A monthly budget of $1 for the organization. */
export const makeBudget = (tenant: Tenant, budget: Partial<CreateBudgetOptions> = {}) =>
  createBudget(tenant, {
    name: unique(),
    period: 'month',
    limitNanos: 1_000_000_000n,
    ...budget,
  })

/** A reservation of $0.01; an error if a budget has no room. */
export async function makeReservation(tenant: Tenant, options: Partial<ReserveOptions> = {}) {
  const outcome = await reserve(tenant, {
    provider: 'test',
    model: 'test-model',
    amountNanos: 10_000_000n,
    ...options,
  })
  if (!outcome.granted) throw new BudgetExceededError(outcome)
  return outcome.reservation
}

/** A call of two days ago, in a ledger that is rolled up. For an admin or a service. */
export async function makeRolledUpUsage(tenant: Tenant, usage: Partial<RecordUsageOptions> = {}) {
  const occurredAt = new Date(Date.now() - 2 * 86_400_000)
  const recorded = await makeUsageEvent(tenant, { occurredAt, ...usage })
  await rollUpUsage(tenant)
  return recorded
}
