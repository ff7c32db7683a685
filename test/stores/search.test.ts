import { sql } from 'drizzle-orm'
import fc from 'fast-check'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { StoreError } from '../../src/errors.ts'
import { getNamespace } from '../../src/queries/namespaces.ts'
import { type SearchOptions, search } from '../../src/queries/search.ts'
import type { SpaceDistance } from '../../src/schema/search.ts'
import { pgvectorStore } from '../../src/stores/pgvector.ts'
import { searchPlaced } from '../../src/stores/search.ts'
import { syncNamespace } from '../../src/stores/sync.ts'
import type { VectorStore } from '../../src/stores/vector-store.ts'
import { inTenant, type Scope, type Tenant } from '../../src/tenant.ts'
import { joinScope, makeScope, unitVector } from '../../src/testing/factories.ts'
import { makeEmbedding, makeSpace } from '../../src/testing/search.ts'
import { adminUrl, test } from '../support/database.ts'
import { openProxy } from '../support/proxy.ts'
import { makeScratch } from '../support/scratch.ts'
import { makeNamespaceIn, STORES } from '../support/stores.ts'

/** Nothing is said of how fast an engine is. */
const timeoutMs = 60_000

const WORDS = ['alpha', 'beta', 'gamma', 'delta']
const KINDS = ['note', 'page']
/** Chunks of an organization, of which the last five have the vectors of the first. */
const COUNT = 60

async function fill(tenant: Tenant, space: Awaited<ReturnType<typeof makeSpace>>, count: number) {
  for (let at = 0; at < count; at += 1) {
    await makeEmbedding(tenant, {
      space,
      embedding: unitVector(at % (count - 5), space.dimensions),
      chunk: {
        content: `${WORDS[at % 4]} ${WORDS[(at * 7) % 3]} ${at}`,
        sourceType: KINDS[at % 11 === 0 ? 1 : 0],
        visibility: at % 3 === 0 ? 'private' : 'shared',
        metadata: { at },
      },
    })
  }
}

const prepare = async (
  db: Database,
  store: VectorStore,
  { distance = 'cosine', count = COUNT }: { distance?: SpaceDistance; count?: number } = {},
) => {
  const space = await makeSpace(db, { distance })
  const namespace = await makeNamespaceIn(db, { space, store })
  const scope = await makeScope(db)
  for (const one of [scope, await makeScope(db)]) {
    await inTenant(db, one, (tenant) => fill(tenant, space, count))
  }
  await syncNamespace(db, { namespace: namespace.id, store })
  return { space, namespace, scope, member: await joinScope(db, scope, 'viewer') }
}

/** Distances of two engines agree but for the last bits of a float. */
const nearly = ({ matches, truncated }: Awaited<ReturnType<typeof search>>) => ({
  truncated,
  matches: matches.map(({ similarity, score, ...match }) => ({
    ...match,
    score: expect.closeTo(score, 5),
    similarity: similarity === null ? null : expect.closeTo(similarity, 3),
  })),
})

/** Whether no two of different vectors are nearly as near: who is first then depends on how an engine rounds. */
const areApart = (matches: Awaited<ReturnType<typeof search>>['matches'], vectors: number) =>
  matches.every(({ metadata, similarity }, at) => {
    const before = matches[at - 1]
    if (!before || Number(metadata.at) % vectors === Number(before.metadata.at) % vectors)
      return true
    return Number(before.similarity) - Number(similarity) > 1e-6
  })

