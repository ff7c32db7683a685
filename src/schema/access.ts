import { sql } from 'drizzle-orm'
import { apiKeys, memberships, organizations, users } from './identity.ts'
import { managedExecute, managedFunction } from './managed.ts'
import { scopedOrganization } from './policies.ts'

/**
 * Reads a key by its organization and id, and how it stands by the clock. Of a key that is good, and whose
 * secret has the hash that is given, it writes the time of use, at most once a minute.
 *
 * Whoever else is writing that time is not waited for, and a reader that may not write does not try.
 */
const readApiKey = managedFunction(
  'identity.read_api_key(uuid, uuid, bytea)',
  sql`
create or replace function identity.read_api_key(organization uuid, key_id uuid, hash bytea)
returns table (user_id uuid, name text, scopes json, secret_hash bytea, state text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  seen timestamptz := clock_timestamp();
  used timestamptz;
begin
  select k.user_id, k.name, array_to_json(k.scopes), k.secret_hash, k.last_used_at,
      case when k.revoked_at is not null or o.archived_at is not null or u.deactivated_at is not null then 'revoked'
        when k.expires_at <= seen then 'expired' else 'good' end
    into user_id, name, scopes, secret_hash, used, state
    from ${apiKeys} k
    join ${organizations} o on o.id = k.organization_id
    left join ${users} u on u.id = k.user_id
    where k.organization_id = organization and k.id = key_id;
  if not found then
    return;
  end if;
  -- Of hashes of the hashes: how long it takes tells nothing of either.
  if state = 'good' and sha256(secret_hash) = sha256(hash)
      and (used is null or used <= seen - interval '1 minute')
      and current_setting('transaction_read_only') = 'off' then
    begin
      update ${apiKeys} k set last_used_at = seen
        where k.organization_id = organization and k.id = any(array(
          select i.id from ${apiKeys} i where i.organization_id = organization and i.id = key_id
            and (i.last_used_at is null or i.last_used_at <= seen - interval '1 minute')
          for no key update skip locked));
    exception when serialization_failure then
      -- Written by another one since the transaction began: it is as good.
      null;
    end;
  end if;
  return next;
end $$`,
)

/** What makes changes of an organization's members take turns, here and in src/queries/members.ts. */
const membersKey = sql`hashtextextended('plinth.memberships ' || organization::text, 0)`

/**
 * Makes changes of members take turns until the transaction ends, and returns the owners who can enter, as
 * the change before has left them. Who is to become one is kept from being deactivated meanwhile.
 *
 * The owners' rows are locked too, so that a transaction with a snapshot of its own fails, and does not go
 * by what was. Always a user's row before the organization's turn, as archive_user has it.
 */
const lockOwners = managedFunction(
  'identity.lock_owners(uuid)',
  sql`
create or replace function identity.lock_owners(becoming uuid)
returns setof uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  deactivated timestamptz;
begin
  if organization is null or nullif(current_setting('plinth.role', true), '') is null then
    return;
  end if;
  if becoming is not null and current_setting('plinth.role', true) in ('owner', 'service') then
    select u.deactivated_at into deactivated from ${users} u where u.id = becoming for share;
    if deactivated is not null then
      raise exception 'user % is deactivated', becoming
        using errcode = 'insufficient_privilege', detail = 'user_deactivated';
    end if;
  end if;
  perform pg_advisory_xact_lock(${membersKey});
  perform 1 from ${memberships} m where m.organization_id = organization and m.role = 'owner'
    order by m.user_id for update;
  return query
    select m.user_id from ${memberships} m join ${users} u on u.id = m.user_id
    where m.organization_id = organization and m.role = 'owner' and u.deactivated_at is null
    order by m.user_id;
end $$`,
)

/**
 * Deactivates a user, unless members of a team would be left without an owner who can enter. A personal
 * organization has nobody to be left.
 */
const archiveUser = managedFunction(
  'identity.archive_user(uuid)',
  sql`
create or replace function identity.archive_user(member uuid)
returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid;
  deactivated timestamptz;
  seen timestamptz;
begin
  select u.deactivated_at into deactivated from ${users} u where u.id = member for no key update;
  if not found or deactivated is not null then
    return found;
  end if;
  for organization in
    select m.organization_id from ${memberships} m
      join ${organizations} o on o.id = m.organization_id and o.archived_at is null and o.kind = 'team'
      where m.user_id = member and m.role = 'owner' order by m.organization_id
  loop
    perform pg_advisory_xact_lock(${membersKey});
    perform 1 from ${memberships} m where m.organization_id = organization and m.role = 'owner'
      order by m.user_id for update;
    if exists (select from ${memberships} m join ${users} u on u.id = m.user_id
          where m.organization_id = organization and m.user_id <> member and u.deactivated_at is null)
        and not exists (select from ${memberships} m join ${users} u on u.id = m.user_id
          where m.organization_id = organization and m.user_id <> member and u.deactivated_at is null
            and m.role = 'owner') then
      -- Who has stopped being an owner while the turn was waited for is none.
      perform 1 from ${memberships} m
        where m.organization_id = organization and m.user_id = member and m.role = 'owner';
      if found then
        raise exception 'organization % would have no owner', organization
          using errcode = 'object_not_in_prerequisite_state', detail = 'plinth.last_owner',
            hint = organization::text;
      end if;
    end if;
  end loop;
  seen := clock_timestamp();
  -- Written, so that a transaction which saw them earlier, and locks them, fails.
  update ${memberships} m set updated_at = seen where m.user_id = member and m.role = 'owner';
  update ${users} u set deactivated_at = seen, updated_at = seen
    where u.id = member;
  return true;
end $$`,
)

/** In the order in which they are created. */
export const accessObjects = [
  readApiKey,
  lockOwners,
  archiveUser,
  ...managedExecute('identity.read_api_key(uuid, uuid, bytea)', 'plinth_platform'),
  ...managedExecute('identity.archive_user(uuid)', 'plinth_platform'),
  ...managedExecute('identity.lock_owners(uuid)', 'plinth_app'),
]
