import { eq, sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { embedTexts, hashingModel } from '../../src/embedding.ts'
import { NotFoundError, ValidationError } from '../../src/errors.ts'
import { type SearchOptions, search } from '../../src/queries/search.ts'
import { listSearches } from '../../src/queries/searches.ts'
import { indexSource } from '../../src/queries/sources.ts'
import { createSpace } from '../../src/queries/spaces.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { type Space, spaces } from '../../src/schema/search.ts'
import { asService, inTenant, type Tenant } from '../../src/tenant.ts'
import { joinScope, makeScope, unitVector } from '../../src/testing/factories.ts'
import { makeChunk, makeEmbedding, makeSpace } from '../../src/testing/search.ts'
import { test } from '../support/database.ts'

const contents = (rows: { content: string }[]) => rows.map(({ content }) => content)

/** Writes `count` vectors of the seeds from `first` on, in one statement. */
async function fill({ db, organizationId }: Tenant, space: Space, first: number, count: number) {
  const rows = Array.from({ length: count }, (_, at) => ({
    id: uuidV7(),
    content: `seed ${first + at}`,
    v: `[${unitVector(first + at, space.dimensions).map((x) => x.toFixed(5))}]`,
  }))
  const records = JSON.stringify(rows)
  await db.execute(sql`
    insert into search.chunks (organization_id, id, source_type, source_id, position, content, content_hash, token_count)
    select ${organizationId}, id, 'note', id::text, 0, content, sha256(content::bytea), 1
    from json_to_recordset(${records}::text::json) as r (id uuid, content text)`)
  await db.execute(sql`
    insert into search.embeddings (organization_id, space_id, chunk_id, visibility, source_type, embedding)
    select ${organizationId}, ${space.id}, id, 'shared', 'note', v::public.halfvec
    from json_to_recordset(${records}::text::json) as r (id uuid, v text)`)
}

/** The seeds nearest to a vector by brute force, nearest first. */
function nearestSeeds(query: number[], first: number, count: number, k: number): string[] {
  const dot = (a: number[], b: number[]) => a.reduce((sum, x, at) => sum + x * (b[at] ?? 0), 0)
  return Array.from({ length: count }, (_, at) => first + at)
    .map((seed) => ({ seed, similarity: dot(query, unitVector(seed, query.length)) }))
    .sort((a, b) => b.similarity - a.similarity)
    .slice(0, k)
    .map(({ seed }) => `seed ${seed}`)
}

describe('search by vector', () => {
  test('finds the same as brute force, among the rows of this organization alone', async ({
    db,
  }) => {
    const space = await makeSpace(db, { dimensions: 32 })
    const [mine, theirs] = [await makeScope(db), await makeScope(db)]
    await asService(db, theirs.organizationId, (tenant) => fill(tenant, space, 10_000, 500))
    await asService(db, mine.organizationId, (tenant) => fill(tenant, space, 0, 300))
    const embedding = unitVector(77_777, 32)

    const { matches } = await inTenant(db, mine, (tenant) => search(tenant, { space, embedding }))

    expect(contents(matches)).toEqual(nearestSeeds(embedding, 0, 300, 10))
    expect(matches[0]?.similarity).toBeGreaterThan(matches[9]?.similarity ?? 1)
    expect(matches.map(({ vectorRank }) => vectorRank)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
  })

  test('scans every slice of a space where no number of rows is too large', async ({ db }) => {
    const space = await makeSpace(db, { dimensions: 8 })
    await db
      .update(spaces)
      .set({ exactRows: 2 ** 31 - 1 })
      .where(eq(spaces.id, space.id))
    await inTenant(db, await makeScope(db), async (tenant) => {
      await fill(tenant, space, 0, 3)
      const { matches, explain } = await search(tenant, {
        ...{ space, embedding: unitVector(1, 8), since: new Date(0), explain: true },
      })
      expect([matches.length, explain?.vector?.plan]).toEqual([3, 'exact'])
    })
  })

  test('is never short of what is asked for, beyond the size that is scanned', async ({ db }) => {
    const space = await makeSpace(db, { dimensions: 32 })
    const [mine, theirs] = [await makeScope(db), await makeScope(db)]
    await db.update(spaces).set({ exactRows: 100 }).where(eq(spaces.id, space.id))
    await asService(db, theirs.organizationId, (tenant) => fill(tenant, space, 100_000, 800))
    await asService(db, mine.organizationId, (tenant) => fill(tenant, space, 0, 400))
    const embedding = unitVector(77_777, 32)

    const { matches } = await inTenant(db, mine, (tenant) =>
      search(tenant, { space, embedding, limit: 20 }),
    )

    const exact = nearestSeeds(embedding, 0, 400, 20)
    expect(matches).toHaveLength(20)
    expect(contents(matches).filter((content) => exact.includes(content)).length).toBeGreaterThan(
      17,
    )
  })
})

describe('hybrid search', () => {
  test('puts first what both arms have found, and says what each arm thought', async ({ db }) => {
    const space = await makeSpace(db)
    await inTenant(db, await makeScope(db), async (tenant) => {
      const [near, far] = [unitVector(1, 8), unitVector(2, 8)]
      await makeEmbedding(tenant, { space, embedding: near, chunk: { content: 'other words' } })
      await makeEmbedding(tenant, {
        space,
        embedding: far,
        chunk: { content: 'the harbour lights' },
      })
      await makeChunk(tenant, { content: 'harbour lights without a vector' })

      const { matches } = await search(tenant, { query: 'harbour', space, embedding: near })

      expect(matches[0]).toMatchObject({ content: 'the harbour lights', vectorRank: 2 })
      expect(matches[0]?.score).toBeCloseTo(1 / 62 + 1 / (60 + (matches[0]?.textRank ?? 0)), 8)
      const byContent = Object.fromEntries(matches.map((match) => [match.content, match]))
      expect(byContent['other words']).toMatchObject({ textRank: null, vectorRank: 1 })
      expect(byContent['other words']?.similarity).toBeCloseTo(1, 2)
      expect(byContent['harbour lights without a vector']?.similarity).toBeNull()
    })
  })

  test('filters both arms alike', async ({ db }) => {
    const space = await makeSpace(db)
    const embedding = unitVector(1, 8)
    const [projectId, categoryId] = [uuidV7(), uuidV7()]
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      const add = (content: string, chunk: object) =>
        makeEmbedding(tenant, {
          space,
          chunk: { content: `word ${content}`, ownerId: null, ...chunk },
        })
      await add('a', { sourceType: 'page', sourceId: 'p1', occurredAt: new Date('2026-01-01') })
      await add('b', { sourceType: 'page', sourceId: 'p2', projectId })
      await add('c', { sourceType: 'mail', categoryId, ownerId: scope.userId })

      const found = async (filters: Partial<SearchOptions>) => {
        const answers = await Promise.all(
          [{ query: 'word' }, { space, embedding }, { query: 'word', space, embedding }].map(
            async (options) =>
              contents((await search(tenant, { ...options, ...filters })).matches)
                .map((content) => content.slice(5))
                .sort()
                .join(''),
          ),
        )
        expect(new Set(answers).size).toBe(1)
        return answers[0]
      }
      expect(await found({})).toBe('abc')
      expect(await found({ sourceTypes: ['page'] })).toBe('ab')
      expect(await found({ sourceTypes: ['page', 'mail'] })).toBe('abc')
      expect(await found({ sourceTypes: ["none' or true --"] })).toBe('')
      expect(await found({ sourceIds: ['p1', 'p2'] })).toBe('ab')
      expect(await found({ sourceTypes: ['page'], sourceIds: ['p2'] })).toBe('b')
      expect(await found({ projectId })).toBe('b')
      expect(await found({ categoryId })).toBe('c')
      expect(await found({ ownerId: scope.userId })).toBe('c')
      expect(await found({ until: new Date('2026-06-01') })).toBe('a')
      expect(await found({ since: new Date('2026-06-01') })).toBe('bc')
      expect(await found({ since: new Date('2026-06-01'), sourceTypes: ['mail'] })).toBe('c')
      await add('d', { metadata: { year: 2020, tags: ['x', 'y'] }, projectId })
      expect(await found({ metadata: { year: { gte: 2020 }, tags: 'y' } })).toBe('d')
      expect(await found({ metadata: { tags: { exists: false } }, projectId })).toBe('b')
    })
  })

  test('works with the offline model, from text to answer', async ({ db }) => {
    const model = hashingModel()
    const space = await createSpace(db, {
      provider: model.provider,
      model: model.modelId,
      dimensions: 384,
      purpose: 'offline',
    })
    await inTenant(db, await makeScope(db), async (tenant) => {
      for (const text of [
        'Cats sleep all day.',
        'Invoices are paid in ten days.',
        'Rust is a language.',
      ]) {
        await indexSource(tenant, { sourceType: 'note', sourceId: text, text, model, space })
      }
      const query = 'when is an invoice paid?'
      const { embeddings } = await embedTexts(model, [query])

      const {
        matches: [best],
      } = await search(tenant, { query, embedding: embeddings[0], space })

      expect(best?.content).toBe('Invoices are paid in ten days.')
    })
  })
})

