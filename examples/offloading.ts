import { setTimeout as pause } from 'node:timers/promises'
import {
  connect,
  createNamespace,
  createOrganization,
  createSpace,
  embedTexts,
  findOrganizationBySlug,
  hashingModel,
  indexSource,
  inTenant,
  migrate,
  upsertUser,
} from 'plinth'
import { lancedbStore, reconcileNamespace, searchPlaced, syncNamespace } from 'plinth/stores'

const db = await connect()
await migrate(db)
const ada = await upsertUser(db, { provider: 'clerk', subject: 'ada', email: 'ada@example.com' })
const acme =
  (await findOrganizationBySlug(db, 'acme')) ??
  (await createOrganization(db, { slug: 'acme', name: 'Acme', ownerId: ada.id }))
const scope = { organizationId: acme.id, userId: ada.id }
const model = hashingModel()
const { provider, modelId } = model
const space = await createSpace(db, { provider, model: modelId, dimensions: 384 })
await inTenant(db, scope, (tenant) =>
  indexSource(tenant, {
    ...{ sourceType: 'document', sourceId: 'invoices', text: 'Invoices are paid in ten days.' },
    ...{ model, space },
  }),
)

// Once: where the vectors of the space are to be.
const store = lancedbStore({ uri: 'vectors' })
const namespace = await createNamespace(db, {
  ...{ spaceId: space.id, provider: store.name, name: 'text-1' },
})

// As a job, every minute or after each import.
const { upserted, stopped } = await syncNamespace(db, { namespace: namespace.id, store })
if (stopped) await pause(10_000)

// As a job, every night.
const report = await reconcileNamespace(db, { namespace: namespace.id, store, repair: true })

// For each question.
const query = 'when are invoices paid'
const { embeddings } = await embedTexts(model, [query])
const { matches, servedBy, reason } = await inTenant(db, scope, (tenant) =>
  searchPlaced(tenant, { store, namespace, space, query, embedding: embeddings[0] }),
)
console.log(matches[0]?.content, servedBy, reason ?? '', upserted, report.isInSync)

await store.close()
await db.close()
