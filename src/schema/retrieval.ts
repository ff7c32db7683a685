import { sql } from 'drizzle-orm'
import { managedExecute, managedFunction } from './managed.ts'
import { scopedOrganization } from './policies.ts'
import { chunks, embeddings, spaces } from './search.ts'

/**
 * The filters that every arm of a search takes; null filters nothing. A filter that is null is left out
 * of the query's text, so that each query is planned for what it really filters.
 */
export const filterParameters = sql.raw(
  'source_types text[], source_ids text[], project uuid, category uuid, owner uuid, since timestamptz, until timestamptz, metadata jsonpath, except_type text, except_id text',
)
export const filterTypes =
  'text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text'
export const filterArguments = sql.raw(
  'source_types, source_ids, project, category, owner, since, until, metadata, except_type, except_id',
)
export const chunkFilters = sql.raw(`
    case when source_ids is not null then ' and c.source_id = any($5)' else '' end ||
    case when project is not null then ' and c.project_id = $6' else '' end ||
    case when category is not null then ' and c.category_id = $7' else '' end ||
    case when owner is not null then ' and c.owner_id = $8' else '' end ||
    case when since is not null then ' and c.occurred_at >= $9' else '' end ||
    case when until is not null then ' and c.occurred_at < $10' else '' end ||
    case when metadata is not null then ' and c.metadata @@ $11' else '' end ||
    case when except_id is not null then ' and (c.source_type, c.source_id) <> ($12, $13)' else '' end`)
export const typeFilter = sql.raw(
  `case when source_types is not null then ' and c.source_type = any($4)' else '' end`,
)

/** What an arm answers, in one row: the chunks, best first, and how they were found. */
export const arm = (measure: string) =>
  sql.raw(
    `chunk_ids uuid[], ${measure}, plan text, counted integer, truncated boolean, took_ms float8`,
  )

/** In milliseconds; null unless asked for, as an answer is to be the same each time. */
export const tookMs = sql.raw(
  `case when timed then extract(epoch from clock_timestamp() - began) * 1000 end`,
)

const nearestSignature = `search.nearest_chunks(uuid, public.halfvec, integer, ${filterTypes}, integer, boolean)`

/**
 * The chunks nearest to a vector, nearest first, never fewer than asked for while as many match.
 *
 * A slice of up to spaces.exact_rows rows is scanned, which is exact and there the faster way. Of a larger
 * one the HNSW index is asked, which may pass over some of the nearest; if it comes back with too few, the
 * slice is scanned after all. Where the slice is so thin in the whole space that the index would have to
 * look at more than a scan does, or there is no index yet, it is scanned at once. With `max_scan` the index looks at no more
 * than that, and nothing is scanned afterwards: the answer may be short, and says so.
 *
 * The exact scan orders by the uncast column, which no index has. Dynamic SQL: a cached generic plan would
 * decide the recall. SET LOCAL, as on a Citus shard nothing else arrives; hence not STABLE. The settings
 * stay for the rest of the transaction.
 */
