import { sql } from 'drizzle-orm'
import { type RawRow, rowsOf } from '../database.ts'
import type { UsageEvent } from '../schema/costs.ts'
import type { BudgetScope } from '../schema/costs-budgets.ts'
import type { Tenant } from '../tenant.ts'

/** A blocking budget of which more is spent and reserved than its limit. */
export interface ExceededBudget {
  id: string
  name: string
  scope: BudgetScope
  /** The user's or project's id, or `provider/model`; empty for the organization. */
  subject: string
  limitNanos: bigint
  spentNanos: bigint
  reservedNanos: bigint
  startsAt: Date
  /** Exclusive; null: never. */
  endsAt: Date | null
}

/** What of a line of the ledger the budgets look at. */
export type ChargedLine = Pick<UsageEvent, 'provider' | 'model' | 'costNanos' | 'occurredAt'> & {
  userId?: string | null | undefined
  projectId?: string | null | undefined
}

/**
 * Counts lines that this transaction has written into the ledger in every budget that they belong to, whatever
 * its limit, since they are spent, and settles a reservation by them, which gives back what it holds. Returns the
 * windows that have more than their limit then.
 */
export async function chargeBudgets(
  { db }: Tenant,
  lines: readonly ChargedLine[],
  settled?: string,
): Promise<ExceededBudget[]> {
  if (lines.length === 0 && settled === undefined) return []
  const json = JSON.stringify(
    lines.map(({ userId, projectId, provider, model, costNanos, occurredAt }) => ({
      ...{ user_id: userId, project_id: projectId, provider, model, occurred_at: occurredAt },
      cost_nanos: costNanos === null ? null : String(costNanos),
    })),
  )
  const rows = await rowsOf<RawRow<ExceededBudget>>(
    db,
    sql`
      select id, name, scope, subject, limit_nanos::text as "limitNanos", spent_nanos::text as "spentNanos",
        reserved_nanos::text as "reservedNanos", starts_at as "startsAt", ends_at as "endsAt"
      from costs.charge_budgets(${json}::text::json, ${settled ?? null})`,
  )
  return rows.map(windowFrom)
}

/**
 * Raises what several counters of a budget have reached together while each session saw its own only. Others who would
 * raise the same wait for the end of the transaction.
 */
export const raiseMissedAlerts = ({ db }: Pick<Tenant, 'db'>): Promise<unknown[]> =>
  rowsOf(db, sql`select costs.raise_missed_alerts()`)

/** Reads the amounts and times of a window. */
export const windowFrom = <
  Row extends RawRow<
    Pick<ExceededBudget, 'limitNanos' | 'spentNanos' | 'reservedNanos' | 'startsAt' | 'endsAt'>
  >,
>(
  row: Row,
) => ({
  ...row,
  limitNanos: BigInt(row.limitNanos),
  spentNanos: BigInt(row.spentNanos),
  reservedNanos: BigInt(row.reservedNanos),
  startsAt: new Date(row.startsAt),
  endsAt: row.endsAt === null ? null : new Date(row.endsAt),
})
