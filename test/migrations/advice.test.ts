import { describe, expect, test } from 'vitest'
import { type Advice, adviseOn } from '../../src/migrations/advice.ts'
import { LOCKS, type Lock, waitsOf } from '../../src/migrations/locks.ts'
import { knownAfter } from '../../src/migrations/replay.ts'
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

/** Of some advice, by table, the strongest of the locks that it says, and whether one takes long. */
function locksOf(advice: readonly Advice[]) {
  const found: Record<string, { lock: Lock; isLong: boolean }> = {}
  for (const { table, lock, lasts } of advice) {
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
    const rewritten = advice.filter(({ effect }) => effect === 'rewrites').map(({ table }) => table)
    const expected: Record<string, unknown> = {}
    const actual: Record<string, unknown> = {}
    for (const [name, { lock, isRewritten: isNewFile, isScanned }] of Object.entries(measured)) {
      const table = `m.${name}`
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

/** Column types between which the table of rules says what happens. */
const TYPES = [
  'text',
  'varchar',
  'varchar(10)',
  'varchar(20)',
  'char(10)',
  'char(20)',
  'int2',
  'int4',
  'int8',
  'numeric',
  'numeric(8, 2)',
  'numeric(10, 2)',
  'numeric(12, 4)',
  'numeric(10)',
  'float4',
  'float8',
  'date',
  'timestamp',
  'timestamp(3)',
  'timestamptz',
  'timestamptz(3)',
  'timestamptz(6)',
  'time',
  'time(3)',
  'interval',
  'interval(3)',
  'json',
  'jsonb',
  'uuid',
  'bool',
  'bytea',
  'inet',
  'cidr',
  'xml',
  'bit(4)',
  'varbit',
  'varbit(8)',
  'bit(8)',
  'text[]',
  'varchar[]',
  'varchar(10)[]',
  'varchar(20)[]',
  'int4[]',
  'int8[]',
  'timestamptz(3)[]',
  'timestamptz[]',
  'm.mood',
]

describe.runIf(server)('what a change of type rewrites is what the server rewrites', () => {
  test.each(TYPES)('%s', async (from) => {
    const db = server as NonNullable<typeof server>
    const wrong: string[] = []
    let tried = 0
    for (const zone of ['UTC', 'Europe/Berlin']) {
      await runAll(db, [
        `set timezone = '${zone}'`,
        'drop table if exists m.typed',
        `create table m.typed (c ${from})`,
      ])
      const before = await knownAfter([
        { name: 'before', texts: [`create table m.typed (c ${from})`] },
      ])
      for (const to of TYPES) {
        for (const using of ['', ` using c::${to}`]) {
          const statement = `alter table m.typed alter column c type ${to}${using}`
          const measured = await measure(db, 'm', statement).catch(() => undefined)
          // There is no such cast.
          if (!measured) continue
          tried++
          const advice = await adviseOn([statement], { known: before, squawk: false })
          const said = advice.find(({ effect }) => effect === 'rewrites')
          const isSaid =
            said !== undefined && !(zone === 'UTC' && said.message.includes('not where'))
          if (measured.typed?.isRewritten !== isSaid) {
            wrong.push(
              `${from} → ${to}${using} (${zone}): ${isSaid ? 'said to, and does not' : 'rewrites, and was not said to'}`,
            )
          }
        }
      }
    }
    expect(tried).toBeGreaterThan(0)
    expect(wrong).toEqual([])
  })
})
