import { sql } from 'drizzle-orm'
import { type RawRow, rowsOf } from '../database.ts'
import { ValidationError } from '../errors.ts'
import {
  modelPrices,
  type UsageEvent,
  usageEvents,
  usageKeys,
  usageRollUps,
  usageStaleDays,
  usageStatus,
} from '../schema/costs.ts'
import type { Tenant } from '../tenant.ts'
import { type ChargedLine, chargeBudgets, type ExceededBudget } from './charging.ts'
import type { ApplicablePrice } from './prices.ts'

/** How keys begin that no caller gives. */
export const OWN_KEYS = 'plinth.'

/** Of one statement's calls as JSON, in UTF-16 code units: as for lines of the activity log. */
const MAX_BATCH_LENGTH = 64_000_000

type Model = Pick<UsageEvent, 'provider' | 'model'>
const modelKey = ({ provider, model }: Model) => JSON.stringify([provider, model])

/**
 * Lets the transaction write into the ledger. Returns the prices of the models, of the times of their calls,
 * the database's clock, and whether there are budgets.
 */
export async function openLedger(
  { db }: Tenant,
  usages: readonly (Model & { occurredAt?: Date | undefined })[],
) {
  const models = new Map(usages.map((usage) => [modelKey(usage), usage]))
  const wanted = [...models.values()].map(({ provider, model }) => ({ provider, model }))
  const times = usages.flatMap(({ occurredAt }) => occurredAt?.getTime() ?? [])
  const [first, last] = times.length > 0 ? [Math.min(...times), Math.max(...times)] : []
  const instant = (time: number | undefined) =>
    sql`${time === undefined ? null : new Date(time).toISOString()}::timestamptz`

  const rows = await rowsOf<RawRow<ApplicablePrice & Model> & { now: string; isBudgeted: boolean }>(
    db,
    sql`
      select clock.now, clock.is_budgeted as "isBudgeted", price.id, price.provider, price.model, price.unit,
        price.tier_from as "tierFrom", price.nanos_per_million::text as "nanosPerMillion",
        price.valid_from as "validFrom", price.valid_to as "validTo"
      from (select now()::timestamptz(3) as now, costs.open_ledger() as is_budgeted) as clock
      left join (
        select prices.* from ${modelPrices} as prices
        join json_to_recordset(${JSON.stringify(wanted)}::text::json) as wanted (provider text, model text)
          using (provider, model)
      ) as price on price.valid_from <= greatest(clock.now, ${instant(last)})
        and (price.valid_to is null or price.valid_to > least(clock.now, ${instant(first)}))`,
  )
  const prices = new Map<string, ApplicablePrice[]>()
  for (const { now: _, isBudgeted: __, ...row } of rows) {
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
    isBudgeted: rows[0]?.isBudgeted ?? false,
    pricesOf: (model: Model) => prices.get(modelKey(model)) ?? [],
  }
}

/** A line of the ledger, by the names of its columns. */
export type NewUsage = ChargedLine & { id: string; idempotencyKey?: string | null | undefined }

export interface InsertUsagesOptions {
  /** What `openLedger` has said. */
  isBudgeted: boolean
  /** The reservation that this transaction has locked, to be settled by the lines. */
  settled?: string | undefined
}

/**
 * Claims the keys and records what has claimed its own, or has none, and counts it in the budgets. Returns which
 * calls those are, and which budgets have spent and reserved more than their limit by then.
 *
 * The one way into the ledger, which has to be open: nobody closes more of it meanwhile. A line of a time that is
 * closed marks its day, be that rolled up by now, or marked, or not: it may be otherwise when the transaction ends.
 */
export async function insertUsages(
  tenant: Tenant,
  rows: readonly NewUsage[],
  { isBudgeted, settled }: InsertUsagesOptions,
): Promise<{ isNew: (row: NewUsage) => boolean; exceeded: ExceededBudget[] }> {
  const { db, organizationId, userId } = tenant
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
        select ${organizationId}::uuid, "idempotencyKey", id,
          -- What is settled is its user's to settle again, whoever did it first.
          case when starts_with("idempotencyKey", ${OWN_KEYS}) then coalesce("userId", ${userId ?? null}::uuid)
            else ${userId ?? null}::uuid end,
          status, "costNanos", "occurredAt"
        from usages where "idempotencyKey" is not null order by "idempotencyKey", id
        on conflict do nothing
        returning event_id
      ), new as materialized (
        select * from usages
        where "idempotencyKey" is null or id in (select event_id from claimed)
      ), marked as (
        insert into ${usageStaleDays} (organization_id, day_on, event_id)
        select distinct on (day) ${organizationId}::uuid, day, id
        from (
          select ("occurredAt" at time zone 'UTC')::date as day, id from new
          where "occurredAt" < greatest(
            (select closed_at from ${usageRollUps} where organization_id = ${organizationId}::uuid),
            -- A snapshot that is older than the ledger's lock does not show how far it is closed.
            case when current_setting('transaction_isolation') <> 'read committed' then clock_timestamp() end)
        ) as late
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
  const isNew = ({ id, idempotencyKey }: NewUsage) => idempotencyKey == null || ids.has(id)
  const isCounted = isBudgeted || settled !== undefined
  const exceeded = isCounted ? await chargeBudgets(tenant, rows.filter(isNew), settled) : []
  return { isNew, exceeded }
}
