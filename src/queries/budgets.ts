import { and, asc, eq, gt, sql } from 'drizzle-orm'
import { type RawRow, rowsOf, run } from '../database.ts'
import { ForbiddenError, NotFoundError, ValidationError } from '../errors.ts'
import { uuidV7 } from '../schema/columns.ts'
import { usageEvents } from '../schema/costs.ts'
import {
  type Budget,
  type BudgetMode,
  type BudgetPeriod,
  type BudgetScope,
  budgetAlerts,
  budgetMode,
  budgetPeriod,
  budgetScope,
  budgets,
  budgetWindows,
  reservations,
} from '../schema/costs-budgets.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkBigint,
  checkInteger,
  checkItem,
  checkLimit,
  checkList,
  checkOneOf,
  checkText,
  checkUuid,
} from '../validation.ts'
import { windowFrom } from './charging.ts'

const MAX_PAGE = 500
const MAX_NAME = 200
const MAX_SHARDS = 64

export interface CreateBudgetOptions {
  /** Unique in the organization. */
  name: string
  /** What it is about; `organization` unless said. */
  scope?: BudgetScope
  /**
   * A user's or a project's id, or `provider/model`. Without it each user, project or model has the limit for
   * itself; a budget with one takes the place of that one, of the same period and mode.
   */
  subject?: string
  /** Begins anew each hour, day or month in the organization's time zone, or never. */
  period: BudgetPeriod
  /** `block` unless said. */
  mode?: BudgetMode
  /** Nano-dollars. */
  limitNanos: bigint
  /** Percentages of the limit at which an alert is raised; 80 and 100 unless said. */
  thresholds?: readonly number[]
  /**
   * Over how many counters each window is spread, 1 to 64, so that as many writers do not wait for each other's
   * COMMIT. The limit stays exact: a counter that is full takes from the others, and none is refused early.
   */
  shards?: number
}

/**
 * Creates a budget. It counts from the beginning of its period: what the ledger has of it is spent already.
 * What is reserved when it is made, it counts once that is settled.
 *
 * Waits for the transactions of the organization that write into the ledger or reserve. One of REPEATABLE READ that
 * began before it and writes after it gets a LockError.
 *
 * @throws {ForbiddenError} unless the scope is an admin's.
 * @throws {TransactionError} within a transaction of another isolation level than READ COMMITTED.
 * @throws {ConstraintError} `budgets_name_key` for a name that is taken. @throws {ValidationError}
 */
export async function createBudget(
  { db, organizationId }: Tenant,
  {
    name,
    scope = 'organization',
    subject,
    period,
    mode = 'block',
    limitNanos,
    thresholds = [80, 100],
    shards = 1,
  }: CreateBudgetOptions,
): Promise<Budget> {
  checkText('name', name, { max: MAX_NAME })
  checkOneOf('scope', scope, budgetScope.enumValues)
  checkOneOf('period', period, budgetPeriod.enumValues)
  checkOneOf('mode', mode, budgetMode.enumValues)
  checkSubject(scope, subject)
  checkBigint('limitNanos', limitNanos)
  checkThresholds(thresholds)
  checkInteger('shards', shards, { min: 1, max: MAX_SHARDS })

  const id = uuidV7()
  await closeLedger({ db })
  const [budget] = await run(
    db
      .insert(budgets)
      .values({
        ...{ organizationId, id, name, scope, period, mode, limitNanos, shards },
        // As Postgres writes a uuid, since that is what it is compared with.
        subject: scope === 'user' || scope === 'project' ? subject?.toLowerCase() : subject,
        thresholds: [...thresholds],
      })
      .returning(),
  )
  await rowsOf(db, sql`select costs.open_budget(${id})`)
  return budget as Budget
}

const closeLedger = ({ db }: Pick<Tenant, 'db'>) => rowsOf(db, sql`select costs.close_ledger()`)

