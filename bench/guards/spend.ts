import { sql } from 'drizzle-orm'
import postgres from 'postgres'
import { connect, rowsOf } from '../../src/database.ts'
import { ensurePartitions } from '../../src/lifecycle/partitions.ts'
import { rollUpUsage } from '../../src/lifecycle/usage-daily.ts'
import { recordUsages, spend as spendOf } from '../../src/queries/costs.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { usageDaily } from '../../src/schema/costs.ts'
import { inTenant, type Tenant } from '../../src/tenant.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { measureAll, printTable } from '../support.ts'

const LINES = 50_000
const DAYS = 20
const DAY_MS = 86_400_000

/**
 * S11: what 20 days have cost, of which one is not over, and rolled up to the last full hour: 50,000 lines of 8 users
 * and 5 models. Leaves one organization and its ledger behind.
 */
export async function spend(url: string): Promise<void> {
  const db = await connect(url, { maxConnections: 1 })
  const raw = postgres(url, { max: 1, onnotice: () => {} })
  try {
    await ensurePartitions(db, { from: new Date(Date.now() - 31 * DAY_MS) })
    const scope = await makeScope(db)
    const { organizationId } = scope
    const now = Date.now()
    const today = Math.floor(now / DAY_MS) * DAY_MS
    const since = new Date(today - (DAYS - 1) * DAY_MS)
    const users = Array.from({ length: 8 }, uuidV7)
    for (let from = 0; from < LINES; from += 1_000) {
      const lines = Array.from({ length: 1_000 }, (_, at) => ({
        ...{ provider: 'test', model: `model-${at % 5}`, operation: 'chat' },
        ...{ inputTokens: 1_000 + at, outputTokens: at, userId: users[at % 8] },
        ...{ costNanos: BigInt(from + at), status: 'priced' as const },
        occurredAt: new Date(since.getTime() + ((now - since.getTime()) * (from + at)) / LINES),
      }))
      await inTenant(db, scope, (tenant) => recordUsages(tenant, lines))
    }
    await rollUpUsage({ db, ...scope })
    await raw`vacuum analyze costs.usage_events`
    await raw`vacuum analyze costs.usage_daily`
    await raw`vacuum analyze costs.usage_stale_days`

    const isOfRange = raw`organization_id = ${organizationId}`
    const rollUp = (sql: postgres.Sql | postgres.TransactionSql) => sql`
      select model, sum(cost_nanos), sum(events), sum(unpriced) from costs.usage_daily
      where ${isOfRange} and day_on >= ${since} group by model order by 2 desc`
    const ledger = (sql: postgres.Sql | postgres.TransactionSql) => sql`
      select model, sum(cost_nanos), count(*), count(*) filter (where cost_nanos is null)
      from costs.usage_events
      where ${isOfRange} and occurred_at >= ${since} group by model order by 2 desc`
    const rollUpOf = (tenant: Tenant) =>
      rowsOf(
        tenant.db,
        sql`
          select provider, model, sum(cost_nanos), sum(events), sum(unpriced),
            sum(input_tokens + output_tokens + embedding_tokens) from ${usageDaily}
          where organization_id = ${organizationId} and day_on >= ${since.toISOString().slice(0, 10)}
          group by 1, 2 order by 3 desc`,
      )
    const ours = () => inTenant(db, scope, (tenant) => spendOf(tenant, { since, by: 'model' }))
    const sum = (rows: { sum: string }[]) =>
      rows.reduce((total, row) => total + BigInt(row.sum), 0n)
    const [whole, live] = [await ours(), await ledger(raw)]
    const total = whole.reduce((total, { costNanos }) => total + costNanos, 0n)
    if (total !== sum(live as unknown as { sum: string }[])) throw new Error('the sums differ')

    const share = (((now - today) / (now - since.getTime())) * 100).toFixed(1)
    printTable(
      `S11: spend by model of ${LINES} lines, ${share} % of them of today`,
      await measureAll(
        {
          'roll-up by hand, in a scope': () => inTenant(db, scope, rollUpOf),
          'roll-up by hand, in a transaction': () => raw.begin((sql) => rollUp(sql)),
          'roll-up by hand': () => rollUp(raw).then(),
          'spend in a scope': ours,
          'live sum by hand': () => ledger(raw).then(),
        },
        { warmup: 20, rounds: 200 },
      ),
    )
  } finally {
    await raw.end()
    await db.close()
  }
}
