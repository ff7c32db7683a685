import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { sql } from 'drizzle-orm'
import { afterAll, describe, expect, test } from 'vitest'
import { formatAudit } from '../../src/cli/audit-report.ts'
import { rowsOf } from '../../src/database.ts'
import { MigrationError } from '../../src/errors.ts'
import { type AuditOptions, audit, type MigrationFile } from '../../src/migrations/advice/audit.ts'
import { knownAfter } from '../../src/migrations/advice/replay.ts'
import { migrationsFolder, plinthSource, readMigrations } from '../../src/migrations/folder.ts'
import { makePglite, makeServerDatabase, runAll } from '../support/scratch.ts'

const folders: string[] = []
afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))))

/** A folder with files. */
async function folderOf(files: Record<string, string>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'plinth-audit-'))
  folders.push(folder)
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(folder, name)), { recursive: true })
    await writeFile(join(folder, name), text)
  }
  return folder
}

const STAMP = '20260101000000'
/** A migration with a down, and nothing else to find but what its SQL has. */
const migration = (sql: string, more: Partial<MigrationFile> = {}): MigrationFile => ({
  name: `${STAMP}_one`,
  source: 'test',
  sql,
  down: 'select 1',
  isFolder: true,
  ...more,
})

const rulesOf = async (options: AuditOptions) =>
  (await audit({ squawk: false, ...options })).map(({ rule }) => rule)
const rulesIn = (...files: MigrationFile[]) => rulesOf({ files })
const statements = (...texts: string[]) => texts.join('\n--> statement-breakpoint\n')

const GUARDED = [
  'create table a.t (id int)',
  'alter table a.t enable row level security',
  'create policy p on a.t using (true)',
]

describe('numbers and names', () => {
  const named = (...names: string[]) => names.map((name, at) => migration(`select ${at}`, { name }))
  const cases: [title: string, names: string[], rule: string, isFound: boolean][] = [
    ['no number', ['init'], 'number-missing', true],
    ['a stamp of 14 digits', [`${STAMP}_init`], 'number-missing', false],
    ['no real date', ['20260231000000_init'], 'number-format', true],
    ['no real time', ['20260201240000_init'], 'number-format', true],
    ['a real date', ['20240229235959_init'], 'number-format', false],
    ['a number that is short', ['0001_init'], 'number-format', true],
    ['the same number', [`${STAMP}_a`, `${STAMP}_b`], 'number-duplicate', true],
    ['the same number, written otherwise', ['V1__a.sql', 'V001__b.sql'], 'number-duplicate', true],
    ['numbers of their own', ['V1__a.sql', 'V2__b.sql'], 'number-duplicate', false],
    ['a name twice', [`${STAMP}_a`, '20260101000001_a'], 'name-duplicate', true],
    ['names of their own', [`${STAMP}_a`, '20260101000001_b'], 'name-duplicate', false],
    ['a gap', ['0001_a.sql', '0002_b.sql', '0005_c.sql'], 'number-gap', true],
    ['no gap', ['0001_a.sql', '0002_b.sql', '0003_c.sql'], 'number-gap', false],
    [
      'dates, between which there is no gap',
      [`${STAMP}_a`, '20260105000000_b'],
      'number-gap',
      false,
    ],
  ]
  test.each(cases)('%s', async (_, names, rule, isFound) => {
    const found = await rulesIn(...named(...names))
    expect(found.includes(rule), found.join()).toBe(isFound)
  })

  test('the same content under two names', async () => {
    const twins = [migration('select 1'), migration('select  1\n', { name: '20260102000000_two' })]
    expect(await rulesIn(...twins)).toContain('content-duplicate')
  })

  test('two sources number by themselves', async () => {
    const other = migration('select 2', { source: 'other' })
    expect(await rulesIn(migration('select 1'), other)).not.toContain('number-duplicate')
  })
})

