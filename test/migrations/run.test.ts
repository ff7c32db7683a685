import { execFile } from 'node:child_process'
import { readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { promisify } from 'node:util'
import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { describe, expect, test } from 'vitest'
import { connect, type Database, rowsOf } from '../../src/database.ts'
import {
  DataLossError,
  ForbiddenError,
  LockError,
  MigrationError,
  MigrationStateError,
} from '../../src/errors.ts'
import { migrate } from '../../src/migrations/apply.ts'
import { catalogOf } from '../../src/migrations/catalog/catalog.ts'
import type { MigrationSource } from '../../src/migrations/folder.ts'
import { migrateTo, planRevert, revert } from '../../src/migrations/revert.ts'
import { planMigrate } from '../../src/migrations/script.ts'
import { migrationStatus } from '../../src/migrations/status.ts'
import type { MigrationProgress } from '../../src/migrations/turns.ts'
import { adminUrl } from '../support/database.ts'
import { administer, makeScratch, makeSource, writeMigration } from '../support/scratch.ts'

const first = '20260101000000_first'
const second = '20260101000001_second'
const third = '20260101000002_third'

const table = {
  up: 'create table public.a (id int primary key, n int);',
  down: 'drop table public.a;',
}
const column = {
  up: 'alter table public.a add column t text;',
  down: 'alter table public.a drop column t;',
}

const states = async (db: Database, source: MigrationSource) =>
  Object.fromEntries(
    (await migrationStatus(db, { sources: [source] })).map(({ name, state }) => [name, state]),
  )

const count = async (db: Database, from: string) =>
  Number((await rowsOf<{ n: string }>(db, sql.raw(`select count(*) as n from ${from}`)))[0]?.n)

const ledgerOf = (db: Database) =>
  rowsOf<{ name: string; status: string; step: number; error: string | null }>(
    db,
    sql`select name, status, step, error from drizzle.__plinth_migrations order by name`,
  )

describe('migrate', () => {
  test('keeps those before one that fails, and says where and why', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({
      first: table,
      second: 'alter table public.a add column t text;--> statement-breakpoint\nselect 1 / 0;',
      third: 'create table public.c ();',
    })
    const failed = migrate(db, { sources: [source] })
    await expect(failed).rejects.toThrow(`${second} failed: statement 2 of 2: division by zero`)
    await expect(failed).rejects.toThrow(MigrationError)
    expect(await states(db, source)).toEqual({
      [first]: 'applied',
      [second]: 'failed',
      [third]: 'pending',
    })
    expect(
      await count(db, `pg_attribute where attrelid = 'public.a'::regclass and attname = 't'`),
    ).toBe(0)

    await writeMigration(source.folder, second, column)
    expect(await migrate(db, { sources: [source] })).toEqual([second, third])
    expect(await ledgerOf(db)).toEqual(
      [first, second, third].map((name) => ({ name, status: 'applied', step: 1, error: null })),
    )
  })

  test('records who, when and how long', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({ first: 'select pg_sleep(0.03);' })
    const before = Date.now()
    await migrate(db, { sources: [source] })
    const [status] = await migrationStatus(db, { sources: [source] })
    expect(status).toMatchObject({ state: 'applied', step: 1, steps: 1, isReversible: false })
    expect(status?.appliedBy).toBe('postgres')
    expect(Math.abs(Number(status?.appliedAt) - before)).toBeLessThan(60_000)
    expect(status?.durationMs).toBeGreaterThanOrEqual(30)
  })

  test('takes several statements without breakpoints between them, and comments', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({
      first: `-- one; two
create table public.a (note text default ';'); create function public.f() returns int language sql as $$ select 1; $$;
/* nothing */ create table public.ü ();
--> statement-breakpoint
-- only a comment
--> statement-breakpoint
select public.f();`,
    })
    expect(await migrate(db, { sources: [source] })).toEqual([first])
    expect(await count(db, 'public."ü"')).toBe(0)
  })

  test.each([
    ['insert into public.a values (1, 1); rollback;', 'its transaction is plinth'],
    ['begin; select 1; commit;', 'its transaction is plinth'],
    ['-- plinth: concurently\ncreate index i on public.a (n);', 'is no directive'],
    ['-- plinth: concurrently\nalter table public.a add column x int;', 'neither CREATE INDEX nor'],
  ])('refuses what would run in another way than it is written: %j', async (up, problem) => {
    const { db } = await makeScratch()
    const source = await makeSource({ first: table, second: up })
    await expect(migrate(db, { sources: [source] })).rejects.toThrow(problem)
    expect(await states(db, source)).toEqual({ [first]: 'applied', [second]: 'pending' })
    await writeMigration(source.folder, second, 'savepoint s; select 1; release savepoint s;')
    expect(await migrate(db, { sources: [source] })).toEqual([second])
  })

  test('stops at `to`, by name, beginning, rest or place', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({
      first: table,
      second: column,
      third: 'create table public.c ();',
    })
    const sources = [source]
    expect(await migrate(db, { sources, to: '1' })).toEqual([first])
    expect(await migrate(db, { sources, to: 'second' })).toEqual([second])
    expect(await migrate(db, { sources, to: second })).toEqual([])
    await expect(migrate(db, { sources, to: '20260101' })).rejects.toThrow(/is the beginning of/)
    await expect(migrate(db, { sources, to: 'fourth' })).rejects.toThrow(MigrationError)
    expect(await migrate(db, { sources, to: '20260101000002' })).toEqual([third])
  })

  test('brings an older table of drizzle’s up to date', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({ first: table, second: column })
    await db.execute(sql`create schema drizzle`)
    await db.execute(
      sql`create table drizzle.__drizzle_migrations (id serial primary key, hash text not null, created_at bigint)`,
    )
    await db.execute(sql.raw(table.up))
    await db.execute(
      sql.raw(
        `insert into drizzle.__drizzle_migrations (hash, created_at) values ('x', ${Date.UTC(2026, 0, 1)})`,
      ),
    )
    // Drizzle finds the row by its time alone; that its text is another one is found then.
    await expect(migrate(db, { sources: [source] })).resolves.toEqual([second])
    expect(await states(db, source)).toEqual({ [first]: 'edited', [second]: 'applied' })
  })
})

