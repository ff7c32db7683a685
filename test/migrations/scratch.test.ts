import { sql } from 'drizzle-orm'
import { afterAll, describe, expect, test } from 'vitest'
import { type Connection, connect, type Database, rowsOf } from '../../src/database.ts'
import { ScratchError } from '../../src/errors.ts'
import { migrate } from '../../src/migrations/apply.ts'
import { type ScratchOptions, withScratch } from '../../src/migrations/catalog/scratch.ts'
import { type Verification, verify } from '../../src/migrations/catalog/verify.ts'
import { adminUrl } from '../support/database.ts'

const build = async (db: Database) => {
  await db.execute(sql`create schema app`)
  await db.execute(sql`create table app.notes (id integer primary key, title text)`)
  await db.execute(sql`create table app.tmp_one (id integer)`)
}

const ends: (() => Promise<unknown>)[] = []
afterAll(async () => {
  for (const end of ends.reverse()) await end()
})

const server = adminUrl ? await connect(adminUrl, { maxConnections: 2 }) : undefined
if (server) ends.push(() => server.close())

const at = (name: string, user?: string) => {
  const url = new URL(adminUrl ?? '')
  url.pathname = `/${name}`
  if (user) {
    url.username = user
    url.password = 'plinth-test'
  }
  return url.href
}

/** A database of its own, as declared; and how another may be made beside it. */
async function makeLive(right?: 'createdb' | 'nocreatedb') {
  const name = `plinth_live_${process.pid}_${ends.length}`
  if (!server) {
    const db = await connect('memory://')
    ends.push(() => db.close())
    return { db, options: {} }
  }
  const user = right && `${name}_owner`
  if (user) {
    await server.execute(sql.raw(`create role ${user} login ${right} password 'plinth-test'`))
    ends.push(() => server.execute(sql.raw(`drop role ${user}`)))
  }
  await server.execute(sql.raw(`create database ${name} ${user ? `owner ${user}` : ''}`))
  ends.push(() => server.execute(sql.raw(`drop database ${name} with (force)`)))
  const url = at(name, user)
  const db: Connection = await connect(url, { maxConnections: 1 })
  ends.push(() => db.close())
  return { db, options: { url } }
}

const scratches = async () =>
  server
    ? (
        await rowsOf<{ name: string }>(
          server,
          sql`select datname as name from pg_database where datname ~ '^plinth_scratch_\\d{14}_' order by 1`,
        )
      ).map(({ name }) => name)
    : []

const live = await makeLive()
await build(live.db)

const titles = ({ differences }: Verification) =>
  differences.map(({ change, kind, name }) => `${change} ${kind} ${name}`)

describe('verify', () => {
  test('finds nothing in a database that is as declared', async () => {
    expect(await verify(live.db, { ...live.options, build })).toEqual({
      equal: true,
      differences: [],
      operational: [],
    })
  })

  test('finds what differs, and writes nothing', async () => {
    const more = async (db: Database) => {
      await build(db)
      await db.execute(sql`alter table app.notes add column body text`)
      await db.execute(sql`drop table app.tmp_one`)
    }
    const found = await verify(live.db, { ...live.options, build: more })
    expect(found.equal).toBe(false)
    expect(titles(found)).toEqual([
      'missing column app.notes.body',
      'extra table app.tmp_one',
      'extra column app.tmp_one.id',
    ])
    expect(await verify(live.db, { ...live.options, build })).toMatchObject({ equal: true })
  })

  test.each<[string, string[], string[]]>([
    ['a schema', ['app'], []],
    ['a pattern, with all that is a part of it', ['table app.tmp_*'], ['extra table app.notes']],
    [
      'nothing that only looks like it',
      ['table app.notes_', 'ap'],
      ['extra table app.notes', 'extra table app.tmp_one'],
    ],
  ])('ignores %s', async (_, ignore, expected) => {
    const nothing = async (db: Database) => {
      await db.execute(sql`create schema app`)
    }
    const found = await verify(live.db, { ...live.options, build: nothing, ignore })
    expect(
      titles(found)
        .filter((title) => title.startsWith('extra table'))
        .sort(),
    ).toEqual(expected)
    if (ignore[0] === 'app') expect(found.equal).toBe(true)
  })
})

