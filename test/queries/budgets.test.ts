import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { rowsOf } from '../../src/database.ts'
import {
  ConstraintError,
  ForbiddenError,
  NotFoundError,
  TransactionError,
  ValidationError,
} from '../../src/errors.ts'
import { claimBudgetAlerts } from '../../src/queries/budget-alerts.ts'
import {
  budgetDrift,
  budgetStatus,
  type CreateBudgetOptions,
  createBudget,
  getBudget,
  listBudgets,
  removeBudget,
  updateBudget,
} from '../../src/queries/budgets.ts'
import { recordUsage, recordUsages } from '../../src/queries/costs.ts'
import { updateOrganization } from '../../src/queries/identity.ts'
import { closePrice, listPrices } from '../../src/queries/prices.ts'
import { repriceUsage } from '../../src/queries/repricing.ts'
import { reserve } from '../../src/queries/reservations.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { inTenant, type Tenant } from '../../src/tenant.ts'
import { makeBudget, makeModelPrice, makeReservation } from '../../src/testing/costs.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { owner, root, test, url } from '../support/database.ts'

const call = { provider: 'test', model: 'test-model' }
const spending = (tenant: Tenant, costNanos: bigint, occurredAt?: Date) =>
  recordUsage(tenant, { ...call, operation: 'chat', costNanos, ...(occurredAt && { occurredAt }) })

