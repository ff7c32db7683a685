import { createHash, createHmac } from 'node:crypto'
import { isIPv4 } from 'node:net'
import { and, desc, eq, gte, lt, type SQL, sql } from 'drizzle-orm'
import { addressKey } from '../addresses.ts'
import { type Database, isBefore, only, rowsOf, run } from '../database.ts'
import { ValidationError } from '../errors.ts'
import { redactText } from '../redaction.ts'
import { type AuthLog, authLogs } from '../schema/activity.ts'
import { uuidV7 } from '../schema/columns.ts'
import {
  checkAfter,
  checkEmail,
  checkInstant,
  checkInteger,
  checkIp,
  checkLimit,
  checkText,
  checkUuid,
} from '../validation.ts'

const MAX_PAGE = 500
/** Of what is counted: an attack is not made longer by counting all of it. */
const MAX_COUNT = 1_000
const MAX_WINDOW_MS = 31 * 86_400_000

export interface HashEmailOptions {
  /** A secret of the service, of 16 characters or more. Without one, a list of addresses finds out whose hash it is. */
  pepper?: string
}

/**
 * What an address is known by in the log: HMAC-SHA-256 by the pepper, or SHA-256 without one, of the address
 * without spaces around it and in lower case. Another pepper makes another hash: earlier lines are then not
 * found by their address.
 *
 * @throws {ValidationError}
 */
export function hashEmail(email: string, { pepper }: HashEmailOptions = {}): Buffer {
  const normal = typeof email === 'string' ? email.trim().toLowerCase().normalize('NFC') : email
  checkEmail('email', normal)
  if (pepper === undefined) return createHash('sha256').update(normal).digest()
  checkText('pepper', pepper, { min: 16 })
  return createHmac('sha256', pepper).update(normal).digest()
}

export interface AuthEntry extends HashEmailOptions {
  /** What was tried, such as `login`. */
  event: string
  success: boolean
  /** Why it failed. */
  reason?: string | null
  /** The account, where there is one. */
  userId?: string | null
  /** The address that was given, also where nobody has it. Its hash is kept. */
  email?: string | null
  ip?: string | null
  userAgent?: string | null
  requestId?: string | null
}

/**
 * Records an attempt to get in. Returns its id. Write it in a transaction of its own, since one that fails
 * takes the line with it.
 *
 * @throws {MissingPartitionError} @throws {ValidationError} also for an attempt by nobody from nowhere.
 */
export async function recordAuth(
  db: Database,
  { event, success, reason, userId, email, pepper, ip, userAgent, requestId }: AuthEntry,
): Promise<string> {
  checkText('event', event, { max: 100 })
  if (typeof success !== 'boolean') throw new ValidationError('success', 'must be true or false')
  if (reason != null) checkText('reason', reason, { max: 500 })
  if (userId != null) checkUuid('userId', userId)
  if (userAgent != null) checkText('userAgent', userAgent, { max: 16_384 })
  if (requestId != null) checkText('requestId', requestId, { max: 200 })
  const address = ip == null ? null : readAddress(ip)
  const emailHash = email == null ? null : hashEmail(email, pepper === undefined ? {} : { pepper })
  if (!address && !emailHash && userId == null) {
    throw new ValidationError('email', 'userId or ip must say who it was')
  }
  const id = uuidV7()
  await run(
    db.insert(authLogs).values({
      ...{ id, userId, event, success, emailHash, requestId },
      reason: reason && redactText(reason),
      ip: address?.ip,
      network: address?.network,
      userAgent: userAgent && redactText(userAgent),
      // Not now(): the transaction may be an old one.
      occurredAt: sql`clock_timestamp()`,
    }),
  )
  return id
}

/** An address as it is kept, and the network of whom it belongs to: see `addressKey`. */
function readAddress(given: string): { ip: string; network: string } {
  checkIp('ip', given)
  const key = addressKey(given)
  return isIPv4(key) ? { ip: key, network: `${key}/32` } : { ip: given, network: key }
}

