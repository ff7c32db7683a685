import { sql } from 'drizzle-orm'
import { describe, expect, test } from 'vitest'
import { rowsOf } from '../../src/database.ts'
import { type Advice, adviseOn, type Effect } from '../../src/migrations/advice/advice.ts'
import { LOCKS, type Lock, waitsOf } from '../../src/migrations/advice/locks.ts'
import { knownAfter } from '../../src/migrations/advice/replay.ts'
import { COVERED, RULES, reported } from '../../src/migrations/advice/squawk.ts'
import { STEADY } from '../../src/migrations/advice/volatility.ts'
import { measure } from '../support/measured.ts'
import { makeServerDatabase, runAll } from '../support/scratch.ts'

/** Tables in use, as migrations before have made them. */
const SETUP = [
  'create schema m',
  `create type m.mood as enum ('calm', 'merry')`,
  'create table m.parents (id int primary key, name text)',
  `create table m.rows (id int primary key, parent_id int not null, name varchar(20), n numeric(10, 2),
    at timestamptz(3), note text, size int, must text not null default '',
    constraint rows_fkey foreign key (parent_id) references m.parents (id),
    constraint rows_note_check check (note is not null))`,
  `alter table m.rows add constraint rows_size_check check (size > 0) not valid`,
  'create index rows_size_idx on m.rows (size)',
  'create unique index rows_note_idx on m.rows (note)',
  'create table m.guarded (id int primary key)',
  'create policy guarded_select on m.guarded for select using (true)',
  'create table m.logs (id int not null, at date not null) partition by range (at)',
  `create table m.logs_1 partition of m.logs for values from ('2026-01-01') to ('2026-02-01')`,
  'create table m.logs_rest partition of m.logs default',
  'create table m.logs_2 (id int not null, at date not null)',
  'create table m.children (id int references m.parents (id))',
  'create view m.names as select id, name from m.rows',
  'create materialized view m.sizes as select id, size from m.rows',
  'create unique index sizes_id_idx on m.sizes (id)',
  'create unlogged table m.cache (id int primary key)',
  `create function m.steady() returns int language sql stable as 'select 1'`,
  `create function m.dice() returns int language plpgsql as 'begin return 4; end'`,
  `create function m.touch() returns trigger language plpgsql as 'begin return new; end'`,
  'create trigger touched before update on m.rows for each row execute function m.touch()',
]
const ROWS = [
  `insert into m.parents select n, n::text from generate_series(1, 20) n`,
  `insert into m.rows select n, n, n::text, n, now(), n::text, n, '' from generate_series(1, 20) n`,
  `insert into m.guarded select n from generate_series(1, 20) n`,
  `insert into m.logs select n, '2026-01-02' from generate_series(1, 20) n`,
  `insert into m.logs_2 select n, '2026-02-02' from generate_series(1, 20) n`,
  `insert into m.cache select n from generate_series(1, 20) n`,
  'refresh materialized view m.sizes',
]
const known = await knownAfter([{ name: 'before', texts: SETUP }])
const advise = (...texts: string[]) => adviseOn(texts, { known, squawk: false })

const server = await makeServerDatabase()
if (server) await runAll(server, [...SETUP, ...ROWS])

const [version] = server
  ? await rowsOf<{ server_version_num: string }>(server, sql`show server_version_num`)
  : []
const isNewer = Number(version?.server_version_num) >= 180_000
const PARTITIONS = ['m.logs_1', 'm.logs_rest']

