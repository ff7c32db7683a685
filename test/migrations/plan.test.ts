import { sql } from 'drizzle-orm'
import {
  bigserial,
  check,
  foreignKey,
  index,
  integer,
  type PgColumn,
  pgPolicy,
  pgSchema,
  pgTable,
  primaryKey,
  serial,
  text,
  uniqueIndex,
} from 'drizzle-orm/pg-core'
import { afterAll, describe, expect, test } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { MigrationError } from '../../src/errors.ts'
import { stateOfExports } from '../../src/migrations/generate/kit.ts'
import { EMPTY, planMigration, type SchemaState } from '../../src/migrations/generate/plan.ts'
import { openScratch, provePlan } from '../../src/migrations/generate/prove.ts'
import { type Answers, OpenQuestionsError } from '../../src/migrations/generate/renames.ts'
import {
  type ManagedObject,
  managedComment,
  managedFunction,
  managedGrant,
  managedIndex,
  managedObject,
  managedPartitioning,
  managedStorage,
} from '../../src/schema/managed.ts'

const db = await openScratch({ withPlinth: false })
await db.execute(sql`create role reader nologin`)
afterAll(() => db.close())

const app = pgSchema('app')

const state = async (
  exports: Record<string, unknown>,
  objects: ManagedObject[] = [],
): Promise<SchemaState> => ({ ddl: await stateOfExports({ app, ...exports }), objects })

/** Plans, proves both ways, and gives the plan. */
async function proved(prev: SchemaState, next: SchemaState, answers?: Answers) {
  const plan = await planMigration(prev, next, answers)
  await provePlan(db, { prev, plan })
  return plan
}

class Done extends Error {}

/** Runs work on a database that is `prev` with rows in it, and undoes it. */
async function withRows(
  prev: SchemaState,
  rows: string,
  work: (tx: Database) => Promise<void>,
): Promise<void> {
  const run = db.transaction(async (tx) => {
    for (const statement of (await planMigration(EMPTY, prev)).up)
      await tx.execute(sql.raw(statement))
    await tx.execute(sql.raw(rows))
    await work(tx)
    throw new Done()
  })
  await expect(run).rejects.toThrow(Done)
}

const apply = async (tx: Database, statements: readonly string[]) => {
  for (const statement of statements) await tx.execute(sql.raw(statement))
}

const posts = (columns: Record<string, unknown> = { title: text() }, name = 'posts') =>
  app.table(name, { id: integer().primaryKey(), ...columns } as { id: ReturnType<typeof integer> })