export interface CountRecentFailuresOptions extends HashEmailOptions {
  email?: string
  userId?: string
  ip?: string
  /** How far back, in milliseconds; up to 31 days. */
  windowMs: number
}

export interface RecentFailures {
  /** Since the last success of the account: of its address or its user, whichever has more. */
  account: number
  /** From the network of the IP address, to whichever account: a success of one does not excuse it. */
  network: number
}

/**
 * Counts failed attempts, up to 1,000 of each. What is not asked for is 0. Each count reads the newest lines of
 * one index, and at most 1,000.
 *
 * @throws {ValidationError} also if it is not said whose.
 */
export async function countRecentFailures(
  db: Database,
  { email, pepper, userId, ip, windowMs }: CountRecentFailuresOptions,
): Promise<RecentFailures> {
  checkInteger('windowMs', windowMs, { min: 1, max: MAX_WINDOW_MS })
  if (userId !== undefined) checkUuid('userId', userId)
  const hash =
    email === undefined ? undefined : hashEmail(email, pepper === undefined ? {} : { pepper })
  const address = ip === undefined ? undefined : readAddress(ip)
  if (!hash && !address && userId === undefined) {
    throw new ValidationError('email', 'userId or ip must say whose failures to count')
  }
  const since = sql`clock_timestamp() - ${windowMs}::float8 * interval '1 millisecond'`
  const count = (isThis: SQL | undefined, ending: SQL) =>
    isThis
      ? sql`(select count(*) from (
          select l.success, ${ending} as ended from (
            select success, occurred_at, id from ${authLogs}
            where ${isThis} and occurred_at > (select since from clock)
            order by occurred_at desc, id desc limit ${MAX_COUNT}) l) r
          where not success and not ended)::integer`
      : sql`0`
  const sinceSuccess = sql`bool_or(l.success) over (order by l.occurred_at desc, l.id desc)`
  return only(
    await rowsOf<RecentFailures>(
      db,
      sql`
        with clock as materialized (select ${since} as since)
        select greatest(
            ${count(hash && sql`email_hash = decode(${hash.toString('hex')}::text, 'hex')`, sinceSuccess)},
            ${count(userId === undefined ? undefined : sql`user_id = ${userId}::text::uuid`, sinceSuccess)}) as account,
          ${count(address && sql`network = ${address.network}::text::cidr`, sql`false`)} as network`,
    ),
  )
}

export interface ListAuthLogsOptions extends HashEmailOptions {
  userId?: string
  email?: string
  /** One of its network. */
  ip?: string
  /** The earliest time to list. */
  since?: Date
  /** The time before which to list. */
  until?: Date
  /** The last line of the previous page. */
  after?: { occurredAt: Date; id: string }
  /** Up to 500. */
  limit?: number
}

/** Lists attempts to get in, newest first. @throws {ValidationError} */
export async function listAuthLogs(
  db: Database,
  { userId, email, pepper, ip, since, until, after, limit = 50 }: ListAuthLogsOptions = {},
): Promise<AuthLog[]> {
  if (userId !== undefined) checkUuid('userId', userId)
  const hash =
    email === undefined ? undefined : hashEmail(email, pepper === undefined ? {} : { pepper })
  const address = ip === undefined ? undefined : readAddress(ip)
  if (since !== undefined) checkInstant('since', since)
  if (until !== undefined) checkInstant('until', until)
  if (after !== undefined) checkAfter(after)
  checkLimit(limit, MAX_PAGE)
  return run(
    db
      .select()
      .from(authLogs)
      .where(
        and(
          userId !== undefined ? eq(authLogs.userId, userId) : undefined,
          hash && eq(authLogs.emailHash, hash),
          address && eq(authLogs.network, address.network),
          since && gte(authLogs.occurredAt, since),
          until && lt(authLogs.occurredAt, until),
          after && isBefore(authLogs.occurredAt, authLogs.id, after),
        ),
      )
      .orderBy(desc(authLogs.occurredAt), desc(authLogs.id))
      .limit(limit),
  )
}
