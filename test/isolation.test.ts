import type { PGlite } from '@electric-sql/pglite'
import { type SQL, sql } from 'drizzle-orm'
import { drizzle as drizzlePglite } from 'drizzle-orm/pglite'
import { drizzle as drizzlePostgres } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../src/database.ts'
import { ValidationError } from '../src/errors.ts'
import {
  createOrganization,
  findOrganizationBySlug,
  findUserByEmail,
  upsertUser,
} from '../src/queries/identity.ts'
import { listMembers } from '../src/queries/members.ts'
import { uuidV7 } from '../src/schema/columns.ts'
import { memberships, organizations, users } from '../src/schema/identity.ts'
import { managedObjects } from '../src/schema/objects.ts'
import { asService, inTenant } from '../src/tenant.ts'
import { rollback } from '../src/testing/database.ts'
import { root, test } from './support/database.ts'
import { adminUrl, owner, url } from './support/own-database.ts'
import {
  codeOf,
  insertion,
  type MadeRow,
  type Maker,
  makeRow,
  nameOf,
  type Relation,
  relationsOf,
} from './support/rows.ts'

// Everything here is read from the catalog: a table that is added later is tested without a word.

const relations = await relationsOf(owner)
const tables = relations.filter(({ kind }) => kind === 'r' || kind === 'p')
const tenantTables = tables.filter(({ isTenant, isPartition }) => isTenant && !isPartition)
const platformTables = tables.filter(({ isTenant, isPartition }) => !isTenant && !isPartition)
const partitions = tables.filter(({ isPartition }) => isPartition)
const views = relations.filter(({ kind, isTenant }) => kind === 'v' && isTenant)
const materialized = relations.filter(({ kind }) => kind === 'm')
const titles = (found: Relation[]) =>
  found.map((relation): [string, Relation] => [`${relation.schema}.${relation.name}`, relation])

/** Two tenants, each with a row in a table. */
interface Pair {
  mine: Maker
  theirs: Maker
  myRow: MadeRow
  theirRow: MadeRow
}

/** By SQL, since whatever enters a scope leaves its settings to the rest of the transaction. */
async function makeMaker(db: Database, platform: Maker['platform']): Promise<Maker> {
  const [organizationId, userId] = [uuidV7(), uuidV7()]
  await db.insert(organizations).values({ id: organizationId, slug: organizationId, name: 'Acme' })
  await db.insert(users).values({ id: userId, email: `${userId}@example.com`, displayName: 'Ada' })
  await db.insert(memberships).values({ organizationId, userId, role: 'owner' })
  return { organizationId, userId, own: new Map(), platform }
}

async function makePair(db: Database, table: Relation): Promise<Pair> {
  const platform: Maker['platform'] = new Map()
  const mine = await makeMaker(db, platform)
  const theirs = await makeMaker(db, platform)
  const myRow = await makeRow(db, table, mine)
  const theirRow = await makeRow(db, table, theirs)
  return { mine, theirs, myRow, theirRow }
}

// PGlite has one session, whose user cannot be changed back: there the login is a role of the transaction.
const login = url ? new URL(url).username : 'plinth_isolation_login'
const session = url ? sql`session authorization` : sql`role`

async function becomeLogin(tx: Database) {
  if (!url) {
    await tx.execute(sql`do $$ begin
      create role plinth_isolation_login login noinherit;
      grant plinth_app to plinth_isolation_login;
      grant plinth_platform to plinth_isolation_login with inherit true;
    end $$`)
  }
  await tx.execute(sql`set local ${session} ${sql.identifier(login)}`)
}

const becomeOwner = (tx: Database) =>
  tx.execute(url ? sql`set local session authorization default` : sql`set local role none`)

type Enter = (tx: Database, maker: Maker) => Promise<unknown>

const settings = (organization: string, role: string) => async (tx: Database) => {
  for (const [name, value] of Object.entries({
    organization_id: organization,
    user_id: organization,
    role,
  })) {
    await tx.execute(sql.raw(`set local plinth.${name} = '${value.replaceAll("'", "''")}'`))
  }
  await tx.execute(sql`set local role plinth_app`)
}

