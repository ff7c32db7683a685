-- managed: function search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz)
drop function if exists search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz);
--> statement-breakpoint
-- managed: function search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz)
drop function if exists search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz);
--> statement-breakpoint
-- managed: function search.create_partition(uuid)
drop function if exists search.create_partition(uuid);
--> statement-breakpoint
-- plinth: concurrently
DROP INDEX "search"."chunks_terms_idx";
--> statement-breakpoint
ALTER TABLE "search"."chunks" DROP COLUMN "terms";
--> statement-breakpoint
-- managed: extension pg_trgm
create extension if not exists pg_trgm with schema public;
--> statement-breakpoint
CREATE SCHEMA "ai";
--> statement-breakpoint
CREATE TYPE "search"."embedding_job_status" AS ENUM('pending', 'dead');
--> statement-breakpoint
CREATE TYPE "search"."language" AS ENUM('simple', 'arabic', 'armenian', 'basque', 'catalan', 'danish', 'dutch', 'english', 'finnish', 'french', 'german', 'greek', 'hindi', 'hungarian', 'indonesian', 'irish', 'italian', 'lithuanian', 'nepali', 'norwegian', 'portuguese', 'romanian', 'russian', 'serbian', 'spanish', 'swedish', 'tamil', 'turkish', 'yiddish');
--> statement-breakpoint
CREATE TYPE "search"."placement_status" AS ENUM('pending', 'synced', 'deleting', 'dead');
--> statement-breakpoint
CREATE TABLE "ai"."context_logs" (
	"organization_id" uuid,
	"id" uuid,
	"user_id" uuid,
	"query" text,
	"model" text,
	"items" jsonb NOT NULL,
	"budget_tokens" integer NOT NULL,
	"total_tokens" integer NOT NULL,
	"occurred_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "context_logs_pkey" PRIMARY KEY("organization_id","id"),
	CONSTRAINT "context_logs_total_tokens_check" CHECK ("total_tokens" between 0 and "budget_tokens")
);
--> statement-breakpoint
ALTER TABLE "ai"."context_logs" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "search"."embedding_jobs" (
	"organization_id" uuid,
	"space_id" uuid,
	"chunk_id" uuid,
	"status" "search"."embedding_job_status" DEFAULT 'pending'::"search"."embedding_job_status" NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"last_error" text,
	"due_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"lease_id" uuid,
	"leased_until" timestamp(3) with time zone,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "embedding_jobs_pkey" PRIMARY KEY("organization_id","space_id","chunk_id"),
	CONSTRAINT "embedding_jobs_attempts_check" CHECK ("attempts" >= 0)
);
--> statement-breakpoint
ALTER TABLE "search"."embedding_jobs" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "search"."namespaces" (
	"id" uuid PRIMARY KEY,
	"space_id" uuid NOT NULL,
	"provider" text NOT NULL,
	"name" text NOT NULL,
	"vectors" bigint DEFAULT 0 NOT NULL,
	"bytes" bigint,
	"queries" bigint DEFAULT 0 NOT NULL,
	"last_used_at" timestamp(3) with time zone,
	"verified_at" timestamp(3) with time zone,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "search"."placements" (
	"organization_id" uuid,
	"namespace_id" uuid,
	"chunk_id" uuid,
	"status" "search"."placement_status" DEFAULT 'pending'::"search"."placement_status" NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"synced_hash" bytea,
	"last_error" text,
	"due_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"lease_id" uuid,
	"leased_until" timestamp(3) with time zone,
	"synced_at" timestamp(3) with time zone,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "placements_pkey" PRIMARY KEY("organization_id","namespace_id","chunk_id"),
	CONSTRAINT "placements_attempts_check" CHECK ("attempts" >= 0)
);
--> statement-breakpoint
ALTER TABLE "search"."placements" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
ALTER TABLE "search"."chunks" ADD COLUMN "purpose" text DEFAULT 'text' NOT NULL;
--> statement-breakpoint
ALTER TABLE "search"."chunks" ADD COLUMN "language" "search"."language" DEFAULT 'english'::"search"."language" NOT NULL;
--> statement-breakpoint
-- managed: function search.terms(search.language, text)
create or replace function search.terms(language search.language, content text)
returns tsvector language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  return to_tsvector(language::text::regconfig, content);
end $$;
--> statement-breakpoint
ALTER TABLE "search"."chunks" ADD COLUMN "terms" tsvector GENERATED ALWAYS AS (search.terms("search"."chunks"."language", "search"."chunks"."content")) STORED;
--> statement-breakpoint
ALTER TABLE "search"."embeddings" ADD COLUMN "content_hash" bytea;
--> statement-breakpoint
ALTER TABLE "search"."spaces" ADD COLUMN "activated_at" timestamp(3) with time zone;
--> statement-breakpoint
-- plinth: concurrently
CREATE INDEX "chunks_terms_idx" ON "search"."chunks" USING gin ("organization_id","terms");
--> statement-breakpoint
-- plinth: concurrently
CREATE INDEX "chunks_content_idx" ON "search"."chunks" USING gin ("organization_id","content" public.gin_trgm_ops);
--> statement-breakpoint
-- plinth: concurrently
CREATE INDEX "chunks_language_idx" ON "search"."chunks" ("organization_id","language");
--> statement-breakpoint
CREATE INDEX "embedding_jobs_chunk_id_idx" ON "search"."embedding_jobs" ("organization_id","chunk_id");
--> statement-breakpoint
CREATE INDEX "embedding_jobs_due_idx" ON "search"."embedding_jobs" ("space_id","status","organization_id","due_at");
--> statement-breakpoint
CREATE UNIQUE INDEX "namespaces_name_key" ON "search"."namespaces" ("provider","name");
--> statement-breakpoint
CREATE INDEX "namespaces_space_id_idx" ON "search"."namespaces" ("space_id");
--> statement-breakpoint
CREATE INDEX "placements_due_idx" ON "search"."placements" ("namespace_id","status","organization_id","due_at");
--> statement-breakpoint
ALTER TABLE "ai"."context_logs" ADD CONSTRAINT "context_logs_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "search"."embedding_jobs" ADD CONSTRAINT "embedding_jobs_space_id_fkey" FOREIGN KEY ("space_id") REFERENCES "search"."spaces"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "search"."embedding_jobs" ADD CONSTRAINT "embedding_jobs_chunk_id_fkey" FOREIGN KEY ("organization_id","chunk_id") REFERENCES "search"."chunks"("organization_id","id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "search"."namespaces" ADD CONSTRAINT "namespaces_space_id_fkey" FOREIGN KEY ("space_id") REFERENCES "search"."spaces"("id");
--> statement-breakpoint
ALTER TABLE "search"."placements" ADD CONSTRAINT "placements_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "search"."placements" ADD CONSTRAINT "placements_namespace_id_fkey" FOREIGN KEY ("namespace_id") REFERENCES "search"."namespaces"("id") ON DELETE CASCADE;
--> statement-breakpoint
CREATE POLICY "context_logs_select" ON "ai"."context_logs" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("ai"."context_logs"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "ai"."context_logs"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "context_logs_insert" ON "ai"."context_logs" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("ai"."context_logs"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "ai"."context_logs"."user_id" is null or "ai"."context_logs"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "embedding_jobs_select" ON "search"."embedding_jobs" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("search"."embedding_jobs"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "embedding_jobs_insert" ON "search"."embedding_jobs" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("search"."embedding_jobs"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service'));
--> statement-breakpoint
CREATE POLICY "embedding_jobs_update" ON "search"."embedding_jobs" AS PERMISSIVE FOR UPDATE TO "plinth_app" USING ("search"."embedding_jobs"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service')) WITH CHECK ("search"."embedding_jobs"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "embedding_jobs_delete" ON "search"."embedding_jobs" AS PERMISSIVE FOR DELETE TO "plinth_app" USING ("search"."embedding_jobs"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "placements_select" ON "search"."placements" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("search"."placements"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "placements_insert" ON "search"."placements" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("search"."placements"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service'));
--> statement-breakpoint
CREATE POLICY "placements_update" ON "search"."placements" AS PERMISSIVE FOR UPDATE TO "plinth_app" USING ("search"."placements"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service')) WITH CHECK ("search"."placements"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "placements_delete" ON "search"."placements" AS PERMISSIVE FOR DELETE TO "plinth_app" USING ("search"."placements"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
ALTER TABLE "search"."chunks" ADD CONSTRAINT "terms_not_null_check" CHECK ("terms" IS NOT NULL) NOT VALID;
--> statement-breakpoint
-- plinth: step
ALTER TABLE "search"."chunks" VALIDATE CONSTRAINT "terms_not_null_check";
--> statement-breakpoint
-- plinth: step
ALTER TABLE "search"."chunks" ALTER COLUMN "terms" SET NOT NULL;
--> statement-breakpoint
ALTER TABLE "search"."chunks" DROP CONSTRAINT "terms_not_null_check";
--> statement-breakpoint
-- managed: grant search.embedding_jobs
grant select, insert, update, delete on "search"."embedding_jobs" to plinth_app;
--> statement-breakpoint
-- managed: grant search.namespaces
grant select on "search"."namespaces" to plinth_app;
--> statement-breakpoint
-- managed: grant search.namespaces to plinth_platform
grant select, insert, update, delete on "search"."namespaces" to plinth_platform;
--> statement-breakpoint
-- managed: grant search.placements
grant select, insert, update, delete on "search"."placements" to plinth_app;
--> statement-breakpoint
-- managed: comment "search"."embedding_jobs"
comment on table "search"."embedding_jobs" is 'A chunk that is to be embedded in a space.';
--> statement-breakpoint
-- managed: comment "search"."namespaces"
comment on table "search"."namespaces" is 'A collection of vectors in another engine, which holds those of one space.';
--> statement-breakpoint
-- managed: comment "search"."placements"
comment on table "search"."placements" is 'Where else the vector of a chunk is, and whether it is the current one there.';
--> statement-breakpoint
-- managed: function search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, integer, boolean)
create or replace function search.nearest_chunks(
  space uuid, query public.halfvec, max_rows integer, source_types text[], source_ids text[], project uuid, category uuid, owner uuid, since timestamptz, until timestamptz, metadata jsonpath, except_type text, except_id text, max_scan integer, timed boolean)
returns table (chunk_ids uuid[], distances float8[], plan text, counted integer, truncated boolean, took_ms float8) rows 1
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  began timestamptz := clock_timestamp();
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  dims integer;
  bound integer;
  candidates integer;
  op text;
  filters text := 
    case when source_ids is not null then ' and c.source_id = any($5)' else '' end ||
    case when project is not null then ' and c.project_id = $6' else '' end ||
    case when category is not null then ' and c.category_id = $7' else '' end ||
    case when owner is not null then ' and c.owner_id = $8' else '' end ||
    case when since is not null then ' and c.occurred_at >= $9' else '' end ||
    case when until is not null then ' and c.occurred_at < $10' else '' end ||
    case when metadata is not null then ' and c.metadata @@ $11' else '' end ||
    case when except_id is not null then ' and (c.source_type, c.source_id) <> ($12, $13)' else '' end;
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
    into dims, bound, candidates, op from "search"."spaces" s
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
  slice := '"search"."embeddings" e'
    || case when filters = '' then ''
       else ' join "search"."chunks" c on c.organization_id = e.organization_id and c.id = e.chunk_id' end
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
      using organization, space, query, source_types, source_ids, project, category, owner, since, until, metadata, except_type, except_id, bound, max_rows;
  elsif search.exceeds(space, bound) then
    counted := bound + 1;
  else
    execute format(
      'with nearest as (
         select e.chunk_id, e.embedding operator(public.%1$s) $3 as distance
         from %2$s order by distance, e.chunk_id limit $14)
       select array_agg(n.chunk_id), array_agg(n.distance) from nearest n', op, slice)
      into chunk_ids, distances using organization, space, query, source_types, source_ids, project, category, owner, since, until, metadata, except_type, except_id, max_rows;
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
      into chunk_ids, distances using organization, space, query, source_types, source_ids, project, category, owner, since, until, metadata, except_type, except_id, max_rows;
    execute format('set local enable_sort = %s', sorts);
    if coalesce(cardinality(chunk_ids), 0) < max_rows then
      if max_scan is not null then
        execute 'select exists (select 1 from ' || slice || ' offset $14 limit 1)'
          into truncated
          using organization, space, query, source_types, source_ids, project, category, owner, since, until, metadata, except_type, except_id, coalesce(cardinality(chunk_ids), 0);
      else
        plan := 'index, then exact';
        execute format(
          'with nearest as (
             select e.chunk_id, e.embedding operator(public.%1$s) $3 as distance
             from %2$s order by distance, e.chunk_id limit $14)
           select array_agg(n.chunk_id), array_agg(n.distance) from nearest n', op, slice)
          into chunk_ids, distances using organization, space, query, source_types, source_ids, project, category, owner, since, until, metadata, except_type, except_id, max_rows;
      end if;
    end if;
  end if;
  took_ms := case when timed then extract(epoch from clock_timestamp() - began) * 1000 end;
  return next;
end $$;
--> statement-breakpoint
-- managed: function search.given_chunks(uuid[], float8[], integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean)
create or replace function search.given_chunks(
  ids uuid[], away float8[], max_rows integer, source_types text[], source_ids text[], project uuid, category uuid, owner uuid, since timestamptz, until timestamptz, metadata jsonpath, except_type text, except_id text, timed boolean)
returns table (chunk_ids uuid[], distances float8[], plan text, counted integer, truncated boolean, took_ms float8) rows 1
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  began timestamptz := clock_timestamp();
  filters text := case when source_types is not null then ' and c.source_type = any($4)' else '' end || 
    case when source_ids is not null then ' and c.source_id = any($5)' else '' end ||
    case when project is not null then ' and c.project_id = $6' else '' end ||
    case when category is not null then ' and c.category_id = $7' else '' end ||
    case when owner is not null then ' and c.owner_id = $8' else '' end ||
    case when since is not null then ' and c.occurred_at >= $9' else '' end ||
    case when until is not null then ' and c.occurred_at < $10' else '' end ||
    case when metadata is not null then ' and c.metadata @@ $11' else '' end ||
    case when except_id is not null then ' and (c.source_type, c.source_id) <> ($12, $13)' else '' end;
begin
  execute $query$
    with given as (
      select u.id, min(u.distance) as distance from unnest($2, $3) u (id, distance) group by u.id),
    nearest as (
      select c.id, g.distance from given g
      join "search"."chunks" c on c.organization_id = $1 and c.id = g.id where true $query$ || filters || $query$
      order by g.distance, c.id limit $14)
    select array_agg(n.id), array_agg(n.distance) from nearest n $query$
    into chunk_ids, distances
    using nullif(current_setting('plinth.organization_id', true), '')::uuid, ids, away, source_types, source_ids, project, category, owner, since, until, metadata, except_type, except_id, max_rows;
  plan := 'given';
  counted := cardinality(ids);
  truncated := false;
  took_ms := case when timed then extract(epoch from clock_timestamp() - began) * 1000 end;
  return next;
end $$;
--> statement-breakpoint
-- managed: function search.diverse_chunks(uuid, uuid[], float8[], float8, integer)
create or replace function search.diverse_chunks(
  space uuid, ids uuid[], scores float8[], diversity float8, max_rows integer)
returns table (chunk_id uuid, place integer)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
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
    left join "search"."embeddings" e on e.organization_id = organization and e.space_id = space and e.chunk_id = i.id;
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
end $$;
--> statement-breakpoint
-- managed: grant search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, integer, boolean)
revoke execute on function search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, integer, boolean) from public;
--> statement-breakpoint
-- managed: grant search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, integer, boolean) to plinth_app
grant execute on function search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, integer, boolean) to plinth_app;
--> statement-breakpoint
-- managed: function search.query_terms(search.language, text)
create or replace function search.query_terms(language "search"."language", query text)
returns tsquery language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  config regconfig := language::text::regconfig;
  beginning constant text := '(^|\s)(-?)([^-\s"*()&|!:<>''\\][^\s"*()&|!:<>''\\]*)\*(?=\s|$)';
  -- A line of dashes excludes nothing: Postgres would take each for one more negation, and fail at 32.
  dashes constant text := '(^|[\s"!&|():<])-(?:[\s"!&|():<]*-)+';
  terms tsquery := websearch_to_tsquery(config,
    regexp_replace(regexp_replace(query, beginning, '\1', 'g'), dashes, '\1', 'g'));
  part text[];
  prefix tsquery;
