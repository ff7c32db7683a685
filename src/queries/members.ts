import { and, eq, inArray, ne, sql } from 'drizzle-orm'
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
 * @throws {ForbiddenError} unless the scope is an admin's; to add an owner, an owner's; and for an owner who
 * is deactivated.
 * @throws {ConstraintError} `memberships_pkey` for a member, a foreign key's for an unknown user.
 * @throws {ValidationError}
 */
export async function addMember(
  tenant: Tenant,
  { userId, role = 'member' }: AddMemberOptions,
): Promise<Membership> {
  checkUuid('userId', userId)
  checkOneOf('role', role, membershipRole.enumValues)
  const { db, organizationId, userId: invitedBy } = tenant
  if (role === 'owner') await lockOwners(tenant, userId)
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
 * @throws {LastOwnerError} if no owner would be left who can enter.
 * @throws {NotFoundError} for who is no member, or whose role the scope may not change: admins decide
 * about everyone but the owners, owners about all.
 * @throws {ForbiddenError} for making an owner without being one, or of a deactivated user.
 * @throws {ValidationError}
 */
export async function changeMemberRole(
  tenant: Tenant,
  { userId, role }: ChangeMemberRoleOptions,
): Promise<Membership> {
  checkUuid('userId', userId)
  checkOneOf('role', role, membershipRole.enumValues)
  const owners = await lockOwners(tenant, role === 'owner' ? userId : undefined)
  const dispensable = role === 'owner' ? undefined : isDispensable(owners, userId)
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
 * @throws {LastOwnerError} if no owner would be left who can enter.
 * @throws {NotFoundError} for who is no member, or whom the scope may not take out.
 * @throws {ValidationError}
 */
export async function removeMember(tenant: Tenant, userId: string): Promise<Membership> {
  checkUuid('userId', userId)
  const owners = await lockOwners(tenant)
  const [removed] = await run(
    tenant.db
      .delete(memberships)
      .where(and(isMember(tenant, userId), isDispensable(owners, userId)))
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
 * @throws {ForbiddenError} without being an owner, and for a deactivated user. @throws {ValidationError}
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
  await lockOwners(tenant, toUserId)
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

/** That the member is no owner, or not the only one among those who can enter. */
const isDispensable = (owners: readonly string[], userId: string) =>
  owners.some((owner) => owner !== userId.toLowerCase()) ? undefined : ne(memberships.role, 'owner')

/**
 * Makes changes of members take turns until the transaction ends. Returns the owners who can enter, as the
 * change before has left them; who is to become one is kept from being deactivated.
 *
 * @throws {ForbiddenError} if that one is deactivated already.
 */
export async function lockOwners({ db }: Tenant, becoming?: string): Promise<string[]> {
  const rows = await rowsOf<{ id: string }>(
    db,
    sql`select id from identity.lock_owners(${becoming ?? null}::text::uuid) as id`,
  )
  return rows.map(({ id }) => id)
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
