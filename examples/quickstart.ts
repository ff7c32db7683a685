import * as plinth from 'plinth'

const db = await plinth.connect() // PGlite in .plinth; a postgres:// URL for a server
await plinth.migrate(db)
const user = { provider: 'clerk', subject: 'ada', email: 'ada@example.com' }
const { id: userId } = await plinth.upsertUser(db, user)
const acme =
  (await plinth.findOrganizationBySlug(db, 'acme')) ??
  (await plinth.createOrganization(db, { slug: 'acme', name: 'Acme', ownerId: userId }))
const scope = { organizationId: acme.id, userId }

const model = plinth.hashingModel() // or any embedding model of the AI SDK
const { provider, modelId } = model
const space = await plinth.createSpace(db, { provider, model: modelId, dimensions: 384 })
const note = { sourceType: 'note', sourceId: 'n1', text: 'Invoices are paid in ten days.' }
await plinth.inTenant(db, scope, (tenant) => plinth.indexSource(tenant, { ...note, model, space }))

const query = 'When is an invoice paid?'
const asked = await plinth.embedQuery(db, { query, models: [model] })
const { matches } = await plinth.inTenant(db, scope, (tenant) => plinth.search(tenant, asked))
console.log(matches[0]?.content, matches[0]?.similarity)
await db.close()
