import { sql } from 'drizzle-orm'
import { managedExecute, managedFunction } from './managed.ts'
import { isVisible, scopedOrganization } from './policies.ts'
import { chunks, embeddings, spaces } from './search.ts'

/**
 * The filters that both arms of a search take; null filters nothing. A filter that is null is left out
 * of the query's text, so that each query is planned for what it really filters.
 */
const filterParameters = sql.raw(
  'source_types text[], source_ids text[], project uuid, category uuid, owner uuid, since timestamptz, until timestamptz',
)
const filterTypes = 'text[], text[], uuid, uuid, uuid, timestamptz, timestamptz'
const filterArguments = sql.raw('source_types, source_ids, project, category, owner, since, until')
const chunkFilters = sql.raw(`
    case when source_ids is not null then ' and c.source_id = any($5)' else '' end ||
    case when project is not null then ' and c.project_id = $6' else '' end ||
    case when category is not null then ' and c.category_id = $7' else '' end ||
    case when owner is not null then ' and c.owner_id = $8' else '' end ||
    case when since is not null then ' and c.occurred_at >= $9' else '' end ||
    case when until is not null then ' and c.occurred_at < $10' else '' end`)

const nearestSignature = `search.nearest_chunks(uuid, public.halfvec, integer, ${filterTypes})`

/**
 * The chunks nearest to a vector, nearest first, never fewer than asked for while as many match.
 *
 * Up to spaces.exact_rows rows of the slice are scanned, which is exact and there the faster way. Of a
 * larger slice the HNSW index is asked, which may pass over some of the nearest; if it comes back with
 * too few, the slice is scanned after all. The scan orders by the uncast column, which no index has.
 * Dynamic SQL: a cached generic plan would decide the recall. SET LOCAL, as on a Citus shard nothing
 * else arrives; hence not STABLE. The two settings stay for the rest of the transaction.
 */
const nearestChunks = managedFunction(
  nearestSignature,
  sql`
create or replace function search.nearest_chunks(
  space uuid, query public.halfvec, max_rows integer, ${filterParameters})
returns table (chunk_id uuid, distance float8) language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  dims integer;
  exact_rows integer;
  op text;
  filters text := ${chunkFilters};
  slice text;
  is_large boolean;
  ids uuid[];
  distances float8[];
begin
  select s.dimensions, s.exact_rows,
      case s.distance when 'cosine' then '<=>' when 'l2' then '<->' else '<#>' end
    into dims, exact_rows, op from ${spaces} s where s.id = space;
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

  if filters = '' and source_types is null then
    is_large := search.exceeds(space, exact_rows);
  else
    execute 'select exists (select 1 from ' || slice || ' offset $11 limit 1)'
      into is_large using organization, space, query, ${filterArguments}, exact_rows;
  end if;

  if is_large then
    set local hnsw.iterative_scan = 'relaxed_order';
    set local hnsw.ef_search = 200;
    execute format(
      'select array_agg(near.chunk_id), array_agg(near.distance) from (select e.chunk_id,
         (e.embedding::public.halfvec(%1$s) operator(public.%2$s) $3::public.halfvec(%1$s)) as distance
       from %3$s
       order by e.embedding::public.halfvec(%1$s) operator(public.%2$s) $3::public.halfvec(%1$s)
       limit $11) as near', dims, op, slice)
      into ids, distances using organization, space, query, ${filterArguments}, max_rows;
  end if;

  if cardinality(ids) >= max_rows then
    return query select * from unnest(ids, distances) as near (id, away) order by away, id;
  else
    return query execute format(
      'select e.chunk_id, (e.embedding operator(public.%1$s) $3) as distance
       from %2$s order by distance, e.chunk_id limit $11', op, slice)
      using organization, space, query, ${filterArguments}, max_rows;
  end if;
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

const matchingSignature = `search.matching_chunks(text, integer, ${filterTypes})`

/**
 * The chunks that contain the words of a query as typed into a search box, best first.
 *
 * SECURITY DEFINER, with the policy's own condition in it: @@ is not leakproof, so that under row level
 * security Postgres would not use the GIN index.
 */
const matchingChunks = managedFunction(
  matchingSignature,
  sql`
create or replace function search.matching_chunks(query text, max_rows integer, ${filterParameters})
returns table (chunk_id uuid, rank real) language plpgsql stable security definer
set search_path = pg_catalog, pg_temp as $$
declare
  terms tsquery := websearch_to_tsquery('english', query);
  filters text := case when source_types is not null then ' and c.source_type = any($4)' else '' end ||
    ${chunkFilters};
begin
  if numnode(terms) = 0 then
    return;
  end if;
  -- 1: a rank is divided by 1 + the logarithm of the length, or long chunks would always win.
  return query execute $query$
    select c.id, ts_rank(c.terms, $2, 1) as rank from ${chunks} c
    where c.organization_id = $1 and c.terms @@ $2
      and ${isVisible(sql`c.owner_id`, sql`c.visibility`)} $query$ || filters || $query$
    order by rank desc, c.id limit $3 $query$
    using ${scopedOrganization}, terms, max_rows, ${filterArguments};
end $$`,
)

/** What a search calls in the database; in the order in which they are created. */
export const retrievalObjects = [
  exceeds,
  nearestChunks,
  matchingChunks,
  ...managedExecute('search.exceeds(uuid, integer)', 'plinth_app'),
  ...managedExecute(nearestSignature, 'plinth_app'),
  ...managedExecute(matchingSignature, 'plinth_app'),
]
