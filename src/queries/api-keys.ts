import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { and, desc, eq, getColumns, lt, sql } from 'drizzle-orm'
import { writeArray } from '../arrays.ts'
import { type Database, only, rowsOf, run } from '../database.ts'
import { ApiKeyError, NotFoundError, ValidationError } from '../errors.ts'
import { uuidV7 } from '../schema/columns.ts'
import { type ApiKey, apiKeys } from '../schema/identity.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkInstant,
  checkInteger,
  checkLimit,
  checkList,
  checkText,
  checkUuid,
} from '../validation.ts'

const MAX_PAGE = 500
const MAX_SCOPES = 50
const MAX_LIFETIME_MS = 10 * 366 * 86_400_000

const { secretHash: _, ...keyColumns } = getColumns(apiKeys)

export interface CreateApiKeyOptions {
  /** What it is for, to know it by in a list. */
  name: string
  /** Words such as `chat:write`, up to 50. None is implied by another. */
  scopes?: readonly string[]
  /** Never, unless this or `lifetimeMs` says. */
  expiresAt?: Date
  /** From now on, in milliseconds. */
  lifetimeMs?: number
  /** Whom it acts for: the user in scope unless said. Null: nobody, as a service; for admins. */
  userId?: string | null
}

export interface CreatedApiKey extends ApiKey {
  /** Shown this once: only a hash is stored. */
  text: string
}

/**
 * Creates a key. Members make keys that act for themselves, admins also those that act for nobody.
 *
 * @throws {ForbiddenError} for a key that acts for another one, and below admin for nobody.
 * @throws {ConstraintError} `api_keys_user_id_fkey` for who is no member. @throws {ValidationError}
 */
export async function createApiKey(
  { db, organizationId, userId: createdBy }: Tenant,
  { name, scopes = [], expiresAt, lifetimeMs, userId = createdBy ?? null }: CreateApiKeyOptions,
): Promise<CreatedApiKey> {
  checkText('name', name, { max: 200 })
  checkScopes('scopes', scopes)
  if (expiresAt !== undefined) checkInstant('expiresAt', expiresAt)
  if (lifetimeMs !== undefined) {
    checkInteger('lifetimeMs', lifetimeMs, { min: 1_000, max: MAX_LIFETIME_MS })
    if (expiresAt) throw new ValidationError('lifetimeMs', 'says the same as expiresAt; give one')
  }
  if (userId !== null) checkUuid('userId', userId)
  const id = uuidV7()
  const secret = randomBytes(32).toString('base64url')
  const key = only(
    await run(
      db
        .insert(apiKeys)
        .values({
          organizationId,
          id,
          userId,
          createdBy,
          name,
          scopes: sql`${writeArray([...new Set(scopes)], ',', String)}::text::text[]`,
          secretHash: hashOf(secret),
          // By the database's clock, as it will be judged.
          expiresAt:
            lifetimeMs === undefined
              ? expiresAt
              : sql`clock_timestamp() + ${lifetimeMs} * interval '1 millisecond'`,
        })
        .returning(keyColumns),
    ),
  )
  return { ...key, text: `plk_${digits(organizationId)}_${digits(id)}_${secret}` }
}

const digits = (id: string) => id.replaceAll('-', '')
const hashOf = (secret: string) => createHash('sha256').update(secret).digest()

function checkScopes(argument: string, scopes: readonly string[]): void {
  checkList(argument, scopes, { max: MAX_SCOPES })
  for (const [at, scope] of scopes.entries()) {
    checkText(`${argument}[${at}]`, scope, { max: 100 })
    if (!/^[\w.-]+(:[\w.-]+)*$/.test(scope)) {
      throw new ValidationError(`${argument}[${at}]`, 'must be words such as chat:write')
    }
  }
}

export interface VerifyApiKeyOptions {
  /** All of which the key has to have. */
  requiredScopes?: readonly string[]
}

