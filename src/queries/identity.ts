import { eq, sql } from 'drizzle-orm'
import { type Database, mapErrors, only, rowsOf, run } from '../database.ts'
import { NotFoundError } from '../errors.ts'
import {
  type MembershipRole,
  memberships,
  type Organization,
  type OrganizationKind,
  organizationKind,
  organizations,
  type User,
  users,
} from '../schema/identity.ts'
import { asService } from '../tenant.ts'
import {
  checkEmail,
  checkJson,
  checkLimit,
  checkOneOf,
  checkText,
  checkTimeZone,
  checkUuid,
} from '../validation.ts'

const MAX_PAGE = 500

export interface UpsertUserOptions {
  /** The auth system in use, such as `clerk`. */
  provider: string
  /** Who the user is in it. */
  subject: string
  email: string
  displayName?: string
  avatarUrl?: string | null
}

/**
 * Creates the user whom an auth system has signed in, or updates the one it knows by that subject.
 *
 * Absent fields keep what they are; a new user without a name is called by the address. Being signed in
 * does not reactivate a deactivated user.
 *
 * @throws {ConstraintError} `users_email_key` for an address that belongs to another user.
 * @throws {ValidationError}
 */
export async function upsertUser(
  db: Database,
  { provider, subject, email, displayName, avatarUrl }: UpsertUserOptions,
): Promise<User> {
  checkText('provider', provider, { max: 100 })
  checkText('subject', subject, { max: 255 })
  checkEmail('email', email)
  if (displayName !== undefined) checkText('displayName', displayName, { max: 200 })
  if (avatarUrl != null) checkText('avatarUrl', avatarUrl, { max: 2_000 })

  return only(
    await run(
      db
        .insert(users)
        .values({ provider, subject, email, displayName: displayName ?? email, avatarUrl })
        .onConflictDoUpdate({
          target: [users.provider, users.subject],
          set: {
            email: sql`excluded.email`,
            ...(displayName !== undefined && { displayName: sql`excluded.display_name` }),
            ...(avatarUrl !== undefined && { avatarUrl: sql`excluded.avatar_url` }),
            // excluded and not now(): Citus takes no function here.
            updatedAt: sql`excluded.updated_at`,
          },
        })
        .returning(),
    ),
  )
}

/**
 * Returns a user.
 *
 * @throws {NotFoundError} for an unknown id. @throws {ValidationError}
 */
export async function getUser(db: Database, id: string): Promise<User> {
  checkUuid('id', id)
  return found(db.select().from(users).where(eq(users.id, id)), 'user', id)
}

/** Finds the user with an email address, in whatever case. @throws {ValidationError} */
export async function findUserByEmail(db: Database, email: string): Promise<User | undefined> {
  checkEmail('email', email)
  const [user] = await run(
    db
      .select()
      .from(users)
      .where(eq(sql`lower(${users.email})`, sql`lower(${email})`)),
  )
  return user
}

/**
 * Keeps a user from entering any scope, from the next transaction on. Memberships stay. Idempotent.
 *
 * @throws {LastOwnerError} if the others of a team would be left without an owner who can enter: transfer
 * the ownership, or archive the organization, as a service. A personal organization is no hindrance, nor
 * one that is archived, nor a team of which no other member can enter.
 * @throws {NotFoundError} for an unknown id. @throws {ValidationError}
 */
export async function archiveUser(db: Database, id: string): Promise<void> {
  checkUuid('id', id)
  const { archived } = only(
    await rowsOf<{ archived: boolean }>(
      db,
      sql`select identity.archive_user(${id}::text::uuid) as archived`,
    ),
  )
  if (!archived) throw new NotFoundError('user', id)
}

/** Lets a deactivated user enter scopes again. Idempotent. @throws as `archiveUser`. */
export async function restoreUser(db: Database, id: string): Promise<void> {
  checkUuid('id', id)
  await found(
    db.update(users).set({ deactivatedAt: null }).where(eq(users.id, id)).returning(),
    'user',
    id,
  )
}

/** The row that a statement by id has found. */
async function found<Row>(
  query: { execute(): Promise<Row[]> },
  entity: string,
  id: string,
): Promise<Row> {
  const [row] = await run(query)
  if (!row) throw new NotFoundError(entity, id)
  return row
}

export interface CreateOrganizationOptions {
  /** Unique without regard to case; stands in addresses. */
  slug: string
  name: string
  ownerId: string
  kind?: OrganizationKind
  settings?: Record<string, unknown>
  /** Where its days and months begin: `UTC` unless said, or a name such as `Europe/Berlin`. */
  timeZone?: string
}