/** Of some advice, by table, the strongest of the locks that it says, and whether one takes long. */
function locksOf(advice: readonly Advice[]) {
  const found: Record<string, { lock: Lock; isLong: boolean }> = {}
  const all = advice.flatMap((each): Pick<Advice, 'table' | 'lock' | 'lasts'>[] => [
    each,
    ...PARTITIONS.filter(() => each.message.includes('and its partitions')).map((table) => ({
      ...each,
      table,
    })),
    ...PARTITIONS.filter(() => each.message.includes('SHARE on its partitions')).map((table) => ({
      ...each,
      lock:
        isNewer && each.message.includes('from Postgres 18')
          ? ('ACCESS EXCLUSIVE' as const)
          : ('SHARE' as const),
      table,
    })),
  ])
  for (const { table, lock, lasts } of all) {
    if (!table || !lock || !waitsOf(lock)) continue
    const before = found[table]
    const isStronger = !before || LOCKS.indexOf(lock) > LOCKS.indexOf(before.lock)
    found[table] = {
      lock: isStronger ? lock : before.lock,
      isLong: before?.isLong || lasts === 'scan' || lasts === 'build',
    }
  }
  return found
}

/** Every statement whose locks the advice tells. Each is run, and what it was seen to do is compared. */
const STATEMENTS = [
  'alter table m.rows add column extra int',
  'alter table m.rows add column extra int not null default 7',
  'alter table m.rows add column extra timestamptz default now()',
  'alter table m.rows add column extra timestamptz default clock_timestamp()',
  'alter table m.rows add column extra uuid default gen_random_uuid()',
  'alter table m.rows add column extra int default m.steady()',
  'alter table m.rows add column extra int default m.dice()',
  'alter table m.rows add column extra int generated always as (size + 1) stored',
  'alter table m.rows add column extra int generated always as identity',
  'alter table m.rows add column extra serial',
  'alter table m.rows add column extra int check (extra > 0)',
  'alter table m.rows add column extra int unique',
  'alter table m.rows add column extra int references m.parents (id)',
  'alter table m.rows add column extra int default 1 references m.parents (id)',
  'alter table m.rows drop column n',
  'alter table m.rows alter column must drop default',
  `alter table m.rows alter column note set default ''`,
  'alter table m.rows alter column size set not null',
  'alter table m.rows alter column note set not null',
  'alter table m.rows alter column must set not null',
  'alter table m.rows alter column must drop not null',
  'alter table m.rows alter column note set storage external',
  'alter table m.rows alter column note set statistics 200',
  'alter table m.rows set (fillfactor = 70)',
  'alter table m.rows owner to current_user',
  'alter table m.rows add constraint c check (size > -1)',
  'alter table m.rows add constraint c check (size > -1) not valid',
  'alter table m.rows validate constraint rows_size_check',
  'alter table m.rows add constraint f foreign key (size) references m.parents (id)',
  'alter table m.rows add constraint f foreign key (size) references m.parents (id) not valid',
  'alter table m.rows add constraint u unique (size)',
  'alter table m.rows add constraint u unique using index rows_note_idx',
  'alter table m.rows add constraint x exclude using btree (size with =)',
  'alter table m.logs_2 add primary key (id)',
  'alter table m.rows drop constraint rows_size_check',
  'alter table m.rows drop constraint rows_fkey',
  'alter table m.rows alter constraint rows_fkey deferrable',
  'alter table m.rows enable row level security',
  'alter table m.rows force row level security',
  'alter table m.rows disable trigger touched',
  'alter table m.rows replica identity full',
  'alter table m.rows set unlogged',
  'alter table m.cache set logged',
  'alter table m.rows cluster on rows_size_idx',
  'alter table m.rows rename to lines',
  'alter table m.rows rename column size to length',
  'alter table m.rows rename constraint rows_size_check to other',
  'alter index m.rows_size_idx rename to other',
  `alter table m.logs attach partition m.logs_2 for values from ('2026-02-01') to ('2026-03-01')`,
  'alter table m.logs detach partition m.logs_1',
  'alter table m.logs add column extra int',
  'alter table m.logs drop column id',
  'alter table m.logs alter column id set default 1',
  'alter table m.logs alter column id drop not null',
  'alter table m.logs alter column id type bigint',
  'alter table m.logs add constraint c check (id > 0)',
  'alter table m.logs add constraint c check (id > 0) not valid',
  'alter table m.logs add constraint k primary key (id, at)',
  'alter table m.logs add constraint k unique (id, at)',
  'alter table m.logs add constraint f foreign key (id) references m.parents (id)',
  'alter table m.logs enable row level security',
  'alter table m.logs owner to current_user',
  'alter table m.logs rename column id to number',
  'alter table m.logs rename to entries',
  'create policy p on m.logs using (true)',
  'create index i on m.logs (id)',
  'truncate m.logs',
  'drop table m.logs',
  'create trigger t after insert on m.logs for each row execute function m.touch()',
  `create table m.logs_3 partition of m.logs for values from ('2026-04-01') to ('2026-05-01')`,
  'create table m.fresh (id int references m.parents (id))',
  'create index i on m.rows (name)',
  'create unique index i on m.rows (name)',
  'drop index m.rows_size_idx',
  'reindex index m.rows_size_idx',
  'reindex table m.rows',
  'cluster m.rows using rows_size_idx',
  'drop table m.children',
  'drop materialized view m.sizes',
  'drop view m.names',
  'truncate m.children',
  'delete from m.rows',
  'update m.rows set size = 3',
  'create trigger t after insert on m.rows for each row execute function m.touch()',
  'drop trigger touched on m.rows',
  'create policy p on m.rows using (true)',
  'alter policy guarded_select on m.guarded using (false)',
  'drop policy guarded_select on m.guarded',
  'create or replace view m.names as select id, name, size from m.rows',
  'refresh materialized view m.sizes',
  'refresh materialized view concurrently m.sizes',
  'comment on table m.rows is $$rows$$',
  'grant select on m.rows to public',
  'lock table m.rows in share mode',
  'select count(*) from m.rows',
]

