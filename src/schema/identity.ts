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
import { managedComment, managedExecute, managedFunction, managedGrant } from './managed.ts'
import { administered, isAdmin, isOwner, scopedUser, tenantPolicies } from './policies.ts'

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
 * The role of a member, or an error that says why there is none. It reads what nobody in a scope may
 * read: the memberships of all.
 */
const grantedRole = managedFunction(
  'identity.granted_role(uuid, uuid)',
  sql`
create or replace function identity.granted_role(organization uuid, member uuid)
returns ${membershipRole} language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  granted ${membershipRole};
  archived timestamptz;
  deactivated timestamptz;
begin
  select m.role, o.archived_at, u.deactivated_at into granted, archived, deactivated
    from ${memberships} m
    join ${organizations} o on o.id = m.organization_id
    join ${users} u on u.id = m.user_id
    where m.organization_id = organization and m.user_id = member;
  if granted is null then
    raise exception 'user % is not a member of organization %', member, organization
      using errcode = 'insufficient_privilege', detail = 'not_a_member';
  elsif archived is not null then
    raise exception 'organization % is archived', organization
      using errcode = 'insufficient_privilege', detail = 'organization_archived';
  elsif deactivated is not null then
    raise exception 'user % is deactivated', member
      using errcode = 'insufficient_privilege', detail = 'user_deactivated';
  end if;
  return granted;
end $$`,
)

/** That an organization can be worked on without a user; an error if it cannot. */
const grantedService = managedFunction(
  'identity.granted_service(uuid)',
  sql`
create or replace function identity.granted_service(organization uuid)
returns text language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  archived timestamptz;
begin
  select o.archived_at into archived from ${organizations} o where o.id = organization;
  if not found then
    raise exception 'organization % not found', organization
      using errcode = 'insufficient_privilege', detail = 'organization_not_found';
  elsif archived is not null then
    raise exception 'organization % is archived', organization
      using errcode = 'insufficient_privilege', detail = 'organization_archived';
  end if;
  return 'service';
end $$`,
)

// SET LOCAL in dynamic SQL and not set_config(), which never reaches the shards of a Citus cluster.
// Not SECURITY DEFINER, in which no role can be set; hence the functions above.
const setScope = sql`
  execute format('set local plinth.organization_id = %L', organization);
  execute format('set local plinth.user_id = %L', member);
  execute format('set local plinth.role = %L', granted);
  set local role plinth_app;
  return granted;`

/** Puts the transaction in the scope of a member, as plinth_app, and returns the member's role. */
const enterScope = managedFunction(
  'identity.enter_scope(uuid, uuid)',
  sql`
create or replace function identity.enter_scope(organization uuid, member uuid)
returns text language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  granted text := identity.granted_role(organization, member);
begin${setScope}
end $$`,
)

/** Puts the transaction in the scope of an organization, as plinth_app, in nobody's name. */
const enterServiceScope = managedFunction(
  'identity.enter_service_scope(uuid)',
  sql`
create or replace function identity.enter_service_scope(organization uuid)
returns text language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  member text := '';
  granted text := identity.granted_service(organization);
begin${setScope}
end $$`,
)

/** The user whom an auth system knows by a subject, or null. */
const userBySubject = managedFunction(
  'identity.user_by_subject(text, text)',
  sql`
create or replace function identity.user_by_subject(auth_provider text, auth_subject text)
returns uuid language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return (select id from ${users} where provider = auth_provider and subject = auth_subject);
end $$`,
)

/**
 * Enters the scope that a JSON Web Token names, for PostgREST's and Supabase's `db-pre-request`.
 *
 * They verify the token and put its claims into \`request.jwt.claims\`: \`sub\` is the user's subject at
 * \`auth_provider\`, \`organization_id\` (also within \`app_metadata\`) the organization. The role that
 * PostgREST switches to needs EXECUTE on this function and what plinth_platform has.
 */
