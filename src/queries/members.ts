import { createHash, randomBytes } from 'node:crypto'
import { and, desc, eq, getColumns, inArray, isNull, lt, type SQL, sql } from 'drizzle-orm'
import { type Database, only, rowsOf, run } from '../database.ts'
import { InvitationError, LastOwnerError, NotFoundError, ValidationError } from '../errors.ts'
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

const MAX_PAGE = 500

export interface AddMemberOptions {
  userId: string
  role?: MembershipRole
}

/**
 * Adds a user to the organization. Who is in it already keeps the role: see `changeMemberRole`.
 *
 * @throws {ForbiddenError} unless the scope is an admin's; to add an owner, an owner's.
 * @throws {ConstraintError} `memberships_pkey` for a member, a foreign key's for an unknown user.
 * @throws {ValidationError}
 */
export async function addMember(
  { db, organizationId, userId: invitedBy }: Tenant,
  { userId, role = 'member' }: AddMemberOptions,
): Promise<Membership> {
  checkUuid('userId', userId)
  checkOneOf('role', role, membershipRole.enumValues)
  return only(
    await run(
      db.insert(memberships).values({ organizationId, userId, role, invitedBy }).returning(),
    ),
  )
}

export interface ChangeMemberRoleOptions {
  userId: string
  role: MembershipRole
}

/**
 * Changes the role of a member.
 *
 * @throws {LastOwnerError} if no owner would be left.
 * @throws {NotFoundError} for who is no member, or whose role the scope may not change: admins decide
 * about everyone but the owners, owners about all.
 * @throws {ForbiddenError} for making an owner without being one. @throws {ValidationError}
 */
export async function changeMemberRole(
  tenant: Tenant,
  { userId, role }: ChangeMemberRoleOptions,
): Promise<Membership> {
  checkUuid('userId', userId)
  checkOneOf('role', role, membershipRole.enumValues)
  await lockMembers(tenant)
  const dispensable = role === 'owner' ? undefined : isDispensable(tenant, userId)
  const [changed] = await run(
    tenant.db
      .update(memberships)
      .set({ role })
      .where(and(isMember(tenant, userId), dispensable))
      .returning(),
  )
  return changed ?? explainUnchanged(tenant, userId)
}

/**
 * Takes a member out of the organization; members may take out themselves. What they made stays.
 *
 * @throws {LastOwnerError} if no owner would be left.
 * @throws {NotFoundError} for who is no member, or whom the scope may not take out.
 * @throws {ValidationError}
 */
export async function removeMember(tenant: Tenant, userId: string): Promise<Membership> {
  checkUuid('userId', userId)
  await lockMembers(tenant)
  const [removed] = await run(
    tenant.db
      .delete(memberships)
      .where(and(isMember(tenant, userId), isDispensable(tenant, userId)))
      .returning(),
  )
  return removed ?? explainUnchanged(tenant, userId)
}

export interface TransferOwnershipOptions {
  fromUserId: string
  toUserId: string
}

/**
 * Makes one member the owner and the former owner an admin, in one statement. Returns the new owner.
 *
 * @throws {NotFoundError} if the one is no owner or the other no member; nothing has changed then.
 * @throws {ForbiddenError} without being an owner. @throws {ValidationError}
 */
export async function transferOwnership(
  tenant: Tenant,
  { fromUserId, toUserId }: TransferOwnershipOptions,
): Promise<Membership> {
  checkUuid('fromUserId', fromUserId)
  checkUuid('toUserId', toUserId)
  if (fromUserId === toUserId) {
    throw new ValidationError('toUserId', 'must be another member than fromUserId')
  }
  const { db, organizationId } = tenant
  await lockMembers(tenant)
  const rows = await run(
    db
      .update(memberships)
      .set({
        role: sql`(case when ${memberships.userId} = ${toUserId} then 'owner' else 'admin' end)::${membershipRole}`,
      })
      .where(
        and(
          eq(memberships.organizationId, organizationId),
          inArray(memberships.userId, [fromUserId, toUserId]),
          sql`(select count(*) from ${memberships} as pair
            where pair.organization_id = ${organizationId}
              and (pair.user_id = ${toUserId} or (pair.user_id = ${fromUserId} and pair.role = 'owner'))) = 2`,
        ),
      )
      .returning(),
  )
  const owner = rows.find(({ userId }) => userId === toUserId.toLowerCase())
  if (!owner) throw new NotFoundError('owner and member', `${fromUserId}, ${toUserId}`)
  return owner
}

