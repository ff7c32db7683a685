import { and, desc, eq, inArray, isNull, lt, sql } from 'drizzle-orm'
import { rowsOf, run } from '../database.ts'
import { type BudgetAlert, budgetAlerts } from '../schema/costs-budgets.ts'
import type { Tenant } from '../tenant.ts'
import { checkLimit, checkUuid } from '../validation.ts'

const MAX_PAGE = 500

/**
 * Takes alerts that nobody has taken yet, oldest first, to tell whom they concern. They are taken when the
 * transaction commits: who throws instead, since a message could not be sent, leaves them to the next one.
 * Two at once never take the same. Only admins and services take any.
 *
 * @throws {ValidationError}
 */
export async function claimBudgetAlerts(
  { db, organizationId }: Tenant,
  { limit = 100 }: { limit?: number } = {},
): Promise<BudgetAlert[]> {
  checkLimit(limit, MAX_PAGE)
  await rowsOf(db, sql`select costs.raise_missed_alerts()`)
  const alerts = budgetAlerts
  const isOfThis = eq(alerts.organizationId, organizationId)
  const next = await run(
    db
      .select({ id: alerts.id })
      .from(alerts)
      .where(and(isOfThis, isNull(alerts.claimedAt)))
      .orderBy(alerts.raisedAt, alerts.id)
      .limit(limit)
      .for('update', { skipLocked: true }),
  )
  if (next.length === 0) return []
  const ids = next.map(({ id }) => id)
  const claimed = await run(
    db
      .update(alerts)
      .set({ claimedAt: sql`now()` })
      .where(and(isOfThis, inArray(alerts.id, ids)))
      .returning(),
  )
  return claimed.toSorted((one, other) => ids.indexOf(one.id) - ids.indexOf(other.id))
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
  { db, organizationId }: Tenant,
  { budgetId, after, limit = 50 }: ListBudgetAlertsOptions = {},
): Promise<BudgetAlert[]> {
  if (budgetId !== undefined) checkUuid('budgetId', budgetId)
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, MAX_PAGE)
  const alerts = budgetAlerts
  return run(
    db
      .select()
      .from(alerts)
      .where(
        and(
          eq(alerts.organizationId, organizationId),
          budgetId !== undefined ? eq(alerts.budgetId, budgetId) : undefined,
          after !== undefined ? lt(alerts.id, after) : undefined,
        ),
      )
      .orderBy(desc(alerts.id))
      .limit(limit),
  )
}
