import { sql } from 'drizzle-orm'
import { managedExecute, managedFunction } from './managed.ts'
import { chunks, embeddingJobs, embeddings, spaces } from './search.ts'
import { notFound, vectorOfChunk } from './spaces.ts'

const isMisfiled = sql`(e.owner_id, e.visibility, e.source_type) is distinct from (c.owner_id, c.visibility, c.source_type)`

/**
 * What is wrong with the vectors of a space, each kind with its first few in the order of their ids. Reads
 * all of them.
 *
 * Missing and stale are those that no pending job will make.
 */
const embeddingDrift = managedFunction(
  'search.embedding_drift(uuid, integer)',
  sql`
create or replace function search.embedding_drift(space uuid, max_samples integer)
returns table (kind text, total bigint, samples json)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  its_purpose text;
  dims integer;
begin
  select s.purpose, s.dimensions into its_purpose, dims from ${spaces} s where s.id = space;
  if not found then
    ${notFound};
  end if;
  return query
    with found as (
      select wrong.kind, e.organization_id, e.chunk_id
      from ${embeddings} e
      left join ${chunks} c on c.organization_id = e.organization_id and c.id = e.chunk_id
      left join ${embeddingJobs} j on j.organization_id = e.organization_id and j.space_id = space
        and j.chunk_id = e.chunk_id and j.status = 'pending'
      cross join lateral (values
        ('orphaned', c.id is null or c.purpose <> its_purpose),
        ('stale', j.chunk_id is null and c.purpose = its_purpose and e.content_hash <> c.content_hash),
        ('misfiled', c.id is not null and ${isMisfiled}),
        ('wrongDimension', public.vector_dims(e.embedding) <> dims),
        ('zero', public.l2_norm(e.embedding) = 0)
      ) as wrong (kind, is_wrong)
      where e.space_id = space and wrong.is_wrong
      union all
      select 'missing', c.organization_id, c.id
      from ${chunks} c
      left join ${embeddings} e on ${vectorOfChunk}
      left join ${embeddingJobs} j on j.organization_id = c.organization_id and j.space_id = space
        and j.chunk_id = c.id and j.status = 'pending'
      where c.purpose = its_purpose and e.chunk_id is null and j.chunk_id is null
    ), numbered as (
      select f.*, row_number() over (partition by f.kind order by f.organization_id, f.chunk_id) as place
      from found f
    )
    select n.kind::text, count(*), json_agg(
        json_build_object('organizationId', n.organization_id, 'chunkId', n.chunk_id) order by n.place)
        filter (where n.place <= max_samples)
    from numbered n group by n.kind;
end $$`,
)

/**
 * Deletes the vectors that are wrong whatever their text is, makes owner, visibility and source type what
 * the chunks' are, and gives dead jobs another chance. A stale vector stays until the next one is there.
 */
const repairEmbeddings = managedFunction(
  'search.repair_embeddings(uuid)',
  sql`
create or replace function search.repair_embeddings(space uuid)
returns table (deleted bigint, refiled bigint, revived bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  its_purpose text;
  dims integer;
begin
  select s.purpose, s.dimensions into its_purpose, dims from ${spaces} s where s.id = space;
  if not found then
    ${notFound};
  end if;
  delete from ${embeddings} e
    where e.space_id = space and (public.vector_dims(e.embedding) <> dims
      or public.l2_norm(e.embedding) = 0
      or not exists (select from ${chunks} c where c.organization_id = e.organization_id
        and c.id = e.chunk_id and c.purpose = its_purpose));
  get diagnostics deleted = row_count;
  -- Locked, or a chunk that is made private meanwhile would have its vector made shared again.
  with wrong as materialized (
    select c.organization_id, c.id, c.owner_id, c.visibility, c.source_type
    from ${embeddings} e
    join ${chunks} c on c.organization_id = e.organization_id and c.id = e.chunk_id
    where e.space_id = space and ${isMisfiled}
    order by c.organization_id, c.id
    for share of c
  )
  update ${embeddings} e
    set owner_id = w.owner_id, visibility = w.visibility, source_type = w.source_type
    from wrong w
    where e.organization_id = w.organization_id and e.space_id = space and e.chunk_id = w.id;
  get diagnostics refiled = row_count;
  update ${embeddingJobs} j
    set status = 'pending', attempts = 0, last_error = null, due_at = now(), updated_at = now()
    where j.space_id = space and j.status = 'dead';
  get diagnostics revived = row_count;
  return next;
end $$`,
)

/** What is wrong with vectors, and what mends it; in the order in which they are created. */
export const driftObjects = [
  embeddingDrift,
  repairEmbeddings,
  ...managedExecute('search.embedding_drift(uuid, integer)', 'plinth_platform'),
  ...managedExecute('search.repair_embeddings(uuid)', 'plinth_platform'),
]