const enterScopeFromJwt = managedFunction(
  'identity.enter_scope_from_jwt(text)',
  sql`
create or replace function identity.enter_scope_from_jwt(auth_provider text default 'supabase')
returns text language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  claims jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  member uuid := identity.user_by_subject(auth_provider, claims ->> 'sub');
  organization text :=
    coalesce(claims ->> 'organization_id', claims #>> '{app_metadata,organization_id}');
begin
  if member is null or organization is null then
    raise exception 'the token names no user of % or no organization', auth_provider
      using errcode = 'insufficient_privilege', detail = 'not_a_member';
  end if;
  return identity.enter_scope(organization::uuid, member);
end $$`,
)

/** Who is in the organization in scope, by account. It reads users, who belong to no tenant. */
const memberProfiles = managedFunction(
  'identity.member_profiles(uuid, integer)',
  sql`
create or replace function identity.member_profiles(after_user uuid, max_rows integer)
returns table (user_id uuid, role ${membershipRole}, joined_at timestamptz, email text,
  display_name text, avatar_url text, deactivated_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select m.user_id, m.role, m.joined_at, u.email, u.display_name, u.avatar_url, u.deactivated_at
    from ${memberships} m join ${users} u on u.id = m.user_id
    where m.organization_id = nullif(current_setting('plinth.organization_id', true), '')::uuid
      and nullif(current_setting('plinth.role', true), '') is not null
      and (after_user is null or m.user_id > after_user)
    order by m.user_id limit max_rows;
end $$`,
)

/** The organizations that a user is in, those in use only, by id. It reads the memberships of all. */
const memberOrganizations = managedFunction(
  'identity.member_organizations(uuid, uuid, integer)',
  sql`
create or replace function identity.member_organizations(
  member uuid, after_organization uuid, max_rows integer)
returns table (organization_id uuid, role ${membershipRole}, kind ${organizationKind}, slug text,
  name text, joined_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select o.id, m.role, o.kind, o.slug, o.name, m.joined_at
    from ${memberships} m join ${organizations} o on o.id = m.organization_id
    where m.user_id = member and o.archived_at is null
      and (after_organization is null or o.id > after_organization)
    order by o.id limit max_rows;
end $$`,
)

/** A version 7 UUID for writers in SQL, such as imports and backfills. TypeScript makes its own. */
const uuidV7Function = managedFunction(
  'identity.uuid_v7()',
  sql`
create or replace function identity.uuid_v7()
returns uuid language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  microseconds bigint := floor(extract(epoch from clock_timestamp()) * 1000000);
  -- 48 bits of milliseconds, the version, 12 bits of their fraction, 62 random ones.
  stamp text := lpad(to_hex(microseconds / 1000), 12, '0')
    || '7' || lpad(to_hex((microseconds % 1000) * 4096 / 1000), 3, '0');
begin
  return (stamp || substr(replace(gen_random_uuid()::text, '-', ''), 17))::uuid;
end $$`,
)

// Not for plinth_app: what runs inside one scope cannot call its way into another.
const platformFunctions = [
  'identity.granted_role(uuid, uuid)',
  'identity.granted_service(uuid)',
  'identity.enter_scope(uuid, uuid)',
  'identity.enter_service_scope(uuid)',
  'identity.user_by_subject(text, text)',
  'identity.enter_scope_from_jwt(text)',
  'identity.member_organizations(uuid, uuid, integer)',
]

/** In the order in which they are created. */
export const identityObjects = [
  grantedRole,
  grantedService,
  enterScope,
  enterServiceScope,
  userBySubject,
  enterScopeFromJwt,
  memberProfiles,
  memberOrganizations,
  uuidV7Function,
  ...platformFunctions.flatMap((signature) => managedExecute(signature, 'plinth_platform')),
  ...managedExecute('identity.member_profiles(uuid, integer)', 'plinth_app'),
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
  managedComment(organizations, 'A tenant: whom the rows of every tenant table belong to.'),
  managedComment(users, 'A person, in as many organizations as there are memberships.'),
  managedComment(memberships, 'The right of a user to act in an organization, by a role.'),
  managedComment(invitations, 'An offer of a membership, made out to an address, good once.'),
]

export type Organization = typeof organizations.$inferSelect
export type OrganizationKind = Organization['kind']
export type User = typeof users.$inferSelect
export type Membership = typeof memberships.$inferSelect
export type MembershipRole = Membership['role']
export type Invitation = Omit<typeof invitations.$inferSelect, 'tokenHash'>
