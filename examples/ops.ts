import {
  acquireLock,
  addressKey,
  checkLock,
  connect,
  createOrganization,
  findOrganizationBySlug,
  idempotently,
  inTenant,
  migrate,
  purgeOps,
  recordActivity,
  takePublicTokens,
  takeTokens,
  upsertUser,
  withLock,
} from 'plinth'

const db = await connect()
await migrate(db)
const ada = await upsertUser(db, { provider: 'clerk', subject: 'ada', email: 'ada@example.com' })
const acme =
  (await findOrganizationBySlug(db, 'acme')) ??
  (await createOrganization(db, { slug: 'acme', name: 'Acme', ownerId: ada.id }))
const tenancy = { db, organizationId: acme.id, userId: ada.id }

// A limit for whom nobody knows yet, and one for the user.
const login = { key: `login ${addressKey('2001:db8::7')}`, capacity: 5, refillPerSecond: 0.1 }
const { granted, retryAfterMs } = await takePublicTokens(db, login)
const asked = await takeTokens(tenancy, {
  ...{ key: 'chat', per: 'user', capacity: 20, refillPerSecond: 0.1, cost: 2 },
})

// A request that a client may send twice, with what it calls it: an Idempotency-Key header, say.
const order = () =>
  idempotently(tenancy, { key: 'order-7', request: { seats: 3 }, waitMs: 5_000 }, async () => ({
    chargeId: await charge(3),
  }))
const charges: number[] = []
const charge = async (seats: number) => charges.push(seats)
const [first, again] = [await order(), await order()]

// A job that runs in one place at a time, and what it writes, fenced.
const written = await withLock(
  tenancy,
  { name: 'nightly-report', leaseMs: 30_000, holder: 'worker-1' },
  async (lock) => {
    const report = await compute(lock.signal)
    return inTenant(db, tenancy, async (tenant) => {
      await checkLock(tenant, lock)
      await recordActivity(tenant, { action: 'report.written', metadata: { report } })
      return (await acquireLock(tenant, { name: 'nightly-report' })) === undefined
    })
  },
)

// Hourly.
const purged = await purgeOps(db)

console.log(granted, retryAfterMs, asked.remaining, first.replayed, again, charges, written, purged)
await db.close()

async function compute(signal: AbortSignal): Promise<string> {
  signal.throwIfAborted()
  return 'all is well'
}
