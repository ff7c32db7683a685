import { and, desc, eq, gte, lt, sql } from 'drizzle-orm'
import { isBefore, rowsOf, run } from '../database.ts'
import { ConstraintError, ValidationError } from '../errors.ts'
import { uuidV7 } from '../schema/columns.ts'
import {
  modelPrices,
  type UsageEvent,
  type UsageStatus,
  usageEvents,
  usageKeys,
  usageStaleDays,
  usageStatus,
} from '../schema/costs.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkBigint,
  checkInstant,
  checkInteger,
  checkItem,
  checkJson,
  checkLimit,
  checkList,
  checkOneOf,
  checkText,
  checkUuid,
} from '../validation.ts'
import {
  type ApplicablePrice,
  checkCounts,
  MAX_MODEL,
  MAX_PROVIDER,
  priceUsage,
  type UsageCounts,
} from './prices.ts'

const MAX_PAGE = 500

/** How many calls one statement records at most. */
const MAX_USAGES = 1_000

/** How keys begin that no caller gives. */
export const OWN_KEYS = 'plinth.'

/** Of one statement's calls as JSON, in UTF-16 code units: as for lines of the activity log. */
const MAX_BATCH_LENGTH = 64_000_000

export interface RecordUsageOptions extends UsageCounts {
  provider: string
  /** As it is called in `costs.model_prices`. */
  model: string
  /** What was done, such as `chat` or `embedding`. */
  operation: string
  /** What of the product it was for, such as `/api/chat`. */
  endpoint?: string | null
  /** The user in scope unless said, and nobody (null) for a service. */
  userId?: string | null
  projectId?: string | null
  runId?: string | null
  /** Unique in the organization: a call with the key of an earlier one is that one, and not recorded again. */
  idempotencyKey?: string | null
  metadata?: Record<string, unknown>
  latencyMs?: number | null
  /** Now by the database's clock, unless said. Kept to the millisecond. */
  occurredAt?: Date
  /** What it cost, where the caller knows: no price is looked up then. */
  costNanos?: bigint
  /**
   * `estimated` where the counts or the cost are a guess; `priced` with a `costNanos` that somebody has
   * billed, such as a gateway. Unless said, a cost given is an estimate and one computed is not. What
   * has no price is `unpriced` in any case.
   */
  status?: Exclude<UsageStatus, 'unpriced'>
}

export interface RecordedUsage {
  id: string
  occurredAt: Date
  /** Nano-dollars; null: no price is known. */
  costNanos: bigint | null
  status: UsageStatus
  /** Recorded before, under the same key: the rest is what it was then. */
  duplicate: boolean
}

/** Records one call. @throws as `recordUsages`, of which this is the list of one. */
export async function recordUsage(
  tenant: Tenant,
  usage: RecordUsageOptions,
): Promise<RecordedUsage> {
  const [recorded] = await recordUsages(tenant, [usage])
  return recorded as RecordedUsage
}

/**
 * Records up to 1,000 calls to models with what they cost at their time: all of them, or none. Returns
 * in the order of the calls. Without calls it does nothing.
 *
 * The cost is frozen: a later price changes nothing of it. Of calls with one idempotency key one is
 * recorded, also when they race; the others wait for it and return it, whatever else they say.
 *
 * @throws {ForbiddenError} for another member's userId, unless the scope is an admin's.
 * @throws {MissingPartitionError} for a month without a partition.
 * @throws {ValidationError} also for a cost above 2^63-1.
 */