describe('ranking', () => {
  test('by diversity is of nothing where nothing is found', async ({ db }) => {
    const space = await makeSpace(db)
    await inTenant(db, await makeScope(db), async (tenant) => {
      const asked = { space, embedding: unitVector(1, 8), diversity: 0.5 }
      expect((await search(tenant, asked)).matches).toEqual([])
      expect((await search(tenant, { ...asked, query: 'harbour' })).matches).toEqual([])
    })
  })

  test('follows the weights of the arms', async ({ db }) => {
    const space = await makeSpace(db)
    await inTenant(db, await makeScope(db), async (tenant) => {
      const embedding = unitVector(1, 8)
      await makeEmbedding(tenant, { space, embedding, chunk: { content: 'near' } })
      await makeChunk(tenant, { content: 'harbour' })
      const first = async (weights: SearchOptions['weights']) =>
        (await search(tenant, { query: 'harbour', space, embedding, weights })).matches[0]?.content

      expect(await first({ vector: 2 })).toBe('near')
      expect(await first({ text: 2 })).toBe('harbour')
      expect(await first({ vector: 0, text: 0.1 })).toBe('harbour')
    })
  })

  test('lets scores fall by half in a half-life', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      const old = new Date(Date.now() - 30 * 86_400_000)
      await makeChunk(tenant, { content: 'harbour harbour', occurredAt: old })
      await makeChunk(tenant, { content: 'the harbour of today' })
      const find = async (recency?: SearchOptions['recency']) =>
        (await search(tenant, { query: 'harbour', recency })).matches

      expect(contents(await find())).toEqual(['harbour harbour', 'the harbour of today'])
      const [today, then] = await find({ halfLifeDays: 30, weight: 1 })
      expect(today?.content).toBe('the harbour of today')
      expect(today?.score).toBeCloseTo(1 / 62, 5)
      expect(then?.score).toBeCloseTo(0.5 / 61, 5)
      expect((await find({ halfLifeDays: 30 }))[1]?.score).toBeCloseTo(0.75 / 61, 5)
      expect((await find({ halfLifeDays: 0.001 }))[1]?.score).toBeCloseTo(0.5 / 61, 5)
      // Barely a day of a hundred thousand.
      expect(contents(await find({ halfLifeDays: 100_000 }))).toEqual(contents(await find()))
      // More half-lives than a number has places for.
      const [, ancient] = await find({ halfLifeDays: 0.001, weight: 1 })
      expect(ancient?.score).toBeCloseTo(0, 10)
    })
  })
})