describe('snapshots', () => {
  const ROOT = '00000000-0000-0000-0000-000000000000'
  const chain = (...links: [id: string, ...prevIds: string[]][]) =>
    links.map(([id, ...prevIds], at) =>
      migration(`select ${at}`, { name: `2026010100000${at}_${id}`, snapshot: { id, prevIds } }),
    )
  test('a chain', async () => {
    expect(await rulesIn(...chain(['a', ROOT], ['b', 'a'], ['c', 'b']))).toEqual([])
  })
  test('a fork, and one that was merged', async () => {
    expect(await rulesIn(...chain(['a', ROOT], ['b', 'a'], ['c', 'a']))).toContain('snapshot-fork')
    const merged = chain(['a', ROOT], ['b', 'a'], ['c', 'a'], ['d', 'b', 'c'])
    expect(await rulesIn(...merged)).toEqual([])
  })
  test('a parent that is nowhere', async () => {
    expect(await rulesIn(...chain(['a', ROOT], ['c', 'b']))).toContain('snapshot-parent')
  })
  test('one that is missing', async () => {
    const files = [...chain(['a', ROOT]), migration('select 9', { name: '20260109000000_x' })]
    expect(await rulesIn(...files)).toContain('snapshot-missing')
  })
})

describe('against what is applied', () => {
  const files = ['a', 'b', 'c'].map((name, at) =>
    migration(`select ${at}`, { name: `2026010100000${at}_${name}` }),
  )
  const [a, b, c] = files.map(({ name, sql }) => ({
    name,
    checksum: createHash('sha256').update(sql).digest('hex'),
  }))
  const applied = (...entries: ({ name: string; checksum?: string } | undefined)[]) =>
    rulesOf({ files, applied: entries.flatMap((each) => (each ? [each] : [])) })

  test('all of it', async () => expect(await applied(a, b, c)).toEqual([]))
  test('the newest is still to come', async () =>
    expect(await applied(a, b)).toEqual(['applied-never']))
  test('of another source says nothing of this one', async () => {
    const other = migration('select 9', { name: '20260101000009_z', source: 'other' })
    const rules = await rulesOf({
      files: [...files, other],
      applied: [...(a ? [a] : []), { name: other.name }],
    })
    expect(rules).toEqual(['applied-never', 'applied-never'])
  })
  test('one in between was left out', async () =>
    expect(await applied(a, c)).toEqual(['applied-late']))
  test('one was edited', async () =>
    expect(await applied(a, b, { name: c?.name ?? '', checksum: '0' })).toEqual(['applied-edited']))
  test('one is gone', async () =>
    expect(await applied(a, b, c, { name: 'gone' })).toEqual(['applied-missing']))
  test('says nothing of locks that were taken long ago', async () => {
    const file = migration('truncate a.t')
    expect(await rulesIn(file)).toContain('truncate')
    expect(await rulesOf({ files: [file], applied: [{ name: file.name }] })).not.toContain(
      'truncate',
    )
  })
})

