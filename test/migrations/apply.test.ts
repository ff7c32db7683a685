import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/pglite'
import { afterAll, describe, expect, test } from 'vitest'
import { type Connection, connect, type Database, openPglite, rowsOf } from '../../src/database.ts'
import { ForbiddenError } from '../../src/errors.ts'
import { migrate } from '../../src/migrations/apply.ts'
import { catalogOf } from '../../src/migrations/catalog/catalog.ts'
import { stateOfExports } from '../../src/migrations/generate/kit.ts'
import { EMPTY, planMigration } from '../../src/migrations/generate/plan.ts'
import { revert } from '../../src/migrations/revert.ts'
import type { MigrationProgress } from '../../src/migrations/turns.ts'
import * as schema from '../../src/schema/index.ts'
import { managedObjects } from '../../src/schema/objects.ts'
import { inTenant } from '../../src/tenant.ts'
import { rollback } from '../../src/testing/database.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { adminUrl } from '../support/database.ts'

interface Scratch {
  /** Of the server's database; undefined on PGlite. */
  url: string | undefined
  db: Database
}

const scratches: (() => Promise<void>)[] = []
const server = adminUrl ? await connect(adminUrl, { maxConnections: 1 }) : undefined

/** An empty database: of the server, where there is one. */
async function makeScratch({ as = '' }: { as?: string } = {}): Promise<Scratch> {
  if (!adminUrl || !server) {
    const client = await openPglite()
    scratches.unshift(() => client.close())
    return { url: undefined, db: drizzle({ client }) }
  }
  const name = `plinth_scratch_${process.pid}_${scratches.length}`
  await server.execute(sql.raw(`create database ${name} ${as && `owner ${as}`}`))
  const url = new URL(adminUrl)
  url.pathname = `/${name}`
  const db = await connect(url.href, { maxConnections: 1 })
  scratches.unshift(async () => {
    await db.close()
    await server.execute(sql.raw(`drop database ${name} with (force)`))
  })
  return { url: url.href, db }
}

afterAll(async () => {
  for (const end of scratches) await end()
  await server?.close()
})

/** Makes everything from TypeScript alone, without a look at the migrations. */
async function createFromSchema(db: Database) {
  const next = { ddl: await stateOfExports({ ...schema }), objects: managedObjects }
  const { up } = await planMigration(EMPTY, next)
  await db.transaction(async (tx) => {
    await tx.execute(sql`set local search_path = ''`)
    for (const statement of up) await tx.execute(sql.raw(statement))
  })
}

const declared = await makeScratch()
await createFromSchema(declared.db)
const expected = await catalogOf(declared.db)

const settingsOf = (db: Database) =>
  rowsOf(
    db,
    sql`select name, setting from pg_settings where name in ('search_path', 'statement_timeout', 'role') order by 1`,
  )

const migrated = await makeScratch()
const settings = await settingsOf(migrated.db)
const progress: MigrationProgress[] = []
const applied = await migrate(migrated.db, { onProgress: (step) => progress.push(step) })

