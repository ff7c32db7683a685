import { and, desc, eq, gte, lt, sql } from 'drizzle-orm'
import { type Database, isBefore, rowsOf, run } from '../database.ts'
import { NotFoundError, ValidationError } from '../errors.ts'
import { fingerprintOf } from '../fingerprint.ts'
import { redactJson, redactText } from '../redaction.ts'
import {
  type ErrorGroup,
  type ErrorLevel,
  type ErrorLog,
  errorGroups,
  errorLevel,
  errorLogs,
} from '../schema/activity.ts'
import { uuidV7 } from '../schema/columns.ts'
import {
  checkAfter,
  checkInstant,
  checkItem,
  checkJson,
  checkLimit,
  checkOneOf,
  checkText,
  checkUuid,
  keptText,
} from '../validation.ts'

const MAX_PAGE = 500
const MAX_MESSAGE = 10_000
const MAX_STACK = 30_000
const MAX_FINGERPRINT = 200
/** Of the occurrences that a list counts of each group. */
const MAX_COUNT = 1_000
const DAY_MS = 86_400_000

export interface ErrorEntry {
  /** `error` unless said. */
  level?: ErrorLevel
  /** What was thrown, or its message. Cut off at 10,000 characters. */
  error: unknown
  /** Of a message alone; that of an error is its own unless said. Cut off at 30,000 characters. */
  stack?: string | null
  /** Such as the SQLSTATE; the error's own unless said. */
  code?: string | null
  context?: Record<string, unknown>
  /** What occurrences of one cause have in common, where the caller knows better: see `fingerprintOf`. */
  fingerprint?: string
  /** Whom it happened to. */
  organizationId?: string | null
  userId?: string | null
  requestId?: string | null
}

export interface RecordedError {
  id: string
  fingerprint: string
}

/**
 * Records that something went wrong, without secrets: see `redact`. The group of its fingerprint is made if
 * there is none, and opened again if it was resolved; one that is open is written once a minute, so that
 * errors by the thousand do not queue for it.
 *
 * Not in the transaction that failed: it takes the line with it.
 *
 * @throws {MissingPartitionError} @throws {ValidationError}
 */
export async function recordError(
  db: Database,
  { level = 'error', error, context = {}, organizationId, userId, requestId, ...given }: ErrorEntry,
): Promise<RecordedError> {
  checkOneOf('level', level, errorLevel.enumValues)
  for (const name of ['stack', 'code'] as const) {
    if (typeof (given[name] ?? '') !== 'string') throw new ValidationError(name, 'must be a string')
  }
  const { message, stack, code } = readError(error, given)
  const json = redactJson(checkJson('context', context))
  if (organizationId != null) checkUuid('organizationId', organizationId)
  if (userId != null) checkUuid('userId', userId)
  if (requestId != null) checkText('requestId', requestId, { max: 200 })
  if (given.fingerprint !== undefined) {
    checkText('fingerprint', given.fingerprint, { max: MAX_FINGERPRINT })
  }
  const fingerprint = given.fingerprint ?? fingerprintOf({ message, code, stack })
  const [id, groupId] = [uuidV7(), uuidV7()]
  await rowsOf(
    db,
    sql`
      with line as (
        insert into ${errorLogs} (id, affected_organization_id, user_id, level, code, fingerprint,
          message, stack, context, request_id, occurred_at)
        values (${id}::text::uuid, ${organizationId ?? null}::text::uuid, ${userId ?? null}::text::uuid,
          ${level}::text::${errorLevel}, ${code}::text, ${fingerprint}::text, ${message}::text,
          ${stack}::text, ${json}::text::jsonb, ${requestId ?? null}::text, clock_timestamp())
        returning fingerprint, level, code, message, occurred_at
      ), fresh as (
        insert into ${errorGroups} (id, fingerprint, level, code, message, first_seen_at, last_seen_at)
        select ${groupId}::text::uuid, fingerprint, level, code, message, occurred_at, occurred_at
        from line where not exists (
          select from ${errorGroups} g where g.fingerprint = ${fingerprint}::text)
        on conflict do nothing
        returning id
      )
      update ${errorGroups} g set last_seen_at = line.occurred_at, updated_at = line.occurred_at,
        resolved_at = null, resolved_by = null
      from line
      where g.id = any(array(
        select i.id from ${errorGroups} i where i.fingerprint = ${fingerprint}::text
          and (i.resolved_at is not null or i.last_seen_at <= line.occurred_at - interval '1 minute')
        for no key update skip locked))
      returning g.id`,
  )
  return { id, fingerprint }
}

/** What is kept of something that was thrown, whatever it was. */
function readError(error: unknown, given: Pick<ErrorEntry, 'stack' | 'code'>) {
  const thrown = error instanceof Error ? error : undefined
  const said = thrown && withoutParameters(thrown)
  const text = thrown ? `${thrown.name}: ${said}` : error
  if (typeof text !== 'string') throw new ValidationError('error', 'must be an Error or a message')
  const own = thrown && 'code' in thrown ? thrown.code : undefined
  const code = given.code ?? (typeof own === 'string' ? own : null)
  // Which begins with the message.
  const whole = given.stack ?? thrown?.stack ?? null
  const stack =
    whole === null ? null : String(whole).replace(thrown?.message || '\0', () => said ?? '')
  return {
    // Redacted before it is cut off: half a secret has no shape to know it by.
    message: keptText(redactText(text), MAX_MESSAGE) || 'Error',
    stack: stack === null ? null : keptText(redactText(stack), MAX_STACK),
    code: code === null ? null : keptText(redactText(code), 100),
  }
}

