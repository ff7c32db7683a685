import { rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { sql } from 'drizzle-orm'
import { drizzle as postgresJs } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { describe, expect, test } from 'vitest'
import { connect, type Database, rowsOf, withSession } from '../../src/database.ts'
import { DataLossError, ForbiddenError } from '../../src/errors.ts'
import { migrate } from '../../src/migrations/apply.ts'
import { type MigrationSource, readMigrations } from '../../src/migrations/folder.ts'
import { migrateTo, planRevert, revert } from '../../src/migrations/revert.ts'
import { migrationStatus } from '../../src/migrations/status.ts'
import { adminUrl } from '../support/database.ts'
import {
  administer,
  makePglite,
  makeScratch,
  makeSource,
  writeMigration,
} from '../support/scratch.ts'

const first = '20260101000000_first'
const second = '20260101000001_second'
const third = '20260101000002_third'

const table = { up: 'create table public.a (id int primary key);', down: 'drop table public.a;' }

const states = async (db: Database, source: MigrationSource) =>
  Object.fromEntries(
    (await migrationStatus(db, { sources: [source] })).map(({ name, state }) => [name, state]),
  )

/** What `drizzle-kit migrate` leaves behind: its own table alone. */
async function asDrizzle(db: Database, source: MigrationSource) {
  await db.execute(sql`create schema drizzle`)
  await db.execute(
    sql`create table drizzle.__drizzle_migrations (id serial primary key, hash text not null, created_at bigint, name text, applied_at timestamptz default now())`,
  )
  for (const { name, checksum, content } of await readMigrations([source])) {
    await db.execute(sql.raw(content))
    await db.execute(
      sql`insert into drizzle.__drizzle_migrations (hash, created_at, name) values (${checksum}, 0, ${name})`,
    )
  }
}

describe('what a failure left', () => {
  test('steps that were taken out behind those that are done end it', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({
      first: `${table.up}\n--> statement-breakpoint\n-- plinth: step\nselect 1 / 0;`,
    })
    await expect(migrate(db, { sources: [source] })).rejects.toThrow(/step 2 of 2/)
    await writeMigration(source.folder, first, table)
    expect(await migrate(db, { sources: [source] })).toEqual([first])
    expect(await states(db, source)).toEqual({ [first]: 'applied' })
  })

  test('one that failed with nothing done may be removed, or renamed', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({ first: table, second: 'select 1 / 0;' })
    await expect(migrate(db, { sources: [source] })).rejects.toThrow(/division/)
    await rename(join(source.folder, second), join(source.folder, third))
    expect(await states(db, source)).toEqual({ [first]: 'applied', [third]: 'pending' })
    await rm(join(source.folder, third), { recursive: true })
    expect(await migrate(db, { sources: [source] })).toEqual([])
  })

  test.skipIf(!adminUrl)('an index that cannot be built may be mended in its text', async () => {
    const { db } = await makeScratch()
    const index = '-- plinth: concurrently\ncreate index a_i on public.a '
    const source = await makeSource({ first: table, second: `${index}(missing);` })
    await expect(migrate(db, { sources: [source] })).rejects.toThrow(/missing/)
    await writeMigration(source.folder, second, `${index}(id);`)
    expect(await migrate(db, { sources: [source] })).toEqual([second])
  })
})

describe.skipIf(!adminUrl)('a step outside of a transaction', () => {
  test('is not content with an index that is not valid', async () => {
    const { db } = await makeScratch()
    const index = 'create unique index if not exists a_n_idx on public.a (n);'
    const source = await makeSource({
      first: 'create table public.a (n int);',
      second: `-- plinth: concurrently\n${index}`,
    })
    await migrate(db, { sources: [source], to: '1' })
    await db.execute(sql`insert into public.a values (1), (1)`)
    await expect(
      db.execute(sql`create unique index concurrently a_n_idx on public.a (n)`),
    ).rejects.toThrow()
    await db.execute(sql`truncate public.a`)
    await migrate(db, { sources: [source] })
    const [row] = await rowsOf<{ valid: boolean }>(
      db,
      sql`select indisvalid as valid from pg_index where indexrelid = 'a_n_idx'::regclass`,
    )
    expect(row).toEqual({ valid: true })
  })

  test('goes on with a partition that is half detached', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({
      first: `create table public.p (n int) partition by list (n);
create table public.p1 partition of public.p for values in (1);`,
      second: 'alter table public.p detach partition public.p1 concurrently;',
    })
    const sources = [source]
    await migrate(db, { sources, to: '1' })
    await db.transaction(async (reader) => {
      await reader.execute(sql`select from public.p`)
      const killed = migrate(db, { sources })
      const ended = expect(killed).rejects.toThrow(/connection/)
      for (let pid = 0; pid === 0; ) {
        // Not by the reader: in a transaction, what others do looks as it did at first.
        const found = await rowsOf<{ pid: number }>(
          db,
          sql`select pg_terminate_backend(a.pid), a.pid from pg_inherits i join pg_stat_activity a
            on a.query like 'alter table public.p detach%' where i.inhdetachpending`,
        )
        pid = found[0]?.pid ?? 0
      }
      await ended
    })
    expect(await migrate(db, { sources })).toEqual([second])
    expect(await rowsOf(db, sql`select 1 from pg_inherits`)).toHaveLength(0)
  })

  test('is not taken for done where its partition never was one', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({
      first: 'create table public.p (n int) partition by list (n); create table public.q ();',
      second: 'alter table public.p detach partition public.q concurrently;',
    })
    for (let run = 0; run < 2; run += 1) {
      await expect(migrate(db, { sources: [source] })).rejects.toThrow(/is not a partition/)
    }
  })
})