begin
  -- Each reads the index from its beginning to its end.
  for part in select distinct m[2:3] from regexp_matches(query, beginning, 'g') m order by 1 limit 16 loop
    prefix := to_tsquery(config, '''' || part[2] || ''':*');
    if numnode(prefix) > 0 then
      prefix := case when part[1] = '-' then !! prefix else prefix end;
      terms := case when numnode(terms) = 0 then prefix else terms && prefix end;
    end if;
  end loop;
  return terms;
end $$;
--> statement-breakpoint
-- managed: function search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean)
create or replace function search.matching_chunks(query text, max_rows integer, source_types text[], source_ids text[], project uuid, category uuid, owner uuid, since timestamptz, until timestamptz, metadata jsonpath, except_type text, except_id text, timed boolean)
returns table (chunk_ids uuid[], ranks real[], plan text, counted integer, truncated boolean, took_ms float8) rows 1
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  began timestamptz := clock_timestamp();
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  filters text := case when source_types is not null then ' and c.source_type = any($4)' else '' end || 
    case when source_ids is not null then ' and c.source_id = any($5)' else '' end ||
    case when project is not null then ' and c.project_id = $6' else '' end ||
    case when category is not null then ' and c.category_id = $7' else '' end ||
    case when owner is not null then ' and c.owner_id = $8' else '' end ||
    case when since is not null then ' and c.occurred_at >= $9' else '' end ||
    case when until is not null then ' and c.occurred_at < $10' else '' end ||
    case when metadata is not null then ' and c.metadata @@ $11' else '' end ||
    case when except_id is not null then ' and (c.source_type, c.source_id) <> ($12, $13)' else '' end;
  spoken "search"."language";
  languages "search"."language"[] := '{}';
  terms tsquery;
  conditions text[] := '{}';
  rank text;
  ranking text;
  alike text;
  -- A word or a phrase, and whether it is excluded.
  token constant text := '(-*)("[^"]*"?|[^\s"]+)';