const ownScope: Enter = (tx, { organizationId, userId }) =>
  rowsOf(tx, sql`select identity.enter_scope(${organizationId}, ${userId})`)

/** Every way to be where a tenant's rows are none of one's business. The maker is another tenant's. */
const foreignScopes: Record<string, Enter> = {
  "another tenant's scope, as its owner": ownScope,
  "another tenant's scope, as a service": (tx, { organizationId }) =>
    rowsOf(tx, sql`select identity.enter_service_scope(${organizationId})`),
  'no scope': (tx) => tx.execute(sql`set local role plinth_app`),
  'the login itself': async () => {},
  'an empty scope': settings('', ''),
  'an empty scope with a role': settings('', 'service'),
  'a garbage scope': settings('garbage', 'service'),
  'a scope of SQL': settings("' or true --", 'service'),
}

type Outcome<T> = { refused: string; answer?: undefined } | { refused?: undefined; answer: T }

/** Runs `work` in a savepoint, as the login in some scope, and undoes it. A refusal is its SQLSTATE. */
async function attempt<T>(
  db: Database,
  enter: Enter,
  maker: Maker,
  work: (tx: Database) => Promise<T>,
): Promise<Outcome<T>> {
  try {
    return {
      answer: await rollback(db, async (tx) => {
        await becomeLogin(tx)
        await enter(tx, maker)
        return work(tx)
      }),
    }
  } catch (error) {
    return { refused: codeOf(error) }
  }
}

/** All that a table holds of a tenant, as the owner sees it: any write changes a ctid. */
const contents = (db: Database, table: Relation, maker: Maker) =>
  rowsOf<{ row: string }>(
    db,
    sql`select t.ctid::text || t.tableoid || to_jsonb(t)::text as row from ${nameOf(table)} t
      where t.organization_id = ${maker.organizationId} order by 1`,
  )

const countOf = async (db: Database, query: SQL) =>
  Number(
    (await rowsOf<{ count: number }>(db, sql`select count(*) as count from ${query}`))[0]?.count,
  )

// 42501: no right, or a row that a policy refuses. 22P02: a scope that is no UUID.
const REFUSALS = ['42501', '22P02']

/** Every statement that would write to a table, aimed at another tenant's row. */
function writes(table: Relation, { mine, theirs, theirRow }: Pair): Record<string, SQL> {
  const name = nameOf(table)
  const isTheirs = sql`organization_id = ${theirs.organizationId}`
  const insert = insertion(table, theirRow.values, theirRow.types)
  return {
    'update of all': sql`update ${name} set organization_id = organization_id`,
    'update of theirs': sql`update ${name} set organization_id = organization_id where ${isTheirs}`,
    'update returning': sql`update ${name} set organization_id = organization_id where ${isTheirs} returning *`,
    'taking over theirs': sql`update ${name} set organization_id = ${mine.organizationId} where ${isTheirs}`,
    'delete of all': sql`delete from ${name}`,
    'delete of theirs': sql`delete from ${name} where ${isTheirs}`,
    'delete returning': sql`delete from ${name} where ${isTheirs} returning *`,
    'insert on conflict do nothing': sql`${insert} on conflict do nothing`,
    'insert returning on conflict do nothing': sql`${insert} on conflict do nothing returning *`,
    truncate: sql`truncate ${name} cascade`,
  }
}

