import { MockEmbeddingModelV3 } from 'ai/test'
import { expect, test } from 'vitest'
import { type EmbeddingModel, embedTexts, hashingModel, pricedProvider } from '../src/embedding.ts'
import { ValidationError } from '../src/errors.ts'

const dot = (a: number[], b: number[]) => a.reduce((sum, x, at) => sum + x * (b[at] ?? 0), 0)

test('the offline model is deterministic, of length 1, and near for texts that share words', async () => {
  const { embeddings } = await embedTexts(hashingModel(), [
    'The invoices were paid',
    'an invoice that is paid',
    'Cats sleep all day',
    '…',
  ])
  const [paid = [], invoice = [], cats = [], none = []] = embeddings

  expect((await embedTexts(hashingModel(), ['The invoices were paid'])).embeddings[0]).toEqual(paid)
  for (const vector of embeddings) expect(Math.hypot(...vector)).toBeCloseTo(1, 6)
  expect(dot(paid, invoice)).toBeGreaterThan(0.3)
  expect(Math.abs(dot(paid, cats))).toBeLessThan(0.15)
  expect(none).toHaveLength(384)
})

test('a model of the AI SDK is called as it wants to be, batch by batch', async () => {
  const batches: string[][] = []
  const model: EmbeddingModel = new MockEmbeddingModelV3({
    maxEmbeddingsPerCall: 2,
    doEmbed: async ({ values }) => {
      batches.push(values)
      const embeddings = values.map((value) => [value.length])
      return { embeddings, usage: { tokens: values.length * 3 }, warnings: [] }
    },
  })

  const embedded = await embedTexts(model, ['a', 'bb', 'ccc'])

  expect(embedded).toEqual({ embeddings: [[1], [2], [3]], tokens: 9, calls: 2 })
  expect(batches).toEqual([['a', 'bb'], ['ccc']])
})

test('prices know a provider by its first word, and without a slash', () => {
  expect(['openai.embedding', 'openai', 'my/own.embedding', '.x'].map(pricedProvider)).toEqual([
    ...['openai', 'openai', 'my_own', '.x'],
  ])
})

test('a model that answers with too few vectors is refused', async () => {
  const model = new MockEmbeddingModelV3({
    doEmbed: async () => ({ embeddings: [], warnings: [] }),
  })

  await expect(embedTexts(model, ['a'])).rejects.toBeInstanceOf(ValidationError)
})
