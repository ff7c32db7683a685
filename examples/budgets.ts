import {
  BudgetExceededError,
  budgetStatus,
  connect,
  createBudget,
  createOrganization,
  drainBudgetAlerts,
  enqueueDelivery,
  findOrganizationBySlug,
  forecastBudget,
  importPrices,
  inTenant,
  listBudgets,
  metered,
  migrate,
  release,
  reserve,
  settle,
  sweepReservations,
  upsertUser,
} from 'plinth'

const db = await connect()
await migrate(db)
await importPrices(db, { providers: ['openai'] })
const ada = await upsertUser(db, { provider: 'clerk', subject: 'ada', email: 'ada@example.com' })
const acme =
  (await findOrganizationBySlug(db, 'acme')) ??
  (await createOrganization(db, { slug: 'acme', name: 'Acme', ownerId: ada.id }))
const scope = { organizationId: acme.id, userId: ada.id }
const dollars = (amount: number) => BigInt(Math.round(amount * 1e9))

// $50 a month for the organization, a cent a day for each user; at $40 a month somebody is only told.
await inTenant(db, scope, async (tenant) => {
  if ((await listBudgets(tenant)).length > 0) return
  await createBudget(tenant, { name: 'month', period: 'month', limitNanos: dollars(50) })
  await createBudget(tenant, {
    ...{ name: 'day', scope: 'user', period: 'day', limitNanos: dollars(0.01), thresholds: [50] },
  })
  await createBudget(tenant, {
    ...{ name: 'plan', period: 'month', mode: 'warn', limitNanos: dollars(40), thresholds: [100] },
  })
})

// One call, within the budgets: a client that sends the same key again gets the same answer.
const model = { provider: 'openai', model: 'gpt-4o' }
const chat = (idempotencyKey: string, prompt: string) =>
  metered(
    { db, ...scope },
    {
      ...{ ...model, operation: 'chat', endpoint: '/api/chat', idempotencyKey, waitMs: 10_000 },
      ...{ inputTokens: 1_000, maxOutputTokens: 400 },
    },
    async ({ report, signal }) => {
      const { text, usage } = await complete(prompt, signal)
      report(usage)
      return text
    },
  )
const first = await chat('message-1', 'When is an invoice paid?')
const again = await chat('message-1', 'When is an invoice paid?')

// The same by its parts, for a call that does not fit into a function.
const outcome = await inTenant(db, scope, (tenant) =>
  reserve(tenant, { ...model, inputTokens: 500, maxOutputTokens: 100, leaseMs: 60_000 }),
)
if (outcome.granted) {
  const { id } = outcome.reservation
  try {
    const { usage } = await complete('And when a reminder is sent?')
    await inTenant(db, scope, (tenant) =>
      settle(tenant, { id, operation: 'chat', endpoint: '/api/chat', ...usage }),
    )
  } catch (error) {
    await inTenant(db, scope, (tenant) => release(tenant, id))
    throw error
  }
}

// What has no room is not called, and says when it may have.
const refused = await chat('message-2', 'Something longer').catch((error) => {
  if (!(error instanceof BudgetExceededError)) throw error
  return error.blockedBy.map(({ name }) => name)
})

// Every minute, in a job: a webhook for each alert, in its transaction, and what died with its process.
const drained = await drainBudgetAlerts(db, async (alerts, tenant) => {
  for (const { id, name, subject, threshold, spentNanos } of alerts) {
    await enqueueDelivery(tenant, {
      ...{ provider: 'billing', event: 'budget.reached', eventId: id },
      ...{ url: 'https://example.com/hooks', payload: { budget: name, subject, threshold } },
    })
    console.log(`${threshold}% of budget ${name}: ${spentNanos} nano-dollars`)
  }
})
const swept = await sweepReservations(db)

const [status, forecast] = await inTenant(db, scope, async (tenant) => {
  const statuses = await budgetStatus(tenant)
  const monthly = statuses.find(({ name }) => name === 'month')
  return [
    statuses.map(({ name, spentNanos, reservedNanos }) => ({ name, spentNanos, reservedNanos })),
    monthly && (await forecastBudget(tenant, monthly)),
  ]
})

console.log(first.value, first.usage?.costNanos, again.replayed, refused, drained, swept)
console.log(status, forecast?.exhaustsAt)
await db.close()

async function complete(prompt: string, signal?: AbortSignal) {
  signal?.throwIfAborted()
  const usage = { inputTokens: 400 + prompt.length, outputTokens: 200 }
  return { text: 'In ten days.', usage }
}
