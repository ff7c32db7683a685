import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { connect, type Database, rowsOf } from '../../src/database.ts'
import { ForbiddenError, NotFoundError, ValidationError } from '../../src/errors.ts'
import { buildSpaceIndex, type IndexProgress } from '../../src/lifecycle/space-index.ts'
import { search } from '../../src/queries/search.ts'
import { createSpace } from '../../src/queries/spaces.ts'
import type { Space } from '../../src/schema/search.ts'
import { inTenant } from '../../src/tenant.ts'
import { rollback } from '../../src/testing/database.ts'
import { makeScope, unitVector } from '../../src/testing/factories.ts'
import { adminUrl, owner, root, test, url } from '../support/own-database.ts'

const DIMENSIONS = 64

/** A space without its index, and vectors in it. */
async function setup(db: Database, rows: number, dimensions = DIMENSIONS) {
  const purpose = crypto.randomUUID()
  const space = await createSpace(db, {
    ...{ provider: 'x', model: 'y', dimensions, purpose, index: 'later' },
  })
  const scope = await makeScope(db)
  await db.execute(sql`
    with made as (
      insert into search.chunks (organization_id, id, source_type, source_id, position, purpose, content,
        content_hash, token_count)
      select ${scope.organizationId}::uuid, gen_random_uuid(), 'note', n::text, 0, ${purpose}, 'x',
        sha256('x'), 1 from generate_series(1, ${rows}::integer) n returning organization_id, id)
    insert into search.embeddings (organization_id, space_id, chunk_id, visibility, source_type, embedding)
    select organization_id, ${space.id}::uuid, id, 'shared', 'note',
      (select array_agg((('x' || left(md5(id::text || g), 7))::bit(28)::integer / 134217728.0 - 1)::real)::public.halfvec
        from generate_series(1, ${dimensions}::integer) g)
    from made returning chunk_id`)
  return { space, scope }
}

const indexOf = async (db: Database, { id }: Space) => {
  const [found] = await rowsOf<{ isValid: boolean; definition: string }>(
    db,
    sql`select indisvalid as "isValid", pg_get_indexdef(indexrelid) as definition from pg_index
      where indexrelid = to_regclass(${`partitions.embeddings_${id.replaceAll('-', '')}_hnsw`})`,
  )
  return found
}

describe('buildSpaceIndex', () => {
  test('builds the index that createSpace would have made, once', async () => {
    const { space, scope } = await setup(owner, 50)
    const twin = await createSpace(owner, {
      ...{ provider: 'x', model: 'y', dimensions: DIMENSIONS, purpose: `twin ${space.id}` },
    })

    expect(await buildSpaceIndex(owner, space.id)).toMatchObject({ built: true })
    expect(await buildSpaceIndex(owner, space.id)).toMatchObject({ built: false })

    const [made, model] = [await indexOf(owner, space), await indexOf(owner, twin)]
    const bare = ({ id }: Space) => id.replaceAll('-', '')
    expect(made?.isValid).toBe(true)
    expect(made?.definition).toBe(model?.definition.replaceAll(bare(twin), bare(space)))
    const { matches } = await inTenant(owner, scope, (tenant) =>
      search(tenant, { space, embedding: unitVector(1, DIMENSIONS), limit: 5 }),
    )
    expect(matches).toHaveLength(5)
  })

  test('is one of the transaction, within one', async () => {
    await rollback(owner, async (db) => {
      const { space } = await setup(db, 5)
      expect(await buildSpaceIndex(db, space.id)).toMatchObject({ built: true })
      expect(await indexOf(db, space)).toMatchObject({ isValid: true })
    })
  })

  test('builds anew what an interrupted build has left', async () => {
    const { space } = await setup(owner, 20)
    await buildSpaceIndex(owner, space.id)
    const name = `partitions.embeddings_${space.id.replaceAll('-', '')}_hnsw`
    await owner.execute(
      sql`update pg_index set indisvalid = false where indexrelid = to_regclass(${name})`,
    )

    expect(await buildSpaceIndex(owner, space.id)).toMatchObject({ built: true })

    expect(await indexOf(owner, space)).toMatchObject({ isValid: true })
  })

  test('leaves the settings of the session as they were', async () => {
    const { space } = await setup(owner, 5)
    const read = () =>
      rowsOf(
        owner,
        sql`select current_setting('maintenance_work_mem') as m, current_setting('statement_timeout') as s`,
      )
    const before = await read()

    await buildSpaceIndex(owner, space.id, { maintenanceMemory: '32MB', parallelWorkers: 0 })

    expect(await read()).toEqual(before)
  })

  test('refuses what it cannot serve', async () => {
    const { space } = await setup(owner, 1)
    for (const options of [
      { maintenanceMemory: '1kB' },
      { maintenanceMemory: '999999GB' },
      { maintenanceMemory: "1MB'; drop table x" },
      { parallelWorkers: -1 },
      { maxWaitMs: -1 },
    ]) {
      await expect(buildSpaceIndex(owner, space.id, options)).rejects.toBeInstanceOf(
        ValidationError,
      )
    }
    const unknown = buildSpaceIndex(owner, crypto.randomUUID())
    await expect(unknown).rejects.toBeInstanceOf(NotFoundError)
  })

  test.skipIf(!url)('is for the owner of the tables', async () => {
    const { space } = await setup(owner, 1)
    await expect(buildSpaceIndex(root, space.id)).rejects.toBeInstanceOf(ForbiddenError)
  })

  test.skipIf(!url)('says how far it is, and of two one builds', async () => {
    const { space } = await setup(owner, 3_000, 256)
    const steps: IndexProgress[] = []

    // One for each of the two, and one to ask on.
    const db = await connect(adminUrl, { maxConnections: 3 })
    const build = () =>
      buildSpaceIndex(db, space.id, {
        ...{ parallelWorkers: 0, onProgress: (step) => steps.push(step) },
      })

    const both = await Promise.all([build(), build()]).finally(() => db.close())

    expect(both.map(({ built }) => built).sort()).toEqual([false, true])
    expect(steps.length).toBeGreaterThan(0)
    expect(steps.some(({ phase }) => phase.includes('loading tuples'))).toBe(true)
    expect(Math.max(...steps.map(({ vectors }) => vectors))).toBeGreaterThan(0)
  })

  test.skipIf(!url)('ends at a signal, and leaves nothing half done', async () => {
    const { space } = await setup(owner, 3_000, 256)
    const abort = new AbortController()
    const building = buildSpaceIndex(owner, space.id, {
      ...{ parallelWorkers: 0, signal: abort.signal },
      onProgress: () => abort.abort(new Error('enough')),
    })

    await expect(building).rejects.toThrow('enough')
    expect(await indexOf(owner, space)).toBeUndefined()
    expect(await buildSpaceIndex(owner, space.id)).toMatchObject({ built: true })
  })
})
