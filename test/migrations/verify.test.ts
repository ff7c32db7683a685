import { sql } from 'drizzle-orm'
import { afterAll, describe, expect, test } from 'vitest'
import { type Connection, connect, type Database, rowsOf } from '../../src/database.ts'
import { migrate } from '../../src/migrations/apply.ts'
import { type Catalog, readCatalog } from '../../src/migrations/catalog/catalog.ts'
import { compareCatalogs, type Difference } from '../../src/migrations/catalog/compare.ts'
import { operationalObjects } from '../../src/migrations/catalog/operational.ts'
import { createSpace } from '../../src/queries/spaces.ts'
import { rollback } from '../../src/testing/database.ts'
import { adminUrl } from '../support/database.ts'
import { DRIFTS, type Drift, OBJECTS } from '../support/drifts.ts'

async function runAll(db: Database, statements: readonly string[]) {
  for (const statement of statements) await db.execute(sql.raw(statement))
}

async function build(db: Database) {
  await migrate(db)
  await runAll(db, OBJECTS)
}

const ends: (() => Promise<unknown>)[] = []
afterAll(async () => {
  for (const end of ends.reverse()) await end()
})

interface Role {
  name: string
  db: Database
  isSuperuser: boolean
}

const PASSWORD = 'plinth-test'

/** The databases that drift: one for each role that may own one. */
async function makeRoles(): Promise<Role[]> {
  if (!adminUrl) {
    const db = await connect('memory://')
    ends.push(() => db.close())
    return [{ name: 'the embedded database', db, isSuperuser: true }]
  }
  const server = await connect(adminUrl, { maxConnections: 1 })
  ends.push(() => server.close())
  const owner = `plinth_verify_owner_${process.pid}`
  await server.execute(sql.raw(`create role ${owner} login password '${PASSWORD}'`))
  ends.push(() => server.execute(sql.raw(`drop role ${owner}`)))
  const open = async (name: string, as?: string): Promise<Connection> => {
    await server.execute(sql.raw(`create database ${name} ${as ? `owner ${as}` : ''}`))
    ends.push(() => server.execute(sql.raw(`drop database ${name} with (force)`)))
    const url = new URL(adminUrl ?? '')
    url.pathname = `/${name}`
    if (as) {
      const admin = await connect(url.href, { maxConnections: 1 })
      await admin.execute(sql`create extension vector with schema public`)
      await admin.close()
      url.username = as
      url.password = PASSWORD
    }
    const db = await connect(url.href, { maxConnections: 1 })
    ends.push(() => db.close())
    return db
  }
  return [
    { name: 'a superuser', db: await open(`plinth_verify_${process.pid}_a`), isSuperuser: true },
    {
      name: 'a plain owner',
      db: await open(`plinth_verify_${process.pid}_b`, owner),
      isSuperuser: false,
    },
  ]
}

const roles = await makeRoles()
const [first] = roles
if (!first) throw new Error('no database')
for (const { db } of roles) await build(db)
/** Of the first, whose objects have another owner than the second one's. */
const declared: Catalog = await readCatalog(first.db)

const titleOf = ({ change, kind, name }: Difference) => `${change} ${kind} ${name}`

describe.each(roles)('as $name', ({ db, isSuperuser }) => {
  test('finds nothing in an equal database', async () => {
    expect(compareCatalogs(await readCatalog(db), declared)).toEqual([])
  })

  test.each(DRIFTS.filter(([, , needs]) => isSuperuser || !needs))(
    'finds and mends %s',
    async (ddl, finds) => {
      await rollback(db, async (tx) => {
        await runAll(tx, [ddl].flat())
        const differences = compareCatalogs(await readCatalog(tx), declared)
        expect(differences.map(titleOf)).toEqual(expect.arrayContaining([finds].flat()))
        for (const difference of differences) {
          const { change } = difference
          expect(difference.live === undefined).toBe(change === 'missing')
          expect(difference.declared === undefined).toBe(change === 'extra')
        }
        await runAll(
          tx,
          differences.flatMap(({ mend }) => mend),
        )
        expect(compareCatalogs(await readCatalog(tx), declared)).toEqual([])
      })
    },
  )
})

