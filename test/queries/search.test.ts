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

describe('search by text', () => {
  test('finds words by their stem, and ranks what has more of them first', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      await makeChunk(tenant, {
        content: 'The invoice is late again, for the third time this year',
      })
      await makeChunk(tenant, { content: 'Invoices go to the invoice desk' })
      await makeChunk(tenant, { content: 'Nothing of the kind' })

      const { matches } = await search(tenant, { query: 'invoice', snippets: true })

      expect(contents(matches)).toEqual([
        'Invoices go to the invoice desk',
        'The invoice is late again, for the third time this year',
      ])
      expect(matches[1]?.snippet).toEqual([
        { text: 'invoice', isMatch: true },
        { text: ' is late again, for the third time this year', isMatch: false },
      ])
      expect(matches[0]).toMatchObject({ textRank: 1, vectorRank: null, similarity: null })
    })
  })

  test('finds nothing for a query of stop words', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      await makeChunk(tenant, { content: 'the and of' })

      expect((await search(tenant, { query: 'the and of' })).matches).toEqual([])
    })
  })

  test("shows a member the shared and the member's own chunks; an admin, all", async ({ db }) => {
    const space = await makeSpace(db)
    const owner = await makeScope(db)
    const [ann, ben] = [await joinScope(db, owner), await joinScope(db, owner)]
    await inTenant(db, owner, (tenant) =>
      makeEmbedding(tenant, { space, chunk: { content: 'word shared' } }),
    )
    await inTenant(db, ann, (tenant) =>
      makeEmbedding(tenant, { space, chunk: { content: 'word of ann', visibility: 'private' } }),
    )
    const both = ['word of ann', 'word shared']
    const embedding = unitVector(1, space.dimensions)

    for (const options of [
      { query: 'word' },
      { space, embedding },
      { query: 'word', space, embedding },
    ]) {
      const seen = async (scope: typeof ann) =>
        contents((await inTenant(db, scope, (tenant) => search(tenant, options))).matches).sort()
      expect(await seen(ann)).toEqual(both)
      expect(await seen(ben)).toEqual(['word shared'])
      expect(await seen(owner)).toEqual(both)
    }
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
