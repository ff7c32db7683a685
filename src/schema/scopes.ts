import { sql } from 'drizzle-orm'
import { membershipRole, memberships, organizationKind, organizations, users } from './identity.ts'
import { managedExecute, managedFunction } from './managed.ts'

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
export const scopeObjects = [
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
]
