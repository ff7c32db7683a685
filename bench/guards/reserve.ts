import postgres from 'postgres'
import { connect } from '../../src/database.ts'
import { recordUsage } from '../../src/queries/costs.ts'
import { reserve, settle } from '../../src/queries/reservations.ts'
import { inTenant, type Scope } from '../../src/tenant.ts'
import { makeBudget, makeReservation } from '../../src/testing/costs.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { measureRates, plainInsert, printRates } from './rates.ts'

const call = { provider: 'test', model: 'test-model' }

export interface ReservingOptions {
  clients: number
  tenants: number
  /** Over how many counters the budgets are spread. */
  counters: readonly number[]
  /** Of each candidate. */
  seconds: number
}

/** S12 and S13: reservations by several clients, against plain inserts into the ledger by as many. */
export async function reserving(
  url: string,
  { clients, tenants, counters, seconds }: ReservingOptions,
): Promise<void> {
  const db = await connect(url, { maxConnections: clients })
  const raw = postgres(url, { max: clients, onnotice: () => {} })
  const organizations = async (shards?: number) => {
    const scopes: Scope[] = []
    for (let count = 0; count < tenants; count += 1) {
      const scope = await makeScope(db)
      if (shards) {
        await inTenant(db, scope, (tenant) =>
          makeBudget(tenant, { limitNanos: 10n ** 15n, shards }),
        )
      }
      scopes.push(scope)
    }
    return scopes
  }
  const of = (scopes: Scope[], n: number) => scopes[n % scopes.length] as Scope
  try {
    const free = await organizations()
    const candidates: Record<string, (n: number) => Promise<unknown>> = {
      'plain insert into the ledger, in a scope': (n) => plainInsert.scoped(db, of(free, n)),
      'the same by hand, without a scope': (n) => plainInsert.raw(raw, of(free, n)),
      'recordUsage, no budget': (n) =>
        inTenant(db, of(free, n), (tenant) =>
          recordUsage(tenant, { ...call, operation: 'chat', costNanos: 7n }),
        ),
    }
    for (const shards of counters) {
      const budgeted = await organizations(shards)
      const what = `${shards} ${shards === 1 ? 'counter' : 'counters'}`
      candidates[`reserve, ${what}`] = (n) =>
        inTenant(db, of(budgeted, n), (tenant) => reserve(tenant, { ...call, amountNanos: 7n }))
      candidates[`reserve, then settle, ${what}`] = async (n) => {
        const scope = of(budgeted, n)
        const { id } = await inTenant(db, scope, (tenant) =>
          makeReservation(tenant, { amountNanos: 7n }),
        )
        await inTenant(db, scope, (tenant) => settle(tenant, { id, costNanos: 5n }))
      }
    }
    const title = tenants === 1 ? 'S13: one tenant, a durable server' : `S12: ${tenants} tenants`
    printRates(
      `${title}, ${clients} ${clients === 1 ? 'client' : 'clients'}`,
      await measureRates(candidates, { clients, seconds }),
    )
  } finally {
    await raw.end()
    await db.close()
  }
}
