import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { ForbiddenError, NotFoundError, ValidationError } from '../../src/errors.ts'
import { listDeliveries, purgeDeliveries, recordDelivery } from '../../src/queries/deliveries.ts'
import {
  claimDeliveries,
  DELIVERY_DELAYS_MS,
  listDueOrganizations,
  retryDelivery,
  settleDelivery,
} from '../../src/queries/delivery-queue.ts'
import { archiveOrganization } from '../../src/queries/identity.ts'
import { asService, inTenant, type Scope, type Tenant } from '../../src/tenant.ts'
import { makeWebhookDelivery } from '../../src/testing/activity.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { root, test, url } from '../support/database.ts'

const incoming = {
  ...{ provider: 'stripe', event: 'invoice.paid', eventId: 'evt_1', signatureOk: true },
  payload: { id: 'evt_1', client_secret: 'abc', note: 'sk_live_abcdefghijkl' },
}

const serving = async <T>(db: Database, work: (tenant: Tenant) => Promise<T>) => {
  const { organizationId } = await makeScope(db)
  return asService(db, organizationId, work)
}

/** Moves all that is planned back, as if so much time had gone by. */
const later = ({ db }: Tenant, interval: string) =>
  rowsOf(
    db,
    sql`update activity.webhook_deliveries
      set next_attempt_at = next_attempt_at - ${interval}::interval returning id`,
  )

describe('recordDelivery', () => {
  test('records an event once, without secrets', async ({ db }) => {
    await serving(db, async (tenant) => {
      const headers = { authorization: 'Basic abc', 'content-type': 'application/json' }
      const first = await recordDelivery(tenant, { ...incoming, headers })
      const again = await recordDelivery(tenant, { ...incoming, headers })

      expect(first.isNew).toBe(true)
      expect(again).toEqual({ id: first.id, isNew: false })
      const listed = await listDeliveries(tenant)
      expect(listed).toHaveLength(1)
      expect(listed[0]).toMatchObject({
        ...{ status: 'received', direction: 'incoming', url: null },
        payload: { id: 'evt_1', client_secret: '[redacted]', note: '[redacted]' },
        headers: { authorization: '[redacted]', 'content-type': 'application/json' },
      })
    })
  })

  test('does not let a wrong signature stand in the way of the right one', async ({ db }) => {
    await serving(db, async (tenant) => {
      const forged = { ...incoming, signatureOk: false }
      expect((await recordDelivery(tenant, forged)).isNew).toBe(true)
      expect((await recordDelivery(tenant, forged)).isNew).toBe(true)
      expect((await recordDelivery(tenant, incoming)).isNew).toBe(true)
      expect((await recordDelivery(tenant, incoming)).isNew).toBe(false)
      const other = { ...incoming, provider: 'github' }
      expect((await recordDelivery(tenant, other)).isNew, 'another sender').toBe(true)
      expect(await listDeliveries(tenant, { status: 'rejected' })).toHaveLength(2)
    })
  })

  test('is for services and admins', async ({ db }) => {
    const member = await joinScope(db, await makeScope(db))
    const recording = db.transaction((tx) =>
      inTenant(tx, member, (tenant) => recordDelivery(tenant, incoming)),
    )
    await expect(recording).rejects.toBeInstanceOf(ForbiddenError)
  })
})

