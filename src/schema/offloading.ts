import { sql } from 'drizzle-orm'
import { organizations } from './identity.ts'
import { managedExecute, managedFunction } from './managed.ts'
import { scopedOrganization } from './policies.ts'
import { embeddings, namespaces, placements } from './search.ts'

/** Of a vector as it is kept, and so the same wherever it was rounded to half precision. */
export const vectorHash = sql`sha256(public.halfvec_send(e.embedding))`

/** The organizations that have vectors for a namespace, or placements in it, by id. No archived one. */
const offloadingOrganizations = managedFunction(
  'search.offloading_organizations(uuid, uuid, integer)',
  sql`
create or replace function search.offloading_organizations(namespace uuid, after uuid, max_rows integer)
returns setof uuid language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select o.id from ${organizations} o
    where o.archived_at is null and (after is null or o.id > after)
      and (exists (select from ${placements} p where p.organization_id = o.id and p.namespace_id = namespace)
        or exists (select from ${embeddings} e join ${namespaces} n on n.space_id = e.space_id
          where e.organization_id = o.id and n.id = namespace))
    order by o.id limit max_rows;
end $$`,
)

/**
 * How far a namespace is from the vectors here. `missing` and `stale` are those that a synchronization would
 * send, and so none of an archived organization, which it leaves alone.
 */
const namespaceDrift = managedFunction(
  'search.namespace_drift(uuid)',
  sql`
create or replace function search.namespace_drift(namespace uuid)
returns table (local bigint, placed bigint, pending bigint, deleting bigint, dead bigint, missing bigint, stale bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  space uuid;
begin
  select n.space_id into space from ${namespaces} n where n.id = namespace;
  select count(p.synced_hash), count(*) filter (where p.status = 'pending'),
      count(*) filter (where p.status = 'deleting'), count(*) filter (where p.status = 'dead')
    into placed, pending, deleting, dead
    from ${placements} p where p.namespace_id = namespace;
  select count(*), count(*) filter (where o.archived_at is null and p.chunk_id is null),
      count(*) filter (where o.archived_at is null and p.status = 'synced'
        and p.synced_hash is distinct from ${vectorHash})
    into local, missing, stale
    from ${embeddings} e join ${organizations} o on o.id = e.organization_id
    left join ${placements} p on p.organization_id = e.organization_id and p.namespace_id = namespace
      and p.chunk_id = e.chunk_id
    where e.space_id = space;
  return next;
end $$`,
)

/** Some of the placements that are in order, at random; none of an archived organization. */
const samplePlacements = managedFunction(
  'search.sample_placements(uuid, integer)',
  sql`
create or replace function search.sample_placements(namespace uuid, max_rows integer)
returns table (organization_id uuid, chunk_id uuid)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select p.organization_id, p.chunk_id
    from ${placements} p join ${organizations} o on o.id = p.organization_id
    where p.namespace_id = namespace and p.status = 'synced' and o.archived_at is null
    order by random() limit max_rows;
end $$`,
)

/** Which vectors of another engine, as a JSON list of what it calls them, have no placement here. */
const unplacedVectors = managedFunction(
  'search.unplaced_vectors(uuid, json)',
  sql`
create or replace function search.unplaced_vectors(namespace uuid, keys json)
returns table (organization_id uuid, chunk_id uuid, is_known boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select k."organizationId", k.id,
      exists (select from ${organizations} o where o.id = k."organizationId" and o.archived_at is null)
    from json_to_recordset(keys) as k ("organizationId" uuid, id uuid)
    where not exists (select from ${placements} p where p.organization_id = k."organizationId"
      and p.namespace_id = namespace and p.chunk_id = k.id);
end $$`,
)

/**
 * Counts searches of a namespace, unless another transaction is about to: nobody waits for a statistic.
 * SECURITY DEFINER: a scope may not write what belongs to no organization. Whether it was counted.
 */
const countQueries = managedFunction(
  'search.count_queries(uuid, integer)',
  sql`
create or replace function search.count_queries(namespace uuid, times integer)
returns boolean language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  if ${scopedOrganization} is null or times not between 1 and 1000000 then
    return false;
  end if;
  update ${namespaces} n set queries = n.queries + times, last_used_at = now()
    where n.id = any(array(select u.id from ${namespaces} u where u.id = namespace
      for update skip locked));
  return found;
end $$`,
)

/** What offloading calls in the database; in the order in which they are created. */
export const offloadingObjects = [
  offloadingOrganizations,
  namespaceDrift,
  samplePlacements,
  unplacedVectors,
  countQueries,
  ...managedExecute('search.offloading_organizations(uuid, uuid, integer)', 'plinth_platform'),
  ...managedExecute('search.namespace_drift(uuid)', 'plinth_platform'),
  ...managedExecute('search.sample_placements(uuid, integer)', 'plinth_platform'),
  ...managedExecute('search.unplaced_vectors(uuid, json)', 'plinth_platform'),
  ...managedExecute('search.count_queries(uuid, integer)', 'plinth_app'),
]
