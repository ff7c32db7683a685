import { sql } from 'drizzle-orm'
import { organizations } from './identity.ts'
import { managedExecute, managedFunction } from './managed.ts'
import { chunks, embeddingJobs, embeddings, namespaces, spaces } from './search.ts'

// What is done to a whole space goes across organizations: each of these is SECURITY DEFINER, for
// plinth_platform only, and tells counts and ids but no content.

/** Of two who change which space is active, or make the first, one waits. As `createSpace`. */
const takeTurn = sql`perform pg_advisory_xact_lock(hashtextextended('plinth.spaces', 0))`

/** Raises what becomes a NotFoundError. */
export const notFound = sql`raise exception 'space % not found', space
      using errcode = 'no_data_found', detail = 'space', hint = space::text`

/** That a vector is of what its chunk says now. One whose content is not known is taken for it. */
const isCurrent = sql`(e.chunk_id is not null and (e.content_hash is null or e.content_hash = c.content_hash))`

// The ends of all organizations. Bounds and not `or`: a cached plan would look at every row for that.
const FIRST = sql.raw(`'00000000-0000-0000-0000-000000000000'::uuid`)
const LAST = sql.raw(`'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid`)

/** Joins `embeddings e` to `chunks c`, in a function with the parameter `space`. */
export const vectorOfChunk = sql`e.organization_id = c.organization_id and e.space_id = space and e.chunk_id = c.id`

/**
 * Makes the partition of a space: its vectors' fixed dimension, and their HNSW index unless that is to
 * come later.
 *
 * SECURITY DEFINER, because only the owner of `embeddings` may add to it. Repeating it changes nothing.
 */
const createPartition = managedFunction(
  'search.create_partition(uuid, boolean)',
  sql`
create or replace function search.create_partition(space uuid, with_index boolean default true)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp
set lock_timeout = '5s' as $$
declare
  child text := 'embeddings_' || replace(space::text, '-', '');
  dims integer;
  ops text;
begin
  select s.dimensions, case s.distance
      when 'cosine' then 'halfvec_cosine_ops'
      when 'l2' then 'halfvec_l2_ops'
      else 'halfvec_ip_ops' end
    into strict dims, ops from ${spaces} s where s.id = space;
  if to_regclass(format('partitions.%I', child)) is not null then
    return;
  end if;
  execute format('create table partitions.%I (like ${embeddings} including all excluding indexes)', child);
  -- The parent takes any dimension; a typed column could not be attached to it.
  execute format('alter table partitions.%I add constraint %I check (public.vector_dims(embedding) = %s)',
    child, child || '_dims', dims);
  -- Attached and not made as a part, so that those who search in other spaces go on meanwhile.
  execute format('alter table ${embeddings} attach partition partitions.%I for values in (%L)',
    child, space);
  if with_index then
    execute format('create index %I on partitions.%I using hnsw ((embedding::public.halfvec(%s)) public.%I)',
      child || '_hnsw', child, dims, ops);
  end if;
end $$`,
)

/**
 * The organizations with jobs that may be claimed now, in the order of their ids. Archived ones are left
 * out: no scope can be entered in them.
 *
 * One index probe an organization, however many jobs it has.
 */
const dueOrganizations = managedFunction(
  'search.due_organizations(uuid, uuid[], uuid, integer)',
  sql`
create or replace function search.due_organizations(space uuid, among uuid[], after uuid, max_rows integer)
returns setof uuid language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := coalesce(after, ${FIRST});
  given integer := 0;
begin
  while given < max_rows loop
    if among is null then
      select j.organization_id into organization from ${embeddingJobs} j
        where j.space_id = space and j.status = 'pending' and j.organization_id > organization
        order by j.organization_id limit 1;
    else
      select id into organization from unnest(among) id where id > organization order by id limit 1;
    end if;
    exit when not found;
    perform 1 from ${embeddingJobs} j
      join ${organizations} o on o.id = j.organization_id and o.archived_at is null
      where j.space_id = space and j.status = 'pending' and j.organization_id = organization
        and j.due_at <= now()::timestamptz(3) and (j.leased_until is null or j.leased_until <= now())
      limit 1;
    if found then
      return next organization;
      given := given + 1;
    end if;
  end loop;
end $$`,
)

