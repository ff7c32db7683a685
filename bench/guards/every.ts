import postgres from 'postgres'
import { connect } from '../../src/database.ts'
import { recordActivity } from '../../src/queries/activity.ts'
import { createApiKey, verifyApiKey } from '../../src/queries/api-keys.ts'
import { recordAuth } from '../../src/queries/auth-logs.ts'
import { recordUsage } from '../../src/queries/costs.ts'
import { idempotently } from '../../src/queries/idempotency.ts'
import { withLock } from '../../src/queries/locks.ts'
import { metered } from '../../src/queries/metered.ts'
import { takePublicTokens, takeTokens } from '../../src/queries/rate-limits.ts'
import { reserve } from '../../src/queries/reservations.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { inTenant, type Scope } from '../../src/tenant.ts'
import { makeBudget } from '../../src/testing/costs.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { measureRates, plainInsert, printRates } from './rates.ts'

const TENANTS = 100
const call = { provider: 'test', model: 'test-model', operation: 'chat' }

/** How often each guard can be called a second, of a hundred tenants, against a plain insert into the ledger. */
export async function guarding(
  url: string,
  { clients, seconds }: { clients: number; seconds: number },
): Promise<void> {
  const db = await connect(url, { maxConnections: clients })
  const raw = postgres(url, { max: clients, onnotice: () => {} })
  try {
    const scopes: (Scope & { key: string })[] = []
    for (let count = 0; count < TENANTS; count += 1) {
      const scope = await makeScope(db)
      const key = await inTenant(db, scope, async (tenant) => {
        await makeBudget(tenant, { limitNanos: 10n ** 15n })
        return (await createApiKey(tenant, { name: 'bench', userId: scope.userId })).text
      })
      scopes.push({ ...scope, key })
    }
    const free: Scope[] = []
    for (let count = 0; count < TENANTS; count += 1) free.push(await makeScope(db))
    const of = <One>(list: readonly One[], n: number) => list[n % list.length] as One
    const tenancy = (n: number) => ({ db, ...of(scopes, n) })
    const bucket = { key: 'bench', capacity: 1_000_000, refillPerSecond: 1_000_000 }
    printRates(
      `every guard, ${TENANTS} tenants, ${clients} ${clients === 1 ? 'client' : 'clients'}`,
      await measureRates(
        {
          'plain insert into the ledger, in a scope': (n) => plainInsert.scoped(db, of(free, n)),
          'the same by hand, without a scope': (n) => plainInsert.raw(raw, of(free, n)),
          'recordUsage, no budget': (n) =>
            inTenant(db, of(free, n), (tenant) => recordUsage(tenant, { ...call, costNanos: 7n })),
          'recordUsage, a budget': (n) =>
            inTenant(db, of(scopes, n), (tenant) =>
              recordUsage(tenant, { ...call, costNanos: 7n }),
            ),
          reserve: (n) =>
            inTenant(db, of(scopes, n), (tenant) => reserve(tenant, { ...call, amountNanos: 7n })),
          'metered: reserve, call, settle': (n) =>
            metered(tenancy(n), { ...call, amountNanos: 7n }, async ({ report }) =>
              report({ costNanos: 5n }),
            ),
          'idempotently, a new key': (n) =>
            idempotently(tenancy(n), { key: uuidV7(), request: {} }, async () => 1),
          'withLock, a lock of the organization': (n) =>
            withLock(tenancy(n), { name: uuidV7() }, async () => {}),
          takeTokens: (n) => takeTokens(tenancy(n), { ...bucket, per: 'user' }),
          takePublicTokens: (n) => takePublicTokens(db, { ...bucket, key: `bench ${n % 1_000}` }),
          verifyApiKey: (n) => verifyApiKey(db, of(scopes, n).key),
          recordActivity: (n) =>
            inTenant(db, of(scopes, n), (tenant) => recordActivity(tenant, { action: 'bench' })),
          recordAuth: (n) =>
            recordAuth(db, { event: 'login', success: true, email: `${n % 1_000}@example.com` }),
        },
        { clients, seconds },
      ),
    )
  } finally {
    await raw.end()
    await db.close()
  }
}