describe('what drizzle-kit alone has applied', () => {
  test('can be reverted', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({ first: table })
    await asDrizzle(db, source)
    expect(await revert(db, { sources: [source] })).toEqual([first])
    expect(await states(db, source)).toEqual({ [first]: 'pending' })
  })
})

describe('revert with something accepted', () => {
  test('reverts a renamed one', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({ first: table })
    await migrate(db, { sources: [source] })
    await rename(join(source.folder, first), join(source.folder, second))
    expect(await revert(db, { sources: [source], accept: [second] })).toEqual([second])
    expect(await states(db, source)).toEqual({ [second]: 'pending' })
  })

  test('leaves a late one alone, and refuses before it reverts', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({ second: table })
    await rename(join(source.folder, '20260101000000_second'), join(source.folder, second))
    await writeMigration(source.folder, third, {
      up: 'create table public.c ();',
      down: 'drop table public.c;',
    })
    await migrate(db, { sources: [source] })
    await writeMigration(source.folder, first, 'create table public.b ();')
    await expect(migrateTo(db, second, { sources: [source] })).rejects.toThrow(/not applied/)
    expect((await states(db, source))[third]).toBe('applied')
    expect(await migrateTo(db, second, { sources: [source], accept: [first] })).toEqual({
      reverted: [third],
      applied: [first],
    })
  })
})

test('a loss is said also where another statement takes nothing from that table', async () => {
  const { db } = await makeScratch()
  const down =
    'delete from public.a where id = 1;\n--> statement-breakpoint\ndelete from public.a where id = 2;'
  const source = await makeSource({ first: table, second: { up: 'select 1;', down } })
  await migrate(db, { sources: [source] })
  await db.execute(sql`insert into public.a values (1)`)
  await expect(revert(db, { sources: [source] })).rejects.toThrow(DataLossError)
})

describe('the table of drizzle', () => {
  test.skipIf(!adminUrl)(
    'is not taken for an empty one by a login that may not read it',
    async () => {
      const role = `plinth_blind_${process.pid}`
      await administer(`create role ${role} login password 'x'`)
      const { db, url } = await makeScratch()
      const source = await makeSource({ first: table })
      await asDrizzle(db, source)
      await db.execute(sql.raw(`grant usage on schema drizzle to ${role}`))
      const own = await connect(Object.assign(new URL(url), { username: role, password: 'x' }).href)
      try {
        await expect(migrationStatus(own, { sources: [source] })).rejects.toThrow(ForbiddenError)
      } finally {
        await own.close()
        await db.execute(sql.raw(`drop owned by ${role}`))
        await administer(`drop role ${role}`)
      }
    },
  )
})

describe('a half reverted one', () => {
  test('is planned from where it stopped', async () => {
    const { db } = await makeScratch()
    const down = 'alter table public.a rename to b;\n--> statement-breakpoint\n-- plinth: step\n'
    const source = await makeSource({ first: { ...table, down: `${down}select 1 / 0;` } })
    await migrate(db, { sources: [source] })
    await expect(revert(db, { sources: [source] })).rejects.toThrow(/division/)
    await writeFile(join(source.folder, first, 'down.sql'), `${down}drop table public.b;`)
    const { migrations } = await planRevert(db, { sources: [source] })
    expect(migrations[0]?.script).not.toContain('rename')
    expect(await revert(db, { sources: [source] })).toEqual([first])
  })
})

test('in a transaction of the caller, it leaves no setting behind', async () => {
  const { db } = await makeScratch()
  const source = { ...(await makeSource({ first: table })), searchPath: '' }
  const settings = sql`select current_setting('search_path') as path, current_setting('lock_timeout') as wait,
    current_setting('statement_timeout') as time`
  await db.transaction(async (tx) => {
    const before = await rowsOf(tx, settings)
    await migrate(tx, { sources: [source] })
    expect(await rowsOf(tx, settings)).toEqual(before)
  })
})

test('a statement that needs no transaction runs on PGlite as well', async () => {
  const db = await makePglite()
  const source = await makeSource({
    first: table,
    second: 'create index concurrently a_i on public.a (id);',
    third: 'vacuum public.a;',
  })
  expect(await migrate(db, { sources: [source] })).toEqual([first, second, third])
})

test.skipIf(!adminUrl)('a database of postgres.js lends one session', async () => {
  const { url } = await makeScratch()
  const client = postgres(url, { max: 4 })
  const db = postgresJs({ client })
  let isOver = false
  const one = async () => {
    while (!isOver) await db.execute(sql`select pg_sleep(random() * 0.01)`)
  }
  const others = Promise.all([1, 2, 3, 4, 5].map(one))
  try {
    // Until all connections are open.
    await db.execute(sql`select pg_sleep(0.2)`)
    const pids = await withSession(db, async (session) => {
      const found = new Set<number>()
      const pid = sql`select pg_backend_pid() as pid`
      for (let at = 0; at < 40; at += 1) {
        for (const row of await rowsOf<{ pid: number }>(session, pid)) found.add(row.pid)
      }
      const rows = await session.transaction((tx) => rowsOf<{ pid: number }>(tx, pid))
      for (const row of rows) found.add(row.pid)
      return found
    })
    expect(pids.size).toBe(1)
  } finally {
    isOver = true
    await others
    await client.end()
  }
})
