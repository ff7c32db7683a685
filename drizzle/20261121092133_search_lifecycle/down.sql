-- managed: function identity.uuid_v7()
drop function if exists identity.uuid_v7();
--> statement-breakpoint
-- managed: function identity.member_organizations(uuid, uuid, integer)
drop function if exists identity.member_organizations(uuid, uuid, integer);
--> statement-breakpoint
-- managed: function identity.member_profiles(uuid, integer)
drop function if exists identity.member_profiles(uuid, integer);
--> statement-breakpoint
-- managed: function identity.enter_scope_from_jwt(text)
drop function if exists identity.enter_scope_from_jwt(text);
--> statement-breakpoint
-- managed: function identity.user_by_subject(text, text)
drop function if exists identity.user_by_subject(text, text);
--> statement-breakpoint
-- managed: function identity.enter_service_scope(uuid)
drop function if exists identity.enter_service_scope(uuid);
--> statement-breakpoint
-- managed: function identity.enter_scope(uuid, uuid)
drop function if exists identity.enter_scope(uuid, uuid);
--> statement-breakpoint
-- managed: function identity.granted_service(uuid)
drop function if exists identity.granted_service(uuid);
--> statement-breakpoint
-- managed: function identity.granted_role(uuid, uuid)
drop function if exists identity.granted_role(uuid, uuid);
--> statement-breakpoint
-- managed: function partitions.create_months(text, text, timestamptz, timestamptz)
drop function if exists partitions.create_months(text, text, timestamptz, timestamptz);
--> statement-breakpoint
-- managed: function search.count_queries(uuid, integer)
drop function if exists search.count_queries(uuid, integer);
--> statement-breakpoint
-- managed: function search.unplaced_vectors(uuid, json)
drop function if exists search.unplaced_vectors(uuid, json);
--> statement-breakpoint
-- managed: function search.sample_placements(uuid, integer)
drop function if exists search.sample_placements(uuid, integer);
--> statement-breakpoint
-- managed: function search.namespace_drift(uuid)
drop function if exists search.namespace_drift(uuid);
--> statement-breakpoint
-- managed: function search.offloading_organizations(uuid, uuid, integer)
drop function if exists search.offloading_organizations(uuid, uuid, integer);
--> statement-breakpoint
-- managed: function search.repair_embeddings(uuid)
drop function if exists search.repair_embeddings(uuid);
--> statement-breakpoint
-- managed: function search.embedding_drift(uuid, integer)
drop function if exists search.embedding_drift(uuid, integer);
--> statement-breakpoint
-- managed: function search.drop_space(uuid)
drop function if exists search.drop_space(uuid);
--> statement-breakpoint
-- managed: function search.retire_space(uuid)
drop function if exists search.retire_space(uuid);
--> statement-breakpoint
-- managed: function search.roll_back_space(text)
drop function if exists search.roll_back_space(text);
--> statement-breakpoint
-- managed: function search.activate_space(uuid, boolean)
drop function if exists search.activate_space(uuid, boolean);
--> statement-breakpoint
-- managed: function search.space_coverage(uuid, uuid)
drop function if exists search.space_coverage(uuid, uuid);
--> statement-breakpoint
-- managed: function search.enqueue_missing(uuid, uuid, uuid, uuid, integer)
drop function if exists search.enqueue_missing(uuid, uuid, uuid, uuid, integer);
--> statement-breakpoint
-- managed: function search.due_organizations(uuid, uuid[], uuid, integer)
drop function if exists search.due_organizations(uuid, uuid[], uuid, integer);
--> statement-breakpoint
-- managed: function search.create_partition(uuid, boolean)
drop function if exists search.create_partition(uuid, boolean);
--> statement-breakpoint
-- managed: function search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean)
drop function if exists search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean);
--> statement-breakpoint
-- managed: function search.query_terms(search.language, text)
drop function if exists search.query_terms(search.language, text);
--> statement-breakpoint
-- managed: function search.diverse_chunks(uuid, uuid[], float8[], float8, integer)
drop function if exists search.diverse_chunks(uuid, uuid[], float8[], float8, integer);
--> statement-breakpoint
-- managed: function search.given_chunks(uuid[], float8[], integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean)
drop function if exists search.given_chunks(uuid[], float8[], integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, boolean);
--> statement-breakpoint
-- managed: function search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, integer, boolean)
drop function if exists search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz, jsonpath, text, text, integer, boolean);
--> statement-breakpoint
-- managed: function search.exceeds(uuid, integer)
drop function if exists search.exceeds(uuid, integer);
--> statement-breakpoint
DROP POLICY "context_logs_select" ON "ai"."context_logs";
--> statement-breakpoint
DROP POLICY "context_logs_insert" ON "ai"."context_logs";
--> statement-breakpoint
DROP POLICY "embedding_jobs_select" ON "search"."embedding_jobs";
--> statement-breakpoint
DROP POLICY "embedding_jobs_insert" ON "search"."embedding_jobs";
--> statement-breakpoint
DROP POLICY "embedding_jobs_update" ON "search"."embedding_jobs";
--> statement-breakpoint
DROP POLICY "embedding_jobs_delete" ON "search"."embedding_jobs";
--> statement-breakpoint
DROP POLICY "placements_select" ON "search"."placements";
--> statement-breakpoint
DROP POLICY "placements_insert" ON "search"."placements";
--> statement-breakpoint
DROP POLICY "placements_update" ON "search"."placements";
--> statement-breakpoint
DROP POLICY "placements_delete" ON "search"."placements";
--> statement-breakpoint
ALTER TABLE "search"."placements" DROP CONSTRAINT "placements_namespace_id_fkey";
--> statement-breakpoint
DROP TABLE "ai"."context_logs";
--> statement-breakpoint
DROP TABLE "search"."embedding_jobs";
--> statement-breakpoint
DROP TABLE "search"."namespaces";
--> statement-breakpoint
DROP TABLE "search"."placements";
--> statement-breakpoint
DROP INDEX "search"."chunks_terms_idx";
--> statement-breakpoint
DROP INDEX "search"."chunks_content_idx";
--> statement-breakpoint
DROP INDEX "search"."chunks_language_idx";
--> statement-breakpoint
ALTER TABLE "search"."chunks" DROP COLUMN "purpose";
--> statement-breakpoint
ALTER TABLE "search"."chunks" DROP COLUMN "terms";
--> statement-breakpoint
-- managed: function search.terms(search.language, text)
drop function if exists search.terms(search.language, text);
--> statement-breakpoint
ALTER TABLE "search"."chunks" DROP COLUMN "language";
--> statement-breakpoint
ALTER TABLE "search"."embeddings" DROP COLUMN "content_hash";
--> statement-breakpoint
ALTER TABLE "search"."spaces" DROP COLUMN "activated_at";
--> statement-breakpoint
DROP TYPE "search"."embedding_job_status";
--> statement-breakpoint
DROP TYPE "search"."language";
--> statement-breakpoint
DROP TYPE "search"."placement_status";
--> statement-breakpoint
DROP SCHEMA "ai";
--> statement-breakpoint
ALTER TABLE "search"."chunks" ADD COLUMN "terms" tsvector GENERATED ALWAYS AS (to_tsvector('english', "search"."chunks"."content")) STORED;
--> statement-breakpoint
CREATE INDEX "chunks_terms_idx" ON "search"."chunks" USING gin ("organization_id","terms");
--> statement-breakpoint
ALTER TABLE "search"."chunks" ALTER COLUMN "terms" SET NOT NULL;
--> statement-breakpoint
-- managed: function partitions.create_months(text, text, timestamptz, timestamptz)
create or replace function partitions.create_months(
  parent_schema text, parent_table text, first timestamptz, last timestamptz)
