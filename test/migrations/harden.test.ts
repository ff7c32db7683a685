import { sql } from 'drizzle-orm'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Database } from '../../src/database.ts'
import { harden } from '../../src/migrations/advice/harden.ts'
import { parseStatements } from '../../src/migrations/advice/parse.ts'
import { knownAfter } from '../../src/migrations/advice/replay.ts'
import { catalogOf } from '../../src/migrations/catalog/catalog.ts'
import { makePglite, makeServerDatabase, runAll } from '../support/scratch.ts'

/** What migrations before have made, with rows. */
const SETUP = [
  'create schema m',
  `create type m.mood as enum ('calm', 'merry')`,
  'create function m.plain(t text) returns text language sql immutable as $$ select t $$',
  'create table m.parents (id int not null, name text, code text, constraint parents_pkey primary key (id))',
  `create table m.rows (id int not null, parent_id int, name text, size int, mood m.mood, a int not null, b int not null)`,
  'create index rows_size_idx on m.rows (size)',
  'alter table m.rows add constraint rows_b_key unique (b)',
  'create table m.logs (id int, at date not null) partition by range (at)',
  `create table m.logs_1 partition of m.logs for values from ('2026-01-01') to ('2026-02-01')`,
  'create index logs_at_idx on m.logs (at)',
  'create materialized view m.sizes as select id, size from m.rows',
]
const ROWS = [
  `insert into m.parents select n, n::text, n::text from generate_series(1, 9) n`,
  `insert into m.rows select n, n, n::text, n, 'calm', n, n from generate_series(1, 9) n`,
]
const known = await knownAfter([{ name: 'before', texts: SETUP }])
const hardened = (...texts: string[]) => harden(texts, { known })

const CONCURRENTLY = '-- plinth: concurrently'
const STEP = '-- plinth: step'

/** Runs statements as the migrator does: transactions between the steps, and indexes outside of them. */
async function runSteps(db: Database, texts: readonly string[], canBeConcurrent: boolean) {
  let open: string[] = []
  const commit = async () => {
    const due = open
    open = []
    await db.transaction((tx) => runAll(tx, due))
  }
  for (const [index, { directives }] of (await parseStatements(texts)).entries()) {
    const text = texts[index] ?? ''
    if (directives.length > 0) await commit()
    if (!directives.includes('concurrently')) open.push(text)
    else {
      const found = canBeConcurrent ? text.replace(/\bindex\b/i, 'index concurrently') : text
      await db.execute(sql.raw(found))
    }
  }
  await commit()
}

const engines: [string, Database][] = [['PGlite', await makePglite()]]
const server = await makeServerDatabase()
if (server) engines.push(['the server', server])

async function begin(db: Database) {
  await runAll(db, ['drop schema if exists m cascade', ...SETUP, ...ROWS])
}