export async function recordUsages(
  tenant: Tenant,
  usages: readonly RecordUsageOptions[],
): Promise<RecordedUsage[]> {
  checkList('usages', usages, { max: MAX_USAGES })
  if (usages.length === 0) return []
  const checked = usages.map((usage, index) => checkUsage(`usages[${index}]`, usage))
  const { now, pricesOf } = await openLedger(tenant, checked)

  const rows = checked.map((usage) => {
    const occurredAt = usage.occurredAt ?? now
    return {
      ...usage,
      occurredAt,
      id: uuidV7(),
      userId: usage.userId === undefined ? tenant.userId : usage.userId,
      ...costOf(usage, pricesOf(usage), occurredAt),
    }
  })
  const isNew = await insertUsages(tenant, rows)
  const earlier = await readKeys(
    tenant,
    rows.filter((row) => !isNew(row)),
  )
  return rows.map((row) => {
    const { id, occurredAt, costNanos, status } = row
    if (isNew(row)) return { id, occurredAt, costNanos, status, duplicate: false }
    const first = earlier.get(row.idempotencyKey ?? '')
    // Recorded by another member, whose it is to know of.
    if (!first) throw new ConstraintError('unique', 'usage_keys_pkey', 'usage_keys')
    return { ...first, duplicate: true }
  })
}

type CheckedUsage = RecordUsageOptions & Required<UsageCounts>

/** Checks a call, and leaves out what is no part of one. */
function checkUsage(argument: string, usage: RecordUsageOptions): CheckedUsage {
  return checkItem(argument, usage, () => {
    const { provider, model, operation, endpoint, idempotencyKey, metadata, latencyMs } = usage
    const { userId, projectId, runId, occurredAt, costNanos, status } = usage
    checkText('provider', provider, { max: MAX_PROVIDER })
    checkText('model', model, { max: MAX_MODEL })
    checkText('operation', operation, { max: 100 })
    if (endpoint != null) checkText('endpoint', endpoint, { max: 500 })
    // In an index, as MAX_MODEL.
    if (idempotencyKey != null) checkText('idempotencyKey', idempotencyKey, { max: 500 })
    if (idempotencyKey?.startsWith(OWN_KEYS)) {
      throw new ValidationError('idempotencyKey', `must not begin with ${OWN_KEYS}`)
    }
    for (const [name, id] of Object.entries({ userId, projectId, runId })) {
      if (id != null) checkUuid(name, id)
    }
    if (metadata !== undefined) checkJson('metadata', metadata)
    if (latencyMs != null) checkInteger('latencyMs', latencyMs, { max: 2 ** 31 - 1 })
    if (occurredAt !== undefined) checkInstant('occurredAt', occurredAt)
    if (costNanos !== undefined) checkBigint('costNanos', costNanos)
    if (status !== undefined) checkOneOf('status', status, ['priced', 'estimated'])
    return {
      ...{ provider, model, operation, endpoint, idempotencyKey, metadata, latencyMs },
      ...{ userId, projectId, runId, occurredAt, costNanos, status },
      ...checkCounts(usage),
    }
  })
}

function costOf(usage: CheckedUsage, prices: readonly ApplicablePrice[], at: Date) {
  if (usage.costNanos !== undefined) {
    return { status: usage.status ?? 'estimated', costNanos: usage.costNanos, priceIds: [] }
  }
  const { status, costNanos, priceIds } = priceUsage(prices, { ...usage, at })
  return { status: status === 'priced' ? (usage.status ?? status) : status, costNanos, priceIds }
}

type Model = Pick<RecordUsageOptions, 'provider' | 'model'>
const modelKey = ({ provider, model }: Model) => JSON.stringify([provider, model])

/**
 * Lets the transaction write into the ledger. Returns the prices of the models, of the times of their calls,
 * and the database's clock.
 */
