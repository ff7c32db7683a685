-- managed: role plinth_app
do $$ begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'plinth_app') then
    create role plinth_app nologin;
  end if;
exception when duplicate_object or unique_violation then null;
end $$;
--> statement-breakpoint
-- managed: role plinth_platform
do $$ begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'plinth_platform') then
    create role plinth_platform nologin;
  end if;
exception when duplicate_object or unique_violation then null;
end $$;
--> statement-breakpoint
-- managed: schema partitions
create schema if not exists partitions;
--> statement-breakpoint
-- managed: extension vector
create extension if not exists vector with schema public;
--> statement-breakpoint
-- managed: extension btree_gin
create extension if not exists btree_gin with schema public;
--> statement-breakpoint
-- managed: extension btree_gist
create extension if not exists btree_gist with schema public;
--> statement-breakpoint
CREATE SCHEMA "activity";
--> statement-breakpoint
CREATE SCHEMA "costs";
--> statement-breakpoint
CREATE SCHEMA "identity";
--> statement-breakpoint
CREATE SCHEMA "search";
--> statement-breakpoint
CREATE TYPE "costs"."price_unit" AS ENUM('input', 'output', 'cache_read', 'cache_write', 'reasoning', 'embedding', 'image', 'audio_second', 'request');
--> statement-breakpoint
CREATE TYPE "costs"."usage_status" AS ENUM('priced', 'unpriced', 'estimated');
--> statement-breakpoint
CREATE TYPE "identity"."membership_role" AS ENUM('viewer', 'member', 'editor', 'admin', 'owner');
--> statement-breakpoint
CREATE TYPE "identity"."organization_kind" AS ENUM('personal', 'team');
--> statement-breakpoint
CREATE TYPE "identity"."platform_role" AS ENUM('user', 'support', 'admin');
--> statement-breakpoint
CREATE TYPE "search"."search_mode" AS ENUM('hybrid', 'vector', 'text');
--> statement-breakpoint
CREATE TYPE "search"."space_distance" AS ENUM('cosine', 'l2', 'inner_product');
--> statement-breakpoint
CREATE TYPE "search"."space_status" AS ENUM('building', 'active', 'retired');
--> statement-breakpoint
CREATE TYPE "search"."visibility" AS ENUM('private', 'shared');
--> statement-breakpoint
-- managed: partitioning "activity"."activity_logs"
CREATE TABLE "activity"."activity_logs" (
	"organization_id" uuid,
	"id" uuid,
	"actor_id" uuid,
	"action" text NOT NULL,
	"resource_type" text,
	"resource_id" text,
	"resource_name" text,
	"changes" jsonb,
	"metadata" jsonb DEFAULT '{}' NOT NULL,
	"ip" inet,
	"user_agent" text,
	"request_id" text,
	"occurred_at" timestamp(3) with time zone DEFAULT now(),
	CONSTRAINT "activity_logs_pkey" PRIMARY KEY("organization_id","occurred_at","id")
) partition by range ("occurred_at");
--> statement-breakpoint
ALTER TABLE "activity"."activity_logs" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "costs"."model_prices" (
	"id" uuid PRIMARY KEY,
	"provider" text NOT NULL,
	"model" text NOT NULL,
	"unit" "costs"."price_unit" NOT NULL,
	"tier_from" bigint DEFAULT 0 NOT NULL,
	"nanos_per_million" bigint NOT NULL,
	"source" text DEFAULT 'manual' NOT NULL,
	"valid_from" timestamp(3) with time zone NOT NULL,
	"valid_to" timestamp(3) with time zone,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "model_prices_nanos_per_million_check" CHECK ("nanos_per_million" >= 0),
	CONSTRAINT "model_prices_tier_from_check" CHECK ("tier_from" >= 0),
	CONSTRAINT "model_prices_valid_to_check" CHECK ("valid_to" > "valid_from")
);
--> statement-breakpoint
-- managed: partitioning "costs"."usage_events"
CREATE TABLE "costs"."usage_events" (
	"organization_id" uuid,
	"id" uuid,
	"user_id" uuid,
	"project_id" uuid,
	"run_id" uuid,
	"provider" text NOT NULL,
	"model" text NOT NULL,
	"endpoint" text,
	"operation" text NOT NULL,
	"status" "costs"."usage_status" NOT NULL,
	"idempotency_key" text,
	"metadata" jsonb DEFAULT '{}' NOT NULL,
	"input_tokens" bigint DEFAULT 0 NOT NULL,
	"output_tokens" bigint DEFAULT 0 NOT NULL,
	"cache_read_tokens" bigint DEFAULT 0 NOT NULL,
	"cache_write_tokens" bigint DEFAULT 0 NOT NULL,
	"reasoning_tokens" bigint DEFAULT 0 NOT NULL,
	"embedding_tokens" bigint DEFAULT 0 NOT NULL,
	"images" bigint DEFAULT 0 NOT NULL,
	"audio_seconds" bigint DEFAULT 0 NOT NULL,
	"requests" bigint DEFAULT 1 NOT NULL,
	"cost_nanos" bigint,
	"price_ids" uuid[] DEFAULT '{}'::uuid[] NOT NULL,
	"latency_ms" integer,
	"occurred_at" timestamp(3) with time zone DEFAULT now(),
	CONSTRAINT "usage_events_pkey" PRIMARY KEY("organization_id","occurred_at","id"),
	CONSTRAINT "usage_events_counts_check" CHECK (least("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "embedding_tokens", "images", "audio_seconds", "requests") >= 0),
	CONSTRAINT "usage_events_cost_nanos_check" CHECK ("cost_nanos" >= 0),
	CONSTRAINT "usage_events_status_check" CHECK (("status" = 'unpriced') = ("cost_nanos" is null))
) partition by range ("occurred_at");
--> statement-breakpoint
ALTER TABLE "costs"."usage_events" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "costs"."usage_keys" (
	"organization_id" uuid,
	"key" text,
	"event_id" uuid NOT NULL,
	"user_id" uuid,
	"status" "costs"."usage_status" NOT NULL,
	"cost_nanos" bigint,
	"occurred_at" timestamp(3) with time zone NOT NULL,
	CONSTRAINT "usage_keys_pkey" PRIMARY KEY("organization_id","key")
);
--> statement-breakpoint
ALTER TABLE "costs"."usage_keys" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "identity"."invitations" (
	"organization_id" uuid,
	"id" uuid,
	"invited_by" uuid,
	"accepted_by" uuid,
	"role" "identity"."membership_role" DEFAULT 'member'::"identity"."membership_role" NOT NULL,
	"email" text NOT NULL,
	"token_hash" bytea NOT NULL,
	"expires_at" timestamp(3) with time zone NOT NULL,
	"accepted_at" timestamp(3) with time zone,
	"revoked_at" timestamp(3) with time zone,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "invitations_pkey" PRIMARY KEY("organization_id","id"),
	CONSTRAINT "invitations_role_check" CHECK ("role" <> 'owner'),
	CONSTRAINT "invitations_token_hash_check" CHECK (length("token_hash") = 32)
);
--> statement-breakpoint
ALTER TABLE "identity"."invitations" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "identity"."memberships" (
	"organization_id" uuid,
	"user_id" uuid,
	"invited_by" uuid,
	"role" "identity"."membership_role" DEFAULT 'member'::"identity"."membership_role" NOT NULL,
	"joined_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "memberships_pkey" PRIMARY KEY("organization_id","user_id")
);
--> statement-breakpoint
ALTER TABLE "identity"."memberships" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "identity"."organizations" (
	"id" uuid PRIMARY KEY,
	"kind" "identity"."organization_kind" DEFAULT 'team'::"identity"."organization_kind" NOT NULL,
	"slug" text NOT NULL,
	"name" text NOT NULL,
	"settings" jsonb DEFAULT '{}' NOT NULL,
	"archived_at" timestamp(3) with time zone,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "organizations_slug_check" CHECK ("slug" <> '')
);
--> statement-breakpoint
CREATE TABLE "identity"."users" (
	"id" uuid PRIMARY KEY,
	"platform_role" "identity"."platform_role" DEFAULT 'user'::"identity"."platform_role" NOT NULL,
	"email" text NOT NULL,
	"display_name" text NOT NULL,
	"avatar_url" text,
	"provider" text,
	"subject" text,
	"preferences" jsonb DEFAULT '{}' NOT NULL,
	"deactivated_at" timestamp(3) with time zone,
	"erased_at" timestamp(3) with time zone,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "users_subject_check" CHECK (("provider" is null) = ("subject" is null))
);
--> statement-breakpoint
CREATE TABLE "search"."chunks" (
	"organization_id" uuid,
	"id" uuid,
	"owner_id" uuid,
	"project_id" uuid,
	"category_id" uuid,
	"source_type" text NOT NULL,
	"source_id" text NOT NULL,
	"position" integer NOT NULL,
	"visibility" "search"."visibility" DEFAULT 'shared'::"search"."visibility" NOT NULL,
	"content" text NOT NULL,
	"content_hash" bytea NOT NULL,
	"metadata" jsonb DEFAULT '{}' NOT NULL,
	"token_count" integer NOT NULL,
	"occurred_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"terms" tsvector GENERATED ALWAYS AS (to_tsvector('english', "search"."chunks"."content")) STORED NOT NULL,
	CONSTRAINT "chunks_pkey" PRIMARY KEY("organization_id","id"),
	CONSTRAINT "chunks_source_type_check" CHECK ("source_type" <> '' and length("source_type") <= 40),
	CONSTRAINT "chunks_owner_id_check" CHECK ("visibility" = 'shared' or "owner_id" is not null),
	CONSTRAINT "chunks_position_check" CHECK ("position" >= 0),
	CONSTRAINT "chunks_token_count_check" CHECK ("token_count" >= 0),
	CONSTRAINT "chunks_content_hash_check" CHECK (length("content_hash") = 32)
);
--> statement-breakpoint
ALTER TABLE "search"."chunks" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
-- managed: partitioning "search"."embeddings"
CREATE TABLE "search"."embeddings" (
	"organization_id" uuid,
	"space_id" uuid,
	"chunk_id" uuid,
	"owner_id" uuid,
	"visibility" "search"."visibility" NOT NULL,
	"source_type" text NOT NULL,
	"embedding" public.halfvec NOT NULL,
	CONSTRAINT "embeddings_pkey" PRIMARY KEY("organization_id","space_id","chunk_id")
) partition by list ("space_id");
--> statement-breakpoint
ALTER TABLE "search"."embeddings" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
-- managed: partitioning "search"."searches"
CREATE TABLE "search"."searches" (
	"organization_id" uuid,
	"id" uuid,
	"user_id" uuid,
	"space_id" uuid,
	"mode" "search"."search_mode" NOT NULL,
	"query" text,
	"filters" jsonb DEFAULT '{}' NOT NULL,
	"result_count" integer NOT NULL,
	"top_similarity" real,
	"latency_ms" integer NOT NULL,
	"occurred_at" timestamp(3) with time zone DEFAULT now(),
	CONSTRAINT "searches_pkey" PRIMARY KEY("organization_id","occurred_at","id")
) partition by range ("occurred_at");
--> statement-breakpoint
ALTER TABLE "search"."searches" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "search"."spaces" (
	"id" uuid PRIMARY KEY,
	"purpose" text DEFAULT 'text' NOT NULL,
	"status" "search"."space_status" DEFAULT 'building'::"search"."space_status" NOT NULL,
	"provider" text NOT NULL,
	"model" text NOT NULL,
	"revision" text DEFAULT '1' NOT NULL,
	"distance" "search"."space_distance" DEFAULT 'cosine'::"search"."space_distance" NOT NULL,
	"dimensions" integer NOT NULL,
	"exact_rows" integer DEFAULT 4000 NOT NULL,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "spaces_dimensions_check" CHECK ("dimensions" between 1 and 4000),
	CONSTRAINT "spaces_exact_rows_check" CHECK ("exact_rows" >= 0)
);
--> statement-breakpoint
CREATE INDEX "activity_logs_actor_id_idx" ON "activity"."activity_logs" ("organization_id","actor_id","occurred_at","id");
--> statement-breakpoint
CREATE INDEX "activity_logs_resource_idx" ON "activity"."activity_logs" ("organization_id","resource_type","resource_id","occurred_at","id");
--> statement-breakpoint
CREATE INDEX "activity_logs_action_idx" ON "activity"."activity_logs" ("organization_id","action","occurred_at","id");
--> statement-breakpoint
CREATE UNIQUE INDEX "model_prices_model_key" ON "costs"."model_prices" ("provider","model","unit","tier_from","valid_from");
--> statement-breakpoint
CREATE INDEX "usage_events_user_id_idx" ON "costs"."usage_events" ("organization_id","user_id","occurred_at","id");
--> statement-breakpoint
CREATE UNIQUE INDEX "invitations_token_hash_key" ON "identity"."invitations" ("organization_id","token_hash");
--> statement-breakpoint
CREATE INDEX "invitations_invited_by_idx" ON "identity"."invitations" ("invited_by");
--> statement-breakpoint
CREATE INDEX "invitations_accepted_by_idx" ON "identity"."invitations" ("accepted_by");
--> statement-breakpoint
CREATE INDEX "memberships_user_id_idx" ON "identity"."memberships" ("user_id");
--> statement-breakpoint
CREATE INDEX "memberships_invited_by_idx" ON "identity"."memberships" ("invited_by");
--> statement-breakpoint
CREATE UNIQUE INDEX "organizations_slug_key" ON "identity"."organizations" (lower("slug"));
--> statement-breakpoint
CREATE UNIQUE INDEX "users_email_key" ON "identity"."users" (lower("email"));
--> statement-breakpoint
CREATE UNIQUE INDEX "users_provider_subject_key" ON "identity"."users" ("provider","subject");
--> statement-breakpoint
CREATE INDEX "chunks_owner_id_idx" ON "search"."chunks" ("owner_id");
--> statement-breakpoint
CREATE INDEX "chunks_terms_idx" ON "search"."chunks" USING gin ("organization_id","terms");
--> statement-breakpoint
CREATE INDEX "embeddings_chunk_id_idx" ON "search"."embeddings" ("organization_id","chunk_id");
--> statement-breakpoint
CREATE UNIQUE INDEX "spaces_model_key" ON "search"."spaces" ("purpose","provider","model","dimensions","distance","revision");
--> statement-breakpoint
CREATE UNIQUE INDEX "spaces_active_key" ON "search"."spaces" ("purpose") WHERE "status" = 'active';
--> statement-breakpoint
ALTER TABLE "activity"."activity_logs" ADD CONSTRAINT "activity_logs_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "costs"."usage_events" ADD CONSTRAINT "usage_events_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "costs"."usage_keys" ADD CONSTRAINT "usage_keys_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "identity"."invitations" ADD CONSTRAINT "invitations_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "identity"."invitations" ADD CONSTRAINT "invitations_invited_by_fkey" FOREIGN KEY ("invited_by") REFERENCES "identity"."users"("id");
--> statement-breakpoint
ALTER TABLE "identity"."invitations" ADD CONSTRAINT "invitations_accepted_by_fkey" FOREIGN KEY ("accepted_by") REFERENCES "identity"."users"("id");
--> statement-breakpoint
ALTER TABLE "identity"."memberships" ADD CONSTRAINT "memberships_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "identity"."memberships" ADD CONSTRAINT "memberships_user_id_fkey" FOREIGN KEY ("user_id") REFERENCES "identity"."users"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "identity"."memberships" ADD CONSTRAINT "memberships_invited_by_fkey" FOREIGN KEY ("invited_by") REFERENCES "identity"."users"("id");
--> statement-breakpoint
ALTER TABLE "search"."chunks" ADD CONSTRAINT "chunks_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "search"."chunks" ADD CONSTRAINT "chunks_owner_id_fkey" FOREIGN KEY ("owner_id") REFERENCES "identity"."users"("id");
--> statement-breakpoint
ALTER TABLE "search"."embeddings" ADD CONSTRAINT "embeddings_space_id_fkey" FOREIGN KEY ("space_id") REFERENCES "search"."spaces"("id");
--> statement-breakpoint
ALTER TABLE "search"."embeddings" ADD CONSTRAINT "embeddings_chunk_id_fkey" FOREIGN KEY ("organization_id","chunk_id") REFERENCES "search"."chunks"("organization_id","id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "search"."searches" ADD CONSTRAINT "searches_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
CREATE POLICY "activity_logs_select" ON "activity"."activity_logs" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("activity"."activity_logs"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "activity"."activity_logs"."actor_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "activity_logs_insert" ON "activity"."activity_logs" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("activity"."activity_logs"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "activity"."activity_logs"."actor_id" is null or "activity"."activity_logs"."actor_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "usage_events_select" ON "costs"."usage_events" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("costs"."usage_events"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "costs"."usage_events"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "usage_events_insert" ON "costs"."usage_events" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("costs"."usage_events"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "costs"."usage_events"."user_id" is null or "costs"."usage_events"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "usage_keys_select" ON "costs"."usage_keys" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("costs"."usage_keys"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "costs"."usage_keys"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "usage_keys_insert" ON "costs"."usage_keys" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("costs"."usage_keys"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "costs"."usage_keys"."user_id" is null or "costs"."usage_keys"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "invitations_select" ON "identity"."invitations" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("identity"."invitations"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "invitations_insert" ON "identity"."invitations" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("identity"."invitations"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "invitations_update" ON "identity"."invitations" AS PERMISSIVE FOR UPDATE TO "plinth_app" USING ("identity"."invitations"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service')) WITH CHECK ("identity"."invitations"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "invitations_delete" ON "identity"."invitations" AS PERMISSIVE FOR DELETE TO "plinth_app" USING ("identity"."invitations"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "memberships_select" ON "identity"."memberships" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("identity"."memberships"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid);
--> statement-breakpoint
CREATE POLICY "memberships_insert" ON "identity"."memberships" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("identity"."memberships"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') and ("identity"."memberships"."role" <> 'owner' or current_setting('plinth.role', true) in ('owner', 'service'))));
--> statement-breakpoint
CREATE POLICY "memberships_update" ON "identity"."memberships" AS PERMISSIVE FOR UPDATE TO "plinth_app" USING ("identity"."memberships"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') and ("identity"."memberships"."role" <> 'owner' or current_setting('plinth.role', true) in ('owner', 'service')))) WITH CHECK ("identity"."memberships"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') and ("identity"."memberships"."role" <> 'owner' or current_setting('plinth.role', true) in ('owner', 'service'))));
--> statement-breakpoint
CREATE POLICY "memberships_delete" ON "identity"."memberships" AS PERMISSIVE FOR DELETE TO "plinth_app" USING ("identity"."memberships"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and ((current_setting('plinth.role', true) in ('owner', 'admin', 'service') and ("identity"."memberships"."role" <> 'owner' or current_setting('plinth.role', true) in ('owner', 'service'))) or "identity"."memberships"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "chunks_select" ON "search"."chunks" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("search"."chunks"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and ("search"."chunks"."visibility" = 'shared' or current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "search"."chunks"."owner_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "chunks_insert" ON "search"."chunks" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("search"."chunks"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or ("search"."chunks"."owner_id" = nullif(current_setting('plinth.user_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service')) or ("search"."chunks"."visibility" = 'shared' and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'service'))));
--> statement-breakpoint
CREATE POLICY "chunks_update" ON "search"."chunks" AS PERMISSIVE FOR UPDATE TO "plinth_app" USING ("search"."chunks"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or ("search"."chunks"."owner_id" = nullif(current_setting('plinth.user_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service')) or ("search"."chunks"."visibility" = 'shared' and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'service')))) WITH CHECK ("search"."chunks"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or ("search"."chunks"."owner_id" = nullif(current_setting('plinth.user_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service')) or ("search"."chunks"."visibility" = 'shared' and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'service'))));
--> statement-breakpoint
CREATE POLICY "chunks_delete" ON "search"."chunks" AS PERMISSIVE FOR DELETE TO "plinth_app" USING ("search"."chunks"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or ("search"."chunks"."owner_id" = nullif(current_setting('plinth.user_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service')) or ("search"."chunks"."visibility" = 'shared' and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'service'))));
--> statement-breakpoint
CREATE POLICY "embeddings_select" ON "search"."embeddings" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("search"."embeddings"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and ("search"."embeddings"."visibility" = 'shared' or current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "search"."embeddings"."owner_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "embeddings_insert" ON "search"."embeddings" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("search"."embeddings"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or ("search"."embeddings"."owner_id" = nullif(current_setting('plinth.user_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service')) or ("search"."embeddings"."visibility" = 'shared' and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'service'))));
--> statement-breakpoint
CREATE POLICY "embeddings_update" ON "search"."embeddings" AS PERMISSIVE FOR UPDATE TO "plinth_app" USING ("search"."embeddings"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or ("search"."embeddings"."owner_id" = nullif(current_setting('plinth.user_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service')) or ("search"."embeddings"."visibility" = 'shared' and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'service')))) WITH CHECK ("search"."embeddings"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or ("search"."embeddings"."owner_id" = nullif(current_setting('plinth.user_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service')) or ("search"."embeddings"."visibility" = 'shared' and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'service'))));
--> statement-breakpoint
CREATE POLICY "embeddings_delete" ON "search"."embeddings" AS PERMISSIVE FOR DELETE TO "plinth_app" USING ("search"."embeddings"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or ("search"."embeddings"."owner_id" = nullif(current_setting('plinth.user_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service')) or ("search"."embeddings"."visibility" = 'shared' and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'service'))));
--> statement-breakpoint
CREATE POLICY "searches_select" ON "search"."searches" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("search"."searches"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "search"."searches"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "searches_insert" ON "search"."searches" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("search"."searches"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "search"."searches"."user_id" is null or "search"."searches"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
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
-- managed: grant partitions
grant usage on schema partitions to plinth_platform;
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
-- managed: grant identity
grant usage on schema "identity" to plinth_app, plinth_platform;
--> statement-breakpoint
-- managed: grant identity.organizations
grant select, insert, update, delete on "identity"."organizations" to plinth_platform;
--> statement-breakpoint
-- managed: grant identity.users
grant select, insert, update on "identity"."users" to plinth_platform;
--> statement-breakpoint
-- managed: grant identity.memberships
grant select, insert, update, delete on "identity"."memberships" to plinth_app;
--> statement-breakpoint
-- managed: grant identity.invitations
grant select, insert, update, delete on "identity"."invitations" to plinth_app;
--> statement-breakpoint
-- managed: comment "identity"."organizations"
comment on table "identity"."organizations" is 'A tenant: whom the rows of every tenant table belong to.';
--> statement-breakpoint
-- managed: comment "identity"."users"
comment on table "identity"."users" is 'A person, in as many organizations as there are memberships.';
--> statement-breakpoint
-- managed: comment "identity"."memberships"
comment on table "identity"."memberships" is 'The right of a user to act in an organization, by a role.';
--> statement-breakpoint
-- managed: comment "identity"."invitations"
comment on table "identity"."invitations" is 'An offer of a membership, made out to an address, good once.';
--> statement-breakpoint
-- managed: constraint chunks_source_key
alter table "search"."chunks" drop constraint if exists "chunks_source_key", add constraint "chunks_source_key" unique (organization_id, source_type, source_id, position) deferrable initially immediate;
--> statement-breakpoint
-- managed: storage "search"."embeddings".embedding
alter table "search"."embeddings" alter column "embedding" set storage plain;
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
-- managed: grant search
grant usage on schema "search" to plinth_app, plinth_platform;
--> statement-breakpoint
-- managed: grant search.spaces
grant select on "search"."spaces" to plinth_app;
--> statement-breakpoint
-- managed: grant search.spaces to plinth_platform
grant select, insert, update, delete on "search"."spaces" to plinth_platform;
--> statement-breakpoint
-- managed: grant search.chunks
grant select, insert, update, delete on "search"."chunks" to plinth_app;
--> statement-breakpoint
-- managed: grant search.embeddings
grant select, insert, update, delete on "search"."embeddings" to plinth_app;
--> statement-breakpoint
-- managed: grant search.searches
grant select, insert on "search"."searches" to plinth_app;
--> statement-breakpoint
-- managed: call partitions of search.searches
select partitions.create_months('search', 'searches', now() - interval '1 month', now() + interval '12 months');
--> statement-breakpoint
-- managed: comment "search"."spaces"
comment on table "search"."spaces" is 'What makes two vectors comparable: the model that made them, and how.';
--> statement-breakpoint
-- managed: comment "search"."chunks"
comment on table "search"."chunks" is 'A passage of a source, as it is found.';
--> statement-breakpoint
-- managed: comment "search"."embeddings"
comment on table "search"."embeddings" is 'The vector of a chunk in a space; one partition a space.';
--> statement-breakpoint
-- managed: comment "search"."searches"
comment on table "search"."searches" is 'What was asked, and how well it was answered. Append-only.';
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
--> statement-breakpoint
-- managed: constraint model_prices_validity_excl
alter table "costs"."model_prices" drop constraint if exists "model_prices_validity_excl", add constraint "model_prices_validity_excl" exclude using gist (provider with =, model with =, unit with =, tier_from with =, tstzrange(valid_from, valid_to) with &&);
--> statement-breakpoint
-- managed: grant costs
grant usage on schema "costs" to plinth_app, plinth_platform;
--> statement-breakpoint
-- managed: grant costs.model_prices
grant select on "costs"."model_prices" to plinth_app;
--> statement-breakpoint
-- managed: grant costs.model_prices to plinth_platform
grant select, insert, update, delete on "costs"."model_prices" to plinth_platform;
--> statement-breakpoint
-- managed: grant costs.usage_events
grant select, insert on "costs"."usage_events" to plinth_app;
--> statement-breakpoint
-- managed: grant costs.usage_keys
grant select, insert on "costs"."usage_keys" to plinth_app;
--> statement-breakpoint
-- managed: call partitions of costs.usage_events
select partitions.create_months('costs', 'usage_events', now() - interval '1 month', now() + interval '12 months');
--> statement-breakpoint
-- managed: comment "costs"."model_prices"
comment on table "costs"."model_prices" is 'What a unit of a model costs, in a stretch of time.';
--> statement-breakpoint
-- managed: comment "costs"."usage_events"
comment on table "costs"."usage_events" is 'A call to a model and what it cost. Append-only.';
--> statement-breakpoint
-- managed: comment "costs"."usage_keys"
comment on table "costs"."usage_keys" is 'The calls recorded under an idempotency key. Append-only.';
--> statement-breakpoint
-- managed: grant activity
grant usage on schema "activity" to plinth_app;
--> statement-breakpoint
-- managed: grant activity.activity_logs
grant select, insert on "activity"."activity_logs" to plinth_app;
--> statement-breakpoint
-- managed: call partitions of activity.activity_logs
select partitions.create_months('activity', 'activity_logs', now() - interval '1 month', now() + interval '12 months');
--> statement-breakpoint
-- managed: comment "activity"."activity_logs"
comment on table "activity"."activity_logs" is 'Who did what to which thing. Append-only.';