const isMember = ({ organizationId }: Tenant, userId: string) =>
  and(eq(memberships.organizationId, organizationId), eq(memberships.userId, userId))

/** That the member is no owner, or not the only one. */
const isDispensable = ({ organizationId }: Tenant, userId: string) => sql`
  (${memberships.role} <> 'owner' or exists (select 1 from ${memberships} as others
    where others.organization_id = ${organizationId} and others.role = 'owner'
      and others.user_id <> ${userId}))`

/** Makes changes of members take turns: each then sees what the one before has left. */
const lockMembers = ({ db, organizationId }: Tenant) =>
  rowsOf(
    db,
    sql`select pg_advisory_xact_lock(hashtextextended('plinth.memberships ' || ${organizationId}::text, 0))`,
  )

async function explainUnchanged(tenant: Tenant, userId: string): Promise<never> {
  const [member] = await run(tenant.db.select().from(memberships).where(isMember(tenant, userId)))
  // Whether the scope could have changed an owner: others are told no more than that there is none.
  if (member?.role === 'owner' && ['owner', 'service'].includes(await tenant.role)) {
    throw new LastOwnerError(tenant.organizationId)
  }
  throw new NotFoundError('member', userId)
}

export interface Member {
  userId: string
  role: MembershipRole
  email: string
  displayName: string
  avatarUrl: string | null
  deactivatedAt: Date | null
  joinedAt: Date
}

export interface ListMembersOptions {
  /** The userId of the last member of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists who is in the organization, in the order of their accounts. @throws {ValidationError} */
export async function listMembers(
  { db }: Tenant,
  { after, limit = 50 }: ListMembersOptions = {},
): Promise<Member[]> {
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, MAX_PAGE)
  const rows = await rowsOf<Member>(
    db,
    sql`
      select user_id as "userId", role, email, display_name as "displayName",
        avatar_url as "avatarUrl", deactivated_at as "deactivatedAt", joined_at as "joinedAt"
      from identity.member_profiles(${after ?? null}, ${limit})`,
  )
  return rows.map((row) => ({
    ...row,
    deactivatedAt: row.deactivatedAt && new Date(row.deactivatedAt),
    joinedAt: new Date(row.joinedAt),
  }))
}

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
 * Makes a user a member by the token of an invitation, once. Who is a member already keeps the role.
 *
 * @throws {InvitationError} for a token that is unknown, expired, revoked, used, or made out to another
 * address than the user's. @throws {NotFoundError} for an unknown user. @throws {ValidationError}
 */
export async function acceptInvitation(
  db: Database,
  { token, userId }: AcceptInvitationOptions,
): Promise<Membership> {
  checkText('token', token, { max: 200 })
  const { email } = await getUser(db, userId)
  const [, hex] = /^pli_([0-9a-f]{32})_[\w-]{43}$/.exec(token) ?? []
  if (!hex) throw new InvitationError('unknown')
  const organizationId = hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')

  return asService(db, organizationId, async (tenant) => {
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
    await run(
      tenant.db
        .insert(memberships)
        .values({ organizationId, userId, role, invitedBy })
        .onConflictDoNothing(),
    )
    return only(await run(tenant.db.select().from(memberships).where(isMember(tenant, userId))))
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

/** Takes an invitation back, if nobody has accepted it yet. Idempotent. @throws {ValidationError} */
export async function revokeInvitation({ db, organizationId }: Tenant, id: string): Promise<void> {
  checkUuid('id', id)
  await run(
    db
      .update(invitations)
      .set({ revokedAt: sql`coalesce(${invitations.revokedAt}, now())` })
      .where(
        and(
          eq(invitations.organizationId, organizationId),
          eq(invitations.id, id),
          isNull(invitations.acceptedAt),
        ),
      ),
  )
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
