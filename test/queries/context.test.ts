import fc from 'fast-check'
import { describe, expect } from 'vitest'
import { ValidationError } from '../../src/errors.ts'
import { listContextLogs } from '../../src/queries/ai.ts'
import { type AssembleContextOptions, assembleContext } from '../../src/queries/context.ts'
import { removeSource } from '../../src/queries/sources.ts'
import { inTenant, type Tenant } from '../../src/tenant.ts'
import { joinScope, makeScope, unitVector } from '../../src/testing/factories.ts'
import { makeChunk, makeEmbedding, makeSpace } from '../../src/testing/search.ts'
import { test } from '../support/database.ts'

const countWords = (text: string) => text.split(/\s+/).filter(Boolean).length

/** A source of several chunks, in the order of the text. */
const write = async (tenant: Tenant, sourceId: string, contents: string[], chunk: object = {}) => {
  for (const [position, content] of contents.entries()) {
    await makeChunk(tenant, { sourceId, position, content, ...chunk })
  }
}

describe('a context', () => {
  test('has neighbours as one passage, in the order to read, with citations', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      await write(tenant, 'a', [
        'Of the harbour at night.',
        'at night. The harbour has lights.',
        'Nothing at all about it.',
        'A harbour once more.',
      ])
      await write(tenant, 'b', ['harbours'])

      const context = await assembleContext(tenant, { query: 'harbour', budgetTokens: 1_000 })

      expect(context.passages.map(({ sourceId, positions }) => [sourceId, ...positions])).toEqual([
        ['a', 0, 1],
        ['a', 3, 3],
        ['b', 0, 0],
      ])
      expect(context.text).toBe(
        '[1] Of the harbour at night. The harbour has lights.\n\n[2] A harbour once more.\n\n[3] harbours',
      )
      expect(context.totalTokens).toBe(Math.ceil(context.text.length / 4))
      expect(context.passages[0]?.chunkIds).toHaveLength(2)

      // The chunk between comes along if it is asked for: all of the source is one passage then.
      const { text } = await assembleContext(tenant, {
        ...{ query: 'harbour', budgetTokens: 1_000, neighbours: 1 },
      })
      expect(text).toContain('has lights.\nNothing at all about it.\nA harbour')
    })
  })

  test('takes no letter or word from neighbours that end and begin alike by chance', async ({
    db,
  }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      await write(tenant, 'a', [
        'The harbour has a cat',
        'the harbour',
        'harbour lights at night, and a long harbour pier of stone',
        'a long harbour pier of stone and wood',
      ])

      const { text } = await assembleContext(tenant, { query: 'harbour', budgetTokens: 1_000 })

      expect(text).toBe(
        [
          '[1] The harbour has a cat\nthe harbour',
          'harbour lights at night, and a long harbour pier of stone and wood',
        ].join('\n'),
      )
    })
  })

  test('has no neighbour that was left out for what it repeats', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      const text = 'The harbour of the old town has seven lights and one long pier of stone'
      await write(tenant, 'a', [text, `So they say: ${text.toLowerCase()}`])

      const context = await assembleContext(tenant, {
        ...{ query: 'harbour', budgetTokens: 1_000, neighbours: 1 },
      })

      expect(context).toMatchObject({ found: 2, duplicates: 1 })
      expect(context.passages[0]?.chunkIds).toHaveLength(1)
    })
  })

  test('says nothing twice', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      const text = 'The harbour of the old town has seven lights and one long pier of stone'
      await write(tenant, 'a', [text])
      await write(tenant, 'b', [text.toUpperCase()])
      await write(tenant, 'c', [`${text}, they say`])
      await write(tenant, 'd', ['Another harbour, of another town'])

      const context = await assembleContext(tenant, { query: 'harbour', budgetTokens: 1_000 })

      expect(context).toMatchObject({ found: 4, duplicates: 2 })
      expect(context.passages).toHaveLength(2)
    })
  })

  test('never has more tokens than the budget, nor than a source may have', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      for (let at = 0; at < 12; at += 1) {
        const words = Array.from({ length: 30 }, (_, word) => `w${at}x${word}`)
        await write(tenant, `s${at}`, [`harbour ${words.join(' ')}`], {
          sourceType: at % 2 ? 'page' : 'mail',
        })
      }
      await fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 1, max: 500 }),
          fc.integer({ min: 1, max: 200 }),
          async (budgetTokens, maxTokens) => {
            const { text, totalTokens, passages } = await assembleContext(tenant, {
              ...{ query: 'harbour', budgetTokens, countTokens: countWords },
              sources: [{ sourceTypes: ['page'], maxTokens }, { sourceTypes: ['mail'] }],
            })
            expect(totalTokens).toBe(countWords(text))
            expect(totalTokens).toBeLessThanOrEqual(budgetTokens)
            const ofPages = passages.filter(({ sourceType }) => sourceType === 'page')
            expect(ofPages.reduce((sum, { tokens }) => sum + tokens, 0)).toBeLessThanOrEqual(
              maxTokens,
            )
            expect(passages.filter(({ isCut }) => isCut).length).toBeLessThanOrEqual(2)
            // Nothing is left unused that the next match could fill.
            if (budgetTokens < 150) expect(totalTokens).toBeGreaterThan(budgetTokens - 16)
          },
        ),
        { numRuns: 40, endOnFailure: true },
      )
    })
  })

  test('is put together of what the member may see, by meaning too', async ({ db }) => {
    const space = await makeSpace(db)
    const owner = await makeScope(db)
    const ann = await joinScope(db, owner)
    await inTenant(db, owner, async (tenant) => {
      await makeEmbedding(tenant, { space, chunk: { content: 'for all' } })
      await makeEmbedding(tenant, {
        space,
        chunk: { content: 'of the owner', visibility: 'private' },
      })
    })
    const asked = { space, embedding: unitVector(1, 8), budgetTokens: 100 }
    const texts = async (scope: typeof ann) =>
      (await inTenant(db, scope, (tenant) => assembleContext(tenant, asked))).passages
        .map(({ text }) => text)
        .sort()
    expect(await texts(ann)).toEqual(['for all'])
    expect(await texts(owner)).toEqual(['for all', 'of the owner'])
  })

  test('is recorded when asked, and outlives its sources', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      await write(tenant, 'a', ['harbour'])
      const options = { query: 'harbour', budgetTokens: 50, record: true, model: 'some-model' }
      const { logId, passages, totalTokens } = await assembleContext(tenant, options)
      await removeSource(tenant, { sourceType: 'note', sourceId: 'a' })
      const [log] = await listContextLogs(tenant)
      expect(log).toMatchObject({
        ...{ id: logId, query: 'harbour', model: 'some-model', budgetTokens: 50, totalTokens },
        items: [{ chunkIds: passages[0]?.chunkIds, sourceId: 'a', positions: [0, 0], citation: 1 }],
      })
    })
  })

  test('of nothing is empty, and what it cannot serve is refused', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      const empty = await assembleContext(tenant, { query: 'harbour', budgetTokens: 50 })
      expect(empty).toEqual({ text: '', passages: [], totalTokens: 0, found: 0, duplicates: 0 })
      const refused: Partial<AssembleContextOptions>[] = [
        { budgetTokens: 0 },
        { budgetTokens: 1.5 },
        { sources: [] },
        { sources: [{ limit: 201 }] },
        { sources: [{ maxTokens: 0 }] },
        { neighbours: 6 },
        { query: '' },
      ]
      for (const options of refused) {
        await expect(
          assembleContext(tenant, { query: 'a', budgetTokens: 50, ...options }),
        ).rejects.toBeInstanceOf(ValidationError)
      }
    })
  })
})