returns integer language plpgsql security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
declare
  month timestamptz := date_trunc('month', first);
  made integer := 0;
  partition text;
begin
  if last < first or last > first + interval '50 years' then
    raise exception 'from % to % is no range of months', first, last using errcode = '22023';
  end if;
  perform 1 from pg_partitioned_table p
    join pg_class c on c.oid = p.partrelid
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = parent_schema and c.relname = parent_table and p.partstrat = 'r';
  if not found then
    raise exception '%.% is not partitioned by range', parent_schema, parent_table
      using errcode = '42809';
  end if;
  -- Two callers make one month once.
  perform pg_advisory_xact_lock(hashtext('plinth.partitions'));
  while month <= last loop
    partition := format('%s_%s_%s', parent_schema, parent_table, to_char(month, 'YYYY_MM'));
    if to_regclass(format('partitions.%I', partition)) is null then
      -- Attached and not made as a part: writers go on meanwhile, and no lock is waited for in a circle.
      execute format('create table partitions.%I (like %I.%I including all excluding indexes)',
        partition, parent_schema, parent_table);
      execute format('alter table %I.%I attach partition partitions.%I for values from (%L) to (%L)',
        parent_schema, parent_table, partition, month, month + interval '1 month');
      made := made + 1;
    end if;
    month := month + interval '1 month';
  end loop;
  return made;
