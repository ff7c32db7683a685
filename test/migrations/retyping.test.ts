import { sql } from 'drizzle-orm'
import { describe, expect, test } from 'vitest'
import { rowsOf } from '../../src/database.ts'
import { adviseOn } from '../../src/migrations/advice/advice.ts'
import { knownAfter } from '../../src/migrations/advice/replay.ts'
import { measure } from '../support/measured.ts'
import { makeServerDatabase, runAll } from '../support/scratch.ts'

const server = await makeServerDatabase()
if (server)
  await runAll(server, ['create schema m', `create type m.mood as enum ('calm', 'merry')`])

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

/** Values at the edge of what each type holds. */
const EDGES: Record<string, string[]> = {
  text: ['', 'a longer text than ten'],
  varchar: ['', 'a longer text than ten'],
  'varchar(10)': ['0123456789'],
  'varchar(20)': ['01234567890123456789'],
  int2: ['32767', '-32768'],
  int4: ['2147483647', '-2147483648'],
  int8: ['9223372036854775807'],
  numeric: ['1e40', '0.123456789'],
  'numeric(8, 2)': ['999999.99'],
  'numeric(10, 2)': ['99999999.99'],
  'numeric(12, 4)': ['99999999.9999'],
  'numeric(10)': ['9999999999'],
  float4: ['3.4e38', '0.1'],
  float8: ['1e300', '0.1'],
  date: ['2026-02-03'],
  timestamp: ['2026-02-03 04:05:06.123456'],
  'timestamp(3)': ['2026-02-03 04:05:06.123'],
  timestamptz: ['2026-02-03 04:05:06.123456+00'],
  'timestamptz(3)': ['2026-02-03 04:05:06.123+00'],
  'timestamptz(6)': ['2026-02-03 04:05:06.123456+00'],
  time: ['04:05:06.123456'],
  'time(3)': ['04:05:06.123'],
  interval: ['1 year 00:00:01.123456'],
  'interval(3)': ['1 year 00:00:01.123'],
  json: ['{"b": 1, "a": 2, "a": 3}'],
  jsonb: ['{"b": 1, "a": 2}'],
  uuid: ['0190163d-8694-739b-aea5-966c26f8ad91'],
  bool: ['true'],
  inet: ['10.0.0.1/8'],
  cidr: ['10.0.0.0/8'],
  'bit(4)': ['1010'],
  'bit(8)': ['10101010'],
  varbit: ['1010101010'],
  'varbit(8)': ['10101010'],
  'text[]': ['{a longer text than ten}'],
  'varchar(10)[]': ['{0123456789}'],
  'varchar(20)[]': ['{01234567890123456789}'],
  'int4[]': ['{2147483647}'],
  'timestamptz(3)[]': ['{2026-02-03 04:05:06.123+00}'],
  'timestamptz[]': ['{2026-02-03 04:05:06.123456+00}'],
  'm.mood': ['merry'],
}

describe.runIf(server)('what a change of type keeps is what the server keeps', () => {
  test.each(Object.entries(EDGES))('%s', async (from, values) => {
    const db = server as NonNullable<typeof server>
    const texts = [`create table m.edges (c ${from})`]
    const before = await knownAfter([{ name: 'before', texts }])
    const broken: string[] = []
    let kept = 0
    for (const to of TYPES) {
      const statement = `alter table m.edges alter column c type ${to} using c::${to}`
      const advice = await adviseOn([statement], { known: before, squawk: false })
      if (advice.some(({ effect }) => effect === 'loses' || effect === 'fails')) continue
      kept++
      for (const value of values) {
        await runAll(db, [
          'drop table if exists m.edges',
          ...texts,
          `insert into m.edges values ('${value}')`,
        ])
        const read = () =>
          rowsOf<{ c: string }>(db, sql.raw(`select c::${from}::text as c from m.edges`))
        const had = await read()
        const now = await runAll(db, [statement]).then(read, (error) => String(error.cause))
        if (JSON.stringify(now) !== JSON.stringify(had)) {
          broken.push(`${value}: ${from} → ${to}: ${JSON.stringify(now)}`)
        }
      }
    }
    // At least into itself.
    expect(kept).toBeGreaterThan(0)
    expect(broken).toEqual([])
  })
})