/**
 * Adds a job for each chunk without a current vector, among up to `max_rows` chunks behind a cursor. Says
 * how many it has looked at, how many jobs it has added, and where it is.
 *
 * A chunk that is being deleted is passed over.
 */
const enqueueMissing = managedFunction(
  'search.enqueue_missing(uuid, uuid, uuid, uuid, integer)',
  sql`
create or replace function search.enqueue_missing(
  space uuid, organization uuid, after_organization uuid, after_chunk uuid, max_rows integer)
returns table (scanned integer, enqueued integer, last_organization uuid, last_chunk uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  its_purpose text;
begin
  select s.purpose into its_purpose from ${spaces} s where s.id = space;
  if not found then
    ${notFound};
  end if;
  return query
    with batch as materialized (
      select c.organization_id, c.id, c.content_hash, c.purpose from ${chunks} c
      where (c.organization_id, c.id) > (
          coalesce(after_organization, organization, ${FIRST}), coalesce(after_chunk, ${FIRST}))
        and c.organization_id <= coalesce(organization, ${LAST})
      order by c.organization_id, c.id limit max_rows
      for key share skip locked
    ), made as (
      insert into ${embeddingJobs} (organization_id, space_id, chunk_id)
      select c.organization_id, space, c.id
      from batch c left join ${embeddings} e on ${vectorOfChunk}
      where c.purpose = its_purpose and not ${isCurrent}
      on conflict do nothing
      returning 1
    ), latest as (
      select b.organization_id, b.id from batch b order by b.organization_id desc, b.id desc limit 1
    )
    select (select count(*)::integer from batch), (select count(*)::integer from made),
      (select l.organization_id from latest l), (select l.id from latest l);
end $$`,
)

/**
 * How much of what belongs into a space is in it, of one organization or, given null, of all that are
 * not archived.
 */
const spaceCoverage = managedFunction(
  'search.space_coverage(uuid, uuid)',
  sql`
create or replace function search.space_coverage(space uuid, organization uuid)
returns table (total bigint, embedded bigint, missing bigint, pending bigint, dead bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  its_purpose text;
begin
  select s.purpose into its_purpose from ${spaces} s where s.id = space;
  if not found then
    ${notFound};
  end if;
  return query
    with covered as (
      select count(*) as total, count(*) filter (where ${isCurrent}) as embedded
      from ${chunks} c
      join ${organizations} o on o.id = c.organization_id and o.archived_at is null
      left join ${embeddings} e on ${vectorOfChunk}
      where c.purpose = its_purpose
        and c.organization_id between coalesce(organization, ${FIRST}) and coalesce(organization, ${LAST})
    ), queued as (
      select count(*) filter (where j.status = 'pending') as pending,
        count(*) filter (where j.status = 'dead') as dead
      from ${embeddingJobs} j
      join ${organizations} o on o.id = j.organization_id and o.archived_at is null
      where j.space_id = space
        and j.organization_id between coalesce(organization, ${FIRST}) and coalesce(organization, ${LAST})
    )
    select v.total, v.embedded, v.total - v.embedded, q.pending, q.dead from covered v, queued q;
end $$`,
)

/**
 * Makes a space the active one of its purpose, and the one before it retired. Refuses while a chunk has no
 * current vector in it, unless forced.
 */
const activateSpace = managedFunction(
  'search.activate_space(uuid, boolean)',
  sql`
create or replace function search.activate_space(space uuid, force boolean)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  moment timestamptz := clock_timestamp();
  its_purpose text;
  its_status text;
  lacking bigint;
begin
  ${takeTurn};
  select s.purpose, s.status into its_purpose, its_status from ${spaces} s where s.id = space;
  if not found then
    ${notFound};
  end if;
  if its_status = 'active' then
    return;
  end if;
  if not force then
    select v.missing into lacking from search.space_coverage(space, null) v;
    if lacking > 0 then
      raise exception '% chunks have no vector in the space; fill it first, or force it', lacking
        using errcode = 'object_not_in_prerequisite_state', detail = 'plinth.space.not_covered';
    end if;
  end if;
  -- Before the other one: the key of the active space is looked at row by row.
  update ${spaces} s set status = 'retired', updated_at = now()
    where s.purpose = its_purpose and s.status = 'active' and s.id <> space;
  update ${spaces} s set status = 'active', activated_at = moment, updated_at = now()
    where s.id = space;
end $$`,
)