describe.runIf(server)('what the advice says of locks is what the server does', () => {
  test.each(STATEMENTS)('%s', async (statement) => {
    const measured = await measure(server as NonNullable<typeof server>, 'm', statement)
    const advice = await advise(statement)
    const said = locksOf(advice)
    const rewritten = advice
      .filter(({ effect }) => effect === 'rewrites')
      .flatMap(({ table = '', message }) =>
        message.includes('and its partitions') ? [table, ...PARTITIONS] : [table],
      )
    const expected: Record<string, unknown> = {}
    const actual: Record<string, unknown> = {}
    const partitions = Object.entries(measured).filter(([name]) => PARTITIONS.includes(`m.${name}`))
    for (const [name, { lock, ...seen }] of Object.entries(measured)) {
      const table = `m.${name}`
      // A partitioned table has no rows but those of its partitions.
      const isAll = advice.some(({ message }) => message.includes('its partitions'))
      const those = name === 'logs' && isAll ? partitions.map(([, one]) => one) : []
      const isNewFile = [seen, ...those].some((one) => one.isRewritten)
      const isScanned = [seen, ...those.filter(({ lock }) => lock)].some((one) => one.isScanned)
      // TRUNCATE makes a new file too, an empty one.
      const isRewritten = isNewFile && !statement.startsWith('truncate')
      expected[table] = { lock, isRewritten, isScanned: isRewritten || (lock && isScanned) }
      const { lock: saidLock, isLong } = said[table] ?? {}
      const isSaid = rewritten.includes(table)
      actual[table] = {
        lock: saidLock,
        isRewritten: isSaid,
        isScanned: isSaid || (saidLock && isLong),
      }
    }
    expect(actual).toEqual(expected)
  })
})

