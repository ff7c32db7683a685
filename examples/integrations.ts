import { Document } from '@langchain/core/documents'
import { embed, generateText, wrapLanguageModel } from 'ai'
import { MockEmbeddingModelV3, MockLanguageModelV3 } from 'ai/test'
import {
  connect,
  createOrganization,
  createSpace,
  findOrganizationBySlug,
  inTenant,
  migrate,
  spend,
  upsertUser,
} from 'plinth'
import { meteredModel, usageMiddleware } from 'plinth/ai-sdk'
import { PlinthVectorStore } from 'plinth/langchain'

// In the place of a provider's models, such as openai.embeddingModel('text-embedding-3-small').
const embedder = new MockEmbeddingModelV3({
  ...{ provider: 'openai.embedding', modelId: 'text-embedding-3-small' },
  doEmbed: async ({ values }) => ({
    embeddings: values.map((text) => [text.length, text.split(' ').length, 1]),
    ...{ usage: { tokens: 5 * values.length }, warnings: [] },
  }),
})
const talker = new MockLanguageModelV3({
  ...{ provider: 'openai.chat', modelId: 'gpt-5' },
  doGenerate: async () => ({
    ...{ content: [{ type: 'text', text: 'In ten days.' }], warnings: [] },
    finishReason: { unified: 'stop', raw: 'stop' },
    usage: {
      inputTokens: { total: 20, noCache: 20, cacheRead: 0, cacheWrite: 0 },
      outputTokens: { total: 4, text: 4, reasoning: 0 },
    },
  }),
})

const db = await connect()
await migrate(db)
const ada = await upsertUser(db, { provider: 'clerk', subject: 'ada', email: 'ada@example.com' })
const acme =
  (await findOrganizationBySlug(db, 'acme')) ??
  (await createOrganization(db, { slug: 'acme', name: 'Acme', ownerId: ada.id }))
const scope = { organizationId: acme.id, userId: ada.id }
const space = await createSpace(db, {
  ...{ provider: 'openai.embedding', model: 'text-embedding-3-small', dimensions: 3 },
})

// The AI SDK: what the models are asked is on the organization's ledger.
const ledger = { db, scope }
const model = meteredModel(embedder, { ledger, endpoint: '/api/ask' })
const { embedding } = await embed({ model, value: 'when are invoices paid' })
const middleware = usageMiddleware({ ledger, endpoint: '/api/ask' })
const { text } = await generateText({
  model: wrapLanguageModel({ model: talker, middleware }),
  prompt: 'When are invoices paid?',
})

// LangChain: the same chunks, policies and vectors, behind its VectorStore.
const embedDocuments = async (values: string[]) => (await model.doEmbed({ values })).embeddings
const store = await PlinthVectorStore.fromDocuments(
  [new Document({ pageContent: 'Invoices are paid in ten days.', metadata: { kind: 'terms' } })],
  { embedDocuments, embedQuery: async (query) => (await embedDocuments([query]))[0] ?? [] },
  { db, scope, space },
)
const retriever = store.asRetriever({ k: 4, filter: { kind: 'terms' } })
const [document] = await retriever.invoke('when are invoices paid')

const rows = await inTenant(db, scope, (tenant) =>
  spend(tenant, { by: 'model', since: new Date(Date.now() - 86_400_000) }),
)
console.log(embedding.length, text, document?.pageContent, rows.length)
await db.close()