describe('operational objects', () => {
  const months =
    "select partitions.create_months('costs', 'usage_events', now() + interval '20 months', now() + interval '25 months')"
  const space = { provider: 'p', model: 'm', dimensions: 3 }
  const partitionOf = ({ id }: { id: string }) => `partitions.embeddings_${id.replaceAll('-', '')}`

  test('are expected: months, spaces, and partitions of a user’s own', async () => {
    await rollback(first.db, async (tx) => {
      await runAll(tx, [
        months,
        "create table partitions.events_2027 partition of app.events for values from ('2027-01-01') to ('2028-01-01')",
      ])
      await createSpace(tx, space)
      await createSpace(tx, { ...space, distance: 'l2', dimensions: 5 })
      const catalog = await readCatalog(tx)
      expect(compareCatalogs(catalog, declared)).toEqual([])
      expect(operationalObjects(catalog, declared)).toEqual([
        { parent: 'activity.activity_logs', partitions: 14 },
        { parent: 'activity.auth_logs', partitions: 14 },
        { parent: 'activity.error_logs', partitions: 14 },
        { parent: 'app.events', partitions: 2 },
        { parent: 'costs.usage_events', partitions: 20 },
        { parent: 'search.embeddings', partitions: 2 },
        { parent: 'search.searches', partitions: 14 },
      ])
    })
  })

  test('are expected to be fewer, too', async () => {
    await rollback(first.db, async (tx) => {
      await runAll(tx, ['drop table app.events_2026'])
      expect(compareCatalogs(await readCatalog(tx), declared)).toEqual([])
    })
  })

  test('are found where they differ from others of the table', async () => {
    await rollback(first.db, async (tx) => {
      const { id } = await createSpace(tx, space)
      const partition = partitionOf({ id })
      await runAll(tx, [
        `grant select on ${partition} to plinth_app`,
        `alter table ${partition} enable row level security`,
        `drop index ${partition}_hnsw`,
        `alter table ${partition} alter column embedding set storage main`,
      ])
      const differences = compareCatalogs(await readCatalog(tx), declared)
      expect(differences.map(titleOf)).toEqual([
        `extra row security ${partition}`,
        `extra storage ${partition}.embedding`,
        `extra right select on table ${partition} to plinth_app`,
        `missing index ${partition}_hnsw`,
      ])
      expect(differences.at(-1)).toMatchObject({
        mend: [],
        note: expect.stringContaining('search.'),
      })
      await runAll(
        tx,
        differences.flatMap(({ mend }) => mend),
      )
      expect(compareCatalogs(await readCatalog(tx), declared).map(titleOf)).toEqual([
        `missing index ${partition}_hnsw`,
      ])
    })
  })

  test('have what the declared ones have, whatever their names', async () => {
    const rule = 'alter table app.events_2026 enable row level security'
    const ruled = await rollback(first.db, async (tx) => {
      await runAll(tx, [rule, 'create policy p on app.events_2026 using (true)'])
      return readCatalog(tx)
    })
    await rollback(first.db, async (tx) => {
      await runAll(tx, [
        rule,
        'create policy p on app.events_2026 using (true)',
        "create table partitions.events_2027 partition of app.events for values from ('2027-01-01') to ('2028-01-01')",
      ])
      const differences = compareCatalogs(await readCatalog(tx), ruled)
      expect(differences.map(titleOf).sort()).toEqual([
        'missing policy partitions.events_2027.p',
        'missing row security partitions.events_2027',
      ])
      await runAll(
        tx,
        differences.flatMap(({ mend }) => mend),
      )
      expect(compareCatalogs(await readCatalog(tx), ruled)).toEqual([])
    })
  })
})

describe('a mend', () => {
  const mendOf = (ddl: string[]) =>
    rollback(first.db, async (tx) => {
      await runAll(tx, ddl)
      return compareCatalogs(await readCatalog(tx), declared)
    })

  test('says that it loses data, or that it does not', async () => {
    const found = await mendOf([
      'alter table app.owners add column note text',
      'create table app.more (id integer)',
      'create sequence app.stray',
      'create index stray_idx on app.notes (title)',
      'alter table app.events alter column note type varchar(20)',
      'alter table costs.usage_keys alter column cost_nanos type numeric',
      'alter table app.notes add column triple integer generated always as (3) stored',
    ])
    const losing = found.filter(({ loses }) => loses).map(titleOf)
    expect(losing.sort()).toEqual([
      'different column costs.usage_keys.cost_nanos',
      'extra column app.owners.note',
      'extra sequence app.stray',
      'extra table app.more',
    ])
  })

  test('says what is a part of another', async () => {
    const found = await mendOf(['create table app.more (id integer not null)'])
    expect(found.map((one) => [titleOf(one), one.within, one.mend])).toEqual([
      ['extra table app.more', undefined, ['drop table app.more']],
      ['extra column app.more.id', 'table app.more', []],
      ['extra not null app.more.id', 'column app.more.id', []],
      // The default privileges of the schema gave it.
      ['extra right select on table app.more to plinth_platform', 'table app.more', []],
    ])
  })

  test('says why there is none', async () => {
    const found = await mendOf([
      'drop table app.events',
      'create table app.events (at timestamptz not null, kind text) partition by list (kind)',
    ])
    const table = found.find(({ kind }) => kind === 'table')
    expect(table).toMatchObject({
      change: 'different',
      mend: [],
      note: expect.stringContaining('fixed'),
    })
  })

  test('keeps the rows of a column whose type changes, and of an enum that lost a label', async () => {
    await rollback(first.db, async (tx) => {
      await runAll(tx, [
        'alter type app.mood rename to mood_before',
        "create type app.mood as enum ('sad', 'ok', 'happy', 'thrilled')",
      ])
      await runAll(tx, [
        'drop table app.notes cascade',
        'create table app.notes (id integer, mood app.mood, title varchar(9))',
        "insert into app.notes values (7, 'happy', 'seven')",
      ])
      const differences = compareCatalogs(await readCatalog(tx), declared)
      await runAll(
        tx,
        differences.flatMap(({ mend }) => mend),
      )
      const rows = await rowsOf(tx, sql`select id::int, mood::text, title from app.notes`)
      expect(rows).toEqual([{ id: 7, mood: 'happy', title: 'seven' }])
      expect(compareCatalogs(await readCatalog(tx), declared)).toEqual([])
    })
  })
})

