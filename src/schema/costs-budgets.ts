import { type SQL, sql } from 'drizzle-orm'
import {
  type AnyPgColumn,
  bigint,
  check,
  foreignKey,
  index,
  primaryKey,
  smallint,
  text,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'
import { id, instant, organizationId, timestamps } from './columns.ts'
import { costs } from './costs.ts'
import { organizations } from './identity.ts'
import { administered, isAdmin, log, scopedUser, tenantPolicies } from './policies.ts'

export const budgetScope = costs.enum('budget_scope', ['organization', 'user', 'project', 'model'])
export const budgetPeriod = costs.enum('budget_period', ['hour', 'day', 'month', 'total'])
/** `block` refuses what would go beyond the limit, `warn` only raises alerts. */
export const budgetMode = costs.enum('budget_mode', ['block', 'warn'])
/** `expired`: the caller did not come back in time, and the amount was given back. */
export const reservationState = costs.enum('reservation_state', [
  'held',
  'settled',
  'released',
  'expired',
])

/** How much may be spent, by whom or on what, in each period. */
export const budgets = costs.table.withRLS(
  'budgets',
  {
    organizationId: organizationId(),
    id: id(),

    name: text('name').notNull(),
    scope: budgetScope('scope').notNull(),
    /** A user's or project's id, or `provider/model`; null: each has the limit for itself. */
    subject: text('subject'),
    period: budgetPeriod('period').notNull(),
    mode: budgetMode('mode').notNull().default('block'),
    limitNanos: bigint('limit_nanos', { mode: 'bigint' }).notNull(),
    /** Percentages of the limit, in rising order, at which an alert is raised. */
    thresholds: smallint('thresholds').array().notNull().default([80, 100]),
    /** Over how many counters a window is spread, so that as many writers need not wait for each other. */
    shards: smallint('shards').notNull().default(1),

    ...timestamps(),
  },
  (t) => [
    primaryKey({ name: 'budgets_pkey', columns: [t.organizationId, t.id] }),
    foreignKey({
      name: 'budgets_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    uniqueIndex('budgets_name_key').on(t.organizationId, t.name),
    check('budgets_limit_nanos_check', sql`${t.limitNanos} >= 0`),
    check('budgets_shards_check', sql`${t.shards} between 1 and 64`),
    check('budgets_subject_check', sql`${t.scope} <> 'organization' or ${t.subject} is null`),
    ...tenantPolicies('budgets', t.organizationId, { ...administered(), read: true }),
  ],
)

/** Which counters a member sees: all but those of other users. */
export const isOwnCounter = (scope: SQL | AnyPgColumn, subject: SQL | AnyPgColumn) =>
  sql`(${isAdmin} or ${scope} <> 'user' or ${subject} = ${scopedUser}::text)`

/** Whose reservations a member settles and releases: the own and nobody's, which a member may make. */
export const mayResolve = (userId: SQL | AnyPgColumn) =>
  sql`coalesce(${isAdmin} or ${userId} is null or ${userId} = ${scopedUser}, false)`

/**
 * What was spent of a budget in one of its periods, and what is reserved. Spent is the sum of the ledger's
 * lines, reserved that of the reservations held; only functions write it. The quotas of all shards are the limit.
 */
export const budgetWindows = costs.table.withRLS(
  'budget_windows',
  {
    organizationId: organizationId(),
    budgetId: uuid('budget_id').notNull(),
    /** Empty for the organization. */
    subject: text('subject').notNull(),
    startsAt: instant('starts_at').notNull(),
    shard: smallint('shard').notNull(),

    scope: budgetScope('scope').notNull(),
    quotaNanos: bigint('quota_nanos', { mode: 'bigint' }).notNull(),
    spentNanos: bigint('spent_nanos', { mode: 'bigint' }).notNull(),
    reservedNanos: bigint('reserved_nanos', { mode: 'bigint' }).notNull(),

    /** Exclusive; null: never. */
    endsAt: instant('ends_at'),
  },
  (t) => [
    primaryKey({
      name: 'budget_windows_pkey',
      columns: [t.organizationId, t.budgetId, t.subject, t.startsAt, t.shard],
    }),
    foreignKey({
      name: 'budget_windows_budget_id_fkey',
      columns: [t.organizationId, t.budgetId],
      foreignColumns: [budgets.organizationId, budgets.id],
    }).onDelete('cascade'),
    check('budget_windows_reserved_nanos_check', sql`${t.reservedNanos} >= 0`),
    ...tenantPolicies('budget_windows', t.organizationId, {
      read: isOwnCounter(t.scope, t.subject),
    }),
  ],
)

/** What a call may cost at most, held until it is known what it did, or until the lease ends. */
export const reservations = costs.table.withRLS(
  'reservations',
  {
    organizationId: organizationId(),
    id: id(),
    userId: uuid('user_id'),
    projectId: uuid('project_id'),

    state: reservationState('state').notNull().default('held'),
    provider: text('provider').notNull(),
    model: text('model').notNull(),
    amountNanos: bigint('amount_nanos', { mode: 'bigint' }).notNull(),
    /** The windows that it is held in, by the parts of their key. */
    budgetIds: uuid('budget_ids').array().notNull(),
    subjects: text('subjects').array().notNull(),
    windowStartsAt: instant('window_starts_at').array().notNull(),
    shards: smallint('shards').array().notNull(),

    leasedUntil: instant('leased_until').notNull(),
    /** Also when the call counts as made, so that it is spent in the window in which it was reserved. */
    createdAt: instant('created_at').notNull(),
    resolvedAt: instant('resolved_at'),
  },
  (t) => [
    primaryKey({ name: 'reservations_pkey', columns: [t.organizationId, t.id] }),
    foreignKey({
      name: 'reservations_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    // What has expired.
    index('reservations_leased_until_idx')
      .on(t.organizationId, t.leasedUntil)
      .where(sql`${t.state} = 'held'`),
    check('reservations_amount_nanos_check', sql`${t.amountNanos} >= 0`),
    check('reservations_resolved_at_check', sql`(${t.state} = 'held') = (${t.resolvedAt} is null)`),
    ...tenantPolicies('reservations', t.organizationId, { read: log(t.userId).read }),
  ],
)

/** That a threshold of a budget was reached in a window. Raised once, with what reached it. */
export const budgetAlerts = costs.table.withRLS(
  'budget_alerts',
  {
    organizationId: organizationId(),
    id: id(),
    budgetId: uuid('budget_id').notNull(),
    subject: text('subject').notNull(),
    startsAt: instant('starts_at').notNull(),
    /** A percentage of the limit. */
    threshold: smallint('threshold').notNull(),

    spentNanos: bigint('spent_nanos', { mode: 'bigint' }).notNull(),
    limitNanos: bigint('limit_nanos', { mode: 'bigint' }).notNull(),

    raisedAt: instant('raised_at').notNull(),
    /** Set: somebody has taken it to tell whom it concerns. */
    claimedAt: instant('claimed_at'),
  },
  (t) => [
    primaryKey({ name: 'budget_alerts_pkey', columns: [t.organizationId, t.id] }),
    uniqueIndex('budget_alerts_threshold_key').on(
      t.organizationId,
      t.budgetId,
      t.subject,
      t.startsAt,
      t.threshold,
    ),
    foreignKey({
      name: 'budget_alerts_budget_id_fkey',
      columns: [t.organizationId, t.budgetId],
      foreignColumns: [budgets.organizationId, budgets.id],
    }).onDelete('cascade'),
    // What nobody was told of.
    index('budget_alerts_unclaimed_idx')
      .on(t.organizationId, t.raisedAt)
      .where(sql`${t.claimedAt} is null`),
    ...tenantPolicies('budget_alerts', t.organizationId, { read: isAdmin, update: isAdmin }),
  ],
)

export type Budget = typeof budgets.$inferSelect
export type BudgetScope = Budget['scope']
export type BudgetPeriod = Budget['period']
export type BudgetMode = Budget['mode']
export type Reservation = typeof reservations.$inferSelect
export type BudgetAlert = typeof budgetAlerts.$inferSelect