describe('each rule', () => {
  /** A statement that it is about, and one like it that it is not about; each with what is said. */
  const cases: [rule: string, effect: Effect, bad: string, good: string][] = [
    [
      'add-required-column',
      'fails',
      'alter table m.rows add column c int not null',
      'alter table m.rows add column c int not null default 1',
    ],
    [
      'drop-column',
      'loses',
      'alter table m.rows drop column n',
      'alter table m.rows add column c int',
    ],
    [
      'drop-default',
      'breaks',
      'alter table m.rows alter column must drop default',
      `alter table m.rows alter column must set default 'x'`,
    ],
    [
      'set-not-null',
      'fails',
      'alter table m.rows alter column size set not null',
      'alter table m.rows alter column note set not null',
    ],
    [
      'alter-type',
      'rewrites',
      'alter table m.rows alter column size type bigint',
      'alter table m.rows alter column name type varchar(30)',
    ],
    [
      'alter-type',
      'fails',
      'alter table m.rows alter column name type varchar(10)',
      'alter table m.rows alter column name type text',
    ],
    [
      'alter-type',
      'loses',
      'alter table m.rows alter column n type numeric(10, 1)',
      'alter table m.rows alter column n type numeric(12, 2)',
    ],
    [
      'alter-type',
      'loses',
      'alter table m.rows alter column at type timestamptz(0)',
      'alter table m.rows alter column at type timestamptz',
    ],
    [
      'alter-type',
      'loses',
      'alter table m.rows alter column name type varchar(3) using name::varchar(3)',
      'alter table m.rows alter column name type text using name::text',
    ],
    [
      'add-check',
      'fails',
      'alter table m.rows add constraint c check (n > 0)',
      'alter table m.rows add constraint c check (n > 0) not valid',
    ],
    [
      'add-foreign-key',
      'fails',
      'alter table m.rows add constraint f foreign key (size) references m.parents (id)',
      'alter table m.rows add constraint f foreign key (size) references m.parents (id) not valid',
    ],
    [
      'add-unique',
      'fails',
      'alter table m.rows add constraint u unique (n)',
      'alter table m.rows add constraint u unique using index rows_note_idx',
    ],
    [
      'add-exclusion',
      'fails',
      'alter table m.rows add constraint x exclude using gist (size with =)',
      'alter table m.rows add constraint x check (size > 0) not valid',
    ],
    [
      'create-index',
      'locks',
      'create index i on m.rows (n)',
      'create index concurrently i on m.rows (n)',
    ],
    [
      'create-index',
      'fails',
      'create unique index i on m.rows (n)',
      'create index i on m.rows (n)',
    ],
    [
      'drop-index',
      'locks',
      'drop index m.rows_size_idx',
      'drop index concurrently m.rows_size_idx',
    ],
    ['reindex', 'locks', 'reindex table m.rows', 'reindex (concurrently) table m.rows'],
    ['cluster', 'rewrites', 'cluster m.rows using rows_size_idx', 'analyze m.rows'],
    ['vacuum-full', 'rewrites', 'vacuum (full) m.rows', 'vacuum (full off) m.rows'],
    ['vacuum-full', 'fails', 'vacuum full m.rows', 'vacuum m.rows'],
    [
      'attach-partition',
      'locks',
      `alter table m.logs attach partition m.logs_2 for values from ('2026-02-01') to ('2026-03-01')`,
      'alter table m.logs detach partition m.logs_1 concurrently',
    ],
    [
      'detach-partition',
      'locks',
      'alter table m.logs detach partition m.logs_1',
      'alter table m.logs detach partition m.logs_1 concurrently',
    ],
    [
      'create-partition',
      'locks',
      `create table m.logs_3 partition of m.logs for values from ('2026-05-01') to ('2026-06-01')`,
      'create table m.logs_3 (id int)',
    ],
    [
      'row-security-without-policy',
      'breaks',
      'alter table m.rows enable row level security',
      'alter table m.guarded enable row level security',
    ],
    [
      'replace-view',
      'fails',
      'create or replace view m.names as select 1',
      'create view m.other as select 1',
    ],
    [
      'refresh-materialized-view',
      'rewrites',
      'refresh materialized view m.sizes',
      'refresh materialized view concurrently m.sizes',
    ],
    [
      'set-logged',
      'rewrites',
      'alter table m.cache set logged',
      'alter table m.cache set (fillfactor = 70)',
    ],
    [
      'rename-column',
      'breaks',
      'alter table m.rows rename column n to k',
      'alter table m.rows rename constraint rows_fkey to f',
    ],
    [
      'rename-table',
      'breaks',
      'alter table m.rows rename to lines',
      'alter index m.rows_size_idx rename to i',
    ],
    [
      'rename-enum-value',
      'breaks',
      `alter type m.mood rename value 'calm' to 'quiet'`,
      `alter type m.mood add value 'quiet'`,
    ],
    ['drop-table', 'loses', 'drop table m.rows', 'drop view m.names'],
    ['drop-table', 'loses', 'drop table m.logs_1', 'drop function m.dice()'],
    ['drop-schema', 'loses', 'drop schema m', 'create schema o'],
    ['drop-type', 'loses', 'drop type m.mood', `create type m.other as enum ('a')`],
    ['drop-materialized-view', 'loses', 'drop materialized view m.sizes', 'drop view m.names'],
    ['drop-view', 'breaks', 'drop view m.names', 'create view m.other as select 1'],
    ['drop-function', 'breaks', 'drop function m.dice()', 'drop trigger touched on m.rows'],
    ['drop-cascade', 'style', 'drop view m.names cascade', 'drop view m.names'],
    ['truncate', 'loses', 'truncate m.rows', 'delete from m.rows where id = 1'],
    ['delete-all', 'loses', 'delete from m.rows', 'delete from m.rows where id = 1'],
    [
      'update-all',
      'loses',
      'update m.rows set size = 1',
      'update m.rows set size = 1 where id = 1',
    ],
    ['lock-table', 'locks', 'lock table m.rows', 'select 1'],
    [
      'alter-domain',
      'fails',
      'alter domain m.d add constraint c check (value > 0)',
      'alter domain m.d add constraint c check (value > 0) not valid',
    ],
    [
      'enum-value-used',
      'fails',
      `alter type m.mood add value 'sad'; select 'sad'::m.mood`,
      `alter type m.mood add value 'sad'; -- plinth: step\nselect 'sad'::m.mood`,
    ],
    [
      'enum-value-used',
      'fails',
      `alter type m.mood add value 'sad'; select 'sad'::m.mood`,
      `create type m.fresh as enum ('a'); alter type m.fresh add value 'sad'; select 'sad'::m.fresh`,
    ],
    ['syntax', 'fails', 'create tabel t ()', 'select 1'],
  ]
  test.each(cases)('%s %s: %s', async (rule, effect, bad, good) => {
    const says = async (statement: string) =>
      (await advise(statement)).some((each) => each.rule === rule && each.effect === effect)
    expect(await says(bad)).toBe(true)
    expect(await says(good)).toBe(false)
  })

  test('says nothing of what the migration makes itself', async () => {
    const advice = await advise(
      'create table m.fresh (id int not null, name text)',
      'create index i on m.fresh (name)',
      'alter table m.fresh add column must int not null',
      'alter table m.fresh alter column name type int using 1',
      'alter table m.fresh add constraint c check (id > 0)',
      'alter table m.fresh enable row level security',
      'alter table m.fresh rename to fresher',
      'alter table m.fresher drop column name',
      'drop index m.i',
      'truncate m.fresher',
      'update m.fresher set id = 1',
      'drop table m.fresher',
    )
    expect(advice).toEqual([])
  })

  test('says which lock, on which table, what waits, and until when', async () => {
    const [advice] = await advise('create index i on m.rows (n)')
    expect(advice).toEqual({
      statement: 0,
      line: 1,
      rule: 'create-index',
      effect: 'locks',
      table: 'm.rows',
      lock: 'SHARE',
      waits: 'writes',
      lasts: 'build',
      message: 'takes SHARE on m.rows: writes wait while the index is built',
      alternative: expect.stringContaining('CONCURRENTLY'),
    })
  })

  test('knows by its own name what an earlier migration has renamed', async () => {
    const later = await knownAfter([
      { name: 'before', texts: SETUP },
      {
        name: 'then',
        texts: [
          'alter table m.rows rename to lines',
          'alter table m.lines rename column name to title',
        ],
      },
    ])
    const [widened] = await adviseOn(['alter table m.lines alter column title type varchar(40)'], {
      known: later,
      squawk: false,
    })
    expect(widened).toMatchObject({ effect: 'locks', lasts: 'moment' })
  })
})