describe('a scratch database', () => {
  const made: string[] = []
  const note = async (db: Database) => {
    const [row] = await rowsOf<{ name: string }>(db, sql`select current_database() as name`)
    made.push(row?.name ?? '')
  }
  const run = (options: ScratchOptions, work: (db: Database) => Promise<unknown> = async () => 1) =>
    withScratch(live.db, note, work, { ...live.options, ...options })
  /** Of those that the test made: other files make theirs beside them. */
  const expectGone = async (count: number) => {
    const names = made.splice(0)
    expect(names).toHaveLength(count)
    if (server) for (const name of names) expect(name).toMatch(/^plinth_scratch_\d{14}_/)
    expect((await scratches()).filter((name) => names.includes(name))).toEqual([])
  }

  test('is empty, is not the database itself, and is gone afterwards', async () => {
    const [tables] = (await run({}, (db) =>
      rowsOf(db, sql`select count(*)::int as count from pg_namespace where nspname = 'app'`),
    )) as { count: number }[]
    expect(tables).toEqual({ count: 0 })
    await expectGone(1)
  })

  test('is gone after an error of either', async () => {
    const fail = async (db: Database) => {
      await note(db)
      throw new RangeError('on purpose')
    }
    await expect(run({}, fail)).rejects.toThrow(RangeError)
    await expect(withScratch(live.db, fail, fail, live.options)).rejects.toThrow(RangeError)
    await expectGone(3)
  })

  test('is gone when it is not waited for any more', async () => {
    const abort = new AbortController()
    const waiting = run({ signal: abort.signal }, async () => {
      abort.abort(new RangeError('stopped'))
      await new Promise(() => {})
    })
    await expect(waiting).rejects.toThrow('stopped')
    await expect(run({ signal: abort.signal })).rejects.toThrow('stopped')
    await expectGone(1)
  })
})

describe.skipIf(!server)('a scratch database of a server', () => {
  const nothing = async () => {}

  test('has the encoding and the collation of the database', async () => {
    const settings = sql`select encoding, datcollate, datctype, datlocprovider from pg_database where datname = current_database()`
    const found = await withScratch(live.db, nothing, (db) => rowsOf(db, settings), live.options)
    expect(found).toEqual(await rowsOf(live.db, settings))
  })

  test('needs to know where', async () => {
    const found = withScratch(live.db, nothing, nothing)
    await expect(found).rejects.toMatchObject({ name: 'ScratchError', reason: 'url' })
  })

  test('is dropped when a crash left it behind, and no other', async () => {
    const [old, recent] = [
      'plinth_scratch_20200101000000_aaaaaaaaaaaa',
      'plinth_scratch_99990101000000_aaaaaaaaaaaa',
    ]
    for (const name of [old, recent]) await server?.execute(sql.raw(`create database ${name}`))
    try {
      await withScratch(live.db, nothing, nothing, live.options)
      const found = await scratches()
      expect([found.includes(old), found.includes(recent)]).toEqual([false, true])
    } finally {
      for (const name of [old, recent])
        await server?.execute(sql.raw(`drop database if exists ${name}`))
    }
  })

  test('is refused to who may not create it, with the way out', async () => {
    const owned = await makeLive('nocreatedb')
    await build(owned.db)
    const refused = verify(owned.db, { ...owned.options, build })
    await expect(refused).rejects.toThrow(ScratchError)
    await expect(refused).rejects.toMatchObject({ reason: 'createdb' })
    const found = await verify(owned.db, { ...owned.options, build, scratchUrl: adminUrl })
    expect(found.differences).toEqual([])
  })

  test('works for a plain owner, and says where an extension is a superuser’s', async () => {
    const owned = await makeLive('createdb')
    await build(owned.db)
    expect(await verify(owned.db, { ...owned.options, build })).toMatchObject({ equal: true })
    const refused = verify(owned.db, {
      ...owned.options,
      build: async (db) => void (await migrate(db)),
    })
    await expect(refused).rejects.toMatchObject({ name: 'ScratchError', reason: 'extension' })
    await expect(refused).rejects.toThrow(/vector.*scratchUrl/)
  })

  test('is of the same major version', async () => {
    const db = await connect('memory://')
    try {
      const version = await rowsOf<{ major: number }>(
        server as Database,
        sql`select current_setting('server_version_num')::int / 10000 as major`,
      )
      const found = withScratch(db, nothing, async () => 'made', { scratchUrl: adminUrl })
      if (version[0]?.major === 18) expect(await found).toBe('made')
      else await expect(found).rejects.toMatchObject({ name: 'ScratchError', reason: 'version' })
    } finally {
      await db.close()
    }
  })
})