/** Pieces of migrations: each is valid on the tables above, and after what comes before it. */
const CASES: Record<string, string[]> = {
  'an index': ['create index i on m.rows (name)'],
  'a unique index with all that one can have': [
    'create unique index i on m.rows (m.plain(name) desc nulls last) include (size) where size > 0',
  ],
  'an index of a materialized view': ['create unique index i on m.sizes (id)'],
  'an index that goes': ['drop index m.rows_size_idx'],
  'an index that changes': [
    'drop index m.rows_size_idx',
    'create index rows_size_idx on m.rows (size, name)',
  ],
  'an index on a new column': [
    'alter table m.rows add column n int',
    'create index i on m.rows (n)',
    'create policy p on m.rows using (true)',
  ],
  'an index, and the end of its column': [
    'create index i on m.rows (name)',
    'alter table m.rows drop column name',
    'create table m.other (id int)',
  ],
  'an index with a comment': [
    'create index i on m.rows (name)',
    'comment on index m.i is $$found by name$$',
    'create table m.other (id int)',
  ],
  'a foreign key on a unique index': [
    'create unique index i on m.parents (code)',
    'alter table m.rows add constraint f foreign key (name) references m.parents (code)',
  ],
  'a foreign key': [
    'alter table m.rows add constraint f foreign key (parent_id) references m.parents (id) on delete cascade deferrable initially deferred',
  ],
  'a foreign key of a new table': [
    'create table m.fresh (id int primary key, row_id int)',
    'alter table m.fresh add constraint f foreign key (row_id) references m.rows (b)',
    'create index fresh_idx on m.fresh (row_id)',
  ],
  'a check': ['alter table m.rows add constraint c check (size > 0)'],
  'a check in place of another': [
    'alter table m.rows drop constraint if exists c, add constraint c check (size in (1, 2, 3, 4, 5, 6, 7, 8, 9))',
  ],
  'two checks and a column': [
    'alter table m.rows add constraint c check (size > 0), add column extra int default coalesce(1, 2), add constraint d check (id > 0)',
  ],
  'a check that goes again': [
    'alter table m.rows add constraint c check (size > 0)',
    'alter table m.rows drop constraint c',
  ],
  'not null': ['alter table m.rows alter column size set not null'],
  'not null, and then nullable': [
    'alter table m.rows alter column size set not null',
    'alter table m.rows alter column size drop not null',
  ],
  'not null of a column in quotes': [
    'alter table m.rows add column "Straße ""x""" int default 1',
    'alter table m.rows alter column "Straße ""x""" set not null',
  ],
  'a unique key': [
    'alter table m.rows add constraint u unique nulls not distinct (parent_id, name) include (size) deferrable initially deferred',
  ],
  'a primary key of columns that may be null': [
    'alter table m.rows add constraint rows_pkey primary key (id, parent_id)',
  ],
  'a primary key, and what references it': [
    'alter table m.rows add constraint rows_pkey primary key (id)',
    'create table m.fresh (row_id int constraint fresh_fkey references m.rows (id))',
    'create view m.counted as select id, name from m.rows group by id',
    `create function m.first() returns text language sql as $$ select name from m.counted limit 1 $$`,
  ],
  'a unique key in place of another': [
    'alter table m.rows drop constraint rows_b_key',
    'alter table m.rows add constraint rows_b_key unique (b, a)',
  ],
  'a new value of an enum': [
    `alter type m.mood add value 'sad' before 'calm'`,
    `alter type m.mood add value 'glad'`,
    'create table m.other (mood m.mood)',
  ],
  'a new value between others': [
    'create table m.other (id int)',
    `alter type m.mood add value 'sad'`,
    'alter table m.other add column mood m.mood',
  ],
  partitions: [
    'create index i on m.logs (id)',
    'drop index m.logs_at_idx',
    'alter table m.logs add constraint f foreign key (id) references m.parents (id)',
    'alter table m.logs add constraint c check (id > 0)',
    'alter table m.logs alter column id set not null',
    'create index j on m.logs_1 (id)',
  ],
  'a function of an index that changes after it': [
    'create index i on m.rows (m.plain(name))',
    'create or replace function m.plain(t text) returns text language sql immutable as $$ select lower(t) $$',
  ],
  'what nobody can see into': [
    'create index i on m.rows (name)',
    'do $$ begin execute $x$ drop index m.i $x$; end $$',
    'create table m.other (id int)',
  ],
  'much at once': [
    'create table m.fresh (id int primary key)',
    'alter table m.rows add column fresh_id int',
    'create index rows_fresh_idx on m.rows (fresh_id)',
    'alter table m.rows add constraint rows_fresh_fkey foreign key (fresh_id) references m.fresh (id)',
    'alter table m.rows alter column name set not null',
    'alter table m.rows add constraint rows_name_key unique (name)',
    'alter table m.rows enable row level security',
    'create policy rows_select on m.rows for select using (fresh_id is null)',
    'alter table m.fresh add constraint fresh_rows_fkey foreign key (id) references m.rows (b)',
    'alter table m.rows rename column size to length',
    'create view m.long as select id, length from m.rows',
  ],
}

describe.each(engines)('on %s', (_, db) => {
  test.each(Object.entries(CASES))('%s ends in the same catalog', async (_, texts) => {
    const result = await hardened(...texts)
    await begin(db)
    await db.transaction((tx) => runAll(tx, texts))
    const expected = await catalogOf(db)

    await begin(db)
    await db.transaction((tx) => runAll(tx, result))
    expect(await catalogOf(db), 'in one transaction').toEqual(expected)

    await begin(db)
    await runSteps(db, result, db === server)
    expect(await catalogOf(db), 'step by step').toEqual(expected)
  })
})

test('any of it, in any company, ends in the same catalog', async () => {
  const [, db] = engines[0] as [string, Database]
  const pool = Object.values(CASES).flat()
  class Undone extends Error {}
  await begin(db)
  const catalogAfter = async (texts: readonly string[]) => {
    let found: Record<string, string> | undefined
    const work = db.transaction(async (tx) => {
      await runAll(tx, texts)
      found = await catalogOf(tx)
      throw new Undone()
    })
    const error = await work.catch((error) => (error instanceof Undone ? undefined : error))
    return { found, error }
  }
  let compared = 0
  const picks = fc.uniqueArray(fc.nat(pool.length - 1), { minLength: 2, maxLength: 7 })
  await fc.assert(
    fc.asyncProperty(picks, async (indexes) => {
      const texts = indexes.map((index) => pool[index] ?? '')
      const plain = await catalogAfter(texts)
      if (!plain.found) return
      compared++
      const result = await hardened(...texts)
      const { found, error } = await catalogAfter(result)
      expect(error, result.join('\n')).toBeUndefined()
      expect(found, result.join('\n')).toEqual(plain.found)
    }),
    { numRuns: 80 },
  )
  expect(compared).toBeGreaterThan(10)
}, 120_000)

