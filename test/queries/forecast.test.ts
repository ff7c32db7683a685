import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { rowsOf } from '../../src/database.ts'
import { ForbiddenError, NotFoundError, ValidationError } from '../../src/errors.ts'
import { recordUsage, recordUsages } from '../../src/queries/costs.ts'
import { forecast, forecastBudget } from '../../src/queries/forecast.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { inTenant, type Tenant } from '../../src/tenant.ts'
import { makeBudget } from '../../src/testing/costs.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { test } from '../support/database.ts'

const call = { provider: 'test', model: 'test-model' }
const spending = (tenant: Tenant, costNanos: bigint) =>
  recordUsage(tenant, { ...call, operation: 'chat', costNanos })

describe('forecast', () => {
  test('goes on as the last days were, to the end of the month', async ({ db }) => {
    await rowsOf(
      db,
      sql`select partitions.create_months('costs', 'usage_events', now() - interval '40 days', now())`,
    )
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await recordUsages(
        tenant,
        Array.from({ length: 7 * 24 }, (_, hours) => ({
          ...{ ...call, operation: 'chat', costNanos: 1_000n },
          occurredAt: new Date(Date.now() - hours * 3_600_000 - 60_000),
        })),
      )
      const { dailyNanos, spentNanos, forecastNanos, endsAt } = await forecast(tenant)
      expect(Number(dailyNanos) / 24_000).toBeCloseTo(1, 1)
      const days = ((endsAt?.getTime() ?? 0) - Date.now()) / 86_400_000
      expect(Number(forecastNanos) / (Number(spentNanos) + days * Number(dailyNanos))).toBeCloseTo(
        1,
        2,
      )
      expect(await forecast(tenant, { userId: uuidV7() })).toMatchObject({
        spentNanos: 0n,
        forecastNanos: 0n,
      })

      // For half a day, or for half of what is left of the month: behind its end nothing is exhausted.
      const hours = Math.min(12, days * 12)
      const limitNanos = spentNanos + BigInt(Math.round(hours * 1_000))
      const { id: budgetId } = await makeBudget(tenant, { limitNanos })
      const { exhaustsAt } = await forecastBudget(tenant, { budgetId })
      const left = ((exhaustsAt?.getTime() ?? 0) - Date.now()) / 3_600_000
      expect(left / hours).toBeGreaterThan(11 / 12)
      expect(left / hours).toBeLessThan(13 / 12)
    })
  })

  test('is of what one sees: a member’s own budget, and an admin’s any', async ({ db }) => {
    const boss = await makeScope(db)
    const member = await joinScope(db, boss, 'editor')
    const [all, each] = await inTenant(db, boss, async (tenant) => [
      await makeBudget(tenant, { limitNanos: 1_000n }),
      await makeBudget(tenant, { scope: 'user', limitNanos: 1_000n }),
    ])
    for (const scope of [boss, member]) {
      await inTenant(db, scope, (tenant) => spending(tenant, 10n))
    }
    const forecasting = (scope: typeof boss, budgetId = '', subject?: string) =>
      inTenant(db, scope, (tenant) =>
        forecastBudget(tenant, { budgetId, ...(subject && { subject }) }),
      )
    await expect(forecasting(member, all?.id)).rejects.toThrow(ForbiddenError)
    expect(await forecasting(boss, all?.id)).toMatchObject({ spentNanos: 20n })
    expect(await forecasting(member, each?.id)).toMatchObject({ spentNanos: 10n })
    expect(await forecasting(boss, each?.id, member.userId)).toMatchObject({ spentNanos: 10n })
  })

  test('is of any of many subjects', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      const { id: budgetId } = await makeBudget(tenant, { scope: 'project' })
      const projects = Array.from({ length: 502 }, () => uuidV7()).sort()
      await recordUsages(
        tenant,
        projects.map((projectId) => ({ ...call, operation: 'chat', costNanos: 1n, projectId })),
      )
      const subject = projects.at(-1) as string
      expect(await forecastBudget(tenant, { budgetId, subject })).toMatchObject({ spentNanos: 1n })
      const upper = subject.toUpperCase()
      expect(await forecastBudget(tenant, { budgetId, subject: upper })).toMatchObject({
        spentNanos: 1n,
      })
      await expect(forecastBudget(tenant, { budgetId })).rejects.toThrow(ValidationError)
    })
  })

  test('knows nothing of what was not spent, and refuses what it does not know', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      const { id } = await makeBudget(tenant, { period: 'total' })
      expect(await forecastBudget(tenant, { budgetId: id })).toMatchObject({
        ...{ forecastNanos: null, exhaustsAt: null, dailyNanos: 0n, endsAt: null },
      })
      await expect(forecastBudget(tenant, { budgetId: uuidV7() })).rejects.toThrow(NotFoundError)
      await expect(forecast(tenant, { period: 'total' as never })).rejects.toThrow(ValidationError)
    })
  })
})
