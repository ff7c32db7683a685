import { type SQL, sql } from 'drizzle-orm'
import {
  type AnyPgColumn,
  bigint,
  check,
  foreignKey,
  index,
  integer,
  jsonb,
  pgSchema,
  primaryKey,
  smallint,
  text,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'
import { id, instant, organizationId, timestamps } from './columns.ts'
import { organizations } from './identity.ts'
import { administered, isAdmin, log, scopedUser, tenantPolicies } from './policies.ts'

export const costs = pgSchema('costs')

/** What is counted and priced. `input` is what is left of the input after the cached tokens. */
export const priceUnit = costs.enum('price_unit', [
  'input',
  'output',
  'cache_read',
  'cache_write',
  'reasoning',
  'embedding',
  'image',
  'audio_second',
  'request',
])

export const usageStatus = costs.enum('usage_status', ['priced', 'unpriced', 'estimated'])

/**
 * What a unit of a model costs, in a stretch of time. Tiers are by the size of a request's input: all
 * its units cost what the highest tier says that begins below that size. Never two at once.
 */
export const modelPrices = costs.table(
  'model_prices',
  {
    id: id(),

    provider: text('provider').notNull(),
    model: text('model').notNull(),
    unit: priceUnit('unit').notNull(),
    /** Input tokens of a request, above which it applies; 0 is the base. */
    tierFrom: bigint('tier_from', { mode: 'number' }).notNull().default(0),
    /** Nano-dollars per million units, since many prices are no whole nano-dollars per unit. */
    nanosPerMillion: bigint('nanos_per_million', { mode: 'bigint' }).notNull(),
    /** Where the price is from, such as `genai-prices` or `manual`. */
    source: text('source').notNull().default('manual'),

    validFrom: instant('valid_from').notNull(),
    /** Exclusive; null: until further notice. */
    validTo: instant('valid_to'),
    ...timestamps(),
  },
  (t) => [
    primaryKey({ name: 'model_prices_pkey', columns: [t.id] }),
    // Also the prices of a model, which the exclusion constraint's index is no help to.
    uniqueIndex('model_prices_model_key').on(t.provider, t.model, t.unit, t.tierFrom, t.validFrom),
    check('model_prices_nanos_per_million_check', sql`${t.nanosPerMillion} >= 0`),
    check('model_prices_tier_from_check', sql`${t.tierFrom} >= 0`),
    check('model_prices_valid_to_check', sql`${t.validTo} > ${t.validFrom}`),
  ],
)

const count = (name: string) => bigint(name, { mode: 'number' }).notNull().default(0)

/** A call to a model and what it cost: a ledger, so a line is never changed. */
export const usageEvents = costs.table.withRLS(
  'usage_events',
  {
    organizationId: organizationId(),
    id: id(),
    userId: uuid('user_id'),
    projectId: uuid('project_id'),
    runId: uuid('run_id'),

    provider: text('provider').notNull(),
    model: text('model').notNull(),
    endpoint: text('endpoint'),
    operation: text('operation').notNull(),
    status: usageStatus('status').notNull(),
    idempotencyKey: text('idempotency_key'),
    metadata: jsonb('metadata').$type<Record<string, unknown>>().notNull().default({}),
    /** Every token of the input, the cached ones among them. */
    inputTokens: count('input_tokens'),
    /** Every token of the output, those of reasoning among them. */
    outputTokens: count('output_tokens'),
    cacheReadTokens: count('cache_read_tokens'),
    cacheWriteTokens: count('cache_write_tokens'),
    reasoningTokens: count('reasoning_tokens'),
    embeddingTokens: count('embedding_tokens'),
    images: count('images'),
    audioSeconds: count('audio_seconds'),
    requests: bigint('requests', { mode: 'number' }).notNull().default(1),
    /** Frozen when recorded; null: no price was known. */
    costNanos: bigint('cost_nanos', { mode: 'bigint' }),
    /** The prices it was computed from. */
    priceIds: uuid('price_ids').array().notNull().default([]),
    latencyMs: integer('latency_ms'),

    occurredAt: instant('occurred_at').notNull().defaultNow(),
  },
  (t) => [
    // Also spend of a stretch of time, and listUsage, read backwards for newest first.
    primaryKey({ name: 'usage_events_pkey', columns: [t.organizationId, t.occurredAt, t.id] }),
    foreignKey({
      name: 'usage_events_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    // listUsage of one user, and a member's own spend.
    index('usage_events_user_id_idx').on(t.organizationId, t.userId, t.occurredAt, t.id),
    check(
      'usage_events_counts_check',
      sql`least(${t.inputTokens}, ${t.outputTokens}, ${t.cacheReadTokens}, ${t.cacheWriteTokens}, ${t.reasoningTokens}, ${t.embeddingTokens}, ${t.images}, ${t.audioSeconds}, ${t.requests}) >= 0`,
    ),
    check('usage_events_cost_nanos_check', sql`${t.costNanos} >= 0`),
    check('usage_events_status_check', sql`(${t.status} = 'unpriced') = (${t.costNanos} is null)`),
    ...tenantPolicies('usage_events', t.organizationId, log(t.userId)),
  ],
)

/**
 * The calls recorded under a key, so that a retry is not billed twice. Beside the ledger, since a
 * unique key of a partitioned table would hold within one month only.
 */
export const usageKeys = costs.table.withRLS(
  'usage_keys',
  {
    organizationId: organizationId(),
    key: text('key').notNull(),
    eventId: uuid('event_id').notNull(),
    /** Who recorded it, whose alone the answer is. */
    userId: uuid('user_id'),

    status: usageStatus('status').notNull(),
    costNanos: bigint('cost_nanos', { mode: 'bigint' }),

    occurredAt: instant('occurred_at').notNull(),
  },
  (t) => [
    primaryKey({ name: 'usage_keys_pkey', columns: [t.organizationId, t.key] }),
    foreignKey({
      name: 'usage_keys_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    ...tenantPolicies('usage_keys', t.organizationId, log(t.userId)),
  ],
)

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

export type ModelPrice = typeof modelPrices.$inferSelect
export type PriceUnit = ModelPrice['unit']
export type UsageEvent = typeof usageEvents.$inferSelect
export type UsageStatus = UsageEvent['status']
export type Budget = typeof budgets.$inferSelect
export type BudgetScope = Budget['scope']
export type BudgetPeriod = Budget['period']
export type BudgetMode = Budget['mode']
export type Reservation = typeof reservations.$inferSelect
export type BudgetAlert = typeof budgetAlerts.$inferSelect