const planned = async (db: Database, source: MigrationSource) =>
  planMigrate(db, { sources: [source] })

describe('what was changed after it was applied', () => {
  const applied = async () => {
    const { db } = await makeScratch()
    const source = await makeSource({ first: table, second: column })
    await migrate(db, { sources: [source] })
    const run = (accept: string[] = []) => migrate(db, { sources: [source], accept })
    return { db, source, run }
  }

  test('an edited one is refused with a diff, and taken when that is accepted', async () => {
    const { db, source, run } = await applied()
    await writeMigration(source.folder, first, table.up.replace('n int', 'n bigint'))
    const refused = run()
    await expect(refused).rejects.toThrow(MigrationStateError)
    await expect(refused).rejects.toThrow('-create table public.a (id int primary key, n int);')
    await expect(refused).rejects.toThrow('+create table public.a (id int primary key, n bigint);')
    await expect(refused).rejects.toThrow(`--accept ${first}`)
    expect(await states(db, source)).toEqual({ [first]: 'edited', [second]: 'applied' })
    expect(await run([first])).toEqual([])
    expect(await run()).toEqual([])
    expect(await states(db, source)).toEqual({ [first]: 'applied', [second]: 'applied' })
  })

  test('an edit of the data migration is an edit', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({ first: { up: '', module: 'export default 1' } })
    await migrate(db, { sources: [source] }).catch(() => {})
    const module = (n: number) =>
      `import { sql } from 'drizzle-orm'\nexport default { table: 'pg_catalog.pg_am', key: ['oid'], pending: sql\`false\`, migrate: async () => ${n} }`
    await writeMigration(source.folder, first, { up: '', module: module(1) })
    expect(await migrate(db, { sources: [source] })).toEqual([first])
    await writeMigration(source.folder, first, { up: '', module: module(2) })
    const refused = migrate(db, { sources: [source] })
    await expect(refused).rejects.toThrow('as applied')
    await expect(refused).rejects.toThrow(`${first}/migration.ts`)
    expect(await migrate(db, { sources: [source], accept: [first] })).toEqual([])
    expect(await migrate(db, { sources: [source] })).toEqual([])
  })

  test('line endings are no exception, and are called by their name', async () => {
    const { source, run } = await applied()
    await writeMigration(source.folder, first, `${table.up}\n`)
    await expect(run()).rejects.toThrow(MigrationStateError)
    await writeMigration(source.folder, first, table.up)
    await writeMigration(source.folder, second, `${column.up}`)
    expect(await run()).toEqual([])
    const { db, source: other } = await (async () => {
      const { db } = await makeScratch()
      const source = await makeSource({ first: 'select 1;\nselect 2;' })
      await migrate(db, { sources: [source] })
      return { db, source }
    })()
    await writeMigration(other.folder, first, 'select 1;\r\nselect 2;')
    await expect(migrate(db, { sources: [other] })).rejects.toThrow('only the line endings differ')
  })

  test('one that is gone is refused, and forgotten when that is accepted', async () => {
    const { db, source, run } = await applied()
    await rm(join(source.folder, first), { recursive: true })
    await expect(run()).rejects.toThrow(`${first} was applied and is not in its folder`)
    await expect(run(['nothing'])).rejects.toThrow('no migration is called nothing')
    expect(await run(['first'])).toEqual([])
    expect(await run()).toEqual([])
    expect(await states(db, source)).toEqual({ [first]: 'retired', [second]: 'applied' })
  })

  test('a renamed one is recognised by its text', async () => {
    const { db, source, run } = await applied()
    const renamed = '20260101000005_second'
    await rename(join(source.folder, second), join(source.folder, renamed))
    await expect(run()).rejects.toThrow(`${renamed} was applied as ${second}`)
    expect(await run([renamed])).toEqual([])
    expect(await states(db, source)).toEqual({ [first]: 'applied', [renamed]: 'applied' })
    expect(
      await rowsOf(db, sql`select name from drizzle.__drizzle_migrations order by name`),
    ).toEqual([{ name: first }, { name: renamed }])
  })

  test('a late one is refused, and applied when that is accepted', async () => {
    const { db, source, run } = await applied()
    const late = '20251231000000_late'
    await writeMigration(source.folder, late, 'create table public.l ();')
    await expect(run()).rejects.toThrow(`${late} is not applied, though later ones are`)
    expect(await states(db, source)).toEqual({
      [late]: 'late',
      [first]: 'applied',
      [second]: 'applied',
    })
    expect(await run([late])).toEqual([late])
    expect(await run()).toEqual([])
  })

  test('a database that is newer than the code is left alone', async () => {
    const { db, source, run } = await applied()
    await rm(join(source.folder, second), { recursive: true })
    await expect(run()).rejects.toThrow('the database is newer than this code')
    expect(await states(db, source)).toEqual({ [first]: 'applied', [second]: 'newer' })
  })

  test('what drizzle-kit alone has recorded is compared as well', async () => {
    const { db, source, run } = await applied()
    await db.execute(sql`drop table drizzle.__plinth_migrations`)
    expect(await run()).toEqual([])
    expect((await ledgerOf(db)).map(({ name }) => name)).toEqual([first, second])
    await db.execute(sql`drop table drizzle.__plinth_migrations`)
    await writeMigration(source.folder, first, `${table.up} `)
    await expect(run()).rejects.toThrow('drizzle-kit records a checksum only')
  })

  test('all that is wrong is said at once, and nothing is applied', async () => {
    const { db, source, run } = await applied()
    await writeMigration(source.folder, first, `${table.up} `)
    await rm(join(source.folder, second), { recursive: true })
    await writeMigration(source.folder, third, 'create table public.c ();')
    const error = await run().catch((error) => error)
    expect((error as MigrationStateError).problems.map(({ name, state }) => [name, state])).toEqual(
      [
        [first, 'edited'],
        [second, 'missing'],
      ],
    )
    expect(await states(db, source)).toMatchObject({ [third]: 'pending' })
  })
})

