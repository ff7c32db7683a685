import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { test as base, inject } from 'vitest'
import { connect, type Database } from '../../src/database.ts'
import { createTestDatabase, rollback } from '../../src/testing/database.ts'

/** Of the server, as the login of a service; undefined on PGlite. */
export const url = inject('url')
/** Of the server, as a superuser; undefined on PGlite. */
export const adminUrl = inject('adminUrl')

async function open(): Promise<Database> {
  if (!url) return (await createTestDatabase()).db
  // The same suite on another driver: any Drizzle database may be passed in.
  if (process.env.PLINTH_TEST_DRIVER === 'node-postgres') {
    const client = new pg.Pool({ connectionString: url, max: 4 })
    return drizzle({ client })
  }
  return connect(url, { maxConnections: 4 })
}

/** The database itself, for what a rolled-back transaction cannot show. It keeps what it is given. */
export const root = await open()

/** The same as its owner: a superuser's session on the server, and on PGlite the only one there is. */
export const owner = adminUrl ? await connect(adminUrl, { maxConnections: 2 }) : root

/** A test with a database of its own: the real migrations, and a transaction that is rolled back. */
export const test = base.extend<{ db: Database }>({
  // biome-ignore lint/correctness/noEmptyPattern: Vitest reads the fixture's dependencies from this pattern
  db: async ({}, use) => {
    await rollback(root, async (tx) => use(tx))
  },
})
