import { setTimeout as pause } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { rowsOf } from '../../src/database.ts'
import { type EmbeddingModel, embedTexts, hashingModel } from '../../src/embedding.ts'
import { ForbiddenError, ValidationError } from '../../src/errors.ts'
import { listChunks } from '../../src/queries/chunks.ts'
import { search } from '../../src/queries/search.ts'
import { type IndexSourceOptions, indexSource, removeSource } from '../../src/queries/sources.ts'
import { createSpace, retireSpace } from '../../src/queries/spaces.ts'
import { asService, inTenant, type Tenant } from '../../src/tenant.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { makeSpace } from '../../src/testing/search.ts'
import { root, test, url } from '../support/database.ts'

const source = { sourceType: 'note', sourceId: 'n1' }
const paragraph = (word: string) => `${word} `.repeat(12).trim()
const text = (...words: string[]) => words.map(paragraph).join('\n\n')
const cut = { chunkSize: 80, chunkOverlap: 0 }

/** The offline model, and what it was asked. */
function countingModel(): EmbeddingModel & { texts: string[] } {
  const model = hashingModel({ dimensions: 32 })
  const texts: string[] = []
  return {
    ...model,
    texts,
    doEmbed: (options) => {
      texts.push(...options.values)
      return model.doEmbed(options)
    },
  }
}

const hashingSpace = (...[db, space]: Parameters<typeof makeSpace>) =>
  makeSpace(db, { provider: 'plinth', model: 'hashing-32', dimensions: 32, ...space })