/** What a foreign scope can do to a tenant's rows. Nothing, it has to be. */
async function breaches(db: Database, table: Relation, pair: Pair): Promise<string[]> {
  const found: string[] = []
  const name = nameOf(table)
  const { mine, theirs, theirRow } = pair
  for (const [scope, enter] of Object.entries(foreignScopes)) {
    const read = await attempt(db, enter, mine, (tx) =>
      countOf(tx, sql`${name} where organization_id is distinct from ${mine.organizationId}`),
    )
    if (read.refused ? !REFUSALS.includes(read.refused) : read.answer !== 0) {
      found.push(`${scope}: select: ${JSON.stringify(read)}`)
    }
    for (const [title, statement] of Object.entries(writes(table, pair))) {
      const written = await attempt(db, enter, mine, async (tx) => {
        await tx.execute(statement)
        await becomeOwner(tx)
        return contents(tx, table, theirs)
      })
      const before = await contents(db, table, theirs)
      if (
        written.refused
          ? !REFUSALS.includes(written.refused)
          : JSON.stringify(written.answer) !== JSON.stringify(before)
      ) {
        found.push(`${scope}: ${title}: ${written.refused ?? 'written'}`)
      }
    }
    // Their very row, away for the moment, so that nothing but the policy is in the way.
    const inserted = await rollback(db, async (outer) => {
      await outer.execute(sql`delete from ${name} where ${theirRow.isIt}`)
      return attempt(outer, enter, mine, (tx) =>
        tx.execute(insertion(table, theirRow.values, theirRow.types)),
      )
    })
    if (!inserted.refused || !REFUSALS.includes(inserted.refused)) {
      found.push(`${scope}: insert: ${inserted.refused ?? 'written'}`)
    }
  }
  const moved = await attempt(db, ownScope, mine, async (tx) => {
    await tx.execute(sql`update ${name} set organization_id = ${theirs.organizationId}`)
  })
  if (moved.refused !== '42501') found.push(`giving a row away: ${moved.refused ?? 'written'}`)
  return found
}

const mayApp = async (db: Database, table: Relation, privilege: string) => {
  const [found] = await rowsOf<{ may: boolean }>(
    db,
    sql`select has_table_privilege('plinth_app', ${table.oid}::oid, ${privilege}) as may`,
  )
  return found?.may === true
}

test('there are tables to be tested', () => {
  expect(tenantTables.length).toBeGreaterThanOrEqual(8)
  expect(partitions.length).toBeGreaterThan(10)
})

describe.each(titles(tenantTables))('%s', (_, table) => {
  test('shows a row to its own tenant, and lets nobody else read or write it', async () => {
    await rollback(owner, async (db) => {
      const pair = await makePair(db, table)
      const before = await contents(db, table, pair.theirs)
      expect(
        before.length,
        'a row that is there, or an empty result proves nothing',
      ).toBeGreaterThan(0)

      if (await mayApp(db, table, 'select')) {
        const seen = await attempt(db, ownScope, pair.theirs, (tx) => countOf(tx, nameOf(table)))
        expect(seen).toEqual({ answer: before.length })
      }
      if (await mayApp(db, table, 'insert')) {
        const made = await rollback(db, async (outer) => {
          await outer.execute(sql`delete from ${nameOf(table)} where ${pair.theirRow.isIt}`)
          return attempt(outer, ownScope, pair.theirs, async (tx) => {
            await tx.execute(insertion(table, pair.theirRow.values, pair.theirRow.types))
            return 'written'
          })
        })
        expect(made, 'the row that a foreign scope is refused').toEqual({ answer: 'written' })
      }

      expect(await breaches(db, table, pair)).toEqual([])
      expect(await contents(db, table, pair.theirs)).toEqual(before)
    })
  })

  // Once is enough, and takes as long as all the rest.
  test.skipIf(url)('would be found open without its policies', async () => {
    await rollback(owner, async (db) => {
      const pair = await makePair(db, table)
      await db.execute(sql`alter table ${nameOf(table)} disable row level security`)
      const found = await breaches(db, table, pair)
      for (const command of ['select', 'insert', 'update', 'delete'] as const) {
        const isOpen = found.some((breach) => breach.startsWith(`no scope: ${command}`))
        expect(isOpen, command).toBe(await mayApp(db, table, command))
      }
    })
  })
})

test('every partition is out of reach by name, in whatever scope', async () => {
  await rollback(owner, async (db) => {
    const maker = await makeMaker(db, new Map())
    for (const enter of Object.values(foreignScopes)) {
      for (const partition of partitions) {
        const name = nameOf(partition)
        const column = sql.raw(partition.isTenant ? 'organization_id' : 'occurred_at')
        for (const statement of [
          sql`select * from ${name}`,
          sql`update ${name} set ${column} = ${column}`,
          sql`delete from ${name}`,
          sql`insert into ${name} default values`,
        ]) {
          const { refused } = await attempt(db, enter, maker, (tx) => tx.execute(statement))
          expect(refused, `${partition.name}`).toBe('42501')
        }
      }
    }
  })
}, 120_000)

