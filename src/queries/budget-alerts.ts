import { and, desc, eq, getColumns, inArray, isNull, lt, sql } from 'drizzle-orm'
import { run } from '../database.ts'
import { type Budget, type BudgetAlert, budgetAlerts, budgets } from '../schema/costs-budgets.ts'
import type { Tenant } from '../tenant.ts'
import { checkLimit, checkUuid } from '../validation.ts'
import { raiseMissedAlerts } from './charging.ts'

const MAX_PAGE = 500

/** An alert, and of which budget. */
export type ListedBudgetAlert = BudgetAlert & Pick<Budget, 'name' | 'scope' | 'period' | 'mode'>

const { name, scope, period, mode } = budgets
const listed = ({ db }: Tenant) =>
  db
    .select({ ...getColumns(budgetAlerts), name, scope, period, mode })
    .from(budgetAlerts)
    .innerJoin(
      budgets,
      and(
        eq(budgets.organizationId, budgetAlerts.organizationId),
        eq(budgets.id, budgetAlerts.budgetId),
      ),
    )

/**
 * Takes alerts that nobody has taken yet, oldest first, to tell whom they concern. They are taken when the
 * transaction commits: who throws instead, since a message could not be sent, leaves them to the next one.
 * Two at once never take the same. Only admins and services take any.
 *
 * @throws {ValidationError}
 */
export async function claimBudgetAlerts(
  tenant: Tenant,
  { limit = 100 }: { limit?: number } = {},
): Promise<ListedBudgetAlert[]> {
  checkLimit(limit, MAX_PAGE)
  const { db, organizationId } = tenant
  await raiseMissedAlerts(tenant)
  const alerts = budgetAlerts
  const isOfThis = eq(alerts.organizationId, organizationId)
  const next = await run(
    listed(tenant)
      .where(and(isOfThis, isNull(alerts.claimedAt)))
      .orderBy(alerts.raisedAt, alerts.threshold, alerts.id)
      .limit(limit)
      .for('update', { of: alerts, skipLocked: true }),
  )
  if (next.length === 0) return []
  const ids = next.map(({ id }) => id)
  const [claimed] = await run(
    db
      .update(alerts)
      .set({ claimedAt: sql`now()` })
      .where(and(isOfThis, inArray(alerts.id, ids)))
      .returning({ claimedAt: alerts.claimedAt }),
  )
  return next.map((alert) => ({ ...alert, ...claimed }))
}

export interface ListBudgetAlertsOptions {
  budgetId?: string
  /** The id of the last alert of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists alerts, claimed or not, newest first; none for members below admin. @throws {ValidationError} */
export async function listBudgetAlerts(
  tenant: Tenant,
  { budgetId, after, limit = 50 }: ListBudgetAlertsOptions = {},
): Promise<ListedBudgetAlert[]> {
  if (budgetId !== undefined) checkUuid('budgetId', budgetId)
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, MAX_PAGE)
  return run(
    listed(tenant)
      .where(
        and(
          eq(budgetAlerts.organizationId, tenant.organizationId),
          budgetId !== undefined ? eq(budgetAlerts.budgetId, budgetId) : undefined,
          after !== undefined ? lt(budgetAlerts.id, after) : undefined,
        ),
      )
      .orderBy(desc(budgetAlerts.id))
      .limit(limit),
  )
}