const nearestChunks = managedFunction(
  nearestSignature,
  sql`
create or replace function search.nearest_chunks(
  space uuid, query public.halfvec, max_rows integer, ${filterParameters}, max_scan integer, timed boolean)
returns table (${arm('distances float8[]')}) rows 1
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  began timestamptz := clock_timestamp();
  organization uuid := ${scopedOrganization};
  dims integer;
  bound integer;
  candidates integer;
  op text;
  filters text := ${chunkFilters};
  slice text;
  sorts text := current_setting('enable_sort');
begin
  -- For max_rows of a slice the index looks at max_rows * rows / slice vectors, and each is 15 times the work
  -- of one that is scanned: a slice that is thinner is scanned the faster, until it would not be filled at all.
  select s.dimensions, case
        when i.rows is null then 2147483646
        when max_scan is not null then least(1e9, s.exact_rows)
        else least(1e9, greatest(s.exact_rows, sqrt(15 * i.rows * max_rows), i.rows * max_rows / 20000)) end::integer,
      -- A larger graph takes a longer list for the same recall; what pgvector takes is up to 1000.
      least(1000, 200 * greatest(1, sqrt(i.rows / 100000)))::integer,
      case s.distance when 'cosine' then '<=>' when 'l2' then '<->' else '<#>' end
    into dims, bound, candidates, op from ${spaces} s
    left join (select c.relname, greatest(c.reltuples, 0)::float8 as rows from pg_class c
      join pg_index x on x.indrelid = c.oid and x.indisvalid
      join pg_class h on h.oid = x.indexrelid join pg_am m on m.oid = h.relam and m.amname = 'hnsw') i
      on i.relname = 'embeddings_' || replace(s.id::text, '-', '')
    where s.id = space;
  if not found then
    raise exception 'space % not found', space
      using errcode = 'no_data_found', detail = 'space', hint = space::text;
  elsif public.vector_dims(query) <> dims then
    raise exception 'has % dimensions, and the space has %', public.vector_dims(query), dims
      using errcode = 'invalid_parameter_value', detail = 'plinth.embedding';
  end if;
  slice := '${embeddings} e'
    || case when filters = '' then ''
       else ' join ${chunks} c on c.organization_id = e.organization_id and c.id = e.chunk_id' end
    || ' where e.organization_id = $1 and e.space_id = $2'
    || case when source_types is not null then ' and e.source_type = any($4)' else '' end
    || filters;

  plan := 'exact';
  truncated := false;
  if filters <> '' or source_types is not null then
    -- One scan counts the slice, and is the answer if the slice is small.
    execute format(
      'with slice as materialized (
         select e.chunk_id, e.embedding operator(public.%1$s) $3 as distance from %2$s limit $14::bigint + 1),
       nearest as (select * from slice order by distance, chunk_id limit $15)
       select (select count(*) from slice), array_agg(n.chunk_id), array_agg(n.distance) from nearest n',
      op, slice)
      into counted, chunk_ids, distances
      using organization, space, query, ${filterArguments}, bound, max_rows;
  elsif search.exceeds(space, bound) then
    counted := bound + 1;
  else
    execute format(
      'with nearest as (
         select e.chunk_id, e.embedding operator(public.%1$s) $3 as distance
         from %2$s order by distance, e.chunk_id limit $14)
       select array_agg(n.chunk_id), array_agg(n.distance) from nearest n', op, slice)
      into chunk_ids, distances using organization, space, query, ${filterArguments}, max_rows;
  end if;

  if counted > bound then
    plan := 'index';
    set local hnsw.iterative_scan = 'relaxed_order';
    execute format('set local hnsw.ef_search = %s', least(max_scan, candidates));
    execute format('set local hnsw.max_scan_tuples = %s', coalesce(max_scan, 20000));
    -- Which plan it is, is decided here: estimates of a filter are mostly wrong.
    set local enable_sort = off;
    execute format(
      'with near as materialized (select e.chunk_id,
         (e.embedding::public.halfvec(%1$s) operator(public.%2$s) $3::public.halfvec(%1$s)) as distance
       from %3$s
       order by e.embedding::public.halfvec(%1$s) operator(public.%2$s) $3::public.halfvec(%1$s)
       limit $14)
       select array_agg(n.chunk_id order by distance, chunk_id), array_agg(n.distance order by distance, chunk_id)
       from near n', dims, op, slice)
      into chunk_ids, distances using organization, space, query, ${filterArguments}, max_rows;
    execute format('set local enable_sort = %s', sorts);
    if coalesce(cardinality(chunk_ids), 0) < max_rows then
      if max_scan is not null then
        execute 'select exists (select 1 from ' || slice || ' offset $14 limit 1)'
          into truncated
          using organization, space, query, ${filterArguments}, coalesce(cardinality(chunk_ids), 0);
      else
        plan := 'index, then exact';
        execute format(
          'with nearest as (
             select e.chunk_id, e.embedding operator(public.%1$s) $3 as distance
             from %2$s order by distance, e.chunk_id limit $14)
           select array_agg(n.chunk_id), array_agg(n.distance) from nearest n', op, slice)
          into chunk_ids, distances using organization, space, query, ${filterArguments}, max_rows;
      end if;
    end if;
  end if;
  took_ms := ${tookMs};
  return next;
end $$`,
)

