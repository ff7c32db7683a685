import { desc, eq } from 'drizzle-orm'
import postgres from 'postgres'
import { connect } from '../src/database.ts'
import { ensurePartitions } from '../src/lifecycle/partitions.ts'
import { listActivity, recordActivities } from '../src/queries/activity.ts'
import { activityLogs } from '../src/schema/activity.ts'
import { uuidV7 } from '../src/schema/columns.ts'
import { inTenant, type Scope } from '../src/tenant.ts'
import { makeScope } from '../src/testing/factories.ts'
import { measureAll, printTable } from './support.ts'

const DEPTH = 9_000
const LINES = 20_000

/** A line as an application writes it; `occurredAt` within the last month. */
const line = (index: number) => ({
  action: `document.${index % 7}`,
  resourceType: 'document',
  resourceId: String(index % 500),
  resourceName: `Document ${index % 500}`,
  changes: { title: { from: 'Draft', to: `Version ${index}` } },
  metadata: { source: 'api', attempt: 1 },
  ip: '203.0.113.7',
  userAgent: 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)',
  requestId: `request-${index}`,
})

type Line = ReturnType<typeof line>

/** S10: lines written in bulk. S14: a page at depth 9,000. Leaves one organization and its lines behind. */
export async function activity(url: string): Promise<void> {
  const db = await connect(url, { maxConnections: 1 })
  const raw = postgres(url, { max: 1, onnotice: () => {} })
  try {
    await ensurePartitions(db, { from: new Date(Date.now() - 31 * 86_400_000) })
    const scope = await makeScope(db)
    const { organizationId, userId: actorId } = scope

    for (const count of [100, 1_000]) {
      const lines = Array.from({ length: count }, (_, index) => line(index))
      const measurements = await measureAll(
        {
          'unnest, postgres.js': () => raw.begin((sql) => unnest(sql, scope, lines)),
          'recordActivities in a scope': () =>
            inTenant(db, scope, (tenant) => recordActivities(tenant, lines)),
          'insert().values() in a scope': () =>
            inTenant(db, scope, ({ db }) =>
              db
                .insert(activityLogs)
                .values(lines.map((line) => ({ ...line, organizationId, actorId })))
                .execute(),
            ),
        },
        { warmup: 10, rounds: count === 100 ? 200 : 60 },
      )
      printTable(`S10: ${count} log lines`, measurements)
      await raw`delete from activity.activity_logs where organization_id = ${organizationId}`
      await raw`vacuum analyze activity.activity_logs`
    }

    const now = Date.now()
    for (let from = 0; from < LINES; from += 1_000) {
      const lines = Array.from({ length: 1_000 }, (_, index) => ({
        ...line(from + index),
        occurredAt: new Date(now - (LINES - from - index) * 60_000),
      }))
      await inTenant(db, scope, (tenant) => recordActivities(tenant, lines))
    }
    await raw`vacuum analyze activity.activity_logs`
    const [last] = await raw<{ id: string; occurredAt: Date }[]>`
      select id, occurred_at as "occurredAt" from activity.activity_logs
      where organization_id = ${organizationId}
      order by occurred_at desc, id desc offset ${DEPTH} limit 1`
    const page = (options: Parameters<typeof listActivity>[1]) => () =>
      inTenant(db, scope, (tenant) => listActivity(tenant, options))
    printTable(
      `S14: a page of 50 of ${LINES} lines`,
      await measureAll({
        'depth 0': page({}),
        [`depth ${DEPTH}`]: page({ after: last }),
        [`depth ${DEPTH}, by OFFSET`]: () =>
          inTenant(db, scope, ({ db }) =>
            db
              .select()
              .from(activityLogs)
              .where(eq(activityLogs.organizationId, organizationId))
              .orderBy(desc(activityLogs.occurredAt), desc(activityLogs.id))
              .offset(DEPTH)
              .limit(50)
              .execute(),
          ),
      }),
    )
  } finally {
    await raw.end()
    await db.close()
  }
}

/** What is fastest by hand: a prepared statement, one array a column, and no policy to obey. */
function unnest(
  sql: postgres.TransactionSql,
  { organizationId, userId }: Scope,
  lines: readonly Line[],
) {
  const column = (of: (line: Line) => string) => lines.map(of)
  return sql`
    insert into activity.activity_logs (organization_id, actor_id, id, action, resource_type,
      resource_id, resource_name, changes, metadata, ip, user_agent, request_id)
    select ${organizationId}, ${userId}, *
    from unnest(${lines.map(uuidV7)}::uuid[], ${column((l) => l.action)}::text[],
      ${column((l) => l.resourceType)}::text[], ${column((l) => l.resourceId)}::text[],
      ${column((l) => l.resourceName)}::text[],
      ${column((l) => JSON.stringify(l.changes))}::text[]::jsonb[],
      ${column((l) => JSON.stringify(l.metadata))}::text[]::jsonb[],
      ${column((l) => l.ip)}::inet[], ${column((l) => l.userAgent)}::text[],
      ${column((l) => l.requestId)}::text[])`
}
