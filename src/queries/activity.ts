import { and, desc, eq, gte, lt, sql } from 'drizzle-orm'
import { writeArray } from '../arrays.ts'
import { isBefore, run } from '../database.ts'
import { ValidationError } from '../errors.ts'
import { redactJson, redactText } from '../redaction.ts'
import { type ActivityLog, activityLogs } from '../schema/activity.ts'
import { uuidV7 } from '../schema/columns.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkAfter,
  checkInstant,
  checkIp,
  checkItem,
  checkJson,
  checkLimit,
  checkList,
  checkText,
  checkUuid,
} from '../validation.ts'

const MAX_PAGE = 500

/** How many lines one statement writes at most. */
export const MAX_ACTIVITIES = 1_000

/** Of one statement's lines, in UTF-16 code units: Postgres would take more, the heap of a service not. */
const MAX_BATCH_LENGTH = 64_000_000

// What is indexed has to fit into 2,704 bytes of a btree entry, at up to 3 bytes a UTF-16 code unit.
const MAX_ACTION = 200
const MAX_RESOURCE_TYPE = 100
const MAX_RESOURCE_ID = 500

export interface ActivityEntry {
  /** What was done, such as `document.created`. */
  action: string
  /** Who did it. The user in scope unless said, and nobody (null) for a service. */
  actorId?: string | null
  resourceType?: string | null
  /** Needs a `resourceType`. */
  resourceId?: string | null
  /** As it is called now. */
  resourceName?: string | null
  changes?: Record<string, unknown> | null
  metadata?: Record<string, unknown>
  /** One IPv4 or IPv6 address: no network, no zone. */
  ip?: string | null
  userAgent?: string | null
  requestId?: string | null
  /** Now by the database's clock, unless said. Kept to the millisecond. */
  occurredAt?: Date
  /** Needs an `occurredAt`. A line with the id and the time of an earlier one is not recorded again. */
  id?: string
}

/** Records one line. Returns its id. @throws as `recordActivities`, of which this is the list of one. */
export async function recordActivity(tenant: Tenant, entry: ActivityEntry): Promise<string> {
  const [id] = await recordActivities(tenant, [entry])
  return id as string
}

/**
 * Records up to 1,000 lines in one statement: all of them, or none. Secrets in changes, metadata and names
 * of resources are replaced by `[redacted]`: see `redact`. Returns their ids in the order of
 * the entries, and not the rows, since a member may record in nobody's name what only admins may read.
 * Without entries it does nothing.
 *
 * @throws {ForbiddenError} for another member as the actor, unless the scope is an admin's.
 * @throws {MissingPartitionError} for a month without a partition. @throws {ValidationError}
 */
export async function recordActivities(
  { db, organizationId, userId }: Tenant,
  entries: readonly ActivityEntry[],
): Promise<string[]> {
  checkList('entries', entries, { max: MAX_ACTIVITIES })
  if (entries.length === 0) return []
  const objects = entries.map((entry, index) => checkActivity(`entries[${index}]`, entry))
  const ids = entries.map(({ id }) => id ?? uuidV7())
  const column = (type: string, pick: (entry: ActivityEntry) => string | null | undefined) => ({
    type,
    text: arrayOf(entries.map(pick)),
  })
  const columns = [
    { type: 'uuid', text: arrayOf(ids) },
    column('uuid', ({ actorId = userId }) => actorId),
    column('text', ({ action }) => action),
    column('text', ({ resourceType }) => resourceType),
    column('text', ({ resourceId }) => resourceId),
    column('text', ({ resourceName }) => resourceName && redactText(resourceName)),
    { type: 'jsonb', text: arrayOf(objects.map(({ changes }) => changes)) },
    { type: 'jsonb', text: arrayOf(objects.map(({ metadata }) => metadata)) },
    column('inet', ({ ip }) => ip),
    column('text', ({ userAgent }) => userAgent),
    column('text', ({ requestId }) => requestId),
    column('timestamptz', ({ occurredAt }) => occurredAt?.toISOString()),
  ]
  const length = columns.reduce((sum, { text }) => sum + text.length, 0)
  if (length > MAX_BATCH_LENGTH) {
    throw new ValidationError(
      'entries',
      `have ${length} characters; record at most ${MAX_BATCH_LENGTH} at a time`,
    )
  }
  const arrays = columns.map(({ type, text }) => sql`${text}::text::${sql.raw(type)}[]`)
  // Without RETURNING and without a conflict target: either would need the right to read the line.
  await run(
    db.execute(sql`
      insert into ${activityLogs} (organization_id, id, actor_id, action, resource_type, resource_id,
        resource_name, changes, metadata, ip, user_agent, request_id, occurred_at)
      select ${organizationId}::uuid, id, actor_id, action, resource_type, resource_id,
        resource_name, changes, metadata, ip, user_agent, request_id, coalesce(occurred_at, now())
      from unnest(${sql.join(arrays, sql`, `)}) as entries (id, actor_id, action, resource_type,
        resource_id, resource_name, changes, metadata, ip, user_agent, request_id, occurred_at)
      on conflict do nothing`),
  )
  return ids
}

