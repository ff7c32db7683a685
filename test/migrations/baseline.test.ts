import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sql } from 'drizzle-orm'
import { describe, expect, test } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { MigrationError } from '../../src/errors.ts'
import { migrate } from '../../src/migrations/apply.ts'
import { baseline } from '../../src/migrations/baseline.ts'
import { plinthSource } from '../../src/migrations/folder.ts'
import { readLegacyFiles, readLegacyTable } from '../../src/migrations/legacy.ts'
import { migrationStatus } from '../../src/migrations/status.ts'
import { makeScratch, makeSource } from '../support/scratch.ts'

const first = '20260101000000_first'
const second = '20260101000001_second'
const third = '20260101000002_third'

const tables = {
  first: 'create schema app;--> statement-breakpoint\ncreate table app.a (id int primary key);',
  second: 'alter table app.a add column n int default 1;',
  third: 'create table app.c (id int);',
}

async function adopt(db: Database, statements: readonly string[]) {
  for (const statement of statements) await db.execute(sql.raw(statement))
}

const inHand = ['create schema app', 'create table app.a (id int primary key, n int default 1)']

describe('baseline', () => {
  test('records what the database has, runs nothing, and lets the rest follow', async () => {
    const { url, db } = await makeScratch()
    const source = await makeSource(tables)
    const sources = [source]
    await adopt(db, [...inHand, 'insert into app.a values (1)', 'create table public.other ()'])
    const { recorded, verification } = await baseline(db, { sources, url, to: 'second' })
    expect(verification.differences).toEqual([])
    expect(recorded).toEqual([first, second])
    expect(await rowsOf(db, sql`select id, n from app.a`)).toEqual([{ id: 1, n: 1 }])
    expect((await migrationStatus(db, { sources })).map(({ state }) => state)).toEqual([
      'applied',
      'applied',
      'pending',
    ])
    expect(await migrate(db, { sources })).toEqual([third])
    expect(
      await rowsOf(db, sql`select name from drizzle.__drizzle_migrations order by name`),
    ).toEqual([{ name: first }, { name: second }, { name: third }])
    await expect(baseline(db, { sources, url })).rejects.toThrow(MigrationError)
  })

  test('takes one that was tried before, and failed with nothing done', async () => {
    const { url, db } = await makeScratch()
    const sources = [await makeSource(tables)]
    await adopt(db, [...inHand, 'create table app.c (id int)'])
    await expect(migrate(db, { sources })).rejects.toThrow('already exists')
    const { recorded } = await baseline(db, { sources, url })
    expect(recorded).toEqual([first, second, third])
    expect(await migrate(db, { sources })).toEqual([])
  })

  test('asks for plinth’s own migrations first, in the database of a project', async () => {
    const { url, db } = await makeScratch()
    const sources = [plinthSource, await makeSource(tables)]
    await adopt(db, inHand)
    await expect(baseline(db, { sources, url, to: 'second' })).rejects.toThrow(/up --to \d{14}_/)
  })

  test('shows a difference, and records nothing', async () => {
    const { url, db } = await makeScratch()
    const sources = [await makeSource(tables)]
    await adopt(db, inHand)
    const { recorded, verification } = await baseline(db, { sources, url })
    expect(recorded).toEqual([])
    expect(verification.differences.map(({ kind, change }) => [kind, change])).toContainEqual([
      'table',
      'missing',
    ])
    expect((await migrationStatus(db, { sources })).map(({ state }) => state)).toEqual([
      'pending',
      'pending',
      'pending',
    ])
    expect(await rowsOf(db, sql`select to_regclass('drizzle.__drizzle_migrations') as t`)).toEqual([
      { t: null },
    ])
  })

  test('imports the history of a version table, and leaves the table alone', async () => {
    const { url, db } = await makeScratch()
    const sources = [await makeSource(tables)]
    await adopt(db, [
      ...inHand,
      'create table app.c (id int)',
      'create table app.schema_version (version text primary key, description text, applied_at timestamptz, applied_by text, duration_ms int)',
      "insert into app.schema_version values ('1', 'tables', '2024-03-01 10:00:00+00', 'ada', 12), ('2', 'columns', '2024-04-01 10:00:00.5+00', 'ada', 7)",
    ])
    const { recorded, imported } = await baseline(db, {
      sources,
      url,
      legacy: { table: 'app.schema_version' },
    })
    expect(recorded).toEqual([first, second, third])
    expect(imported).toEqual(['1 tables', '2 columns'])
    const statuses = await migrationStatus(db, { sources })
    expect(statuses.slice(0, 2)).toMatchObject([
      {
        name: '1 tables',
        state: 'imported',
        appliedAt: new Date('2024-03-01T10:00:00Z'),
        appliedBy: 'ada',
        durationMs: 12,
      },
      { name: '2 columns', state: 'imported', appliedAt: new Date('2024-04-01T10:00:00.5Z') },
    ])
    expect(await migrate(db, { sources })).toEqual([])
    expect(await rowsOf(db, sql`select count(*)::int as n from app.schema_version`)).toEqual([
      { n: 2 },
    ])
  })
})

