import { createHash, randomBytes } from 'node:crypto'
import { and, desc, eq, getColumns, isNull, lt, type SQL, sql } from 'drizzle-orm'
import { type Database, only, run } from '../database.ts'
import { ForbiddenError, InvitationError, NotFoundError } from '../errors.ts'
import {
  type Invitation,
  invitations,
  type Membership,
  type MembershipRole,
  membershipRole,
  memberships,
} from '../schema/identity.ts'
import { asService, type Tenant } from '../tenant.ts'
import {
  checkEmail,
  checkInteger,
  checkLimit,
  checkOneOf,
  checkText,
  checkUuid,
} from '../validation.ts'
import { getUser } from './identity.ts'
import { isMember, lockOwners } from './members.ts'

const MAX_PAGE = 500

const { tokenHash: _, ...invitationColumns } = getColumns(invitations)

export interface InviteMemberOptions {
  email: string
  /** Never owner: that is for `transferOwnership`. */
  role?: Exclude<MembershipRole, 'owner'>
  /** Seven days unless said; up to a year. */
  lifetimeMs?: number
}

export interface CreatedInvitation extends Invitation {
  /** Shown this once: only its hash is stored. */
  token: string
}

const DAY_MS = 86_400_000
const INVITED_ROLES = membershipRole.enumValues.filter((role) => role !== 'owner')

/**
 * Invites whoever reads an address. Any earlier invitation of the address stays good.
 *
 * @throws {ForbiddenError} unless the scope is an admin's. @throws {ValidationError}
 */
export async function inviteMember(
  { db, organizationId, userId: invitedBy }: Tenant,
  { email, role = 'member', lifetimeMs = 7 * DAY_MS }: InviteMemberOptions,
): Promise<CreatedInvitation> {
  checkEmail('email', email)
  checkOneOf('role', role, INVITED_ROLES)
  checkInteger('lifetimeMs', lifetimeMs, { min: 1_000, max: 365 * DAY_MS })
  // The organization is in the token, so that accepting it looks at one tenant.
  const token = `pli_${organizationId.replaceAll('-', '')}_${randomBytes(32).toString('base64url')}`
  const invitation = only(
    await run(
      db
        .insert(invitations)
        .values({
          organizationId,
          invitedBy,
          email,
          role,
          tokenHash: hashOf(token),
          // By the database's clock, as it will be judged.
          expiresAt: sql`now() + ${lifetimeMs} * interval '1 millisecond'`,
        })
        .returning(invitationColumns),
    ),
  )
  return { ...invitation, token }
}

const hashOf = (token: string) => createHash('sha256').update(token).digest()

export interface AcceptInvitationOptions {
  token: string
  userId: string
}

/**
 * Makes a user a member by the token of an invitation, once. Who is a member already keeps the role. The
 * other open invitations of the address in the organization are revoked.
 *
 * @throws {InvitationError} for a token that is unknown, expired, revoked, used, or made out to another
 * address than the user's. @throws {ForbiddenError} for an archived organization and a deactivated user.
 * @throws {NotFoundError} for an unknown user. @throws {ValidationError}
 */
export async function acceptInvitation(
  db: Database,
  { token, userId }: AcceptInvitationOptions,
): Promise<Membership> {
  checkText('token', token, { max: 200 })
  const { email, deactivatedAt } = await getUser(db, userId)
  if (deactivatedAt) throw new ForbiddenError('user_deactivated', `user ${userId} is deactivated`)
  const [, hex] = /^pli_([0-9a-f]{32})_[\w-]{43}$/.exec(token) ?? []
  if (!hex) throw new InvitationError('unknown')
  const organizationId = hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')

  const accepting = asService(db, organizationId, async (tenant) => {
    // Each acceptance closes what another one would accept: two of an address would wait in a circle.
    await lockOwners(tenant)
    const isThis = and(
      eq(invitations.organizationId, organizationId),
      eq(invitations.tokenHash, hashOf(token)),
    )
    const [accepted] = await run(
      tenant.db
        .update(invitations)
        .set({ acceptedAt: sql`now()`, acceptedBy: userId })
        .where(
          and(
            isThis,
            isNull(invitations.acceptedAt),
            isNull(invitations.revokedAt),
            sql`${invitations.expiresAt} > now()`,
            eq(sql`lower(${invitations.email})`, sql`lower(${email})`),
          ),
        )
        .returning(invitationColumns),
    )
    if (!accepted) throw new InvitationError(await refusal(tenant, isThis))
    const { role, invitedBy } = accepted
    // Or whoever is removed later would come back by another one.
    await run(
      tenant.db
        .update(invitations)
        .set({ revokedAt: sql`now()` })
        .where(
          and(
            eq(invitations.organizationId, organizationId),
            eq(sql`lower(${invitations.email})`, sql`lower(${email})`),
            isNull(invitations.acceptedAt),
            isNull(invitations.revokedAt),
          ),
        ),
    )
    await run(
      tenant.db
        .insert(memberships)
        .values({ organizationId, userId, role, invitedBy })
        .onConflictDoNothing(),
    )
    return only(await run(tenant.db.select().from(memberships).where(isMember(tenant, userId))))
  })
  return accepting.catch((error) => {
    const isUnknown = error instanceof ForbiddenError && error.reason === 'organization_not_found'
    throw isUnknown ? new InvitationError('unknown') : error
  })
}

async function refusal({ db }: Tenant, isThis: SQL | undefined) {
  const expired = sql<boolean>`${invitations.expiresAt} <= now()`
  const [found] = await run(
    db
      .select({ ...invitationColumns, expired })
      .from(invitations)
      .where(isThis),
  )
  if (!found) return 'unknown'
  if (found.revokedAt) return 'revoked'
  if (found.acceptedAt) return 'accepted'
  return found.expired ? 'expired' : 'email'
}

/**
 * Takes an invitation back. Idempotent.
 *
 * @throws {InvitationError} `accepted` once somebody has accepted it: remove the member then.
 * @throws {NotFoundError} for an unknown id, and for members below admin. @throws {ValidationError}
 */
export async function revokeInvitation({ db, organizationId }: Tenant, id: string): Promise<void> {
  checkUuid('id', id)
  const isThis = and(eq(invitations.organizationId, organizationId), eq(invitations.id, id))
  const [revoked] = await run(
    db
      .update(invitations)
      .set({ revokedAt: sql`coalesce(${invitations.revokedAt}, now())` })
      .where(and(isThis, isNull(invitations.acceptedAt)))
      .returning({ id: invitations.id }),
  )
  if (revoked) return
  const [found] = await run(db.select({ id: invitations.id }).from(invitations).where(isThis))
  throw found ? new InvitationError('accepted') : new NotFoundError('invitation', id)
}

export interface ListInvitationsOptions {
  /** The id of the last invitation of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists the invitations of the organization, newest first; to members below admin, none. @throws {ValidationError} */
export async function listInvitations(
  { db, organizationId }: Tenant,
  { after, limit = 50 }: ListInvitationsOptions = {},
): Promise<Invitation[]> {
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, MAX_PAGE)
  return run(
    db
      .select(invitationColumns)
      .from(invitations)
      .where(
        and(
          eq(invitations.organizationId, organizationId),
          after ? lt(invitations.id, after) : undefined,
        ),
      )
      .orderBy(desc(invitations.id))
      .limit(limit),
  )
}