describe('indexSource', () => {
  test('embeds and replaces only what has changed', async ({ db }) => {
    const [model, space] = [countingModel(), await hashingSpace(db)]
    await inTenant(db, await makeScope(db), async (tenant) => {
      const index = (...words: string[]) =>
        indexSource(tenant, { ...source, ...cut, text: text(...words), model, space })

      expect(await index('alpha', 'beta', 'gamma')).toMatchObject({
        added: 3,
        kept: 0,
        embedded: 3,
      })
      const before = await listChunks(tenant, source)
      model.texts.length = 0
      expect(await index('beta', 'delta', 'alpha')).toEqual({
        ...{ chunks: 3, added: 1, kept: 2, removed: 1 },
        ...{ embedded: 1, embeddedTokens: expect.any(Number) },
      })

      expect(model.texts).toEqual([paragraph('delta')])
      const after = await listChunks(tenant, source)
      expect(after.map(({ content, position }) => [position, content.split(' ')[0]])).toEqual([
        [0, 'beta'],
        [1, 'delta'],
        [2, 'alpha'],
      ])
      expect(after[0]?.id).toBe(before[1]?.id)
      expect(after[2]?.id).toBe(before[0]?.id)
      expect(await index('beta', 'delta', 'alpha')).toMatchObject({
        kept: 3,
        added: 0,
        embedded: 0,
      })
    })
  })

  test('keeps the same passage twice where a text has it twice', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      const index = (...words: string[]) =>
        indexSource(tenant, { ...source, ...cut, text: text(...words) })

      await index('alpha', 'beta', 'alpha')
      expect(await index('alpha', 'alpha', 'alpha')).toMatchObject({
        kept: 2,
        added: 1,
        removed: 1,
      })
      expect(await listChunks(tenant, source)).toHaveLength(3)
    })
  })

  test('embeds what was indexed without a model, once there is one', async ({ db }) => {
    const [model, space] = [countingModel(), await hashingSpace(db)]
    await inTenant(db, await makeScope(db), async (tenant) => {
      const options = { ...source, ...cut, text: text('alpha', 'beta') }
      await indexSource(tenant, options)

      expect(await indexSource(tenant, { ...options, model, space })).toMatchObject({
        ...{ kept: 2, added: 0, embedded: 2 },
      })
    })
  })

  test('removes all for an empty text', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      await indexSource(tenant, { ...source, text: 'something' })

      expect(await indexSource(tenant, { ...source, text: ' \n' })).toMatchObject({
        ...{ chunks: 0, removed: 1 },
      })
      expect(await listChunks(tenant, source)).toEqual([])
    })
  })

  test('makes a source private with its vectors, and shared again', async ({ db }) => {
    const [model, space] = [countingModel(), await hashingSpace(db)]
    const owner = await makeScope(db)
    const [ann, ben] = [await joinScope(db, owner, 'editor'), await joinScope(db, owner)]
    const index = (visibility: 'private' | 'shared') =>
      inTenant(db, ann, (tenant) =>
        indexSource(tenant, { ...source, text: 'alpha', model, space, visibility }),
      )
    const { embeddings } = await embedTexts(model, ['alpha'])
    const seenByBen = () =>
      inTenant(db, ben, async (tenant) => {
        const vectors = await rowsOf(tenant.db, sql`select 1 from search.embeddings`)
        const { matches } = await search(tenant, { space, embedding: embeddings[0] })
        return [vectors.length, matches.length]
      })

    await index('shared')
    expect(await seenByBen()).toEqual([1, 1])
    await index('private')
    expect(await seenByBen()).toEqual([0, 0])
    await index('shared')
    expect(await seenByBen()).toEqual([1, 1])
  })

  test('leaves jobs for the other spaces of its purpose that are filled or searched', async ({
    db,
  }) => {
    const [model, active] = [countingModel(), await hashingSpace(db)]
    const another = (revision: string) =>
      hashingSpace(db, { purpose: active.purpose, revision, index: 'later' })
    const [building, retired] = [await another('2'), await another('3')]
    await hashingSpace(db)
    await retireSpace(db, retired.id)
    const owner = await makeScope(db)
    const member = await joinScope(db, owner)
    const queued = () =>
      inTenant(db, owner, (tenant) =>
        rowsOf<{ space: string }>(
          tenant.db,
          sql`select space_id as space from search.embedding_jobs order by space_id, chunk_id`,
        ),
      )

    await inTenant(db, member, (tenant) =>
      indexSource(tenant, { ...source, ...cut, text: text('alpha', 'beta'), model, space: active }),
    )
    expect(await queued()).toEqual([{ space: building.id }, { space: building.id }])

    await inTenant(db, member, (tenant) =>
      indexSource(tenant, { ...source, ...cut, text: text('beta', 'gamma') }),
    )
    // The job of alpha went with it; gamma lacks its vector in both.
    expect(await queued()).toEqual([active, building, building].map(({ id }) => ({ space: id })))

    await inTenant(db, member, (tenant) => removeSource(tenant, source))
    expect(await queued()).toEqual([])
  })

  test('keeps the hash of what a vector was made of', async ({ db }) => {
    const [model, space] = [countingModel(), await hashingSpace(db)]
    await inTenant(db, await makeScope(db), async (tenant) => {
      const index = () => indexSource(tenant, { ...source, text: 'alpha', model, space })
      await index()
      const different = sql`select 1 from search.embeddings e join search.chunks c on c.id = e.chunk_id
        where e.content_hash is distinct from c.content_hash`
      expect(await rowsOf(tenant.db, different)).toEqual([])

      await tenant.db.execute(sql`update search.embeddings set content_hash = sha256('old')`)
      expect(await index()).toMatchObject({ kept: 1, embedded: 1 })
      expect(await rowsOf(tenant.db, different)).toEqual([])
    })
  })

  test('keeps purpose and language of a source, and deletes the vectors of a former purpose', async ({
    db,
  }) => {
    const [model, space] = [countingModel(), await hashingSpace(db)]
    await inTenant(db, await makeScope(db), async (tenant) => {
      const index = (options: Partial<IndexSourceOptions> = {}) =>
        indexSource(tenant, { ...source, text: 'die Häuser', ...options })
      const read = async () => {
        const [chunk] = await listChunks(tenant, source)
        return [chunk?.purpose, chunk?.language]
      }
      await index()
      expect(await read()).toEqual(['text', 'english'])
      await index({ language: 'german', model, space })
      expect(await read()).toEqual([space.purpose, 'german'])
      await index({ text: 'die Gärten' })
      expect(await read()).toEqual([space.purpose, 'german'])

      await index({ model, space })
      await index({ purpose: 'image' })
      expect(await read()).toEqual(['image', 'german'])
      expect(await rowsOf(tenant.db, sql`select 1 from search.embeddings`)).toEqual([])
    })
  })

  test('is not for a viewer', async ({ db }) => {
    const viewer = await joinScope(db, await makeScope(db), 'viewer')

    const indexing = inTenant(db, viewer, (tenant) =>
      indexSource(tenant, { ...source, text: 'alpha' }),
    )

    await expect(indexing).rejects.toBeInstanceOf(ForbiddenError)
  })

  test('keeps what it is not told of a source that is there', async ({ db }) => {
    const owner = await makeScope(db)
    const ann = await joinScope(db, owner)
    const metadata = { page: 1 }
    await inTenant(db, ann, (tenant) =>
      indexSource(tenant, { ...source, text: 'alpha', visibility: 'private', metadata }),
    )

    for (const text of ['alpha', 'beta']) {
      await asService(db, owner.organizationId, (tenant) =>
        indexSource(tenant, { ...source, text }),
      )
      const [chunk] = await inTenant(db, ann, (tenant) => listChunks(tenant, source))
      expect(chunk).toMatchObject({
        content: text,
        ownerId: ann.userId,
        visibility: 'private',
        metadata,
      })
    }
  })

  test('is one source, whoever asks', async ({ db }) => {
    const owner = await makeScope(db)
    const [ann, ben] = [await joinScope(db, owner), await joinScope(db, owner)]
    const index = (scope: typeof ann) =>
      db.transaction((tx) =>
        inTenant(tx, scope, (tenant) =>
          indexSource(tenant, { ...source, text: 'alpha', visibility: 'private' }),
        ),
      )
    await index(ann)

    await expect(index(ben)).rejects.toMatchObject({ constraint: 'chunks_source_key' })
  })

  test('does not pretend to remove what the scope may only read', async ({ db }) => {
    const owner = await makeScope(db)
    await inTenant(db, owner, (tenant) => indexSource(tenant, { ...source, text: 'alpha' }))
    const refused = (scope: typeof owner, work: (tenant: Tenant) => Promise<unknown>) =>
      expect(db.transaction((tx) => inTenant(tx, scope, work))).rejects.toBeInstanceOf(
        ForbiddenError,
      )

    const [member, viewer] = [await joinScope(db, owner), await joinScope(db, owner, 'viewer')]
    await refused(member, (tenant) => indexSource(tenant, { ...source, text: 'beta' }))
    await refused(viewer, (tenant) => indexSource(tenant, { ...source, text: '' }))
    await refused(viewer, (tenant) => removeSource(tenant, source))
    const chunks = await inTenant(db, owner, (tenant) => listChunks(tenant, source))
    expect(chunks.map(({ content }) => content)).toEqual(['alpha'])
  })

  test.skipIf(!url)('makes a removal wait for it, so that no chunk loses its vector', async () => {
    const scope = await makeScope(root)
    const space = await makeSpace(root, { provider: 'slow', model: 'slow', dimensions: 2 })
    let noteCall = () => {}
    const model: EmbeddingModel = {
      ...{ specificationVersion: 'v2', provider: 'slow', modelId: 'slow' },
      maxEmbeddingsPerCall: 1,
      doEmbed: async ({ values }) => {
        noteCall()
        await pause(200)
        return { embeddings: values.map(({ length }) => [length, 1]) }
      },
    }
    const index = (...words: string[]) =>
      inTenant(root, scope, (tenant) =>
        indexSource(tenant, { ...source, ...cut, text: text(...words), model, space }),
      )
    await index('alpha', 'beta')

    const called = new Promise<void>((resolve) => {
      noteCall = resolve
    })
    const indexing = index('alpha', 'beta', 'gamma')
    await called
    const removed = await inTenant(root, scope, (tenant) => removeSource(tenant, source))

    expect([(await indexing).chunks, removed]).toEqual([3, 3])
    await inTenant(root, scope, async (tenant) => {
      const [chunks, vectors] = [
        await rowsOf(tenant.db, sql`select 1 from search.chunks`),
        await rowsOf(tenant.db, sql`select 1 from search.embeddings`),
      ]
      expect([chunks.length, vectors.length]).toEqual([0, 0])
    })
  })

  test('ends between two batches when it is told to, and leaves nothing', async ({ db }) => {
    const space = await hashingSpace(db)
    const abort = new AbortController()
    const model = countingModel()
    const stopping: EmbeddingModel = {
      ...model,
      maxEmbeddingsPerCall: 1,
      doEmbed: (options) => {
        abort.abort(new Error('enough'))
        return model.doEmbed(options)
      },
    }
    const scope = await makeScope(db)
    const indexing = db.transaction((tx) =>
      inTenant(tx, scope, (tenant) =>
        indexSource(tenant, {
          ...{ ...source, ...cut, text: text('alpha', 'beta') },
          ...{ model: stopping, space, signal: abort.signal },
        }),
      ),
    )

    await expect(indexing).rejects.toThrow('enough')
    expect(model.texts).toHaveLength(1)
    expect(await inTenant(db, scope, (tenant) => listChunks(tenant, source))).toEqual([])
  })

  test('never cuts a character in two', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      const emoji = '😀🎉👍🏽'.repeat(100)
      await indexSource(tenant, { ...source, text: `x${emoji}`, chunkSize: 51, chunkOverlap: 0 })

      const whole = (await listChunks(tenant, source)).map(({ content }) => content).join('')
      expect(whole).toBe(`x${emoji}`)
    })
  })

  test('refuses what it cannot serve before any SQL, and the transaction goes on', async ({
    db,
  }) => {
    const [model, space] = [countingModel(), await hashingSpace(db)]
    const other = await makeSpace(db)
    await inTenant(db, await makeScope(db), async (tenant) => {
      const refused: Partial<IndexSourceOptions>[] = [
        { text: 'a\0b' },
        { text: 'a\udfff' },
        { text: 'x'.repeat(10_000_000) },
        { sourceType: 'x'.repeat(41) },
        { sourceId: '' },
        { metadata: { a: Number.NaN } },
        { metadata: [] as unknown as Record<string, unknown> },
        { occurredAt: new Date(8.64e15) },
        { chunkSize: 1 },
        { chunkSize: 100, chunkOverlap: 100 },
        { visibility: 'public' as 'shared' },
        { visibility: 'private', ownerId: null },
        { model },
        { space },
        { model, space: other },
        { model, space, purpose: 'another' },
        { purpose: '' },
        { language: 'klingon' as 'german' },
        { model: { ...model, doEmbed: async () => ({ embeddings: [[0, 1]] }) }, space },
        { model: { ...model, doEmbed: async () => ({ embeddings: [] }) }, space },
        { model: { ...model, maxEmbeddingsPerCall: 0 }, space },
        { countTokens: () => Number.NaN },
        { countTokens: (text) => text.length / 4 },
      ]
      for (const options of refused) {
        const indexing = indexSource(tenant, { ...source, text: 'alpha', ...options })
        await expect(indexing).rejects.toBeInstanceOf(ValidationError)
      }
      expect(await indexSource(tenant, { ...source, text: 'alpha' })).toMatchObject({ added: 1 })
    })
  })

  test.skipIf(!url)('lets two writers of one source take turns', async () => {
    const scope = await makeScope(root)
    const index = (...words: string[]) =>
      inTenant(root, scope, (tenant) =>
        indexSource(tenant, { ...source, ...cut, text: text(...words) }),
      )

    await Promise.all([index('alpha', 'beta'), index('alpha', 'gamma'), index('beta', 'alpha')])

    const chunks = await inTenant(root, scope, (tenant) => listChunks(tenant, source))
    expect(chunks).toHaveLength(2)
    expect(new Set(chunks.map(({ position }) => position))).toEqual(new Set([0, 1]))
  })
})

