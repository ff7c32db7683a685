import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { only, rowsOf } from '../../src/database.ts'
import { type SearchOptions, search } from '../../src/queries/search.ts'
import { inTenant, type Tenant } from '../../src/tenant.ts'
import { joinScope, makeScope, unitVector } from '../../src/testing/factories.ts'
import { makeChunk, makeEmbedding, makeSpace } from '../../src/testing/search.ts'
import { test } from '../support/database.ts'

const contents = (rows: { content: string }[]) => rows.map(({ content }) => content)

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

describe('words', () => {
  const find = async (tenant: Tenant, query: string, options: Partial<SearchOptions> = {}) =>
    contents((await search(tenant, { query, ...options })).matches).sort()

  test('are read by the rules of the language of each chunk', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      await makeChunk(tenant, { content: 'Die Häuser am Hafen, too', language: 'german' })
      await makeChunk(tenant, { content: 'Houses at the harbour' })
      await makeChunk(tenant, { content: 'houses, word by word', language: 'simple' })

      expect(await find(tenant, 'Haus')).toEqual(['Die Häuser am Hafen, too'])
      expect(await find(tenant, 'house')).toEqual(['Houses at the harbour'])
      expect(await find(tenant, 'houses')).toEqual([
        'Houses at the harbour',
        'houses, word by word',
      ])
      // A word that says nothing in English is one in German.
      expect(await find(tenant, 'too')).toEqual(['Die Häuser am Hafen, too'])
      const { matches } = await search(tenant, { query: 'haus', snippets: true })
      expect(matches[0]?.snippet).toContainEqual({ text: 'Häuser', isMatch: true })
    })
  })

  test('may be a phrase, alternatives, excluded, or the beginning of one', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      const [a, b, c] = [
        'the red door of the house',
        'a door, red as wine',
        'postgres is a database',
      ]
      for (const content of [a, b, c]) await makeChunk(tenant, { content })

      expect(await find(tenant, '"red door"')).toEqual([a])
      expect(await find(tenant, 'door -house')).toEqual([b])
      expect(await find(tenant, 'wine or database')).toEqual([b, c].sort())
      expect(await find(tenant, 'postg*')).toEqual([c])
      expect(await find(tenant, 'door hou*')).toEqual([a])
      expect(await find(tenant, 'door -hou*')).toEqual([b])
      expect(await find(tenant, "o'b* \\'); * ** -* \"")).toEqual([])
      for (const dashes of ['-'.repeat(80), '- '.repeat(80), '-('.repeat(80)]) {
        expect(await find(tenant, dashes)).toEqual([])
        expect(await find(tenant, `wine ${dashes}\n"red as"`)).toEqual([b])
      }
      // Nothing that is meant as a word is taken for an operator.
      expect(await find(tenant, "wine' & !red:*")).toEqual([b])
    })
  })

  test('are not looked for without end', async ({ db }) => {
    const terms = async (query: string) =>
      only(
        await rowsOf<{ nodes: number }>(
          db,
          sql`select numnode(search.query_terms('simple', ${query})) as nodes`,
        ),
      ).nodes
    expect(await terms('a* '.repeat(3_000))).toBe(1)
    const letters = Array.from({ length: 26 }, (_, at) => String.fromCharCode(97 + at))
    // Sixteen, and fifteen times `and`.
    expect(await terms(letters.map((letter) => `${letter}*`).join(' '))).toBe(31)
    await inTenant(db, await makeScope(db), async (tenant) => {
      await makeChunk(tenant, { content: 'the harbour' })
      // What is behind the first thousand characters, and what they end within, is not looked for.
      const long = 'harbour '.repeat(124)
      expect(await find(tenant, `${long}the barn house`)).toEqual(['the harbour'])
      expect(await find(tenant, `${long}barn house`)).toEqual([])
    })
  })

  test('that are misspelt find what looks like them, where nothing has them', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      await makeChunk(tenant, { content: 'Tuning the Postgres planner' })
      await makeChunk(tenant, { content: 'Receive parcels', sourceType: 'mail' })

      const typo = await search(tenant, { query: 'postgers planer', explain: true })
      expect(contents(typo.matches)).toEqual(['Tuning the Postgres planner'])
      expect(typo.explain?.text).toMatchObject({ plan: 'similar words', found: 1 })
      expect(await find(tenant, 'parcells')).toEqual(['Receive parcels'])
      expect(await find(tenant, 'parcells', { sourceTypes: ['note'] })).toEqual([])
      expect(await find(tenant, 'parcells postgers')).toEqual([])
      expect(await find(tenant, 'zebra')).toEqual([])
    })
    await inTenant(db, await makeScope(db), async (tenant) => {
      expect(await find(tenant, 'parcells')).toEqual([])
    })
  })

  test('that are misspelt leave out what is excluded', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      const tuning = 'Tuning the Postgres planner'
      await makeChunk(tenant, { content: tuning })
      await makeChunk(tenant, { content: 'Die Planung mit Postgres', language: 'german' })

      expect(await find(tenant, 'postgers')).toHaveLength(2)
      expect(await find(tenant, 'postgers -planner')).toEqual(['Die Planung mit Postgres'])
      expect(await find(tenant, 'postgers -"die planung mit"')).toEqual([tuning])
      expect(await find(tenant, 'postgers -plan*')).toEqual([])
      expect(await find(tenant, 'postgers -zebra tuning')).toEqual([tuning])
      expect(await find(tenant, '-zebra" postgers')).toHaveLength(2)
    })
  })
})
