import { setTimeout } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { rowsOf } from '../../src/database.ts'
import { ForbiddenError, NotFoundError, ValidationError } from '../../src/errors.ts'
import { ReservationError, UnpricedError } from '../../src/guard-errors.ts'
import { listBudgetAlerts } from '../../src/queries/budget-alerts.ts'
import { budgetDrift, budgetStatus } from '../../src/queries/budgets.ts'
import { listUsage, recordUsage } from '../../src/queries/costs.ts'
import {
  expireReservations,
  extendReservation,
  getReservation,
  listReservations,
  purgeReservations,
  type ReserveOptions,
  release,
  reserve,
  settle,
} from '../../src/queries/reservations.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { asService, inTenant, type Tenant } from '../../src/tenant.ts'
import { makeBudget, makeModelPrice, makeReservation } from '../../src/testing/costs.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { test, url } from '../support/database.ts'

const call = { provider: 'test', model: 'test-model' }

const hold = (tenant: Tenant, options: Partial<ReserveOptions> = {}) =>
  makeReservation(tenant, { amountNanos: 10n, ...options })

describe('reserve', () => {
  test('grants exactly the limit, and says what blocks and when it frees up', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      const budget = await makeBudget(tenant, { limitNanos: 30n, period: 'total' })
      const held = [await hold(tenant), await hold(tenant), await hold(tenant, { leaseMs: 60_000 })]
      const refused = await reserve(tenant, { ...call, amountNanos: 10n })

      expect(refused).toMatchObject({
        granted: false,
        amountNanos: 10n,
        blockedBy: [
          { id: budget.id, name: budget.name, subject: '', limitNanos: 30n, spentNanos: 0n },
        ],
      })
      // The last of them, whose lease is the shortest.
      expect(refused).toMatchObject({ freesUpAt: held[2]?.leasedUntil })
      expect(await budgetStatus(tenant)).toMatchObject([
        { budgetId: budget.id, reservedNanos: 30n, spentNanos: 0n, remainingNanos: 0n },
      ])
    })
  })

  test('has room again when one is released or settled for less', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { limitNanos: 20n })
      const [one, other] = [await hold(tenant), await hold(tenant)]
      await release(tenant, one.id)
      await settle(tenant, { id: other.id, costNanos: 4n })

      expect(await reserve(tenant, { ...call, amountNanos: 17n })).toMatchObject({ granted: false })
      expect(await reserve(tenant, { ...call, amountNanos: 16n })).toMatchObject({ granted: true })
      expect(await budgetDrift(tenant)).toEqual([])
    })
  })

  test('checks every budget that a call belongs to, and holds in all or in none', async ({
    db,
  }) => {
    const scope = await makeScope(db)
    const projectId = uuidV7()
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { name: 'all', limitNanos: 100n })
      await makeBudget(tenant, { name: 'each user', scope: 'user', limitNanos: 50n })
      await makeBudget(tenant, {
        name: 'project',
        scope: 'project',
        subject: projectId,
        limitNanos: 5n,
      })
      await makeBudget(tenant, {
        name: 'model',
        scope: 'model',
        subject: 'test/other',
        limitNanos: 0n,
      })

      await hold(tenant, { amountNanos: 20n })
      const refused = await reserve(tenant, { ...call, amountNanos: 31n, projectId })
      if (refused.granted) throw new Error('granted')
      expect(refused.blockedBy.map(({ name }) => name)).toEqual(['each user', 'project'])
      // More than the limit of the project in any window.
      expect(refused.blockedBy[1]?.freesUpAt).toBeNull()
      expect(refused.freesUpAt).toBeNull()
      expect((await budgetStatus(tenant)).map((s) => [s.name, s.reservedNanos])).toEqual([
        ['all', 20n],
        ['each user', 20n],
        ['project', 0n],
        ['model', 0n],
      ])
    })
  })

  test('gives each user a limit, and one of them another', async ({ db }) => {
    const owner = await makeScope(db)
    const member = await joinScope(db, owner)
    await inTenant(db, owner, async (tenant) => {
      await makeBudget(tenant, { name: 'each', scope: 'user', limitNanos: 10n })
      await makeBudget(tenant, {
        ...{ name: 'one', scope: 'user', subject: member.userId.toUpperCase(), limitNanos: 20n },
      })
    })
    await inTenant(db, member, (tenant) => hold(tenant, { amountNanos: 20n }))
    await inTenant(db, owner, async (tenant) => {
      await hold(tenant, { amountNanos: 10n })
      expect(await reserve(tenant, { ...call, amountNanos: 1n })).toMatchObject({
        blockedBy: [{ name: 'each', subject: owner.userId }],
      })
      expect(await budgetDrift(tenant)).toEqual([])
    })
    // Another member's are nobody else's business.
    const seen = await inTenant(db, member, (tenant) => budgetStatus(tenant))
    expect(seen.map(({ subject }) => subject)).toEqual([member.userId])
  })

  test('refuses a call of which nothing is said, since it would pass any budget', async ({
    db,
  }) => {
    const [perToken, perRequest, free] = [uuidV7(), uuidV7(), uuidV7()]
    await makeModelPrice(db, { model: perToken })
    await makeModelPrice(db, { model: perRequest, unit: 'request', nanosPerMillion: 5_000_000n })
    await makeModelPrice(db, { model: free, nanosPerMillion: 0n })
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { limitNanos: 10n })
      const asking = (options: Partial<ReserveOptions>) => reserve(tenant, { ...call, ...options })
      await expect(asking({ model: perToken })).rejects.toThrow(/amountNanos is needed, or what/)
      for (const counted of [
        ...[
          { model: perToken, inputTokens: 0 },
          { model: perToken, amountNanos: 0n },
        ],
        ...[{ model: perRequest }, { model: free }],
      ]) {
        expect(await asking(counted)).toMatchObject({ granted: true })
      }
    })
  })

  test('lets pass what costs nothing, and only warns where told so', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { name: 'warn', mode: 'warn', limitNanos: 10n })
      const { id } = await hold(tenant, { amountNanos: 1_000n })
      await makeBudget(tenant, { name: 'block', limitNanos: 0n })
      await hold(tenant, { amountNanos: 0n })
      expect(await reserve(tenant, { ...call, amountNanos: 1n })).toMatchObject({
        granted: false,
        blockedBy: [{ name: 'block' }],
      })
      await settle(tenant, { id, costNanos: 1_000n })
      expect(await listBudgetAlerts(tenant)).toHaveLength(4)
    })
  })

  test('reserves the most that a call can cost by the prices of its model', async ({ db }) => {
    const scope = await makeScope(db)
    await makeModelPrice(db)
    await makeModelPrice(db, { unit: 'cache_write', nanosPerMillion: 2_000_000_000n })
    await makeModelPrice(db, { unit: 'output', nanosPerMillion: 3_000_000_000n })
    await inTenant(db, scope, async (tenant) => {
      const { amountNanos } = await hold(tenant, {
        ...{ amountNanos: undefined, inputTokens: 10, maxOutputTokens: 100 },
      })
      expect(amountNanos).toBe(320_000n)
      await expect(reserve(tenant, { ...call, model: 'unknown', inputTokens: 1 })).rejects.toThrow(
        UnpricedError,
      )
    })
  })

  test('counts what the ledger had before the budget, and what is recorded without a reservation', async ({
    db,
  }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await recordUsage(tenant, { ...call, operation: 'chat', costNanos: 60n })
      await makeBudget(tenant, { limitNanos: 100n })
      await recordUsage(tenant, { ...call, operation: 'chat', costNanos: 30n })
      expect(await reserve(tenant, { ...call, amountNanos: 11n })).toMatchObject({ granted: false })
      await hold(tenant, { amountNanos: 10n })
      expect(await budgetStatus(tenant)).toMatchObject([{ spentNanos: 90n, reservedNanos: 10n }])
      expect(await budgetDrift(tenant)).toEqual([])
    })
  })

  test.for([1, 4])(
    'is exact over %i counters, also when their parts are small',
    async (shards, { db }) => {
      const scope = await makeScope(db)
      await inTenant(db, scope, async (tenant) => {
        await makeBudget(tenant, { limitNanos: 103n, shards })
        for (let count = 0; count < 10; count += 1) await hold(tenant)
        expect(await reserve(tenant, { ...call, amountNanos: 4n })).toMatchObject({
          granted: false,
        })
        await hold(tenant, { amountNanos: 3n })
        expect(await budgetStatus(tenant)).toMatchObject([{ reservedNanos: 103n }])
        expect(await budgetDrift(tenant)).toEqual([])
      })
    },
  )

  test('spends past a limit what is spent already, and grants nothing then from any counter', async ({
    db,
  }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { limitNanos: 100n, shards: 4 })
      await recordUsage(tenant, { ...call, operation: 'chat', costNanos: 90n })
      expect(await reserve(tenant, { ...call, amountNanos: 11n })).toMatchObject({ granted: false })
      await recordUsage(tenant, { ...call, operation: 'chat', costNanos: 90n })
      expect(await reserve(tenant, { ...call, amountNanos: 1n })).toMatchObject({ granted: false })
      expect(await budgetStatus(tenant)).toMatchObject([{ spentNanos: 180n, remainingNanos: 0n }])
      expect(await budgetDrift(tenant)).toEqual([])
    })
  })

  test('compares amounts that no bigint holds together', async ({ db }) => {
    const most = 2n ** 63n - 1n
    for (const shards of [1, 4]) {
      const scope = await makeScope(db)
      await inTenant(db, scope, async (tenant) => {
        await makeBudget(tenant, { limitNanos: most, shards })
        await makeBudget(tenant, { limitNanos: 10n, shards })
        await hold(tenant, { amountNanos: 1n })
        const refused = (spentNanos: bigint) => ({
          granted: false,
          blockedBy: [{ spentNanos }, { freesUpAt: null }],
        })
        expect(await reserve(tenant, { ...call, amountNanos: most })).toMatchObject(refused(0n))
        await recordUsage(tenant, { ...call, operation: 'chat', costNanos: 11n })
        expect(await reserve(tenant, { ...call, amountNanos: most })).toMatchObject(refused(11n))
      })
    }
  })

  test('is for oneself and for nobody, and for others by admins only', async ({ db }) => {
    const owner = await makeScope(db)
    const member = await joinScope(db, owner)
    const other = await joinScope(db, owner, 'viewer')
    await inTenant(db, other, (tenant) => hold(tenant))
    await inTenant(db, owner, (tenant) => hold(tenant, { userId: member.userId }))
    await expect(
      inTenant(db, member, (tenant) => hold(tenant, { userId: other.userId })),
    ).rejects.toThrow(ForbiddenError)
  })

  test.for([
    { amountNanos: -1n },
    { amountNanos: 2n ** 63n },
    { leaseMs: 0 },
    { leaseMs: Number.NaN },
    { model: '' },
    { provider: 'a\0' },
    { userId: 'x' },
    { amountNanos: undefined, inputTokens: -1 },
    { amountNanos: undefined, maxOutputTokens: 1.5 },
  ])('refuses %o before any SQL', async (options, { db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await expect(reserve(tenant, { ...call, amountNanos: 1n, ...options })).rejects.toThrow(
        ValidationError,
      )
      await hold(tenant)
    })
  })
})

