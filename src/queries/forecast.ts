import { and, eq, type SQL, sql } from 'drizzle-orm'
import { only, rowsOf } from '../database.ts'
import { ForbiddenError, NotFoundError, ValidationError } from '../errors.ts'
import { usageEvents } from '../schema/costs.ts'
import type { BudgetPeriod, BudgetScope } from '../schema/costs-budgets.ts'
import type { Tenant } from '../tenant.ts'
import { checkOneOf, checkUuid } from '../validation.ts'
import { budgetStatus } from './budgets.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS

/** Over how long the pace is measured: for a month a whole week, since weekends are quieter than other days. */
const PACE_MS = { hour: HOUR_MS, day: DAY_MS, month: 7 * DAY_MS, total: 7 * DAY_MS }

const PERIODS = ['hour', 'day', 'month'] as const

export interface Forecast {
  startsAt: Date
  /** The end of the period; null: it has none. */
  endsAt: Date | null
  /** Nano-dollars, since `startsAt`. */
  spentNanos: bigint
  /** What is spent a day at the recent pace. */
  dailyNanos: bigint
  /** What will be spent by `endsAt` at that pace; null without an end. */
  forecastNanos: bigint | null
}

export interface ForecastOptions {
  /** `month` unless said; it begins in the organization's time zone. */
  period?: (typeof PERIODS)[number]
  /** Only what this user spends. */
  userId?: string
}

/**
 * Forecasts what will be spent by the end of the hour, day or month: what is spent, and for the time that is
 * left the pace of the last hour, day or seven days, or since the first call of them. Nothing seasonal but the
 * week is known to it.
 *
 * Members below admin see what is on record under their own name, as for `spend`. @throws {ValidationError}
 */
export async function forecast(
  tenant: Tenant,
  { period = 'month', userId }: ForecastOptions = {},
): Promise<Forecast> {
  checkOneOf('period', period, PERIODS)
  if (userId !== undefined) checkUuid('userId', userId)
  const lines = userId === undefined ? sql`true` : eq(usageEvents.userId, userId)
  return predict(await measure(tenant, period, lines))
}

export interface BudgetForecast extends Forecast {
  limitNanos: bigint
  /** When the limit will be spent at the recent pace; null: not within the period. */
  exhaustsAt: Date | null
}

export interface ForecastBudgetOptions {
  budgetId: string
  /** For a budget of each user, project or model: which of them. */
  subject?: string
}

/**
 * Forecasts a budget as `forecast` does, and when it will be spent.
 *
 * @throws {ForbiddenError} for members below admin, but for a budget of their own.
 * @throws {NotFoundError} for an unknown budget, and a subject that has spent nothing of it.
 * @throws {ValidationError} also for a budget of many subjects without one.
 */
export async function forecastBudget(
  tenant: Tenant,
  { budgetId, subject }: ForecastBudgetOptions,
): Promise<BudgetForecast> {
  checkUuid('budgetId', budgetId)
  const [status, other] = await budgetStatus(tenant, {
    ...{ budgetId, limit: 2 },
    ...(subject !== undefined && { subject }),
  })
  if (other) throw new ValidationError('subject', 'is needed: the budget has a limit for each')
  if (!status) throw new NotFoundError('budget window', `${budgetId} ${subject ?? ''}`.trim())
  // The pace is that of the lines that the scope sees.
  if (status.scope !== 'user' && !['owner', 'admin', 'service'].includes(await tenant.role)) {
    throw new ForbiddenError(
      'permission',
      'to forecast what others spend as well is for admins: others do not see all lines',
    )
  }
  const measured = await measure(tenant, status.period, linesOf(status.scope, status.subject))
  const { at, nanosPerMs } = measured
  const predicted = predict({ ...measured, spentNanos: status.spentNanos })
  const leftNanos = status.limitNanos - status.spentNanos
  const exhausted = leftNanos <= 0n ? at.getTime() : at.getTime() + Number(leftNanos) / nanosPerMs
  const isWithin = exhausted <= (predicted.endsAt?.getTime() ?? MAX_TIME)
  return {
    ...predicted,
    limitNanos: status.limitNanos,
    exhaustsAt: isWithin ? new Date(exhausted) : null,
  }
}

/** The last instant that a Date holds. */
const MAX_TIME = 8.64e15

function linesOf(scope: BudgetScope, subject: string): SQL {
  const e = usageEvents
  if (scope === 'organization') return sql`true`
  if (scope === 'model') return sql`${e.provider} || '/' || ${e.model} = ${subject}`
  return eq(scope === 'user' ? e.userId : e.projectId, subject)
}

interface Measured {
  startsAt: Date
  endsAt: Date | null
  at: Date
  spentNanos: bigint
  nanosPerMs: number
}

/** Sums up the period and the time before now by which the pace is judged. */
async function measure(
  { db, organizationId }: Tenant,
  period: BudgetPeriod,
  lines: SQL,
): Promise<Measured> {
  const e = usageEvents
  const paceMs = PACE_MS[period]
  const row = only(
    await rowsOf<
      Record<'startsAt' | 'at' | 'spent' | 'recent', string> &
        Record<'endsAt' | 'first', string | null>
    >(
      db,
      sql`
        select w.starts_at as "startsAt", w.ends_at as "endsAt", w.at, s.spent::text, s.recent::text, s.first
        from costs.current_window(${period}) w
        cross join lateral (
          select coalesce(sum(${e.costNanos}) filter (where ${e.occurredAt} >= w.starts_at), 0) as spent,
            coalesce(sum(${e.costNanos}) filter (where ${e.occurredAt} >= w.at - ${paceMs} * interval '1 millisecond'), 0) as recent,
            min(${e.occurredAt}) filter (where ${e.occurredAt} >= w.at - ${paceMs} * interval '1 millisecond') as first
          from ${e}
          where ${and(eq(e.organizationId, organizationId), lines)}
            and ${e.occurredAt} >= least(w.starts_at, w.at - ${paceMs} * interval '1 millisecond')
            and ${e.occurredAt} <= w.at) s`,
    ),
  )
  const at = new Date(row.at)
  const since = row.first === null ? paceMs : at.getTime() - new Date(row.first).getTime()
  return {
    startsAt: new Date(row.startsAt),
    endsAt: row.endsAt === null ? null : new Date(row.endsAt),
    at,
    spentNanos: BigInt(row.spent),
    // A first call of just now is no pace: as if it were one an hour, or a period that is shorter.
    nanosPerMs: Number(row.recent) / Math.max(since, Math.min(HOUR_MS, paceMs)),
  }
}

function predict({ startsAt, endsAt, at, spentNanos, nanosPerMs }: Measured): Forecast {
  const left = endsAt === null ? null : Math.max(endsAt.getTime() - at.getTime(), 0)
  return {
    ...{ startsAt, endsAt, spentNanos, dailyNanos: BigInt(Math.round(nanosPerMs * DAY_MS)) },
    forecastNanos: left === null ? null : spentNanos + BigInt(Math.round(nanosPerMs * left)),
  }
}