describe('enqueueDelivery', () => {
  test('is for whoever writes, once for an event, without secrets', async ({ db }) => {
    const scope = await makeScope(db)
    const [member, viewer] = [await joinScope(db, scope), await joinScope(db, scope, 'viewer')]
    const add = (tenant: Tenant) =>
      makeWebhookDelivery(tenant, { eventId: 'e1', payload: { token: 'a', n: 1 } })

    await inTenant(db, member, add)
    await inTenant(db, member, add)
    await expect(db.transaction((tx) => inTenant(tx, viewer, add))).rejects.toBeInstanceOf(
      ForbiddenError,
    )
    const listed = await inTenant(db, scope, (tenant) => listDeliveries(tenant))
    expect(listed).toHaveLength(1)
    expect(listed[0]).toMatchObject({ status: 'pending', payload: { token: '[redacted]', n: 1 } })
  })

  test('gives the id of the row, also to those who may not read it', async ({ db }) => {
    const scope = await makeScope(db)
    const [one, other] = [await joinScope(db, scope), await joinScope(db, scope)]
    const add = (member: Scope, options = {}) =>
      inTenant(db, member, (tenant) => makeWebhookDelivery(tenant, { eventId: 'e1', ...options }))

    const id = await add(one)
    expect(await add(one)).toBe(id)
    expect(await add(other, { payload: { n: 2 } })).toBe(id)
    const others = [
      await add(one, { provider: 'another' }),
      await add(one, { eventId: 'e2' }),
      await add(one, { eventId: undefined }),
      await add(one, { eventId: undefined }),
      await add(await makeScope(db)),
    ]
    expect(new Set([id, ...others]).size).toBe(6)

    const listed = await inTenant(db, scope, (tenant) => listDeliveries(tenant))
    expect(listed.map((row) => row.id).sort()).toEqual([id, ...others.slice(0, 4)].sort())
    expect(listed.find((row) => row.id === id)).toMatchObject({ payload: {} })
    expect(await inTenant(db, one, (tenant) => listDeliveries(tenant))).toEqual([])
  })

  test.skipIf(!url)('gives two who add an event at once the same id', async () => {
    const scope = await makeScope(root)
    const member = await joinScope(root, scope)
    const ids = await Promise.all(
      Array.from({ length: 20 }, () =>
        inTenant(root, member, async (tenant) => {
          const id = await makeWebhookDelivery(tenant, { eventId: 'race' })
          // Commits while others wait for it.
          await rowsOf(tenant.db, sql`select pg_sleep(0.02)`)
          return id
        }),
      ),
    )
    const listed = await inTenant(root, scope, (tenant) => listDeliveries(tenant))
    expect(listed).toHaveLength(1)
    expect(new Set(ids)).toEqual(new Set([listed[0]?.id]))
  })

  test('refuses at the door', async ({ db }) => {
    await serving(db, async (tenant) => {
      for (const wrong of [
        ...[{ url: 'ftp://a.example' }, { url: 'nothing' }, { url: 'https://ann:pw@a.example' }],
        ...[{ url: 'https://a.example/?token=abc' }, { provider: '' }, { maxAttempts: 0 }],
        ...[{ payload: { a: Number.NaN } }, { event: 'a\0' }, { notBefore: new Date(Number.NaN) }],
      ]) {
        await expect(makeWebhookDelivery(tenant, wrong)).rejects.toBeInstanceOf(ValidationError)
      }
      await expect(claimDeliveries(tenant, { limit: 0 })).rejects.toBeInstanceOf(ValidationError)
      await expect(claimDeliveries(tenant, { leaseMs: 1 })).rejects.toBeInstanceOf(ValidationError)
    })
  })
})

