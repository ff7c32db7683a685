import { and, eq, getColumns, gt, sql } from 'drizzle-orm'
import { writeArray } from '../arrays.ts'
import { type Database, mapErrors, only, rowsOf, run } from '../database.ts'
import { KeyRingError, NotFoundError } from '../errors.ts'
import type { KeyRing } from '../key-ring.ts'
import { uuidV7 } from '../schema/columns.ts'
import { oauthTokens } from '../schema/identity.ts'
import {
  checkFunction,
  checkInstant,
  checkLimit,
  checkList,
  checkText,
  checkUuid,
} from '../validation.ts'

const MAX_PAGE = 500
const MAX_TOKEN = 20_000
const MAX_SCOPES = 200
/** The key of a row whose tokens are under several. No key of a ring has this id. */
const SEVERAL_KEYS = ''
/** Rows that are sealed again in one transaction. */
const ROTATE_BATCH = 100

const {
  accessCiphertext: _access,
  refreshCiphertext: _refresh,
  ...tokenColumns
} = getColumns(oauthTokens)

/** Whose access it is, and to what. */
export interface TokenOwner {
  userId: string
  provider: string
  /** Who the user is there, as the provider names accounts. */
  account: string
}

/** What is known of an access without opening it. */
export type OauthToken = Omit<
  typeof oauthTokens.$inferSelect,
  'accessCiphertext' | 'refreshCiphertext'
>

export interface SealTokenOptions extends TokenOwner {
  accessToken: string
  /** Absent: the one that is there stays, as providers send none when it does. Null: there is none any more. */
  refreshToken?: string | null
  /** As the provider has granted them. */
  scopes?: readonly string[]
  /** Of the access token; absent: it does not expire. */
  expiresAt?: Date | null
}

/**
 * Seals the tokens of an account and keeps them, in place of those that were there. The database is sent
 * ciphertext only.
 *
 * @throws {ConstraintError} a foreign key's for an unknown user. @throws {ValidationError}
 */
export async function sealToken(
  db: Database,
  ring: KeyRing,
  { accessToken, refreshToken, scopes = [], expiresAt = null, ...owner }: SealTokenOptions,
): Promise<OauthToken> {
  checkFunction('ring.seal', ring?.seal)
  checkOwner(owner)
  checkText('accessToken', accessToken, { max: MAX_TOKEN })
  if (refreshToken != null) checkText('refreshToken', refreshToken, { max: MAX_TOKEN })
  checkList('scopes', scopes, { max: MAX_SCOPES })
  for (const [at, scope] of scopes.entries()) checkText(`scopes[${at}]`, scope, { max: 500 })
  if (expiresAt !== null) checkInstant('expiresAt', expiresAt)
  const refresh = refreshToken == null ? null : ring.seal(refreshToken, purpose('refresh', owner))
  const keeps = refreshToken === undefined
  return only(
    await run(
      db
        .insert(oauthTokens)
        .values({
          ...owner,
          id: uuidV7(),
          scopes: sql`${writeArray(scopes, ',', String)}::text::text[]`,
          accessCiphertext: ring.seal(accessToken, purpose('access', owner)),
          refreshCiphertext: refresh,
          keyId: ring.current,
          expiresAt,
        })
        .onConflictDoUpdate({
          target: [oauthTokens.userId, oauthTokens.provider, oauthTokens.account],
          set: {
            scopes: sql`excluded.scopes`,
            accessCiphertext: sql`excluded.access_ciphertext`,
            expiresAt: sql`excluded.expires_at`,
            updatedAt: sql`excluded.updated_at`,
            ...(keeps
              ? {
                  // Which of two keys is the older one, a ring does not say: some may have another current key.
                  keyId: sql`case when ${oauthTokens.refreshCiphertext} is null or ${oauthTokens.keyId} = excluded.key_id
                    then excluded.key_id else ${SEVERAL_KEYS} end`,
                }
              : {
                  refreshCiphertext: sql`excluded.refresh_ciphertext`,
                  keyId: sql`excluded.key_id`,
                }),
          },
        })
        .returning(tokenColumns),
    ),
  )
}

function checkOwner({ userId, provider, account }: TokenOwner): void {
  checkUuid('userId', userId)
  checkText('provider', provider, { max: 100 })
  checkText('account', account, { max: 255 })
}

/** What an envelope is for: it opens in its own row and column only. */
const purpose = (kind: 'access' | 'refresh', { userId, provider, account }: TokenOwner) => [
  ...['identity.oauth_tokens', kind, userId.toLowerCase(), provider, account],
]

const isOf = ({ userId, provider, account }: TokenOwner) =>
  and(
    eq(oauthTokens.userId, userId),
    eq(oauthTokens.provider, provider),
    eq(oauthTokens.account, account),
  )

export interface OpenedToken extends OauthToken {
  accessToken: string
  refreshToken: string | null
  /** By the database's clock. */
  isExpired: boolean
}

/**
 * Opens the tokens of an account.
 *
 * @throws {NotFoundError} for an account without any.
 * @throws {KeyRingError} for a key that the ring has not, and for what was tampered with.
 * @throws {ValidationError}
 */
