import { Document } from '@langchain/core/documents'
import type { EmbeddingsInterface } from '@langchain/core/embeddings'
import { VectorStore } from '@langchain/core/vectorstores'
import { describe, expect } from 'vitest'
import type { Database } from '../../src/database.ts'
import { hashingModel } from '../../src/embedding.ts'
import { ForbiddenError, ValidationError } from '../../src/errors.ts'
import { PlinthVectorStore } from '../../src/integrations/langchain.ts'
import { listChunks } from '../../src/queries/chunks.ts'
import { inTenant } from '../../src/tenant.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { makeSpace } from '../../src/testing/search.ts'
import { test } from '../support/database.ts'

const model = hashingModel({ dimensions: 64 })
const embedDocuments = async (values: string[]) => (await model.doEmbed({ values })).embeddings
const embeddings: EmbeddingsInterface = {
  embedDocuments,
  embedQuery: async (text) => (await embedDocuments([text]))[0] ?? [],
}

async function prepare(db: Database) {
  const space = await makeSpace(db, { provider: 'plinth', model: 'hashing-64', dimensions: 64 })
  const scope = await makeScope(db)
  return { scope, space, options: { db, scope, space } }
}

const DOCUMENTS = [
  ['apples and pears in the garden', { kind: 'fruit', year: 2020 }],
  ['apples and plums in the garden', { kind: 'fruit', year: 2021 }],
  ['trains to the northern coast', { kind: 'travel', year: 2021 }],
] as const
const documents = () =>
  DOCUMENTS.map(([pageContent, metadata]) => new Document({ pageContent, metadata }))

const contents = (found: { pageContent: string }[]) => found.map((one) => one.pageContent)