begin
  truncated := false;
  if length(query) > 1000 then
    query := regexp_replace(left(query, 1000), '\S*$', '');
  end if;
  -- One step of the index a language.
  loop
    select c.language into spoken from "search"."chunks" c
      where c.organization_id = organization and (spoken is null or c.language > spoken)
      order by c.language limit 1;
    exit when not found;
    languages := languages || spoken;
  end loop;
  foreach spoken in array languages loop
    terms := search.query_terms(spoken, query);
    if numnode(terms) > 0 then
      conditions := conditions || format('(c.terms @@ %L::tsquery%s)', terms,
        case when cardinality(languages) > 1 then format(' and c.language = %L', spoken) else '' end);
      rank := format('ts_rank(c.terms, %L::tsquery, 1)', terms);
      ranking := case when cardinality(languages) = 1 then rank
        else concat(ranking, format(' when c.language = %L then ', spoken), rank) end;
    end if;
  end loop;
  if cardinality(conditions) > 0 then
    plan := 'words';
    if cardinality(languages) > 1 then
      ranking := 'case' || ranking || ' end';
    end if;
    -- 1: a rank is divided by 1 + the logarithm of the length, or long chunks would always win.
    execute $query$
      with found as (
        select c.id, $query$ || ranking || $query$ as rank from "search"."chunks" c
        where c.organization_id = $1 and ($query$ || array_to_string(conditions, ' or ') || $query$)
          and (c.visibility = 'shared' or current_setting('plinth.role', true) in ('owner', 'admin', 'service') or c.owner_id = nullif(current_setting('plinth.user_id', true), '')::uuid) $query$ || filters || $query$
        order by rank desc, c.id limit $3)
      select array_agg(f.id), array_agg(f.rank) from found f $query$
      into chunk_ids, ranks using organization, query, max_rows, source_types, source_ids, project, category, owner, since, until, metadata, except_type, except_id;
    if chunk_ids is null then
      -- Of the words that mean something, and are not excluded, each has to look like one of the chunk's.
      select string_agg(format(' and c.content operator(public.%%>) %L', w.word), ''),
          string_agg(format('public.word_similarity(%L, c.content)', w.word), ' + ')
        into alike, ranking
        from (select distinct word
          from regexp_matches(query, token, 'g') part, regexp_split_to_table(lower(part[2]), '[^[:alnum:]]+') word
          where part[1] = '' and length(word) >= 4 and exists (select from unnest(languages) l
            where numnode(search.query_terms(l, word)) > 0)
          order by word limit 4) w;
      select alike || coalesce(string_agg(format(' and not (c.language = %L and c.terms @@ %L::tsquery)', e.l, e.terms), ''), '')
        into alike
        from (select l, search.query_terms(l, part[2]) as terms
          from regexp_matches(query, token, 'g') part, unnest(languages) l where part[1] <> '') e
        where numnode(e.terms) > 0;
      if alike is not null then
        plan := 'similar words';
        set local pg_trgm.word_similarity_threshold = 0.5;
        execute $query$
          with found as (
            select c.id, ($query$ || ranking || $query$)::real as rank from "search"."chunks" c
            where c.organization_id = $1 $query$ || alike || $query$
              and (c.visibility = 'shared' or current_setting('plinth.role', true) in ('owner', 'admin', 'service') or c.owner_id = nullif(current_setting('plinth.user_id', true), '')::uuid) $query$ || filters || $query$
            order by rank desc, c.id limit $3)
          select array_agg(f.id), array_agg(f.rank) from found f $query$
          into chunk_ids, ranks using organization, query, max_rows, source_types, source_ids, project, category, owner, since, until, metadata, except_type, except_id;
      end if;
    end if;
  end if;
  counted := coalesce(cardinality(chunk_ids), 0);
  took_ms := case when timed then extract(epoch from clock_timestamp() - began) * 1000 end;
  return next;