/**
 * Creates an organization together with the membership of its owner.
 *
 * @throws {ConstraintError} `organizations_slug_key` for a slug that is taken; a foreign key's for an
 * unknown owner. @throws {ValidationError}
 */
export async function createOrganization(
  db: Database,
  {
    slug,
    name,
    ownerId,
    kind = 'team',
    settings = {},
    timeZone = 'UTC',
  }: CreateOrganizationOptions,
): Promise<Organization> {
  checkText('slug', slug, { max: 100 })
  checkText('name', name, { max: 200 })
  checkUuid('ownerId', ownerId)
  checkOneOf('kind', kind, organizationKind.enumValues)
  checkJson('settings', settings)
  checkTimeZone('timeZone', timeZone)

  return mapErrors(() =>
    db.transaction(async (tx) => {
      const organization = only(
        await run(
          tx.insert(organizations).values({ slug, name, kind, settings, timeZone }).returning(),
        ),
      )
      await asService(tx, organization.id, ({ db, organizationId }) =>
        run(db.insert(memberships).values({ organizationId, userId: ownerId, role: 'owner' })),
      )
      return organization
    }),
  )
}

/**
 * Returns an organization, an archived one too.
 *
 * @throws {NotFoundError} for an unknown id. @throws {ValidationError}
 */
export async function getOrganization(db: Database, id: string): Promise<Organization> {
  checkUuid('id', id)
  return found(db.select().from(organizations).where(eq(organizations.id, id)), 'organization', id)
}

/** Finds the organization with a slug, in whatever case. @throws {ValidationError} */
export async function findOrganizationBySlug(
  db: Database,
  slug: string,
): Promise<Organization | undefined> {
  checkText('slug', slug, { max: 100 })
  const [organization] = await run(
    db
      .select()
      .from(organizations)
      .where(eq(sql`lower(${organizations.slug})`, sql`lower(${slug})`)),
  )
  return organization
}

export interface UpdateOrganizationOptions {
  id: string
  name?: string
  /** In place of all that were. */
  settings?: Record<string, unknown>
  /** `UTC`, or a name such as `Europe/Berlin`. */
  timeZone?: string
}

/**
 * Changes what is given of an organization, an archived one too.
 *
 * @throws {NotFoundError} for an unknown id. @throws {ValidationError}
 */
export async function updateOrganization(
  db: Database,
  { id, name, settings, timeZone }: UpdateOrganizationOptions,
): Promise<Organization> {
  checkUuid('id', id)
  if (name !== undefined) checkText('name', name, { max: 200 })
  if (settings !== undefined) checkJson('settings', settings)
  if (timeZone !== undefined) checkTimeZone('timeZone', timeZone)
  return found(
    db
      .update(organizations)
      // Said here, so that there is something to set when nothing is given.
      .set({ name, settings, timeZone, updatedAt: sql`now()` })
      .where(eq(organizations.id, id))
      .returning(),
    'organization',
    id,
  )
}

/**
 * Closes an organization: nobody enters its scope until it is restored. Its rows stay. Idempotent.
 *
 * @throws {NotFoundError} for an unknown id. @throws {ValidationError}
 */
export async function archiveOrganization(db: Database, id: string): Promise<void> {
  checkUuid('id', id)
  const archivedAt = sql`coalesce(${organizations.archivedAt}, now())`
  await found(
    db.update(organizations).set({ archivedAt }).where(eq(organizations.id, id)).returning(),
    'organization',
    id,
  )
}

/** Opens an archived organization again. Idempotent. @throws as `archiveOrganization`. */
export async function restoreOrganization(db: Database, id: string): Promise<void> {
  checkUuid('id', id)
  await found(
    db.update(organizations).set({ archivedAt: null }).where(eq(organizations.id, id)).returning(),
    'organization',
    id,
  )
}

export interface UserOrganization {
  organizationId: string
  role: MembershipRole
  kind: OrganizationKind
  slug: string
  name: string
  joinedAt: Date
}

export interface ListOrganizationsOptions {
  userId: string
  /** The organizationId of the last one of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists the organizations that a user is in, oldest first, without the archived. @throws {ValidationError} */
export async function listOrganizations(
  db: Database,
  { userId, after, limit = 50 }: ListOrganizationsOptions,
): Promise<UserOrganization[]> {
  checkUuid('userId', userId)
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, MAX_PAGE)
  const rows = await rowsOf<UserOrganization>(
    db,
    sql`
      select organization_id as "organizationId", role, kind, slug, name, joined_at as "joinedAt"
      from identity.member_organizations(${userId}, ${after ?? null}, ${limit})`,
  )
  return rows.map((row) => ({ ...row, joinedAt: new Date(row.joinedAt) }))
}