describe.each(Object.entries(STORES))('%s', (kind, makeStore) => {
  const opened = makeStore()

  test.for<SpaceDistance>(['cosine', 'l2', 'inner_product'])(
    'answers as search does, whatever is filtered, by %s',
    async (distance, { db }) => {
      const store = await opened
      const { space, namespace, scope, member } = await prepare(db, store, { distance })
      const options = fc.record(
        {
          limit: fc.integer({ min: 1, max: 80 }),
          query: fc.constantFrom(...WORDS),
          mode: fc.constantFrom('vector', 'hybrid', undefined),
          sourceTypes: fc.constantFrom(['page'], ['note'], KINDS, ['none']),
          metadata: fc.integer({ min: 0, max: 60 }).map((lt) => ({ at: { lt } })),
          diversity: fc.constantFrom(0, 0.5),
        },
        { requiredKeys: ['limit'] },
      )
      await fc.assert(
        fc.asyncProperty(
          options,
          fc.integer({ min: 100, max: 10_000 }),
          fc.constantFrom<Scope>(scope, member),
          async (drawn, seed, as) => {
            const { mode, ...rest } = drawn
            const embedding = unitVector(seed, space.dimensions)
            const asked: SearchOptions = { ...rest, space, embedding }
            if (mode && (mode === 'vector' || rest.query)) asked.mode = mode
            await inTenant(db, as, async (tenant) => {
              const all = await search(tenant, { space, embedding, limit: 200 })
              if (!areApart(all.matches, COUNT - 5)) return
              const expected = await search(tenant, asked)
              const { servedBy, reason, ...found } = await searchPlaced(tenant, {
                ...{ ...asked, store, namespace, timeoutMs },
              })
              expect([servedBy, reason]).toEqual(['store', undefined])
              expect(found).toEqual(nearly(expected))
            })
          },
        ),
        { numRuns: kind === 'lancedb' ? 30 : 15 },
      )
    },
  )
})

