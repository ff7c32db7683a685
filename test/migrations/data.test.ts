import { sql } from 'drizzle-orm'
import { describe, expect, test } from 'vitest'
import { connect, type Database, rowsOf } from '../../src/database.ts'
import { MigrationError } from '../../src/errors.ts'
import { migrate } from '../../src/migrations/apply.ts'
import { revert } from '../../src/migrations/revert.ts'
import { migrationStatus } from '../../src/migrations/status.ts'
import { adminUrl } from '../support/database.ts'
import { administer, makeScratch, makeSource, writeMigration } from '../support/scratch.ts'

const ROWS = 2_500
const table = `create table public.notes (team int not null, id int not null, title text not null, slug text, primary key (team, id));
insert into public.notes select n % 3, n, 'Note ' || n from generate_series(1, ${ROWS}) n;`

const module = (change: string, more = '') => `
import { sql } from 'drizzle-orm'
export default {
  table: 'public.notes',
  pending: sql\`slug is null\`,
  batchSize: 400,
  ${more}
  async migrate(tx, rows) {
    ${change}
  },
}`

const slugs = `for (const { team, id, title } of rows) {
      await tx.execute(sql\`update public.notes set slug = \${title.toLowerCase()} where team = \${team} and id = \${id}\`)
    }`
const bulk = `const ids = rows.map(({ id }) => id).join(',')
    await tx.execute(sql.raw(\`update public.notes set slug = lower(title) where id = any('{\${ids}}')\`))`

const left = async (db: Database) =>
  (
    await rowsOf<{ n: number }>(
      db,
      sql`select count(*)::int as n from public.notes where slug is null`,
    )
  )[0]?.n

const second = '20260101000001_second'

describe('a data migration', () => {
  test('brings every row up to date, batch by batch in the order of the key', async () => {
    const { db } = await makeScratch()
    const seen = `globalThis.seen.push(rows.map(({ team, id }) => [team, id]))`
    const source = await makeSource({
      first: table,
      second: { up: '', module: module(`${seen}\n${bulk}`, `columns: ['title'],`) },
    })
    const batches: [number, number][][] = []
    Object.assign(globalThis, { seen: batches })
    const said: string[] = []
    const applied = await migrate(db, {
      sources: [source],
      onProgress: ({ doing }) => doing && said.push(doing),
    })
    expect(applied).toHaveLength(2)
    expect(await left(db)).toBe(0)
    expect(batches.map(({ length }) => length)).toEqual([400, 400, 400, 400, 400, 400, 100])
    const sorted = batches.flat().toSorted(([a, b], [c, d]) => a - c || b - d)
    expect(batches.flat()).toEqual(sorted)
    expect(new Set(batches.flat().map(String)).size).toBe(ROWS)
    expect(said).toContain('800 of 2,500 rows')
  })

  test('gives the rows with the columns that were asked for, and no other', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({
      first: table,
      second: {
        up: '',
        module: module(`globalThis.row ??= rows[0]; ${bulk}`, `columns: ['title'],`),
      },
    })
    await migrate(db, { sources: [source] })
    expect((globalThis as { row?: unknown }).row).toEqual({ team: 0, id: 3, title: 'Note 3' })
  })

  test('goes on where it stopped, and does no row twice', async () => {
    const { db } = await makeScratch()
    const broken = `globalThis.done += rows.length
    if (rows[0].team === 1) throw new Error('the network is gone')
    ${slugs}`
    const source = await makeSource({ first: table, second: { up: '', module: module(broken) } })
    Object.assign(globalThis, { done: 0 })
    await expect(migrate(db, { sources: [source] })).rejects.toThrow('the network is gone')
    const before = (await left(db)) ?? 0
    expect(before).toBeGreaterThan(0)
    expect(before).toBeLessThan(ROWS)
    const [, status] = await migrationStatus(db, { sources: [source] })
    expect(status).toMatchObject({ state: 'failed', error: expect.stringContaining('network') })

    Object.assign(globalThis, { done: 0 })
    await writeMigration(source.folder, second, {
      up: '',
      module: module(`globalThis.done += rows.length\n${bulk}`),
    })
    expect(await migrate(db, { sources: [source] })).toEqual([second])
    expect(await left(db)).toBe(0)
    expect((globalThis as { done?: number }).done).toBe(before)
  })

  test('meets the rows that were written behind it', async () => {
    const { db } = await makeScratch()
    const late = `if (rows[0].team === 2) await tx.execute(sql\`insert into public.notes values (0, 0, 'Late') on conflict do nothing\`)
    ${bulk}`
    const source = await makeSource({ first: table, second: { up: '', module: module(late) } })
    await migrate(db, { sources: [source] })
    expect(await left(db)).toBe(0)
    expect(await rowsOf(db, sql`select slug from public.notes where id = 0`)).toEqual([
      { slug: 'late' },
    ])
  })

  test.each([
    ['that leaves rows pending', module(''), '2,500 rows are still pending'],
    [
      'whose counts differ',
      module(bulk, 'verify: async () => ({ expected: 2500, found: 2499 }),'),
      'verify expected 2500 and found 2499',
    ],
    [
      'of a table that is not there',
      module(bulk).replace('public.notes', 'public.nothing'),
      'does not exist',
    ],
    ['by a key that is none', module(bulk, "key: ['title'],"), 'no unique index on (title)'],
    ['of another form', 'export default { up() {} }', 'must export by default'],
    [
      'with a batch of no size',
      module(bulk, 'batchSize: 0,').replace('batchSize: 400,', ''),
      'batchSize',
    ],
  ])('refuses one %s, and leaves it to be mended', async (_, text, problem) => {
    const { db } = await makeScratch()
    const source = await makeSource({ first: table, second: { up: '', module: text } })
    const refused = migrate(db, { sources: [source] })
    await expect(refused).rejects.toThrow(problem)
    await expect(refused).rejects.toThrow(MigrationError)
    await writeMigration(source.folder, second, { up: '', module: module(bulk) })
    expect(await migrate(db, { sources: [source] })).toEqual([second])
    expect(await left(db)).toBe(0)
  })

  test('runs after the SQL of its migration, and is undone by its down', async () => {
    const { db } = await makeScratch()
    const down = `down: {
    table: 'public.notes', pending: sql\`slug is not null\`,
    migrate: (tx, rows) => tx.execute(sql\`update public.notes set slug = null where slug is not null\`),
  },`
    const source = await makeSource({
      first: table,
      second: {
        up: 'alter table public.notes add column done boolean;',
        down: 'alter table public.notes drop column done;',
        module: module(bulk, down),
      },
    })
    await migrate(db, { sources: [source] })
    expect(await left(db)).toBe(0)
    expect(await revert(db, { sources: [source] })).toEqual([second])
    expect(await left(db)).toBe(ROWS)
    expect(await migrate(db, { sources: [source] })).toEqual([second])
  })
})

