import { and, eq, inArray, sql } from 'drizzle-orm'
import { only, rowsOf, run } from '../database.ts'
import { LastOwnerError, NotFoundError, ValidationError } from '../errors.ts'
import {
  type Membership,
  type MembershipRole,
  membershipRole,
  memberships,
} from '../schema/identity.ts'
import type { Tenant } from '../tenant.ts'
import { checkLimit, checkOneOf, checkUuid } from '../validation.ts'

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
  if (fromUserId.toLowerCase() === toUserId.toLowerCase()) {
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

/** Which membership is a user's in the organization. */
export const isMember = ({ organizationId }: Tenant, userId: string) =>
  and(eq(memberships.organizationId, organizationId), eq(memberships.userId, userId))

/** That the member is no owner, or not the only one. */
const isDispensable = ({ organizationId }: Tenant, userId: string) => sql`
  (${memberships.role} <> 'owner' or exists (select 1 from ${memberships} as others
    where others.organization_id = ${organizationId} and others.role = 'owner'
      and others.user_id <> ${userId}))`

/**
 * Makes changes of members take turns: each then sees what the one before has left. The owners' rows are
 * locked too, so that a transaction with a snapshot of its own fails, and does not go by what was.
 */
async function lockMembers({ db, organizationId }: Tenant): Promise<void> {
  await rowsOf(
    db,
    sql`select pg_advisory_xact_lock(hashtextextended('plinth.memberships ' || ${organizationId}::text, 0))`,
  )
  await run(
    db
      .select({ userId: memberships.userId })
      .from(memberships)
      .where(and(eq(memberships.organizationId, organizationId), eq(memberships.role, 'owner')))
      .orderBy(memberships.userId)
      .for('update'),
  )
}

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