function checkSubject(scope: BudgetScope, subject: unknown): void {
  if (subject === undefined) return
  if (scope === 'organization') {
    throw new ValidationError('subject', 'is for budgets of a user, a project or a model')
  }
  if (scope !== 'model') {
    checkUuid('subject', subject)
    return
  }
  checkText('subject', subject, { max: 400 })
  if (!/^[^/]+\/./.test(subject)) {
    throw new ValidationError('subject', 'must be provider/model, such as openai/gpt-4o')
  }
}

function checkThresholds(thresholds: unknown): void {
  checkList('thresholds', thresholds, { max: 20 })
  let last = 0
  for (const [at, threshold] of thresholds.entries()) {
    checkInteger(`thresholds[${at}]`, threshold, { min: 1, max: 1_000 })
    if (threshold <= last) {
      throw new ValidationError(`thresholds[${at}]`, 'must be greater than the one before')
    }
    last = threshold
  }
}

export interface UpdateBudgetOptions {
  id: string
  name?: string
  mode?: BudgetMode
  limitNanos?: bigint
  thresholds?: readonly number[]
  /** Never fewer than before. */
  shards?: number
}

/**
 * Changes a budget, from the next call on and also for the periods that go on. What is spent stays; a lower
 * limit takes nothing away from what is reserved. Waits, as `createBudget`.
 *
 * @throws {NotFoundError} for an unknown id, and for members below admin. @throws {ConstraintError}
 * @throws {ValidationError} also for fewer shards.
 */
export async function updateBudget(
  tenant: Tenant,
  { id, name, mode, limitNanos, thresholds, shards }: UpdateBudgetOptions,
): Promise<Budget> {
  checkUuid('id', id)
  if (name !== undefined) checkText('name', name, { max: MAX_NAME })
  if (mode !== undefined) checkOneOf('mode', mode, budgetMode.enumValues)
  if (limitNanos !== undefined) checkBigint('limitNanos', limitNanos)
  if (thresholds !== undefined) checkThresholds(thresholds)
  if (shards !== undefined) checkInteger('shards', shards, { min: 1, max: MAX_SHARDS })

  // Calls lock its windows first, and then the budget.
  await closeLedger(tenant)
  // Locked by the update, so that another one does not see what this one leaves.
  const [found] = await run(
    tenant.db
      .update(budgets)
      .set({
        ...(name && { name }),
        ...(mode && { mode }),
        ...(thresholds && { thresholds: [...thresholds] }),
        updatedAt: sql`now()`,
      })
      .where(isBudget(tenant, id))
      .returning(),
  )
  if (!found) throw new NotFoundError('budget', id)
  if (shards !== undefined && shards < found.shards) {
    throw new ValidationError('shards', `is ${shards}; a budget of ${found.shards} keeps them`)
  }
  await rowsOf(
    tenant.db,
    sql`select costs.change_budget(${id}, ${limitNanos ?? found.limitNanos}, ${shards ?? found.shards}::smallint)`,
  )
  return getBudget(tenant, id)
}

const isBudget = ({ organizationId }: Tenant, id: string) =>
  and(eq(budgets.organizationId, organizationId), eq(budgets.id, id))

/** Returns a budget. @throws {NotFoundError} for an unknown id. @throws {ValidationError} */
export async function getBudget(tenant: Tenant, id: string): Promise<Budget> {
  checkUuid('id', id)
  const [found] = await run(tenant.db.select().from(budgets).where(isBudget(tenant, id)))
  if (!found) throw new NotFoundError('budget', id)
  return found
}

/**
 * Removes a budget with its windows and alerts. What is reserved in it counts for the others only.
 * Waits, as `createBudget`.
 *
 * @throws {NotFoundError} for an unknown id, and for members below admin. @throws {ValidationError}
 */