describe('a budget', () => {
  test('is made, read, listed, changed and removed', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      const made = await createBudget(tenant, { name: 'month', period: 'month', limitNanos: 5n })
      expect(made).toMatchObject({
        ...{
          scope: 'organization',
          subject: null,
          mode: 'block',
          thresholds: [80, 100],
          shards: 1,
        },
      })
      const other = await makeBudget(tenant, { scope: 'model', subject: 'openai/gpt-4o' })
      expect(await listBudgets(tenant)).toEqual([made, other])
      expect(await listBudgets(tenant, { after: made.id })).toEqual([other])
      expect(await listBudgets(tenant, { scope: 'organization' })).toEqual([made])
      const changed = await updateBudget(tenant, { id: made.id, limitNanos: 7n, thresholds: [50] })
      expect(changed).toMatchObject({ limitNanos: 7n, thresholds: [50], name: 'month' })
      expect(await getBudget(tenant, made.id)).toEqual(changed)
      await removeBudget(tenant, made.id)
      await expect(getBudget(tenant, made.id)).rejects.toThrow(NotFoundError)
      expect(await budgetStatus(tenant)).toHaveLength(1)
    })
  })

  test('is an admin’s to make and to change, and every member’s to read', async ({ db }) => {
    const boss = await makeScope(db)
    const member = await joinScope(db, boss, 'editor')
    const { id } = await inTenant(db, boss, (tenant) => makeBudget(tenant))
    const trying = (work: (tenant: Tenant) => Promise<unknown>) =>
      expect(inTenant(db, member, work)).rejects
    await trying((tenant) => makeBudget(tenant)).toThrow(ForbiddenError)
    await trying((tenant) => updateBudget(tenant, { id, limitNanos: 0n })).toThrow(NotFoundError)
    await trying((tenant) => removeBudget(tenant, id)).toThrow(NotFoundError)
    await trying((tenant) => budgetDrift(tenant)).toThrow(ForbiddenError)
    expect(await inTenant(db, member, (tenant) => getBudget(tenant, id))).toMatchObject({ id })
    expect(await inTenant(db, member, (tenant) => claimBudgetAlerts(tenant))).toEqual([])
  })

  test('is left as it is by its function, too, for members below admin', async ({ db }) => {
    const scope = await makeScope(db)
    const { id } = await inTenant(db, scope, (tenant) => makeBudget(tenant, { limitNanos: 100n }))
    await inTenant(db, await joinScope(db, scope, 'member'), async (tenant) => {
      await rowsOf(tenant.db, sql`select costs.change_budget(${id}, 5, 64::smallint)`)
      const outcome = await reserve(tenant, {
        ...{ provider: 'test', model: 'test-model', amountNanos: 100n },
      })
      expect(outcome).toMatchObject({ granted: true })
    })
  })

  test('has a name of its own', async ({ db }) => {
    const scope = await makeScope(db)
    await expect(
      inTenant(db, scope, async (tenant) => {
        await makeBudget(tenant, { name: 'x' })
        await makeBudget(tenant, { name: 'x' })
      }),
    ).rejects.toThrow(ConstraintError)
  })

  const refused: Partial<Record<keyof CreateBudgetOptions, unknown>>[] = [
    { name: '' },
    { limitNanos: -1n },
    { limitNanos: 5 },
    { period: 'week' },
    { mode: 'maybe' },
    { scope: 'user', subject: 'x' },
    { scope: 'model', subject: 'gpt' },
    { subject: uuidV7() },
    { thresholds: [80, 80] },
    { thresholds: [0] },
    { thresholds: [Number.NaN] },
    { thresholds: Array(21).fill(1) },
    { shards: 0 },
    { shards: 65 },
  ]
  test.for(refused)('is refused before any SQL with %o', async (options, { db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await expect(makeBudget(tenant, options as Partial<CreateBudgetOptions>)).rejects.toThrow(
        ValidationError,
      )
      await makeBudget(tenant)
    })
  })

  test('can be raised, lowered and spread over more counters while a period goes on', async ({
    db,
  }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      const { id } = await makeBudget(tenant, { limitNanos: 100n })
      const reserving = async (amountNanos: bigint) =>
        (await reserve(tenant, { ...call, amountNanos })).granted
      await spending(tenant, 60n)
      await updateBudget(tenant, { id, limitNanos: 200n, shards: 8 })
      expect(await budgetDrift(tenant)).toEqual([])
      expect(await reserving(141n)).toBe(false)
      expect(await reserving(140n)).toBe(true)
      await updateBudget(tenant, { id, limitNanos: 50n })
      expect(await reserving(1n)).toBe(false)
      await updateBudget(tenant, { id, limitNanos: 201n })
      expect(await reserving(2n)).toBe(false)
      expect(await reserving(1n)).toBe(true)
      await expect(updateBudget(tenant, { id, shards: 2 })).rejects.toThrow(/keeps them/)
      expect(await budgetDrift(tenant)).toEqual([])
    })
  })

  test('of each user blocks again when the one that took its place is removed', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { name: 'each', scope: 'user', limitNanos: 10n, shards: 4 })
      const { id } = await makeBudget(tenant, {
        scope: 'user',
        subject: scope.userId,
        limitNanos: 100n,
      })
      expect(await reserve(tenant, { ...call, amountNanos: 9n })).toMatchObject({ granted: true })
      expect(await reserve(tenant, { ...call, amountNanos: 90n })).toMatchObject({ granted: true })
      expect(await budgetStatus(tenant)).toMatchObject([{ budgetId: id, reservedNanos: 99n }])
      await removeBudget(tenant, id)
      expect(await budgetStatus(tenant)).toMatchObject([{ name: 'each', reservedNanos: 99n }])
      expect(await reserve(tenant, { ...call, amountNanos: 1n })).toMatchObject({
        blockedBy: [{ name: 'each' }],
      })
      expect(await budgetDrift(tenant)).toEqual([])
    })
  })
})