describe('what is asked of the engine', () => {
  test('is cut off where it is said how far to look, and says so', async ({ db }) => {
    const space = await makeSpace(db, { dimensions: 16 })
    await db.update(spaces).set({ exactRows: 10 }).where(eq(spaces.id, space.id))
    const [mine, theirs] = [await makeScope(db), await makeScope(db)]
    await asService(db, theirs.organizationId, (tenant) => fill(tenant, space, 10_000, 600))
    await asService(db, mine.organizationId, (tenant) => fill(tenant, space, 0, 40))
    const embedding = unitVector(10_007, 16)
    const find = (options: Partial<SearchOptions>) =>
      inTenant(db, mine, (tenant) =>
        search(tenant, { space, embedding, limit: 30, explain: true, ...options }),
      )

    const cut = await find({ maxScan: 5 })
    expect(cut.truncated).toBe(true)
    expect(cut.matches.length).toBeLessThan(30)
    expect(cut.explain?.vector).toMatchObject({ plan: 'index', counted: 11 })
    // All that there is was found: nothing is missing.
    const rest = await find({ maxScan: 10_000, limit: 200 })
    expect(rest.matches).toHaveLength(40)
    expect(rest.truncated).toBe(false)
    const whole = await find({})
    expect(whole.truncated).toBe(false)
    expect(whole.matches).toHaveLength(30)
    expect(await find({ limit: 200 })).toMatchObject({
      truncated: false,
      explain: { vector: { plan: 'index, then exact', found: 40 } },
    })
  })

  test('is a scan of however large a slice where the space says so', async ({ db }) => {
    const space = await makeSpace(db)
    await db
      .update(spaces)
      .set({ exactRows: 2 ** 31 - 1 })
      .where(eq(spaces.id, space.id))
    await inTenant(db, await makeScope(db), async (tenant) => {
      const embedding = unitVector(1, 8)
      await makeEmbedding(tenant, { space, embedding })
      const asked = { space, embedding, sourceTypes: ['note'], explain: true }
      expect(await search(tenant, asked)).toMatchObject({
        matches: [{}],
        explain: { vector: { plan: 'exact', counted: 1 } },
      })
    })
  })

  test('may be given by another engine, and is shown and filtered by the same rules', async ({
    db,
  }) => {
    const space = await makeSpace(db)
    const [owner, other] = [await makeScope(db), await makeScope(db)]
    const ann = await joinScope(db, owner)
    const add = (scope: typeof ann, content: string, chunk: object = {}) =>
      inTenant(db, scope, (tenant) => makeChunk(tenant, { content, ...chunk }))
    const chunks = [
      await add(owner, 'shared'),
      await add(owner, 'private', { visibility: 'private' }),
      await add(owner, 'mail', { sourceType: 'mail' }),
      await add(other, 'of somebody else'),
    ]
    const near = chunks.map(({ id }, at) => ({ chunkId: id, distance: 0.1 * (at + 1) }))
    const embedding = unitVector(1, 8)
    const find = (scope: typeof ann, options: Partial<SearchOptions> = {}) =>
      inTenant(db, scope, (tenant) => search(tenant, { space, embedding, near, ...options }))

    const { matches } = await find(ann)
    expect(contents(matches)).toEqual(['shared', 'mail'])
    expect(matches.map(({ similarity }) => similarity?.toFixed(2))).toEqual(['0.90', '0.70'])
    expect(contents((await find(owner)).matches)).toEqual(['shared', 'private', 'mail'])
    expect(contents((await find(ann, { sourceTypes: ['mail'] })).matches)).toEqual(['mail'])
    expect((await find(ann, { near: [] })).matches).toEqual([])
    expect(contents((await find(ann, { near: [...near, ...near].reverse() })).matches)).toEqual([
      'shared',
      'mail',
    ])
    const { explain } = await find(ann, { explain: true })
    expect(explain?.vector).toMatchObject({ plan: 'given', found: 2, counted: 4 })
  })

  test('is explained: the plan of each arm, what it found, and how long it took', async ({
    db,
  }) => {
    const space = await makeSpace(db)
    await inTenant(db, await makeScope(db), async (tenant) => {
      await makeEmbedding(tenant, { space, chunk: { content: 'a harbour' } })
      const embedding = unitVector(1, 8)
      const { explain } = await search(tenant, {
        query: 'harbour',
        space,
        embedding,
        explain: true,
      })
      expect(explain).toEqual({
        vector: { plan: 'exact', found: 1, counted: null, tookMs: expect.any(Number) },
        text: { plan: 'words', found: 1, counted: 1, tookMs: expect.any(Number) },
        tookMs: expect.any(Number),
      })
      expect(explain?.vector?.tookMs).toBeLessThan(explain?.tookMs ?? 0)
      const nothing = await search(tenant, { query: 'the', explain: true })
      expect(nothing.explain).toMatchObject({ text: { plan: null, found: 0 } })
      expect(await search(tenant, { query: 'harbour' })).not.toHaveProperty('explain')
    })
  })
})