describe('a dry run', () => {
  test('says what would be sent, and changes nothing', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({
      first: table,
      second: `-- plinth: concurrently\ncreate index a_n_idx on public.a (n);`,
    })
    const plan = await planned(db, source)
    expect(plan.map(({ name }) => name)).toEqual([first, second])
    expect(plan[0]?.script).toContain(`begin;\nset local statement_timeout = '0';`)
    expect(plan[0]?.script).toContain(`\n${table.up}\n`)
    expect(plan[1]?.script).toContain(
      adminUrl ? 'create index CONCURRENTLY a_n_idx' : 'create index a_n_idx',
    )
    expect(await count(db, "pg_namespace where nspname = 'drizzle'")).toBe(0)
    expect(await migrate(db, { sources: [source] })).toEqual([first, second])
    expect(await planned(db, source)).toEqual([])
  })
})

describe('revert', () => {
  test('takes the last ones back, and up again', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({ first: table, second: column })
    const sources = [source]
    await migrate(db, { sources })
    expect(await revert(db, { sources })).toEqual([second])
    expect(await states(db, source)).toEqual({ [first]: 'applied', [second]: 'pending' })
    expect(await migrate(db, { sources })).toEqual([second])
    expect(await revert(db, { sources, to: 'nothing' })).toEqual([second, first])
    expect(await migrate(db, { sources })).toEqual([first, second])
    expect(await migrateTo(db, 'first', { sources })).toEqual({ reverted: [second], applied: [] })
    expect(await migrateTo(db, 'second', { sources })).toEqual({ reverted: [], applied: [second] })
    expect(
      await rowsOf(db, sql`select count(*)::int as n from drizzle.__drizzle_migrations`),
    ).toEqual([{ n: 2 }])
  })

  test('refuses one without a way back, before anything is reverted', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({ first: table.up, second: column })
    await migrate(db, { sources: [source] })
    await expect(revert(db, { sources: [source], count: 2 })).rejects.toThrow(
      `${first} cannot be reverted`,
    )
    expect(await states(db, source)).toEqual({ [first]: 'applied', [second]: 'applied' })
  })

  test('leaves all as it was when it fails', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({
      first: { ...table, down: 'drop table public.a;--> statement-breakpoint\nselect 1 / 0;' },
    })
    await migrate(db, { sources: [source] })
    await expect(revert(db, { sources: [source] })).rejects.toThrow('statement 2 of 2')
    expect(await count(db, 'public.a')).toBe(0)
    expect(await states(db, source)).toEqual({ [first]: 'applied' })
    expect(await migrate(db, { sources: [source] })).toEqual([])
    await writeMigration(source.folder, first, table)
    expect(await revert(db, { sources: [source] })).toEqual([first])
    expect(await migrate(db, { sources: [source] })).toEqual([first])
  })
})

