import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { Database } from '../../src/database.ts'
import { migrate } from '../../src/migrations/apply.ts'
import type { MigrationSource } from '../../src/migrations/folder.ts'
import { migrationStatus } from '../../src/migrations/status.ts'
import { adminUrl } from '../support/database.ts'
import { makeScratch, makeSource, writeMigration } from '../support/scratch.ts'

const first = '20260101000000_first'
const second = '20260101000001_second'
const third = '20260101000002_third'

const table = { up: 'create table public.a (id int primary key);', down: 'drop table public.a;' }

const states = async (db: Database, source: MigrationSource) =>
  Object.fromEntries(
    (await migrationStatus(db, { sources: [source] })).map(({ name, state }) => [name, state]),
  )

describe('what a failure left', () => {
  test('steps that were taken out behind those that are done end it', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({
      first: `${table.up}\n--> statement-breakpoint\n-- plinth: step\nselect 1 / 0;`,
    })
    await expect(migrate(db, { sources: [source] })).rejects.toThrow(/step 2 of 2/)
    await writeMigration(source.folder, first, table)
    expect(await migrate(db, { sources: [source] })).toEqual([first])
    expect(await states(db, source)).toEqual({ [first]: 'applied' })
  })

  test('one that failed with nothing done may be removed, or renamed', async () => {
    const { db } = await makeScratch()
    const source = await makeSource({ first: table, second: 'select 1 / 0;' })
    await expect(migrate(db, { sources: [source] })).rejects.toThrow(/division/)
    await rename(join(source.folder, second), join(source.folder, third))
    expect(await states(db, source)).toEqual({ [first]: 'applied', [third]: 'pending' })
    await rm(join(source.folder, third), { recursive: true })
    expect(await migrate(db, { sources: [source] })).toEqual([])
  })

  test.skipIf(!adminUrl)('an index that cannot be built may be mended in its text', async () => {
    const { db } = await makeScratch()
    const index = '-- plinth: concurrently\ncreate index a_i on public.a '
    const source = await makeSource({ first: table, second: `${index}(missing);` })
    await expect(migrate(db, { sources: [source] })).rejects.toThrow(/missing/)
    await writeMigration(source.folder, second, `${index}(id);`)
    expect(await migrate(db, { sources: [source] })).toEqual([second])
  })
})