test.runIf(server)('functions that give all rows the same value are not volatile', async () => {
  const rows = await rowsOf<{ name: string; volatile: boolean }>(
    server as NonNullable<typeof server>,
    sql`select proname as name, bool_or(provolatile = 'v') as volatile from pg_proc
      where pronamespace = 'pg_catalog'::regnamespace group by 1`,
  )
  const found = new Map(rows.map(({ name, volatile }) => [name, volatile]))
  const syntax = ['current_user']
  expect([...STEADY].filter((name) => found.get(name) !== false && !syntax.includes(name))).toEqual(
    [],
  )
})

describe('squawk', () => {
  const withSquawk = (...texts: string[]) => adviseOn(texts, { known })

  test('adds what plinth has no rule for, of new tables too, each at its statement', async () => {
    const advice = await withSquawk(
      'select 1',
      'create table m.fresh (id int, at timestamp, name varchar(10), c char(3))',
      `alter type m.mood add value 'sad'`,
    )
    expect(advice.map(({ statement, rule }) => [statement, rule])).toEqual(
      expect.arrayContaining([
        [1, 'prefer-bigint-over-int'],
        [1, 'prefer-timestamp-tz'],
        [1, 'prefer-text-field'],
        [1, 'ban-char-field'],
        [2, 'require-enum-value-ordering'],
      ]),
    )
    expect(advice.filter(({ effect }) => effect !== 'style')).toEqual([])
  })

  test('is told in plinth’s words', async () => {
    const [advice] = await withSquawk('create table m.fresh (at timestamp)')
    expect(advice).toMatchObject({
      rule: 'prefer-timestamp-tz',
      alternative: 'timestamptz',
      table: 'm.fresh',
    })
  })

  test('is not asked where it is not wanted', async () => {
    expect(await advise('create table m.fresh (at timestamp)')).toEqual([])
  })

  test('has no rule that plinth does not know', async () => {
    for (const rule of Object.keys(SAMPLES))
      expect([...COVERED, ...Object.keys(RULES)]).toContain(rule)
  })

  /** For each of squawk's rules that plinth leaves to its own: what squawk finds, and plinth too. */
  const SAMPLES: Record<string, string> = {
    'adding-foreign-key-constraint':
      'alter table m.rows add constraint f foreign key (size) references m.parents (id)',
    'adding-required-field': 'alter table m.rows add column c int not null',
    'adding-field-with-default': 'alter table m.rows add column c uuid default gen_random_uuid()',
    'ban-drop-column': 'alter table m.rows drop column n',
    'ban-drop-not-null': 'alter table m.rows alter column must drop not null',
    'ban-drop-table': 'drop table m.rows',
    'changing-column-type': 'alter table m.rows alter column size type bigint',
    'constraint-missing-not-valid': 'alter table m.rows add constraint c check (size > 0)',
    'disallowed-unique-constraint': 'alter table m.rows add constraint u unique (n)',
    'renaming-column': 'alter table m.rows rename column n to k',
    'renaming-table': 'alter table m.rows rename to lines',
    'require-concurrent-index-creation': 'create index i on m.rows (n)',
    'require-concurrent-index-deletion': 'drop index m.rows_size_idx',
    'require-concurrent-reindex': 'reindex table m.rows',
    'adding-serial-primary-key-field': 'alter table m.parents add column c serial primary key',
  }
  test.each(Object.entries(SAMPLES))(
    '%s is said by a rule of plinth’s own',
    async (rule, statement) => {
      expect(await reported(statement)).toContain(rule)
      expect((await advise(statement)).length).toBeGreaterThan(0)
    },
  )
})
