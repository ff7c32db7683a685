import { describe, expect } from 'vitest'
import type { Database } from '../../src/database.ts'
import type { EmbeddingModel } from '../../src/embedding.ts'
import { ValidationError } from '../../src/errors.ts'
import { type CompareSpacesOptions, compareSpaces } from '../../src/queries/comparison.ts'
import { fillSpace } from '../../src/queries/filling.ts'
import { search } from '../../src/queries/search.ts'
import { createSpace } from '../../src/queries/spaces.ts'
import { inTenant } from '../../src/tenant.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { makeChunk } from '../../src/testing/search.ts'
import { test } from '../support/own-database.ts'

const CONTENTS = ['a', 'b', 'c', 'd']

/** A model that puts each content at an angle of its own, so that their order is known. */
function angles(modelId: string, order: string): EmbeddingModel {
  return {
    ...{ specificationVersion: 'v2', provider: 'test', modelId, maxEmbeddingsPerCall: 10 },
    doEmbed: async ({ values }) => ({
      embeddings: values.map((text) => {
        const angle = order.includes(text) ? (order.indexOf(text) + 1) / 4 : 0
        return [Math.cos(angle), Math.sin(angle)]
      }),
    }),
  }
}

/** Two spaces of the same four chunks, in which a query finds them in the orders given. */
async function setup(db: Database, oldOrder: string, newOrder: string) {
  const purpose = crypto.randomUUID()
  const make = async (modelId: string, order: string) => ({
    model: angles(modelId, order),
    space: await createSpace(db, { provider: 'test', model: modelId, dimensions: 2, purpose }),
  })
  const both = { old: await make('old', oldOrder), new: await make('new', newOrder) }
  const scope = await makeScope(db)
  await inTenant(db, scope, async (tenant) => {
    for (const content of CONTENTS) await makeChunk(tenant, { content, purpose })
  })
  for (const one of [both.old, both.new]) await fillSpace(db, one)
  const compare = (options: Partial<CompareSpacesOptions> = {}) =>
    inTenant(db, scope, (tenant) => compareSpaces(tenant, { queries: ['?'], ...both, ...options }))
  return { scope, both, compare }
}

describe('compareSpaces', () => {
  test('says that two are the same', async ({ db }) => {
    const { compare } = await setup(db, 'abcd', 'abcd')

    const { queries, ...means } = await compare()

    expect(means).toEqual({ k: 10, meanOverlap: 1, meanTau: 1 })
    expect(queries).toMatchObject([
      { query: '?', overlap: 1, tau: 1, oldTop: { content: 'a' }, newTop: { content: 'a' } },
    ])
  })

  test('says that one is the reverse of the other', async ({ db }) => {
    const { compare } = await setup(db, 'abcd', 'dcba')

    expect((await compare()).queries).toMatchObject([
      { overlap: 1, tau: -1, oldTop: { content: 'a' }, newTop: { content: 'd' } },
    ])
  })

  test('looks at the first k, with all that is not among them tied behind', async ({ db }) => {
    const { compare } = await setup(db, 'abcd', 'bcda')
    // Old a b, new b c; over a b c the places are 0 1 2 and 2 0 1: of three pairs, one agrees.
    expect((await compare({ k: 2 })).queries).toMatchObject([{ overlap: 0.5 }])
    expect((await compare({ k: 2 })).queries[0]?.tau).toBeCloseTo(-1 / 3, 6)
    // Old a, new b: one pair, in reverse.
    expect((await compare({ k: 1 })).queries).toMatchObject([{ overlap: 0, tau: -1 }])
  })

  test('puts what one has not found behind all that it has', async ({ db }) => {
    const { compare } = await setup(db, 'abcd', 'abdc')
    // Old a b c, new a b d: all pairs agree but that of c and d.
    expect((await compare({ k: 3 })).queries[0]?.tau).toBeCloseTo(4 / 6, 6)
  })

  test('counts ties as tau-b does', async ({ db }) => {
    const { compare } = await setup(db, 'abcd', 'cdab')
    // Old a b, new c d; places 0 1 2 2 and 2 2 0 1. Of six pairs one is tied in each; four disagree.
    const { queries } = await compare({ k: 2 })
    expect(queries[0]?.tau).toBeCloseTo(-4 / 5, 6)
  })

  test('has nothing to say of an order where there is none', async ({ db }) => {
    const { compare } = await setup(db, 'abcd', 'abcd')
    const nothing = { filters: { sourceTypes: ['nothing'] } }

    expect(await compare(nothing)).toMatchObject({
      ...{ meanOverlap: 1, meanTau: null, queries: [{ overlap: 1, tau: null, oldTop: undefined }] },
    })
    expect(await compare({ queries: [] })).toEqual({
      ...{ k: 10, queries: [], meanOverlap: null, meanTau: null },
    })
  })

  test('takes the latest different queries on record', async ({ db }) => {
    const { scope, both } = await setup(db, 'abcd', 'abcd')
    await inTenant(db, scope, async (tenant) => {
      for (const query of ['x', 'y', 'x']) await search(tenant, { query, record: true })

      const { queries } = await compareSpaces(tenant, both)

      expect(queries.map(({ query }) => query)).toEqual(['x', 'y'])
    })
  })

  test('refuses what it cannot serve', async ({ db }) => {
    const { both, compare } = await setup(db, 'abcd', 'abcd')
    const refused: Partial<CompareSpacesOptions>[] = [
      { k: 0 },
      { k: 201 },
      { queries: [''] },
      { queries: Array.from({ length: 51 }, () => 'x') },
      { old: { ...both.old, model: both.new.model } },
      { new: { ...both.new, model: both.old.model } },
      { filters: { ownerId: 'x' } },
    ]
    for (const options of refused) {
      await expect(compare(options)).rejects.toBeInstanceOf(ValidationError)
    }
  })
})
