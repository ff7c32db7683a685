import { describe, expect } from 'vitest'
import { claimBudgetAlerts, listBudgetAlerts } from '../../src/queries/budget-alerts.ts'
import { removeBudget, updateBudget } from '../../src/queries/budgets.ts'
import { recordUsage } from '../../src/queries/costs.ts'
import { inTenant, type Tenant } from '../../src/tenant.ts'
import { makeBudget } from '../../src/testing/costs.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { test } from '../support/database.ts'

const call = { provider: 'test', model: 'test-model' }
const spending = (tenant: Tenant, costNanos: bigint) =>
  recordUsage(tenant, { ...call, operation: 'chat', costNanos })

describe('an alert', () => {
  test('is raised when a threshold is reached, and given to one who asks', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      const { id } = await makeBudget(tenant, {
        ...{ name: 'all', limitNanos: 100n, thresholds: [50, 80, 120] },
      })
      await spending(tenant, 49n)
      expect(await listBudgetAlerts(tenant)).toEqual([])
      await spending(tenant, 1n)
      await spending(tenant, 35n)
      await spending(tenant, 1n)
      const [first, second, ...rest] = await claimBudgetAlerts(tenant)
      expect(first).toMatchObject({
        budgetId: id,
        ...{ name: 'all', scope: 'organization', period: 'month', mode: 'block' },
        claimedAt: expect.any(Date),
        threshold: 50,
        spentNanos: 50n,
        limitNanos: 100n,
      })
      expect(second).toMatchObject({ threshold: 80, spentNanos: 85n })
      expect(rest).toEqual([])
      expect(await claimBudgetAlerts(tenant)).toEqual([])
      // What is lowered may have been reached already.
      await updateBudget(tenant, { id, limitNanos: 70n })
      expect(await claimBudgetAlerts(tenant)).toMatchObject([{ threshold: 120 }])
      expect(await listBudgetAlerts(tenant, { budgetId: id })).toHaveLength(3)
    })
  })

  test('is raised by the limit of one’s own, and not by that of each', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { name: 'each', scope: 'user', limitNanos: 10n })
      const own = await makeBudget(tenant, {
        ...{ name: 'own', scope: 'user', subject: scope.userId, limitNanos: 100n },
      })
      await spending(tenant, 80n)
      expect(await claimBudgetAlerts(tenant)).toMatchObject([{ budgetId: own.id, threshold: 80 }])
      await removeBudget(tenant, own.id)
      expect(await claimBudgetAlerts(tenant)).toMatchObject([
        { threshold: 80, spentNanos: 80n, limitNanos: 10n },
        { threshold: 100 },
      ])
    })
  })

  test('of what was spent before the budget is raised with it', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await spending(tenant, 90n)
      await makeBudget(tenant, { limitNanos: 100n })
      expect(await claimBudgetAlerts(tenant)).toMatchObject([{ threshold: 80, spentNanos: 90n }])
    })
  })
})
