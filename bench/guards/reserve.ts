import { sql } from 'drizzle-orm'
import postgres from 'postgres'
import { connect } from '../../src/database.ts'
import { createBudget } from '../../src/queries/budgets.ts'
import { recordUsage } from '../../src/queries/costs.ts'
import { reserve, settle } from '../../src/queries/reservations.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { inTenant, type Scope } from '../../src/tenant.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { measureRates, printRates } from './rates.ts'

const call = { provider: 'test', model: 'test-model' }
const LIMIT = 10n ** 15n

/** S12 and S13: reservations by several clients, against plain inserts into the ledger by as many. */
export async function reserving(
  url: string,
  {
    clients,
    tenants,
    seconds = 3,
    shards,
  }: { clients: number; tenants: number; seconds?: number; shards: readonly number[] },
): Promise<void> {
  const db = await connect(url, { maxConnections: clients })
  const raw = postgres(url, { max: clients, onnotice: () => {} })
  try {
    const organizations = async (shards: number | undefined) => {
      const scopes: Scope[] = []
      for (let count = 0; count < tenants; count += 1) {
        const scope = await makeScope(db)
        if (shards) {
          await inTenant(db, scope, (tenant) =>
            createBudget(tenant, { name: 'month', period: 'month', limitNanos: LIMIT, shards }),
          )
        }
        scopes.push(scope)
      }
      return scopes
    }
    const free = await organizations(undefined)
    const at = (scopes: Scope[], n: number) => scopes[n % scopes.length] as Scope
    const candidates: Record<string, (n: number) => Promise<unknown>> = {
      'plain insert into the ledger, by hand': (n) => {
        const { organizationId, userId } = at(free, n)
        return raw`
          insert into costs.usage_events (organization_id, id, user_id, provider, model, operation, status,
            input_tokens, output_tokens, cost_nanos)
          values (${organizationId}, ${uuidV7()}, ${userId}, 'test', 'test-model', 'chat', 'priced', 1000, 100, 7)`
      },
      'the same in a scope': (n) => {
        const scope = at(free, n)
        return inTenant(db, scope, ({ db }) =>
          db.execute(sql`
            insert into costs.usage_events (organization_id, id, user_id, provider, model, operation, status,
              input_tokens, output_tokens, cost_nanos)
            values (${scope.organizationId}, ${uuidV7()}, ${scope.userId}, 'test', 'test-model', 'chat', 'priced',
              1000, 100, 7)`),
        )
      },
      recordUsage: (n) =>
        inTenant(db, at(free, n), (tenant) =>
          recordUsage(tenant, { ...call, operation: 'chat', costNanos: 7n }),
        ),
    }
    for (const count of shards) {
      const budgeted = await organizations(count)
      candidates[`reserve, ${count} ${count === 1 ? 'counter' : 'counters'}`] = (n) =>
        inTenant(db, at(budgeted, n), (tenant) => reserve(tenant, { ...call, amountNanos: 7n }))
      candidates[`reserve and settle, ${count} ${count === 1 ? 'counter' : 'counters'}`] = async (
        n,
      ) => {
        const scope = at(budgeted, n)
        const outcome = await inTenant(db, scope, (tenant) =>
          reserve(tenant, { ...call, amountNanos: 7n }),
        )
        if (!outcome.granted) throw new Error('blocked')
        await inTenant(db, scope, (tenant) =>
          settle(tenant, { id: outcome.reservation.id, costNanos: 5n }),
        )
      }
    }
    printRates(
      `${tenants === 1 ? 'S13: one tenant' : `S12: ${tenants} tenants`}, ${clients} ${clients === 1 ? 'client' : 'clients'}`,
      await measureRates(candidates, { clients, seconds }),
    )
  } finally {
    await raw.end()
    await db.close()
  }
}