describe('a rename', () => {
  test('has to be told from a new column, and the error lists the flags', async () => {
    const [prev, next] = [
      await state({ a: posts() }),
      await state({ a: posts({ headline: text() }) }),
    ]
    const error = await planMigration(prev, next).catch((it) => it)
    expect(error).toBeInstanceOf(OpenQuestionsError)
    expect(error.questions).toEqual([
      {
        kind: 'column',
        name: 'app.posts.headline',
        answers: ['--rename app.posts.title=app.posts.headline', '--create app.posts.headline'],
      },
    ])
    expect(error.message).toContain('--create app.posts.headline')
  })

  test('of a column and its table keeps the rows, both ways', async () => {
    const prev = await state({ a: posts() })
    const next = await state({ a: posts({ headline: text() }, 'articles') })
    const { up, down } = await proved(prev, next, {
      renames: [
        { from: 'app.posts', to: 'app.articles' },
        { from: 'app.posts.title', to: 'app.articles.headline' },
      ],
    })
    expect(up).toEqual([
      'ALTER TABLE "app"."posts" RENAME TO "articles";',
      'ALTER TABLE "app"."articles" RENAME COLUMN "title" TO "headline";',
    ])
    await withRows(prev, `insert into app.posts values (1, 'one')`, async (tx) => {
      await apply(tx, up)
      expect(await rowsOf(tx, sql`select headline from app.articles`)).toEqual([
        { headline: 'one' },
      ])
      await apply(tx, down)
      expect(await rowsOf(tx, sql`select title from app.posts`)).toEqual([{ title: 'one' }])
    })
  })

  test('is followed by the checks, policies and generated columns that Postgres has renamed in', async () => {
    const table = (column: string) =>
      state({
        a: app.table(
          'posts',
          {
            id: integer().primaryKey(),
            [column]: text(),
            loud: text().generatedAlwaysAs(sql.raw(`upper("${column}")`)),
          },
          () => [
            check('posts_check', sql.raw(`"${column}" <> ''`)),
            pgPolicy('posts_read', { using: sql.raw(`"${column}" <> 'x'`) }),
          ],
        ),
      })
    const { up } = await proved(await table('title'), await table('headline'), {
      renames: [{ from: 'app.posts.title', to: 'app.posts.headline' }],
    })
    expect(up).toEqual(['ALTER TABLE "app"."posts" RENAME COLUMN "title" TO "headline";'])
  })

  test('is a drop and a new column where that is said', async () => {
    const [prev, next] = [
      await state({ a: posts() }),
      await state({ a: posts({ headline: text() }) }),
    ]
    const { up } = await proved(prev, next, { creates: ['app.posts.headline'] })
    expect(up).toEqual([
      'ALTER TABLE "app"."posts" DROP COLUMN "title";',
      'ALTER TABLE "app"."posts" ADD COLUMN "headline" text;',
    ])
  })

  test('leaves the schema out where it is public', async () => {
    const table = (name: string) => pgTable(name, { id: integer().primaryKey() })
    const [prev, next] = [await state({ a: table('old') }), await state({ a: table('young') })]
    const { up } = await proved(prev, next, { renames: [{ from: 'old', to: 'young' }] })
    expect(up[0]).toBe('ALTER TABLE "old" RENAME TO "young";')
  })

  test('that fits nothing is refused', async () => {
    const prev = await state({ a: posts() })
    const answers = { renames: [{ from: 'app.posts.x', to: 'app.posts.y' }] }
    await expect(planMigration(prev, prev, answers)).rejects.toThrow(
      /app\.posts\.x=app\.posts\.y fits nothing/,
    )
  })

  test('of an index is found by itself, and so is what only its definition tells apart', async () => {
    const table = (name: string, unique = false) =>
      app.table('posts', { id: integer().primaryKey(), title: text() }, (t) => [
        (unique ? uniqueIndex(name) : index(name)).on(t.title),
      ])
    const prev = await state({ a: table('one') })
    const { up } = await proved(prev, await state({ a: table('two') }))
    expect(up).toEqual(['ALTER INDEX "app"."one" RENAME TO "two";'])
    const other = await proved(prev, await state({ a: table('two', true) }))
    expect(other.up).toEqual([
      'DROP INDEX "app"."one";',
      'CREATE UNIQUE INDEX "two" ON "app"."posts" ("title");',
    ])
  })
})

describe('what is in the way of a type change', () => {
  const declared = (type: 'integer' | 'text') => {
    const table = app.table('posts', {
      id: integer().primaryKey(),
      score: type === 'integer' ? integer().default(1) : text().default('1'),
      twice: text().generatedAlwaysAs(sql`("score"::text || '!')`),
    })
    const first = app.view('scores', { score: integer() }).as(sql`select id, score from app.posts`)
    const second = app.view('best', { score: integer() }).as(sql`select score from app.scores`)
    const kept = app
      .materializedView('kept', { score: integer() })
      .as(sql`select score from app.best`)
    return state({ table, second, first, kept }, [
      managedIndex({ name: 'kept_score', on: kept, unique: true, definition: sql`(score)` }),
      managedGrant('best', sql`grant select on ${second} to reader`),
      managedComment(table, 'What was written.'),
      managedFunction(
        'app.top()',
        sql`create or replace function app.top() returns text language sql stable begin atomic; select score::text from app.posts limit 1; end`,
      ),
    ])
  }

  test('is dropped and made again, in order: views, a materialized one, its index, and a grant', async () => {
    const prev = await declared('integer')
    const { up, down } = await proved(prev, await declared('text'))
    await withRows(prev, `insert into app.posts (id, score) values (1, 10)`, async (tx) => {
      await apply(tx, up)
      expect(await rowsOf(tx, sql`select score, twice from app.posts`)).toEqual([
        { score: '10', twice: '10!' },
      ])
      expect(await rowsOf(tx, sql`select score from app.kept`)).toEqual([{ score: '10' }])
      await apply(tx, down)
      expect(await rowsOf(tx, sql`select score from app.kept`)).toEqual([{ score: 10 }])
    })
  })

  test('is left alone where it is not in the way', async () => {
    const table = (type: 'integer' | 'text') =>
      app.table('posts', {
        id: integer().primaryKey(),
        other: text(),
        score: type === 'integer' ? integer() : text(),
      })
    const view = app.view('others', { other: text() }).as(sql`select other from app.posts`)
    const { up } = await proved(
      await state({ a: table('integer'), view }),
      await state({ a: table('text'), view }),
    )
    expect(up).toHaveLength(1)
  })
})

