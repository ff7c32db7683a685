import { and, asc, eq, gte, isNull, lt, ne, or, sql } from 'drizzle-orm'
import { rowsOf, run } from '../database.ts'
import { ForbiddenError } from '../errors.ts'
import { uuidV7 } from '../schema/columns.ts'
import { type UsageEvent, usageEvents } from '../schema/costs.ts'
import { type Tenancy, type Tenant, withTenant } from '../tenant.ts'
import { checkInstant, checkText, MAX_MODEL, MAX_PROVIDER } from '../validation.ts'
import { insertUsages, OWN_KEYS, openLedger } from './ledger.ts'
import { priceUsage } from './prices.ts'

/** Lines of a transaction. */
const BATCH = 1_000

/** Of a report, those whose cost changes most. */
const MAX_MODELS = 500

export interface RepriceUsageOptions {
  /** The earliest time of the lines. */
  since: Date
  /** The time before which they are. */
  until?: Date
  provider?: string
  model?: string
  /** True unless said: it shows the effect, and writes nothing. */
  dryRun?: boolean
  /** After each batch, with what was found until then. */
  onProgress?: (progress: RepricedUsage) => void
  /** Ends it between two batches. */
  signal?: AbortSignal
}

/** Nano-dollars, of lines that have a price by now. */
export interface RepricedCosts {
  /** Lines that were looked at. */
  lines: number
  /** Those whose cost becomes another one, or that get one. */
  changed: number
  /** What the lines cost on record, adjustments included; what has no price on record counts as 0. */
  before: bigint
  after: bigint
}

export interface RepricedUsage extends RepricedCosts {
  /** Lines that still, or by now, have no price: they stay what they are, and are in neither sum. */
  unpriced: number
  /** Adjustments that were written. */
  adjusted: number
  /** The same by model, those whose cost changes most first; up to 500. */
  models: (RepricedCosts & { provider: string; model: string })[]
}

/**
 * Computes by the prices that are valid now for the time of each line what it would cost, and says what that
 * changes. With `dryRun: false` it appends the differences, as lines of the same time, user, project and model with
 * the operation `adjustment`; no line is ever edited.
 *
 * Called again it finds nothing to do, and two at once adjust a line once. A batch is a transaction unless one is
 * open; interrupted, and called again, it goes on. Lines whose cost was given, and not computed, are left alone.
 *
 * @throws {ForbiddenError} unless the scope is an admin's or a service's. @throws {ValidationError} also for a
 * cost above 2^63-1. @throws the signal's reason.
 */
export async function repriceUsage(
  tenancy: Tenancy,
  { since, until, provider, model, dryRun = true, onProgress, signal }: RepriceUsageOptions,
): Promise<RepricedUsage> {
  checkInstant('since', since)
  if (until !== undefined) checkInstant('until', until)
  if (provider !== undefined) checkText('provider', provider, { max: MAX_PROVIDER })
  if (model !== undefined) checkText('model', model, { max: MAX_MODEL })
  const models = new Map<string, RepricedUsage['models'][number]>()
  const sum = { ...nothing(), unpriced: 0, adjusted: 0 }
  const report = (): RepricedUsage => ({ ...sum, models: mostChanged([...models.values()]) })

  for (let after: UsageEvent | undefined; ; ) {
    signal?.throwIfAborted()
    const { lines, last }: Batch = await withTenant(tenancy, async (tenant) => {
      if (!['owner', 'admin', 'service'].includes(await tenant.role)) {
        throw new ForbiddenError('permission', 'only an admin or a service re-prices usage')
      }
      const batch = await repriceBatch(tenant, { since, until, provider, model, after })
      if (!dryRun) sum.adjusted += await adjust(tenant, batch)
      return batch
    })
    for (const line of lines) {
      const { provider, model } = line.event
      const key = JSON.stringify([provider, model])
      const its = models.get(key) ?? { provider, model, ...nothing() }
      models.set(key, its)
      for (const total of [sum, its]) addTo(total, line)
      if (line.after === null) sum.unpriced += 1
    }
    if (!last) return report()
    onProgress?.(report())
    after = last
  }
}

const nothing = (): RepricedCosts => ({ lines: 0, changed: 0, before: 0n, after: 0n })

function addTo(total: RepricedCosts, line: RepricedLine): void {
  total.lines += 1
  if (line.after === null) return
  if (isChanged(line)) total.changed += 1
  total.before += line.before ?? 0n
  total.after += line.after
}

const mostChanged = (models: RepricedUsage['models']) => {
  const change = ({ before, after }: RepricedCosts) => {
    const delta = after - before
    return delta < 0n ? -delta : delta
  }
  return models
    .toSorted((one, other) =>
      change(one) < change(other) ? 1 : change(one) > change(other) ? -1 : 0,
    )
    .slice(0, MAX_MODELS)
}