describe('data that would be lost', () => {
  const source = () => makeSource({ first: table, second: column })

  test('is counted, named, and lost only when that is allowed', async () => {
    const { db } = await makeScratch()
    const sources = [await source()]
    await migrate(db, { sources })
    await db.execute(sql`insert into public.a values (1, 1, 'x'), (2, 2, null), (3, 3, 'z')`)
    const refused = revert(db, { sources, to: 'nothing' })
    await expect(refused).rejects.toThrow(DataLossError)
    await expect(refused).rejects.toMatchObject({
      losses: [
        { name: 'column public.a.t', rows: 2 },
        { name: 'table public.a', rows: 3 },
      ],
    })
    expect(await count(db, 'public.a')).toBe(3)
    const { losses, migrations } = await planRevert(db, { sources })
    expect(losses).toEqual([{ name: 'column public.a.t', rows: 2 }])
    expect(migrations).toMatchObject([{ name: second, direction: 'down' }])
    expect(await revert(db, { sources, allowDataLoss: true })).toEqual([second])
    await db.execute(sql`delete from public.a`)
    expect(await revert(db, { sources })).toEqual([first])
  })
})

describe.skipIf(!adminUrl)('on a server', () => {
  test('a dry run prints exactly what then runs', async () => {
    const { url } = await makeScratch()
    const source = await makeSource({
      first: table,
      second: `${column.up}
--> statement-breakpoint
-- plinth: concurrently
create index a_n_idx on public.a (n);
--> statement-breakpoint
insert into public.a values (1, 2, 'three');`,
    })
    const queries: string[] = []
    const client = new pg.Pool({ connectionString: url, max: 2 })
    client.on('connect', (one) => {
      const send = one.query.bind(one) as (...args: unknown[]) => unknown
      const query = (text: string | { text: string }, ...rest: unknown[]) => {
        queries.push(typeof text === 'string' ? text : text.text)
        return send(text, ...rest)
      }
      Object.assign(one, { query })
    })
    const db = drizzle({ client })
    const scripts = (await planned(db, source)).map(({ script }) => script).join('\n')
    queries.length = 0
    await migrate(db, { sources: [source] })
    await client.end()
    const bare = (text: string) => text.replace(/;$/, '').trim()
    const printed = scripts
      .split('\n')
      .filter((line) => !/^(--|set |begin;|commit;)/.test(line))
      .map(bare)
    expect(queries.map(bare).filter((query) => printed.includes(query))).toEqual(printed)
    expect(printed).toHaveLength(4)
    // The rest is of the ledger: no other statement touches anything else.
    const rest = queries.filter((query) => !printed.includes(bare(query)))
    const bookkeeping = /drizzle|^select |^(begin|commit|savepoint sp1|release savepoint sp1)$/i
    expect(rest.filter((query) => !bookkeeping.test(query))).toEqual([])
  })

  test('builds an index beside writers, and goes on after a failure of it', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({
      first: table,
      second: {
        up: `insert into public.a values (1, 1), (2, 1);
--> statement-breakpoint
-- plinth: concurrently
create unique index a_n_idx on public.a (n);
--> statement-breakpoint
alter table public.a add constraint a_n_key unique using index a_n_idx;`,
      },
    })
    const sources = [source]
    const said: MigrationProgress[] = []
    await expect(migrate(db, { sources, onProgress: (step) => said.push(step) })).rejects.toThrow(
      `${second} failed: step 2 of 3: could not create unique index`,
    )
    expect(said.map(({ doing }) => doing)).toContain('step 2 of 3')
    expect(await migrationStatus(db, { sources })).toMatchObject([
      { state: 'applied' },
      {
        state: 'failed',
        step: 1,
        steps: 3,
        error: expect.stringContaining('could not create unique'),
      },
    ])
    expect(await count(db, 'pg_index where not indisvalid')).toBe(0)
    await db.execute(sql`update public.a set n = id`)
    expect(await migrate(db, { sources })).toEqual([second])
    expect(await count(db, "pg_constraint where conname = 'a_n_key'")).toBe(1)
  })

  test('an index of that name that others made is not taken for its own', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({
      first: table,
      second: '-- plinth: concurrently\ncreate index a_n_idx on public.a (n);',
    })
    await migrate(db, { sources: [source], to: '1' })
    await db.execute(sql`create index a_n_idx on public.a (id)`)
    await expect(migrate(db, { sources: [source] })).rejects.toThrow('already exists')
    expect(await count(db, "pg_class where relname = 'a_n_idx'")).toBe(1)
  })

  test('says how far an index is that takes long, and refuses one without a name', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({
      first: 'create table public.a as select n from generate_series(1, 10) n;',
      second: `create function public.slowly(n int) returns int language plpgsql immutable as
$$ begin perform pg_sleep(0.3); return n; end $$;
--> statement-breakpoint
-- plinth: concurrently
create index a_slow_idx on public.a (public.slowly(n));`,
      third: 'create index concurrently on public.a (n);',
    })
    const said: string[] = []
    const failed = migrate(db, {
      sources: [source],
      onProgress: ({ doing }) => doing && said.push(doing),
    })
    await expect(failed).rejects.toThrow('name the index')
    expect(said.some((text) => text.startsWith('building index'))).toBe(true)
    expect(await states(db, source)).toMatchObject({ [second]: 'applied', [third]: 'failed' })
  })

  test('20 at once, one of them sleeping, one building an index: each is applied once', async () => {
    const { url, db } = await makeScratch()
    const source = await makeSource({
      first: 'create table public.a as select n, n % 7 as m from generate_series(1, 20000) n;',
      second: 'select pg_sleep(0.5);',
      third:
        '-- plinth: concurrently\ncreate index a_m_idx on public.a (m);\n--> statement-breakpoint\n-- plinth: step\ninsert into public.a values (0, 0);',
      fourth: 'create table public.d ();',
    })
    const callers = await Promise.all(
      Array.from({ length: 20 }, () => connect(url, { maxConnections: 2 })),
    )
    try {
      const results = await Promise.all(
        callers.map((caller) => migrate(caller, { sources: [source] })),
      )
      const names = (await readdir(source.folder)).sort()
      expect(results.flat().sort()).toEqual(names)
      expect((await ledgerOf(db)).map(({ name, status }) => [name, status])).toEqual(
        names.map((name) => [name, 'applied']),
      )
      expect(await count(db, 'drizzle.__drizzle_migrations')).toBe(4)
      expect(await count(db, 'public.a where n = 0')).toBe(1)
      expect(await count(db, 'pg_index where not indisvalid')).toBe(0)
    } finally {
      await Promise.all(callers.map((caller) => caller.close()))
    }
  }, 60_000)

  test('a busy table is waited for in short turns, so that writers go on', async () => {
    const { url, db } = await makeScratch({ maxConnections: 8 })
    const source = await makeSource({ first: table, second: column })
    await migrate(db, { sources: [source], to: '1' })
    const lockTimeoutMs = 300
    let isBusy = true
    // A long transaction has read the table: until it ends, ALTER TABLE does not get it.
    const reader = await connect(url, { maxConnections: 1 })
    const begun = deferred()
    const read = async () => {
      await reader.transaction(async (tx) => {
        await tx.execute(sql`select count(*) from public.a`)
        begun.resolve(undefined)
        await pause(3_000)
      })
    }
    const waits: number[] = []
    const write = async () => {
      for (let id = 0; isBusy; id += 1) {
        const begun = performance.now()
        await db.execute(sql`insert into public.a values (${id}, 1)`)
        waits.push(performance.now() - begun)
        await pause(5)
      }
    }
    const others = [read(), write()]
    await begun.promise
    const said: string[] = []
    const migrated = migrate(db, {
      sources: [source],
      lockTimeoutMs,
      onProgress: ({ doing }) => doing && said.push(doing),
    })
    const applied = await migrated
    isBusy = false
    await Promise.all(others)
    await reader.close()
    expect(applied).toEqual([second])
    expect(said.some((text) => text.startsWith('waits for a lock'))).toBe(true)
    // And not for as long as the reader takes.
    expect(Math.max(...waits)).toBeLessThan(2_000)
    expect(Math.max(...waits)).toBeGreaterThan(lockTimeoutMs / 2)
  }, 60_000)

  test('gives up after maxWaitMs, with nothing done', async () => {
    const { url, db } = await makeScratch()
    const source = await makeSource({ first: table, second: column })
    await migrate(db, { sources: [source], to: '1' })
    const holder = await connect(url, { maxConnections: 1 })
    const [locked, release] = [deferred(), deferred()]
    const held = holder.transaction(async (tx) => {
      await tx.execute(sql`lock table public.a`)
      locked.resolve(undefined)
      await release.promise
    })
    await locked.promise
    await expect(
      migrate(db, { sources: [source], lockTimeoutMs: 50, maxWaitMs: 500 }),
    ).rejects.toThrow(LockError)
    release.resolve(undefined)
    await held
    await holder.close()
    expect(await states(db, source)).toMatchObject({ [second]: 'failed' })
    expect(await migrate(db, { sources: [source] })).toEqual([second])
  })

  test('drizzle-kit applies the same folder, and each understands the other', async () => {
    const source = await makeSource({
      first: table,
      second: `${column.up}
--> statement-breakpoint
-- plinth: concurrently
create index a_n_idx on public.a (n);
--> statement-breakpoint
-- plinth: step
insert into public.a values (1, 2, 'three');`,
    })
    const kit = async (url: string) => {
      const config = join(source.folder, 'drizzle.config.mjs')
      const dbCredentials = { url }
      await writeFile(
        config,
        `export default ${JSON.stringify({ dialect: 'postgresql', out: source.folder, dbCredentials })}`,
      )
      await promisify(execFile)('npx', ['drizzle-kit', 'migrate', `--config=${config}`])
    }
    const [one, other] = [await makeScratch(), await makeScratch()]
    await kit(one.url)
    expect(await states(one.db, source)).toEqual({ [first]: 'applied', [second]: 'applied' })
    expect(await migrate(one.db, { sources: [source] })).toEqual([])
    await migrate(other.db, { sources: [source] })
    await kit(other.url)
    expect(await catalogOf(one.db)).toEqual(await catalogOf(other.db))
    expect(await count(other.db, 'public.a')).toBe(1)
    await writeMigration(source.folder, third, 'create table public.c ();')
    await kit(other.url)
    expect(await migrate(other.db, { sources: [source] })).toEqual([])
    expect(await states(other.db, source)).toMatchObject({ [third]: 'applied' })
  }, 60_000)

  test('a pool of one connection suffices', async () => {
    const { db } = await makeScratch({ maxConnections: 1 })
    const source = await makeSource({
      first: table,
      second: '-- plinth: concurrently\ncreate index a_n_idx on public.a (n);',
    })
    expect(await migrate(db, { sources: [source] })).toEqual([first, second])
  })

  test('whoever may not create is told so', async () => {
    const name = `plinth_reader_${process.pid}`
    await administer(`create role ${name} login password 'plinth-test'`)
    try {
      const { url } = await makeScratch()
      const mine = Object.assign(new URL(url), { username: name, password: 'plinth-test' })
      const db = await connect(mine.href, { maxConnections: 1 })
      const source = await makeSource({ first: table })
      await expect(migrate(db, { sources: [source] })).rejects.toThrow(ForbiddenError)
      await db.close()
    } finally {
      await administer(`drop role ${name}`)
    }
  })
})

function deferred() {
  let resolve: (value: unknown) => void = () => {}
  const promise = new Promise((settle) => {
    resolve = settle
  })
  return { promise, resolve }
}