export async function openLedger(
  { db, organizationId }: Tenant,
  usages: readonly (Model & { occurredAt?: Date | undefined })[],
) {
  const models = new Map(usages.map((usage) => [modelKey(usage), usage]))
  const wanted = [...models.values()].map(({ provider, model }) => ({ provider, model }))
  const times = usages.flatMap(({ occurredAt }) => occurredAt?.getTime() ?? [])
  const [first, last] = times.length > 0 ? [Math.min(...times), Math.max(...times)] : []
  const instant = (time: number | undefined) =>
    sql`${time === undefined ? null : new Date(time).toISOString()}::timestamptz`

  const rows = await rowsOf<Raw<ApplicablePrice & Model> & { now: string }>(
    db,
    sql`
      select clock.now, price.id, price.provider, price.model, price.unit,
        price.tier_from as "tierFrom", price.nanos_per_million::text as "nanosPerMillion",
        price.valid_from as "validFrom", price.valid_to as "validTo"
      from (select now()::timestamptz(3) as now, costs.open_ledger(${organizationId})) as clock
      left join (
        select prices.* from ${modelPrices} as prices
        join json_to_recordset(${JSON.stringify(wanted)}::text::json) as wanted (provider text, model text)
          using (provider, model)
      ) as price on price.valid_from <= greatest(clock.now, ${instant(last)})
        and (price.valid_to is null or price.valid_to > least(clock.now, ${instant(first)}))`,
  )
  const prices = new Map<string, ApplicablePrice[]>()
  for (const { now: _, ...row } of rows) {
    if (row.id === null) continue
    const price = {
      ...row,
      tierFrom: Number(row.tierFrom),
      nanosPerMillion: BigInt(row.nanosPerMillion),
      validFrom: new Date(row.validFrom),
      validTo: row.validTo === null ? null : new Date(row.validTo),
    }
    prices.set(modelKey(row), [...(prices.get(modelKey(row)) ?? []), price])
  }
  return {
    now: new Date(rows[0]?.now ?? Number.NaN),
    pricesOf: (model: Model) => prices.get(modelKey(model)) ?? [],
  }
}

/** As a raw query has it: what is no string or null comes as a string. */
type Raw<Row> = {
  [Column in keyof Row]: Row[Column] extends string
    ? Row[Column]
    : string | Extract<Row[Column], null>
}

type NewUsage = Pick<RecordUsageOptions, 'idempotencyKey'> & { id: string }

/**
 * Claims the keys and records what has claimed its own, or has none. Returns which calls those are.
 *
 * The one way into the ledger, which has to be open. What is written into a day that is over marks the day, by the
 * clock alone: what is rolled up, or marked, may be so no more by the time that the transaction ends.
 */
export async function insertUsages(
  { db, organizationId, userId }: Tenant,
  rows: readonly NewUsage[],
): Promise<(row: NewUsage) => boolean> {
  // One parameter and not one a column: every driver sends a text alike, and arrays each in its own way.
  const texts = rows.map((row) =>
    JSON.stringify(row, (_, value) => (typeof value === 'bigint' ? String(value) : value)),
  )
  const length = texts.reduce((sum, text) => sum + text.length, 0)
  if (length > MAX_BATCH_LENGTH) {
    throw new ValidationError(
      'usages',
      `have ${length} characters as JSON; record at most ${MAX_BATCH_LENGTH} at a time`,
    )
  }
  // Keys in one order, so that two batches never wait for each other. Events without RETURNING, which
  // would need the right to read them: a member may record in nobody's name what only admins read.
  const claimed = await rowsOf<{ id: string }>(
    db,
    sql`
      with usages as materialized (
        select * from json_to_recordset(${`[${texts.join(',')}]`}::text::json) as rows (
          id uuid, "userId" uuid, "projectId" uuid, "runId" uuid, provider text, model text,
          endpoint text, operation text, status ${usageStatus}, "idempotencyKey" text, metadata jsonb,
          "inputTokens" bigint, "outputTokens" bigint, "cacheReadTokens" bigint,
          "cacheWriteTokens" bigint, "reasoningTokens" bigint, "embeddingTokens" bigint,
          images bigint, "audioSeconds" bigint, requests bigint, "costNanos" bigint,
          "priceIds" uuid[], "latencyMs" integer, "adjustsId" uuid, "adjustsStatus" ${usageStatus},
          "occurredAt" timestamptz)
      ), claimed as (
        insert into ${usageKeys} (organization_id, key, event_id, user_id, status, cost_nanos,
          occurred_at)
        select ${organizationId}::uuid, "idempotencyKey", id, ${userId ?? null}::uuid, status, "costNanos", "occurredAt"
        from usages where "idempotencyKey" is not null order by "idempotencyKey", id
        on conflict do nothing
        returning event_id
      ), new as materialized (
        select * from usages
        where "idempotencyKey" is null or id in (select event_id from claimed)
      ), marked as (
        insert into ${usageStaleDays} (organization_id, day_on, event_id)
        select distinct on (day) ${organizationId}::uuid, day, id
        from (select ("occurredAt" at time zone 'UTC')::date as day, id from new) as late
        where day < (clock_timestamp() at time zone 'UTC')::date
        on conflict do nothing
      ), recorded as (
        insert into ${usageEvents} (organization_id, id, user_id, project_id, run_id, provider, model,
          endpoint, operation, status, idempotency_key, metadata, input_tokens, output_tokens,
          cache_read_tokens, cache_write_tokens, reasoning_tokens, embedding_tokens, images,
          audio_seconds, requests, cost_nanos, price_ids, latency_ms, adjusts_id, adjusts_status,
          occurred_at)
        select ${organizationId}::uuid, id, "userId", "projectId", "runId", provider, model,
          endpoint, operation, status, "idempotencyKey", coalesce(metadata, '{}'), "inputTokens",
          "outputTokens", "cacheReadTokens", "cacheWriteTokens", "reasoningTokens",
          "embeddingTokens", images, "audioSeconds", requests, "costNanos", "priceIds",
          "latencyMs", "adjustsId", "adjustsStatus", "occurredAt"
        from new
        on conflict do nothing
      )
      select event_id as id from claimed`,
  )
  const ids = new Set(claimed.map(({ id }) => id))
  return ({ id, idempotencyKey }) => idempotencyKey == null || ids.has(id)
}