interface RepricedLine {
  event: UsageEvent
  /** How often it was adjusted. */
  adjustments: number
  /** On record, adjustments included; null: no price was known. */
  before: bigint | null
  /** Null: no price is known. */
  after: bigint | null
  priceIds: string[]
}

const isChanged = ({ before, after }: RepricedLine) => after !== null && after !== before

interface Batch {
  lines: RepricedLine[]
  /** Whether the organization has budgets, which count what is appended. */
  isBudgeted: boolean
  /** Where the next one begins after; undefined if there is none. */
  last: UsageEvent | undefined
}

type BatchOptions = Pick<RepriceUsageOptions, 'since' | 'until' | 'provider' | 'model'> & {
  after: UsageEvent | undefined
}

/** What the next lines of the ledger cost, and would cost, oldest first. */
async function repriceBatch(
  tenant: Tenant,
  { since, until, provider, model, after }: BatchOptions,
): Promise<Batch> {
  const { db, organizationId } = tenant
  const t = usageEvents
  const events = await run(
    db
      .select()
      .from(t)
      .where(
        and(
          eq(t.organizationId, organizationId),
          gte(t.occurredAt, after?.occurredAt ?? since),
          until && lt(t.occurredAt, until),
          after &&
            sql`(${t.occurredAt}, ${t.id}) > (${after.occurredAt.toISOString()}, ${after.id})`,
          provider !== undefined ? eq(t.provider, provider) : undefined,
          model !== undefined ? eq(t.model, model) : undefined,
          isNull(t.adjustsId),
          or(eq(t.status, 'unpriced'), ne(t.priceIds, sql`'{}'`)),
        ),
      )
      .orderBy(asc(t.occurredAt), asc(t.id))
      .limit(BATCH),
  )
  const [first, last] = [events[0], events.at(-1)]
  if (!first || !last) return { lines: [], isBudgeted: false, last: undefined }
  // Of whole stretches of time and not line by line: lines of one statement are often of one instant.
  const adjusted = await rowsOf<{ id: string; count: number; cost: string }>(
    db,
    sql`
      select ${t.adjustsId} as id, count(*)::integer as count, sum(${t.costNanos})::text as cost
      from ${t}
      where ${t.organizationId} = ${organizationId} and ${t.adjustsId} is not null
        and ${t.occurredAt} >= ${first.occurredAt.toISOString()}
        and ${t.occurredAt} <= ${last.occurredAt.toISOString()}
      group by 1`,
  )
  const adjustments = new Map(adjusted.map(({ id, ...rest }) => [id, rest]))
  const { isBudgeted, pricesOf } = await openLedger(tenant, events)
  const lines = events.map((event) => {
    const { count = 0, cost = '0' } = adjustments.get(event.id) ?? {}
    const isPriced = event.costNanos !== null || count > 0
    const { costNanos, priceIds } = priceUsage(pricesOf(event), { ...event, at: event.occurredAt })
    return {
      ...{ event, adjustments: count, after: costNanos, priceIds },
      before: isPriced ? (event.costNanos ?? 0n) + BigInt(cost) : null,
    }
  })
  return { lines, isBudgeted, last: events.length < BATCH ? undefined : last }
}

/** Appends the differences. Returns how many were: of two that find the same one, one appends it, by its key. */
async function adjust(
  tenant: Tenant,
  { lines, isBudgeted }: Pick<Batch, 'lines' | 'isBudgeted'>,
): Promise<number> {
  const rows = lines.flatMap((line) => {
    const { event, adjustments, before, after, priceIds } = line
    if (after === null || !isChanged(line)) return []
    const { userId, projectId, runId, provider, model, endpoint, occurredAt } = event
    return {
      ...{
        id: uuidV7(),
        userId,
        projectId,
        runId,
        provider,
        model,
        endpoint,
        occurredAt,
        priceIds,
      },
      operation: 'adjustment',
      status: event.status === 'estimated' ? ('estimated' as const) : ('priced' as const),
      idempotencyKey: `${OWN_KEYS}adjustment ${event.id} ${adjustments + 1}`,
      ...{ inputTokens: 0, outputTokens: 0, cacheReadTokens: 0, cacheWriteTokens: 0 },
      ...{ reasoningTokens: 0, embeddingTokens: 0, images: 0, audioSeconds: 0, requests: 0 },
      costNanos: after - (before ?? 0n),
      adjustsId: event.id,
      adjustsStatus: before === null ? ('unpriced' as const) : ('priced' as const),
    }
  })
  if (rows.length === 0) return 0
  const { isNew } = await insertUsages(tenant, rows, { isBudgeted })
  return rows.filter(isNew).length
}