describe('migrate', () => {
  test('makes exactly what TypeScript declares', async () => {
    const catalog = await catalogOf(migrated.db)
    expect(Object.keys(catalog).length).toBeGreaterThan(500)
    expect(catalog).toEqual(expected)
  })

  test('says what it applied, and announced each', () => {
    expect(applied.length).toBeGreaterThan(0)
    expect(applied).toEqual([...applied].sort())
    expect(progress.filter(({ doing }) => doing === undefined)).toEqual(
      applied.map((name, at) => ({ name, step: at + 1, steps: applied.length })),
    )
  })

  test('applies nothing twice', async () => {
    expect(await migrate(migrated.db, { onProgress: () => expect.unreachable() })).toEqual([])
    expect(await catalogOf(migrated.db)).toEqual(expected)
  })

  test('goes to nothing and back, migration by migration', async () => {
    const { db } = await makeScratch()
    const empty = await catalogOf(db)
    await migrate(db)
    expect(await revert(db, { to: 'nothing', allowDataLoss: true })).toEqual(applied.toReversed())
    // Roles and extensions stay: others may use them.
    const isOurs = (key: string) => !/^(role|extension) /.test(key)
    const objects = (catalog: object) => Object.keys(catalog).filter(isOurs)
    expect(objects(await catalogOf(db))).toEqual(objects(empty))
    for (const name of applied) {
      expect(await migrate(db, { to: name })).toEqual([name])
      const before = await catalogOf(db)
      expect(await revert(db, { allowDataLoss: true })).toEqual([name])
      expect(await migrate(db, { to: name })).toEqual([name])
      expect(await catalogOf(db)).toEqual(before)
    }
    expect(await catalogOf(db)).toEqual(expected)
  }, 60_000)

  test('leaves no setting behind', async () => {
    expect(await settingsOf(migrated.db)).toEqual(settings)
  })

  test('applies all or nothing', async () => {
    const { db } = await makeScratch()
    // A stranger's table under one of plinth's names, met when half of it is there.
    await db.execute(sql`create schema costs`)
    const before = await catalogOf(db)
    await expect(migrate(db)).rejects.toThrow()
    const after = await catalogOf(db)
    // Roles belong to the cluster, and on PGlite to this database: they are undone as well.
    expect(after).toEqual(before)
    await db.execute(sql`drop schema costs`)
    expect(await migrate(db)).toEqual(applied)
    expect(await catalogOf(db)).toEqual(expected)
  })

  test('works in a database that has been used, and keeps its rows', async () => {
    const scope = await makeScope(migrated.db)
    expect(await migrate(migrated.db)).toEqual([])
    expect(await inTenant(migrated.db, scope, ({ role }) => role)).toBe('owner')
  })

  test('finds its migrations from any working directory', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'plinth-apply-'))
    try {
      const main = join(folder, 'main.mts')
      const module = (path: string) =>
        JSON.stringify(new URL(`../../src/${path}`, import.meta.url).href)
      await writeFile(
        main,
        `import { connect } from ${module('database.ts')}
        import { migrate } from ${module('migrations/apply.ts')}
        const db = await connect('memory://')
        process.stdout.write(JSON.stringify(await migrate(db)))
        await db.close()`,
      )
      const tsx = new URL('../../node_modules/.bin/tsx', import.meta.url).pathname
      const { stdout } = await promisify(execFile)(tsx, [main], { cwd: folder })
      expect(JSON.parse(stdout)).toEqual(applied)
    } finally {
      await rm(folder, { recursive: true })
    }
  }, 60_000)
})

describe('the comparison', () => {
  // A difference of each kind, made to a database that is as declared.
  test.each([
    ['a function', 'create function costs.f() returns void language plpgsql as $$ begin end $$'],
    [
      'the body of a function',
      "create or replace function identity.granted_service(organization uuid) returns text language plpgsql stable security definer set search_path = '' as $$ begin return 'service'; end $$",
    ],
    ['a setting of a function', 'alter function identity.uuid_v7() reset search_path'],
    [
      'who may call a function',
      'grant execute on function identity.enter_scope(uuid, uuid) to plinth_app',
    ],
    ['a right on a table', 'grant update on costs.usage_events to plinth_app'],
    ['a right on a column', 'grant select (email) on identity.users to plinth_app'],
    ['a right on a schema', 'grant usage on schema partitions to plinth_app'],
    ['a right that is gone', 'revoke select on costs.usage_events from plinth_app'],
    ['a policy', 'create policy p on costs.usage_events for select to plinth_app using (true)'],
    ['a policy that is gone', 'drop policy usage_events_select on costs.usage_events'],
    [
      'the expression of a policy',
      'alter policy usage_events_select on costs.usage_events using (true)',
    ],
    ['row level security that is off', 'alter table costs.usage_events disable row level security'],
    [
      'row level security that is forced',
      'alter table costs.usage_events force row level security',
    ],
    ['a column', 'alter table costs.usage_keys add column note text'],
    ['the type of a column', 'alter table costs.usage_keys alter column cost_nanos type numeric'],
    ['a default', "alter table costs.model_prices alter column source set default 'x'"],
    ['a NOT NULL', 'alter table costs.usage_keys alter column status drop not null'],
    [
      'the storage of a column',
      'alter table search.embeddings alter column embedding set storage extended',
    ],
    ['a check', 'alter table costs.model_prices drop constraint model_prices_tier_from_check'],
    ['an exclusion', 'alter table costs.model_prices drop constraint model_prices_validity_excl'],
    ['an index', 'drop index identity.memberships_invited_by_idx'],
    [
      'a partition',
      "create table partitions.usage_events_1999_01 partition of costs.usage_events for values from ('1999-01-01') to ('1999-02-01')",
    ],
    ['a label of an enum', "alter type costs.usage_status rename value 'estimated' to 'guessed'"],
    ['a comment', "comment on table costs.usage_keys is 'x'"],
    ['an extension that is gone', 'drop extension btree_gist cascade'],
    ['a view', 'create view costs.v as select 1 as one'],
    ['a schema', 'create schema elsewhere'],
    ['an attribute of a role', 'alter role plinth_app createdb'],
  ])('finds %s', async (_, ddl) => {
    await rollback(declared.db, async (tx) => {
      await tx.execute(sql.raw(ddl))
      expect(await catalogOf(tx)).not.toEqual(expected)
    })
    expect(await catalogOf(declared.db)).toEqual(expected)
  })

  test('is of every function that is declared, and no other', async () => {
    const signatures = managedObjects.flatMap(({ name }) =>
      name.startsWith('function ') ? [name.slice('function '.length)] : [],
    )
    const found = await rowsOf<{ oid: string; wanted: string[] }>(
      migrated.db,
      sql`select p.oid::regprocedure::text as oid from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where n.nspname !~ '^(pg_|information_schema$|drizzle$)'
          and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')`,
    )
    const wanted = await rowsOf<{ oid: string }>(
      migrated.db,
      sql`select to_regprocedure(signature)::text as oid
        from json_array_elements_text(${JSON.stringify(signatures)}::text::json) signature`,
    )
    const texts = (rows: { oid: string }[]) => rows.map(({ oid }) => oid).sort()
    expect(texts(found)).toEqual(texts(wanted))
  })
})