/**
 * Whether the organization in scope has more vectors in a space than a bound.
 *
 * SECURITY DEFINER: with the policy's columns to look at it could not be an index-only scan. To know it
 * of what the caller may not see is of no use to them: nothing but the choice of a plan depends on it.
 */
const exceeds = managedFunction(
  'search.exceeds(uuid, integer)',
  sql`
create or replace function search.exceeds(space uuid, bound integer)
returns boolean language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform 1 from ${embeddings} e
    where e.organization_id = ${scopedOrganization} and e.space_id = space
    offset bound limit 1;
  return found;
end $$`,
)

const givenSignature = `search.given_chunks(uuid[], float8[], integer, ${filterTypes}, boolean)`

/** Those of the chunks that another engine has found, nearest first, that exist, may be seen and pass; each once. */
const givenChunks = managedFunction(
  givenSignature,
  sql`
create or replace function search.given_chunks(
  ids uuid[], away float8[], max_rows integer, ${filterParameters}, timed boolean)
returns table (${arm('distances float8[]')}) rows 1
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  began timestamptz := clock_timestamp();
  filters text := ${typeFilter} || ${chunkFilters};
begin
  execute $query$
    with given as (
      select u.id, min(u.distance) as distance from unnest($2, $3) u (id, distance) group by u.id),
    nearest as (
      select c.id, g.distance from given g
      join ${chunks} c on c.organization_id = $1 and c.id = g.id where true $query$ || filters || $query$
      order by g.distance, c.id limit $14)
    select array_agg(n.id), array_agg(n.distance) from nearest n $query$
    into chunk_ids, distances
    using ${scopedOrganization}, ids, away, ${filterArguments}, max_rows;
  plan := 'given';
  counted := cardinality(ids);
  truncated := false;
  took_ms := ${tookMs};
  return next;
end $$`,
)

const diverseSignature = 'search.diverse_chunks(uuid, uuid[], float8[], float8, integer)'

/**
 * Chooses among candidates by maximal marginal relevance (Carbonell and Goldstein 1998): each time the one
 * whose score is high and that is little like those that were chosen. Scores are scaled to 0..1 over all of
 * them; likeness is the cosine of the vectors, 0 for a chunk without one.
 */
const diverseChunks = managedFunction(
  diverseSignature,
  sql`
create or replace function search.diverse_chunks(
  space uuid, ids uuid[], scores float8[], diversity float8, max_rows integer)
returns table (chunk_id uuid, place integer)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  vectors public.halfvec[];
  relevance float8[];
  -- How like a candidate is to the one of the chosen that it is most like; null once it is chosen itself.
  likeness float8[] := array_fill(0::float8, array[coalesce(cardinality(ids), 0)]);
  chosen integer;
begin
  select array_agg(e.embedding order by i.at),
      array_agg(coalesce((i.score - i.least) / nullif(i.most - i.least, 0), 1) order by i.at)
    into vectors, relevance
    from (select u.id, u.score, u.at, min(u.score) over () as least, max(u.score) over () as most
      from unnest(ids, scores) with ordinality u (id, score, at)) i
    left join ${embeddings} e on e.organization_id = organization and e.space_id = space and e.chunk_id = i.id;
  for place in 1 .. least(max_rows, cardinality(likeness)) loop
    select c.at into chosen
      from unnest(relevance, likeness) with ordinality c (relevance, likeness, at)
      where c.likeness is not null
      order by (1 - diversity) * c.relevance - diversity * c.likeness desc, c.at limit 1;
    diverse_chunks.chunk_id := ids[chosen];
    diverse_chunks.place := place;
    return next;
    likeness[chosen] := null;
    select array_agg(case when c.likeness is null then null
        else greatest(c.likeness, coalesce(1 - (c.vector operator(public.<=>) vectors[chosen]), 0)) end order by c.at)
      into likeness
      from unnest(vectors, likeness) with ordinality c (vector, likeness, at);
  end loop;
end $$`,
)

/** What a search calls in the database; in the order in which they are created. */
export const retrievalObjects = [
  exceeds,
  nearestChunks,
  givenChunks,
  diverseChunks,
  ...managedExecute('search.exceeds(uuid, integer)', 'plinth_app'),
  ...managedExecute(nearestSignature, 'plinth_app'),
]