end $$;
--> statement-breakpoint
-- managed: grant partitions.create_months(text, text, timestamptz, timestamptz)
revoke execute on function partitions.create_months(text, text, timestamptz, timestamptz) from public;
--> statement-breakpoint
-- managed: grant partitions.create_months(text, text, timestamptz, timestamptz) to plinth_platform
grant execute on function partitions.create_months(text, text, timestamptz, timestamptz) to plinth_platform;
--> statement-breakpoint
-- managed: function identity.granted_role(uuid, uuid)
create or replace function identity.granted_role(organization uuid, member uuid)
returns "identity"."membership_role" language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  granted "identity"."membership_role";
  archived timestamptz;
  deactivated timestamptz;
begin
  select m.role, o.archived_at, u.deactivated_at into granted, archived, deactivated
    from "identity"."memberships" m
    join "identity"."organizations" o on o.id = m.organization_id
    join "identity"."users" u on u.id = m.user_id
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
end $$;
--> statement-breakpoint
-- managed: function identity.granted_service(uuid)
create or replace function identity.granted_service(organization uuid)
returns text language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  archived timestamptz;
begin
  select o.archived_at into archived from "identity"."organizations" o where o.id = organization;
  if not found then
    raise exception 'organization % not found', organization
      using errcode = 'insufficient_privilege', detail = 'organization_not_found';
  elsif archived is not null then
    raise exception 'organization % is archived', organization
      using errcode = 'insufficient_privilege', detail = 'organization_archived';
  end if;
  return 'service';
end $$;
--> statement-breakpoint
-- managed: function identity.enter_scope(uuid, uuid)
create or replace function identity.enter_scope(organization uuid, member uuid)
returns text language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  granted text := identity.granted_role(organization, member);
begin
  execute format('set local plinth.organization_id = %L', organization);
  execute format('set local plinth.user_id = %L', member);
  execute format('set local plinth.role = %L', granted);
  set local role plinth_app;
  return granted;
end $$;
--> statement-breakpoint
-- managed: function identity.enter_service_scope(uuid)
create or replace function identity.enter_service_scope(organization uuid)
returns text language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  member text := '';
  granted text := identity.granted_service(organization);
begin
  execute format('set local plinth.organization_id = %L', organization);
  execute format('set local plinth.user_id = %L', member);
  execute format('set local plinth.role = %L', granted);
  set local role plinth_app;
  return granted;
