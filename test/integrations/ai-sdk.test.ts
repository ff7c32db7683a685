import {
  embed,
  embedMany,
  generateText,
  type ModelMessage,
  streamText,
  wrapLanguageModel,
} from 'ai'
import { MockEmbeddingModelV3, MockLanguageModelV3, simulateReadableStream } from 'ai/test'
import { describe, expect } from 'vitest'
import type { Database } from '../../src/database.ts'
import { type EmbeddingModel, hashingModel } from '../../src/embedding.ts'
import { ValidationError } from '../../src/errors.ts'
import { meteredModel, usageMiddleware } from '../../src/integrations/ai-sdk.ts'
import { createPrice } from '../../src/queries/prices.ts'
import { search } from '../../src/queries/search.ts'
import { indexSource } from '../../src/queries/sources.ts'
import { listUsage } from '../../src/queries/usage.ts'
import { inTenant, type Scope } from '../../src/tenant.ts'
import { joinScope, makeScope, unitVector } from '../../src/testing/factories.ts'
import { makeSpace } from '../../src/testing/search.ts'
import { test } from '../support/database.ts'

const makeModel = (tokens: number | undefined = 7) =>
  new MockEmbeddingModelV3({
    provider: 'openai.embedding',
    modelId: 'text-embedding-3-small',
    maxEmbeddingsPerCall: 2,
    supportsParallelCalls: true,
    doEmbed: async ({ values }) => ({
      embeddings: values.map((text) => unitVector(text.length, 8)),
      usage: tokens === undefined ? undefined : { tokens: tokens * values.length },
      warnings: [],
    }),
  })

const usageOf = (db: Database, scope: Scope) => inTenant(db, scope, (tenant) => listUsage(tenant))

type ToolCall = { type: 'tool-call'; toolCallId: string; toolName: string; input: string }
const delta = (text: string) => ({ type: 'text-delta' as const, id: '1', delta: text })

const asked: ModelMessage = {
  role: 'assistant',
  content: [{ type: 'tool-call', toolCallId: '1', toolName: 'look', input: { at: 1 } }],
}
const answered: ModelMessage = {
  role: 'tool',
  content: [
    {
      ...{ type: 'tool-result', toolCallId: '1', toolName: 'look' },
      output: {
        type: 'content',
        value: [
          { type: 'text', text: 'seen'.repeat(10) },
          { type: 'image-data', data: 'A'.repeat(4_000), mediaType: 'image/png' },
        ],
      },
    },
    {
      ...{ type: 'tool-result', toolCallId: '1', toolName: 'look' },
      output: { type: 'text', value: 'read'.repeat(10) },
    },
  ],
}

const usage = {
  inputTokens: { total: 100, noCache: 60, cacheRead: 30, cacheWrite: 10 },
  outputTokens: { total: 50, text: 30, reasoning: 20 },
}
const finishReason = { unified: 'stop', raw: 'stop' } as const
const recorded = {
  ...{ provider: 'test', model: 'talker', operation: 'chat', inputTokens: 100, outputTokens: 50 },
  ...{ cacheReadTokens: 30, cacheWriteTokens: 10, reasoningTokens: 20 },
}

