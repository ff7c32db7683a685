import { describe, expect } from 'vitest'
import { NotFoundError } from '../../src/errors.ts'
import { similarTo } from '../../src/queries/similar.ts'
import { inTenant } from '../../src/tenant.ts'
import { joinScope, makeScope, unitVector } from '../../src/testing/factories.ts'
import { makeChunk, makeEmbedding, makeSpace } from '../../src/testing/search.ts'
import { test } from '../support/database.ts'

describe('similarTo', () => {
  test('finds what is nearest to the mean of a source, without the source itself', async ({
    db,
  }) => {
    const space = await makeSpace(db)
    const owner = await makeScope(db)
    const ann = await joinScope(db, owner)
    const [one, two, third] = [unitVector(1, 8), unitVector(2, 8), unitVector(3, 8)]
    const mean = one.map((x, at) => x + (two[at] ?? 0))
    await inTenant(db, owner, async (tenant) => {
      const add = (content: string, embedding: number[], chunk: object = {}) =>
        makeEmbedding(tenant, { space, embedding, chunk: { content, ...chunk } })
      await add('a', one, { sourceId: 'it', position: 0 })
      await add('b', two, { sourceId: 'it', position: 1 })
      await add('between', mean)
      await add('the same place, another kind', mean, { sourceType: 'mail', sourceId: 'it' })
      await add(
        'far',
        third.map((x) => -x),
      )
      await makeChunk(tenant, { sourceId: 'no vector' })
      await add('hidden', mean, { sourceId: 'hidden', visibility: 'private' })
    })
    await inTenant(db, ann, async (tenant) => {
      const it = { sourceType: 'note', sourceId: 'it', space }
      const { matches } = await similarTo(tenant, it)
      expect(matches.map(({ content }) => content)).toEqual([
        'between',
        'the same place, another kind',
        'far',
      ])
      expect(matches[0]?.similarity).toBeCloseTo(1, 2)
      for (const sourceId of ['no vector', 'hidden', 'unknown']) {
        await expect(similarTo(tenant, { ...it, sourceId })).rejects.toBeInstanceOf(NotFoundError)
      }
    })
  })
})
