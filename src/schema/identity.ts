import { sql } from 'drizzle-orm'
import {
  check,
  foreignKey,
  index,
  jsonb,
  pgSchema,
  primaryKey,
  text,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'
import { bytea, id, instant, organizationId, timestamps } from './columns.ts'
import { managedComment, managedGrant } from './managed.ts'
import {
  administered,
  isAdmin,
  isContributor,
  isOwner,
  isService,
  scopedUser,
  tenantPolicies,
} from './policies.ts'

export const identity = pgSchema('identity')

/** In rising order of what they may do. */
export const membershipRole = identity.enum('membership_role', [
  'viewer',
  'member',
  'editor',
  'admin',
  'owner',
])

export const organizationKind = identity.enum('organization_kind', ['personal', 'team'])
export const platformRole = identity.enum('platform_role', ['user', 'support', 'admin'])

/** A tenant: whom the rows of every tenant table belong to. Deleting one deletes them all. */
export const organizations = identity.table(
  'organizations',
  {
    id: id(),

    kind: organizationKind('kind').notNull().default('team'),
    slug: text('slug').notNull(),
    name: text('name').notNull(),
    /** Where its days and months begin: `UTC`, or a name such as `Europe/Berlin`. */
    timeZone: text('time_zone').notNull().default('UTC'),
    settings: jsonb('settings').$type<Record<string, unknown>>().notNull().default({}),

    /** Set: nobody enters its scope any more. */
    archivedAt: instant('archived_at'),
    ...timestamps(),
  },
  (t) => [
    primaryKey({ name: 'organizations_pkey', columns: [t.id] }),
    uniqueIndex('organizations_slug_key').on(sql`lower(${t.slug})`),
    check('organizations_slug_check', sql`${t.slug} <> ''`),
  ],
)

/** A person, in as many organizations as there are memberships. */
export const users = identity.table(
  'users',
  {
    id: id(),

    platformRole: platformRole('platform_role').notNull().default('user'),
    email: text('email').notNull(),
    displayName: text('display_name').notNull(),
    avatarUrl: text('avatar_url'),
    /** The auth system in use, such as `clerk`, and who the user is in it. */
    provider: text('provider'),
    subject: text('subject'),
    preferences: jsonb('preferences').$type<Record<string, unknown>>().notNull().default({}),

    /** Set: enters no scope. */
    deactivatedAt: instant('deactivated_at'),
    erasedAt: instant('erased_at'),
    ...timestamps(),
  },
  (t) => [
    primaryKey({ name: 'users_pkey', columns: [t.id] }),
    uniqueIndex('users_email_key').on(sql`lower(${t.email})`),
    uniqueIndex('users_provider_subject_key').on(t.provider, t.subject),
    check('users_subject_check', sql`(${t.provider} is null) = (${t.subject} is null)`),
  ],
)

/** The right to act in an organization. Everybody in it sees who else is; an owner is always left. */
export const memberships = identity.table.withRLS(
  'memberships',
  {
    organizationId: organizationId(),
    userId: uuid('user_id').notNull(),
    invitedBy: uuid('invited_by'),

    role: membershipRole('role').notNull().default('member'),

    joinedAt: instant('joined_at').notNull().defaultNow(),
    ...timestamps(),
  },
  (t) => {
    // Admins decide about everyone but the owners; who is one, an owner decides.
    const decides = sql`(${isAdmin} and (${t.role} <> 'owner' or ${isOwner}))`
    return [
      primaryKey({ name: 'memberships_pkey', columns: [t.organizationId, t.userId] }),
      foreignKey({
        name: 'memberships_organization_id_fkey',
        columns: [t.organizationId],
        foreignColumns: [organizations.id],
      }).onDelete('cascade'),
      foreignKey({
        name: 'memberships_user_id_fkey',
        columns: [t.userId],
        foreignColumns: [users.id],
      }).onDelete('cascade'),
      foreignKey({
        name: 'memberships_invited_by_fkey',
        columns: [t.invitedBy],
        foreignColumns: [users.id],
      }),
      // Deleting a user, and listOrganizations of one.
      index('memberships_user_id_idx').on(t.userId),
      index('memberships_invited_by_idx').on(t.invitedBy),
      ...tenantPolicies('memberships', t.organizationId, {
        read: true,
        insert: decides,
        update: decides,
        delete: sql`(${decides} or ${t.userId} = ${scopedUser})`,
      }),
    ]
  },
)

/** An offer of a membership, made out to an address. Good once, until it expires or is revoked. */
export const invitations = identity.table.withRLS(
  'invitations',
  {
    organizationId: organizationId(),
    id: id(),
    invitedBy: uuid('invited_by'),
    acceptedBy: uuid('accepted_by'),

    role: membershipRole('role').notNull().default('member'),
    email: text('email').notNull(),
    /** SHA-256 of the token, which is shown once and never stored. */
    tokenHash: bytea('token_hash').notNull(),

    expiresAt: instant('expires_at').notNull(),
    acceptedAt: instant('accepted_at'),
    revokedAt: instant('revoked_at'),
    ...timestamps(),
  },
  (t) => [
    primaryKey({ name: 'invitations_pkey', columns: [t.organizationId, t.id] }),
    foreignKey({
      name: 'invitations_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    foreignKey({
      name: 'invitations_invited_by_fkey',
      columns: [t.invitedBy],
      foreignColumns: [users.id],
    }),
    foreignKey({
      name: 'invitations_accepted_by_fkey',
      columns: [t.acceptedBy],
      foreignColumns: [users.id],
    }),
    uniqueIndex('invitations_token_hash_key').on(t.organizationId, t.tokenHash),
    index('invitations_invited_by_idx').on(t.invitedBy),
    index('invitations_accepted_by_idx').on(t.acceptedBy),
    check('invitations_role_check', sql`${t.role} <> 'owner'`),
    check('invitations_token_hash_check', sql`length(${t.tokenHash}) = 32`),
    ...tenantPolicies('invitations', t.organizationId, administered()),
  ],
)

/**
 * A key that a program shows in place of a person. It acts for a member, and goes with the membership, or
 * for the organization itself.
 */
export const apiKeys = identity.table.withRLS(
  'api_keys',
  {
    organizationId: organizationId(),
    id: id(),
    /** Whom it acts for; null: nobody, as a service. */
    userId: uuid('user_id'),
    createdBy: uuid('created_by'),

    name: text('name').notNull(),
    /** SHA-256 of the secret part, which is shown once and never stored. */
    secretHash: bytea('secret_hash').notNull(),
    /** What it may be used for, in the words of the product. */
    scopes: text('scopes').array().notNull().default([]),

    expiresAt: instant('expires_at'),
    revokedAt: instant('revoked_at'),
    /** To the minute. */
    lastUsedAt: instant('last_used_at'),
    ...timestamps(),
  },
  (t) => {
    const own = sql`${t.userId} = ${scopedUser}`
    const decides = sql`(${isAdmin} or (${own} and ${isContributor}))`
    return [
      // Also verifying, which reads one row.
      primaryKey({ name: 'api_keys_pkey', columns: [t.organizationId, t.id] }),
      foreignKey({
        name: 'api_keys_organization_id_fkey',
        columns: [t.organizationId],
        foreignColumns: [organizations.id],
      }).onDelete('cascade'),
      foreignKey({
        name: 'api_keys_user_id_fkey',
        columns: [t.organizationId, t.userId],
        foreignColumns: [memberships.organizationId, memberships.userId],
      }).onDelete('cascade'),
      foreignKey({
        name: 'api_keys_created_by_fkey',
        columns: [t.createdBy],
        foreignColumns: [users.id],
      }),
      index('api_keys_user_id_idx').on(t.organizationId, t.userId),
      index('api_keys_created_by_idx').on(t.createdBy),
      check('api_keys_secret_hash_check', sql`length(${t.secretHash}) = 32`),
      ...tenantPolicies('api_keys', t.organizationId, {
        read: sql`(${isAdmin} or ${own})`,
        // Nobody makes a key that acts for somebody else.
        insert: sql`((${isAdmin} and ${t.userId} is null) or (${own} and ${isContributor}) or ${isService})`,
        update: decides,
        delete: decides,
      }),
    ]
  },
)

/** What lets plinth's user act in an account elsewhere: tokens that only the holder of a key ring can open. */
export const oauthTokens = identity.table(
  'oauth_tokens',
  {
    id: id(),
    userId: uuid('user_id').notNull(),

    provider: text('provider').notNull(),
    /** Who the user is there. */
    account: text('account').notNull(),
    scopes: text('scopes').array().notNull().default([]),
    /** Envelopes of a key ring. */
    accessCiphertext: bytea('access_ciphertext').notNull(),
    refreshCiphertext: bytea('refresh_ciphertext'),
    /** The key that opens both; empty: each has its own. */
    keyId: text('key_id').notNull(),

    /** Of the access token. */
    expiresAt: instant('expires_at'),
    ...timestamps(),
  },
  (t) => [
    primaryKey({ name: 'oauth_tokens_pkey', columns: [t.id] }),
    foreignKey({
      name: 'oauth_tokens_user_id_fkey',
      columns: [t.userId],
      foreignColumns: [users.id],
    }).onDelete('cascade'),
    uniqueIndex('oauth_tokens_user_id_provider_account_key').on(t.userId, t.provider, t.account),
    // rotateTokens.
    index('oauth_tokens_key_id_idx').on(t.keyId, t.id),
  ],
)

/** In the order in which they are created. */
export const identityObjects = [
  managedGrant('identity', sql`grant usage on schema ${identity} to plinth_app, plinth_platform`),
  managedGrant(
    'identity.organizations',
    sql`grant select, insert, update, delete on ${organizations} to plinth_platform`,
  ),
  managedGrant('identity.users', sql`grant select, insert, update on ${users} to plinth_platform`),
  managedGrant(
    'identity.memberships',
    sql`grant select, insert, update, delete on ${memberships} to plinth_app`,
  ),
  managedGrant(
    'identity.invitations',
    sql`grant select, insert, update, delete on ${invitations} to plinth_app`,
  ),
  managedGrant(
    'identity.api_keys',
    sql`grant select, insert, update, delete on ${apiKeys} to plinth_app`,
  ),
  managedGrant(
    'identity.oauth_tokens',
    sql`grant select, insert, update, delete on ${oauthTokens} to plinth_platform`,
  ),
  managedComment(organizations, 'A tenant: whom the rows of every tenant table belong to.'),
  managedComment(users, 'A person, in as many organizations as there are memberships.'),
  managedComment(memberships, 'The right of a user to act in an organization, by a role.'),
  managedComment(invitations, 'An offer of a membership, made out to an address, good once.'),
  managedComment(
    apiKeys,
    'A key that a program shows in place of a person. Only its hash is kept.',
  ),
  managedComment(
    oauthTokens,
    'Access to an account elsewhere, sealed by a key ring of the service.',
  ),
]

export type Organization = typeof organizations.$inferSelect
export type OrganizationKind = Organization['kind']
export type User = typeof users.$inferSelect
export type Membership = typeof memberships.$inferSelect
export type MembershipRole = Membership['role']
export type ApiKey = Omit<typeof apiKeys.$inferSelect, 'secretHash'>
export type Invitation = Omit<typeof invitations.$inferSelect, 'tokenHash'>
