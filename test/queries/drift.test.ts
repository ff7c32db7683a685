import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { hashingModel } from '../../src/embedding.ts'
import { NotFoundError, ValidationError } from '../../src/errors.ts'
import { type EmbeddingDrift, embeddingDrift, repairEmbeddings } from '../../src/queries/drift.ts'
import { runEmbeddingJobs } from '../../src/queries/embedding-jobs.ts'
import { fillSpace } from '../../src/queries/filling.ts'
import { spaceCoverage } from '../../src/queries/spaces.ts'
import { asService, inTenant } from '../../src/tenant.ts'
import { rollback } from '../../src/testing/database.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { makeChunk, makeEmbedding, makeSpace } from '../../src/testing/search.ts'
import { owner, test } from '../support/own-database.ts'

const model = hashingModel({ dimensions: 16 })

/** A space with the vectors of four chunks in it. */
async function setup(db: Database) {
  const space = await makeSpace(db, {
    ...{ provider: model.provider, model: model.modelId, dimensions: 16, index: 'later' },
  })
  const scope = await makeScope(db)
  const chunks = await inTenant(db, scope, async (tenant) => {
    const made = []
    for (const content of ['alpha', 'beta', 'gamma', 'delta']) {
      made.push(await makeChunk(tenant, { content, purpose: space.purpose }))
    }
    return made
  })
  await fillSpace(db, { space, model })
  const spaceId = space.id
  const [first] = chunks
  const { organizationId } = scope
  const sample = [{ organizationId, chunkId: first?.id }]
  /** Breaks the first chunk, or its vector. */
  const breaking = (statement: string) =>
    asService(db, scope.organizationId, (tenant) =>
      tenant.db.execute(
        sql.raw(
          statement.replaceAll(':chunk', `'${first?.id}'`).replaceAll(':space', `'${spaceId}'`),
        ),
      ),
    )
  return { space, spaceId, scope, sample, breaking, chunks }
}

const NONE = { count: 0, samples: [] }
const CLEAN: EmbeddingDrift = {
  ...{ missing: NONE, stale: NONE, orphaned: NONE },
  ...{ misfiled: NONE, wrongDimension: NONE, zero: NONE },
}

const vectors = 'search.embeddings'
const breakages: [keyof EmbeddingDrift, string, object][] = [
  ['missing', `delete from ${vectors} where chunk_id = :chunk`, { enqueued: 1 }],
  [
    'stale',
    `update search.chunks set content = 'new', content_hash = sha256('new') where id = :chunk`,
    { enqueued: 1, deleted: 0 },
  ],
  [
    'orphaned',
    `update search.chunks set purpose = 'another' where id = :chunk`,
    { deleted: 1, enqueued: 0 },
  ],
  [
    'misfiled',
    `update search.chunks set visibility = 'private' where id = :chunk`,
    { refiled: 1, enqueued: 0 },
  ],
  ['misfiled', `update ${vectors} set source_type = 'x' where chunk_id = :chunk`, { refiled: 1 }],
  [
    'zero',
    `update ${vectors} set embedding = '[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]' where chunk_id = :chunk`,
    { deleted: 1, enqueued: 1 },
  ],
]

