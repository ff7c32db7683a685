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
-- managed: grant ai
grant usage on schema "ai" to plinth_app;
--> statement-breakpoint
-- managed: grant ai.context_logs
grant select, insert on "ai"."context_logs" to plinth_app;
--> statement-breakpoint
-- managed: comment "ai"."context_logs"
comment on table "ai"."context_logs" is 'What a model was given for an answer. Append-only.';