test('views show a tenant its own rows only', async () => {
  await rollback(owner, async (db) => {
    const platform: Maker['platform'] = new Map()
    const mine = await makeMaker(db, platform)
    const theirs = await makeMaker(db, platform)
    for (const table of tenantTables) await makeRow(db, table, theirs)
    for (const view of views) {
      for (const [scope, enter] of Object.entries(foreignScopes)) {
        const { answer = 0 } = await attempt(db, enter, mine, (tx) =>
          countOf(tx, sql`${nameOf(view)} where organization_id = ${theirs.organizationId}`),
        )
        expect(answer, `${view.name} in ${scope}`).toBe(0)
      }
    }
  })
})

describe('rights', () => {
  test('plinth_app, plinth_platform and PUBLIC may do what is declared, and nothing more', async () => {
    const declared = managedObjects.flatMap(({ create }) => {
      const [, privileges, schema, name, roles] =
        /^grant ([\w, ]+) on "(\w+)"\."(\w+)" to ([\w, ]+)$/.exec(create) ?? []
      return (privileges?.split(', ') ?? []).flatMap((privilege) =>
        (roles?.split(', ') ?? []).map((role) => `${role}: ${privilege} on ${schema}.${name}`),
      )
    })
    const granted = await rowsOf<{ right: string }>(
      owner,
      sql`
      select coalesce(r.rolname, 'PUBLIC') || ': ' || lower(a.privilege_type) || ' on '
        || n.nspname || '.' || c.relname as right
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      cross join lateral aclexplode(c.relacl) a left join pg_roles r on r.oid = a.grantee
      where n.nspname !~ '^(pg_|information_schema$|drizzle$)' and a.grantee <> c.relowner
        and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')`,
    )
    expect(granted.map(({ right }) => right).sort()).toEqual(declared.sort())
    expect(
      await countOf(owner, sql`pg_attribute where attacl is not null and attrelid >= 16384`),
    ).toBe(0)
  })

  test.each(titles(platformTables))('plinth_app writes no platform table: %s', async (_, table) => {
    for (const privilege of ['insert', 'update', 'delete', 'truncate']) {
      expect(await mayApp(owner, table, privilege), privilege).toBe(false)
    }
    if (table.schema === 'identity') expect(await mayApp(owner, table, 'select')).toBe(false)
  })

  test('no role of plinth may use a materialized view or create anything', async () => {
    for (const view of materialized)
      expect(await mayApp(owner, view, 'select'), view.name).toBe(false)
    const creatable = await rowsOf(
      owner,
      sql`select n.nspname, r.rolname from pg_namespace n, pg_roles r
        where r.rolname in ('plinth_app', 'plinth_platform') and n.nspname !~ '^pg_(temp|toast)'
        and has_schema_privilege(r.oid, n.oid, 'create')`,
    )
    expect(creatable).toEqual([])
  })

  test('plinth_app can neither log in, nor pass row level security, nor become another role', async () => {
    const [app] = await rowsOf(
      owner,
      sql`select rolcanlogin, rolsuper, rolbypassrls, rolcreaterole,
        exists (select from pg_auth_members m where m.member = r.oid) as is_member,
        exists (select from pg_class c where c.relowner = r.oid) as is_owner
      from pg_roles r where rolname = 'plinth_app'`,
    )
    expect(new Set(Object.values(app ?? {}))).toEqual(new Set([false]))
  })
})

interface DatabaseFunction {
  oid: number
  signature: string
  schema: string
  name: string
  arguments: string[]
  isDefiner: boolean
  isForApp: boolean
}

const functions = await rowsOf<DatabaseFunction>(
  owner,
  sql`
  select p.oid::integer as oid, p.oid::regprocedure::text as signature, n.nspname as schema, p.proname as name,
    coalesce((select json_agg(format_type(t.oid, null) order by a.at)
      from unnest(p.proargtypes) with ordinality a (type, at) join pg_type t on t.oid = a.type), '[]') as arguments,
    p.prosecdef as "isDefiner",
    has_function_privilege('plinth_app', p.oid, 'execute')
      and has_schema_privilege('plinth_app', n.oid, 'usage') as "isForApp"
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
  where n.nspname !~ '^(pg_|information_schema$|drizzle$)'
    and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
  order by 2`,
)
const appFunctions = functions.filter(({ isForApp }) => isForApp)

