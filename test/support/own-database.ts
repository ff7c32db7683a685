import { afterAll, test as base } from 'vitest'
import { connect, type Database } from '../../src/database.ts'
import { migrate } from '../../src/migrations/apply.ts'
import { rollback } from '../../src/testing/database.ts'
import * as shared from './database.ts'
import { makeScratch } from './scratch.ts'

// To make and drop partitions takes locks that other files' transactions would wait for, and these for
// theirs: a file of such tests has a database of its own on the server. On PGlite each has one anyway.

const scratch = shared.adminUrl ? await makeScratch() : undefined
if (scratch) await migrate(scratch.db)

const at = (url: string | undefined) =>
  url && scratch && Object.assign(new URL(url), { pathname: new URL(scratch.url).pathname }).href

/** As in database.ts, of the file's own database. */
export const url = at(shared.url)
export const adminUrl = at(shared.adminUrl)
const opened = url ? await connect(url, { maxConnections: 8 }) : undefined
export const root: Database = opened ?? shared.root
export const owner: Database = scratch?.db ?? shared.owner

afterAll(() => opened?.close())

export const test = base.extend<{ db: Database }>({
  // biome-ignore lint/correctness/noEmptyPattern: Vitest reads the fixture's dependencies from this pattern
  db: async ({}, use) => {
    await rollback(root, async (tx) => use(tx))
  },
})
