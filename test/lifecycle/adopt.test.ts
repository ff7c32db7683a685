import { sql } from 'drizzle-orm'
import { test as base, describe, expect } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { ForbiddenError, NotFoundError, ValidationError } from '../../src/errors.ts'
import { type AdoptVectorsOptions, adoptVectors } from '../../src/lifecycle/adopt.ts'
import { listChunks } from '../../src/queries/chunks.ts'
import { embeddingDrift } from '../../src/queries/drift.ts'
import { search } from '../../src/queries/search.ts'
import { indexSource } from '../../src/queries/sources.ts'
import { activateSpace, createSpace, spaceCoverage } from '../../src/queries/spaces.ts'
import type { Tenant } from '../../src/tenant.ts'
import { inTenant } from '../../src/tenant.ts'
import { rollback } from '../../src/testing/database.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { owner, root, url } from '../support/own-database.ts'

const test = base.extend<{ db: Database }>({
  // biome-ignore lint/correctness/noEmptyPattern: Vitest reads the fixture's dependencies from this pattern
  db: async ({}, use) => {
    await rollback(owner, async (tx) => use(tx))
  },
})

/** A table of somebody's own, and a space for its vectors. */
async function setup(db: Database, { rows = 7, type = 'public.vector(2)' } = {}) {
  const purpose = crypto.randomUUID()
  const space = await createSpace(db, {
    ...{ provider: 'x', model: 'y', dimensions: 2, purpose, index: 'later' },
  })
  const scope = await makeScope(db)
  const { organizationId, userId } = scope
  await db.execute(sql`create schema legacy`)
  await db.execute(sql`create table legacy."My Items" (id bigint primary key, org uuid, author uuid, body text,
    vec ${sql.raw(type)}, extra jsonb, "writtenAt" timestamptz)`)
  await db.execute(sql`
    insert into legacy."My Items"
    select n, ${organizationId}::uuid, ${userId}::uuid, 'text ' || n, ('[1,' || n || ']')::public.vector::${sql.raw(type)},
      json_build_object('n', n)::jsonb, '2024-01-01'
    from generate_series(1, ${rows}::integer) n`)
  const options: AdoptVectorsOptions = {
    ...{ space, table: 'legacy.My Items', sourceType: 'item', batchSize: 3 },
    columns: { organizationId: 'org', id: 'id', content: 'body', embedding: 'vec' },
  }
  return { space, scope, options }
}

const idsOf = async (tenant: Tenant) =>
  (
    await rowsOf<{ id: string }>(
      tenant.db,
      sql`select source_id as id from search.chunks where source_type = 'item' order by source_id`,
    )
  ).map(({ id }) => id)

const NONE = { incomplete: 0, tooLong: 0, dimensions: 0, notFinite: 0, zero: 0, changed: 0 }