describe('functions', () => {
  const argument = (type: string, id: string | null, count: number): SQL => {
    if (type === 'uuid') return sql`${id}::text::uuid`
    if (/^(integer|bigint)$/.test(type)) return sql.raw(String(count))
    if (type === 'text') return sql`'content'`
    if (/halfvec|vector/.test(type)) return sql`'[1]'::public.halfvec`
    return sql`null::${sql.raw(type)}`
  }

  /** What each function answers in a scope, with one id after another for each of its ids. */
  async function answers(db: Database, enter: Enter, maker: Maker, ids: (string | null)[]) {
    const found: Record<string, string[]> = {}
    for (const called of appFunctions) {
      const answersOf: string[] = []
      // The first id and the others apart: "in this space, by no other filter" is a call too.
      for (const first of ids) {
        // A number may be how many rows are wanted, or how many there have to be.
        for (const [rest, count] of [
          [null, 100],
          [first, 100],
          [null, 0],
        ] as const) {
          const args = called.arguments.map((type, at) =>
            argument(type, at === 0 ? first : rest, count),
          )
          const { refused, answer } = await attempt(db, enter, maker, (tx) =>
            rowsOf(
              tx,
              sql`select to_jsonb(f)::text as answer from ${nameOf(called)}(${sql.join(args, sql`, `)}) f`,
            ),
          )
          // What is no id raises where a row is compared with it, so on other tests' rows too. Neither tells anything.
          answersOf.push(refused === '22P02' ? '[]' : (refused ?? timeless(JSON.stringify(answer))))
        }
      }
      found[called.signature] = answersOf
    }
    return found
  }

  /** Without times, since some functions answer with that of the call. */
  const timeless = (answer: string) => answer.replaceAll(/\d{4}-\d\d-\d\dT[\d:.+]+/g, 'time')

  /** Those whose answers change by chance or by their arguments alone, and not with any row. */
  const ROWLESS = [
    'identity.uuid_v7()',
    'search.terms(search.language,text)',
    'search.query_terms(search.language,text)',
    // Counts, of what belongs to no organization, and says that it has.
    'search.count_queries(uuid,integer)',
    // Locks of the organization, and the digest of the line that is passed.
    'costs.close_ledger()',
    'costs.close_usage()',
    'activity.row_digest(activity.activity_logs)',
    // These do what is left to do, which one row of each table does not leave: see their own tests.
    'costs.roll_up_usage_day()',
    'activity.seal_rows(timestamp with time zone,timestamp with time zone,timestamp with time zone,uuid,integer)',
  ]
  /**
   * Those that answer of the owners alone, whom a row more does not make one of, and of budgets, which a budget for each
   * user that nobody has spent of is not among.
   */
  const SETTLED = ['identity.lock_owners(uuid)', 'costs.budget_status()']
  /** Those that answer of the chunks that they are given: see the search `near` another tenant's. */
  const GIVEN = /^search\.(given|diverse)_chunks/
  /** Those that answer of the row that they have made, or nothing: see the tests of guards, of budgets and reservations, and of deliveries. */
  const GUARDS =
    /^ops\.|^activity\.enqueue_delivery\(|^costs\.((change|open|charge)_budgets?|current_window|reserve|raise_missed_alerts|\w+_reservations?)\(/
  const steady = (found: Record<string, string[]>) =>
    Object.fromEntries(
      Object.entries(found).filter(
        ([signature]) =>
          !ROWLESS.includes(signature) && !GIVEN.test(signature) && !GUARDS.test(signature),
      ),
    )

  test("answer the same in a foreign scope, whether or not another tenant's rows are there", async () => {
    await rollback(owner, async (db) => {
      const platform: Maker['platform'] = new Map()
      const mine = await makeMaker(db, platform)
      const theirs = await makeMaker(db, platform)
      for (const table of tenantTables) await makeRow(db, table, mine)
      const shared = [...platform.values()].flatMap(({ id }) =>
        typeof id === 'string' ? [id] : [],
      )
      const ids = [null, theirs.organizationId, theirs.userId, ...shared]
      const everywhere = { ...foreignScopes, 'their own scope': ownScope }
      const ask = async () => {
        const found: Record<string, Record<string, string[]>> = {}
        for (const [scope, enter] of Object.entries(everywhere)) {
          const maker = scope === 'their own scope' ? theirs : mine
          found[scope] = steady(await answers(db, enter, maker, ids))
        }
        return found
      }

      const { 'their own scope': ownBefore = {}, ...before } = await ask()
      for (const table of tenantTables) await makeRow(db, table, theirs)
      const { 'their own scope': ownAfter = {}, ...after } = await ask()

      expect(after).toEqual(before)
      const unmoved = Object.keys(ownAfter).filter(
        (signature) =>
          !SETTLED.includes(signature) &&
          JSON.stringify(ownAfter[signature]) === JSON.stringify(ownBefore[signature]),
      )
      expect(unmoved, 'asked with arguments that show nothing even to the tenant itself').toEqual(
        [],
      )
    })
  }, 300_000)

  test('find nothing in pg_temp, where a member may put types and functions', async () => {
    await rollback(owner, async (db) => {
      const mine = await makeMaker(db, new Map())
      for (const table of tenantTables) await makeRow(db, table, mine)
      const plant = [
        sql`create function pg_temp.evil(value pg_catalog.tsquery) returns boolean language plpgsql as $$
          begin perform set_config('test.ran_as', current_user::text, false); return true; end $$`,
        sql`create domain pg_temp.tsquery as pg_catalog.tsquery check (pg_temp.evil(value))`,
        sql`create domain pg_temp.uuid as pg_catalog.uuid`,
        sql`create temp table chunks (id integer)`,
      ]
      const { refused } = await attempt(db, ownScope, mine, async (tx) => {
        for (const statement of plant) await rowsOf(tx, statement)
        return rowsOf(
          tx,
          sql`select search.matching_chunks('word', 5, null, null, null, null, null, null, null, null, null, null, null)`,
        )
      })
      expect(refused).toBeUndefined()
      expect(
        await rowsOf(db, sql`select nullif(current_setting('test.ran_as', true), '') as who`),
      ).toEqual([{ who: null }])
    })
  })

  test('plinth_app cannot enter a scope, nor find out who may', async () => {
    await rollback(owner, async (db) => {
      const mine = await makeMaker(db, new Map())
      const theirs = await makeMaker(db, new Map())
      const { organizationId, userId } = theirs
      for (const call of [
        sql`identity.enter_scope(${organizationId}, ${userId})`,
        sql`identity.enter_service_scope(${organizationId})`,
        sql`identity.granted_role(${organizationId}, ${userId})`,
        sql`identity.granted_service(${organizationId})`,
        sql`identity.enter_scope_from_jwt('test')`,
        sql`identity.user_by_subject('test', 'a')`,
        sql`identity.member_organizations(${userId}, null, 10)`,
        sql`identity.read_api_key(${organizationId}, ${userId}, null)`,
        sql`identity.archive_user(${userId})`,
        sql`activity.due_organizations(null, 10)`,
        sql`search.create_partition(${organizationId})`,
        sql`search.due_organizations(${organizationId}, null, null, 10)`,
        sql`search.enqueue_missing(${organizationId}, null, null, null, 10)`,
        sql`search.space_coverage(${organizationId}, null)`,
        sql`search.activate_space(${organizationId}, true)`,
        sql`search.roll_back_space('text')`,
        sql`search.retire_space(${organizationId})`,
        sql`search.drop_space(${organizationId})`,
        sql`search.embedding_drift(${organizationId}, 20)`,
        sql`search.repair_embeddings(${organizationId})`,
        sql`partitions.create_months('costs', 'usage_events', now(), now())`,
        sql`ops.acquire_lock('a', 'b', 1000)`,
        sql`ops.extend_lock('a', 1, 1000)`,
        sql`ops.release_lock('a', 1)`,
        sql`ops.check_lock('a', 1)`,
        sql`ops.take_public_tokens('a', 1, 1, 1)`,
        sql`ops.purge('locks', 1, 0)`,
        sql`costs.due_ledgers(null, 10)`,
        sql`activity.sealed_logs(null, 10)`,
      ]) {
        const { refused } = await attempt(db, ownScope, mine, (tx) =>
          tx.execute(sql`select ${call}`),
        )
        expect(refused).toBe('42501')
      }
    })
  })

  test('guards answer nobody without a scope', async () => {
    await rollback(owner, async (db) => {
      const mine = await makeMaker(db, new Map())
      for (const call of [
        sql`ops.claim_key('a', 'aa', ${uuidV7()}, 1000, 1000)`,
        sql`ops.acquire_tenant_lock('a', 'b', 1000)`,
        sql`ops.take_tokens('a', false, 1, 1, 1)`,
      ]) {
        const ask = (tx: Database) => tx.execute(sql`select ${call}`)
        for (const scope of ['no scope', 'an empty scope with a role'] as const) {
          const enter = foreignScopes[scope] ?? ownScope
          expect((await attempt(db, enter, mine, ask)).refused, scope).toBe('42501')
        }
      }
    })
  })

  test('what plinth_app may execute is declared', () => {
    const granted = managedObjects.flatMap(({ create }) => {
      const [, signature] =
        /^grant execute on function (\S+\(.*\)) to .*plinth_app/.exec(create) ?? []
      return signature ? [signature.replace(/\(.*/, '')] : []
    })
    const revoked = managedObjects.flatMap(({ create }) => {
      const [, signature] = /^revoke execute on function (\S+?)\(.* from public/.exec(create) ?? []
      return signature ? [signature] : []
    })
    for (const { schema, name } of appFunctions) {
      const title = `${schema}.${name}`
      expect(granted.includes(title) || !revoked.includes(title), title).toBe(true)
    }
  })
})

describe('foreign keys', () => {
  interface Key {
    name: string
    table: number
    columns: string[]
    target: number
    targetColumns: string[]
  }
  const names = (columns: string, of: string) =>
    sql.raw(
      `(select json_agg(a.attname order by k.at) from unnest(f.${columns}) with ordinality k (num, at)
      join pg_attribute a on a.attrelid = f.${of} and a.attnum = k.num)`,
    )

  test("refuse a row of one tenant that refers to another's", async () => {
    const keys = await rowsOf<Key>(
      owner,
      sql`select f.conname as name, f.conrelid::integer as table, f.confrelid::integer as target,
        ${names('conkey', 'conrelid')} as columns, ${names('confkey', 'confrelid')} as "targetColumns"
      from pg_constraint f where f.contype = 'f' and f.conparentid = 0`,
    )
    const byOid = new Map(tenantTables.map((table) => [table.oid, table]))
    let tried = 0
    for (const key of keys) {
      const table = byOid.get(key.table)
      const target = byOid.get(key.target)
      if (!table || !target) continue
      await rollback(owner, async (db) => {
        const { mine, theirs, myRow } = await makePair(db, table)
        const their = theirs.own.get(target.oid) ?? (await makeRow(db, target, theirs)).values
        const referring = Object.fromEntries(
          key.columns.map((name, at) => [name, their[key.targetColumns[at] ?? '']]),
        )
        const row = { ...myRow.values, ...referring, organization_id: mine.organizationId }
        await db.execute(sql`delete from ${nameOf(table)} where ${myRow.isIt}`)
        // Numbers may be the same in both: this tenant has none that is.
        const isMine = sql`organization_id = ${mine.organizationId}`
        const isSame = key.targetColumns
          .filter((name) => name !== 'organization_id')
          .map((name) => sql`${sql.identifier(name)}::text = ${their[name]}`)
        await db.execute(
          sql`delete from ${nameOf(target)} where ${sql.join([isMine, ...isSame], sql` and `)}`,
        )
        const refused = await db
          .transaction((tx) => tx.execute(insertion(table, row, myRow.types)))
          .then(() => 'written', codeOf)
        expect(refused, key.name).toBe('23503')
      })
      tried += 1
    }
    expect(tried).toBeGreaterThan(0)
  })
})

describe('strings', () => {
  const NASTY = [
    "'",
    "''",
    "x' or '1'='1",
    "'); drop table identity.users; --",
    '"; select 1; --',
    "/* */ -- \\'",
    '$$; select 1; $$',
    '$1 %s %L %I %1$s',
    'E\\047 \\u0027 \u2019',
    "' union select id::text from identity.users --",
  ]

  /** The statements that `work` sends, and what it answers. */
  async function statementsOf<T>(work: (db: Database) => Promise<T>) {
    const statements: string[] = []
    const logger = { logQuery: (text: string) => void statements.push(text) }
    const client = postgres(adminUrl ?? '', { max: 1, onnotice: () => {} })
    const embedded = (root as Database & { $client?: PGlite }).$client
    const db: Database = adminUrl
      ? drizzlePostgres({ client, logger })
      : drizzlePglite({ client: embedded, logger })
    try {
      return { answer: await rollback(db, work), statements }
    } finally {
      await client.end()
    }
  }

  /** Every text that a caller may pass, as the text. Reads it back where it was stored. */
  const passAll = (text: string) =>
    statementsOf(async (db) => {
      const user = await upsertUser(db, {
        provider: text,
        subject: text,
        email: `${uuidV7()}@example.com`,
        displayName: text,
      })
      const { id } = await createOrganization(db, { slug: text, name: text, ownerId: user.id })
      const other = await makeMaker(db, new Map())
      await db.execute(sql`set local request.jwt.claims = ''`)
      await rowsOf(
        db,
        sql`select set_config('request.jwt.claims', ${JSON.stringify({ sub: text, organization_id: id })}, true)`,
      )
      const found = await findOrganizationBySlug(db, text)
      const nobody = await findUserByEmail(db, `${text}@example.com`.replace(/\s/g, ''))
        .then((row) => row?.id, String)
        .then(() => 'asked')
      const scope = { organizationId: id, userId: user.id }
      const members = await inTenant(db, scope, (tenant) => listMembers(tenant))
      const matched = await inTenant(db, scope, ({ db: tx }) =>
        rowsOf(
          tx,
          sql`select * from search.matching_chunks(${text}, 10, array[${text}], array[${text}], null, null, null, null, null, null, ${text}, ${text}, null)`,
        ),
      )
      const role = await rollback(db, async (tx) => {
        const [entered] = await rowsOf<{ role: string; organization: string; seen: number }>(
          tx,
          sql`select identity.enter_scope_from_jwt(${text}) as role,
            current_setting('plinth.organization_id') = ${id} as organization`,
        )
        return { ...entered, seen: await countOf(tx, sql`identity.memberships`) }
      })
      const theirs = await countOf(
        db,
        sql`identity.memberships where organization_id = ${other.organizationId}`,
      )
      return {
        stored: [user.displayName, user.subject, found?.slug, found?.name],
        members: members.map(({ userId }) => userId === user.id),
        nobody,
        matched,
        role,
        theirs,
      }
    })

  test.each(NASTY)(
    '%j is data wherever it is passed, and the SQL stays what it is',
    async (text) => {
      const harmless = await passAll('harmless')
      const nasty = await passAll(text)

      expect(nasty.statements).toEqual(harmless.statements)
      expect(nasty.statements.length).toBeGreaterThan(10)
      expect(nasty.answer).toEqual({
        ...harmless.answer,
        stored: [text, text, text, text],
      })
      expect(nasty.answer.role).toEqual({ role: 'owner', organization: true, seen: 1 })
      expect(nasty.answer.theirs).toBe(1)
    },
  )

  test.each(NASTY)('%j is no scope', async (text) => {
    const scope = { organizationId: text, userId: uuidV7() }
    await expect(inTenant(root, scope, async () => 'in')).rejects.toThrow(ValidationError)
    await expect(
      inTenant(root, { organizationId: uuidV7(), userId: text }, async () => 'in'),
    ).rejects.toThrow(ValidationError)
    await expect(asService(root, text, async () => 'in')).rejects.toThrow(ValidationError)

    for (const call of [
      sql`identity.enter_scope(${text}::text::uuid, ${uuidV7()}::uuid)`,
      sql`identity.enter_service_scope(${text}::text::uuid)`,
    ]) {
      const refused = await root.execute(sql`select ${call}`).then(() => 'entered', codeOf)
      expect(refused).toBe('22P02')
    }
  })
})