/** The message of an error. Drizzle's own has the parameters of the query in it, which may be anything. */
const withoutParameters = (error: Error): string =>
  error.name === 'DrizzleQueryError' && 'query' in error
    ? `Failed query: ${error.query}`
    : error.message

/** An error group, and how often it was seen. */
export interface CountedErrorGroup extends ErrorGroup {
  /** Since `since`, up to 1,000. */
  occurrences: number
}

export interface ListErrorGroupsOptions {
  /** `open` unless said. */
  state?: 'open' | 'resolved' | 'all'
  /** Seen since, and counted since; a day unless said. */
  since?: Date
  /** The last group of the previous page. */
  after?: Pick<ErrorGroup, 'lastSeenAt' | 'id'>
  /** Up to 500. */
  limit?: number
}

/** Lists groups of errors, the last seen first. @throws {ValidationError} */
export async function listErrorGroups(
  db: Database,
  {
    state = 'open',
    since = new Date(Date.now() - DAY_MS),
    after,
    limit = 50,
  }: ListErrorGroupsOptions = {},
): Promise<CountedErrorGroup[]> {
  checkOneOf('state', state, ['open', 'resolved', 'all'])
  checkInstant('since', since)
  if (after !== undefined) {
    checkItem('after', after, () => {
      checkInstant('lastSeenAt', after.lastSeenAt)
      checkUuid('id', after.id)
    })
  }
  checkLimit(limit, MAX_PAGE)
  const groups = errorGroups
  const isIn = {
    ...{ open: sql`${groups.resolvedAt} is null`, resolved: sql`${groups.resolvedAt} is not null` },
    all: undefined,
  }
  const page = await run(
    db
      .select()
      .from(groups)
      .where(
        and(
          isIn[state],
          gte(groups.lastSeenAt, since),
          after &&
            isBefore(groups.lastSeenAt, groups.id, { occurredAt: after.lastSeenAt, id: after.id }),
        ),
      )
      .orderBy(desc(groups.lastSeenAt), desc(groups.id))
      .limit(limit),
  )
  const counts = await rowsOf<{ fingerprint: string; occurrences: number }>(
    db,
    sql`
      select f.fingerprint, (select count(*) from (
          select 1 from ${errorLogs} l where l.fingerprint = f.fingerprint
            and l.occurred_at >= ${since.toISOString()}::text::timestamptz limit ${MAX_COUNT}) l)::integer as occurrences
      from json_array_elements_text(${JSON.stringify(page.map(({ fingerprint }) => fingerprint))}::text::json) as f (fingerprint)`,
  )
  const byFingerprint = new Map(counts.map((row) => [row.fingerprint, row.occurrences]))
  return page.map((group) => ({ ...group, occurrences: byFingerprint.get(group.fingerprint) ?? 0 }))
}

export interface ResolveErrorGroupOptions {
  id: string
  /** Who says so. */
  resolvedBy?: string | null
}

/**
 * Says that the cause of a group is gone. The next occurrence opens it again. Idempotent: the first time stays.
 *
 * @throws {NotFoundError} for an unknown id. @throws {ValidationError}
 */
export async function resolveErrorGroup(
  db: Database,
  { id, resolvedBy = null }: ResolveErrorGroupOptions,
): Promise<void> {
  checkUuid('id', id)
  if (resolvedBy !== null) checkUuid('resolvedBy', resolvedBy)
  const [resolved] = await run(
    db
      .update(errorGroups)
      .set({
        resolvedAt: sql`coalesce(${errorGroups.resolvedAt}, now())`,
        resolvedBy: sql`case when ${errorGroups.resolvedAt} is null then ${resolvedBy}::text::uuid else ${errorGroups.resolvedBy} end`,
      })
      .where(eq(errorGroups.id, id))
      .returning({ id: errorGroups.id }),
  )
  if (!resolved) throw new NotFoundError('error group', id)
}

export interface ListErrorsOptions {
  fingerprint?: string
  organizationId?: string
  userId?: string
  /** The earliest time to list. */
  since?: Date
  /** The time before which to list. */
  until?: Date
  /** The last error of the previous page. */
  after?: Pick<ErrorLog, 'occurredAt' | 'id'>
  /** Up to 500. */
  limit?: number
}

/** Lists errors one by one, newest first. @throws {ValidationError} */
export async function listErrors(
  db: Database,
  { fingerprint, organizationId, userId, since, until, after, limit = 50 }: ListErrorsOptions = {},
): Promise<ErrorLog[]> {
  if (fingerprint !== undefined) checkText('fingerprint', fingerprint, { max: MAX_FINGERPRINT })
  if (organizationId !== undefined) checkUuid('organizationId', organizationId)
  if (userId !== undefined) checkUuid('userId', userId)
  if (since !== undefined) checkInstant('since', since)
  if (until !== undefined) checkInstant('until', until)
  if (after !== undefined) checkAfter(after)
  checkLimit(limit, MAX_PAGE)
  const logs = errorLogs
  return run(
    db
      .select()
      .from(logs)
      .where(
        and(
          fingerprint !== undefined ? eq(logs.fingerprint, fingerprint) : undefined,
          organizationId !== undefined ? eq(logs.organizationId, organizationId) : undefined,
          userId !== undefined ? eq(logs.userId, userId) : undefined,
          since && gte(logs.occurredAt, since),
          until && lt(logs.occurredAt, until),
          after && isBefore(logs.occurredAt, logs.id, after),
        ),
      )
      .orderBy(desc(logs.occurredAt), desc(logs.id))
      .limit(limit),
  )
}
