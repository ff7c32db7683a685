import type { Database } from '../database.ts'
import { type CreateApiKeyOptions, createApiKey } from '../queries/api-keys.ts'
import { createOrganization, upsertUser } from '../queries/identity.ts'
import { type InviteMemberOptions, inviteMember } from '../queries/invitations.ts'
import { addMember } from '../queries/members.ts'
import { type SealTokenOptions, sealToken } from '../queries/oauth-tokens.ts'
import { uuidV7 } from '../schema/columns.ts'
import type { MembershipRole } from '../schema/identity.ts'
import { inTenant, type Scope, type Tenant } from '../tenant.ts'

/** A short text that no other call returns. */
export const unique = () => uuidV7().replaceAll('-', '').slice(8)

export function makeUser(db: Database, user: { email?: string; displayName?: string } = {}) {
  const name = unique()
  return upsertUser(db, {
    provider: 'test',
    subject: name,
    email: `${name}@example.com`,
    displayName: name,
    ...user,
  })
}

/** A new organization and its owner. */
export async function makeOrganization(
  db: Database,
  organization: { slug?: string; name?: string } = {},
) {
  const { id: ownerId } = await makeUser(db)
  const slug = unique()
  return {
    ...(await createOrganization(db, { slug, name: slug, ownerId, ...organization })),
    ownerId,
  }
}

/** A new organization, as the scope of its owner. */
export async function makeScope(db: Database): Promise<Scope> {
  const { id, ownerId } = await makeOrganization(db)
  return { organizationId: id, userId: ownerId }
}

/** The organization of `scope`, as the scope of one more member. */
export async function joinScope(
  db: Database,
  scope: Scope,
  role: MembershipRole = 'member',
): Promise<Scope> {
  const { id: userId } = await makeUser(db)
  await inTenant(db, scope, (tenant) => addMember(tenant, { userId, role }))
  return { ...scope, userId }
}

export const makeInvitation = (tenant: Tenant, invitation: Partial<InviteMemberOptions> = {}) =>
  inviteMember(tenant, { email: `${unique()}@example.com`, ...invitation })

/** A key of whoever is in scope, without scopes. Its text is returned with it. */
export const makeApiKey = (tenant: Tenant, key: Partial<CreateApiKeyOptions> = {}) =>
  createApiKey(tenant, { name: 'test', ...key })

/** The access of a new user to an account elsewhere, sealed by a ring. */
export const makeOauthToken = async (
  db: Database,
  ring: Parameters<typeof sealToken>[1],
  token: Partial<SealTokenOptions> = {},
) => {
  const userId = token.userId ?? (await makeUser(db)).id
  return sealToken(db, ring, {
    ...{ provider: 'test', account: unique(), accessToken: unique(), refreshToken: unique() },
    ...{ ...token, userId },
  })
}

/**
 * A vector of length 1, always the same for a seed. Those of two seeds are nearly at right angles in
 * many dimensions.
 */
export function unitVector(seed: number, dimensions: number): number[] {
  // A linear congruential generator (Numerical Recipes): any cheap and repeatable spread will do.
  let state = (seed * 2_654_435_761 + 1) >>> 0
  const next = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 31 - 1
  }
  for (let warmUp = 0; warmUp < 8; warmUp += 1) next()
  const vector = Array.from({ length: dimensions }, next)
  const length = Math.hypot(...vector)
  return vector.map((value) => value / length)
}