const kit = (env: Record<string, string>, ...args: string[]) =>
  promisify(execFile)('npx', ['drizzle-kit', ...args], { env: { ...process.env, ...env } })

describe.skipIf(!adminUrl)('on a server', () => {
  test('20 at once take turns, and each is applied by one of them', async () => {
    const { url = '', db } = await makeScratch()
    const callers: Connection[] = await Promise.all(
      Array.from({ length: 20 }, () => connect(url, { maxConnections: 1 })),
    )
    try {
      const results = await Promise.all(callers.map((caller) => migrate(caller)))
      expect(results.flat().sort()).toEqual(applied)
    } finally {
      await Promise.all(callers.map((caller) => caller.close()))
    }
    expect(await catalogOf(db)).toEqual(expected)
    const ledger = await rowsOf(
      db,
      sql`select name from drizzle.__drizzle_migrations order by name`,
    )
    expect(ledger).toEqual(applied.map((name) => ({ name })))
  }, 60_000)

  test('what drizzle-kit has migrated is up to date, and the same', async () => {
    const { url = '', db } = await makeScratch()
    await kit({ DATABASE_URL: url }, 'migrate')
    expect(await migrate(db)).toEqual([])
    expect(await catalogOf(db)).toEqual(expected)
  }, 60_000)

  test('what plinth has migrated is up to date for drizzle-kit, too', async () => {
    await kit({ DATABASE_URL: migrated.url ?? '' }, 'migrate')
    expect(await catalogOf(migrated.db)).toEqual(expected)
  }, 60_000)

  // The first of them finds the roles there, which a superuser or another database's owner has made.
  test.each(['nocreaterole', 'createrole'])(
    'a plain owner (%s) makes the same, and can use it',
    async (right) => {
      const name = `plinth_owner_${process.pid}_${right}`
      await server?.execute(sql.raw(`create role ${name} login ${right} password 'plinth-test'`))
      try {
        const { url = '', db } = await makeScratch({ as: name })
        // pgvector is not a trusted extension: a provider, or a superuser, installs it.
        await db.execute(sql`create extension vector with schema public`)
        const mine = new URL(url)
        mine.username = name
        mine.password = 'plinth-test'
        const owner = await connect(mine.href, { maxConnections: 2 })
        try {
          expect(await migrate(owner)).toEqual(applied)
          expect(await catalogOf(db)).toEqual(expected)
          expect(await revert(owner, { to: 'nothing' })).toEqual(applied.toReversed())
          expect(await migrate(owner)).toEqual(applied)
          expect(await catalogOf(db)).toEqual(expected)
          // Who is no superuser enters a scope only as a member of plinth_app.
          await expect(makeScope(owner)).rejects.toThrow(ForbiddenError)
          await server?.execute(sql.raw(`grant plinth_app to ${name}`))
          const scope = await makeScope(owner)
          expect(await inTenant(owner, scope, ({ role }) => role)).toBe('owner')
        } finally {
          await owner.close()
        }
      } finally {
        await scratches.shift()?.()
        await server?.execute(sql.raw(`drop role ${name}`))
      }
    },
    60_000,
  )

  test('who may not create says so', async () => {
    const name = `plinth_nobody_${process.pid}`
    await server?.execute(sql.raw(`create role ${name} login password 'plinth-test'`))
    try {
      const { url } = await makeScratch()
      const mine = new URL(url ?? '')
      mine.username = name
      mine.password = 'plinth-test'
      const nobody = await connect(mine.href, { maxConnections: 1 })
      await expect(migrate(nobody).finally(() => nobody.close())).rejects.toThrow(ForbiddenError)
    } finally {
      await server?.execute(sql.raw(`drop role ${name}`))
    }
  })
})