describe('removeSource', () => {
  test('removes the chunks and vectors of one source alone', async ({ db }) => {
    const [model, space] = [countingModel(), await hashingSpace(db)]
    await inTenant(db, await makeScope(db), async (tenant) => {
      const index = (sourceId: string) =>
        indexSource(tenant, { ...source, sourceId, text: `alpha ${sourceId}`, model, space })
      await index('n1')
      await index('n2')

      expect(await removeSource(tenant, source)).toBe(1)
      expect(await removeSource(tenant, source)).toBe(0)
      const { matches: left } = await search(tenant, { query: 'alpha' })
      expect(left.map(({ sourceId }) => sourceId)).toEqual(['n2'])
      expect(await rowsOf(tenant.db, sql`select 1 from search.embeddings`)).toHaveLength(1)
    })
  })
})

describe('a space', () => {
  test('is made once, and takes as many dimensions as halfvec', async ({ db }) => {
    const options = { provider: 'x', model: 'huge', dimensions: 4_000, purpose: 'huge' }
    const space = await createSpace(db, options)
    expect(await createSpace(db, options)).toEqual(space)

    await inTenant(db, await makeScope(db), async (tenant: Tenant) => {
      const model: EmbeddingModel = {
        ...{ specificationVersion: 'v2', provider: 'x', modelId: 'huge' },
        maxEmbeddingsPerCall: undefined,
        doEmbed: async ({ values }) => ({
          embeddings: values.map(() => Array.from({ length: 4_000 }, (_, at) => Math.sin(at) * 9)),
        }),
      }
      const sourceType = 'x'.repeat(40)
      await indexSource(tenant, { sourceType, sourceId: 'a', text: 'alpha', model, space })
      const { embeddings } = await embedTexts(model, ['alpha'])

      const {
        matches: [match],
      } = await search(tenant, { space, embedding: embeddings[0] })

      expect(match?.similarity).toBeCloseTo(1, 3)
    })
  })
})