describe('meteredModel', () => {
  test('serves embed and embedMany, and puts each call on record', async ({ db }) => {
    const scope = await makeScope(db)
    const model = meteredModel(makeModel(), {
      ...{ ledger: { db, scope }, operation: 'indexing', endpoint: '/api/index' },
    })

    const one = await embed({ model, value: 'hello' })
    expect(one.embedding).toEqual(unitVector(5, 8))
    const many = await embedMany({ model, values: ['a', 'bb', 'ccc'] })
    expect(many.embeddings).toEqual([1, 2, 3].map((seed) => unitVector(seed, 8)))
    expect(many.usage.tokens).toBe(21)

    const calls = await usageOf(db, scope)
    expect(calls.map(({ embeddingTokens }) => embeddingTokens).sort()).toEqual([14, 7, 7])
    expect(calls[0]).toMatchObject({
      ...{ provider: 'openai', model: 'text-embedding-3-small', operation: 'indexing' },
      ...{ endpoint: '/api/index', userId: scope.userId, latencyMs: expect.any(Number) },
    })
  })

  test('is a model for indexSource and search, within their transaction', async ({ db }) => {
    const scope = await makeScope(db)
    const space = await makeSpace(db, {
      ...{ provider: 'openai.embedding', model: 'text-embedding-3-small' },
    })
    await inTenant(db, scope, async (tenant) => {
      const model = meteredModel(makeModel(), { ledger: { tenant } })
      const source = { sourceType: 'note', sourceId: 'n', text: 'hello world' }
      expect(await indexSource(tenant, { ...source, model, space })).toMatchObject({ embedded: 1 })
      const { embedding } = await embed({ model, value: 'hello world' })
      const { matches } = await search(tenant, { embedding, space })
      expect(matches[0]).toMatchObject({ sourceId: 'n', similarity: expect.closeTo(1, 2) })
      expect(await listUsage(tenant)).toHaveLength(2)
    })
  })

  test('counts as an estimate what the provider does not count', async ({ db }) => {
    const scope = await makeScope(db)
    const model = meteredModel(makeModel(undefined) as EmbeddingModel, {
      ...{ ledger: { db, organizationId: scope.organizationId }, countTokens: () => 3 },
    })
    await model.doEmbed({ values: ['a', 'b'] })
    expect((await usageOf(db, scope))[0]).toMatchObject({ embeddingTokens: 14, userId: null })

    const silent: EmbeddingModel = {
      ...{ specificationVersion: 'v2', provider: 'x', modelId: 'y', maxEmbeddingsPerCall: 5 },
      doEmbed: async ({ values }) => ({ embeddings: values.map(() => [1]) }),
    }
    const other = meteredModel(silent, { ledger: { db, scope }, countTokens: () => 3 })
    await other.doEmbed({ values: ['a', 'b'] })
    expect((await usageOf(db, scope))[0]).toMatchObject({ embeddingTokens: 6, provider: 'x' })
  })

  test('loses no vectors to a ledger that fails, and no call to it either', async ({ db }) => {
    const scope = await makeScope(db)
    const failures: [unknown, number][] = []
    const ledger: { db: Database; scope: Scope } = {
      ...{ db, scope: { ...scope, userId: crypto.randomUUID() } },
    }
    const model = meteredModel(makeModel(), {
      ledger,
      onLedgerError: (...failure) => failures.push(failure),
    })

    expect((await embed({ model, value: 'hello' })).embedding).toHaveLength(8)
    expect((await embed({ model, value: 'hello' })).embedding).toHaveLength(8)
    expect(failures.map(([, waiting]) => waiting)).toEqual([1, 2])
    await expect(model.flush()).rejects.toMatchObject({ reason: 'not_a_member' })
    expect(await usageOf(db, scope)).toHaveLength(0)

    ledger.scope = scope
    await model.flush()
    await model.flush()
    expect(await usageOf(db, scope)).toHaveLength(2)
  })

  test('gives up a call that no ledger takes, and records the others', async ({ db }) => {
    const scope = await makeScope(db)
    const failures: [unknown, number][] = []
    const counts = [0.5, 1, 1]
    const model = meteredModel(makeModel(Number.NaN), {
      ...{ ledger: { db, scope }, countTokens: () => counts.shift() ?? 0 },
      onLedgerError: (...failure) => failures.push(failure),
    })

    for (const value of ['a', 'b', 'c']) await embed({ model, value })

    expect(failures).toEqual([[expect.any(ValidationError), 0]])
    // Whose provider has not said how many tokens they had.
    const calls = await usageOf(db, scope)
    expect(calls.map(({ embeddingTokens, status }) => [embeddingTokens, status])).toEqual([
      [1, 'unpriced'],
      [1, 'unpriced'],
    ])
  })

  test('keeps a failing ledger from aborting the transaction of its tenant', async ({ db }) => {
    const owner = await makeScope(db)
    // A member may not record in another one's name.
    await inTenant(db, await joinScope(db, owner), async (tenant) => {
      const failures: unknown[] = []
      const model = meteredModel(makeModel(), {
        ...{ ledger: { tenant }, userId: owner.userId, onLedgerError: (e) => failures.push(e) },
      })
      const values = ['a', 'b', 'c', 'd', 'e']
      expect((await embedMany({ model, values })).embeddings).toHaveLength(5)
      expect(failures).toHaveLength(3)
      expect(await listUsage(tenant)).toEqual([])
    })
  })
})

