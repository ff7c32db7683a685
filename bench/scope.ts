import { eq, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { connect, type Database } from '../src/database.ts'
import { activityLogs } from '../src/schema/activity.ts'
import { chunks } from '../src/schema/search.ts'
import { inTenant, readInTenant, type Scope, type Tenant } from '../src/tenant.ts'
import { makeScope } from '../src/testing/factories.ts'
import { makeChunk } from '../src/testing/search.ts'
import { measureAll, printTable, withDelayProxy } from './support.ts'

const LOGS = 10_000
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

/** 10,000 rows of one organization beside as many of another, all with an actor. */
async function guarding(db: Database, url: string) {
  const [mine, theirs] = [await makeScope(db), await makeScope(db)]
  for (const { organizationId, userId } of [mine, theirs]) {
    await db.execute(sql`
      insert into activity.activity_logs (organization_id, id, actor_id, action, occurred_at)
      select ${organizationId}, identity.uuid_v7(), ${userId}, 'bench', now() - n * interval '1 second'
      from generate_series(1, ${LOGS}) as n`)
  }
  await db.execute(sql`analyze activity.activity_logs`)

  // As the owner of the tables, whom the policies do not bind, and as plinth_app: on one connection each,
  // whose transaction stays open, so that only the query is timed.
  const guarded = await connect(url, { maxConnections: 1, idleInTransactionTimeoutMs: 600_000 })
  const free = await connect(url, { maxConnections: 1, idleInTransactionTimeoutMs: 600_000 })
  const isMine = eq(activityLogs.organizationId, mine.organizationId)
  const scan = (on: Database) =>
    on
      .select({ rows: sql`count(*)`, last: sql`max(${activityLogs.action})` })
      .from(activityLogs)
      .where(isMine)
  const page = (on: Database) =>
    on
      .select()
      .from(activityLogs)
      .where(isMine)
      .orderBy(sql`${activityLogs.occurredAt} desc, ${activityLogs.id} desc`)
      .limit(PAGE)
  try {
    await inTenant(guarded, mine, (tenant) =>
      free.transaction(async (owner) => {
        for (const [what, query] of Object.entries({
          [`${LOGS} rows scanned`]: scan,
          [`a list of ${PAGE}`]: page,
        })) {
          printTable(
            `S4: row level security, ${what}`,
            await measureAll(
              {
                'explicit predicate only': () => query(owner),
                'under the policies': () => query(tenant.db),
              },
              { rounds: 400 },
            ),
          )
        }
      }),
    )
  } finally {
    await Promise.all([guarded.close(), free.close()])
  }
}