/** What is on record under the keys of calls. */
async function readKeys({ db, organizationId }: Tenant, rows: readonly NewUsage[]) {
  if (rows.length === 0) return new Map<string, Omit<RecordedUsage, 'duplicate'>>()
  const keys = JSON.stringify(rows.map(({ idempotencyKey }) => idempotencyKey))
  const found = await run(
    db
      .select()
      .from(usageKeys)
      .where(
        and(
          eq(usageKeys.organizationId, organizationId),
          sql`${usageKeys.key} = any(array(select json_array_elements_text(${keys}::text::json)))`,
        ),
      ),
  )
  return new Map(
    found.map(({ key, eventId: id, occurredAt, costNanos, status }) => [
      key,
      { id, occurredAt, costNanos, status },
    ]),
  )
}

export interface ListUsageOptions {
  /** The earliest time to list. */
  since?: Date
  /** The time before which to list. */
  until?: Date
  userId?: string
  provider?: string
  model?: string
  /** The last event of the previous page. */
  after?: Pick<UsageEvent, 'occurredAt' | 'id'>
  /** Up to 500. */
  limit?: number
}

/**
 * Lists calls, newest first. Admins and services see all, other members their own: as for `spend`.
 *
 * @throws {ValidationError}
 */
export async function listUsage(
  { db, organizationId }: Tenant,
  { since, until, userId, provider, model, after, limit = 50 }: ListUsageOptions = {},
): Promise<UsageEvent[]> {
  if (since !== undefined) checkInstant('since', since)
  if (until !== undefined) checkInstant('until', until)
  if (userId !== undefined) checkUuid('userId', userId)
  if (provider !== undefined) checkText('provider', provider, { max: MAX_PROVIDER })
  if (model !== undefined) checkText('model', model, { max: MAX_MODEL })
  if (after !== undefined) {
    checkInstant('after.occurredAt', after.occurredAt)
    checkUuid('after.id', after.id)
  }
  checkLimit(limit, MAX_PAGE)
  const events = usageEvents
  return run(
    db
      .select()
      .from(events)
      .where(
        and(
          eq(events.organizationId, organizationId),
          userId !== undefined ? eq(events.userId, userId) : undefined,
          provider !== undefined ? eq(events.provider, provider) : undefined,
          model !== undefined ? eq(events.model, model) : undefined,
          since && gte(events.occurredAt, since),
          until && lt(events.occurredAt, until),
          after && isBefore(events.occurredAt, events.id, after),
        ),
      )
      .orderBy(desc(events.occurredAt), desc(events.id))
      .limit(limit),
  )
}
