import { sql } from 'drizzle-orm'
import { afterAll, describe, expect, test } from 'vitest'
import { type Connection, connect, type Database } from '../../src/database.ts'
import { migrate } from '../../src/migrations/apply.ts'
import { type Catalog, readCatalog } from '../../src/migrations/catalog.ts'
import { compareCatalogs, type Difference } from '../../src/migrations/compare.ts'
import { rollback } from '../../src/testing/database.ts'
import { adminUrl } from '../support/database.ts'
import { DRIFTS, OBJECTS } from '../support/drifts.ts'

async function runAll(db: Database, statements: readonly string[]) {
  for (const statement of statements) await db.execute(sql.raw(statement))
}

async function build(db: Database) {
  await migrate(db)
  await runAll(db, OBJECTS)
}

const ends: (() => Promise<unknown>)[] = []
afterAll(async () => {
  for (const end of ends.reverse()) await end()
})

interface Role {
  name: string
  db: Database
  isSuperuser: boolean
}

const PASSWORD = 'plinth-test'

/** The databases that drift: one for each role that may own one. */
async function makeRoles(): Promise<Role[]> {
  if (!adminUrl) {
    const db = await connect('memory://')
    ends.push(() => db.close())
    return [{ name: 'the embedded database', db, isSuperuser: true }]
  }
  const server = await connect(adminUrl, { maxConnections: 1 })
  ends.push(() => server.close())
  const owner = `plinth_verify_owner_${process.pid}`
  await server.execute(sql.raw(`create role ${owner} login password '${PASSWORD}'`))
  ends.push(() => server.execute(sql.raw(`drop role ${owner}`)))
  const open = async (name: string, as?: string): Promise<Connection> => {
    await server.execute(sql.raw(`create database ${name} ${as ? `owner ${as}` : ''}`))
    ends.push(() => server.execute(sql.raw(`drop database ${name} with (force)`)))
    const url = new URL(adminUrl ?? '')
    url.pathname = `/${name}`
    if (as) {
      const admin = await connect(url.href, { maxConnections: 1 })
      await admin.execute(sql`create extension vector with schema public`)
      await admin.close()
      url.username = as
      url.password = PASSWORD
    }
    const db = await connect(url.href, { maxConnections: 1 })
    ends.push(() => db.close())
    return db
  }
  return [
    { name: 'a superuser', db: await open(`plinth_verify_${process.pid}_a`), isSuperuser: true },
    {
      name: 'a plain owner',
      db: await open(`plinth_verify_${process.pid}_b`, owner),
      isSuperuser: false,
    },
  ]
}

const roles = await makeRoles()
const [first] = roles
if (!first) throw new Error('no database')
for (const { db } of roles) await build(db)
/** Of the first, whose objects have another owner than the second one's. */
const declared: Catalog = await readCatalog(first.db)

const titleOf = ({ change, kind, name }: Difference) => `${change} ${kind} ${name}`

describe.each(roles)('as $name', ({ db, isSuperuser }) => {
  test('finds nothing in an equal database', async () => {
    expect(compareCatalogs(await readCatalog(db), declared)).toEqual([])
  })

  test.each(DRIFTS.filter(([, , needs]) => isSuperuser || !needs))(
    'finds and mends %s',
    async (ddl, finds) => {
      await rollback(db, async (tx) => {
        await runAll(tx, [ddl].flat())
        const differences = compareCatalogs(await readCatalog(tx), declared)
        expect(differences.map(titleOf)).toEqual(expect.arrayContaining([finds].flat()))
        for (const difference of differences) {
          const { change } = difference
          expect(difference.live === undefined).toBe(change === 'missing')
          expect(difference.declared === undefined).toBe(change === 'extra')
        }
        await runAll(
          tx,
          differences.flatMap(({ mend }) => mend),
        )
        expect(compareCatalogs(await readCatalog(tx), declared)).toEqual([])
      })
    },
  )
})
