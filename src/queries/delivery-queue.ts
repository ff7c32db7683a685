import { and, eq, sql } from 'drizzle-orm'
import { type Database, only, rowsOf, run } from '../database.ts'
import { NotFoundError, ValidationError } from '../errors.ts'
import { redactText } from '../redaction.ts'
import { deliveryStatus, type WebhookDelivery, webhookDeliveries } from '../schema/activity.ts'
import { uuidV7 } from '../schema/columns.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkInstant,
  checkInteger,
  checkLimit,
  checkOneOf,
  checkText,
  checkUuid,
  keptText,
} from '../validation.ts'
import { checkContent, type DeliveryContent } from './deliveries.ts'

const MAX_PAGE = 500
/** Of an answer that is kept, in characters. */
const MAX_RESPONSE = 2_000
const DAY_MS = 86_400_000

/**
 * How long after its first, second … failed attempt a webhook is sent again, in milliseconds: the schedule
 * that Standard Webhooks recommends, over three days. Times a factor from 0.8 to 1.2, by chance, so that
 * what failed together does not come back together.
 */
export const DELIVERY_DELAYS_MS: readonly number[] = [
  ...[5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 50_400_000, 72_000_000],
  ...[DAY_MS],
]

const MAX_ATTEMPTS = DELIVERY_DELAYS_MS.length + 1

export interface EnqueueDeliveryOptions extends DeliveryContent {
  /** Where it is to go: https, or http for what is near. Whether it may, is for whoever sends it to check. */
  url: string
  /** An id of the event that makes it go out once; none: as often as it is asked for. */
  eventId?: string
  /** From when on; at once unless said. */
  notBefore?: Date
  /** 10 unless said; up to 100. */
  maxAttempts?: number
}

/**
 * Adds a webhook to those that are to go out, in the transaction of what it tells of. Returns its id, or that of
 * the one that is there of its `eventId`, which stays as it is: also to those who may not read the queue.
 *
 * It goes out as it is kept, so without secrets: see `redact`. Send a link to what the receiver has to ask for.
 *
 * @throws {ForbiddenError} for viewers. @throws {ValidationError}
 */
export async function enqueueDelivery(
  { db }: Tenant,
  { url, eventId, notBefore, maxAttempts = MAX_ATTEMPTS, ...content }: EnqueueDeliveryOptions,
): Promise<string> {
  checkUrl('url', url)
  if (eventId !== undefined) checkText('eventId', eventId, { max: 255 })
  if (notBefore !== undefined) checkInstant('notBefore', notBefore)
  checkInteger('maxAttempts', maxAttempts, { min: 1, max: 100 })
  const { provider, event, payload, headers } = checkContent(content)
  const { id } = only(
    await rowsOf<{ id: string }>(
      db,
      sql`select activity.enqueue_delivery(${uuidV7()}, ${provider}, ${event}, ${eventId ?? null}, ${url},
        ${payload}, ${headers}, ${maxAttempts}, ${notBefore?.toISOString() ?? null}) as id`,
    ),
  )
  return id
}

function checkUrl(argument: string, value: unknown): void {
  checkText(argument, value, { max: 2_000 })
  const url = URL.canParse(value) ? new URL(value) : undefined
  if (!url || !/^https?:$/.test(url.protocol)) {
    throw new ValidationError(argument, 'must be an http or https URL')
  }
  if (url.username !== '' || url.password !== '' || redactText(value) !== value) {
    throw new ValidationError(argument, 'holds a secret; sign the webhook instead')
  }
}

/** The time, read once a statement: it judges by it and writes it. To the millisecond, as times are kept. */
const clockOf = (db: Database) =>
  db
    .$with('clock')
    .as(
      db
        .select({ seen: sql`clock_timestamp()::timestamptz(3)`.as('seen') })
        .from(sql`(select 1) as one`),
    )
const SEEN = sql`(select seen from clock)`

export interface ClaimDeliveriesOptions {
  /** Up to 500. */
  limit?: number
  /** How long the claim holds, in milliseconds: longer than the requests together may take. */
  leaseMs?: number
}

/**
 * Claims webhooks that are due, the longest due first, and counts the attempt. What another one is claiming
 * is passed over. A claim that has run out is due again, and after its last attempt dead.
 *
 * @throws {ValidationError}
 */
export async function claimDeliveries(
  { db, organizationId }: Tenant,
  { limit = 20, leaseMs = 60_000 }: ClaimDeliveriesOptions = {},
): Promise<WebhookDelivery[]> {
  checkLimit(limit, MAX_PAGE)
  checkInteger('leaseMs', leaseMs, { min: 100, max: DAY_MS })
  const [d, leaseId] = [webhookDeliveries, uuidV7()]
  const isOver = sql`${d.attempts} >= ${d.maxAttempts}`
  const claimed = await run(
    db
      .with(clockOf(db))
      .update(d)
      .set({
        status: sql`case when ${isOver} then 'dead' else 'pending' end::${deliveryStatus}`,
        attempts: sql`least(${d.attempts} + 1, ${d.maxAttempts})`,
        leaseId: sql`case when ${isOver} then null else ${leaseId}::text::uuid end`,
        nextAttemptAt: sql`${SEEN} + ${leaseMs}::float8 * interval '1 millisecond'`,
        settledAt: sql`case when ${isOver} then ${SEEN} end`,
        updatedAt: SEEN,
      })
      .where(
        and(
          eq(d.organizationId, organizationId),
          sql`${d.id} = any(array(
            select due.id from ${d} as due where due.organization_id = ${organizationId}
              and due.status = 'pending' and due.next_attempt_at <= ${SEEN}
            order by due.next_attempt_at, due.id limit ${limit} for update skip locked))`,
        ),
      )
      .returning(),
  )
  return claimed
    .filter(({ leaseId: held }) => held === leaseId)
    .sort((a, b) => (a.id < b.id ? -1 : 1))
}