describe('PlinthVectorStore', () => {
  test('finds documents with their metadata and ids, nearest first', async ({ db }) => {
    const { options } = await prepare(db)
    const store = new PlinthVectorStore(embeddings, options)
    const ids = await store.addDocuments(documents())

    expect(store).toBeInstanceOf(VectorStore)
    expect(new Set(ids).size).toBe(3)
    const found = await store.similaritySearchWithScore('trains to the coast', 3)
    expect(found[0]?.[0]).toMatchObject({
      ...{ pageContent: DOCUMENTS[2][0], metadata: DOCUMENTS[2][1], id: ids[2] },
    })
    const scores = found.map(([, score]) => score)
    expect(scores).toEqual([...scores].sort((a, b) => b - a))
    expect(await store.similaritySearch('apples', 1)).toHaveLength(1)
    expect(await store.similaritySearch('apples')).toHaveLength(3)
  })

  test('filters by metadata', async ({ db }) => {
    const { options } = await prepare(db)
    const store = await PlinthVectorStore.fromDocuments(documents(), embeddings, options)

    const search = (filter: PlinthVectorStore['FilterType']) =>
      store.similaritySearch('apples', 10, filter).then((found) => contents(found).sort())
    expect(await search({ kind: 'travel' })).toEqual([DOCUMENTS[2][0]])
    expect(await search({ kind: 'fruit', year: { gte: 2021 } })).toEqual([DOCUMENTS[1][0]])
    expect(await search({ kind: ['fruit', 'travel'] })).toHaveLength(3)
    expect(await search({})).toHaveLength(3)
    expect(await search({ kind: 'none' })).toEqual([])
  })

  test('is a retriever, by similarity and by MMR', async ({ db }) => {
    const { options } = await prepare(db)
    const texts = DOCUMENTS.map(([text]) => text)
    const store = await PlinthVectorStore.fromTexts(
      [...texts, DOCUMENTS[0][0]],
      { kind: 'any' },
      embeddings,
      options,
    )

    const nearest = await store.asRetriever(2).invoke('apples and pears')
    expect(contents(nearest)).toEqual([texts[0], texts[0]])
    expect(nearest[0]?.metadata).toEqual({ kind: 'any' })
    const diverse = await store
      .asRetriever({ k: 2, searchType: 'mmr', searchKwargs: { fetchK: 4, lambda: 0.2 } })
      .invoke('apples and pears')
    expect(contents(diverse)).toEqual([texts[0], texts[2]])
    const filtered = await store.asRetriever({ k: 2, filter: { kind: 'none' } }).invoke('apples')
    expect(filtered).toEqual([])
    expect(await store.maxMarginalRelevanceSearch('x', { k: 2, filter: { kind: 'no' } })).toEqual(
      [],
    )
  })

  test('replaces a document under its id, and deletes by id', async ({ db }) => {
    const { options } = await prepare(db)
    const store = new PlinthVectorStore(embeddings, options)
    const two = documents().slice(0, 2)
    expect(await store.addDocuments(two, { ids: ['a', 'b'] })).toEqual(['a', 'b'])
    const changed = new Document({ pageContent: 'ships', metadata: { kind: 'sea' }, id: 'a' })
    expect(await store.addDocuments([changed])).toEqual(['a'])
    const named = new Document({ pageContent: 'planes', metadata: { sourceId: 'c' } })
    expect(await store.addDocuments([named])).toEqual(['c'])

    const all = await store.similaritySearch('anything', 10)
    expect(all.map(({ id }) => id).sort()).toEqual(['a', 'b', 'c'])
    expect(all.find(({ id }) => id === 'a')).toMatchObject({ pageContent: 'ships' })
    await store.delete({ ids: ['a', 'c', 'unknown'] })
    expect((await store.similaritySearch('anything', 10)).map(({ id }) => id)).toEqual(['b'])
    await store.delete({ ids: ['b'] })
    expect(await store.similaritySearch('anything', 10)).toEqual([])
  })

  test('leaves a document that it replaces whose it was, and as private', async ({ db }) => {
    const { scope, options } = await prepare(db)
    const store = new PlinthVectorStore(embeddings, options)
    const mine = new PlinthVectorStore(embeddings, { ...options, visibility: 'private' })
    await mine.addDocuments(documents().slice(0, 1), { ids: ['a'] })

    await store.addDocuments(documents().slice(1), { ids: ['a', 'b'] })

    const seen = { db, scope: await joinScope(db, scope), space: options.space }
    const found = await new PlinthVectorStore(embeddings, seen).similaritySearch('apples', 10)
    expect(found.map(({ id }) => id)).toEqual(['b'])
    expect(contents(await store.similaritySearch('apples', 1))).toEqual([DOCUMENTS[1][0]])
  })

  test('takes the vectors that it is given, also other ones for the same text', async ({ db }) => {
    const { options } = await prepare(db)
    const store = new PlinthVectorStore(embeddings, options)
    const document = new Document({ pageContent: 'zebra', metadata: {}, id: 'z' })
    const [ships = [], trains = []] = await embedDocuments(['ships', 'trains'])

    for (const vector of [ships, trains]) {
      await store.addVectors([vector], [document])
      const [found] = await store.similaritySearchVectorWithScore(vector, 1)
      expect(found?.[0].id).toBe('z')
      expect(found?.[1]).toBeCloseTo(1, 2)
    }
  })

  test('refuses what does not fit, and writes nothing of it', async ({ db }) => {
    const { options } = await prepare(db)
    const store = new PlinthVectorStore(embeddings, options)
    const [vector = []] = await embedDocuments(['x'])

    await expect(store.addVectors([vector, [1]], documents().slice(1))).rejects.toThrow(
      ValidationError,
    )
    await expect(store.addVectors([vector], documents())).rejects.toThrow(ValidationError)
    await expect(store.addDocuments(documents(), { ids: ['a'] })).rejects.toThrow(ValidationError)
    await expect(store.similaritySearch('x', 201)).rejects.toThrow(ValidationError)
    expect(await store.similaritySearch('x', 10)).toEqual([])
  })

  test('shows and writes what its member may, in its own organization', async ({ db }) => {
    const { space, scope, options } = await prepare(db)
    const own = new PlinthVectorStore(embeddings, { ...options, visibility: 'private' })
    await own.addDocuments(documents(), { ids: ['a', 'b', 'c'] })
    const viewer = await joinScope(db, scope, 'viewer')
    const seen = new PlinthVectorStore(embeddings, { ...options, scope: viewer })
    const foreign = new PlinthVectorStore(embeddings, { ...options, scope: await makeScope(db) })
    const other = new PlinthVectorStore(embeddings, { ...options, sourceType: 'note' })

    expect(await own.similaritySearch('apples', 10)).toHaveLength(3)
    for (const store of [seen, foreign, other]) {
      expect(await store.similaritySearch('apples', 10)).toEqual([])
    }
    await expect(seen.addDocuments(documents())).rejects.toThrow(ForbiddenError)
    await inTenant(db, scope, async (tenant) => {
      const [chunk] = await listChunks(tenant, { sourceType: 'document', sourceId: 'a' })
      expect(chunk).toMatchObject({ visibility: 'private', position: 0 })
    })
    expect(space.dimensions).toBe(64)
  })

  test('puts neither the database nor the scope into traces', async ({ db }) => {
    const { scope, options } = await prepare(db)
    const json = JSON.stringify(new PlinthVectorStore(embeddings, options))
    expect(json).not.toContain(scope.organizationId)
    expect(json).not.toContain(scope.userId)
  })
})