describe('search', () => {
  test('refuses what it cannot serve before any SQL, and the transaction goes on', async ({
    db,
  }) => {
    const space = await makeSpace(db)
    await inTenant(db, await makeScope(db), async (tenant) => {
      const vector = unitVector(1, 8)
      const refused: SearchOptions[] = [
        {},
        { query: '' },
        { query: 'a\0b' },
        { query: '\ud800' },
        { query: 'x'.repeat(10_000_000) },
        { embedding: vector },
        { space, embedding: unitVector(1, 9) },
        { space, embedding: new Array(8).fill(0) },
        { space, embedding: new Array(8).fill(1e-9) },
        { space, embedding: [...vector.slice(1), Number.NaN] },
        { space, embedding: [...vector.slice(1), Number.POSITIVE_INFINITY] },
        { space, embedding: [...vector.slice(1), 70_000] },
        { query: 'a', limit: 0 },
        { query: 'a', limit: -1 },
        { query: 'a', limit: 1e18 },
        { query: 'a', limit: null as unknown as number },
        { query: 'a', mode: 'hybrid' },
        { query: 'a', sourceTypes: [] },
        { query: 'a', projectId: 'nope' },
        { query: 'a', since: new Date(Number.NaN) },
        { query: 'a', metadata: {} },
        { query: 'a', diversity: 0.5 },
        { space, embedding: vector, diversity: 1.1 },
        { query: 'a', weights: { text: -1 } },
        { query: 'a', weights: { text: Number.NaN } },
        { query: 'a', recency: { halfLifeDays: 0 } },
        { query: 'a', recency: { halfLifeDays: 1, weight: 2 } },
        { space, embedding: vector, maxScan: 0 },
        { space: { ...space, distance: 'manhattan' as 'l2' }, embedding: vector },
        { space, embedding: vector, near: [{ chunkId: 'nope', distance: 1 }] },
        { space, embedding: vector, near: [{ chunkId: uuidV7(), distance: Number.NaN }] },
      ]
      for (const options of refused) {
        await expect(search(tenant, options)).rejects.toBeInstanceOf(ValidationError)
      }
      expect((await search(tenant, { query: 'a fine one' })).matches).toEqual([])
    })
  })

  test('tells a space that does not exist', async ({ db }) => {
    const searching = inTenant(db, await makeScope(db), (tenant) =>
      search(tenant, {
        space: { id: uuidV7(), dimensions: 8, distance: 'cosine' },
        embedding: unitVector(1, 8),
      }),
    )

    await expect(searching).rejects.toBeInstanceOf(NotFoundError)
  })

  test('tells a vector that is of another length than its space has', async ({ db }) => {
    const space = await makeSpace(db)
    const searching = inTenant(db, await makeScope(db), (tenant) =>
      search(tenant, { space: { ...space, dimensions: 9 }, embedding: unitVector(1, 9) }),
    )

    await expect(searching).rejects.toMatchObject({
      name: 'ValidationError',
      argument: 'embedding',
    })
  })

  test('is recorded when asked, for its author and the admins', async ({ db }) => {
    const owner = await makeScope(db)
    const [ann, ben] = [await joinScope(db, owner), await joinScope(db, owner)]
    await inTenant(db, ann, (tenant) =>
      search(tenant, { query: 'budget', record: true, sourceTypes: ['page'] }),
    )

    expect(await inTenant(db, ben, listSearches)).toEqual([])
    expect(await inTenant(db, owner, listSearches)).toMatchObject([
      {
        userId: ann.userId,
        query: 'budget',
        mode: 'text',
        resultCount: 0,
        filters: { sourceTypes: ['page'] },
      },
    ])
  })
})