describe('what statements have', () => {
  const cases: [rule: string, bad: string, good: string][] = [
    ['syntax', 'create tabel a.t (id int)', 'select 1'],
    ['breakpoint-missing', 'select 1; select 2', statements('select 1', 'select 2')],
    [
      'concurrently-literal',
      'create index concurrently if not exists i on a.t (id)',
      '-- plinth: concurrently\ncreate index i on a.t (id)',
    ],
    [
      'concurrently-literal',
      'drop index concurrently if exists a.i',
      'refresh materialized view concurrently a.m',
    ],
    ['concurrently-literal', 'reindex table concurrently a.t', 'reindex table a.t'],
    ['not-repeatable', 'create table a.t (id int)', 'create table if not exists a.t (id int)'],
    [
      'not-repeatable',
      'alter table a.t add column c int',
      'alter table a.t add column if not exists c int',
    ],
    [
      'not-repeatable',
      'alter table a.t add constraint c check (id > 0)',
      'alter table a.t drop constraint if exists c, add constraint c check (id > 0)',
    ],
    [
      'not-repeatable',
      'create function a.f() returns int language sql as $$ select 1 $$',
      'create or replace function a.f() returns int language sql as $$ select 1 $$',
    ],
    [
      'not-repeatable',
      `alter type a.e add value 'x'`,
      `alter type a.e add value if not exists 'x'`,
    ],
    [
      'not-repeatable',
      'insert into a.t values (1)',
      'insert into a.t values (1) on conflict do nothing',
    ],
    ['not-repeatable', 'create policy p on a.t using (true)', 'alter policy p on a.t using (true)'],
    [
      'name-unqualified',
      'create table if not exists t (id int)',
      'create table if not exists a.t (id int)',
    ],
    ['name-unqualified', 'drop table if exists t', 'drop table if exists a.t'],
    [
      'name-unqualified',
      'delete from t where id = 1',
      'with x as (select 1) delete from a.t where id in (table x)',
    ],
    ['drop-cascade', 'drop table if exists a.t cascade', 'drop table if exists a.t'],
    [
      'create-index',
      'create index if not exists i on a.t (id)',
      statements('create table a.t (id int)', 'create index i on a.t (id)'),
    ],
    ['secret', `alter role r password 'hunter2!'`, 'alter role r password null'],
    ['secret', `create role r login password 'hunter2!'`, 'create role r nologin'],
    [
      'secret',
      `insert into a.t values ('postgres://u:hunter2!@host/db')`,
      `insert into a.t values ('postgres://host/db')`,
    ],
    [
      'secret',
      `do $$ begin create role r password 'hunter2!'; end $$`,
      `do $$ begin create role r nologin; end $$`,
    ],
    [
      'secret',
      `comment on table a.t is 'password: hunter2!'`,
      `comment on table a.t is 'passwords are hashed'`,
    ],
  ]
  test.each(cases)('%s: %s', async (rule, bad, good) => {
    expect(await rulesIn(migration(bad))).toContain(rule)
    expect(await rulesIn(migration(good))).not.toContain(rule)
  })

  test('a statement that cannot be repeated is worse where no transaction undoes it', async () => {
    const find = async (sql: string) =>
      (await audit({ squawk: false, files: [migration(sql)] })).filter(
        ({ rule }) => rule === 'not-repeatable',
      )
    const one = 'alter table a.t add column c int'
    expect(await find(statements(one, one))).toMatchObject([{ severity: 'info' }])
    const outside = await find(statements(one, 'vacuum a.t', one))
    expect(outside.map(({ severity, statement }) => [severity, statement])).toEqual([
      ['warning', 0],
      ['warning', 2],
    ])
  })

  test('a secret is not repeated by the finding', async () => {
    const found = await audit({ files: [migration(`alter role r password 'hunter2!'`)] })
    expect(JSON.stringify(found)).not.toContain('hunter2')
  })

  test('the line is the file’s', async () => {
    const sql = statements('select 1;\n', '-- a comment\n\nselect 2;', '\ntruncate a.t')
    const found = await audit({ squawk: false, files: [migration(sql)] })
    const line = sql.split('\n').indexOf('truncate a.t') + 1
    expect(found).toMatchObject([{ rule: 'truncate', line, statement: 2 }])
  })
})

describe('downs', () => {
  test('missing, empty, and there', async () => {
    const { down: _, ...without } = migration('select 1')
    expect(await rulesIn(without)).toEqual(['down-missing'])
    expect(await rulesIn(migration('select 1', { down: '-- nothing\n' }))).toEqual(['down-empty'])
    expect(await rulesIn(migration('select 1'))).toEqual([])
  })
})