describe('usageMiddleware', () => {
  const talker = () =>
    new MockLanguageModelV3({
      provider: 'test.chat',
      modelId: 'talker',
      doGenerate: async () => ({
        ...{ content: [{ type: 'text', text: 'hi' }], finishReason, usage, warnings: [] },
      }),
      doStream: async () => ({
        stream: simulateReadableStream({
          chunks: [
            { type: 'text-start', id: '1' },
            { type: 'text-delta', id: '1', delta: 'hi' },
            { type: 'text-end', id: '1' },
            { type: 'finish', finishReason, usage },
          ],
        }),
      }),
    })

  test('puts generateText on record', async ({ db }) => {
    const scope = await makeScope(db)
    const middleware = usageMiddleware({ ledger: { db, scope } })
    const model = wrapLanguageModel({ model: talker(), middleware })

    expect((await generateText({ model, prompt: 'hello' })).text).toBe('hi')
    expect(await usageOf(db, scope)).toMatchObject([recorded])
  })

  test('puts streamText on record when it ends', async ({ db }) => {
    const scope = await makeScope(db)
    const middleware = usageMiddleware({ ledger: { db, scope } })
    const model = wrapLanguageModel({ model: talker(), middleware })

    const { textStream } = streamText({ model, prompt: 'hello' })
    let text = ''
    for await (const part of textStream) text += part
    expect(text).toBe('hi')
    expect(await usageOf(db, scope)).toMatchObject([recorded])
  })

  test('estimates from the texts what the provider does not count, generated or streamed', async ({
    db,
  }) => {
    const scope = await makeScope(db)
    await createPrice(db, {
      ...{ provider: 'test', model: 'silent', unit: 'input', nanosPerMillion: 1_000_000n },
    })
    await createPrice(db, {
      ...{ provider: 'test', model: 'silent', unit: 'output', nanosPerMillion: 1_000_000n },
    })
    const silence = {
      inputTokens: { total: undefined, noCache: undefined, cacheRead: 7, cacheWrite: undefined },
      outputTokens: { total: undefined, text: undefined, reasoning: undefined },
    }
    const toolCall = { type: 'tool-call', toolCallId: '1', toolName: 'look', input: '{"at":1}' }
    const silent = new MockLanguageModelV3({
      ...{ provider: 'test.chat', modelId: 'silent' },
      doGenerate: async () => ({
        content: [{ type: 'text', text: 'x'.repeat(40) }, toolCall as ToolCall],
        ...{ finishReason, usage: silence, warnings: [] },
      }),
      doStream: async () => ({
        stream: simulateReadableStream({
          chunks: [
            { type: 'text-start', id: '1' },
            ...Array.from({ length: 40 }, () => delta('x')),
            { type: 'text-end', id: '1' },
            toolCall as ToolCall,
            { type: 'finish', finishReason, usage: silence },
          ],
        }),
      }),
    })
    const options = { ledger: { db, scope } }
    const model = wrapLanguageModel({ model: silent, middleware: usageMiddleware(options) })
    const ask = { model, system: 's'.repeat(20), prompt: 'p'.repeat(60) }

    await generateText(ask)
    await streamText(ask).consumeStream()
    await generateText({ ...ask, system: undefined, prompt: 'p' })
    await generateText({ model, messages: [asked, answered] })
    const countTokens = () => {
      throw new Error('no tokenizer')
    }
    const middleware = usageMiddleware({ ...options, countTokens })
    await generateText({ ...ask, model: wrapLanguageModel({ model: silent, middleware }) })
    const estimated = { status: 'estimated', inputTokens: 20, outputTokens: 12, costNanos: 32n }
    expect((await usageOf(db, scope)).toReversed()).toMatchObject([
      ...[estimated, estimated],
      // Of which seven were read from a cache, as it does say.
      { status: 'estimated', inputTokens: 7, cacheReadTokens: 7 },
      // {"at":1}, 'seen' and 'read', and no image.
      { status: 'estimated', inputTokens: 2 + 10 + 10 },
      estimated,
    ])
  })

  test('refuses a provider that no price can have', async ({ db }) => {
    const scope = await makeScope(db)
    const options = { ledger: { db, scope }, provider: 'a/b' }
    expect(() => usageMiddleware(options)).toThrow(ValidationError)
    expect(() => meteredModel(makeModel(), options)).toThrow(ValidationError)
  })
})

test('the offline model is one of the AI SDK, metered or not', async ({ db }) => {
  const scope = await makeScope(db)
  const model = hashingModel({ dimensions: 32 })
  const { embeddings } = await embedMany({ model, values: ['one', 'two'] })
  const metered = meteredModel(model, { ledger: { db, scope } })
  expect((await embed({ model: metered, value: 'two' })).embedding).toEqual(embeddings[1])
  expect(await usageOf(db, scope)).toMatchObject([{ model: 'hashing-32', status: 'unpriced' }])
})
