import { eq, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { connect, type Database } from '../src/database.ts'
import { activityLogs } from '../src/schema/activity.ts'
import { memberships } from '../src/schema/identity.ts'
import { chunks } from '../src/schema/search.ts'
import { inTenant, readInTenant, type Scope, type Tenant } from '../src/tenant.ts'
import { makeScope } from '../src/testing/factories.ts'
import { makeChunk } from '../src/testing/search.ts'
import { measureAll, printTable, withDelayProxy } from './support.ts'

const ROWS = 10_000
const PAGE = 20

/** S3: one tenant query in a scope, against the same query prepared. S4: what row level security costs. */
export async function scope(url: string): Promise<void> {
  const db = await connect(url)
  try {
    const member = await makeScope(db)
    const { id } = await inTenant(db, member, (tenant) => makeChunk(tenant))
    for (const delayMs of [2, 0]) {
      await withDelayProxy(url, delayMs, (slow) => entering(slow, delayMs, member, id))
    }
    await guarding(db, url)
  } finally {
    await db.close()
  }
}

async function entering(url: string, delayMs: number, member: Scope, id: string) {
  const db = await connect(url, { maxConnections: 1 })
  const raw = postgres(url, { max: 1 })
  const stock = postgres(url, { max: 1 })
  const onStock = drizzle({ client: stock })
  const query = ({ db, organizationId }: Pick<Tenant, 'db' | 'organizationId'>) =>
    db
      .select()
      .from(chunks)
      .where(sql`${chunks.organizationId} = ${organizationId} and ${chunks.id} = ${id}`)
  const byHand = (tx: Database) => query({ db: tx, organizationId: member.organizationId })
  try {
    printTable(
      `S3: one tenant query in a scope, +${delayMs} ms`,
      await measureAll(
        {
          'the query alone, postgres.js, prepared': () =>
            raw`select * from search.chunks where organization_id = ${member.organizationId} and id = ${id}`,
          readInTenant: () => readInTenant(db, member, (tenant) => [query(tenant)]),
          inTenant: () => inTenant(db, member, query),
          'Drizzle’s transaction, the scope and the query awaited in turn': () =>
            onStock.transaction(async (tx) => {
              await tx.execute(
                sql`select identity.enter_scope(${member.organizationId}, ${member.userId})`,
              )
              return byHand(tx)
            }),
        },
        { rounds: 400 },
      ),
    )
  } finally {
    await Promise.all([db.close(), raw.end(), stock.end()])
  }
}

/** 10,000 rows of one organization beside as many of another: rows that all members read, and a log. */
async function guarding(db: Database, url: string) {
  const [mine, theirs] = [await makeScope(db), await makeScope(db)]
  for (const { organizationId, userId } of [mine, theirs]) {
    await db.execute(sql`
      insert into activity.activity_logs (organization_id, id, actor_id, action, occurred_at)
      select ${organizationId}, identity.uuid_v7(), ${userId}, 'bench', now() - n * interval '1 second'
      from generate_series(1, ${ROWS}) as n`)
    await db.execute(sql`
      with made as (
        insert into identity.users (id, email, display_name)
        select identity.uuid_v7(), ${organizationId}::text || n || '@example.com', 'bench'
        from generate_series(1, ${ROWS}) as n returning id
      ) insert into identity.memberships (organization_id, user_id) select ${organizationId}, id from made`)
  }
  await db.execute(sql`vacuum analyze activity.activity_logs, identity.memberships`)

  // As the owner of the tables, whom the policies do not bind, and as plinth_app: on one connection each,
  // whose transaction stays open, so that only the query is timed.
  const options = { maxConnections: 1, idleInTransactionTimeoutMs: 600_000 }
  const [guarded, free] = [await connect(url, options), await connect(url, options)]
  const ofMine = (table: typeof memberships | typeof activityLogs) =>
    eq(table.organizationId, mine.organizationId)
  const queries: Record<string, (on: Database) => PromiseLike<unknown>> = {
    [`${ROWS} rows that all members read`]: (on) =>
      on
        .select({ rows: sql`count(*)`, last: sql`max(${memberships.joinedAt})` })
        .from(memberships)
        .where(ofMine(memberships)),
    [`a list of ${PAGE} of them`]: (on) =>
      on
        .select()
        .from(memberships)
        .where(ofMine(memberships))
        .orderBy(memberships.userId)
        .limit(PAGE),
    [`${ROWS} lines of a log, whose policy looks at each line's actor`]: (on) =>
      on
        .select({ rows: sql`count(*)`, last: sql`max(${activityLogs.action})` })
        .from(activityLogs)
        .where(ofMine(activityLogs)),
    [`a list of ${PAGE} of them, newest first`]: (on) =>
      on
        .select()
        .from(activityLogs)
        .where(ofMine(activityLogs))
        .orderBy(sql`${activityLogs.occurredAt} desc, ${activityLogs.id} desc`)
        .limit(PAGE),
  }
  try {
    await inTenant(guarded, mine, (tenant) =>
      free.transaction(async (owner) => {
        for (const [what, query] of Object.entries(queries)) {
          const candidates = {
            'explicit predicate only': async () => query(owner),
            'under the policies': async () => query(tenant.db),
          }
          printTable(
            `S4: row level security, ${what}`,
            await measureAll(candidates, { rounds: 400 }),
          )
        }
      }),
    )
  } finally {
    await Promise.all([guarded.close(), free.close()])
  }
}