describe('a catalog', () => {
  test('is the same whatever the settings are, and leaves them', async () => {
    await rollback(first.db, async (tx) => {
      await runAll(tx, [
        "set local search_path = 'app', 'costs', 'public'",
        "set local timezone = 'Asia/Tokyo'",
        "set local datestyle = 'SQL, DMY'",
        'set local quote_all_identifiers = on',
      ])
      const settings = sql`select current_setting('search_path') as path, current_setting('timezone') as zone,
        current_setting('datestyle') as dates, current_setting('quote_all_identifiers') as quotes`
      const before = await rowsOf(tx, settings)
      expect(await readCatalog(tx)).toEqual(declared)
      expect(await rowsOf(tx, settings)).toEqual(before)
    })
  })

  test('has an owner only where it is not everybody’s', () => {
    const owners = [...declared.facets.keys()].filter((key) => key.startsWith('owner '))
    expect(owners).toEqual(['owner schema public'])
  })

  test('quotes what has to be quoted', async () => {
    await rollback(first.db, async (tx) => {
      await runAll(tx, [
        'create schema "Sch""ema"',
        `create table "Sch""ema"."Ta.ble" ("Col umn" text default 'it''s', "select" integer, constraint "P k" primary key ("Col umn"))`,
        `comment on column "Sch""ema"."Ta.ble"."Col umn" is 'it''s \\ "quoted"'`,
        'create index "I x" on "Sch""ema"."Ta.ble" ("select")',
        'grant select ("select") on "Sch""ema"."Ta.ble" to plinth_app',
        'alter table "Sch""ema"."Ta.ble" enable row level security',
        'create policy "P y" on "Sch""ema"."Ta.ble" using ("select" > 1)',
        'create view "Sch""ema"."V w" as select "Col umn" from "Sch""ema"."Ta.ble"',
        `create type "Sch""ema"."En um" as enum ('it''s', 'b')`,
      ])
      const quoted = await readCatalog(tx)
      // All of it made from its mend, and then dropped by its mend.
      const drops = compareCatalogs(quoted, declared).flatMap(({ mend }) => mend)
      await runAll(tx, drops)
      expect(compareCatalogs(await readCatalog(tx), declared)).toEqual([])
      const creates = compareCatalogs(await readCatalog(tx), quoted).flatMap(({ mend }) => mend)
      await runAll(tx, creates)
      expect(compareCatalogs(await readCatalog(tx), quoted)).toEqual([])
    })
  })
})

describe.skipIf(declared.version < 18)('from Postgres 18 on', () => {
  test.each<Drift>([
    [
      [
        'alter table app.notes alter column number drop not null',
        'alter table app.notes add constraint unchecked not null number not valid',
      ],
      'different not null app.notes.number',
    ],
    [
      'alter table app.notes add column half integer generated always as (amount / 2) virtual',
      'extra column app.notes.half',
    ],
    [
      [
        'alter table app.notes drop constraint notes_amount_check',
        'alter table app.notes add constraint notes_amount_check check (amount > 0) not enforced',
      ],
      'different constraint app.notes.notes_amount_check',
    ],
    [
      [
        'alter table app.notes drop column double',
        'alter table app.notes add column double integer generated always as (amount * 2) virtual',
      ],
      'different column app.notes.double',
    ],
  ])('finds and mends %s', async (ddl, finds) => {
    await rollback(first.db, async (tx) => {
      await runAll(tx, [ddl].flat())
      const differences = compareCatalogs(await readCatalog(tx), declared)
      expect(differences.map(titleOf)).toEqual(expect.arrayContaining([finds].flat()))
      await runAll(
        tx,
        differences.flatMap(({ mend }) => mend),
      )
      expect(compareCatalogs(await readCatalog(tx), declared)).toEqual([])
    })
  })

  test('names of NOT NULL are nobody’s to compare', async () => {
    await rollback(first.db, async (tx) => {
      await runAll(tx, [
        'alter table app.notes alter column number drop not null',
        'alter table app.notes add constraint named not null number',
      ])
      expect(compareCatalogs(await readCatalog(tx), declared)).toEqual([])
    })
  })
})