/** Who shows a key, as whom to enter a scope: by `inTenant`, or `asService` without a user. */
export interface VerifiedApiKey {
  organizationId: string
  /** Null: the key acts for the organization itself. */
  userId: string | null
  id: string
  name: string
  scopes: string[]
}

// What a key that is not there is compared with, so that it takes as long.
const NO_HASH = hashOf(randomBytes(32).toString('base64url'))

/**
 * Verifies the text of a key: one call, which reads the key by its primary key, compares in constant time,
 * and has the time of use written at most once a minute. Whoever verifies the same key at once does not
 * wait; within a transaction, revoking waits for its end.
 *
 * @throws {ApiKeyError} `unknown` also for a wrong secret and a removed member's key; `revoked` also for an
 * archived organization and a deactivated user; `scope` for one that is missing. @throws {ValidationError}
 */
export async function verifyApiKey(
  db: Database,
  text: string,
  { requiredScopes = [] }: VerifyApiKeyOptions = {},
): Promise<VerifiedApiKey> {
  checkText('text', text, { max: 300 })
  checkScopes('requiredScopes', requiredScopes)
  const parts = /^plk_([0-9a-f]{32})_([0-9a-f]{32})_([\w-]{43})$/.exec(text)
  if (!parts) throw new ApiKeyError('unknown')
  const [organizationId, id] = [uuid(parts[1]), uuid(parts[2])]
  const hash = hashOf(parts[3] ?? '')
  const [key] = await rowsOf<FoundKey>(
    db,
    sql`
      select user_id as "userId", name, scopes, encode(secret_hash, 'hex') as hash, state
      from identity.read_api_key(${organizationId}::text::uuid, ${id}::text::uuid,
        decode(${hash.toString('hex')}::text, 'hex'))`,
  )
  const isSame = timingSafeEqual(hash, key ? Buffer.from(key.hash, 'hex') : NO_HASH)
  if (!key || !isSame) throw new ApiKeyError('unknown')
  if (key.state !== 'good') throw new ApiKeyError(key.state)
  const missing = requiredScopes.filter((scope) => !key.scopes.includes(scope))
  if (missing.length > 0) throw new ApiKeyError('scope', missing)
  const { userId, name, scopes } = key
  return { organizationId, userId, id, name, scopes }
}

interface FoundKey {
  userId: string | null
  name: string
  scopes: string[]
  hash: string
  state: 'good' | 'revoked' | 'expired'
}

const uuid = (hex = '') => hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')

/**
 * Makes a key good for nothing, from the next verification on. Idempotent: the first time stays.
 *
 * @throws {NotFoundError} for an unknown id, and below admin for another one's. @throws {ValidationError}
 */
export async function revokeApiKey({ db, organizationId }: Tenant, id: string): Promise<void> {
  checkUuid('id', id)
  const [revoked] = await run(
    db
      .update(apiKeys)
      .set({ revokedAt: sql`coalesce(${apiKeys.revokedAt}, now())` })
      .where(and(eq(apiKeys.organizationId, organizationId), eq(apiKeys.id, id)))
      .returning({ id: apiKeys.id }),
  )
  if (!revoked) throw new NotFoundError('api key', id)
}

export interface ListApiKeysOptions {
  /** Whom they act for. Null: nobody. */
  userId?: string | null
  /** The id of the last key of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists keys, newest first, revoked ones too: members their own, admins all. @throws {ValidationError} */
export async function listApiKeys(
  { db, organizationId }: Tenant,
  { userId, after, limit = 50 }: ListApiKeysOptions = {},
): Promise<ApiKey[]> {
  if (userId != null) checkUuid('userId', userId)
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, MAX_PAGE)
  return run(
    db
      .select(keyColumns)
      .from(apiKeys)
      .where(
        and(
          eq(apiKeys.organizationId, organizationId),
          userId === undefined ? undefined : sql`${apiKeys.userId} is not distinct from ${userId}`,
          after !== undefined ? lt(apiKeys.id, after) : undefined,
        ),
      )
      .orderBy(desc(apiKeys.id))
      .limit(limit),
  )
}
