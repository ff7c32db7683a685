import { describe, expect } from 'vitest'
import { drainBudgetAlerts, sweepReservations } from '../../src/lifecycle/budgets.ts'
import { recordUsage } from '../../src/queries/costs.ts'
import { reserve } from '../../src/queries/reservations.ts'
import { inTenant, type Tenant } from '../../src/tenant.ts'
import { makeBudget } from '../../src/testing/costs.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { test } from '../support/own-database.ts'

const call = { provider: 'test', model: 'test-model' }
const spending = (tenant: Tenant, costNanos: bigint, occurredAt?: Date) =>
  recordUsage(tenant, { ...call, operation: 'chat', costNanos, ...(occurredAt && { occurredAt }) })

describe('over all organizations', () => {
  test('what has expired is given back, and alerts are drained', async ({ db }) => {
    const scopes = [await makeScope(db), await makeScope(db)]
    for (const scope of scopes) {
      await inTenant(db, scope, async (tenant) => {
        await makeBudget(tenant, { limitNanos: 100n })
        await spending(tenant, 100n)
        await makeBudget(tenant, { limitNanos: 1_000n })
        await reserve(tenant, { ...call, amountNanos: 0n, leaseMs: 100 })
      })
    }
    await new Promise((resolve) => setTimeout(resolve, 120))
    expect(await sweepReservations(db)).toMatchObject({ purged: 0 })
    const ours = new Set(scopes.map(({ organizationId }) => organizationId))
    const told: string[] = []
    const deliver = async (alerts: readonly { organizationId: string; threshold: number }[]) => {
      for (const { organizationId, threshold } of alerts) {
        if (ours.has(organizationId)) told.push(`${organizationId} ${threshold}`)
      }
    }
    await expect(
      drainBudgetAlerts(db, async (alerts) => {
        if (alerts.some(({ organizationId }) => organizationId === scopes[0]?.organizationId))
          throw new Error('away')
        await deliver(alerts)
      }),
    ).rejects.toThrow('away')
    await drainBudgetAlerts(db, deliver)
    expect(told.toSorted()).toEqual(
      scopes
        .flatMap(({ organizationId }) => [`${organizationId} 80`, `${organizationId} 100`])
        .toSorted(),
    )
  })
})