end $$;
--> statement-breakpoint
-- managed: grant search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean)
revoke execute on function search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean) from public;
--> statement-breakpoint
-- managed: grant search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean) to plinth_app
grant execute on function search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean) to plinth_app;
--> statement-breakpoint
-- managed: function search.create_partition(uuid, boolean)
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
    into strict dims, ops from "search"."spaces" s where s.id = space;
  if to_regclass(format('partitions.%I', child)) is not null then
    return;
  end if;
  execute format('create table partitions.%I (like "search"."embeddings" including all excluding indexes)', child);
  -- The parent takes any dimension; a typed column could not be attached to it.
  execute format('alter table partitions.%I add constraint %I check (public.vector_dims(embedding) = %s)',
    child, child || '_dims', dims);
  -- Attached and not made as a part, so that those who search in other spaces go on meanwhile.
  execute format('alter table "search"."embeddings" attach partition partitions.%I for values in (%L)',
    child, space);
  if with_index then
    execute format('create index %I on partitions.%I using hnsw ((embedding::public.halfvec(%s)) public.%I)',
      child || '_hnsw', child, dims, ops);
  end if;
end $$;
--> statement-breakpoint
-- managed: function search.due_organizations(uuid, uuid[], uuid, integer)
create or replace function search.due_organizations(space uuid, among uuid[], after uuid, max_rows integer)
returns setof uuid language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := coalesce(after, '00000000-0000-0000-0000-000000000000'::uuid);
  given integer := 0;