describe('adoptVectors', () => {
  test.for(['public.vector(2)', 'public.halfvec(2)', 'real[]'])(
    'makes a space of a column of %s',
    async (type, { db }) => {
      const { space, scope, options } = await setup(db, { type })
      const progress: number[] = []

      const adopted = await adoptVectors(db, {
        ...{ ...options, onProgress: ({ rows }) => progress.push(rows) },
      })

      expect(adopted).toEqual({ rows: 7, chunks: 7, vectors: 7, skipped: NONE, last: ['7'] })
      expect(progress).toEqual([3, 6, 7])
      expect(await spaceCoverage(db, space.id)).toMatchObject({ chunks: 7, missing: 0 })
      const { missing, stale, ...rest } = await embeddingDrift(db, { spaceId: space.id })
      expect(Object.values({ missing, stale, ...rest }).map(({ count }) => count)).toEqual(
        new Array(6).fill(0),
      )
      await activateSpace(db, space.id)
      const { matches } = await inTenant(db, scope, (tenant) =>
        search(tenant, { space, embedding: [1, 5], limit: 1 }),
      )
      expect(matches).toMatchObject([{ sourceType: 'item', sourceId: '5', content: 'text 5' }])
    },
  )

  test('adds nothing twice, and what has come since', async ({ db }) => {
    const { scope, options } = await setup(db)
    await adoptVectors(db, options)
    await db.execute(sql`insert into legacy."My Items" (id, org, body, vec)
      values (8, ${scope.organizationId}, 'text 8', '[1,8]')`)

    expect(await adoptVectors(db, options)).toMatchObject({ rows: 8, chunks: 1, vectors: 1 })
    expect(await adoptVectors(db, { ...options, after: ['7'] })).toMatchObject({
      ...{ rows: 1, chunks: 0, vectors: 0, last: ['8'] },
    })
  })

  test('goes on where it was interrupted', async ({ db }) => {
    const { scope, options } = await setup(db)
    const abort = new AbortController()
    let last: string[] | undefined
    const adopting = adoptVectors(db, {
      ...{ ...options, signal: abort.signal },
      onProgress: (progress) => {
        last = progress.last
        abort.abort(new Error('enough'))
      },
    })
    await expect(adopting).rejects.toThrow('enough')
    expect(await inTenant(db, scope, idsOf)).toEqual(['1', '2', '3'])

    expect(await adoptVectors(db, { ...options, after: last })).toMatchObject({
      rows: 4,
      chunks: 4,
    })

    expect(await inTenant(db, scope, idsOf)).toHaveLength(7)
  })

  test('keeps owner, metadata and time', async ({ db }) => {
    const { scope, options } = await setup(db, { rows: 1 })
    const columns = { ownerId: 'author', metadata: 'extra', occurredAt: 'writtenAt' }
    await adoptVectors(db, {
      ...{ ...options, visibility: 'private', columns: { ...options.columns, ...columns } },
    })

    const [chunk] = await inTenant(db, scope, (tenant) =>
      listChunks(tenant, { sourceType: 'item', sourceId: '1' }),
    )

    expect(chunk).toMatchObject({
      ...{ ownerId: scope.userId, visibility: 'private', metadata: { n: 1 }, tokenCount: 2 },
      occurredAt: new Date('2024-01-01T00:00:00Z'),
    })
  })

  test('counts what it cannot take', async ({ db }) => {
    const { space, scope, options } = await setup(db, { rows: 1, type: 'real[]' })
    const { organizationId } = scope
    const { purpose } = space
    const bad: [string | null, string | null, string | null][] = [
      [organizationId, 'a', '{1,2,3}'],
      [organizationId, 'a', '{}'],
      [organizationId, 'a', '{NaN,1}'],
      [organizationId, 'a', '{1,null}'],
      [organizationId, 'a', '{1,Infinity}'],
      [organizationId, 'a', '{70000,1}'],
      [organizationId, 'a', '{0,0}'],
      [organizationId, 'a', '{1e-9,0}'],
      [organizationId, 'a', null],
      [organizationId, '', '{1,2}'],
      [organizationId, null, '{1,2}'],
      [organizationId, 'x'.repeat(500_001), '{1,2}'],
      [crypto.randomUUID(), 'a', '{1,2}'],
      [null, 'a', '{1,2}'],
    ]
    for (const [at, [org, body, vec]] of bad.entries()) {
      await db.execute(sql`insert into legacy."My Items" (id, org, body, vec)
        values (${100 + at}, ${org}::uuid, ${body}::text, ${vec}::text::real[])`)
    }
    await inTenant(db, scope, (tenant) =>
      indexSource(tenant, { sourceType: 'item', sourceId: '1', text: 'another', purpose }),
    )

    expect(await adoptVectors(db, options)).toMatchObject({
      ...{ rows: 15, chunks: 0, vectors: 0 },
      skipped: { incomplete: 5, tooLong: 1, dimensions: 2, notFinite: 4, zero: 2, changed: 1 },
    })
  })

  test('takes the vectors of a second model for chunks that are there', async ({ db }) => {
    const { space, options } = await setup(db)
    await adoptVectors(db, options)
    const { purpose } = space
    const second = await createSpace(db, {
      ...{ provider: 'x', model: 'z', dimensions: 2, purpose, index: 'later' },
    })

    expect(await adoptVectors(db, { ...options, space: second })).toMatchObject({
      ...{ chunks: 0, vectors: 7 },
    })
    expect(await spaceCoverage(db, second.id)).toMatchObject({ missing: 0 })
  })

  test('takes ids that are unique in the organization only', async ({ db }) => {
    const { scope, options } = await setup(db, { rows: 2 })
    const other = await makeScope(db)
    await db.execute(sql`alter table legacy."My Items" drop constraint "My Items_pkey"`)
    await expect(adoptVectors(db, options)).rejects.toBeInstanceOf(ValidationError)
    await db.execute(sql`create unique index on legacy."My Items" (org, id)`)
    await db.execute(sql`insert into legacy."My Items" select id, ${other.organizationId}, null, body, vec
      from legacy."My Items"`)

    expect(await adoptVectors(db, { ...options, batchSize: 1 })).toMatchObject({
      rows: 4,
      chunks: 4,
    })

    expect(await inTenant(db, scope, idsOf)).toEqual(['1', '2'])
    expect(await inTenant(db, other, idsOf)).toEqual(['1', '2'])
  })

  test('refuses what it cannot serve', async ({ db }) => {
    const { options } = await setup(db, { rows: 1 })
    const { columns } = options
    const refused: Partial<AdoptVectorsOptions>[] = [
      { table: 'items' },
      { table: 'legacy.nothing' },
      { columns: { ...columns, content: 'nothing' } },
      { columns: { ...columns, embedding: 'body' } },
      { columns: { ...columns, organizationId: 'id' } },
      { columns: { ...columns, id: '' } },
      { batchSize: 0 },
      { sourceType: '' },
      { visibility: 'private' },
      { after: [] },
      { space: { id: 'x' } },
    ]
    for (const one of refused) {
      const adopting = adoptVectors(db, { ...options, ...one })
      await expect(adopting).rejects.toBeInstanceOf(ValidationError)
    }
    const unknown = adoptVectors(db, { ...options, space: { id: crypto.randomUUID() } })
    await expect(unknown).rejects.toBeInstanceOf(NotFoundError)
  })

  base.skipIf(!url)('is for the owner of the tables', async () => {
    const name = `public.vectors_${crypto.randomUUID().slice(0, 8)}`
    await owner.execute(
      sql.raw(`create table ${name} (id int primary key, org uuid, body text, vec real[])`),
    )
    await owner.execute(sql.raw(`grant select on ${name} to public`))
    const space = await createSpace(owner, {
      ...{ provider: 'x', model: 'y', dimensions: 2, purpose: crypto.randomUUID() },
    })
    const columns = { organizationId: 'org', id: 'id', content: 'body', embedding: 'vec' }

    const adopting = adoptVectors(root, { space, table: name, columns, sourceType: 'x' })

    await expect(adopting).rejects.toBeInstanceOf(ForbiddenError)
    await owner.execute(sql.raw(`drop table ${name}`))
  })
})