describe('the state that the migrations end in', () => {
  const create = (more: string, body = 'select 1') =>
    `create function a.f(t text) returns int language sql ${more} as $$ ${body} $$`
  const REVOKE = 'revoke execute on function a.f(text) from public'
  const cases: [rule: string, isFound: boolean, texts: string[]][] = [
    ['table-without-row-security', true, ['create table a.t (id int)']],
    ['table-without-row-security', false, GUARDED],
    [
      'table-without-row-security',
      true,
      [...GUARDED, 'alter table a.t disable row level security'],
    ],
    ['table-without-row-security', false, ['create table a.t (id int)', 'drop table a.t']],
    ['table-without-row-security', false, ['create table a.t (id int)', 'drop schema a cascade']],
    ['table-without-policy', true, GUARDED.slice(0, 2)],
    ['table-without-policy', false, GUARDED],
    ['table-without-policy', true, [...GUARDED, 'drop policy p on a.t']],
    ['table-without-policy', false, [...GUARDED, 'alter table a.t rename to u']],
    ['function-search-path', true, [create('')]],
    ['function-search-path', false, [create(`set search_path = ''`)]],
    ['function-search-path', false, [create(''), `alter function a.f(text) set search_path = ''`]],
    [
      'function-search-path',
      true,
      [create(`set search_path = ''`), 'alter function a.f reset search_path'],
    ],
    ['function-search-path', false, [create(''), 'drop function a.f(text)']],
    [
      'function-search-path',
      true,
      [
        create(''),
        `create function a.f(i int) returns int language sql set search_path = '' as 'select 1'`,
      ],
    ],
    ['definer-search-path', true, [create('security definer'), REVOKE]],
    ['definer-search-path', true, [create('security definer set search_path = a, public'), REVOKE]],
    [
      'definer-search-path',
      true,
      [create('security definer set search_path = pg_temp, a'), REVOKE],
    ],
    [
      'definer-search-path',
      false,
      [create('security definer set search_path = a, pg_temp'), REVOKE],
    ],
    ['definer-empty-path', true, [create(`security definer set search_path = ''`), REVOKE]],
    [
      'definer-empty-path',
      false,
      [create('security definer set search_path = pg_catalog, pg_temp'), REVOKE],
    ],
    ['definer-public', true, [create('security definer set search_path = pg_temp')]],
    ['definer-public', false, [create('security definer set search_path = pg_temp'), REVOKE]],
    [
      'definer-public',
      true,
      [
        create('security definer set search_path = pg_temp'),
        REVOKE,
        'grant execute on function a.f(text) to public',
      ],
    ],
    [
      'definer-public',
      false,
      [
        create('security definer set search_path = pg_temp'),
        'revoke all on all functions in schema a from public',
      ],
    ],
    [
      'definer-public',
      false,
      [
        'alter default privileges revoke execute on functions from public',
        create('security definer set search_path = pg_temp'),
      ],
    ],
    [
      'definer-public',
      true,
      [
        create('security definer set search_path = pg_temp'),
        REVOKE,
        'drop function a.f',
        create('security definer set search_path = pg_temp'),
      ],
    ],
    ['definer-public', false, [create('set search_path = pg_temp')]],
  ]
  test.each(cases)('%s: %s: %j', async (rule, isFound, texts) => {
    // Each in a migration of its own: what a later one mends is not wrong.
    const files = texts.map((text, at) => migration(text, { name: `2026010100000${at}_${at}` }))
    const found = await rulesIn(...files)
    expect(found.includes(rule), found.join()).toBe(isFound)
  })

  test('is what the database has: plinth’s own tables and functions', async () => {
    const db = (await makeServerDatabase()) ?? (await makePglite())
    const texts = (await readMigrations([plinthSource])).flatMap(({ content }) =>
      content.split('--> statement-breakpoint'),
    )
    await runAll(db, texts)
    const known = await knownAfter([{ name: 'all', texts }])
    const spaces = sql`n.nspname in ('identity', 'search', 'costs', 'activity', 'ai', 'ops', 'partitions')`
    const tables = await rowsOf<{ name: string; rls: boolean; policies: number; columns: number }>(
      db,
      sql`select n.nspname || '.' || c.relname as name, c.relrowsecurity as rls,
          (select count(*)::int from pg_policy where polrelid = c.oid) as policies,
          (select count(*)::int from pg_attribute a where a.attrelid = c.oid
            and a.attnum > 0 and not a.attisdropped) as columns
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where ${spaces} and c.relkind in ('r', 'p') and not c.relispartition order by 1`,
    )
    const functions = await rowsOf<{
      name: string
      definer: boolean
      open: boolean
      pinned: boolean
      volatile: boolean
    }>(
      db,
      sql`select n.nspname || '.' || p.proname as name, p.prosecdef as definer, p.proconfig is not null as pinned,
          has_function_privilege('public', p.oid, 'execute') as open, p.provolatile = 'v' as volatile
        from pg_proc p join pg_namespace n on n.oid = p.pronamespace where ${spaces} order by 1`,
    )
    const seen = [...known.tables.values()].filter(
      ({ kind, partitionOf }) => kind === 'table' && !partitionOf,
    )
    expect(
      seen
        .map(({ name, hasRowSecurity, policies, columns }) => ({
          name: `${name.schema}.${name.name}`,
          rls: hasRowSecurity,
          policies: policies.size,
          columns: columns.size,
        }))
        .sort((a, b) => (a.name < b.name ? -1 : 1)),
    ).toEqual(tables)
    expect(functions.length).toBeGreaterThan(5)
    expect(
      [...known.functions.values()]
        .map(({ name, isDefiner, isPublic, searchPath, isVolatile }) => ({
          name: `${name.schema}.${name.name}`,
          definer: isDefiner,
          pinned: searchPath !== undefined,
          open: isPublic,
          volatile: isVolatile,
        }))
        .sort((a, b) => (a.name < b.name ? -1 : 1)),
    ).toEqual(functions)
  })
})