begin
  while given < max_rows loop
    if among is null then
      select j.organization_id into organization from "search"."embedding_jobs" j
        where j.space_id = space and j.status = 'pending' and j.organization_id > organization
        order by j.organization_id limit 1;
    else
      select id into organization from unnest(among) id where id > organization order by id limit 1;
    end if;
    exit when not found;
    perform 1 from "search"."embedding_jobs" j
      join "identity"."organizations" o on o.id = j.organization_id and o.archived_at is null
      where j.space_id = space and j.status = 'pending' and j.organization_id = organization
        and j.due_at <= now()::timestamptz(3) and (j.leased_until is null or j.leased_until <= now())
      limit 1;
    if found then
      return next organization;
      given := given + 1;
    end if;
  end loop;
end $$;
--> statement-breakpoint
-- managed: function search.enqueue_missing(uuid, uuid, uuid, uuid, integer)
create or replace function search.enqueue_missing(
  space uuid, organization uuid, after_organization uuid, after_chunk uuid, max_rows integer)
returns table (scanned integer, enqueued integer, last_organization uuid, last_chunk uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  its_purpose text;
begin
  select s.purpose into its_purpose from "search"."spaces" s where s.id = space;
  if not found then
    raise exception 'space % not found', space
      using errcode = 'no_data_found', detail = 'space', hint = space::text;
  end if;
  return query
    with batch as materialized (
      select c.organization_id, c.id, c.content_hash, c.purpose from "search"."chunks" c
      where (c.organization_id, c.id) > (
          coalesce(after_organization, organization, '00000000-0000-0000-0000-000000000000'::uuid), coalesce(after_chunk, '00000000-0000-0000-0000-000000000000'::uuid))
        and c.organization_id <= coalesce(organization, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
      order by c.organization_id, c.id limit max_rows
      for key share skip locked
    ), made as (
      insert into "search"."embedding_jobs" (organization_id, space_id, chunk_id)
      select c.organization_id, space, c.id
      from batch c left join "search"."embeddings" e on e.organization_id = c.organization_id and e.space_id = space and e.chunk_id = c.id
      where c.purpose = its_purpose and not (e.chunk_id is not null and (e.content_hash is null or e.content_hash = c.content_hash))
      on conflict do nothing
      returning 1
    ), latest as (
      select b.organization_id, b.id from batch b order by b.organization_id desc, b.id desc limit 1
    )
    select (select count(*)::integer from batch), (select count(*)::integer from made),
      (select l.organization_id from latest l), (select l.id from latest l);
end $$;
--> statement-breakpoint
-- managed: function search.space_coverage(uuid, uuid)
create or replace function search.space_coverage(space uuid, organization uuid)
returns table (total bigint, embedded bigint, missing bigint, pending bigint, dead bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  its_purpose text;
begin
  select s.purpose into its_purpose from "search"."spaces" s where s.id = space;
  if not found then
    raise exception 'space % not found', space
      using errcode = 'no_data_found', detail = 'space', hint = space::text;
  end if;
  return query
    with covered as (
      select count(*) as total, count(*) filter (where (e.chunk_id is not null and (e.content_hash is null or e.content_hash = c.content_hash))) as embedded
      from "search"."chunks" c
      join "identity"."organizations" o on o.id = c.organization_id and o.archived_at is null
      left join "search"."embeddings" e on e.organization_id = c.organization_id and e.space_id = space and e.chunk_id = c.id
      where c.purpose = its_purpose
        and c.organization_id between coalesce(organization, '00000000-0000-0000-0000-000000000000'::uuid) and coalesce(organization, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
    ), queued as (
      select count(*) filter (where j.status = 'pending') as pending,
        count(*) filter (where j.status = 'dead') as dead
      from "search"."embedding_jobs" j
      join "identity"."organizations" o on o.id = j.organization_id and o.archived_at is null
      where j.space_id = space
        and j.organization_id between coalesce(organization, '00000000-0000-0000-0000-000000000000'::uuid) and coalesce(organization, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
    )
    select v.total, v.embedded, v.total - v.embedded, q.pending, q.dead from covered v, queued q;
end $$;
--> statement-breakpoint
-- managed: function search.activate_space(uuid, boolean)
create or replace function search.activate_space(space uuid, force boolean)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  moment timestamptz := clock_timestamp();
  its_purpose text;
  its_status text;
  lacking bigint;
begin
  perform pg_advisory_xact_lock(hashtextextended('plinth.spaces', 0));
  select s.purpose, s.status into its_purpose, its_status from "search"."spaces" s where s.id = space;
  if not found then
    raise exception 'space % not found', space
      using errcode = 'no_data_found', detail = 'space', hint = space::text;
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
  update "search"."spaces" s set status = 'retired', updated_at = now()
    where s.purpose = its_purpose and s.status = 'active' and s.id <> space;
  update "search"."spaces" s set status = 'active', activated_at = moment, updated_at = now()
    where s.id = space;
end $$;
--> statement-breakpoint
-- managed: function search.roll_back_space(text)
create or replace function search.roll_back_space(its_purpose text)
returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  moment timestamptz := clock_timestamp();
  previous uuid;
begin
  perform pg_advisory_xact_lock(hashtextextended('plinth.spaces', 0));
  select s.id into previous from "search"."spaces" s
    where s.purpose = its_purpose and s.status = 'retired' and s.activated_at is not null
    order by s.activated_at desc, s.id desc limit 1;
  if not found then
    raise exception 'no space was active before'
      using errcode = 'object_not_in_prerequisite_state', detail = 'plinth.space.no_predecessor';
  end if;
  update "search"."spaces" s set status = 'retired', activated_at = null, updated_at = now()
    where s.purpose = its_purpose and s.status = 'active';
  update "search"."spaces" s set status = 'active', activated_at = moment, updated_at = now()
    where s.id = previous;
  return previous;
end $$;
--> statement-breakpoint
-- managed: function search.retire_space(uuid)
create or replace function search.retire_space(space uuid)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('plinth.spaces', 0));
  update "search"."spaces" s set status = 'retired', updated_at = now()
    where s.id = space and s.status <> 'retired';
  if not found and not exists (select from "search"."spaces" s where s.id = space) then
    raise exception 'space % not found', space
      using errcode = 'no_data_found', detail = 'space', hint = space::text;
  end if;
  delete from "search"."embedding_jobs" j where j.space_id = space;
end $$;
--> statement-breakpoint
-- managed: function search.drop_space(uuid)
create or replace function search.drop_space(space uuid)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms' as $$
declare
  its_status text;
begin
  perform pg_advisory_xact_lock(hashtextextended('plinth.spaces', 0));
  select s.status into its_status from "search"."spaces" s where s.id = space;
  if not found then
    raise exception 'space % not found', space
      using errcode = 'no_data_found', detail = 'space', hint = space::text;
  elsif its_status = 'active' then
    raise exception 'space % is the active one; activate another one, or retire it, first', space
      using errcode = 'object_not_in_prerequisite_state', detail = 'plinth.space.active';
  elsif exists (select from "search"."namespaces" n where n.space_id = space) then
    raise exception 'space % has vectors in another engine; remove its namespaces first', space
      using errcode = 'object_not_in_prerequisite_state', detail = 'plinth.space.in_use';
  end if;
  execute format('drop table if exists partitions.%I', 'embeddings_' || replace(space::text, '-', ''));
  delete from "search"."embedding_jobs" j where j.space_id = space;
  delete from "search"."spaces" s where s.id = space;
end $$;
--> statement-breakpoint
-- managed: grant search.create_partition(uuid, boolean)
revoke execute on function search.create_partition(uuid, boolean) from public;
--> statement-breakpoint
-- managed: grant search.create_partition(uuid, boolean) to plinth_platform
grant execute on function search.create_partition(uuid, boolean) to plinth_platform;
--> statement-breakpoint
-- managed: grant search.due_organizations(uuid, uuid[], uuid, integer)
revoke execute on function search.due_organizations(uuid, uuid[], uuid, integer) from public;
--> statement-breakpoint
-- managed: grant search.due_organizations(uuid, uuid[], uuid, integer) to plinth_platform
grant execute on function search.due_organizations(uuid, uuid[], uuid, integer) to plinth_platform;
--> statement-breakpoint
-- managed: grant search.enqueue_missing(uuid, uuid, uuid, uuid, integer)
revoke execute on function search.enqueue_missing(uuid, uuid, uuid, uuid, integer) from public;
--> statement-breakpoint
-- managed: grant search.enqueue_missing(uuid, uuid, uuid, uuid, integer) to plinth_platform
grant execute on function search.enqueue_missing(uuid, uuid, uuid, uuid, integer) to plinth_platform;
--> statement-breakpoint
-- managed: grant search.space_coverage(uuid, uuid)
revoke execute on function search.space_coverage(uuid, uuid) from public;
--> statement-breakpoint
-- managed: grant search.space_coverage(uuid, uuid) to plinth_platform
grant execute on function search.space_coverage(uuid, uuid) to plinth_platform;
--> statement-breakpoint
-- managed: grant search.activate_space(uuid, boolean)
revoke execute on function search.activate_space(uuid, boolean) from public;
--> statement-breakpoint
-- managed: grant search.activate_space(uuid, boolean) to plinth_platform
grant execute on function search.activate_space(uuid, boolean) to plinth_platform;
--> statement-breakpoint
-- managed: grant search.roll_back_space(text)
revoke execute on function search.roll_back_space(text) from public;
--> statement-breakpoint
-- managed: grant search.roll_back_space(text) to plinth_platform
grant execute on function search.roll_back_space(text) to plinth_platform;
--> statement-breakpoint
-- managed: grant search.retire_space(uuid)
revoke execute on function search.retire_space(uuid) from public;
--> statement-breakpoint
-- managed: grant search.retire_space(uuid) to plinth_platform
grant execute on function search.retire_space(uuid) to plinth_platform;
--> statement-breakpoint
-- managed: grant search.drop_space(uuid)
revoke execute on function search.drop_space(uuid) from public;
--> statement-breakpoint
-- managed: grant search.drop_space(uuid) to plinth_platform
grant execute on function search.drop_space(uuid) to plinth_platform;
--> statement-breakpoint
-- managed: function search.embedding_drift(uuid, integer)
create or replace function search.embedding_drift(space uuid, max_samples integer)
returns table (kind text, total bigint, samples json)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  its_purpose text;
  dims integer;
begin
  select s.purpose, s.dimensions into its_purpose, dims from "search"."spaces" s where s.id = space;
  if not found then
    raise exception 'space % not found', space
      using errcode = 'no_data_found', detail = 'space', hint = space::text;
  end if;
  return query
    with found as (
      select wrong.kind, e.organization_id, e.chunk_id
      from "search"."embeddings" e
      left join "search"."chunks" c on c.organization_id = e.organization_id and c.id = e.chunk_id
      left join "search"."embedding_jobs" j on j.organization_id = e.organization_id and j.space_id = space
        and j.chunk_id = e.chunk_id and j.status = 'pending'
      cross join lateral (values
        ('orphaned', c.id is null or c.purpose <> its_purpose),
        ('stale', j.chunk_id is null and c.purpose = its_purpose and e.content_hash <> c.content_hash),
        ('misfiled', c.id is not null and (e.owner_id, e.visibility, e.source_type) is distinct from (c.owner_id, c.visibility, c.source_type)),
        ('wrongDimension', public.vector_dims(e.embedding) <> dims),
        ('zero', public.l2_norm(e.embedding) = 0)
      ) as wrong (kind, is_wrong)
      where e.space_id = space and wrong.is_wrong
      union all
      select 'missing', c.organization_id, c.id
      from "search"."chunks" c
      left join "search"."embeddings" e on e.organization_id = c.organization_id and e.space_id = space and e.chunk_id = c.id
      left join "search"."embedding_jobs" j on j.organization_id = c.organization_id and j.space_id = space
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
end $$;
--> statement-breakpoint
-- managed: function search.repair_embeddings(uuid)
create or replace function search.repair_embeddings(space uuid)
returns table (deleted bigint, refiled bigint, revived bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  its_purpose text;
  dims integer;
begin
  select s.purpose, s.dimensions into its_purpose, dims from "search"."spaces" s where s.id = space;
  if not found then
    raise exception 'space % not found', space
      using errcode = 'no_data_found', detail = 'space', hint = space::text;
  end if;
  delete from "search"."embeddings" e
    where e.space_id = space and (public.vector_dims(e.embedding) <> dims
      or public.l2_norm(e.embedding) = 0
      or not exists (select from "search"."chunks" c where c.organization_id = e.organization_id
        and c.id = e.chunk_id and c.purpose = its_purpose));
  get diagnostics deleted = row_count;
  -- Locked, or a chunk that is made private meanwhile would have its vector made shared again.
  with wrong as materialized (
    select c.organization_id, c.id, c.owner_id, c.visibility, c.source_type
    from "search"."embeddings" e
    join "search"."chunks" c on c.organization_id = e.organization_id and c.id = e.chunk_id
    where e.space_id = space and (e.owner_id, e.visibility, e.source_type) is distinct from (c.owner_id, c.visibility, c.source_type)
    order by c.organization_id, c.id
    for share of c
  )
  update "search"."embeddings" e
    set owner_id = w.owner_id, visibility = w.visibility, source_type = w.source_type
    from wrong w
    where e.organization_id = w.organization_id and e.space_id = space and e.chunk_id = w.id;
  get diagnostics refiled = row_count;
  update "search"."embedding_jobs" j
    set status = 'pending', attempts = 0, last_error = null, due_at = now(), updated_at = now()
    where j.space_id = space and j.status = 'dead';
  get diagnostics revived = row_count;
  return next;
end $$;
--> statement-breakpoint
-- managed: grant search.embedding_drift(uuid, integer)
revoke execute on function search.embedding_drift(uuid, integer) from public;
--> statement-breakpoint
-- managed: grant search.embedding_drift(uuid, integer) to plinth_platform
grant execute on function search.embedding_drift(uuid, integer) to plinth_platform;
--> statement-breakpoint
-- managed: grant search.repair_embeddings(uuid)
revoke execute on function search.repair_embeddings(uuid) from public;
--> statement-breakpoint
-- managed: grant search.repair_embeddings(uuid) to plinth_platform
grant execute on function search.repair_embeddings(uuid) to plinth_platform;
--> statement-breakpoint
-- managed: function search.offloading_organizations(uuid, uuid, integer)
create or replace function search.offloading_organizations(namespace uuid, after uuid, max_rows integer)
returns setof uuid language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select o.id from "identity"."organizations" o
    where o.archived_at is null and (after is null or o.id > after)
      and (exists (select from "search"."placements" p where p.organization_id = o.id and p.namespace_id = namespace)
        or exists (select from "search"."embeddings" e join "search"."namespaces" n on n.space_id = e.space_id
          where e.organization_id = o.id and n.id = namespace))
    order by o.id limit max_rows;
end $$;
--> statement-breakpoint
-- managed: function search.namespace_drift(uuid)
create or replace function search.namespace_drift(namespace uuid)
returns table (local bigint, placed bigint, pending bigint, deleting bigint, dead bigint, missing bigint, stale bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  space uuid;
begin
  select n.space_id into space from "search"."namespaces" n where n.id = namespace;
  select count(p.synced_hash), count(*) filter (where p.status = 'pending'),
      count(*) filter (where p.status = 'deleting'), count(*) filter (where p.status = 'dead')
    into placed, pending, deleting, dead
    from "search"."placements" p where p.namespace_id = namespace;
  select count(*), count(*) filter (where o.archived_at is null and p.chunk_id is null),
      count(*) filter (where o.archived_at is null and p.status = 'synced'
        and p.synced_hash is distinct from sha256(public.halfvec_send(e.embedding)))
    into local, missing, stale
    from "search"."embeddings" e join "identity"."organizations" o on o.id = e.organization_id
    left join "search"."placements" p on p.organization_id = e.organization_id and p.namespace_id = namespace
      and p.chunk_id = e.chunk_id
    where e.space_id = space;
  return next;
end $$;
--> statement-breakpoint
-- managed: function search.sample_placements(uuid, integer)
create or replace function search.sample_placements(namespace uuid, max_rows integer)
returns table (organization_id uuid, chunk_id uuid)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select p.organization_id, p.chunk_id
    from "search"."placements" p join "identity"."organizations" o on o.id = p.organization_id
    where p.namespace_id = namespace and p.status = 'synced' and o.archived_at is null
    order by random() limit max_rows;
end $$;
--> statement-breakpoint
-- managed: function search.unplaced_vectors(uuid, json)
create or replace function search.unplaced_vectors(namespace uuid, keys json)
returns table (organization_id uuid, chunk_id uuid, is_known boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select k."organizationId", k.id,
      exists (select from "identity"."organizations" o where o.id = k."organizationId" and o.archived_at is null)
    from json_to_recordset(keys) as k ("organizationId" uuid, id uuid)
    where not exists (select from "search"."placements" p where p.organization_id = k."organizationId"
      and p.namespace_id = namespace and p.chunk_id = k.id);
end $$;
--> statement-breakpoint
-- managed: function search.count_queries(uuid, integer)
create or replace function search.count_queries(namespace uuid, times integer)
returns boolean language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  if nullif(current_setting('plinth.organization_id', true), '')::uuid is null or times not between 1 and 1000000 then
    return false;
  end if;
  update "search"."namespaces" n set queries = n.queries + times, last_used_at = now()
    where n.id = any(array(select u.id from "search"."namespaces" u where u.id = namespace
      for update skip locked));
  return found;
end $$;
--> statement-breakpoint
-- managed: grant search.offloading_organizations(uuid, uuid, integer)
revoke execute on function search.offloading_organizations(uuid, uuid, integer) from public;
--> statement-breakpoint
-- managed: grant search.offloading_organizations(uuid, uuid, integer) to plinth_platform
grant execute on function search.offloading_organizations(uuid, uuid, integer) to plinth_platform;
--> statement-breakpoint
-- managed: grant search.namespace_drift(uuid)
revoke execute on function search.namespace_drift(uuid) from public;
--> statement-breakpoint
-- managed: grant search.namespace_drift(uuid) to plinth_platform
grant execute on function search.namespace_drift(uuid) to plinth_platform;
--> statement-breakpoint
-- managed: grant search.sample_placements(uuid, integer)
revoke execute on function search.sample_placements(uuid, integer) from public;
--> statement-breakpoint
-- managed: grant search.sample_placements(uuid, integer) to plinth_platform
grant execute on function search.sample_placements(uuid, integer) to plinth_platform;
--> statement-breakpoint
-- managed: grant search.unplaced_vectors(uuid, json)
revoke execute on function search.unplaced_vectors(uuid, json) from public;
--> statement-breakpoint
-- managed: grant search.unplaced_vectors(uuid, json) to plinth_platform
grant execute on function search.unplaced_vectors(uuid, json) to plinth_platform;
--> statement-breakpoint
-- managed: grant search.count_queries(uuid, integer)
revoke execute on function search.count_queries(uuid, integer) from public;
--> statement-breakpoint
-- managed: grant search.count_queries(uuid, integer) to plinth_app
grant execute on function search.count_queries(uuid, integer) to plinth_app;
--> statement-breakpoint
-- managed: grant ai
grant usage on schema "ai" to plinth_app;
--> statement-breakpoint
-- managed: grant ai.context_logs
grant select, insert on "ai"."context_logs" to plinth_app;
--> statement-breakpoint
-- managed: comment "ai"."context_logs"
comment on table "ai"."context_logs" is 'What a model was given for an answer. Append-only.';
