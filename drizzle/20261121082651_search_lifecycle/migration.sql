-- managed: function search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz)
drop function if exists search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz);
--> statement-breakpoint
-- managed: function search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz)
drop function if exists search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz);
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
  -- A slice that is thinner in the whole space would not fill max_rows with all that the index looks at.
  select s.dimensions, case
        when i.rows is null then 2147483646
        when max_scan is not null then s.exact_rows
        else greatest(s.exact_rows, least(1e9, i.rows * max_rows / 20000)) end::integer,
      case s.distance when 'cosine' then '<=>' when 'l2' then '<->' else '<#>' end
    into dims, bound, op from "search"."spaces" s
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
         select e.chunk_id, e.embedding operator(public.%1$s) $3 as distance from %2$s limit $14 + 1),
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
    execute format('set local hnsw.ef_search = %s', least(max_scan, 200));
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
      truncated := max_scan is not null;
      if not truncated then
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
    with nearest as (
      select c.id, g.distance from unnest($2, $3) g (id, distance)
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
-- managed: function search.query_terms(search.language, text)
create or replace function search.query_terms(language "search"."language", query text)
returns tsquery language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  config regconfig := language::text::regconfig;
  beginning constant text := '(^|\s)(-?)([^-\s"*()&|!:<>''\\][^\s"*()&|!:<>''\\]*)\*(?=\s|$)';
  terms tsquery := websearch_to_tsquery(config, regexp_replace(query, beginning, '\1', 'g'));
  part text[];
  prefix tsquery;
begin
  for part in select regexp_matches(query, beginning, 'g') loop
    prefix := to_tsquery(config, '''' || part[3] || ''':*');
    if numnode(prefix) > 0 then
      prefix := case when part[2] = '-' then !! prefix else prefix end;
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
begin
  truncated := false;
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
        from (select distinct word from regexp_split_to_table(
            lower(regexp_replace(query, '(^|s)-S+', ' ', 'g')), '[^[:alnum:]]+') word
          where length(word) >= 3 and exists (select from unnest(languages) l
            where numnode(search.query_terms(l, word)) > 0) limit 8) w;
      if alike is not null then
        plan := 'similar words';
        set local pg_trgm.word_similarity_threshold = 0.4;
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
  likeness float8[] := array_fill(0::float8, array[cardinality(ids)]);
  chosen integer;
begin
  select array_agg(e.embedding order by i.at),
      array_agg(coalesce((i.score - i.least) / nullif(i.most - i.least, 0), 1) order by i.at)
    into vectors, relevance
    from (select u.id, u.score, u.at, min(u.score) over () as least, max(u.score) over () as most
      from unnest(ids, scores) with ordinality u (id, score, at)) i
    left join "search"."embeddings" e on e.organization_id = organization and e.space_id = space and e.chunk_id = i.id;
  for place in 1 .. least(max_rows, cardinality(ids)) loop
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
-- managed: grant search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean)
revoke execute on function search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean) from public;
--> statement-breakpoint
-- managed: grant search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean) to plinth_app
grant execute on function search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean) to plinth_app;
--> statement-breakpoint
-- managed: grant ai
grant usage on schema "ai" to plinth_app;
--> statement-breakpoint
-- managed: grant ai.context_logs
grant select, insert on "ai"."context_logs" to plinth_app;
--> statement-breakpoint
-- managed: comment "ai"."context_logs"
comment on table "ai"."context_logs" is 'What a model was given for an answer. Append-only.';
