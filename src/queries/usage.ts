import { and, desc, eq, gte, lt, sql } from 'drizzle-orm'
import { isBefore, run } from '../database.ts'
import { ConstraintError, ValidationError } from '../errors.ts'
import { uuidV7 } from '../schema/columns.ts'
import { type UsageEvent, type UsageStatus, usageEvents, usageKeys } from '../schema/costs.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkAfter,
  checkBigint,
  checkInstant,
  checkInteger,
  checkItem,
  checkJson,
  checkLimit,
  checkList,
  checkOneOf,
  checkProvider,
  checkText,
  checkUuid,
  MAX_MODEL,
  MAX_PROVIDER,
} from '../validation.ts'
import type { ExceededBudget } from './charging.ts'
import { insertUsages, type NewUsage, OWN_KEYS, openLedger } from './ledger.ts'
import {
  type ApplicablePrice,
  checkCounts,
  isCounted,
  priceUsage,
  type UsageCounts,
} from './prices.ts'

const MAX_PAGE = 500

/** How many calls one statement records at most. */
const MAX_USAGES = 1_000

export interface RecordUsageOptions extends UsageCounts {
  /** As it is called in `costs.model_prices`: without a slash. */
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
  /** What it is taken to have cost where no price is known, or no count is given that has one: `estimated` then. */
  estimateNanos?: bigint
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
 * @throws {LockError} `serialization`, in REPEATABLE READ, after a budget was made that its snapshot does not have.
 * @throws {ValidationError} also for a cost above 2^63-1.
 */
export async function recordUsages(
  tenant: Tenant,
  usages: readonly RecordUsageOptions[],
): Promise<RecordedUsage[]> {
  return (await writeUsages(tenant, usages, { ownKeys: false })).recorded
}

interface WriteUsagesOptions {
  /** The reservation that this transaction has locked, to be settled by the calls. */
  settled?: string | undefined
  /** Whether the keys are plinth's own. */
  ownKeys: boolean
}

/** Records calls, and says which budgets have spent and reserved more than their limit by then. */
export async function writeUsages(
  tenant: Tenant,
  usages: readonly RecordUsageOptions[],
  { settled, ownKeys }: WriteUsagesOptions,
): Promise<{ recorded: RecordedUsage[]; exceeded: ExceededBudget[] }> {
  checkList('usages', usages, { max: MAX_USAGES })
  if (usages.length === 0) return { recorded: [], exceeded: [] }
  const checked = usages.map((usage, index) => checkUsage(`usages[${index}]`, usage))
  for (const [index, { idempotencyKey }] of checked.entries()) {
    if (!ownKeys && idempotencyKey?.startsWith(OWN_KEYS)) {
      const argument = `usages[${index}].idempotencyKey`
      throw new ValidationError(argument, `must not begin with ${OWN_KEYS}`)
    }
  }
  const { now, isBudgeted, pricesOf } = await openLedger(tenant, checked)

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
  const { isNew, exceeded } = await insertUsages(tenant, rows, { isBudgeted, settled })
  const earlier = await readKeys(
    tenant,
    rows.filter((row) => !isNew(row)),
  )
  const recorded = rows.map((row) => {
    const { id, occurredAt, costNanos, status } = row
    if (isNew(row)) return { id, occurredAt, costNanos, status, duplicate: false }
    const first = earlier.get(row.idempotencyKey ?? '')
    // Recorded by another member, whose it is to know of.
    if (!first) throw new ConstraintError('unique', 'usage_keys_pkey', 'usage_keys')
    return { ...first, duplicate: true }
  })
  return { recorded, exceeded }
}

type CheckedUsage = RecordUsageOptions & Required<UsageCounts> & { isCounted: boolean }

/** Checks a call, and leaves out what is no part of one. */
export function checkUsage(argument: string, usage: RecordUsageOptions): CheckedUsage {
  return checkItem(argument, usage, () => {
    const { provider, model, operation, endpoint, idempotencyKey, metadata, latencyMs } = usage
    const { userId, projectId, runId, occurredAt, costNanos, status, estimateNanos } = usage
    checkProvider('provider', provider)
    checkText('model', model, { max: MAX_MODEL })
    checkText('operation', operation, { max: 100 })
    if (endpoint != null) checkText('endpoint', endpoint, { max: 500 })
    // In an index, as MAX_MODEL.
    if (idempotencyKey != null) checkText('idempotencyKey', idempotencyKey, { max: 500 })
    for (const [name, id] of Object.entries({ userId, projectId, runId })) {
      if (id != null) checkUuid(name, id)
    }
    if (metadata !== undefined) checkJson('metadata', metadata)
    if (latencyMs != null) checkInteger('latencyMs', latencyMs, { max: 2 ** 31 - 1 })
    if (occurredAt !== undefined) checkInstant('occurredAt', occurredAt)
    if (costNanos !== undefined) checkBigint('costNanos', costNanos)
    if (estimateNanos !== undefined) checkBigint('estimateNanos', estimateNanos)
    if (status !== undefined) checkOneOf('status', status, ['priced', 'estimated'])
    return {
      ...{ provider, model, operation, endpoint, idempotencyKey, metadata, latencyMs },
      ...{ userId, projectId, runId, occurredAt, costNanos, status, estimateNanos },
      ...checkCounts(usage),
      isCounted: isCounted(usage),
    }
  })
}

function costOf(usage: CheckedUsage, prices: readonly ApplicablePrice[], at: Date) {
  if (usage.costNanos !== undefined) {
    return { status: usage.status ?? 'estimated', costNanos: usage.costNanos, priceIds: [] }
  }
  const { status, costNanos, priceIds } = priceUsage(prices, { ...usage, at })
  const isUnknown = status === 'unpriced' || (costNanos === 0n && !usage.isCounted)
  if (isUnknown && usage.estimateNanos !== undefined) {
    return { status: 'estimated' as const, costNanos: usage.estimateNanos, priceIds }
  }
  return { status: status === 'priced' ? (usage.status ?? status) : status, costNanos, priceIds }
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
  if (after !== undefined) checkAfter(after)
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
