import { sql } from 'drizzle-orm'
import { expect, test } from 'vitest'
import { rowsOf } from '../../src/database.ts'
import { inTenant } from '../../src/tenant.ts'
import { createTestDatabase } from '../../src/testing/database.ts'
import { makeScope, unitVector } from '../../src/testing/factories.ts'
import { makeEmbedding, makeSpace } from '../../src/testing/search.ts'

test('a test database is migrated, its own, and clean again after a rollback or a reset', async () => {
  await using one = await createTestDatabase()
  await using other = await createTestDatabase()
  const organizations = async (db: typeof one.db) =>
    (await rowsOf(db, sql`select id from identity.organizations`)).length

  const inside = await one.rollback(async (db) => {
    await makeScope(db)
    return organizations(db)
  })
  expect([inside, await organizations(one.db)]).toEqual([1, 0])
  await expect(one.rollback(() => Promise.reject(new Error('mine')))).rejects.toThrow('mine')

  const scope = await makeScope(one.db)
  const space = await makeSpace(one.db)
  await inTenant(one.db, scope, (tenant) => makeEmbedding(tenant, { space }))
  expect([await organizations(one.db), await organizations(other.db)]).toEqual([1, 0])

  await one.reset()
  expect(await organizations(one.db)).toBe(0)
  const partitions = sql`select 1 from pg_class where relname like 'embeddings\\_%' and relkind = 'r'`
  expect(await rowsOf(one.db, partitions)).toEqual([])
  // And usable again, foreign keys included.
  await makeScope(one.db)
  await expect(
    rowsOf(
      one.db,
      sql`insert into identity.memberships (organization_id, user_id)
      values (gen_random_uuid(), gen_random_uuid())`,
    ),
  ).rejects.toMatchObject({ kind: 'foreign_key' })
})

test('what a project prepares is in every database that is made so', async () => {
  let times = 0
  const prepare = async (db: Parameters<typeof makeScope>[0]) => {
    times += 1
    await db.execute(sql`create table notes (id integer primary key)`)
  }
  for (const _ of [1, 2]) {
    const { db, close } = await createTestDatabase({ prepare })
    expect(await rowsOf(db, sql`select * from notes`)).toEqual([])
    await close()
  }
  expect(times).toBe(1)
})

test('unit vectors are of length 1, repeatable, and apart', () => {
  const [one, two] = [unitVector(1, 384), unitVector(2, 384)]
  const dot = (a: number[], b: number[]) => a.reduce((sum, x, at) => sum + x * (b[at] ?? 0), 0)

  expect(unitVector(1, 384)).toEqual(one)
  expect(dot(one, one)).toBeCloseTo(1, 10)
  expect(Math.abs(dot(one, two))).toBeLessThan(0.2)
})
