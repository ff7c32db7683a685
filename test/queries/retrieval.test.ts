import { eq, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import fc from 'fast-check'
import pg from 'pg'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { type SearchOptions, search } from '../../src/queries/search.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { type Space, spaces } from '../../src/schema/search.ts'
import { asService, inTenant, type Scope, type Tenant } from '../../src/tenant.ts'
import { rollback } from '../../src/testing/database.ts'
import { joinScope, makeScope, unitVector } from '../../src/testing/factories.ts'
import { makeSpace } from '../../src/testing/search.ts'
import { adminUrl, test } from '../support/database.ts'

const DIMENSIONS = 8

interface Item {
  id: string
  words: string[]
  vector: number[] | null
  type: string
  year: number
  ownerId: string | null
  visibility: 'private' | 'shared'
}

async function write({ db, organizationId }: Tenant, space: Space, items: readonly Item[]) {
  const records = JSON.stringify(
    items.map(({ words, vector, ...item }) => ({
      ...item,
      content: words.join(' '),
      v: vector && `[${vector}]`,
    })),
  )
  const record = sql`json_to_recordset(${records}::text::json) as r (id uuid, content text, v text, type text,
    year int, "ownerId" uuid, visibility search.visibility)`
  await db.execute(sql`
    insert into search.chunks (organization_id, id, source_type, source_id, position, content, content_hash,
      token_count, metadata, owner_id, visibility)
    select ${organizationId}, id, type, id::text, 0, content, sha256(content::bytea), 1,
      jsonb_build_object('year', year), "ownerId", visibility from ${record}
    returning id`)
  await db.execute(sql`
    insert into search.embeddings (organization_id, space_id, chunk_id, owner_id, visibility, source_type, embedding)
    select ${organizationId}, ${space.id}, id, "ownerId", visibility, type, v::public.halfvec from ${record}
    where v is not null returning chunk_id`)
}

const dot = (a: readonly number[], b: readonly number[]) =>
  a.reduce((sum, x, at) => sum + x * (b[at] ?? 0), 0)
const cosine = (a: readonly number[], b: readonly number[]) =>
  dot(a, b) / Math.hypot(...a) / Math.hypot(...b)

interface Ask {
  query: string
  embedding: number[]
  limit: number
  weights: { vector: number; text: number }
  types: string[] | undefined
  since: number | undefined
}

interface Fused {
  id: string
  score: number
  vectorRank: number | null
  textRank: number | null
}

/**
 * Reciprocal rank fusion of two ranked lists, as Cormack et al. 2009 define it, over plain arrays. Only the
 * rank of a text is Postgres's own. Undefined where two are nearly as far: whose turn it is then depends on how
 * sums are rounded.
 */
async function fuseByHand(
  db: Database,
  visible: readonly Item[],
  stored: ReadonlyMap<string, number[]>,
  { query, embedding, limit, weights, types, since }: Ask,
): Promise<Fused[] | undefined> {
  const passing = visible.filter(
    ({ type, year }) =>
      (types === undefined || types.includes(type)) && (since === undefined || year >= since),
  )
  const pool = Math.max(limit * 4, 40)
  // At half precision, as what it is compared with.
  const [asked] = await rowsOf<{ v: string }>(
    db,
    sql`select (${JSON.stringify(embedding)}::public.halfvec)::text as v`,
  )
  const near = passing
    .flatMap(({ id }) => {
      const vector = stored.get(id)
      return vector
        ? [{ id, vector, distance: 1 - cosine(vector, JSON.parse(asked?.v ?? '')) }]
        : []
    })
    .sort((a, b) => a.distance - b.distance)
    .slice(0, pool)
  const isUnclear = near.some(({ vector, distance }, at) => {
    const before = near[at - 1]
    return before && distance - before.distance < 1e-6 && `${vector}` !== `${before.vector}`
  })
  if (isUnclear) return
  const texts = JSON.stringify(passing.map(({ id, words }) => ({ id, content: words.join(' ') })))
  const matching = await rowsOf<{ id: string }>(
    db,
    sql`select id from (select id, to_tsvector('english', content) as terms, websearch_to_tsquery('english', ${query}) as q
        from json_to_recordset(${texts}::text::json) as r (id uuid, content text)) t
      where terms @@ q order by ts_rank(terms, q, 1) desc, id limit ${pool}`,
  )
  const rankIn = (list: readonly { id: string }[]) =>
    new Map(list.map(({ id }, at) => [id, at + 1]))
  const [vectorRanks, textRanks] = [rankIn(near), rankIn(matching)]
  const part = (weight: number, rank: number | undefined) => (rank ? weight / (60 + rank) : 0)
  return [...new Set([...vectorRanks.keys(), ...textRanks.keys()])]
    .map((id) => ({
      id,
      vectorRank: vectorRanks.get(id) ?? null,
      textRank: textRanks.get(id) ?? null,
      score: part(weights.vector, vectorRanks.get(id)) + part(weights.text, textRanks.get(id)),
    }))
    .sort((a, b) => b.score - a.score || (a.id < b.id ? -1 : 1))
    .slice(0, limit)
}

const WORDS = ['harbour', 'lights', 'invoice', 'garden', 'copper', 'letters', 'winter', 'engine']
const words = fc.array(fc.constantFrom(...WORDS), { minLength: 1, maxLength: 6 })
/** Of seeds, so that two are seldom nearly as far. */
const vector = fc.integer({ min: 1, max: 1e6 }).map((seed) => unitVector(seed, DIMENSIONS))
const item = fc.record({
  words,
  vector: fc.option(vector),
  type: fc.constantFrom('page', 'mail', 'note'),
  year: fc.integer({ min: 2000, max: 2009 }),
  isMine: fc.boolean(),
  visibility: fc.constantFrom('private' as const, 'shared' as const),
})
const ask = fc.record({
  query: fc
    .array(fc.constantFrom(...WORDS), { minLength: 1, maxLength: 2 })
    .map((list) => list.join(' or ')),
  embedding: vector,
  limit: fc.integer({ min: 1, max: 12 }),
  weights: fc.record({
    vector: fc.double({ min: 0.1, max: 3, noNaN: true }),
    text: fc.double({ min: 0.1, max: 3, noNaN: true }),
  }),
  types: fc.option(fc.subarray(['page', 'mail', 'note'], { minLength: 1 }), { nil: undefined }),
  since: fc.option(fc.integer({ min: 2000, max: 2009 }), { nil: undefined }),
})

describe('a hybrid search', () => {
  test('is what plain arrays say: fused ranks, filters, and what the member may see', async ({
    db,
  }) => {
    let answers = 0
    const space = await makeSpace(db, { dimensions: DIMENSIONS })
    await fc.assert(
      fc.asyncProperty(
        fc.array(item, { minLength: 8, maxLength: 30 }),
        fc.array(ask, { minLength: 3, maxLength: 3 }),
        async (items, asks) => {
          const [owner, other] = [await makeScope(db), await makeScope(db)]
          const [ann, ben] = [await joinScope(db, owner), await joinScope(db, owner)]
          const mine = items.map(({ isMine, ...rest }) => ({
            ...rest,
            id: uuidV7(),
            ownerId: isMine ? ann.userId : ben.userId,
          }))
          await asService(db, owner.organizationId, (tenant) => write(tenant, space, mine))
          // The same again, for somebody else: nothing of it may show.
          await asService(db, other.organizationId, (tenant) =>
            write(
              tenant,
              space,
              mine.map((one) => ({ ...one, id: uuidV7(), ownerId: other.userId })),
            ),
          )
          await inTenant(db, ann, async (tenant) => {
            const rows = await rowsOf<{ id: string; v: string }>(
              tenant.db,
              sql`select chunk_id as id, embedding::text as v from search.embeddings`,
            )
            const stored = new Map(rows.map(({ id, v }) => [id, JSON.parse(v) as number[]]))
            const visible = mine.filter(
              ({ visibility, ownerId }) => visibility === 'shared' || ownerId === ann.userId,
            )
            for (const one of asks) {
              const { query, embedding, limit, weights, types, since } = one
              const { matches } = await search(tenant, {
                ...{ query, embedding, space, limit, weights },
                ...(types && { sourceTypes: types }),
                ...(since !== undefined && { metadata: { year: { gte: since } } }),
              })
              // Misspelt words are another matter: here each is right, or matches nothing.
              const byHand = await fuseByHand(tenant.db, visible, stored, one)
              if (!byHand) continue
              if (byHand.some(({ textRank }) => textRank !== null)) {
                answers += byHand.length
                expect(
                  matches.map(({ chunkId, vectorRank, textRank }) => ({
                    id: chunkId,
                    vectorRank,
                    textRank,
                  })),
                ).toEqual(byHand.map(({ score: _, ...rest }) => rest))
                for (const [at, { score }] of byHand.entries()) {
                  expect(matches[at]?.score).toBeCloseTo(score, 10)
                }
              } else {
                expect(matches.map(({ chunkId }) => chunkId).sort()).toEqual(
                  expect.arrayContaining(byHand.map(({ id }) => id).sort()),
                )
              }
            }
          })
        },
      ),
      { numRuns: 25, endOnFailure: true },
    )
    expect(answers).toBeGreaterThan(50)
  })

  test('for diversity, chooses as maximal marginal relevance does', async ({ db }) => {
    const space = await makeSpace(db, { dimensions: DIMENSIONS })
    await inTenant(db, await makeScope(db), async (tenant) => {
      // Three bundles of near-equal vectors, the nearest first.
      const items = Array.from({ length: 30 }, (_, at) => ({
        ...{ id: uuidV7(), words: [`item${at}`], type: 'note', year: 2000 },
        ...{ ownerId: null, visibility: 'shared' as const },
        vector: unitVector(at % 3, DIMENSIONS).map((x) => x + at / 1_000),
      }))
      await write(tenant, space, items)
      const embedding = unitVector(0, DIMENSIONS).map(
        (x, at) => x + 0.5 * (unitVector(1, DIMENSIONS)[at] ?? 0),
      )
      const found = async (options: Partial<SearchOptions>) =>
        (await search(tenant, { space, embedding, ...options })).matches
      const all = await found({ limit: 30 })
      const vectors = new Map(
        (
          await rowsOf<{ id: string; v: string }>(
            tenant.db,
            sql`select chunk_id as id, embedding::text as v from search.embeddings`,
          )
        ).map(({ id, v }) => [id, JSON.parse(v) as number[]]),
      )
      for (const diversity of [0.2, 0.5, 0.8]) {
        const [most, least] = [all[0]?.score ?? 0, all.at(-1)?.score ?? 0]
        const left = all.map(({ chunkId, score }) => ({
          chunkId,
          vector: vectors.get(chunkId) ?? [],
          relevance: (score - least) / (most - least),
        }))
        const chosen: typeof left = []
        while (chosen.length < 8) {
          const marginal = left.map(
            ({ relevance, vector }) =>
              (1 - diversity) * relevance -
              diversity * Math.max(0, ...chosen.map((one) => cosine(one.vector, vector))),
          )
          chosen.push(...left.splice(marginal.indexOf(Math.max(...marginal)), 1))
        }
        const diverse = await found({ limit: 8, diversity })
        expect(diverse.map(({ chunkId }) => chunkId)).toEqual(chosen.map(({ chunkId }) => chunkId))
      }
      const plain = (await found({ limit: 8 })).map(({ chunkId }) => chunkId)
      expect((await found({ limit: 8, diversity: 0 })).map(({ chunkId }) => chunkId)).toEqual(plain)
      expect((await found({ limit: 8, diversity: 1 })).map(({ chunkId }) => chunkId)).not.toEqual(
        plain,
      )
    })
  })
})

describe('the plan', () => {
  /** All plans of what runs in a session, also within functions, as auto_explain prints them. */
  async function withPlans(work: (db: Database, plans: string[]) => Promise<void>): Promise<void> {
    const client = new pg.Client({ connectionString: adminUrl })
    await client.connect()
    try {
      await client.query(`
        load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
        set auto_explain.log_analyze = on; set auto_explain.log_timing = off; set client_min_messages = log`)
      const plans: string[] = []
      client.on('notice', ({ message = '' }) => plans.push(message))
      await rollback(drizzle({ client }), (db) => work(db, plans))
    } finally {
      await client.end()
    }
  }

  /** Runs a search as a member, and returns its explanation and the plans under it. */
  async function plansOf(db: Database, scope: Scope, plans: string[], options: SearchOptions) {
    return inTenant(db, scope, async (tenant) => {
      plans.length = 0
      const { explain, matches } = await search(tenant, { ...options, explain: true })
      const [{ who } = { who: '' }] = await rowsOf<{ who: string }>(
        tenant.db,
        sql`select current_user::text as who`,
      )
      expect(who).toBe('plinth_app')
      return { explain, matches, text: plans.join('\n') }
    })
  }

  test.skipIf(!adminUrl)(
    'is a scan for a small slice, the HNSW index for a large one, and GIN for words',
    async () => {
      await withPlans(async (db, plans) => {
        const space = await makeSpace(db, { dimensions: 16 })
        await db.update(spaces).set({ exactRows: 500 }).where(eq(spaces.id, space.id))
        const [small, large] = [await makeScope(db), await makeScope(db)]
        const items = (count: number, from: number) =>
          Array.from({ length: count }, (_, at) => ({
            ...{
              id: uuidV7(),
              words: [`word${at % 50}`, 'common'],
              type: at % 20 ? 'note' : 'rare',
            },
            ...{ year: 2000 + (at % 10), ownerId: null, visibility: 'shared' as const },
            vector: unitVector(from + at, 16),
          }))
        await asService(db, small.organizationId, (tenant) => write(tenant, space, items(300, 0)))
        await asService(db, large.organizationId, (tenant) =>
          write(tenant, space, items(3_000, 10_000)),
        )
        // As autovacuum would.
        for (const index of ['terms', 'content'])
          await db.execute(
            sql`select gin_clean_pending_list(${`search.chunks_${index}_idx`}::regclass)`,
          )
        for (const table of ['chunks', 'embeddings'])
          await db.execute(sql.raw(`analyze search.${table}`))
        const embedding = unitVector(77_777, 16)

        const ofSmall = await plansOf(db, small, plans, { space, embedding })
        expect(ofSmall.explain?.vector).toMatchObject({ plan: 'exact', found: 10 })
        expect(ofSmall.text).not.toContain('_hnsw')
        expect(ofSmall.text).toMatch(/Index Scan (using|on) embeddings_/)

        const ofLarge = await plansOf(db, large, plans, { space, embedding })
        expect(ofLarge.explain?.vector).toMatchObject({ plan: 'index', found: 10 })
        // A thinner slice of 3,300 rows would be scanned, at however few exact_rows.
        expect(ofLarge.explain?.vector?.counted).toBe(Math.round(Math.sqrt(15 * 3_300 * 10)) + 1)
        expect(ofLarge.text).toMatch(/Index Scan using embeddings_\w+_hnsw/)

        // Large in all, and small once it is filtered: counted and answered by one scan.
        const filtered = { space, embedding, sourceTypes: ['rare'] }
        const ofFilter = await plansOf(db, large, plans, filtered)
        expect(ofFilter.explain?.vector).toMatchObject({ plan: 'exact', found: 10, counted: 150 })
        expect(ofFilter.text).not.toContain('_hnsw')

        const ofWords = await plansOf(db, large, plans, { query: 'word7' })
        expect(ofWords.explain?.text).toMatchObject({ plan: 'words', found: 10 })
        expect(ofWords.text).toContain('Bitmap Index Scan on chunks_terms_idx')

        const ofTypo = await plansOf(db, large, plans, { query: 'comon' })
        expect(ofTypo.explain?.text).toMatchObject({ plan: 'similar words', found: 10 })
        const ofRareTypo = await plansOf(db, small, plans, { query: 'comon wrod7' })
        expect(ofRareTypo.text).toContain('chunks_content_idx')
        const { explain, text } = await plansOf(db, large, plans, {
          ...{ space, embedding, query: 'word7' },
          metadata: { year: 2007 },
        })
        expect(explain?.vector?.plan).toBe('exact')
        expect(text).toContain('Bitmap Index Scan on chunks_terms_idx')
      })
    },
  )
})