export async function removeBudget(tenant: Tenant, id: string): Promise<Budget> {
  checkUuid('id', id)
  // Whoever tells of its alerts is waited for before anybody has to wait for this.
  await rowsOf(
    tenant.db,
    sql`select from ${budgetAlerts}
      where organization_id = ${tenant.organizationId} and budget_id = ${id} for update`,
  )
  await closeLedger(tenant)
  const [removed] = await run(tenant.db.delete(budgets).where(isBudget(tenant, id)).returning())
  if (!removed) throw new NotFoundError('budget', id)
  // Whose place it took blocks and alerts again: its counters share what is left.
  await rowsOf(
    tenant.db,
    sql`
      select costs.change_budget(b.id, b.limit_nanos, b.shards) from ${budgets} b
      where b.organization_id = ${tenant.organizationId} and b.scope = ${removed.scope}
        and b.period = ${removed.period} and b.mode = ${removed.mode} and b.subject is null`,
  )
  return removed
}

export interface ListBudgetsOptions {
  scope?: BudgetScope
  /** The id of the last budget of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists the budgets of the organization, oldest first. @throws {ValidationError} */
export async function listBudgets(
  { db, organizationId }: Tenant,
  { scope, after, limit = 50 }: ListBudgetsOptions = {},
): Promise<Budget[]> {
  if (scope !== undefined) checkOneOf('scope', scope, budgetScope.enumValues)
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, MAX_PAGE)
  return run(
    db
      .select()
      .from(budgets)
      .where(
        and(
          eq(budgets.organizationId, organizationId),
          scope && eq(budgets.scope, scope),
          after !== undefined ? gt(budgets.id, after) : undefined,
        ),
      )
      .orderBy(asc(budgets.id))
      .limit(limit),
  )
}

/** A budget in one of its periods. */
export interface BudgetStatus {
  budgetId: string
  name: string
  scope: BudgetScope
  period: BudgetPeriod
  mode: BudgetMode
  /** The user's or project's id, or `provider/model`; empty for the organization. */
  subject: string
  limitNanos: bigint
  /** What the ledger has of it. */
  spentNanos: bigint
  reservedNanos: bigint
  /** What can still be reserved; never below 0. */
  remainingNanos: bigint
  startsAt: Date
  /** When it begins anew; null: never. */
  endsAt: Date | null
}

export interface BudgetStatusOptions {
  budgetId?: string
  /** A user's or a project's id, or `provider/model`; empty for the organization. */
  subject?: string
  userId?: string
  /** The last window of the previous page. */
  after?: Pick<BudgetStatus, 'budgetId' | 'subject'>
  /** Up to 500. */
  limit?: number
}

/**
 * Says of each budget what is spent, reserved and left of it in the period around now, in the order of the
 * budgets and then of their subjects. A budget for each user, project or model has a line for each that has
 * spent or reserved anything, and no budget of its own; one without a line is unspent. Members see no other member's.
 *
 * @throws {ValidationError}
 */
export async function budgetStatus(
  { db }: Tenant,
  { budgetId, subject, userId, after, limit = 100 }: BudgetStatusOptions = {},
): Promise<BudgetStatus[]> {
  if (budgetId !== undefined) checkUuid('budgetId', budgetId)
  if (subject !== undefined) checkText('subject', subject, { min: 0, max: 400 })
  if (userId !== undefined) checkUuid('userId', userId)
  if (after !== undefined) {
    checkItem('after', after, () => {
      checkUuid('budgetId', after.budgetId)
      checkText('subject', after.subject, { min: 0, max: 400 })
    })
  }
  checkLimit(limit, MAX_PAGE)
  const rows = await rowsOf<RawRow<BudgetStatus>>(
    db,
    sql`
      select s.budget_id as "budgetId", s.name, s.scope, s.period, s.mode, s.subject,
        s.limit_nanos::text as "limitNanos", s.spent_nanos::text as "spentNanos",
        s.reserved_nanos::text as "reservedNanos",
        greatest(s.limit_nanos - s.spent_nanos - s.reserved_nanos, 0)::text as "remainingNanos",
        s.starts_at as "startsAt", s.ends_at as "endsAt"
      from costs.budget_status() s
      where ${and(
        budgetId === undefined ? undefined : sql`s.budget_id = ${budgetId}`,
        subject === undefined
          ? undefined
          : sql`s.subject = case when s.scope in ('user', 'project') then lower(${subject}::text) else ${subject}::text end`,
        userId === undefined
          ? undefined
          : sql`s.scope = 'user' and s.subject = ${userId.toLowerCase()}`,
        after && sql`(s.budget_id, s.subject) > (${after.budgetId}, ${after.subject}::text)`,
        sql`true`,
      )}
      order by s.budget_id, s.subject
      limit ${limit}`,
  )
  return rows.map((row) => ({ ...windowFrom(row), remainingNanos: BigInt(row.remainingNanos) }))
}

