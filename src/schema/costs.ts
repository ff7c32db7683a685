import { sql } from 'drizzle-orm'
import {
  bigint,
  check,
  date,
  foreignKey,
  index,
  integer,
  jsonb,
  pgSchema,
  primaryKey,
  text,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'
import { id, instant, organizationId, timestamps } from './columns.ts'
import { organizations } from './identity.ts'
import { isAdmin, log, scopedUser, tenantPolicies } from './policies.ts'

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

const counts = () => ({
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
})

/**
 * A call to a model and what it cost: a ledger, so a line is never changed. One that corrects the cost of another
 * has its time and all that it is summed up by, no counts, and the difference as its cost.
 */
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
    ...counts(),
    requests: bigint('requests', { mode: 'number' }).notNull().default(1),
    /** Frozen when recorded; null: no price was known. */
    costNanos: bigint('cost_nanos', { mode: 'bigint' }),
    /** The prices it was computed from. */
    priceIds: uuid('price_ids').array().notNull().default([]),
    latencyMs: integer('latency_ms'),
    /** The line of the same time whose cost this one corrects. */
    adjustsId: uuid('adjusts_id'),
    /** What that line was before. */
    adjustsStatus: usageStatus('adjusts_status'),

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
    check('usage_events_cost_nanos_check', sql`${t.costNanos} >= 0 or ${t.adjustsId} is not null`),
    check(
      'usage_events_adjusts_check',
      sql`(${t.adjustsId} is null) = (${t.adjustsStatus} is null)`,
    ),
    check('usage_events_status_check', sql`(${t.status} = 'unpriced') = (${t.costNanos} is null)`),
    ...tenantPolicies('usage_events', t.organizationId, {
      ...log(t.userId),
      // A correction may be negative: nobody lowers the own spend.
      insert: sql`(${isAdmin} or (${t.adjustsId} is null and (${t.userId} is null or ${t.userId} = ${scopedUser})))`,
    }),
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

/**
 * What a day of UTC has cost, by what it was for: the lines of the ledger, summed up. Several rows of one day
 * may be for the same, where a line is too large to be added to another.
 */
export const usageDaily = costs.table.withRLS(
  'usage_daily',
  {
    organizationId: organizationId(),
    dayOn: date('day_on').notNull(),
    /** From 1, in no order. */
    line: integer('line').notNull(),
    userId: uuid('user_id'),
    projectId: uuid('project_id'),

    provider: text('provider').notNull(),
    model: text('model').notNull(),
    endpoint: text('endpoint'),
    /** Without adjustments. */
    events: count('events'),
    /** Negative where it is an adjustment's alone, which gave a price to what had none. */
    unpriced: count('unpriced'),
    ...counts(),
    requests: count('requests'),
    costNanos: bigint('cost_nanos', { mode: 'bigint' }).notNull(),
  },
  (t) => [
    primaryKey({ name: 'usage_daily_pkey', columns: [t.organizationId, t.dayOn, t.line] }),
    foreignKey({
      name: 'usage_daily_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    // A member's own spend.
    index('usage_daily_user_id_idx').on(t.organizationId, t.userId, t.dayOn),
    ...tenantPolicies('usage_daily', t.organizationId, { read: log(t.userId).read }),
  ],
)

/** How far the ledger of an organization is rolled up: what is before both is read from `usage_daily`. */
export const usageRollUps = costs.table.withRLS(
  'usage_roll_ups',
  {
    organizationId: organizationId(),

    /** The earliest time of a line that needs no mark. Never goes back. */
    closedAt: instant('closed_at').notNull(),
    /** Until when it is rolled up, a part of the last day perhaps; null: nothing is. */
    rolledAt: instant('rolled_at'),
  },
  (t) => [
    primaryKey({ name: 'usage_roll_ups_pkey', columns: [t.organizationId] }),
    foreignKey({
      name: 'usage_roll_ups_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    check('usage_roll_ups_rolled_at_check', sql`${t.rolledAt} <= ${t.closedAt}`),
    ...tenantPolicies('usage_roll_ups', t.organizationId, { read: true }),
  ],
)

/**
 * A day in which a line was written into what was closed: to be read from the ledger until it is rolled up again.
 * Its key has the line, so that no writer waits for another one that marks the same day.
 */
export const usageStaleDays = costs.table.withRLS(
  'usage_stale_days',
  {
    organizationId: organizationId(),
    dayOn: date('day_on').notNull(),
    eventId: uuid('event_id').notNull(),
  },
  (t) => [
    primaryKey({ name: 'usage_stale_days_pkey', columns: [t.organizationId, t.dayOn, t.eventId] }),
    foreignKey({
      name: 'usage_stale_days_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    ...tenantPolicies('usage_stale_days', t.organizationId, { read: true, insert: true }),
  ],
)

export type ModelPrice = typeof modelPrices.$inferSelect
export type PriceUnit = ModelPrice['unit']
export type UsageEvent = typeof usageEvents.$inferSelect
export type UsageStatus = UsageEvent['status']
