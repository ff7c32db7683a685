import { and, desc, eq, lt, sql } from 'drizzle-orm'
import { only, run } from '../database.ts'
import { type RedactOptions, redactJson } from '../redaction.ts'
import {
  type DeliveryStatus,
  deliveryDirection,
  deliveryStatus,
  type WebhookDelivery,
  webhookDeliveries,
} from '../schema/activity.ts'
import { uuidV7 } from '../schema/columns.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkInstant,
  checkItem,
  checkJson,
  checkLimit,
  checkList,
  checkOneOf,
  checkText,
  checkUuid,
} from '../validation.ts'

const MAX_PAGE = 500

export interface DeliveryContent {
  provider: string
  /** What happened, such as `invoice.paid`. */
  event: string
  payload: Record<string, unknown>
  headers?: Record<string, unknown>
  /** Further names of secrets in payload and headers. */
  redaction?: RedactOptions
}

export interface RecordDeliveryOptions extends DeliveryContent {
  /** The sender's own id of the event, by which a repetition is known. */
  eventId: string
  /** What `verifySignature` has found; null for a sender who signs nothing. */
  signatureOk: boolean | null
}

export interface RecordedDelivery {
  id: string
  /** False: it was recorded before, and `id` is of that time. Do nothing about it. */
  isNew: boolean
}

/**
 * Records a webhook that came in, once for each event of a sender, without secrets: see `redact`. One whose
 * signature is wrong is recorded as `rejected`, every time, and does not count as the event: its sender can
 * be anyone.
 *
 * @throws {ForbiddenError} below admin: it is for services. @throws {ValidationError}
 */
export async function recordDelivery(
  { db, organizationId }: Tenant,
  { provider, event, eventId, signatureOk, ...content }: RecordDeliveryOptions,
): Promise<RecordedDelivery> {
  checkText('eventId', eventId, { max: 255 })
  const kept = checkContent({ provider, event, ...content })
  const id = uuidV7()
  const status = signatureOk === false ? 'rejected' : 'received'
  const [made] = await run(
    db
      .insert(webhookDeliveries)
      .values({ ...kept, organizationId, id, direction: 'incoming', status, eventId })
      .onConflictDoNothing()
      .returning({ id: webhookDeliveries.id }),
  )
  if (made) return { id, isNew: true }
  const found = only(
    await run(
      db
        .select({ id: webhookDeliveries.id })
        .from(webhookDeliveries)
        .where(
          and(
            eq(webhookDeliveries.organizationId, organizationId),
            eq(webhookDeliveries.direction, 'incoming'),
            eq(webhookDeliveries.provider, provider),
            eq(webhookDeliveries.eventId, eventId),
            sql`${webhookDeliveries.status} <> 'rejected'`,
          ),
        ),
    ),
  )
  return { id: found.id, isNew: false }
}

/** What is kept of a delivery: as JSON for Postgres, since to parse it here is to write it again there. */
export function checkContent({
  provider,
  event,
  payload,
  headers = {},
  redaction,
}: DeliveryContent) {
  checkText('provider', provider, { max: 100 })
  checkText('event', event, { max: 200 })
  if (redaction !== undefined) {
    checkItem('redaction', redaction, () => {
      const { names = [] } = redaction
      checkList('names', names)
      for (const name of names) checkText('names', name, { max: 200 })
    })
  }
  const json = (argument: string, value: unknown) =>
    sql`${redactJson(checkJson(argument, value), redaction)}::text::jsonb`
  return { provider, event, payload: json('payload', payload), headers: json('headers', headers) }
}

export interface ListDeliveriesOptions {
  direction?: WebhookDelivery['direction']
  status?: DeliveryStatus
  provider?: string
  /** The id of the last one of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists webhooks, newest first; to members below admin, none. @throws {ValidationError} */
export async function listDeliveries(
  { db, organizationId }: Tenant,
  { direction, status, provider, after, limit = 50 }: ListDeliveriesOptions = {},
): Promise<WebhookDelivery[]> {
  if (direction !== undefined) checkOneOf('direction', direction, deliveryDirection.enumValues)
  if (status !== undefined) checkOneOf('status', status, deliveryStatus.enumValues)
  if (provider !== undefined) checkText('provider', provider, { max: 100 })
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, MAX_PAGE)
  const d = webhookDeliveries
  return run(
    db
      .select()
      .from(d)
      .where(
        and(
          eq(d.organizationId, organizationId),
          direction && eq(d.direction, direction),
          status && eq(d.status, status),
          provider !== undefined ? eq(d.provider, provider) : undefined,
          after !== undefined ? lt(d.id, after) : undefined,
        ),
      )
      .orderBy(desc(d.id))
      .limit(limit),
  )
}

export interface PurgeDeliveriesOptions {
  /** Settled or received before. A sender that repeats an event later than that is taken at its word again. */
  before: Date
  /** Up to 10,000 at a time. */
  limit?: number
}

/** Deletes webhooks of which nothing is expected any more, the oldest first. Returns how many. @throws {ValidationError} */
export async function purgeDeliveries(
  { db, organizationId }: Tenant,
  { before, limit = 1_000 }: PurgeDeliveriesOptions,
): Promise<number> {
  checkInstant('before', before)
  checkLimit(limit, 10_000)
  const d = webhookDeliveries
  const purged = await run(
    db
      .delete(d)
      .where(
        and(
          eq(d.organizationId, organizationId),
          sql`${d.id} = any(array(
            select old.id from ${d} as old where old.organization_id = ${organizationId}
              and old.status <> 'pending' and old.updated_at < ${before.toISOString()}::text::timestamptz
            order by old.id limit ${limit} for update skip locked))`,
        ),
      )
      .returning({ id: d.id }),
  )
  return purged.length
}