describe('harden', () => {
  test('leaves alone what touches only tables that it makes itself', async () => {
    const texts = [
      '-- managed: a title\ncreate schema fresh;',
      'create table fresh.t (id int, name text)',
      'create unique index i on fresh.t (name)',
      'alter table fresh.t add constraint t_pkey primary key (id)',
      'alter table fresh.t add constraint c check (id > 0)',
      'alter table fresh.t alter column name set not null',
      `create type fresh.e as enum ('a')`,
      `alter type fresh.e add value 'b'`,
      `-- only a comment`,
      'drop index fresh.i',
    ]
    expect(await hardened(...texts)).toEqual(texts)
  })

  test('leaves alone what is safe already, and what has a directive', async () => {
    const texts = [
      'alter table m.rows add constraint c check (size > 0) not valid',
      `${STEP}\nalter table m.rows validate constraint c`,
      `${CONCURRENTLY}\ncreate index i on m.rows (name)`,
      'create index concurrently j on m.rows (name)',
      'alter table m.rows alter column a set not null',
    ]
    expect(await hardened(...texts)).toEqual(texts)
  })

  test('puts indexes behind what does not need them, under their titles', async () => {
    expect(
      await hardened(
        '-- managed: the index\ncreate index i on m.rows (name);',
        'create table m.other (id int);',
        'alter table m.rows add column extra int;',
        'alter table m.rows drop column name;',
      ),
    ).toEqual([
      'create table m.other (id int);',
      'alter table m.rows add column extra int;',
      `-- managed: the index\n${CONCURRENTLY}\ncreate index i on m.rows (name);`,
      'alter table m.rows drop column name;',
    ])
  })

  test('builds an index with the functions that were there, and not with what they become', async () => {
    const texts = [
      'create index i on m.rows (m.plain(name))',
      'create or replace function m.plain(t text) returns text language sql immutable as $$ select lower(t) $$',
      'create function m.other() returns int language sql as $$ select 1 $$',
    ]
    const [index, replaced, other] = texts
    expect(await hardened(...texts)).toEqual([`${CONCURRENTLY}\n${index}`, replaced, other])
  })

  test('validates in a step of its own', async () => {
    expect(
      await hardened(
        'alter table m.rows add constraint f foreign key (parent_id) references m.parents (id);',
      ),
    ).toEqual([
      'alter table m.rows add constraint f foreign key (parent_id) references m.parents (id) NOT VALID;',
      `${STEP}\nALTER TABLE "m"."rows" VALIDATE CONSTRAINT "f";`,
    ])
  })

  test('sets not null by a check that is there for the time of it', async () => {
    expect(await hardened('alter table m.rows alter column size set not null;')).toEqual([
      'ALTER TABLE "m"."rows" ADD CONSTRAINT "size_not_null_check" CHECK ("size" IS NOT NULL) NOT VALID;',
      `${STEP}\nALTER TABLE "m"."rows" VALIDATE CONSTRAINT "size_not_null_check";`,
      `${STEP}\nalter table m.rows alter column size set not null;`,
      'ALTER TABLE "m"."rows" DROP CONSTRAINT "size_not_null_check";',
    ])
  })

  test('makes a key of an index that is built concurrently', async () => {
    expect(await hardened('alter table m.rows add constraint u unique (name);')).toEqual([
      `${CONCURRENTLY}\nCREATE UNIQUE INDEX "u" ON "m"."rows" ("name");`,
      'ALTER TABLE "m"."rows" ADD CONSTRAINT "u" UNIQUE USING INDEX "u";',
    ])
  })

  test('leaves plain what Postgres refuses on a partitioned table', async () => {
    const texts = [
      'create index i on m.logs (id)',
      'alter table m.logs add constraint f foreign key (id) references m.parents (id)',
      'alter table m.logs add constraint u unique (id, at)',
      'drop index m.logs_at_idx',
    ]
    expect(await hardened(...texts)).toEqual(texts)
    const [index = '', foreign = ''] = texts
    const told = { partitioned: ['m.logs'] }
    expect(await harden([index, foreign], told), 'of which it is told only').toEqual([
      index,
      foreign,
    ])
    expect(await harden([foreign], { ...told, version: 18 }), 'before 18').toHaveLength(2)
  })

  test('keeps a constraint’s own index, a CASCADE, and a key that replaces another', async () => {
    const texts = [
      'drop index m.rows_b_key',
      'drop index m.rows_size_idx cascade',
      'alter table m.rows drop constraint rows_b_key',
      'alter table m.rows add constraint rows_b_key unique (b, a)',
    ]
    expect(await hardened(...texts)).toEqual(texts)
  })

  test('takes several indexes down one by one', async () => {
    expect(await harden(['drop index if exists m.i, m."J"'])).toEqual([
      `${CONCURRENTLY}\nDROP INDEX IF EXISTS "m"."i";`,
      `${CONCURRENTLY}\nDROP INDEX IF EXISTS "m"."J";`,
    ])
  })

  test('commits a new value of an enum before what may use it', async () => {
    expect(
      await hardened(
        'create table m.t (id int)',
        `alter type m.mood add value 'sad'`,
        `insert into m.rows (mood) values ('sad')`,
      ),
    ).toEqual([
      'create table m.t (id int)',
      `${STEP}\nalter type m.mood add value 'sad'`,
      `${STEP}\ninsert into m.rows (mood) values ('sad')`,
    ])
  })

  test('is as it was when it is done again', async () => {
    for (const texts of Object.values(CASES)) {
      const once = await hardened(...texts)
      expect(await hardened(...once)).toEqual(once)
    }
  })
})