test('of another organization is nobody’s, whatever function is called with its id', async ({
  db,
}) => {
  const [mine, theirs] = [await makeScope(db), await makeScope(db)]
  const { id, held } = await inTenant(db, theirs, async (tenant) => {
    const { id } = await makeBudget(tenant, { limitNanos: 100n })
    return { id, held: await makeReservation(tenant, { amountNanos: 40n, leaseMs: 100 }) }
  })
  const before = await inTenant(db, theirs, (tenant) => budgetStatus(tenant))
  await new Promise((resolve) => setTimeout(resolve, 120))
  const line = { provider: 'test', model: 'x', cost_nanos: 5, occurred_at: new Date() }
  await inTenant(db, mine, async ({ db }) => {
    await rowsOf(db, sql`select costs.change_budget(${id}, 1, 4::smallint)`)
    await rowsOf(db, sql`select costs.open_budget(${id})`)
    await rowsOf(
      db,
      sql`select costs.charge_budgets(${JSON.stringify([line])}::text::json, ${held.id})`,
    )
    await rowsOf(db, sql`select costs.expire_reservations(100)`)
    await rowsOf(
      db,
      sql`select costs.purge_reservations('ffffffff-ffff-7fff-bfff-ffffffffffff', 100)`,
    )
    const extended = await rowsOf(
      db,
      sql`select costs.extend_reservation(${held.id}, 60000) as until`,
    )
    expect(extended).toEqual([{ until: null }])
    await expect(
      db.transaction((tx) =>
        rowsOf(tx, sql`select costs.resolve_reservation(${held.id}, 'released')`),
      ),
    ).rejects.toThrow(NotFoundError)
    for (const table of ['budgets', 'budget_windows', 'reservations', 'budget_alerts']) {
      const [row] = await rowsOf<{ rows: number }>(
        db,
        sql`select count(*)::integer as rows from costs.${sql.identifier(table)}`,
      )
      expect(row?.rows, table).toBe(0)
    }
  })
  expect(await inTenant(db, theirs, (tenant) => budgetStatus(tenant))).toEqual(before)
})

test('is not made by a snapshot that may miss lines of the ledger', async () => {
  const work = root.transaction(
    async (tx) => {
      const scope = await makeScope(tx)
      await inTenant(tx, scope, (tenant) => makeBudget(tenant))
    },
    { isolationLevel: 'repeatable read' },
  )
  await expect(work).rejects.toThrow(TransactionError)
})

test('what would bring a sum above what a bigint holds is refused as such', async ({ db }) => {
  const scope = await makeScope(db)
  await inTenant(db, scope, (tenant) => makeBudget(tenant, { mode: 'warn' }))
  const most = 2n ** 63n - 1n
  await inTenant(db, scope, (tenant) => spending(tenant, most))
  const work = inTenant(db, scope, (tenant) => spending(tenant, 1n))
  await expect(work).rejects.toThrow(ValidationError)
})