describe('a version table', () => {
  test.each([
    [
      'of names alone',
      "create table public.v (version varchar primary key); insert into public.v values ('20240102'), ('20240101')",
      [
        { name: '20240101', appliedAt: null },
        { name: '20240102', appliedAt: null },
      ],
    ],
    [
      'of Flyway',
      `create table public.v (installed_rank int, version text, description text, type text, script text, checksum int,
         installed_by text, installed_on timestamp, execution_time int, success boolean);
       insert into public.v values (1, '1', 'init', 'SQL', 'V1__init.sql', -7, 'ada', '2024-01-01 09:00', 33, true),
         (2, '2', 'x', 'SQL', 'V2__x.sql', 8, 'ada', '2024-01-02 09:00', 5, false)`,
      [
        {
          name: 'V1__init.sql',
          checksum: '-7',
          appliedAt: new Date('2024-01-01T09:00Z'),
          appliedBy: 'ada',
          durationMs: 33,
        },
      ],
    ],
    [
      'of Knex',
      "create table public.v (id serial, name text, batch int, migration_time timestamptz); insert into public.v (name, migration_time) values ('1_a.js', '2024-01-01 10:00+02')",
      [{ name: '1_a.js', appliedAt: new Date('2024-01-01T08:00Z') }],
    ],
    [
      'with seconds since 1970',
      'create table public.v (id int, timestamp bigint, name text); insert into public.v values (1, 1704067200000, $$a$$)',
      [{ name: 'a', appliedAt: new Date('2024-01-01T00:00Z') }],
    ],
  ])('%s', async (_, ddl, expected) => {
    const { db } = await makeScratch()
    for (const statement of ddl.split(/;\s*/)) await db.execute(sql.raw(statement))
    const rows = await readLegacyTable(db, 'public.v')
    expect(rows).toMatchObject(expected)
    expect(rows).toHaveLength(expected.length)
  })

  test('is found by its name as SQL has it', async () => {
    const { db } = await makeScratch()
    await db.execute(sql`create table public."SequelizeMeta" (name text)`)
    await db.execute(sql`insert into public."SequelizeMeta" values ('1_a.js')`)
    expect(await readLegacyTable(db, 'public."SequelizeMeta"')).toMatchObject([{ name: '1_a.js' }])
  })

  test('that is none is refused', async () => {
    const { db } = await makeScratch()
    await expect(readLegacyTable(db, 'public.v')).rejects.toThrow('there is no table public.v')
    await db.execute(sql`create table public.v (done boolean)`)
    await expect(readLegacyTable(db, 'public.v')).rejects.toThrow(
      'no column that names a migration',
    )
  })

  test('may be a list of files, or a folder of them', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'plinth-legacy-'))
    try {
      await writeFile(join(folder, '002_b.sql'), '')
      await writeFile(join(folder, '001_a.sql'), '')
      await writeFile(join(folder, '001_a.down.sql'), '')
      await writeFile(join(folder, 'list.txt'), '# applied\n001_a.sql\n\n002_b.sql\n')
      const names = ['001_a.sql', '002_b.sql']
      expect((await readLegacyFiles(folder)).map(({ name }) => name)).toEqual(names)
      expect((await readLegacyFiles(join(folder, 'list.txt'))).map(({ name }) => name)).toEqual(
        names,
      )
      await expect(readLegacyFiles(join(folder, 'nothing'))).rejects.toThrow(MigrationError)
    } finally {
      await rm(folder, { recursive: true })
    }
  })
})