/**
 * Makes the space that was active before the active one again. The one it was rolled back from is retired,
 * and no place on the way back: a second call leads further back.
 */
const rollBackSpace = managedFunction(
  'search.roll_back_space(text)',
  sql`
create or replace function search.roll_back_space(its_purpose text)
returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  moment timestamptz := clock_timestamp();
  previous uuid;
begin
  ${takeTurn};
  select s.id into previous from ${spaces} s
    where s.purpose = its_purpose and s.status = 'retired' and s.activated_at is not null
    order by s.activated_at desc, s.id desc limit 1;
  if not found then
    raise exception 'no space was active before'
      using errcode = 'object_not_in_prerequisite_state', detail = 'plinth.space.no_predecessor';
  end if;
  update ${spaces} s set status = 'retired', activated_at = null, updated_at = now()
    where s.purpose = its_purpose and s.status = 'active';
  update ${spaces} s set status = 'active', activated_at = moment, updated_at = now()
    where s.id = previous;
  return previous;
end $$`,
)

/** Ends what a space is filled by: it keeps its vectors, and gets no more. */
const retireSpace = managedFunction(
  'search.retire_space(uuid)',
  sql`
create or replace function search.retire_space(space uuid)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  ${takeTurn};
  update ${spaces} s set status = 'retired', updated_at = now()
    where s.id = space and s.status <> 'retired';
  if not found and not exists (select from ${spaces} s where s.id = space) then
    ${notFound};
  end if;
  delete from ${embeddingJobs} j where j.space_id = space;
end $$`,
)

/**
 * Removes a space with its vectors and its jobs. Refuses the active one, and one that another engine
 * holds vectors of.
 *
 * A table that is dropped is locked with all that refer to one another: for as long as nobody notices, and
 * the caller tries again.
 */
const dropSpace = managedFunction(
  'search.drop_space(uuid)',
  sql`
create or replace function search.drop_space(space uuid)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms' as $$
declare
  its_status text;
begin
  ${takeTurn};
  select s.status into its_status from ${spaces} s where s.id = space;
  if not found then
    ${notFound};
  elsif its_status = 'active' then
    raise exception 'space % is the active one; activate another one, or retire it, first', space
      using errcode = 'object_not_in_prerequisite_state', detail = 'plinth.space.active';
  elsif exists (select from ${namespaces} n where n.space_id = space) then
    raise exception 'space % has vectors in another engine; remove its namespaces first', space
      using errcode = 'object_not_in_prerequisite_state', detail = 'plinth.space.in_use';
  end if;
  execute format('drop table if exists partitions.%I', 'embeddings_' || replace(space::text, '-', ''));
  delete from ${embeddingJobs} j where j.space_id = space;
  delete from ${spaces} s where s.id = space;
end $$`,
)

const signatures = [
  'search.create_partition(uuid, boolean)',
  'search.due_organizations(uuid, uuid[], uuid, integer)',
  'search.enqueue_missing(uuid, uuid, uuid, uuid, integer)',
  'search.space_coverage(uuid, uuid)',
  'search.activate_space(uuid, boolean)',
  'search.roll_back_space(text)',
  'search.retire_space(uuid)',
  'search.drop_space(uuid)',
]

/** What is done to a whole space; in the order in which they are created. */
export const spaceObjects = [
  createPartition,
  dueOrganizations,
  enqueueMissing,
  spaceCoverage,
  activateSpace,
  rollBackSpace,
  retireSpace,
  dropSpace,
  ...signatures.flatMap((signature) => managedExecute(signature, 'plinth_platform')),
]
