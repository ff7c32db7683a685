import { setTimeout as pause } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import { describe, expect, test } from 'vitest'
import { connect, type Database, rowsOf } from '../../src/database.ts'
import { MigrationError, MigrationStateError } from '../../src/errors.ts'
import { migrate } from '../../src/migrations/apply.ts'
import { begin, isDone } from '../../src/migrations/course.ts'
import { type MigrationSource, readMigrations } from '../../src/migrations/folder.ts'
import type { Direction } from '../../src/migrations/ledger.ts'
import { revert } from '../../src/migrations/revert.ts'
import { migrationStatus } from '../../src/migrations/status.ts'
import { adminUrl } from '../support/database.ts'
import { makeScratch, makeSource } from '../support/scratch.ts'

const one = { up: 'create table public.a (n int);', down: 'drop table public.a;' }
const two = {
  up: `create table public.b ();
-- plinth: step
create table public.c ();
-- plinth: concurrently
create index a_n_idx on public.a (n);
-- plinth: step
create table public.d ();`,
  down: `drop table public.d;
-- plinth: concurrently
drop index public.a_n_idx;
-- plinth: step
drop table public.c;
-- plinth: step
drop table public.b;`,
}
const three = { up: 'create table public.e ();', down: 'drop table public.e;' }

const put = (db: Database, at: number, status: string, step = 0) =>
  db.execute(
    sql`update drizzle.__plinth_migrations set status = ${status}, step = ${step} where name like ${`%_${['one', 'two', 'three'][at]}`}`,
  )

const states = async (db: Database, source: MigrationSource) =>
  (await migrationStatus(db, { sources: [source] })).map(({ state }) => state)

describe('two migrators that go opposite ways', () => {
  async function makeMigrated({ to = '3' } = {}) {
    const { db } = await makeScratch()
    const source = await makeSource({ one, two, three })
    await migrate(db, { sources: [source], to })
    const migrations = await readMigrations([source])
    const passage = (at: number, direction: Direction) => {
      const migration = migrations[at]
      if (!migration) throw new Error('there are three')
      return { migration, migrations, direction }
    }
    return { db, source, passage }
  }

  test('one reverts nothing under what the other has applied', async () => {
    const { db, source, passage } = await makeMigrated()
    const failed = begin(db, passage(1, 'down'))
    await expect(failed).rejects.toBeInstanceOf(MigrationError)
    await expect(failed).rejects.toThrow('three behind it applied')
    expect(await states(db, source)).toEqual(['applied', 'applied', 'applied'])
  })

  test('one applies nothing on what the other has reverted, or half', async () => {
    const { db, passage } = await makeMigrated({ to: '1' })
    await expect(begin(db, passage(2, 'up'))).rejects.toThrow('two before it not applied')
    await migrate(db, { sources: [passage(0, 'up').migration.source], to: '2' })
    await put(db, 1, 'reverting', 1)
    await expect(begin(db, passage(2, 'up'))).rejects.toThrow('two before it not applied')
    await expect(begin(db, passage(1, 'up'))).rejects.toThrow('it half done')
  })

  test('what one has only announced, the other takes back, and the first finds it so', async () => {
    const { db, passage } = await makeMigrated({ to: '2' })
    expect(await begin(db, passage(1, 'down'))).toBe(0)
    expect(await begin(db, passage(2, 'up'))).toBe(0)
    await expect(isDone(db, passage(1, 'down'), 0)).rejects.toThrow('it applied')
    expect(await begin(db, passage(1, 'down'))).toBe(0)
    await expect(isDone(db, passage(2, 'up'), 0)).rejects.toThrow('it reverted')
  })

  test('no step is done before those that come before it', async () => {
    const { db, passage } = await makeMigrated()
    await put(db, 1, 'reverting', 1)
    expect(await isDone(db, passage(1, 'down'), 0)).toBe(true)
    expect(await isDone(db, passage(1, 'down'), 1)).toBe(false)
    await expect(isDone(db, passage(1, 'down'), 2)).rejects.toThrow('it begun anew')
  })

  test.skipIf(!adminUrl)(
    'leave what one more run completes, however they race',
    async () => {
      for (let round = 0; round < 12; round += 1) {
        const { url, db } = await makeScratch({ maxConnections: 2 })
        const source = await makeSource({ one, two, three })
        const sources = [source]
        const callers = await Promise.all(
          Array.from({ length: 4 }, () => connect(url, { maxConnections: 2 })),
        )
        const errors: unknown[] = []
        const race = async (caller: Database) => {
          for (let turn = 0; turn < 4; turn += 1) {
            await pause(Math.random() * 60)
            const runs = [
              () => migrate(caller, { sources }),
              () => migrate(caller, { sources, to: '2' }),
              () => revert(caller, { sources }),
              () => revert(caller, { sources, to: 'nothing' }),
            ]
            await runs[Math.floor(Math.random() * runs.length)]?.().catch((e) => errors.push(e))
          }
        }
        await Promise.all(callers.map(race))
        await Promise.all(callers.map((caller) => caller.close()))
        for (const error of errors) {
          const isKnown = [MigrationError, MigrationStateError].some(
            (kind) => error instanceof kind,
          )
          expect(isKnown, String(error)).toBe(true)
          // Refused, and not by the server.
          expect(String(error)).not.toMatch(/ failed: /)
        }
        if ((await states(db, source)).includes('reverting')) await revert(db, { sources })
        await migrate(db, { sources })
        const tables = await rowsOf<{ name: string }>(
          db,
          sql`select relname as name from pg_class where relnamespace = 'public'::regnamespace order by 1`,
        )
        expect(tables.map(({ name }) => name)).toEqual(['a', 'a_n_idx', 'b', 'c', 'd', 'e'])
      }
    },
    60_000,
  )
})
