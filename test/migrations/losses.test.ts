import { describe, expect, test } from 'vitest'
import { countLosses, lossesOf } from '../../src/migrations/advice/losses.ts'
import { makePglite, makeServerDatabase, runAll } from '../support/scratch.ts'

const SETUP = [
  'create schema m',
  'create schema n',
  `create type m.mood as enum ('calm', 'merry')`,
  'create table m.rows (id int, name varchar(20), size int, mood m.mood)',
  `insert into m.rows values (1, 'one', null, 'calm'), (2, null, null, 'merry'), (3, 'three', 3, 'merry')`,
  'create table m."Odd ""name""" (id int)',
  'insert into m."Odd ""name""" values (1)',
  'create table m.logs (id int, at date) partition by range (at)',
  `create table n.logs_1 partition of m.logs for values from ('2026-01-01') to ('2026-02-01')`,
  `create table n.logs_2 partition of m.logs for values from ('2026-02-01') to ('2026-03-01')`,
  `insert into m.logs values (1, '2026-01-02'), (2, '2026-02-02')`,
  'create materialized view m.sizes as select id from m.rows',
]
const db = (await makeServerDatabase()) ?? (await makePglite())
await runAll(db, SETUP)

/** What a script loses: each with its count. */
async function lost(...texts: string[]) {
  const counted = await countLosses(db, await lossesOf(texts))
  return counted.map(({ kind, schema, name, table, count }) =>
    [
      kind,
      [schema, table === name ? undefined : table, name].filter(Boolean).join('.'),
      count,
    ].join(' '),
  )
}

describe('what a script loses', () => {
  const cases: [script: string, losses: string[]][] = [
    ['drop table m.rows, m."Odd ""name"""', ['table m.rows 3', 'table m.Odd "name" 1']],
    ['drop table m.logs', ['table m.logs 2']],
    ['drop table n.logs_1', ['table n.logs_1 1']],
    ['drop table if exists m.gone', ['table m.gone 0']],
    ['drop materialized view m.sizes', ['materialized view m.sizes 3']],
    ['drop schema m cascade', ['schema m 6']],
    ['drop schema n cascade', ['schema n 2']],
    ['drop schema gone', ['schema gone 0']],
    [
      'alter table m.rows drop column name, drop column size',
      ['column m.rows.name 2', 'column m.rows.size 1'],
    ],
    ['alter table m.rows drop column gone', ['column m.rows.gone 0']],
    ['alter table m.gone drop column name', ['column m.gone.name 0']],
    ['drop type m.mood cascade', ['type m.mood 3']],
    ['drop type m.mood', ['type m.mood 0']],
    ['truncate m.rows', ['rows m.rows 3']],
    ['delete from m.rows', ['rows m.rows 3']],
    [
      `delete from m.rows where id in (select id from m.rows where name = 'one') returning id`,
      ['rows m.rows 1'],
    ],
    ['update m.rows set size = null where size > 2', ['values m.rows 1']],
    ['alter table m.rows alter column name type varchar(2)', ['values m.rows.name 2']],
    ['alter table m.rows alter column name type text', ['values m.rows.name 0']],
    ['alter table m.rows alter column size type bigint', ['values m.rows.size 0']],
    ['alter table m.rows alter column size type smallint', ['values m.rows.size 1']],
    ['create table m.fresh (id int)', []],
    ['alter table m.rows add column extra int', []],
    ['drop index m.i', []],
    ['drop view m.v', []],
    ['drop function m.f()', []],
    ['drop extension vector', ['extension vector 0']],
  ]
  test.each(cases)('%s', async (script, losses) => {
    expect(await lost(script)).toEqual(losses)
  })

  test('is nothing of what it has made itself', async () => {
    expect(
      await lost(
        'create table m.fresh (id int)',
        'alter table m.fresh drop column id',
        'truncate m.fresh',
        'drop table m.fresh',
        `create type m.new as enum ('a')`,
        'drop type m.new',
      ),
    ).toEqual([])
  })

  test('is the labels that an enum is left without', async () => {
    const found = await lost(
      'alter table m.rows alter column mood type text',
      'drop type m.mood',
      `create type m.mood as enum ('calm', 'other')`,
      'alter table m.rows alter column mood type m.mood using mood::m.mood',
    )
    expect(found).toContain('values m.mood 2')
    const renamed = await lost(
      'alter type m.mood rename to old',
      `create type m.mood as enum ('merry')`,
    )
    expect(renamed).toEqual(['values m.mood 1'])
  })
})