describe('embeddingDrift and repairEmbeddings', () => {
  test.for(breakages)('find and mend what is %s', async ([kind, statement, mended], { db }) => {
    const { space, spaceId, sample, breaking } = await setup(db)
    expect(await embeddingDrift(db, { spaceId })).toEqual(CLEAN)
    await breaking(statement)

    const drift = await embeddingDrift(db, { spaceId })
    expect(drift).toEqual({ ...CLEAN, [kind]: { count: 1, samples: sample } })

    expect(await repairEmbeddings(db, { spaceId })).toMatchObject(mended)
    expect(await embeddingDrift(db, { spaceId })).toEqual(CLEAN)
    expect(await repairEmbeddings(db, { spaceId })).toEqual({
      ...{ deleted: 0, refiled: 0, revived: 0, enqueued: 0 },
    })
    await runEmbeddingJobs(db, { space, model })
    expect(await spaceCoverage(db, spaceId)).toMatchObject({ missing: 0, pending: 0 })
  })

  test('keep a stale vector until the next one is there', async ({ db }) => {
    const { spaceId, scope, breaking } = await setup(db)
    await breaking(`update ${vectors} set content_hash = sha256('old') where chunk_id = :chunk`)

    await repairEmbeddings(db, { spaceId })

    expect(await spaceCoverage(db, spaceId)).toMatchObject({ embedded: 3, missing: 1, pending: 1 })
    const kept = await inTenant(db, scope, (tenant) =>
      rowsOf(tenant.db, sql`select 1 from search.embeddings where space_id = ${spaceId}`),
    )
    expect(kept).toHaveLength(4)
  })

  test('give what is dead another chance', async ({ db }) => {
    const { space, spaceId, breaking } = await setup(db)
    await breaking(`delete from ${vectors} where chunk_id = :chunk`)
    await fillSpace(db, {
      ...{ space, maxAttempts: 1, embed: () => Promise.reject(new Error('no')) },
    })
    expect(await embeddingDrift(db, { spaceId })).toMatchObject({ missing: { count: 1 } })

    expect(await repairEmbeddings(db, { spaceId })).toMatchObject({ revived: 1, enqueued: 0 })

    expect(await embeddingDrift(db, { spaceId })).toEqual(CLEAN)
    expect(await runEmbeddingJobs(db, { space, model })).toMatchObject({ embedded: 1 })
  })

  test('find what only an owner could have broken', async () => {
    await rollback(owner, async (db) => {
      const { spaceId, breaking, sample, chunks } = await setup(db)
      const child = `embeddings_${spaceId.replaceAll('-', '')}`
      await db.execute(sql.raw(`alter table partitions.${child} drop constraint ${child}_dims`))
      await breaking(`update ${vectors} set embedding = '[1,2,3]' where chunk_id = :chunk`)
      const drift = await embeddingDrift(db, { spaceId })
      expect(drift).toEqual({ ...CLEAN, wrongDimension: { count: 1, samples: sample } })

      expect(await repairEmbeddings(db, { spaceId })).toMatchObject({ deleted: 1, enqueued: 1 })

      // Without triggers, and so without foreign keys.
      await db.execute(sql`set local session_replication_role = replica`)
      await db.execute(sql`delete from search.chunks where id = ${chunks[1]?.id}`)
      await db.execute(sql`set local session_replication_role = origin`)
      expect(await embeddingDrift(db, { spaceId })).toMatchObject({
        orphaned: { count: 1, samples: [{ chunkId: chunks[1]?.id }] },
      })
      expect(await repairEmbeddings(db, { spaceId })).toMatchObject({ deleted: 1, enqueued: 0 })
    })
  })

  test('name no more than twenty of a kind', async ({ db }) => {
    const { space, spaceId, scope } = await setup(db)
    await inTenant(db, scope, async (tenant) => {
      for (let made = 0; made < 21; made += 1) {
        await makeChunk(tenant, { purpose: space.purpose })
      }
    })

    const { missing } = await embeddingDrift(db, { spaceId })

    expect([missing.count, missing.samples.length]).toEqual([21, 20])
  })

  test('look at no other space', async ({ db }) => {
    const { spaceId, scope } = await setup(db)
    const other = await makeSpace(db)
    await inTenant(db, scope, (tenant) => makeEmbedding(tenant, { space: other }))

    expect(await embeddingDrift(db, { spaceId })).toEqual(CLEAN)
    // Its chunk is of the purpose `text`, which is not the other space's.
    expect(await embeddingDrift(db, { spaceId: other.id })).toMatchObject({
      orphaned: { count: 1 },
    })
  })

  test('refuse what they cannot serve', async ({ db }) => {
    for (const work of [embeddingDrift, repairEmbeddings]) {
      await expect(work(db, { spaceId: 'x' })).rejects.toBeInstanceOf(ValidationError)
    }
    const unknown = embeddingDrift(db, { spaceId: crypto.randomUUID() })
    await expect(unknown).rejects.toBeInstanceOf(NotFoundError)
  })
})