describe('views', () => {
  test('come in the order in which they need each other, whatever they are called', async () => {
    const z = app.view('z', { id: integer() }).as(sql`select 1 as id`)
    const m = app.materializedView('m', { id: integer() }).as(sql`select id from app.z`)
    const a = app.view('a', { id: integer() }).as(sql`select id from app.m`)
    const { up, down } = await proved(EMPTY, await state({ a, m, z }))
    const order = (statements: readonly string[]) =>
      statements.flatMap((it) => /VIEW "app"\."(\w)"/.exec(it)?.[1] ?? [])
    expect(order(up)).toEqual(['z', 'm', 'a'])
    expect(order(down)).toEqual(['a', 'm', 'z'])
  })

  test('that take all columns are made again with a new one', async () => {
    const view = app.view('all', { id: integer() }).as(sql`select * from app.posts`)
    const { up } = await proved(
      await state({ a: posts(), view }),
      await state({ a: posts({ title: text(), more: text() }), view }),
    )
    expect(up.map((it) => it.split(' ').slice(0, 2).join(' '))).toEqual([
      'DROP VIEW',
      'ALTER TABLE',
      'CREATE VIEW',
    ])
  })
})

describe('a function', () => {
  const declared = (parameter: string, body = 'true', policy = true) => {
    const table = app.table('posts', { id: integer().primaryKey() }, () =>
      policy ? [pgPolicy('posts_read', { for: 'select', using: sql`app.may(id)` })] : [],
    )
    return state({ table }, [
      managedFunction(
        'app.may(integer)',
        sql.raw(
          `create or replace function app.may(${parameter} integer) returns boolean language plpgsql as $$ begin return ${body}; end $$`,
        ),
      ),
      managedGrant(
        'app.may(integer)',
        sql`revoke execute on function app.may(integer) from public`,
      ),
      managedGrant(
        'app.may(integer) to reader',
        sql`grant execute on function app.may(integer) to reader`,
      ),
    ])
  }

  test('with another body is replaced, and nothing else', async () => {
    const { up } = await proved(await declared('n'), await declared('n', 'false'))
    expect(up).toHaveLength(1)
    expect(up[0]).toMatch(/^-- managed: function app\.may\(integer\)\ncreate or replace/)
  })

  test('with another parameter takes its policy along, and is still not everybody’s', async () => {
    const { up } = await proved(await declared('n'), await declared('post'))
    expect(up.map((it) => it.replace(/^-- managed: .*\n/, '').slice(0, 24))).toEqual([
      'DROP POLICY "posts_read"',
      'drop function if exists ',
      'create or replace functi',
      'CREATE POLICY "posts_rea',
      'revoke execute on functi',
      'grant execute on functio',
    ])
  })

  test('that is no longer declared is dropped, and comes back with its grants', async () => {
    const { down } = await proved(
      await declared('n', 'true', false),
      await state({ table: posts({}) }),
    )
    expect(down.some((it) => it.includes('revoke execute'))).toBe(true)
  })

  test('is there before the default that calls it', async () => {
    const table = app.table('posts', {
      id: integer().primaryKey().default(sql`app.next_id()`),
    })
    const next = await state({ table }, [
      managedFunction(
        'app.next_id()',
        sql`create or replace function app.next_id() returns integer language sql as $$ select 1 $$`,
      ),
    ])
    await proved(EMPTY, next)
  })
})

