import { sql } from 'drizzle-orm'
import { rowsOf } from '../database.ts'
import { ValidationError } from '../errors.ts'
import type { Tenant } from '../tenant.ts'
import { checkInstant, checkLimit, checkOneOf, checkTimeZone, checkUuid } from '../validation.ts'

export * from './usage.ts'

const MAX_PAGE = 500
const MAX_ROWS = 10_000

const SPEND_BY = ['user', 'model', 'endpoint', 'project'] as const
export type SpendBy = (typeof SPEND_BY)[number]
const SPEND_PERIODS = ['hour', 'day', 'month'] as const
export type SpendPeriod = (typeof SPEND_PERIODS)[number]

export interface SpendRange {
  /** The earliest time to sum up. */
  since: Date
  /** The time before which to sum up. */
  until?: Date
  /** Only what this user has spent. */
  userId?: string
}

export interface SpendOptions<By extends SpendBy, Period extends SpendPeriod> extends SpendRange {
  period?: Period
  /** Where days and months begin: `UTC`, or a name such as `Europe/Berlin`. */
  timeZone?: string
  by?: By
  /** Up to 10,000. */
  limit?: number
}

interface SpendKeys {
  user: { userId: string | null }
  model: { provider: string; model: string }
  endpoint: { endpoint: string | null }
  project: { projectId: string | null }
}

export interface Spend {
  /** Nano-dollars of what has a price. */
  costNanos: bigint
  /** Calls: an adjustment is none. */
  events: number
  /** How many of the events have no price, so that the cost is higher than it says. */
  unpriced: number
  /** Input, output and embedding tokens. */
  tokens: number
}

/** With the start of the period, and what it is summed up by. */
export type SpendRow<By extends SpendBy = never, Period extends SpendPeriod = never> = Spend &
  ([Period] extends [never] ? unknown : { period: Date }) &
  ([By] extends [never] ? unknown : SpendKeys[By])

/**
 * Sums up what was spent: in all, by period, by what it was for, or by both. Oldest period first, within
 * it the dearest first. Periods without a call have no row; without any call there is none at all.
 *
 * Admins and services sum up everything, other members what is on record under their own name. Such a
 * member should be given as `userId` too: the index then finds the lines, which the policy can only
 * pick out of everyone's.
 *
 * What `rollUpUsage` has summed up is read from there by the day, and all else from the ledger: with the same answer,
 * in one snapshot. Hours, and days of another zone than UTC, are always the ledger's.
 *
 * @throws {ValidationError} also for a time zone that is no name of one, and for more rows than `limit`.
 */
export async function spend<By extends SpendBy = never, Period extends SpendPeriod = never>(
  tenant: Tenant,
  { period, timeZone = 'UTC', by, limit = MAX_ROWS, ...range }: SpendOptions<By, Period>,
): Promise<SpendRow<By, Period>[]> {
  if (period !== undefined) checkOneOf('period', period, SPEND_PERIODS)
  checkTimeZone('timeZone', timeZone)
  if (by !== undefined) checkOneOf('by', by, SPEND_BY)
  checkLimit(limit, MAX_ROWS)
  const rows = await sumUp<By, Period>(tenant, { ...range, period, timeZone, by, limit: limit + 1 })
  // A sum that is not the whole would pass for it.
  if (rows.length > limit) {
    throw new ValidationError('limit', `of ${limit} rows is too low; narrow the range, or raise it`)
  }
  return rows
}

export interface TopCostsOptions<By extends SpendBy> extends SpendRange {
  by: By
  /** Up to 500. */
  limit?: number
}

/** Sums up as `spend`, over the whole range, the dearest first. @throws {ValidationError} */
export async function topCosts<By extends SpendBy>(
  tenant: Tenant,
  { by, limit = 10, ...range }: TopCostsOptions<By>,
): Promise<SpendRow<By>[]> {
  checkOneOf('by', by, SPEND_BY)
  checkLimit(limit, MAX_PAGE)
  return sumUp<By, never>(tenant, { ...range, by, period: undefined, timeZone: 'UTC', limit })
}

/** The columns of each grouping, as the sums have them. */
const KEYS: Record<SpendBy, readonly { as: string; column: string }[]> = {
  user: [{ as: 'userId', column: 'user_id' }],
  model: [
    { as: 'provider', column: 'provider' },
    { as: 'model', column: 'model' },
  ],
  endpoint: [{ as: 'endpoint', column: 'endpoint' }],
  project: [{ as: 'projectId', column: 'project_id' }],
}

interface SumUpOptions extends SpendRange {
  by: SpendBy | undefined
  period: SpendPeriod | undefined
  timeZone: string
  limit: number
}

async function sumUp<By extends SpendBy, Period extends SpendPeriod>(
  { db }: Tenant,
  { since, until, userId, by, period, timeZone, limit }: SumUpOptions,
): Promise<SpendRow<By, Period>[]> {
  checkInstant('since', since)
  if (until !== undefined) checkInstant('until', until)
  if (userId !== undefined) checkUuid('userId', userId)
  const keys = [
    ...(period ? [{ as: 'period', column: 'period_at' }] : []),
    ...(by ? KEYS[by] : []),
  ].map(({ as, column }) => ({ as: sql.identifier(as), column: sql.identifier(column) }))
  const columns = keys.map(({ column }) => sql`${column}`)
  const [first, ...rest] = period ? columns : [undefined, ...columns]
  const order = sql.join([...(first ? [first] : []), sql`cost desc`, ...rest], sql`, `)

  const rows = await rowsOf<Record<string, string | null>>(
    db,
    sql`
      select ${sql.join(
        keys.map(({ as, column }) => sql`${column} as ${as}, `),
        sql``,
      )}
        coalesce(sum(cost_nanos), 0)::numeric as cost, sum(events)::text as events,
        sum(unpriced)::text as unpriced, sum(tokens)::text as tokens
      from costs.usage_sums(${since.toISOString()}, ${until?.toISOString() ?? null}, ${userId ?? null},
        ${by ?? null}, ${period ?? null}, ${timeZone}) as sums
      ${columns.length > 0 ? sql`group by ${sql.join(columns, sql`, `)}` : sql`having sum(events) is not null`}
      order by ${order}
      limit ${limit}`,
  )
  return rows.map(
    ({ period: start, cost, events, unpriced, tokens, ...names }) =>
      ({
        ...(start != null && { period: new Date(start) }),
        ...names,
        costNanos: BigInt(cost ?? 0),
        events: Number(events),
        unpriced: Number(unpriced),
        tokens: Number(tokens),
      }) as SpendRow<By, Period>,
  )
}