describe.skipIf(!adminUrl)('on a server', () => {
  test('a plain owner migrates every row under row level security, and is refused where rows hide', async () => {
    const name = `plinth_data_owner_${process.pid}`
    await administer(`create role ${name} login password 'plinth-test'`)
    const { url, db: admin, close } = await makeScratch({ owner: name })
    try {
      const mine = Object.assign(new URL(url), { username: name, password: 'plinth-test' })
      const db = await connect(mine.href, { maxConnections: 2 })
      await admin.execute(sql.raw(`grant create on schema public to ${name}`))
      const source = await makeSource({
        first: `${table} alter table public.notes enable row level security;`,
        second: { up: 'alter table public.notes force row level security;', module: module(bulk) },
      })
      await expect(migrate(db, { sources: [source] })).rejects.toThrow('row level security hides')
      expect(await left(admin)).toBe(ROWS)
      await db.execute(sql`alter table public.notes no force row level security`)
      expect(await migrate(db, { sources: [source] })).toEqual([second])
      expect(await left(admin)).toBe(0)
      await db.close()
    } finally {
      await close()
      await administer(`drop role ${name}`)
    }
  })

  test('several migrators share the batches, and each row is done once', async () => {
    const { url, db } = await makeScratch()
    const counted = `await tx.execute(sql\`insert into public.visits select unnest(string_to_array(\${rows.map(({ id }) => id).join(',')}, ',')::int[])\`)
    ${bulk}`
    const source = await makeSource({
      first: `${table} create table public.visits (id int);`,
      second: { up: '', module: module(counted).replace('batchSize: 400', 'batchSize: 50') },
    })
    const callers = await Promise.all([1, 2, 3, 4].map(() => connect(url, { maxConnections: 2 })))
    const applied = await Promise.all(callers.map((one) => migrate(one, { sources: [source] })))
    await Promise.all(callers.map((one) => one.close()))
    expect(applied.flat()).toHaveLength(2)
    expect(await left(db)).toBe(0)
    expect(
      await rowsOf(
        db,
        sql`select count(*)::int as n, count(distinct id)::int as ids from public.visits`,
      ),
    ).toEqual([{ n: ROWS, ids: ROWS }])
  })
})