describe('an enum', () => {
  const declared = (labels: string[], initial?: string) => {
    const mood = app.enum('mood', labels as ['ok'])
    const column = initial ? mood().default(sql.raw(`'${initial}'`)) : mood()
    return state({ mood, a: app.table('posts', { id: integer().primaryKey(), mood: column }) })
  }

  test('gets a label, which is committed before it is used', async () => {
    const { up } = await proved(
      await declared(['sad', 'ok']),
      await declared(['sad', "it's", 'ok'], 'ok'),
    )
    expect(up[0]).toBe(`ALTER TYPE "app"."mood" ADD VALUE 'it''s' BEFORE 'ok';`)
    expect(up[1]).not.toContain('plinth: step')
    const used = await proved(await declared(['sad']), await declared(['sad', 'ok'], 'ok'))
    expect(used.up[1]).toMatch(/^-- plinth: step\nALTER TABLE .* SET DEFAULT/)
  })

  test('loses a label, and the rows keep theirs', async () => {
    const prev = await declared(['sad', 'ok', 'glad'], 'ok')
    const { up, down } = await proved(prev, await declared(['ok', 'sad'], 'sad'))
    await withRows(prev, `insert into app.posts values (1, 'sad'), (2, 'ok')`, async (tx) => {
      await apply(tx, [...up, ...down])
      expect(await rowsOf(tx, sql`select mood from app.posts order by id`)).toEqual([
        { mood: 'sad' },
        { mood: 'ok' },
      ])
    })
  })
})

describe('a partitioning', () => {
  const declared = (method?: 'range' | 'list') => {
    const table = app.table(
      'logs',
      {
        id: integer().generatedAlwaysAsIdentity({ name: 'logs_id_seq' }),
        kind: text().notNull(),
        loud: text().generatedAlwaysAs(sql`upper(kind)`),
      },
      (t) => [
        primaryKey({ name: 'logs_pkey', columns: [t.id, t.kind] }),
        index('logs_kind_idx').on(t.kind),
        pgPolicy('logs_read', { using: sql`id > 0` }),
      ],
    )
    const notes = app.table(
      'notes',
      { id: integer().primaryKey(), log: integer(), kind: text() },
      (t) => [
        foreignKey({
          name: 'notes_fk',
          columns: [t.log, t.kind],
          foreignColumns: [table.id, table.kind] as [PgColumn, PgColumn],
        }),
      ],
    )
    const view = app.view('loud', { kind: text() }).as(sql`select kind from app.logs`)
    const objects = [
      managedGrant('logs', sql`grant select on ${table} to reader`),
      managedComment(table, 'What happened.'),
      managedStorage(table, table.kind, 'external'),
    ]
    if (method) {
      objects.push(
        managedPartitioning(table, method, method === 'range' ? table.id : table.kind),
        managedObject({
          name: 'call partitions of logs',
          create: sql.raw(
            `do $$ begin create table app.logs_1 partition of app.logs ${method === 'range' ? 'for values from (0) to (100)' : `for values in ('a', 'b')`}; end $$`,
          ),
        }),
      )
    }
    return state({ table, notes, view }, objects)
  }

  test.each([
    ['none', 'range', undefined, 'range'],
    ['range', 'none', 'range', undefined],
    ['range', 'list', 'range', 'list'],
  ] as const)('from %s to %s makes a new table with the same rows', async (_, __, from, to) => {
    const prev = await declared(from)
    const { up, down } = await proved(prev, await declared(to))
    expect(up.some((it) => it.includes('-- rewrites app.logs'))).toBe(true)
    const rows = async (tx: Database) => [
      ...(await rowsOf(tx, sql`select id, kind, loud from app.logs order by id`)),
      ...(await rowsOf(tx, sql`select * from app.notes`)),
    ]
    await withRows(prev, `insert into app.logs (kind) values ('a'), ('b')`, async (tx) => {
      await tx.execute(sql`insert into app.notes values (1, 2, 'b')`)
      const before = await rows(tx)
      expect(before).toHaveLength(3)
      await apply(tx, up)
      expect(await rows(tx)).toEqual(before)
      await tx.execute(sql`insert into app.logs (kind) values ('a')`)
      expect(await rowsOf(tx, sql`select max(id) as id from app.logs`)).toEqual([{ id: 3 }])
      await apply(tx, down)
      expect(await rows(tx)).toHaveLength(4)
    })
  })

  test('follows a table that is renamed, without a new one', async () => {
    const table = (name: string) => app.table(name, { id: integer().primaryKey() })
    const named = (name: string) => {
      const it = table(name)
      return state({ it }, [managedPartitioning(it, 'range', it.id)])
    }
    const { up } = await proved(await named('logs'), await named('events'), {
      renames: [{ from: 'app.logs', to: 'app.events' }],
    })
    expect(up.join()).not.toContain('CREATE TABLE')
  })
})