describe('a window', () => {
  test('begins and ends with the day and the month of the organization’s time zone', async ({
    db,
  }) => {
    const scope = await makeScope(db)
    await updateOrganization(db, { id: scope.organizationId, timeZone: 'Asia/Kathmandu' })
    await inTenant(db, scope, async (tenant) => {
      for (const period of ['hour', 'day', 'month', 'total'] as const) {
        await makeBudget(tenant, { name: period, period })
      }
      const [hour, day, month, total] = await budgetStatus(tenant)
      const local = (date: Date | null | undefined) =>
        date?.toLocaleString('sv', { timeZone: 'Asia/Kathmandu' }) ?? ''
      expect(local(hour?.startsAt)).toMatch(/:00:00$/)
      expect(local(day?.startsAt)).toMatch(/ 00:00:00$/)
      expect(local(month?.startsAt)).toMatch(/-01 00:00:00$/)
      expect(local(month?.endsAt)).toMatch(/-01 00:00:00$/)
      expect(total).toMatchObject({ endsAt: null })
    })
  })

  test.skipIf(url)('has 23 hours on the day when clocks are put forward', async ({ db }) => {
    const [day] = await rowsOf<{ starts_at: string; ends_at: string }>(
      db,
      sql`select * from costs.window_of('day', '2026-03-29 12:00+00', 'Europe/Berlin')`,
    )
    expect(new Date(day?.starts_at ?? '')).toEqual(new Date('2026-03-28T23:00Z'))
    expect(new Date(day?.ends_at ?? '')).toEqual(new Date('2026-03-29T22:00Z'))
  })

  test.each([
    // Midnight is left out: the day begins at one, and ends at midnight.
    ['America/Santiago', '2026-09-06T12:00Z', '2026-09-06T04:00Z', '2026-09-07T03:00Z'],
    ['Africa/Cairo', '2026-04-24T12:00Z', '2026-04-23T22:00Z', '2026-04-24T21:00Z'],
    // Midnight comes twice: the hour in between is of the day before.
    ['America/Havana', '2026-11-01T04:30Z', '2026-10-31T04:00Z', '2026-11-01T05:00Z'],
    ['America/Havana', '2026-11-01T05:00Z', '2026-11-01T05:00Z', '2026-11-02T05:00Z'],
  ])('is a day of %s around %s', async (zone, at, startsAt, endsAt) => {
    const [day] = await rowsOf<{ starts_at: string; ends_at: string }>(
      owner,
      sql`select * from costs.window_of('day', ${at}::text::timestamptz, ${zone}::text)`,
    )
    expect(new Date(day?.starts_at ?? '')).toEqual(new Date(startsAt))
    expect(new Date(day?.ends_at ?? '')).toEqual(new Date(endsAt))
  })

  test('counts a call in the hour between two midnights', async ({ db }) => {
    await rowsOf(
      db,
      sql`select partitions.create_months('costs', 'usage_events', '2026-11-01', '2026-11-01')`,
    )
    const scope = await makeScope(db)
    await updateOrganization(db, { id: scope.organizationId, timeZone: 'America/Havana' })
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { period: 'day' })
      await spending(tenant, 1n, new Date('2026-11-01T04:30Z'))
      await spending(tenant, 2n, new Date('2026-11-01T04:45Z'))
      expect(await budgetDrift(tenant)).toEqual([])
    })
  })

  test('counts calls of before and after it in theirs', async ({ db }) => {
    await rowsOf(
      db,
      sql`select partitions.create_months('costs', 'usage_events', now() - interval '40 days', now())`,
    )
    const scope = await makeScope(db)
    const days = (count: number) => new Date(Date.now() - count * 86_400_000)
    await inTenant(db, scope, async (tenant) => {
      await spending(tenant, 1n, days(2))
      await makeBudget(tenant, { period: 'day', limitNanos: 100n })
      await recordUsages(tenant, [
        { ...call, operation: 'chat', costNanos: 2n, occurredAt: days(2) },
        { ...call, operation: 'chat', costNanos: 4n, occurredAt: days(2) },
        { ...call, operation: 'chat', costNanos: 8n, occurredAt: days(3) },
        { ...call, operation: 'chat', costNanos: 16n },
      ])
      await spending(tenant, 32n, days(3))
      expect(await budgetStatus(tenant)).toMatchObject([{ spentNanos: 16n }])
      expect(await budgetDrift(tenant)).toEqual([])
    })
  })

  test('goes on to its end when the time zone changes, and the next one begins there', async ({
    db,
  }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, (tenant) => makeBudget(tenant, { period: 'day', limitNanos: 10n }))
    const before = await inTenant(db, scope, (tenant) => budgetStatus(tenant))
    await updateOrganization(db, { id: scope.organizationId, timeZone: 'Pacific/Kiritimati' })
    await inTenant(db, scope, async (tenant) => {
      expect(await budgetStatus(tenant)).toEqual(before)
      const startsAt = before[0]?.startsAt.getTime() ?? 0
      // Late and early in the days of both zones, and again in the first window when there are others.
      for (const hours of [-30, -20, -15, -5, -1, 1, 30, 12, 23, 47, 26]) {
        await spending(tenant, 1n, new Date(startsAt + hours * 3_600_000))
      }
      expect(await budgetDrift(tenant)).toEqual([])
    })
  })
})

describe('what is re-priced', () => {
  test('counts in the window of the call', async ({ db }) => {
    const scope = await makeScope(db)
    const model = uuidV7()
    await makeModelPrice(db, { model, nanosPerMillion: 5_000_000n })
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { limitNanos: 100n })
      await recordUsage(tenant, { ...call, model, operation: 'chat', inputTokens: 10 })
      expect(await budgetStatus(tenant)).toMatchObject([{ spentNanos: 50n }])
    })
    const [price] = await listPrices(db, { model })
    await closePrice(db, { id: price?.id ?? '', validTo: new Date('2020-02-01') })
    await makeModelPrice(db, {
      model,
      nanosPerMillion: 2_000_000n,
      validFrom: new Date('2020-02-01'),
    })
    await inTenant(db, scope, async (tenant) => {
      await repriceUsage(tenant, { since: new Date(Date.now() - 60_000), dryRun: false })
      expect(await budgetStatus(tenant)).toMatchObject([{ spentNanos: 20n }])
      expect(await budgetDrift(tenant)).toEqual([])
    })
  })
})
