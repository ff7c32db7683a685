import { describe, expect } from 'vitest'
import { hashingModel } from '../../src/embedding.ts'
import { NotFoundError, ValidationError } from '../../src/errors.ts'
import { embedQuery } from '../../src/queries/asking.ts'
import { search } from '../../src/queries/search.ts'
import { indexSource } from '../../src/queries/sources.ts'
import { createSpace } from '../../src/queries/spaces.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { inTenant } from '../../src/tenant.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { test } from '../support/database.ts'

describe('embedQuery', () => {
  test('asks the model of the space that is active, whichever is given first', async ({ db }) => {
    const [wanted, other] = [hashingModel({ dimensions: 64 }), hashingModel({ dimensions: 32 })]
    const purpose = uuidV7()
    const { provider, modelId } = wanted
    const space = await createSpace(db, { provider, model: modelId, dimensions: 64, purpose })
    const scope = await makeScope(db)
    const source = { sourceType: 'note', sourceId: 'a', text: 'Invoices are paid in ten days.' }
    await inTenant(db, scope, (tenant) => indexSource(tenant, { ...source, model: wanted, space }))

    const asked = await embedQuery(db, {
      ...{ query: 'When is an invoice paid?', models: [other, wanted], purpose },
    })

    expect(asked.space.id).toBe(space.id)
    const { matches } = await inTenant(db, scope, (tenant) => search(tenant, asked))
    expect(matches[0]).toMatchObject({ sourceId: 'a', vectorRank: 1, textRank: 1 })
    const query = 'anything'
    await expect(embedQuery(db, { query, models: [other], purpose })).rejects.toMatchObject({
      name: 'ValidationError',
      argument: 'models',
    })
    const none = embedQuery(db, { query, models: [wanted], purpose: uuidV7() })
    await expect(none).rejects.toBeInstanceOf(NotFoundError)
    const short = { ...wanted, doEmbed: async () => ({ embeddings: [[1, 2]] }) }
    for (const options of [
      { query, models: [], purpose },
      { query: '', models: [wanted], purpose },
      { query, models: [short], purpose },
    ]) {
      await expect(embedQuery(db, options)).rejects.toBeInstanceOf(ValidationError)
    }
  })
})