describe('the queue', () => {
  test('gives what is due to one worker, and takes its answer', async ({ db }) => {
    await serving(db, async (tenant) => {
      const id = await makeWebhookDelivery(tenant)
      await makeWebhookDelivery(tenant, { notBefore: new Date(Date.now() + 60_000) })

      const [claimed, ...more] = await claimDeliveries(tenant)
      expect(more).toEqual([])
      expect(claimed).toMatchObject({ id, attempts: 1, status: 'pending' })
      expect(await claimDeliveries(tenant)).toEqual([])
      const settled = await settleDelivery(tenant, {
        ...{ id, leaseId: claimed?.leaseId ?? '', outcome: 'delivered', responseStatus: 204 },
        response: 'Bearer abcdefghijkl',
      })
      expect(settled).toMatchObject({
        ...{
          status: 'delivered',
          responseStatus: 204,
          response: 'Bearer [redacted]',
          leaseId: null,
        },
        settledAt: expect.any(Date),
      })
      await later(tenant, '1 year')
      expect((await claimDeliveries(tenant)).map((one) => one.id)).not.toContain(id)
    })
  })

  test('waits longer from attempt to attempt, by the schedule, and gives up', async ({ db }) => {
    await serving(db, async (tenant) => {
      const id = await makeWebhookDelivery(tenant)
      for (const [at, delay] of [...DELIVERY_DELAYS_MS, undefined].entries()) {
        const [claimed] = await claimDeliveries(tenant)
        expect(claimed).toMatchObject({ id, attempts: at + 1 })
        const before = Date.now()
        const settled = await settleDelivery(tenant, {
          ...{ id, leaseId: claimed?.leaseId ?? '', outcome: 'failed', responseStatus: 503 },
        })
        if (delay === undefined) {
          expect(settled).toMatchObject({ status: 'dead', settledAt: expect.any(Date) })
          continue
        }
        const waits = (settled?.nextAttemptAt.getTime() ?? 0) - before
        expect(settled?.status).toBe('pending')
        expect(waits / delay).toBeGreaterThan(0.79)
        expect(waits / delay).toBeLessThan(1.25)
        expect(await claimDeliveries(tenant)).toEqual([])
        await later(tenant, `${waits + 1_000} milliseconds`)
      }
      expect(await claimDeliveries(tenant)).toEqual([])

      expect(await retryDelivery(tenant, id)).toMatchObject({ status: 'pending', attempts: 0 })
      expect(await claimDeliveries(tenant)).toHaveLength(1)
      await expect(retryDelivery(tenant, id), 'it is being sent').rejects.toBeInstanceOf(
        NotFoundError,
      )
    })
  })

  test('tries again at once what a worker has let run out, who comes too late then', async ({
    db,
  }) => {
    await serving(db, async (tenant) => {
      const id = await makeWebhookDelivery(tenant)
      const [claimed] = await claimDeliveries(tenant)
      await later(tenant, '2 minutes')

      expect(await retryDelivery(tenant, id)).toMatchObject({ attempts: 0, leaseId: null })
      const late = { id, leaseId: claimed?.leaseId ?? '', outcome: 'failed' } as const
      expect(await settleDelivery(tenant, late)).toBeUndefined()
      expect(await claimDeliveries(tenant)).toMatchObject([{ id, attempts: 1 }])
    })
  })

  test('heeds Retry-After, and a receiver who wants no more', async ({ db }) => {
    await serving(db, async (tenant) => {
      const id = await makeWebhookDelivery(tenant)
      const [first] = await claimDeliveries(tenant)
      const before = Date.now()
      const waiting = await settleDelivery(tenant, {
        ...{ id, leaseId: first?.leaseId ?? '', outcome: 'failed', retryAfterMs: 600_000 },
      })
      expect((waiting?.nextAttemptAt.getTime() ?? 0) - before).toBeGreaterThan(599_000)
      await retryDelivery(tenant, id)
      const [second] = await claimDeliveries(tenant)
      const gone = await settleDelivery(tenant, {
        ...{ id, leaseId: second?.leaseId ?? '', outcome: 'rejected', responseStatus: 410 },
      })
      expect(gone).toMatchObject({ status: 'dead', responseStatus: 410 })
    })
  })

  test('takes nothing from a worker whose claim has run out, and counts that attempt', async ({
    db,
  }) => {
    await serving(db, async (tenant) => {
      const id = await makeWebhookDelivery(tenant, { maxAttempts: 2 })
      const [late] = await claimDeliveries(tenant)
      await later(tenant, '2 minutes')
      const [next] = await claimDeliveries(tenant)
      expect(next).toMatchObject({ id, attempts: 2 })

      const settle = (leaseId = '') => settleDelivery(tenant, { id, leaseId, outcome: 'delivered' })
      expect(await settle(late?.leaseId ?? undefined)).toBeUndefined()
      expect(await listDeliveries(tenant)).toMatchObject([
        { status: 'pending', leaseId: next?.leaseId },
      ])
      await later(tenant, '2 minutes')
      expect(await claimDeliveries(tenant), 'its last attempt is over').toEqual([])
      expect(await listDeliveries(tenant)).toMatchObject([{ status: 'dead', attempts: 2 }])
      expect(await settle(next?.leaseId ?? undefined)).toBeUndefined()
    })
  })

  test('names the organizations that have something due', async ({ db }) => {
    const scopes = [
      await makeScope(db),
      await makeScope(db),
      await makeScope(db),
      await makeScope(db),
    ]
    const [a, b, c, d] = scopes.map(({ organizationId }) => organizationId) as [
      string,
      string,
      string,
      string,
    ]
    for (const id of [a, b, b, c]) await asService(db, id, (tenant) => makeWebhookDelivery(tenant))
    await asService(db, d, (tenant) =>
      makeWebhookDelivery(tenant, { notBefore: new Date(Date.now() + 60_000) }),
    )
    await archiveOrganization(db, c)
    const due = (await listDueOrganizations(db, { limit: 500 })).filter((id) =>
      [a, b, c, d].includes(id),
    )
    expect(due).toEqual([a, b])
    expect(await listDueOrganizations(db, { after: a, limit: 1 })).toEqual([b])
  })

  test.skipIf(!url)('gives each to one of many workers at once', async () => {
    const { organizationId } = await makeScope(root)
    await asService(root, organizationId, async (tenant) => {
      for (let at = 0; at < 60; at += 1) await makeWebhookDelivery(tenant)
    })
    const claims = await Promise.all(
      Array.from({ length: 12 }, () =>
        asService(root, organizationId, (tenant) => claimDeliveries(tenant, { limit: 10 })),
      ),
    )
    const ids = claims.flat().map(({ id }) => id)
    expect(new Set(ids).size).toBe(ids.length)
    expect(ids.length).toBe(60)
  })
})

test('listDeliveries and purgeDeliveries page, filter, and leave what is pending', async ({
  db,
}) => {
  await serving(db, async (tenant) => {
    const { id: a } = await recordDelivery(tenant, incoming)
    const b = await makeWebhookDelivery(tenant)
    const ids = async (options = {}) => (await listDeliveries(tenant, options)).map(({ id }) => id)

    expect(await ids()).toEqual([b, a])
    expect(await ids({ limit: 1 })).toEqual([b])
    expect(await ids({ after: b })).toEqual([a])
    expect(await ids({ direction: 'outgoing' })).toEqual([b])
    expect(await ids({ status: 'received', provider: 'stripe' })).toEqual([a])
    expect(await purgeDeliveries(tenant, { before: new Date(0) })).toBe(0)
    expect(await purgeDeliveries(tenant, { before: new Date(Date.now() + 60_000) })).toBe(1)
    expect(await ids()).toEqual([b])
  })
})
