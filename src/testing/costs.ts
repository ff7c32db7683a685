import type { Database } from '../database.ts'
import { rollUpUsage } from '../lifecycle/usage-daily.ts'
import { type RecordUsageOptions, recordUsage } from '../queries/costs.ts'
import { type CreatePriceOptions, createPrice } from '../queries/prices.ts'
import type { Tenant } from '../tenant.ts'

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

/** A call of two days ago, in a ledger that is rolled up. For an admin or a service. */
export async function makeRolledUpUsage(tenant: Tenant, usage: Partial<RecordUsageOptions> = {}) {
  const occurredAt = new Date(Date.now() - 2 * 86_400_000)
  const recorded = await makeUsageEvent(tenant, { occurredAt, ...usage })
  await rollUpUsage(tenant)
  return recorded
}