describe('settle', () => {
  test('records the call once, at the time at which it was reserved', async ({ db }) => {
    const scope = await makeScope(db)
    await makeModelPrice(db)
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { limitNanos: 10_000_000n })
      const { id, createdAt } = await hold(tenant, { amountNanos: 5_000_000n, projectId: uuidV7() })
      const first = await settle(tenant, {
        id,
        inputTokens: 1_000,
        operation: 'chat',
        latencyMs: 7,
      })
      const again = await settle(tenant, { id, inputTokens: 9_999 })

      expect(first).toMatchObject({
        costNanos: 1_000_000n,
        late: false,
        duplicate: false,
        exceeded: [],
      })
      expect(again).toEqual({ ...first, duplicate: true })
      expect(await listUsage(tenant)).toMatchObject([
        { occurredAt: createdAt, operation: 'chat', latencyMs: 7, userId: scope.userId },
      ])
      expect(await getReservation(tenant, id)).toMatchObject({ state: 'settled' })
      expect(await budgetStatus(tenant)).toMatchObject([
        { spentNanos: 1_000_000n, reservedNanos: 0n },
      ])
    })
  })

  test('says so when the call cost more than the budgets had', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      const { id: budgetId } = await makeBudget(tenant, { limitNanos: 100n })
      const { id } = await hold(tenant, { amountNanos: 90n })
      expect(await settle(tenant, { id, costNanos: 150n })).toMatchObject({
        exceeded: [{ id: budgetId, limitNanos: 100n, spentNanos: 150n, reservedNanos: 0n }],
      })
      expect(await budgetDrift(tenant)).toEqual([])
    })
  })

  test('takes what has no price for as much as was reserved', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant)
      const { id } = await hold(tenant, { amountNanos: 7n })
      expect(await settle(tenant, { id, inputTokens: 5 })).toMatchObject({
        ...{ costNanos: 7n, status: 'estimated' },
      })
    })
  })

  test('is resolved once: neither released after settled nor settled after released', async ({
    db,
  }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { limitNanos: 20n })
      const [one, other] = [await hold(tenant), await hold(tenant)]
      await settle(tenant, { id: one.id, costNanos: 1n })
      await release(tenant, other.id)
      await release(tenant, other.id)
      // Each in a savepoint, since it fails in the database.
      const trying = (work: (tenant: Tenant) => Promise<unknown>) =>
        expect(tenant.db.transaction((db) => work({ ...tenant, db }))).rejects
      await trying((tenant) => release(tenant, one.id)).toMatchObject({
        reason: 'settled',
        reservationId: one.id,
      })
      await trying((tenant) => settle(tenant, { id: other.id, costNanos: 1n })).toBeInstanceOf(
        ReservationError,
      )
      expect(await budgetStatus(tenant)).toMatchObject([{ spentNanos: 1n, reservedNanos: 0n }])
    })
  })

  test('that is refused leaves it held', async ({ db }) => {
    const { organizationId } = await makeScope(db)
    await makeModelPrice(db, { ...call, nanosPerMillion: 10n ** 17n })
    await asService(db, organizationId, async (tenant) => {
      await makeBudget(tenant, { limitNanos: 100n })
      const { id } = await hold(tenant)
      const tooMuch = settle(tenant, { id, inputTokens: Number.MAX_SAFE_INTEGER })
      await expect(tooMuch).rejects.toThrow(ValidationError)

      expect(await getReservation(tenant, id)).toMatchObject({ state: 'held' })
      expect(await budgetDrift(tenant)).toEqual([])
      expect(await settle(tenant, { id, costNanos: 3n })).toMatchObject({ duplicate: false })
      expect(await budgetStatus(tenant)).toMatchObject([{ spentNanos: 3n, reservedNanos: 0n }])
    })
  })

  test('of nobody’s reservation is for the member who made it, too', async ({ db }) => {
    const scope = await makeScope(db)
    const member = await joinScope(db, scope, 'member')
    await asService(db, scope.organizationId, (tenant) => makeBudget(tenant, { limitNanos: 100n }))
    await inTenant(db, member, async (tenant) => {
      const [one, other] = [
        await hold(tenant, { userId: null }),
        await hold(tenant, { userId: null }),
      ]
      await settle(tenant, { id: one.id, costNanos: 3n })
      await release(tenant, other.id)
      expect(await budgetStatus(tenant)).toMatchObject([{ spentNanos: 3n, reservedNanos: 0n }])
    })
  })

  test('is answered alike to its member when an admin has settled it', async ({ db }) => {
    const boss = await makeScope(db)
    const member = await joinScope(db, boss)
    const { id } = await inTenant(db, member, (tenant) => hold(tenant))
    const first = await inTenant(db, boss, (tenant) => settle(tenant, { id, costNanos: 3n }))
    const again = await inTenant(db, member, (tenant) => settle(tenant, { id, costNanos: 9n }))
    expect(again).toEqual({ ...first, duplicate: true })
  })

  test('cannot lower what was spent, by the function that counts either', async ({ db }) => {
    const boss = await makeScope(db)
    const member = await joinScope(db, boss, 'viewer')
    await inTenant(db, boss, (tenant) => makeBudget(tenant))
    const line = { ...call, cost_nanos: -5, occurred_at: new Date() }
    await expect(
      inTenant(db, member, ({ db }) =>
        rowsOf(db, sql`select costs.charge_budgets(${JSON.stringify([line])}::text::json, null)`),
      ),
    ).rejects.toThrow(ForbiddenError)
  })

  test('is the member’s own, and admins’', async ({ db }) => {
    const owner = await makeScope(db)
    const [member, other] = [await joinScope(db, owner), await joinScope(db, owner)]
    const { id } = await inTenant(db, member, (tenant) => hold(tenant))
    await expect(inTenant(db, other, (tenant) => release(tenant, id))).rejects.toThrow(
      NotFoundError,
    )
    await expect(
      asService(db, (await makeScope(db)).organizationId, (tenant) => release(tenant, id)),
    ).rejects.toThrow(NotFoundError)
    await inTenant(db, owner, (tenant) => release(tenant, id))
  })
})