export interface SettleDeliveryOptions {
  id: string
  /** Of the claim. */
  leaseId: string
  /** `rejected`: the receiver wants it no more, as by 410 Gone; it is not tried again. */
  outcome: 'delivered' | 'failed' | 'rejected'
  /** HTTP's. */
  responseStatus?: number | null
  /** What was answered, or why nothing was. Its beginning is kept, without secrets. */
  response?: string | null
  /** At least so long until the next attempt, in milliseconds, as the receiver's Retry-After says. */
  retryAfterMs?: number
}

/**
 * Says what became of a claimed webhook. A failed one is due again after the delay of DELIVERY_DELAYS_MS for
 * its attempts, and dead after its last one.
 *
 * Returns undefined, and writes nothing, if it has been claimed by another one since: that one settles it.
 *
 * @throws {ValidationError}
 */
export async function settleDelivery(
  { db, organizationId }: Tenant,
  {
    id,
    leaseId,
    outcome,
    responseStatus = null,
    response,
    retryAfterMs = 0,
  }: SettleDeliveryOptions,
): Promise<WebhookDelivery | undefined> {
  checkUuid('id', id)
  checkUuid('leaseId', leaseId)
  checkOneOf('outcome', outcome, ['delivered', 'failed', 'rejected'])
  if (responseStatus !== null)
    checkInteger('responseStatus', responseStatus, { min: 100, max: 999 })
  if (response != null && typeof response !== 'string') {
    throw new ValidationError('response', 'must be a string')
  }
  checkInteger('retryAfterMs', retryAfterMs, { max: 7 * DAY_MS })
  const d = webhookDeliveries
  const jitter = 0.8 + Math.random() * 0.4
  const isLast = sql`(${outcome === 'rejected'} or ${d.attempts} >= ${d.maxAttempts})`
  const isEnd = outcome === 'delivered' ? sql`true` : isLast
  const delays = `{${DELIVERY_DELAYS_MS.join(',')}}`
  const delay = sql`(${delays}::text::bigint[])[least(greatest(${d.attempts}, 1), ${DELIVERY_DELAYS_MS.length}::integer)]`
  const [settled] = await run(
    db
      .with(clockOf(db))
      .update(d)
      .set({
        status:
          outcome === 'delivered'
            ? 'delivered'
            : sql`case when ${isLast} then 'dead' else 'pending' end::${deliveryStatus}`,
        leaseId: null,
        responseStatus,
        response:
          response == null ? null : keptText(redactText(response.slice(0, 100_000)), MAX_RESPONSE),
        nextAttemptAt: sql`case when ${isEnd} then ${d.nextAttemptAt} else ${SEEN}
          + greatest(${delay} * ${jitter}::float8, ${retryAfterMs}::float8) * interval '1 millisecond' end`,
        settledAt: sql`case when ${isEnd} then ${SEEN} end`,
        updatedAt: SEEN,
      })
      .where(
        and(
          eq(d.organizationId, organizationId),
          eq(d.id, id),
          eq(d.leaseId, leaseId),
          eq(d.status, 'pending'),
        ),
      )
      .returning(),
  )
  return settled
}

/**
 * Makes a webhook that is dead, or waits for its next attempt, due at once, with all its attempts again. One
 * that is under a claim is left to it, until that has run out: then its worker comes too late.
 *
 * @throws {NotFoundError} for one that is unknown, delivered or being sent. @throws {ValidationError}
 */
export async function retryDelivery(
  { db, organizationId }: Tenant,
  id: string,
): Promise<WebhookDelivery> {
  checkUuid('id', id)
  const d = webhookDeliveries
  const [retried] = await run(
    db
      .with(clockOf(db))
      .update(d)
      .set({
        ...{ status: 'pending', attempts: 0, leaseId: null, settledAt: null },
        ...{ nextAttemptAt: SEEN, updatedAt: SEEN },
      })
      .where(
        and(
          eq(d.organizationId, organizationId),
          eq(d.id, id),
          eq(d.direction, 'outgoing'),
          sql`(${d.status} = 'dead' or (${d.status} = 'pending'
            and (${d.leaseId} is null or ${d.nextAttemptAt} <= ${SEEN})))`,
        ),
      )
      .returning(),
  )
  if (!retried) throw new NotFoundError('delivery to retry', id)
  return retried
}

export interface ListDueOrganizationsOptions {
  /** The last organization of the page before. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists organizations with webhooks that are due, by id: claim them in the scope of each. @throws {ValidationError} */
export async function listDueOrganizations(
  db: Database,
  { after, limit = 100 }: ListDueOrganizationsOptions = {},
): Promise<string[]> {
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, MAX_PAGE)
  const rows = await rowsOf<{ id: string }>(
    db,
    sql`select id from activity.due_organizations(${after ?? null}::text::uuid, ${limit}) as id`,
  )
  return rows.map(({ id }) => id)
}