test('an index that may be built concurrently is plain SQL under a directive, and the last', async () => {
  const table = (isIndexed: boolean) =>
    app.table('posts', { id: integer().primaryKey(), title: text(), note: text() }, (t) =>
      isIndexed ? [index('a').on(t.title).concurrently(), index('b').on(t.note)] : [],
    )
  const { up } = await proved(await state({ a: table(false) }), await state({ a: table(true) }))
  expect(up).toEqual([
    'CREATE INDEX "b" ON "app"."posts" ("note");',
    '-- plinth: concurrently\nCREATE INDEX "a" ON "app"."posts" ("title");',
  ])
  const { up: fresh } = await proved(EMPTY, await state({ a: table(true) }))
  expect(fresh.join()).not.toContain('concurrently')
})

test('columns may be null again when their key, or their identity, is gone', async () => {
  const table = (isNumbered: boolean) =>
    app.table(
      'posts',
      {
        id: integer(),
        count: isNumbered ? integer().generatedAlwaysAsIdentity({ name: 'count_seq' }) : integer(),
      },
      (t) => (isNumbered ? [primaryKey({ name: 'posts_pkey', columns: [t.id] })] : []),
    )
  await proved(await state({ a: table(true) }), await state({ a: table(false) }))
})

test('a serial column is counted on from the rows, by a sequence of its size', async () => {
  const table = (id: object) => app.table('posts', { id } as { id: ReturnType<typeof integer> })
  const prev = await state({ a: table(integer().notNull()) })
  const { up } = await proved(prev, await state({ a: table(serial()) }))
  expect(up).toContain('CREATE SEQUENCE "app"."posts_id_seq" AS integer;')
  await withRows(prev, 'insert into app.posts values (7)', async (tx) => {
    await apply(tx, up)
    expect(await rowsOf(tx, sql`insert into app.posts default values returning id`)).toEqual([
      { id: 8 },
    ])
  })
  await proved(
    await state({ a: table(serial()) }),
    await state({ a: table(bigserial({ mode: 'number' })) }),
  )
})

test('an object of any kind is dropped where it changes', async () => {
  const declared = (check: string) =>
    state({}, [
      managedObject({
        name: 'domain app.even',
        create: sql.raw(`create domain app.even as integer check (${check})`),
        drop: sql`drop domain app.even`,
      }),
    ])
  const { up } = await proved(await declared('value % 2 = 0'), await declared('value > 0'))
  expect(up.map((it) => it.split('\n')[1]?.slice(0, 11))).toEqual(['drop domain', 'create doma'])
})

describe('the proof', () => {
  test('names the object that a plan does not make', async () => {
    const [prev, next] = [
      await state({ a: posts() }),
      await state({ a: posts({ title: text().notNull() }) }),
    ]
    const plan = await planMigration(prev, next)
    await expect(provePlan(db, { prev, plan: { ...plan, up: [] } })).rejects.toThrow(
      /does not make what is declared[\s\S]*not null app\.posts\.title/,
    )
    await expect(provePlan(db, { prev, plan: { ...plan, down: [] } })).rejects.toThrow(
      /down\.sql does not bring back/,
    )
  })

  test('names the statement that fails', async () => {
    const [prev, next] = [await state({}), await state({ a: posts() })]
    const plan = await planMigration(prev, next)
    const broken = { ...plan, up: ['alter table app.nothing add column a text'] }
    await expect(provePlan(db, { prev, plan: broken })).rejects.toThrow(MigrationError)
    await expect(provePlan(db, { prev, plan: broken })).rejects.toThrow(/app\.nothing/)
  })
})