export async function openToken(
  db: Database,
  ring: KeyRing,
  owner: TokenOwner,
): Promise<OpenedToken> {
  checkFunction('ring.open', ring?.open)
  checkOwner(owner)
  const { provider, account } = owner
  const [found] = await run(
    db
      .select({
        ...getColumns(oauthTokens),
        isExpired: sql<boolean>`coalesce(${oauthTokens.expiresAt} <= clock_timestamp(), false)`,
      })
      .from(oauthTokens)
      .where(isOf(owner)),
  )
  if (!found) throw new NotFoundError('oauth token', `${provider} ${account}`)
  const { accessCiphertext, refreshCiphertext, ...token } = found
  return {
    ...token,
    accessToken: ring.open(accessCiphertext, purpose('access', owner)),
    refreshToken: refreshCiphertext && ring.open(refreshCiphertext, purpose('refresh', owner)),
  }
}

export interface RotateTokensOptions {
  /** How many to seal again at most; up to 100,000. */
  limit?: number
}

export interface RotatedTokens {
  rotated: number
  /** Under older keys still, those that could not be opened and those that others were writing among them. */
  remaining: number
  /** Why up to 100 could not be opened, by the id of the row. */
  failures: { id: string; reason: KeyRingError['reason'] }[]
}

/**
 * Seals again, by the current key, what is under older keys of the ring: batch by batch, each a transaction
 * of its own, unless the database is one. Whatever ends it, it goes on where it was; done twice, it does
 * nothing. An old key may leave the ring when nothing remains.
 *
 * @throws {ValidationError}
 */
export async function rotateTokens(
  db: Database,
  ring: KeyRing,
  { limit = 10_000 }: RotateTokensOptions = {},
): Promise<RotatedTokens> {
  checkFunction('ring.seal', ring?.seal)
  checkLimit(limit, 100_000)
  const failures: RotatedTokens['failures'] = []
  let rotated = 0
  for (const keyId of [SEVERAL_KEYS, ...ring.ids.filter((id) => id !== ring.current)]) {
    let after: string | undefined
    while (rotated < limit) {
      const batch = await rotateBatch(db, ring, {
        ...{ keyId, after, limit: Math.min(ROTATE_BATCH, limit - rotated) },
      })
      if (batch.last === undefined) break
      after = batch.last
      rotated += batch.rotated
      failures.push(...batch.failures.slice(0, ROTATE_BATCH - failures.length))
    }
  }
  const { remaining } = only(
    await rowsOf<{ remaining: number }>(
      db,
      sql`select count(*)::integer as remaining from ${oauthTokens} where ${oauthTokens.keyId} <> ${ring.current}`,
    ),
  )
  return { rotated, remaining, failures }
}

interface Batch {
  keyId: string
  after: string | undefined
  limit: number
}

/** Locked while they are sealed again: whoever has new tokens meanwhile waits, and is not overwritten. */
const rotateBatch = (db: Database, ring: KeyRing, { keyId, after, limit }: Batch) =>
  mapErrors(() =>
    db.transaction(async (tx) => {
      const rows = await run(
        tx
          .select()
          .from(oauthTokens)
          .where(
            and(
              eq(oauthTokens.keyId, keyId),
              after === undefined ? undefined : gt(oauthTokens.id, after),
            ),
          )
          .orderBy(oauthTokens.id)
          .limit(limit)
          .for('update', { skipLocked: true }),
      )
      const failures: RotatedTokens['failures'] = []
      const sealed = rows.flatMap((row) => {
        const again = (kind: 'access' | 'refresh', envelope: Buffer) =>
          ring.seal(ring.open(envelope, purpose(kind, row)), purpose(kind, row)).toString('hex')
        try {
          const refresh = row.refreshCiphertext && again('refresh', row.refreshCiphertext)
          return [{ id: row.id, access: again('access', row.accessCiphertext), refresh }]
        } catch (error) {
          if (!(error instanceof KeyRingError)) throw error
          failures.push({ id: row.id, reason: error.reason })
          return []
        }
      })
      if (sealed.length > 0) {
        await rowsOf(
          tx,
          sql`
            update ${oauthTokens} t set key_id = ${ring.current}, updated_at = now(),
              access_ciphertext = decode(new.access, 'hex'), refresh_ciphertext = decode(new.refresh, 'hex')
            from json_to_recordset(${JSON.stringify(sealed)}::text::json) as new (id uuid, access text, refresh text)
            where t.id = new.id
            returning t.id`,
        )
      }
      return { rotated: sealed.length, failures, last: rows.at(-1)?.id }
    }),
  )

export interface ListTokensOptions {
  userId: string
  /** The id of the last one of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists the accounts that a user has given access to, oldest first, without any token. @throws {ValidationError} */
export async function listTokens(
  db: Database,
  { userId, after, limit = 50 }: ListTokensOptions,
): Promise<OauthToken[]> {
  checkUuid('userId', userId)
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, MAX_PAGE)
  return run(
    db
      .select(tokenColumns)
      .from(oauthTokens)
      .where(
        and(
          eq(oauthTokens.userId, userId),
          after !== undefined ? gt(oauthTokens.id, after) : undefined,
        ),
      )
      .orderBy(oauthTokens.id)
      .limit(limit),
  )
}

/**
 * Forgets the tokens of an account. To revoke them is for the provider.
 *
 * @throws {NotFoundError} for an account without any. @throws {ValidationError}
 */
export async function removeToken(db: Database, owner: TokenOwner): Promise<void> {
  checkOwner(owner)
  const [removed] = await run(
    db.delete(oauthTokens).where(isOf(owner)).returning({ id: oauthTokens.id }),
  )
  if (!removed) throw new NotFoundError('oauth token', `${owner.provider} ${owner.account}`)
}