/** A window whose counters do not add up. */
export interface BudgetDrift {
  budgetId: string
  subject: string
  startsAt: Date
  /** What the counters say, and what the ledger has. */
  spentNanos: bigint
  ledgerNanos: bigint
  /** What the counters say, and what the reservations hold. */
  reservedNanos: bigint
  heldNanos: bigint
}

/**
 * Finds windows whose counters are not, to the nano, the sum of the ledger's lines and of the reservations
 * held, or whose quotas are not the limit: there are none, unless somebody wrote past plinth. Up to 500; for admins.
 *
 * @throws {ForbiddenError} for members below admin, who do not see all lines.
 */
export async function budgetDrift({ db, organizationId, role }: Tenant): Promise<BudgetDrift[]> {
  if (!['owner', 'admin', 'service'].includes(await role)) {
    throw new ForbiddenError('permission', 'budgetDrift is for admins: others do not see all lines')
  }
  const e = usageEvents
  const rows = await rowsOf<{ [Column in keyof BudgetDrift]: string }>(
    db,
    sql`
      with windows as (
        select w.budget_id, w.subject, w.starts_at, w.ends_at, w.scope, sum(w.spent_nanos) as spent,
          sum(w.reserved_nanos) as reserved, sum(w.quota_nanos) as quota
        from ${budgetWindows} w where w.organization_id = ${organizationId}
        group by 1, 2, 3, 4, 5
      ), sums as (
        select w.*, b.limit_nanos,
          coalesce((select sum(${e.costNanos}) from ${e}
            where ${e.organizationId} = ${organizationId} and ${e.occurredAt} >= w.starts_at
              and (w.ends_at is null or ${e.occurredAt} < w.ends_at)
              and w.subject = case w.scope when 'organization' then '' when 'user' then ${e.userId}::text
                when 'project' then ${e.projectId}::text else ${e.provider} || '/' || ${e.model} end), 0) as ledger,
          coalesce((select sum(r.amount_nanos) from ${reservations} r
            cross join lateral unnest(r.budget_ids, r.subjects, r.window_starts_at) h (budget_id, subject, starts_at)
            where r.organization_id = ${organizationId} and r.state = 'held' and h.budget_id = w.budget_id
              and h.subject = w.subject and h.starts_at = w.starts_at), 0) as held
        from windows w join ${budgets} b on b.organization_id = ${organizationId} and b.id = w.budget_id
      )
      select budget_id as "budgetId", subject, starts_at as "startsAt", spent::text as "spentNanos",
        ledger::text as "ledgerNanos", reserved::text as "reservedNanos", held::text as "heldNanos"
      from sums
      where spent <> ledger or reserved <> held
        or (quota <> limit_nanos and (ends_at is null or ends_at > clock_timestamp()))
      order by budget_id, subject, starts_at limit ${MAX_PAGE}`,
  )
  return rows.map(({ budgetId, subject, ...window }) => ({
    ...{ budgetId, subject, startsAt: new Date(window.startsAt) },
    ...{ spentNanos: BigInt(window.spentNanos), ledgerNanos: BigInt(window.ledgerNanos) },
    ...{ reservedNanos: BigInt(window.reservedNanos), heldNanos: BigInt(window.heldNanos) },
  }))
}
