import { type SQL, sql } from 'drizzle-orm'
import { type Database, only, rowsOf } from '../database.ts'
import { ValidationError } from '../errors.ts'
import { type Tenancy, withTenant } from '../tenant.ts'
import { checkNumber, checkOneOf, checkText } from '../validation.ts'

/** As many tokens as a bigint holds in billionths. */
const MAX_TOKENS = 1_000_000_000

/** What a token is at least: buckets count in billionths. */
const MIN_COST = 1e-9

/** The longest that setTimeout waits. */
const MAX_RETRY_MS = 2 ** 31 - 1

export interface TakePublicTokensOptions {
  /** Which bucket: what is limited, and for whom. Up to 200 characters. */
  key: string
  /** Tokens in a full bucket, which it begins as: the largest burst. */
  capacity: number
  /** Tokens that come back in a second; 0: none ever. */
  refillPerSecond: number
  /** Tokens that this call takes; 1 unless said. Not above the capacity. */
  cost?: number
}

export interface TakeTokensOptions extends TakePublicTokensOptions {
  /** Whose bucket: one for all of the organization, or one for each user of it. */
  per?: 'organization' | 'user'
}

export interface TakenTokens {
  granted: boolean
  /** Tokens that are left. */
  remaining: number
  /** When the same call can be granted, in milliseconds; 0 when it is; 2^31-1 at most, also for never. */
  retryAfterMs: number
}

interface Taken {
  granted: boolean
  remaining: string
  retry_after_ms: string | null
}

/**
 * Takes tokens from a bucket, all of `cost` or none: what is denied spends nothing. By the database's clock, and in
 * one statement, so that calls at once never take more than there is. The bucket is what its key names; its size and
 * speed are the call's, and may change from call to call.
 *
 * Within a scope the tokens come back if the transaction rolls back, and others wait for the bucket until it ends:
 * call it out of scope where many call.
 *
 * @throws {ForbiddenError} as `inTenant`. @throws {ValidationError} also `per: 'user'` for a service.
 */
export async function takeTokens(
  tenancy: Tenancy,
  { per = 'organization', ...bucket }: TakeTokensOptions,
): Promise<TakenTokens> {
  checkOneOf('per', per, ['organization', 'user'])
  if (per === 'user' && tenancy.userId === undefined) {
    throw new ValidationError('per', "must be 'organization' for a service, which is no user")
  }
  const { key, sizes } = checkBucket(bucket)
  const query = sql`select * from ops.take_tokens(${key}, ${per === 'user'}::boolean, ${sizes})`
  return answerOf(await withTenant(tenancy, ({ db }) => rowsOf<Taken>(db, query)))
}

/**
 * Takes tokens from a bucket of no organization, as `takeTokens`: for callers who are not known yet, by `addressKey`.
 *
 * @throws {ValidationError}
 */
export async function takePublicTokens(
  db: Database,
  bucket: TakePublicTokensOptions,
): Promise<TakenTokens> {
  const { key, sizes } = checkBucket(bucket)
  return answerOf(
    await rowsOf<Taken>(db, sql`select * from ops.take_public_tokens(${key}, ${sizes})`),
  )
}

function checkBucket({ key, capacity, refillPerSecond, cost = 1 }: TakePublicTokensOptions): {
  key: string
  sizes: SQL
} {
  checkText('key', key, { max: 200 })
  checkNumber('capacity', capacity, { min: MIN_COST, max: MAX_TOKENS })
  checkNumber('refillPerSecond', refillPerSecond, { min: 0, max: MAX_TOKENS })
  checkNumber('cost', cost, { min: MIN_COST, max: MAX_TOKENS })
  if (cost > capacity) {
    throw new ValidationError('cost', `is above the capacity of ${capacity}: it is never granted`)
  }
  // From tokens a second to billionths a millisecond.
  const perMs = sql`${String(refillPerSecond)}::numeric * 1000000`
  return { key, sizes: sql`${nanos(capacity)}::bigint, ${perMs}, ${nanos(cost)}::bigint` }
}

const nanos = (tokens: number): string => BigInt(Math.round(tokens * 1e9)).toString()

function answerOf(rows: Taken[]): TakenTokens {
  const { granted, remaining, retry_after_ms: retry } = only(rows)
  const retryAfterMs = granted
    ? 0
    : Math.max(Math.min(Number(retry ?? MAX_RETRY_MS), MAX_RETRY_MS), 1)
  return { granted, remaining: Number(remaining) / 1e9, retryAfterMs }
}