end $$;
--> statement-breakpoint
-- managed: function identity.user_by_subject(text, text)
create or replace function identity.user_by_subject(auth_provider text, auth_subject text)
returns uuid language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return (select id from "identity"."users" where provider = auth_provider and subject = auth_subject);
end $$;
--> statement-breakpoint
-- managed: function identity.enter_scope_from_jwt(text)
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
end $$;
--> statement-breakpoint
-- managed: function identity.member_profiles(uuid, integer)
create or replace function identity.member_profiles(after_user uuid, max_rows integer)
returns table (user_id uuid, role "identity"."membership_role", joined_at timestamptz, email text,
  display_name text, avatar_url text, deactivated_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select m.user_id, m.role, m.joined_at, u.email, u.display_name, u.avatar_url, u.deactivated_at
    from "identity"."memberships" m join "identity"."users" u on u.id = m.user_id
    where m.organization_id = nullif(current_setting('plinth.organization_id', true), '')::uuid
      and nullif(current_setting('plinth.role', true), '') is not null
      and (after_user is null or m.user_id > after_user)
    order by m.user_id limit max_rows;
end $$;
--> statement-breakpoint
-- managed: function identity.member_organizations(uuid, uuid, integer)
create or replace function identity.member_organizations(
  member uuid, after_organization uuid, max_rows integer)
returns table (organization_id uuid, role "identity"."membership_role", kind "identity"."organization_kind", slug text,
  name text, joined_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select o.id, m.role, o.kind, o.slug, o.name, m.joined_at
    from "identity"."memberships" m join "identity"."organizations" o on o.id = m.organization_id
    where m.user_id = member and o.archived_at is null
      and (after_organization is null or o.id > after_organization)
    order by o.id limit max_rows;
end $$;
--> statement-breakpoint
-- managed: function identity.uuid_v7()
create or replace function identity.uuid_v7()
returns uuid language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  microseconds bigint := floor(extract(epoch from clock_timestamp()) * 1000000);
  -- 48 bits of milliseconds, the version, 12 bits of their fraction, 62 random ones.
  stamp text := lpad(to_hex(microseconds / 1000), 12, '0')
    || '7' || lpad(to_hex((microseconds % 1000) * 4096 / 1000), 3, '0');
begin
  return (stamp || substr(replace(gen_random_uuid()::text, '-', ''), 17))::uuid;
end $$;
--> statement-breakpoint
-- managed: grant identity.granted_role(uuid, uuid)
revoke execute on function identity.granted_role(uuid, uuid) from public;
--> statement-breakpoint
-- managed: grant identity.granted_role(uuid, uuid) to plinth_platform
grant execute on function identity.granted_role(uuid, uuid) to plinth_platform;
--> statement-breakpoint
-- managed: grant identity.granted_service(uuid)
revoke execute on function identity.granted_service(uuid) from public;
--> statement-breakpoint
-- managed: grant identity.granted_service(uuid) to plinth_platform
grant execute on function identity.granted_service(uuid) to plinth_platform;
--> statement-breakpoint
-- managed: grant identity.enter_scope(uuid, uuid)
revoke execute on function identity.enter_scope(uuid, uuid) from public;
--> statement-breakpoint
-- managed: grant identity.enter_scope(uuid, uuid) to plinth_platform
grant execute on function identity.enter_scope(uuid, uuid) to plinth_platform;
--> statement-breakpoint
-- managed: grant identity.enter_service_scope(uuid)
revoke execute on function identity.enter_service_scope(uuid) from public;
--> statement-breakpoint
-- managed: grant identity.enter_service_scope(uuid) to plinth_platform
grant execute on function identity.enter_service_scope(uuid) to plinth_platform;
--> statement-breakpoint
-- managed: grant identity.user_by_subject(text, text)
revoke execute on function identity.user_by_subject(text, text) from public;
--> statement-breakpoint
-- managed: grant identity.user_by_subject(text, text) to plinth_platform
grant execute on function identity.user_by_subject(text, text) to plinth_platform;
--> statement-breakpoint
-- managed: grant identity.enter_scope_from_jwt(text)
revoke execute on function identity.enter_scope_from_jwt(text) from public;
--> statement-breakpoint
-- managed: grant identity.enter_scope_from_jwt(text) to plinth_platform
grant execute on function identity.enter_scope_from_jwt(text) to plinth_platform;
--> statement-breakpoint
-- managed: grant identity.member_organizations(uuid, uuid, integer)
revoke execute on function identity.member_organizations(uuid, uuid, integer) from public;
--> statement-breakpoint
-- managed: grant identity.member_organizations(uuid, uuid, integer) to plinth_platform
grant execute on function identity.member_organizations(uuid, uuid, integer) to plinth_platform;
--> statement-breakpoint
-- managed: grant identity.member_profiles(uuid, integer)
revoke execute on function identity.member_profiles(uuid, integer) from public;
--> statement-breakpoint
-- managed: grant identity.member_profiles(uuid, integer) to plinth_app
grant execute on function identity.member_profiles(uuid, integer) to plinth_app;
--> statement-breakpoint
-- managed: function search.create_partition(uuid)
create or replace function search.create_partition(space uuid)
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
  execute format('create index %I on partitions.%I using hnsw ((embedding::public.halfvec(%s)) public.%I)',
    child || '_hnsw', child, dims, ops);
end $$;
--> statement-breakpoint
-- managed: grant search.create_partition(uuid)
revoke execute on function search.create_partition(uuid) from public;
--> statement-breakpoint
-- managed: grant search.create_partition(uuid) to plinth_platform
grant execute on function search.create_partition(uuid) to plinth_platform;
--> statement-breakpoint
-- managed: function search.exceeds(uuid, integer)
create or replace function search.exceeds(space uuid, bound integer)
returns boolean language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform 1 from "search"."embeddings" e
    where e.organization_id = nullif(current_setting('plinth.organization_id', true), '')::uuid and e.space_id = space
    offset bound limit 1;
  return found;
end $$;
--> statement-breakpoint
-- managed: function search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz)
create or replace function search.nearest_chunks(
  space uuid, query public.halfvec, max_rows integer, source_types text[], source_ids text[], project uuid, category uuid, owner uuid, since timestamptz, until timestamptz)
returns table (chunk_id uuid, distance float8) language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  dims integer;
  exact_rows integer;
  op text;
  filters text := 
    case when source_ids is not null then ' and c.source_id = any($5)' else '' end ||
    case when project is not null then ' and c.project_id = $6' else '' end ||
    case when category is not null then ' and c.category_id = $7' else '' end ||
    case when owner is not null then ' and c.owner_id = $8' else '' end ||
    case when since is not null then ' and c.occurred_at >= $9' else '' end ||
    case when until is not null then ' and c.occurred_at < $10' else '' end;
  slice text;
  is_large boolean;
  ids uuid[];
  distances float8[];
begin
  select s.dimensions, s.exact_rows,
      case s.distance when 'cosine' then '<=>' when 'l2' then '<->' else '<#>' end
    into dims, exact_rows, op from "search"."spaces" s where s.id = space;
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

  if filters = '' and source_types is null then
    is_large := search.exceeds(space, exact_rows);
  else
    execute 'select exists (select 1 from ' || slice || ' offset $11 limit 1)'
      into is_large using organization, space, query, source_types, source_ids, project, category, owner, since, until, exact_rows;
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
      into ids, distances using organization, space, query, source_types, source_ids, project, category, owner, since, until, max_rows;
  end if;

  if cardinality(ids) >= max_rows then
    return query select * from unnest(ids, distances) as near (id, away) order by away, id;
  else
    return query execute format(
      'select e.chunk_id, (e.embedding operator(public.%1$s) $3) as distance
       from %2$s order by distance, e.chunk_id limit $11', op, slice)
      using organization, space, query, source_types, source_ids, project, category, owner, since, until, max_rows;
  end if;
end $$;
--> statement-breakpoint
-- managed: function search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz)
create or replace function search.matching_chunks(query text, max_rows integer, source_types text[], source_ids text[], project uuid, category uuid, owner uuid, since timestamptz, until timestamptz)
returns table (chunk_id uuid, rank real) language plpgsql stable security definer
set search_path = pg_catalog, pg_temp as $$
declare
  terms tsquery := websearch_to_tsquery('english', query);
  filters text := case when source_types is not null then ' and c.source_type = any($4)' else '' end ||
    
    case when source_ids is not null then ' and c.source_id = any($5)' else '' end ||
    case when project is not null then ' and c.project_id = $6' else '' end ||
    case when category is not null then ' and c.category_id = $7' else '' end ||
    case when owner is not null then ' and c.owner_id = $8' else '' end ||
    case when since is not null then ' and c.occurred_at >= $9' else '' end ||
    case when until is not null then ' and c.occurred_at < $10' else '' end;
begin
  if numnode(terms) = 0 then
    return;
  end if;
  -- 1: a rank is divided by 1 + the logarithm of the length, or long chunks would always win.
  return query execute $query$
    select c.id, ts_rank(c.terms, $2, 1) as rank from "search"."chunks" c
    where c.organization_id = $1 and c.terms @@ $2
      and (c.visibility = 'shared' or current_setting('plinth.role', true) in ('owner', 'admin', 'service') or c.owner_id = nullif(current_setting('plinth.user_id', true), '')::uuid) $query$ || filters || $query$
    order by rank desc, c.id limit $3 $query$
    using nullif(current_setting('plinth.organization_id', true), '')::uuid, terms, max_rows, source_types, source_ids, project, category, owner, since, until;
end $$;
--> statement-breakpoint
-- managed: grant search.exceeds(uuid, integer)
revoke execute on function search.exceeds(uuid, integer) from public;
--> statement-breakpoint
-- managed: grant search.exceeds(uuid, integer) to plinth_app
grant execute on function search.exceeds(uuid, integer) to plinth_app;
--> statement-breakpoint
-- managed: grant search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz)
revoke execute on function search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz) from public;
--> statement-breakpoint
-- managed: grant search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz) to plinth_app
grant execute on function search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz) to plinth_app;
--> statement-breakpoint
-- managed: grant search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz)
revoke execute on function search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz) from public;
--> statement-breakpoint
-- managed: grant search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz) to plinth_app
grant execute on function search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz) to plinth_app;