describe('a search of a placed namespace', () => {
  const lancedb = () => (STORES.lancedb as () => Promise<VectorStore>)()

  test('asks for more until enough pass, and records itself once', async ({ db }) => {
    const store = await lancedb()
    const { space, namespace, scope } = await prepare(db, store)
    const asked: number[] = []
    const counting: VectorStore = {
      ...store,
      query: (name, query) => {
        asked.push(query.limit)
        return store.query(name, query)
      },
    }
    await inTenant(db, scope, async (tenant) => {
      const embedding = unitVector(3, space.dimensions)
      const { matches, explain, servedBy } = await searchPlaced(tenant, {
        ...{ store: counting, namespace, space, embedding, timeoutMs },
        ...{ limit: 5, sourceTypes: ['page'], record: true, explain: true },
      })

      expect(matches).toHaveLength(5)
      expect(servedBy).toBe('store')
      expect(explain?.vector?.plan).toBe('given')
      expect(asked.length).toBeGreaterThan(1)
      expect(asked.every((limit, at) => limit === 5 * 2 ** at)).toBe(true)
      const recorded = await rowsOf(tenant.db, sql`select 1 from search.searches`)
      expect(recorded).toHaveLength(1)
    })
  })

  test('falls back on the vectors here, and on words, and says so', async ({ db }) => {
    const store = await lancedb()
    const { space, namespace, scope } = await prepare(db, store)
    const embedding = unitVector(3, space.dimensions)
    const failing = (query: VectorStore['query']): VectorStore => ({ ...store, query })
    const down = failing(async () => {
      throw new StoreError('lancedb', 'unavailable', 'gone fishing')
    })
    const slow = failing(() => new Promise(() => {}))
    await inTenant(db, scope, async (tenant) => {
      const asked = { namespace, space, embedding, query: 'alpha' }
      const expected = await search(tenant, { space, embedding, query: 'alpha' })

      expect(await searchPlaced(tenant, { ...asked, store: down })).toEqual({
        ...{ ...expected, servedBy: 'database', reason: 'lancedb: gone fishing' },
      })
      expect(await searchPlaced(tenant, { ...asked, store: slow, timeoutMs: 20 })).toMatchObject({
        ...{ servedBy: 'database', reason: expect.stringContaining('no answer within') },
      })
      expect(await searchPlaced(tenant, { namespace, query: 'alpha', store: down })).toMatchObject({
        ...{ servedBy: 'database', reason: 'by text alone' },
      })
      await rowsOf(tenant.db, sql`delete from search.embeddings`)
      const bare = await searchPlaced(tenant, { ...asked, store: down })
      expect(bare.reason).toContain('there are no vectors here either')
      expect(bare.matches.length).toBeGreaterThan(0)
      expect(bare.matches.every(({ vectorRank }) => vectorRank === null)).toBe(true)
    })
  })

  test('is the database’s while the store has not all of the organization', async ({ db }) => {
    const store = await lancedb()
    const { space, namespace, scope } = await prepare(db, store, { count: 12 })
    const embedding = unitVector(3, space.dimensions)
    await inTenant(db, scope, async (tenant) => {
      await makeEmbedding(tenant, { space, embedding })
      const asked = { space, embedding, limit: 50 }
      const { servedBy, reason, ...found } = await searchPlaced(tenant, {
        ...{ ...asked, store, namespace, timeoutMs },
      })

      expect([servedBy, reason]).toEqual(['database', expect.stringContaining('fewer vectors')])
      expect(found).toEqual(await search(tenant, asked))
    })
  })

  test('shows nothing that is gone here, although the store still has it', async ({ db }) => {
    const store = await lancedb()
    const { space, namespace, scope } = await prepare(db, store, { count: 12 })
    const embedding = unitVector(3, space.dimensions)
    await inTenant(db, scope, async (tenant) => {
      await rowsOf(tenant.db, sql`delete from search.chunks where metadata ->> 'at' <> '3'`)
      const { matches, servedBy } = await searchPlaced(tenant, {
        ...{ space, embedding, store, namespace, timeoutMs },
      })
      expect(matches.map(({ metadata }) => metadata)).toEqual([{ at: 3 }])
      expect(servedBy).toBe('store')
    })
  })

  test('counts itself, not more often than once a minute', async ({ db }) => {
    const store = { ...(await lancedb()) }
    const { space, namespace, scope } = await prepare(db, store, { count: 12 })
    const embedding = unitVector(3, space.dimensions)
    for (let time = 0; time < 3; time += 1) {
      await inTenant(db, scope, (tenant) =>
        searchPlaced(tenant, { space, embedding, store, namespace, timeoutMs }),
      )
    }
    const { queries, lastUsedAt } = await getNamespace(db, namespace.id)
    expect(queries).toBe(1)
    expect(lastUsedAt).toBeInstanceOf(Date)
  })

  test('is refused for another store or space', async ({ db }) => {
    const store = await lancedb()
    // Before anything is written: a partition that is made locks what writers of other tests hold.
    const other = await makeSpace(db)
    const { space, namespace, scope } = await prepare(db, store, { count: 6 })
    const embedding = unitVector(3, space.dimensions)
    await inTenant(db, scope, async (tenant) => {
      const asked = { space, embedding, store, namespace }
      for (const [argument, change] of [
        ['store', { store: { ...store, name: 'other' } }],
        ['space', { space: other }],
        ['embedding', { embedding: [1] }],
      ] as const) {
        await expect(searchPlaced(tenant, { ...asked, ...change })).rejects.toMatchObject({
          ...{ name: 'ValidationError', argument },
        })
      }
    })
  })
})

describe.skipIf(!adminUrl)('a second server', () => {
  test('may go away in the middle, and is found again', async ({ db }) => {
    const { url } = await makeScratch()
    const proxy = await openProxy(url)
    const store = pgvectorStore({ url: proxy.url, timeoutMs: 3_000 })
    const { space, namespace, scope } = await prepare(db, store, { count: 12 })
    const embedding = unitVector(3, space.dimensions)
    const servedBy = () =>
      inTenant(db, scope, async (tenant) => {
        const found = await searchPlaced(tenant, { space, embedding, store, namespace, timeoutMs })
        expect(found.matches).toHaveLength(10)
        return found.servedBy
      })

    expect(await servedBy()).toBe('store')
    proxy.stall()
    expect(await servedBy()).toBe('database')
    await proxy.close()
    expect(await servedBy()).toBe('database')
    await store.close()
  })
})