describe('a lease', () => {
  test('gives its capacity back by itself, and a late call is still recorded', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { limitNanos: 10n })
      const late = await hold(tenant, { leaseMs: 1_000 })
      expect(await reserve(tenant, { ...call, amountNanos: 10n })).toMatchObject({
        ...{ granted: false, freesUpAt: late.leasedUntil },
      })
      await setTimeout(1_020)
      const next = await hold(tenant)

      expect(await getReservation(tenant, late.id)).toMatchObject({ state: 'expired' })
      expect(await settle(tenant, { id: late.id, costNanos: 10n })).toMatchObject({
        ...{ late: true, exceeded: [{ spentNanos: 10n, reservedNanos: 10n }] },
      })
      await settle(tenant, { id: next.id, costNanos: 10n })
      expect(await budgetDrift(tenant)).toEqual([])
    })
  })

  test('is swept, and extended while it is held', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant)
      const swept = await hold(tenant, { leaseMs: 100 })
      const extended = await hold(tenant, { leaseMs: 5_000 })
      const until = await extendReservation(tenant, { id: extended.id, leaseMs: 60_000 })
      expect(until.getTime()).toBeGreaterThan(extended.leasedUntil.getTime() + 50_000)
      expect(await extendReservation(tenant, { id: extended.id, leaseMs: 100 })).toEqual(until)
      await setTimeout(650)
      expect(await expireReservations(tenant)).toBe(1)
      expect(await expireReservations(tenant)).toBe(0)
      await expect(
        tenant.db.transaction((db) => extendReservation({ ...tenant, db }, { id: swept.id })),
      ).rejects.toMatchObject({ reason: 'ended' })
      expect(await listReservations(tenant, { state: 'expired' })).toMatchObject([{ id: swept.id }])
      expect(await budgetDrift(tenant)).toEqual([])
    })
  })

  // Only the owner of the tables can make one old.
  test.skipIf(url)('is purged when it is old, unless it is held', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await release(tenant, (await hold(tenant)).id)
      await hold(tenant)
      expect(await purgeReservations(tenant, { olderThanMs: 86_400_000 })).toBe(0)
    })
    await rowsOf(
      db,
      sql`update costs.reservations
        set id = overlay(id::text placing case state when 'held' then '00000001' else '00000000' end from 1)::uuid`,
    )
    await inTenant(db, scope, async (tenant) => {
      expect(await purgeReservations(tenant, { olderThanMs: 86_400_000 })).toBe(1)
      expect(await listReservations(tenant)).toMatchObject([{ state: 'held' }])
    })
  })
})