/**
 * An array in one text: faster than a row of parameters for each line, and than JSON, and the same for
 * every driver, each of which sends arrays in its own way.
 */
const arrayOf = (values: (string | null | undefined)[]) => writeArray(values, ',', String)

/** Checks a line that is to be recorded. @returns the JSON of its two objects, without secrets. */
export function checkActivity(
  argument: string,
  entry: ActivityEntry,
): { changes: string | null; metadata: string } {
  return checkItem(argument, entry, () => {
    checkText('action', entry.action, { max: MAX_ACTION })
    checkOptional('resourceType', entry.resourceType, MAX_RESOURCE_TYPE)
    checkOptional('resourceId', entry.resourceId, MAX_RESOURCE_ID)
    checkOptional('resourceName', entry.resourceName, 1_000)
    // As long as Node lets all headers of a request be.
    checkOptional('userAgent', entry.userAgent, 16_384)
    checkOptional('requestId', entry.requestId, 200)
    if (entry.actorId != null) checkUuid('actorId', entry.actorId)
    if (entry.ip != null) checkIp('ip', entry.ip)
    if (entry.occurredAt !== undefined) checkInstant('occurredAt', entry.occurredAt)
    if (entry.id !== undefined) checkUuid('id', entry.id)
    if (entry.resourceId != null && entry.resourceType == null) {
      throw new ValidationError('resourceId', 'needs a resourceType: no list finds it without')
    }
    if (entry.id !== undefined && entry.occurredAt === undefined) {
      throw new ValidationError('id', 'needs an occurredAt: only both together are recorded once')
    }
    return {
      changes: entry.changes == null ? null : redactJson(checkJson('changes', entry.changes)),
      metadata:
        entry.metadata === undefined ? '{}' : redactJson(checkJson('metadata', entry.metadata)),
    }
  })
}

function checkOptional(argument: string, value: unknown, max: number): void {
  if (value != null) checkText(argument, value, { max })
}

export interface ListActivityOptions {
  actorId?: string
  /** All of a type, or one of it. */
  resource?: { type: string; id?: string }
  action?: string
  /** The earliest time to list. */
  since?: Date
  /** The time before which to list. */
  until?: Date
  /** The last line of the previous page. */
  after?: { occurredAt: Date; id: string }
  /** Up to 500. */
  limit?: number
}

/**
 * Lists what was done in the organization, newest first.
 *
 * Admins and services see every line, other members their own. Such a member should be given as
 * `actorId` too: the index then finds the lines, which the policy can only pick out of everyone's.
 *
 * @throws {ValidationError}
 */
export async function listActivity(
  { db, organizationId }: Tenant,
  { actorId, resource, action, since, until, after, limit = 50 }: ListActivityOptions = {},
): Promise<ActivityLog[]> {
  if (actorId !== undefined) checkUuid('actorId', actorId)
  if (resource !== undefined) {
    checkText('resource.type', resource?.type, { max: MAX_RESOURCE_TYPE })
    if (resource.id !== undefined) checkText('resource.id', resource.id, { max: MAX_RESOURCE_ID })
  }
  if (action !== undefined) checkText('action', action, { max: MAX_ACTION })
  if (since !== undefined) checkInstant('since', since)
  if (until !== undefined) checkInstant('until', until)
  if (after !== undefined) checkAfter(after)
  checkLimit(limit, MAX_PAGE)

  const logs = activityLogs
  // One upper bound, the nearer one: of two, the index might start at the farther and walk to the other.
  const ended = until !== undefined && (!after || until <= after.occurredAt)
  return run(
    db
      .select()
      .from(logs)
      .where(
        and(
          eq(logs.organizationId, organizationId),
          actorId !== undefined ? eq(logs.actorId, actorId) : undefined,
          resource && eq(logs.resourceType, resource.type),
          resource?.id !== undefined ? eq(logs.resourceId, resource.id) : undefined,
          action !== undefined ? eq(logs.action, action) : undefined,
          since && gte(logs.occurredAt, since),
          ended ? lt(logs.occurredAt, until) : after && isBefore(logs.occurredAt, logs.id, after),
        ),
      )
      .orderBy(desc(logs.occurredAt), desc(logs.id))
      .limit(limit),
  )
}