describe('a folder', () => {
  test('of drizzle’s is read with downs, snapshots and scripts', async () => {
    const folder = await folderOf({
      [`${STAMP}_a/migration.sql`]: 'create table public.t (id int);',
      [`${STAMP}_a/down.sql`]: 'drop table public.t;',
      [`${STAMP}_a/snapshot.json`]:
        '{ "id": "a", "prevIds": ["00000000-0000-0000-0000-000000000000"] }',
      '20260102000000_b/migration.sql': 'truncate public.t',
      '20260102000000_b/snapshot.json': '{ "id": "b", "prevIds": ["x"] }',
      'meta/_journal.json': '{}',
    })
    const rules = await rulesOf({ folders: [folder] })
    expect(rules).toEqual(expect.arrayContaining(['snapshot-parent', 'truncate', 'down-missing']))
    expect(rules.filter((rule) => rule === 'down-missing')).toHaveLength(1)
    expect(await rulesOf({ sources: [{ name: 'app', folder }] }), 'under a name').toEqual(rules)
  })

  test('of flat files is read in the order of their numbers, with their downs', async () => {
    const files = {
      'V1__a.sql': 'create table public.a (id int)',
      'V2__b.sql': 'alter table public.a add column b int',
      'V10__c.sql': 'drop table public.a',
      'U1__a.sql': 'drop table public.a',
      'notes.txt': 'nothing',
    }
    const found = await audit({ squawk: false, folders: [await folderOf(files)] })
    expect(
      found.filter(({ rule }) => rule === 'down-missing').map(({ migration }) => migration),
    ).toEqual(['V2__b.sql', 'V10__c.sql'])
    expect(found.find(({ rule }) => rule === 'number-gap')?.message).toContain('3 to 9')
    // Were V10 read before V2, the table would be there in the end.
    expect(found.map(({ rule }) => rule)).not.toContain('table-without-row-security')
  })

  test('of up and down files', async () => {
    const folder = await folderOf({
      '001_a.up.sql': 'select 1',
      '001_a.down.sql': 'select 1',
      '002_b.sql': 'select 2',
      '002_b_down.sql': 'select 2',
    })
    expect(await rulesOf({ folders: [folder] })).toEqual([])
  })

  test('that is not there is refused', async () => {
    await expect(audit({ folders: ['/nowhere/at/all'] })).rejects.toThrow(MigrationError)
  })

  test('of plinth’s own has no errors', async () => {
    const found = await audit({ folders: [migrationsFolder] })
    expect(found.filter(({ severity }) => severity === 'error')).toEqual([])
  })
})

describe('the report', () => {
  test('has the worst first, in Markdown', async () => {
    const found = await audit({
      squawk: false,
      files: [migration(statements('truncate a."x|y"', 'create tabel'))],
    })
    const report = formatAudit(found, 'markdown')
    expect(report).toContain('1 error, 1 warning, 0 notes.')
    expect(report.indexOf('## Errors')).toBeLessThan(report.indexOf('## Warnings'))
    expect(report).not.toContain('## Notes')
    expect(report, 'a bar would end the cell').toContain('x\\|y')
    for (const line of report.split('\n').filter((line) => line.startsWith('|'))) {
      expect(line.replaceAll('\\|', '').split('|')).toHaveLength(6)
    }
  })

  test('is what it is made of, in JSON', async () => {
    const found = await audit({ squawk: false, files: [migration('truncate a.t')] })
    expect(JSON.parse(formatAudit(found, 'json'))).toEqual(found)
  })
})
