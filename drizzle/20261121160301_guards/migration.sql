-- managed: grant activity
revoke usage on schema "activity" from plinth_app;
--> statement-breakpoint
ALTER TABLE "costs"."usage_events" DROP CONSTRAINT "usage_events_cost_nanos_check";
--> statement-breakpoint
CREATE SCHEMA "ops";
--> statement-breakpoint
CREATE TYPE "costs"."budget_mode" AS ENUM('block', 'warn');
--> statement-breakpoint
CREATE TYPE "costs"."budget_period" AS ENUM('hour', 'day', 'month', 'total');
--> statement-breakpoint
CREATE TYPE "costs"."budget_scope" AS ENUM('organization', 'user', 'project', 'model');
--> statement-breakpoint
CREATE TYPE "activity"."delivery_direction" AS ENUM('incoming', 'outgoing');
--> statement-breakpoint
CREATE TYPE "activity"."delivery_status" AS ENUM('received', 'rejected', 'pending', 'delivered', 'dead');
--> statement-breakpoint
CREATE TYPE "activity"."error_level" AS ENUM('debug', 'info', 'warning', 'error', 'fatal');
--> statement-breakpoint
CREATE TYPE "ops"."idempotency_state" AS ENUM('claimed', 'completed');
--> statement-breakpoint
CREATE TYPE "costs"."reservation_state" AS ENUM('held', 'settled', 'released', 'expired');
--> statement-breakpoint
CREATE TABLE "activity"."chains" (
	"organization_id" uuid PRIMARY KEY,
	"enabled_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"disabled_at" timestamp(3) with time zone
);
--> statement-breakpoint
ALTER TABLE "activity"."chains" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "activity"."seals" (
	"organization_id" uuid,
	"sequence" bigint,
	"previous_hash" bytea,
	"row_count" integer NOT NULL,
	"rows_hash" bytea NOT NULL,
	"first_at" timestamp(3) with time zone NOT NULL,
	"last_at" timestamp(3) with time zone NOT NULL,
	"hash" bytea NOT NULL,
	"complete_at" timestamp(3) with time zone,
	"sealed_at" timestamp(3) with time zone NOT NULL,
	CONSTRAINT "seals_pkey" PRIMARY KEY("organization_id","sequence"),
	CONSTRAINT "seals_sequence_check" CHECK (("sequence" = 1) = ("previous_hash" is null))
);
--> statement-breakpoint
ALTER TABLE "activity"."seals" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "identity"."api_keys" (
	"organization_id" uuid,
	"id" uuid,
	"user_id" uuid,
	"created_by" uuid,
	"name" text NOT NULL,
	"secret_hash" bytea NOT NULL,
	"scopes" text[] DEFAULT '{}'::text[] NOT NULL,
	"expires_at" timestamp(3) with time zone,
	"revoked_at" timestamp(3) with time zone,
	"last_used_at" timestamp(3) with time zone,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "api_keys_pkey" PRIMARY KEY("organization_id","id"),
	CONSTRAINT "api_keys_secret_hash_check" CHECK (length("secret_hash") = 32)
);
--> statement-breakpoint
ALTER TABLE "identity"."api_keys" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
-- managed: partitioning "activity"."auth_logs"
CREATE TABLE "activity"."auth_logs" (
	"id" uuid,
	"user_id" uuid,
	"event" text NOT NULL,
	"success" boolean NOT NULL,
	"reason" text,
	"email_hash" bytea,
	"ip" inet,
	"network" cidr,
	"user_agent" text,
	"request_id" text,
	"occurred_at" timestamp(3) with time zone DEFAULT now(),
	CONSTRAINT "auth_logs_pkey" PRIMARY KEY("occurred_at","id")
) partition by range ("occurred_at");
--> statement-breakpoint
CREATE TABLE "costs"."budget_alerts" (
	"organization_id" uuid,
	"id" uuid,
	"budget_id" uuid NOT NULL,
	"subject" text NOT NULL,
	"starts_at" timestamp(3) with time zone NOT NULL,
	"threshold" smallint NOT NULL,
	"spent_nanos" bigint NOT NULL,
	"limit_nanos" bigint NOT NULL,
	"raised_at" timestamp(3) with time zone NOT NULL,
	"claimed_at" timestamp(3) with time zone,
	CONSTRAINT "budget_alerts_pkey" PRIMARY KEY("organization_id","id")
);
--> statement-breakpoint
ALTER TABLE "costs"."budget_alerts" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "costs"."budget_windows" (
	"organization_id" uuid,
	"budget_id" uuid,
	"subject" text,
	"starts_at" timestamp(3) with time zone,
	"shard" smallint,
	"scope" "costs"."budget_scope" NOT NULL,
	"quota_nanos" bigint NOT NULL,
	"spent_nanos" bigint NOT NULL,
	"reserved_nanos" bigint NOT NULL,
	"ends_at" timestamp(3) with time zone,
	CONSTRAINT "budget_windows_pkey" PRIMARY KEY("organization_id","budget_id","subject","starts_at","shard"),
	CONSTRAINT "budget_windows_reserved_nanos_check" CHECK ("reserved_nanos" >= 0)
);
--> statement-breakpoint
ALTER TABLE "costs"."budget_windows" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "costs"."budgets" (
	"organization_id" uuid,
	"id" uuid,
	"name" text NOT NULL,
	"scope" "costs"."budget_scope" NOT NULL,
	"subject" text,
	"period" "costs"."budget_period" NOT NULL,
	"mode" "costs"."budget_mode" DEFAULT 'block'::"costs"."budget_mode" NOT NULL,
	"limit_nanos" bigint NOT NULL,
	"thresholds" smallint[] DEFAULT '{80,100}'::smallint[] NOT NULL,
	"shards" smallint DEFAULT 1 NOT NULL,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "budgets_pkey" PRIMARY KEY("organization_id","id"),
	CONSTRAINT "budgets_limit_nanos_check" CHECK ("limit_nanos" >= 0),
	CONSTRAINT "budgets_shards_check" CHECK ("shards" between 1 and 64),
	CONSTRAINT "budgets_subject_check" CHECK ("scope" <> 'organization' or "subject" is null)
);
--> statement-breakpoint
ALTER TABLE "costs"."budgets" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "activity"."error_groups" (
	"id" uuid PRIMARY KEY,
	"fingerprint" text NOT NULL,
	"level" "activity"."error_level" NOT NULL,
	"code" text,
	"message" text NOT NULL,
	"first_seen_at" timestamp(3) with time zone NOT NULL,
	"last_seen_at" timestamp(3) with time zone NOT NULL,
	"resolved_at" timestamp(3) with time zone,
	"resolved_by" uuid,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
-- managed: partitioning "activity"."error_logs"
CREATE TABLE "activity"."error_logs" (
	"id" uuid,
	"affected_organization_id" uuid,
	"user_id" uuid,
	"level" "activity"."error_level" NOT NULL,
	"code" text,
	"fingerprint" text NOT NULL,
	"message" text NOT NULL,
	"stack" text,
	"context" jsonb DEFAULT '{}' NOT NULL,
	"request_id" text,
	"occurred_at" timestamp(3) with time zone DEFAULT now(),
	CONSTRAINT "error_logs_pkey" PRIMARY KEY("occurred_at","id")
) partition by range ("occurred_at");
--> statement-breakpoint
CREATE TABLE "ops"."idempotency_keys" (
	"organization_id" uuid,
	"claim_id" uuid,
	"user_id" uuid,
	"key" text NOT NULL,
	"state" "ops"."idempotency_state" DEFAULT 'claimed'::"ops"."idempotency_state" NOT NULL,
	"fingerprint" bytea NOT NULL,
	"response" jsonb,
	"response_kept" boolean DEFAULT true NOT NULL,
	"attempts" integer DEFAULT 1 NOT NULL,
	"leased_until" timestamp(3) with time zone NOT NULL,
	"created_at" timestamp(3) with time zone NOT NULL,
	"completed_at" timestamp(3) with time zone,
	"expires_at" timestamp(3) with time zone NOT NULL,
	CONSTRAINT "idempotency_keys_pkey" PRIMARY KEY("organization_id","claim_id"),
	CONSTRAINT "idempotency_keys_key_key" UNIQUE NULLS NOT DISTINCT("organization_id","key","user_id"),
	CONSTRAINT "idempotency_keys_fingerprint_check" CHECK (length("fingerprint") = 32),
	CONSTRAINT "idempotency_keys_state_check" CHECK (("state" = 'completed') = ("completed_at" is not null)),
	CONSTRAINT "idempotency_keys_expires_at_check" CHECK ("expires_at" >= "leased_until")
);
--> statement-breakpoint
ALTER TABLE "ops"."idempotency_keys" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "ops"."locks" (
	"name" text PRIMARY KEY,
	"holder" text,
	"fencing_token" bigint NOT NULL,
	"leased_until" timestamp(3) with time zone NOT NULL,
	"acquired_at" timestamp(3) with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "identity"."oauth_tokens" (
	"id" uuid PRIMARY KEY,
	"user_id" uuid NOT NULL,
	"provider" text NOT NULL,
	"account" text NOT NULL,
	"scopes" text[] DEFAULT '{}'::text[] NOT NULL,
	"access_ciphertext" bytea NOT NULL,
	"refresh_ciphertext" bytea,
	"key_id" text NOT NULL,
	"expires_at" timestamp(3) with time zone,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "ops"."public_rate_limits" (
	"key" text PRIMARY KEY,
	"nanotokens" bigint NOT NULL,
	"refilled_at" timestamp(3) with time zone NOT NULL,
	"full_at" timestamp(3) with time zone,
	CONSTRAINT "public_rate_limits_nanotokens_check" CHECK ("nanotokens" >= 0)
);
--> statement-breakpoint
CREATE TABLE "ops"."rate_limits" (
	"organization_id" uuid,
	"id" uuid,
	"user_id" uuid,
	"key" text NOT NULL,
	"nanotokens" bigint NOT NULL,
	"refilled_at" timestamp(3) with time zone NOT NULL,
	"full_at" timestamp(3) with time zone,
	CONSTRAINT "rate_limits_pkey" PRIMARY KEY("organization_id","id"),
	CONSTRAINT "rate_limits_key_key" UNIQUE NULLS NOT DISTINCT("organization_id","key","user_id"),
	CONSTRAINT "rate_limits_nanotokens_check" CHECK ("nanotokens" >= 0)
);
--> statement-breakpoint
ALTER TABLE "ops"."rate_limits" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "costs"."reservations" (
	"organization_id" uuid,
	"id" uuid,
	"user_id" uuid,
	"project_id" uuid,
	"state" "costs"."reservation_state" DEFAULT 'held'::"costs"."reservation_state" NOT NULL,
	"provider" text NOT NULL,
	"model" text NOT NULL,
	"amount_nanos" bigint NOT NULL,
	"budget_ids" uuid[] NOT NULL,
	"subjects" text[] NOT NULL,
	"window_starts_at" timestamp(3) with time zone[] NOT NULL,
	"shards" smallint[] NOT NULL,
	"leased_until" timestamp(3) with time zone NOT NULL,
	"created_at" timestamp(3) with time zone NOT NULL,
	"resolved_at" timestamp(3) with time zone,
	CONSTRAINT "reservations_pkey" PRIMARY KEY("organization_id","id"),
	CONSTRAINT "reservations_amount_nanos_check" CHECK ("amount_nanos" >= 0),
	CONSTRAINT "reservations_resolved_at_check" CHECK (("state" = 'held') = ("resolved_at" is null))
);
--> statement-breakpoint
ALTER TABLE "costs"."reservations" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "activity"."sealed_rows" (
	"organization_id" uuid,
	"sequence" bigint,
	"position" integer,
	"row_id" uuid NOT NULL,
	"digest" bytea NOT NULL,
	"occurred_at" timestamp(3) with time zone NOT NULL,
	CONSTRAINT "sealed_rows_pkey" PRIMARY KEY("organization_id","sequence","position")
);
--> statement-breakpoint
ALTER TABLE "activity"."sealed_rows" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "ops"."tenant_locks" (
	"organization_id" uuid,
	"name" text,
	"holder" text,
	"fencing_token" bigint NOT NULL,
	"leased_until" timestamp(3) with time zone NOT NULL,
	"acquired_at" timestamp(3) with time zone NOT NULL,
	CONSTRAINT "tenant_locks_pkey" PRIMARY KEY("organization_id","name")
);
--> statement-breakpoint
ALTER TABLE "ops"."tenant_locks" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "costs"."usage_daily" (
	"organization_id" uuid,
	"day_on" date,
	"line" integer,
	"user_id" uuid,
	"project_id" uuid,
	"provider" text NOT NULL,
	"model" text NOT NULL,
	"endpoint" text,
	"events" bigint DEFAULT 0 NOT NULL,
	"unpriced" bigint DEFAULT 0 NOT NULL,
	"input_tokens" bigint DEFAULT 0 NOT NULL,
	"output_tokens" bigint DEFAULT 0 NOT NULL,
	"cache_read_tokens" bigint DEFAULT 0 NOT NULL,
	"cache_write_tokens" bigint DEFAULT 0 NOT NULL,
	"reasoning_tokens" bigint DEFAULT 0 NOT NULL,
	"embedding_tokens" bigint DEFAULT 0 NOT NULL,
	"images" bigint DEFAULT 0 NOT NULL,
	"audio_seconds" bigint DEFAULT 0 NOT NULL,
	"requests" bigint DEFAULT 0 NOT NULL,
	"cost_nanos" bigint NOT NULL,
	CONSTRAINT "usage_daily_pkey" PRIMARY KEY("organization_id","day_on","line")
);
--> statement-breakpoint
ALTER TABLE "costs"."usage_daily" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "costs"."usage_roll_ups" (
	"organization_id" uuid PRIMARY KEY,
	"closed_at" timestamp(3) with time zone NOT NULL,
	"rolled_at" timestamp(3) with time zone,
	CONSTRAINT "usage_roll_ups_rolled_at_check" CHECK ("rolled_at" <= "closed_at")
);
--> statement-breakpoint
ALTER TABLE "costs"."usage_roll_ups" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "costs"."usage_stale_days" (
	"organization_id" uuid,
	"day_on" date,
	"event_id" uuid,
	CONSTRAINT "usage_stale_days_pkey" PRIMARY KEY("organization_id","day_on","event_id")
);
--> statement-breakpoint
ALTER TABLE "costs"."usage_stale_days" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE TABLE "activity"."webhook_deliveries" (
	"organization_id" uuid,
	"id" uuid,
	"direction" "activity"."delivery_direction" NOT NULL,
	"status" "activity"."delivery_status" NOT NULL,
	"provider" text NOT NULL,
	"event" text NOT NULL,
	"event_id" text,
	"url" text,
	"payload" jsonb DEFAULT '{}' NOT NULL,
	"headers" jsonb DEFAULT '{}' NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"max_attempts" integer DEFAULT 1 NOT NULL,
	"response_status" integer,
	"response" text,
	"lease_id" uuid,
	"next_attempt_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"settled_at" timestamp(3) with time zone,
	"created_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp(3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "webhook_deliveries_pkey" PRIMARY KEY("organization_id","id"),
	CONSTRAINT "webhook_deliveries_url_check" CHECK (("direction" = 'outgoing') = ("url" is not null)),
	CONSTRAINT "webhook_deliveries_attempts_check" CHECK ("attempts" >= 0 and "max_attempts" >= 1)
);
--> statement-breakpoint
ALTER TABLE "activity"."webhook_deliveries" ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
ALTER TABLE "identity"."organizations" ADD COLUMN "time_zone" text DEFAULT 'UTC' NOT NULL;
--> statement-breakpoint
ALTER TABLE "costs"."usage_events" ADD COLUMN "adjusts_id" uuid;
--> statement-breakpoint
ALTER TABLE "costs"."usage_events" ADD COLUMN "adjusts_status" "costs"."usage_status";
--> statement-breakpoint
CREATE INDEX "api_keys_user_id_idx" ON "identity"."api_keys" ("organization_id","user_id");
--> statement-breakpoint
CREATE INDEX "api_keys_created_by_idx" ON "identity"."api_keys" ("created_by");
--> statement-breakpoint
CREATE INDEX "auth_logs_email_hash_idx" ON "activity"."auth_logs" ("email_hash","occurred_at","id");
--> statement-breakpoint
CREATE INDEX "auth_logs_user_id_idx" ON "activity"."auth_logs" ("user_id","occurred_at","id");
--> statement-breakpoint
CREATE INDEX "auth_logs_network_idx" ON "activity"."auth_logs" ("network","occurred_at","id");
--> statement-breakpoint
CREATE UNIQUE INDEX "budget_alerts_threshold_key" ON "costs"."budget_alerts" ("organization_id","budget_id","subject","starts_at","threshold");
--> statement-breakpoint
CREATE INDEX "budget_alerts_unclaimed_idx" ON "costs"."budget_alerts" ("organization_id","raised_at") WHERE "claimed_at" is null;
--> statement-breakpoint
CREATE UNIQUE INDEX "budgets_name_key" ON "costs"."budgets" ("organization_id","name");
--> statement-breakpoint
CREATE UNIQUE INDEX "error_groups_fingerprint_key" ON "activity"."error_groups" ("fingerprint");
--> statement-breakpoint
CREATE INDEX "error_groups_last_seen_at_idx" ON "activity"."error_groups" ("last_seen_at","id");
--> statement-breakpoint
CREATE INDEX "error_logs_fingerprint_idx" ON "activity"."error_logs" ("fingerprint","occurred_at","id");
--> statement-breakpoint
CREATE INDEX "error_logs_organization_idx" ON "activity"."error_logs" ("affected_organization_id","occurred_at","id");
--> statement-breakpoint
CREATE INDEX "error_logs_user_id_idx" ON "activity"."error_logs" ("user_id","occurred_at","id");
--> statement-breakpoint
CREATE INDEX "idempotency_keys_expires_at_idx" ON "ops"."idempotency_keys" ("expires_at");
--> statement-breakpoint
CREATE UNIQUE INDEX "locks_fencing_token_key" ON "ops"."locks" ("name","fencing_token");
--> statement-breakpoint
CREATE UNIQUE INDEX "oauth_tokens_user_id_provider_account_key" ON "identity"."oauth_tokens" ("user_id","provider","account");
--> statement-breakpoint
CREATE INDEX "oauth_tokens_key_id_idx" ON "identity"."oauth_tokens" ("key_id","id");
--> statement-breakpoint
CREATE INDEX "reservations_leased_until_idx" ON "costs"."reservations" ("organization_id","leased_until") WHERE "state" = 'held';
--> statement-breakpoint
CREATE UNIQUE INDEX "sealed_rows_row_key" ON "activity"."sealed_rows" ("organization_id","occurred_at","row_id");
--> statement-breakpoint
CREATE UNIQUE INDEX "tenant_locks_fencing_token_key" ON "ops"."tenant_locks" ("organization_id","name","fencing_token");
--> statement-breakpoint
CREATE INDEX "usage_daily_user_id_idx" ON "costs"."usage_daily" ("organization_id","user_id","day_on");
--> statement-breakpoint
CREATE UNIQUE INDEX "webhook_deliveries_event_id_key" ON "activity"."webhook_deliveries" ("organization_id","direction","provider","event_id") WHERE "status" <> 'rejected';
--> statement-breakpoint
CREATE INDEX "webhook_deliveries_next_attempt_at_idx" ON "activity"."webhook_deliveries" ("organization_id","next_attempt_at","id") WHERE "status" = 'pending';
--> statement-breakpoint
CREATE INDEX "webhook_deliveries_status_idx" ON "activity"."webhook_deliveries" ("organization_id","status","id");
--> statement-breakpoint
ALTER TABLE "activity"."chains" ADD CONSTRAINT "chains_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "activity"."seals" ADD CONSTRAINT "seals_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "identity"."api_keys" ADD CONSTRAINT "api_keys_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "identity"."api_keys" ADD CONSTRAINT "api_keys_user_id_fkey" FOREIGN KEY ("organization_id","user_id") REFERENCES "identity"."memberships"("organization_id","user_id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "identity"."api_keys" ADD CONSTRAINT "api_keys_created_by_fkey" FOREIGN KEY ("created_by") REFERENCES "identity"."users"("id");
--> statement-breakpoint
ALTER TABLE "costs"."budget_alerts" ADD CONSTRAINT "budget_alerts_budget_id_fkey" FOREIGN KEY ("organization_id","budget_id") REFERENCES "costs"."budgets"("organization_id","id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "costs"."budget_windows" ADD CONSTRAINT "budget_windows_budget_id_fkey" FOREIGN KEY ("organization_id","budget_id") REFERENCES "costs"."budgets"("organization_id","id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "costs"."budgets" ADD CONSTRAINT "budgets_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "ops"."idempotency_keys" ADD CONSTRAINT "idempotency_keys_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "identity"."oauth_tokens" ADD CONSTRAINT "oauth_tokens_user_id_fkey" FOREIGN KEY ("user_id") REFERENCES "identity"."users"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "ops"."rate_limits" ADD CONSTRAINT "rate_limits_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "costs"."reservations" ADD CONSTRAINT "reservations_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "activity"."sealed_rows" ADD CONSTRAINT "sealed_rows_sequence_fkey" FOREIGN KEY ("organization_id","sequence") REFERENCES "activity"."seals"("organization_id","sequence") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "ops"."tenant_locks" ADD CONSTRAINT "tenant_locks_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "costs"."usage_daily" ADD CONSTRAINT "usage_daily_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "costs"."usage_roll_ups" ADD CONSTRAINT "usage_roll_ups_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "costs"."usage_stale_days" ADD CONSTRAINT "usage_stale_days_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "activity"."webhook_deliveries" ADD CONSTRAINT "webhook_deliveries_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "identity"."organizations"("id") ON DELETE CASCADE;
--> statement-breakpoint
ALTER TABLE "costs"."usage_events" ADD CONSTRAINT "usage_events_cost_nanos_check" CHECK ("cost_nanos" >= 0 or "adjusts_id" is not null) NOT VALID;
--> statement-breakpoint
ALTER TABLE "costs"."usage_events" ADD CONSTRAINT "usage_events_adjusts_check" CHECK (("adjusts_id" is null) = ("adjusts_status" is null)) NOT VALID;
--> statement-breakpoint
CREATE POLICY "chains_select" ON "activity"."chains" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("activity"."chains"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "chains_insert" ON "activity"."chains" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("activity"."chains"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "chains_update" ON "activity"."chains" AS PERMISSIVE FOR UPDATE TO "plinth_app" USING ("activity"."chains"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service')) WITH CHECK ("activity"."chains"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "chains_delete" ON "activity"."chains" AS PERMISSIVE FOR DELETE TO "plinth_app" USING ("activity"."chains"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "seals_select" ON "activity"."seals" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("activity"."seals"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "api_keys_select" ON "identity"."api_keys" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("identity"."api_keys"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "identity"."api_keys"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "api_keys_insert" ON "identity"."api_keys" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("identity"."api_keys"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and ((current_setting('plinth.role', true) in ('owner', 'admin', 'service') and "identity"."api_keys"."user_id" is null) or ("identity"."api_keys"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service')) or current_setting('plinth.role', true) in ('service')));
--> statement-breakpoint
CREATE POLICY "api_keys_update" ON "identity"."api_keys" AS PERMISSIVE FOR UPDATE TO "plinth_app" USING ("identity"."api_keys"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or ("identity"."api_keys"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service')))) WITH CHECK ("identity"."api_keys"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or ("identity"."api_keys"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service'))));
--> statement-breakpoint
CREATE POLICY "api_keys_delete" ON "identity"."api_keys" AS PERMISSIVE FOR DELETE TO "plinth_app" USING ("identity"."api_keys"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or ("identity"."api_keys"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service'))));
--> statement-breakpoint
CREATE POLICY "budget_alerts_select" ON "costs"."budget_alerts" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("costs"."budget_alerts"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "budget_alerts_update" ON "costs"."budget_alerts" AS PERMISSIVE FOR UPDATE TO "plinth_app" USING ("costs"."budget_alerts"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service')) WITH CHECK ("costs"."budget_alerts"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "budget_windows_select" ON "costs"."budget_windows" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("costs"."budget_windows"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "costs"."budget_windows"."scope" <> 'user' or "costs"."budget_windows"."subject" = nullif(current_setting('plinth.user_id', true), '')::uuid::text));
--> statement-breakpoint
CREATE POLICY "budgets_select" ON "costs"."budgets" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("costs"."budgets"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid);
--> statement-breakpoint
CREATE POLICY "budgets_insert" ON "costs"."budgets" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("costs"."budgets"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "budgets_update" ON "costs"."budgets" AS PERMISSIVE FOR UPDATE TO "plinth_app" USING ("costs"."budgets"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service')) WITH CHECK ("costs"."budgets"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "budgets_delete" ON "costs"."budgets" AS PERMISSIVE FOR DELETE TO "plinth_app" USING ("costs"."budgets"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "reservations_select" ON "costs"."reservations" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("costs"."reservations"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "costs"."reservations"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "sealed_rows_select" ON "activity"."sealed_rows" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("activity"."sealed_rows"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "usage_daily_select" ON "costs"."usage_daily" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("costs"."usage_daily"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "costs"."usage_daily"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
--> statement-breakpoint
CREATE POLICY "usage_roll_ups_select" ON "costs"."usage_roll_ups" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("costs"."usage_roll_ups"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid);
--> statement-breakpoint
CREATE POLICY "usage_stale_days_select" ON "costs"."usage_stale_days" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("costs"."usage_stale_days"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid);
--> statement-breakpoint
CREATE POLICY "usage_stale_days_insert" ON "costs"."usage_stale_days" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("costs"."usage_stale_days"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid);
--> statement-breakpoint
CREATE POLICY "webhook_deliveries_select" ON "activity"."webhook_deliveries" AS PERMISSIVE FOR SELECT TO "plinth_app" USING ("activity"."webhook_deliveries"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "webhook_deliveries_insert" ON "activity"."webhook_deliveries" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("activity"."webhook_deliveries"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service'));
--> statement-breakpoint
CREATE POLICY "webhook_deliveries_update" ON "activity"."webhook_deliveries" AS PERMISSIVE FOR UPDATE TO "plinth_app" USING ("activity"."webhook_deliveries"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service')) WITH CHECK ("activity"."webhook_deliveries"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
CREATE POLICY "webhook_deliveries_delete" ON "activity"."webhook_deliveries" AS PERMISSIVE FOR DELETE TO "plinth_app" USING ("activity"."webhook_deliveries"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and current_setting('plinth.role', true) in ('owner', 'admin', 'service'));
--> statement-breakpoint
ALTER POLICY "usage_events_insert" ON "costs"."usage_events" TO "plinth_app" WITH CHECK ("costs"."usage_events"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or ("costs"."usage_events"."adjusts_id" is null and ("costs"."usage_events"."user_id" is null or "costs"."usage_events"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid))));
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
      -- Attached and not made as a part: writers of the table go on meanwhile, and no lock is waited for in a circle.
      -- Who changes what it refers to, an organization say, waits for the end of the transaction.
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
-- managed: grant identity.api_keys
grant select, insert, update, delete on "identity"."api_keys" to plinth_app;
--> statement-breakpoint
-- managed: grant identity.oauth_tokens
grant select, insert, update, delete on "identity"."oauth_tokens" to plinth_platform;
--> statement-breakpoint
-- managed: comment "identity"."api_keys"
comment on table "identity"."api_keys" is 'A key that a program shows in place of a person. Only its hash is kept.';
--> statement-breakpoint
-- managed: comment "identity"."oauth_tokens"
comment on table "identity"."oauth_tokens" is 'Access to an account elsewhere, sealed by a key ring of the service.';
--> statement-breakpoint
-- managed: function identity.read_api_key(uuid, uuid, bytea)
create or replace function identity.read_api_key(organization uuid, key_id uuid, hash bytea)
returns table (user_id uuid, name text, scopes json, secret_hash bytea, state text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  seen timestamptz := clock_timestamp();
  used timestamptz;
begin
  select k.user_id, k.name, array_to_json(k.scopes), k.secret_hash, k.last_used_at,
      case when k.revoked_at is not null or o.archived_at is not null or u.deactivated_at is not null then 'revoked'
        when k.expires_at <= seen then 'expired' else 'good' end
    into user_id, name, scopes, secret_hash, used, state
    from "identity"."api_keys" k
    join "identity"."organizations" o on o.id = k.organization_id
    left join "identity"."users" u on u.id = k.user_id
    where k.organization_id = organization and k.id = key_id;
  if not found then
    return;
  end if;
  -- Of hashes of the hashes: how long it takes tells nothing of either.
  if state = 'good' and sha256(secret_hash) = sha256(hash)
      and (used is null or used <= seen - interval '1 minute')
      and current_setting('transaction_read_only') = 'off' then
    begin
      update "identity"."api_keys" k set last_used_at = seen
        where k.organization_id = organization and k.id = any(array(
          select i.id from "identity"."api_keys" i where i.organization_id = organization and i.id = key_id
            and (i.last_used_at is null or i.last_used_at <= seen - interval '1 minute')
          for no key update skip locked));
    exception when serialization_failure then
      -- Written by another one since the transaction began: it is as good.
      null;
    end;
  end if;
  return next;
end $$;
--> statement-breakpoint
-- managed: function identity.lock_owners(uuid)
create or replace function identity.lock_owners(becoming uuid)
returns setof uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  deactivated timestamptz;
begin
  if organization is null or nullif(current_setting('plinth.role', true), '') is null then
    return;
  end if;
  if becoming is not null and current_setting('plinth.role', true) in ('owner', 'service') then
    select u.deactivated_at into deactivated from "identity"."users" u where u.id = becoming for share;
    if deactivated is not null then
      raise exception 'user % is deactivated', becoming
        using errcode = 'insufficient_privilege', detail = 'user_deactivated';
    end if;
  end if;
  perform pg_advisory_xact_lock(hashtextextended('plinth.memberships ' || organization::text, 0));
  perform 1 from "identity"."memberships" m where m.organization_id = organization and m.role = 'owner'
    order by m.user_id for update;
  return query
    select m.user_id from "identity"."memberships" m join "identity"."users" u on u.id = m.user_id
    where m.organization_id = organization and m.role = 'owner' and u.deactivated_at is null
    order by m.user_id;
end $$;
--> statement-breakpoint
-- managed: function identity.archive_user(uuid)
create or replace function identity.archive_user(member uuid)
returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid;
  deactivated timestamptz;
  seen timestamptz;
begin
  select u.deactivated_at into deactivated from "identity"."users" u where u.id = member for no key update;
  if not found or deactivated is not null then
    return found;
  end if;
  for organization in
    select m.organization_id from "identity"."memberships" m
      join "identity"."organizations" o on o.id = m.organization_id and o.archived_at is null and o.kind = 'team'
      where m.user_id = member and m.role = 'owner' order by m.organization_id
  loop
    perform pg_advisory_xact_lock(hashtextextended('plinth.memberships ' || organization::text, 0));
    perform 1 from "identity"."memberships" m where m.organization_id = organization and m.role = 'owner'
      order by m.user_id for update;
    if exists (select from "identity"."memberships" m join "identity"."users" u on u.id = m.user_id
          where m.organization_id = organization and m.user_id <> member and u.deactivated_at is null)
        and not exists (select from "identity"."memberships" m join "identity"."users" u on u.id = m.user_id
          where m.organization_id = organization and m.user_id <> member and u.deactivated_at is null
            and m.role = 'owner') then
      -- Who has stopped being an owner while the turn was waited for is none.
      perform 1 from "identity"."memberships" m
        where m.organization_id = organization and m.user_id = member and m.role = 'owner';
      if found then
        raise exception 'organization % would have no owner', organization
          using errcode = 'object_not_in_prerequisite_state', detail = 'plinth.last_owner',
            hint = organization::text;
      end if;
    end if;
  end loop;
  seen := clock_timestamp();
  -- Written, so that a transaction which saw them earlier, and locks them, fails.
  update "identity"."memberships" m set updated_at = seen where m.user_id = member and m.role = 'owner';
  update "identity"."users" u set deactivated_at = seen, updated_at = seen
    where u.id = member;
  return true;
end $$;
--> statement-breakpoint
-- managed: grant identity.read_api_key(uuid, uuid, bytea)
revoke execute on function identity.read_api_key(uuid, uuid, bytea) from public;
--> statement-breakpoint
-- managed: grant identity.read_api_key(uuid, uuid, bytea) to plinth_platform
grant execute on function identity.read_api_key(uuid, uuid, bytea) to plinth_platform;
--> statement-breakpoint
-- managed: grant identity.archive_user(uuid)
revoke execute on function identity.archive_user(uuid) from public;
--> statement-breakpoint
-- managed: grant identity.archive_user(uuid) to plinth_platform
grant execute on function identity.archive_user(uuid) to plinth_platform;
--> statement-breakpoint
-- managed: grant identity.lock_owners(uuid)
revoke execute on function identity.lock_owners(uuid) from public;
--> statement-breakpoint
-- managed: grant identity.lock_owners(uuid) to plinth_app
grant execute on function identity.lock_owners(uuid) to plinth_app;
--> statement-breakpoint
-- managed: grant costs.budgets
grant select, insert, update, delete on "costs"."budgets" to plinth_app;
--> statement-breakpoint
-- managed: grant costs.budget_windows
grant select on "costs"."budget_windows" to plinth_app;
--> statement-breakpoint
-- managed: grant costs.reservations
grant select on "costs"."reservations" to plinth_app;
--> statement-breakpoint
-- managed: grant costs.budget_alerts
grant select, update on "costs"."budget_alerts" to plinth_app;
--> statement-breakpoint
-- managed: grant costs.usage_daily
grant select on "costs"."usage_daily" to plinth_app;
--> statement-breakpoint
-- managed: grant costs.usage_roll_ups
grant select on "costs"."usage_roll_ups" to plinth_app;
--> statement-breakpoint
-- managed: grant costs.usage_stale_days
grant select, insert on "costs"."usage_stale_days" to plinth_app;
--> statement-breakpoint
-- plinth: step
ALTER TABLE "costs"."usage_events" VALIDATE CONSTRAINT "usage_events_cost_nanos_check";
--> statement-breakpoint
-- plinth: step
ALTER TABLE "costs"."usage_events" VALIDATE CONSTRAINT "usage_events_adjusts_check";
--> statement-breakpoint
-- managed: call partitions of costs.usage_events
-- plinth: step
select partitions.create_months('costs', 'usage_events', now() - interval '1 month', now() + interval '12 months');
--> statement-breakpoint
-- managed: comment "costs"."budgets"
comment on table "costs"."budgets" is 'How much may be spent, by whom or on what, in each period.';
--> statement-breakpoint
-- managed: comment "costs"."budget_windows"
comment on table "costs"."budget_windows" is 'What was spent of a budget in a period, and what is reserved.';
--> statement-breakpoint
-- managed: comment "costs"."reservations"
comment on table "costs"."reservations" is 'What a call may cost at most, held until its cost is known.';
--> statement-breakpoint
-- managed: comment "costs"."budget_alerts"
comment on table "costs"."budget_alerts" is 'That a threshold of a budget was reached in a window. Raised once.';
--> statement-breakpoint
-- managed: comment "costs"."usage_daily"
comment on table "costs"."usage_daily" is 'What a day of UTC has cost, by what it was for.';
--> statement-breakpoint
-- managed: comment "costs"."usage_roll_ups"
comment on table "costs"."usage_roll_ups" is 'How far the ledger of an organization is rolled up.';
--> statement-breakpoint
-- managed: comment "costs"."usage_stale_days"
comment on table "costs"."usage_stale_days" is 'A day in which a line was written into what was closed.';
--> statement-breakpoint
-- managed: function costs.open_ledger()
create or replace function costs.open_ledger()
returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
begin
  perform pg_advisory_xact_lock_shared(hashtextextended('plinth.ledger ' || organization::text, 0));
  -- A snapshot that is older than a budget would count nothing in it. Making one changes this row.
  if current_setting('transaction_isolation') <> 'read committed' then
    perform from "identity"."organizations" z where z.id = organization for share;
  end if;
  return exists (select from "costs"."budgets" b where b.organization_id = organization);
end $$;
--> statement-breakpoint
-- managed: function costs.close_ledger()
create or replace function costs.close_ledger()
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'what sums up the ledger needs the isolation level read committed' using errcode = '25001',
      detail = 'plinth.isolation';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('plinth.ledger ' || organization::text, 0));
end $$;
--> statement-breakpoint
-- managed: grant costs.open_ledger()
revoke execute on function costs.open_ledger() from public;
--> statement-breakpoint
-- managed: grant costs.open_ledger() to plinth_app
grant execute on function costs.open_ledger() to plinth_app;
--> statement-breakpoint
-- managed: grant costs.close_ledger()
revoke execute on function costs.close_ledger() from public;
--> statement-breakpoint
-- managed: grant costs.close_ledger() to plinth_app
grant execute on function costs.close_ledger() to plinth_app;
--> statement-breakpoint
-- managed: function costs.window_of(costs.budget_period, timestamptz, text)
create or replace function costs.window_of(
  period "costs"."budget_period", at timestamptz, zone text, out starts_at timestamptz, out ends_at timestamptz)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  local timestamp;
  length interval;
begin
  if period = 'total' then
    starts_at := '1900-01-01 00:00:00+00';
  elsif period = 'hour' then
    -- An hour is one, also when the clock is put back.
    starts_at := date_trunc('hour', at, zone);
    ends_at := starts_at + interval '1 hour';
  else
    -- By the clock on the wall: a day may have 23 hours, and where midnight is left out it begins at one.
    length := ('1 ' || period)::interval;
    local := date_trunc(period::text, at at time zone zone);
    starts_at := local at time zone zone;
    -- Midnight may come twice: a day ends with the second one.
    if starts_at > at then
      local := local - length;
      starts_at := local at time zone zone;
    end if;
    ends_at := (local + length) at time zone zone;
  end if;
end $$;
--> statement-breakpoint
-- managed: function costs.open_window(uuid, text, timestamptz)
create or replace function costs.open_window(budget_id uuid, window_subject text, at timestamptz,
  out window_start timestamptz, out window_end timestamptz, out is_new boolean)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  budget "costs"."budgets";
  spent bigint;
begin
  -- One at a time: two that overlap would both be new, where the time zone has just changed.
  perform pg_advisory_xact_lock(
    hashtextextended(concat_ws(' ', 'plinth.window', organization, open_window.budget_id, window_subject), 0));
  is_new := false;
  select w.starts_at, w.ends_at into window_start, window_end from "costs"."budget_windows" w
    where w.organization_id = organization and w.budget_id = open_window.budget_id and w.subject = window_subject
      and w.starts_at <= open_window.at and (w.ends_at is null or w.ends_at > open_window.at)
    limit 1;
  if found then
    return;
  end if;
  -- Shared with others who open one, but not with whoever changes the limit.
  select * into budget from "costs"."budgets" b
    where b.organization_id = organization and b.id = open_window.budget_id for share;
  select p.starts_at, p.ends_at into window_start, window_end
    from "identity"."organizations" z cross join lateral costs.window_of(budget.period, open_window.at, z.time_zone) p
    where z.id = organization;
  -- In two that overlap, as after a change of the time zone, a line would count in one only.
  select greatest(window_start, max(w.ends_at) filter (where w.ends_at <= open_window.at)),
      least(window_end, min(w.starts_at) filter (where w.starts_at > open_window.at))
    into window_start, window_end from "costs"."budget_windows" w
    where w.organization_id = organization and w.budget_id = budget.id and w.subject = window_subject
      and w.ends_at > window_start and w.starts_at < window_end;
  select coalesce(sum(e.cost_nanos), 0) into spent from "costs"."usage_events" e
    where e.organization_id = organization and e.occurred_at >= window_start
      and (window_end is null or e.occurred_at < window_end)
      and window_subject = case budget.scope when 'organization' then '' when 'user' then e.user_id::text
    when 'project' then e.project_id::text else e.provider || '/' || e.model end;
  insert into "costs"."budget_windows" (organization_id, budget_id, subject, starts_at, shard, scope, quota_nanos,
      spent_nanos, reserved_nanos, ends_at)
    select organization, budget.id, window_subject, window_start, shard, budget.scope,
      (budget.limit_nanos - spent) / budget.shards
        + case shard when 0 then spent + (budget.limit_nanos - spent) % budget.shards else 0 end,
      case shard when 0 then spent else 0 end, 0, window_end
    from generate_series(0, budget.shards - 1) shard
    order by shard
    on conflict do nothing;
  is_new := found;
end $$;
--> statement-breakpoint
-- managed: function costs.spread_quota(uuid, text, timestamptz)
create or replace function costs.spread_quota(budget uuid, window_subject text, window_start timestamptz)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  counters integer;
  free bigint;
begin
  select count(*), min(b.limit_nanos) - sum(w.spent_nanos + w.reserved_nanos) into counters, free
    from "costs"."budget_windows" w
    join "costs"."budgets" b on b.organization_id = w.organization_id and b.id = w.budget_id
    where w.organization_id = organization and w.budget_id = budget
      and w.subject = window_subject and w.starts_at = window_start;
  update "costs"."budget_windows" w
    set quota_nanos = w.spent_nanos + w.reserved_nanos + free / counters
      + case w.shard when 0 then free % counters else 0 end
    where w.organization_id = organization and w.budget_id = budget
      and w.subject = window_subject and w.starts_at = window_start;
end $$;
--> statement-breakpoint
-- managed: function costs.add_to_shards(uuid, text, timestamptz, smallint, smallint, bigint, bigint, boolean, boolean)
create or replace function costs.add_to_shards(budget uuid, window_subject text, window_start timestamptz,
  counters smallint, preferred smallint, reserved bigint, spent bigint, is_free boolean, is_forced boolean)
returns smallint language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  -- Where this session begins to look, so that not all begin at the same.
  first integer := pg_backend_pid() % counters;
  picked smallint := preferred;
  used bigint;
  most bigint;
begin
  if picked is null then
    -- Gives up those that it has locked and found full meanwhile, before it waits for another one.
    begin
      select w.shard into picked from "costs"."budget_windows" w where w.organization_id = organization and w.budget_id = budget
      and w.subject = window_subject and w.starts_at = window_start and (is_free or reserved + spent <= w.quota_nanos - w.spent_nanos - w.reserved_nanos)
        order by (w.shard - first + counters) % counters limit 1 for update skip locked;
      if picked is null then
        raise sqlstate 'PL001';
      end if;
    exception when sqlstate 'PL001' then null;
    end;
  end if;
  if picked is null then
    select w.shard into picked from "costs"."budget_windows" w where w.organization_id = organization and w.budget_id = budget
      and w.subject = window_subject and w.starts_at = window_start and (is_free or reserved + spent <= w.quota_nanos - w.spent_nanos - w.reserved_nanos)
      order by (w.shard - first + counters) % counters limit 1;
  end if;
  begin
    update "costs"."budget_windows" w
      set reserved_nanos = w.reserved_nanos + reserved, spent_nanos = w.spent_nanos + spent
      where w.organization_id = organization and w.budget_id = budget
      and w.subject = window_subject and w.starts_at = window_start and w.shard = picked and (is_free or reserved + spent <= w.quota_nanos - w.spent_nanos - w.reserved_nanos);
    if found then
      return picked;
    end if;
    -- Gives up the rows that were locked in vain: to lock all of them in their order, none may be.
    raise sqlstate 'PL001';
  exception when sqlstate 'PL001' then null;
  end;
  perform 1 from "costs"."budget_windows" w where w.organization_id = organization and w.budget_id = budget
      and w.subject = window_subject and w.starts_at = window_start order by w.shard for update;
  select sum(w.spent_nanos + w.reserved_nanos), min(b.limit_nanos) into used, most
    from "costs"."budget_windows" w
    join "costs"."budgets" b on b.organization_id = w.organization_id and b.id = w.budget_id
    where w.organization_id = organization and w.budget_id = budget
      and w.subject = window_subject and w.starts_at = window_start;
  if not is_forced and reserved + spent > most - used then
    return null;
  end if;
  picked := coalesce(preferred, 0);
  update "costs"."budget_windows" w
    set reserved_nanos = w.reserved_nanos + reserved, spent_nanos = w.spent_nanos + spent
    where w.organization_id = organization and w.budget_id = budget
      and w.subject = window_subject and w.starts_at = window_start and w.shard = picked;
  perform costs.spread_quota(budget, window_subject, window_start);
  return picked;
end $$;
--> statement-breakpoint
-- managed: grant costs.window_of(costs.budget_period, timestamptz, text)
revoke execute on function costs.window_of(costs.budget_period, timestamptz, text) from public;
--> statement-breakpoint
-- managed: grant costs.open_window(uuid, text, timestamptz)
revoke execute on function costs.open_window(uuid, text, timestamptz) from public;
--> statement-breakpoint
-- managed: grant costs.spread_quota(uuid, text, timestamptz)
revoke execute on function costs.spread_quota(uuid, text, timestamptz) from public;
--> statement-breakpoint
-- managed: grant costs.add_to_shards(uuid, text, timestamptz, smallint, smallint, bigint, bigint, boolean, boolean)
revoke execute on function costs.add_to_shards(uuid, text, timestamptz, smallint, smallint, bigint, bigint, boolean, boolean) from public;
--> statement-breakpoint
-- managed: function costs.raise_alerts(uuid, text, timestamptz, bigint, bigint)
create or replace function costs.raise_alerts(
  budget_id uuid, window_subject text, window_start timestamptz, spent_before bigint, spent bigint)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  at timestamptz := clock_timestamp();
begin
  insert into "costs"."budget_alerts" (organization_id, id, budget_id, subject, starts_at, threshold, spent_nanos,
      limit_nanos, raised_at)
    select organization, identity.uuid_v7(), b.id, window_subject, window_start, t.threshold, spent, b.limit_nanos, at
    from "costs"."budgets" b cross join lateral unnest(b.thresholds) t (threshold)
    where b.organization_id = organization and b.id = raise_alerts.budget_id
      and not (b.subject is null and b.scope <> 'organization' and exists (
        select from "costs"."budgets" o
        where o.organization_id = b.organization_id and o.scope = b.scope and o.period = b.period
          and o.mode = b.mode and o.subject = window_subject))
      and spent * 100.0 >= b.limit_nanos * t.threshold::numeric
      and (spent_before is null or spent_before * 100.0 < b.limit_nanos * t.threshold::numeric)
      -- To insert one that somebody is claiming would wait until they have told of it.
      and not exists (
        select from "costs"."budget_alerts" a
        where a.organization_id = organization and a.budget_id = b.id and a.subject = window_subject
          and a.starts_at = window_start and a.threshold = t.threshold)
    order by t.threshold
    on conflict do nothing;
end $$;
--> statement-breakpoint
-- managed: function costs.charge_budgets(json, uuid)
create or replace function costs.charge_budgets(lines json, settled uuid)
returns table (id uuid, name text, scope costs.budget_scope, subject text, limit_nanos bigint, spent_nanos bigint,
  reserved_nanos bigint, starts_at timestamptz, ends_at timestamptz)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  counter record;
  opened record;
  made text[] := '{}';
  settled_at timestamptz := clock_timestamp();
begin
  -- Adjustments are an admin's; nobody else lowers what was spent.
  if not coalesce(current_setting('plinth.role', true) in ('owner', 'admin', 'service'), false) and exists (
      select from json_to_recordset(lines) l (cost_nanos bigint) where l.cost_nanos < 0) then
    raise exception 'only an admin takes back what was spent' using errcode = 'insufficient_privilege';
  end if;
  for counter in
    with charges as (
      select c.id, c.subject, c.starts_at, sum(l.cost_nanos)::bigint as cost, min(l.occurred_at) as at,
        c.is_lenient, c.shards
      from json_to_recordset(lines) l (user_id uuid, project_id uuid, provider text, model text,
        cost_nanos bigint, occurred_at timestamptz)
      cross join lateral (
    select b.id, b.name, b.scope, b.shards, b.limit_nanos, s.subject, w.starts_at, w.ends_at,
      b.mode = 'warn' or (b.subject is null and b.scope <> 'organization' and exists (
        select from "costs"."budgets" o
        where o.organization_id = b.organization_id and o.scope = b.scope and o.period = b.period
          and o.mode = b.mode and o.subject = s.subject)) as is_lenient
    from "costs"."budgets" b
    cross join lateral (select case b.scope when 'organization' then '' when 'user' then l.user_id::text
    when 'project' then l.project_id::text else l.provider || '/' || l.model end as subject) s
    left join lateral (
      select w.starts_at, w.ends_at from "costs"."budget_windows" w
      where w.organization_id = organization and w.budget_id = b.id and w.subject = s.subject
        and w.starts_at <= l.occurred_at and (w.ends_at is null or w.ends_at > l.occurred_at)
      order by w.starts_at desc limit 1) w on true
    where b.organization_id = organization and (b.subject = s.subject or b.subject is null)
      and s.subject is not null
    order by b.id, s.subject, w.starts_at) c
      where l.cost_nanos <> 0
      -- Of windows that are not open yet it is not known which lines are in one.
      group by c.id, c.subject, c.starts_at, c.is_lenient, c.shards,
        case when c.starts_at is null then l.occurred_at end
    ), holds as (
      select h.id, h.subject, h.starts_at, h.shard, r.amount_nanos as held from "costs"."reservations" r
      cross join lateral unnest(r.budget_ids, r.subjects, r.window_starts_at, r.shards) h (id, subject, starts_at, shard)
      where r.organization_id = organization and r.id = settled and r.state = 'held'
        and coalesce(current_setting('plinth.role', true) in ('owner', 'admin', 'service') or r.user_id is null or r.user_id = nullif(current_setting('plinth.user_id', true), '')::uuid, false)
    )
    select b.id, b.name, b.scope, b.limit_nanos, coalesce(c.shards, b.shards) as shards, coalesce(c.subject, h.subject) as subject,
      coalesce(c.starts_at, h.starts_at) as starts_at, coalesce(c.is_lenient, true) as is_lenient, c.at,
      coalesce(c.cost, 0) as cost, h.shard, coalesce(h.held, 0) as held
    from charges c
    full join holds h on h.id = c.id and h.subject = c.subject and h.starts_at = c.starts_at
    join "costs"."budgets" b on b.organization_id = organization and b.id = coalesce(c.id, h.id)
    order by 1, coalesce(c.subject, h.subject), coalesce(c.starts_at, h.starts_at, c.at)
  loop
    if counter.starts_at is null then
      select * into opened from costs.open_window(counter.id, counter.subject, counter.at);
      counter.starts_at := opened.window_start;
      if opened.is_new then
        made := made || concat_ws(' ', counter.id, counter.subject, counter.starts_at);
      end if;
    end if;
    -- What was made here has all the lines in it.
    if concat_ws(' ', counter.id, counter.subject, counter.starts_at) = any (made) then
      counter.cost := 0;
    end if;
    if counter.shards = 1 then
      update "costs"."budget_windows" w
        set spent_nanos = w.spent_nanos + counter.cost, reserved_nanos = w.reserved_nanos - counter.held
        where w.organization_id = organization and w.budget_id = counter.id
      and w.subject = counter.subject and w.starts_at = counter.starts_at and w.shard = 0
        returning w.spent_nanos, w.reserved_nanos, w.ends_at into spent_nanos, reserved_nanos, ends_at;
    else
      perform costs.add_to_shards(counter.id, counter.subject, counter.starts_at, counter.shards, counter.shard,
        -counter.held, counter.cost, counter.is_lenient or counter.cost < counter.held, true);
      select sum(w.spent_nanos), sum(w.reserved_nanos), max(w.ends_at) into spent_nanos, reserved_nanos, ends_at
        from "costs"."budget_windows" w where w.organization_id = organization and w.budget_id = counter.id
      and w.subject = counter.subject and w.starts_at = counter.starts_at;
    end if;
    -- What another session adds to another counter at once is not seen here: each threshold may have been passed.
    if spent_nanos * 100.0 >= counter.limit_nanos then
      perform costs.raise_alerts(counter.id, counter.subject, counter.starts_at,
        case when counter.shards = 1 and counter.cost > 0 then spent_nanos - counter.cost end, spent_nanos);
    end if;
    if not counter.is_lenient and spent_nanos + reserved_nanos > counter.limit_nanos then
      id := counter.id;
      name := counter.name;
      scope := counter.scope;
      subject := counter.subject;
      limit_nanos := counter.limit_nanos;
      starts_at := counter.starts_at;
      return next;
    end if;
  end loop;
  update "costs"."reservations" r set state = 'settled', resolved_at = settled_at
    where r.organization_id = organization and r.id = settled and r.state in ('held', 'expired')
      and coalesce(current_setting('plinth.role', true) in ('owner', 'admin', 'service') or r.user_id is null or r.user_id = nullif(current_setting('plinth.user_id', true), '')::uuid, false);
end $$;
--> statement-breakpoint
-- managed: function costs.open_budget(uuid)
create or replace function costs.open_budget(budget_id uuid)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  at timestamptz := clock_timestamp();
  budget "costs"."budgets";
  period record;
  counter record;
  opened record;
begin
  select * into budget from "costs"."budgets" b
    where b.organization_id = organization and b.id = open_budget.budget_id and current_setting('plinth.role', true) in ('owner', 'admin', 'service');
  if not found then
    return;
  end if;
  -- So that who began to read before has to begin anew: see open_ledger.
  update "identity"."organizations" z set updated_at = at where z.id = organization;
  select p.* into period from "identity"."organizations" z
    cross join lateral costs.window_of(budget.period, at, z.time_zone) p where z.id = organization;
  for counter in
    select budget.id, f.subject from (
      select case budget.scope when 'organization' then '' else budget.subject end as subject
      union
      select case budget.scope when 'organization' then '' when 'user' then e.user_id::text
    when 'project' then e.project_id::text else e.provider || '/' || e.model end
      from "costs"."usage_events" e
      where e.organization_id = organization and budget.subject is null and budget.scope <> 'organization'
        and e.occurred_at >= period.starts_at and (period.ends_at is null or e.occurred_at < period.ends_at)) f
    where f.subject is not null order by f.subject
  loop
    select * into opened from costs.open_window(counter.id, counter.subject, at);
    perform costs.raise_alerts(counter.id, counter.subject, opened.window_start, null, (
      select sum(w.spent_nanos)::bigint from "costs"."budget_windows" w
      where w.organization_id = organization and w.budget_id = counter.id
      and w.subject = counter.subject and w.starts_at = opened.window_start));
  end loop;
end $$;
--> statement-breakpoint
-- managed: function costs.change_budget(uuid, bigint, smallint)
create or replace function costs.change_budget(budget_id uuid, new_limit bigint, new_shards smallint)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  at timestamptz := clock_timestamp();
  found_window record;
begin
  -- Nobody opens a window meanwhile, which would have the old limit.
  update "costs"."budgets" b set limit_nanos = new_limit, shards = new_shards, updated_at = at
    where b.organization_id = organization and b.id = change_budget.budget_id and current_setting('plinth.role', true) in ('owner', 'admin', 'service');
  if not found then
    return;
  end if;
  perform 1 from "costs"."budget_windows" w
    where w.organization_id = organization and w.budget_id = change_budget.budget_id
      and (w.ends_at is null or w.ends_at > at)
    order by w.subject, w.starts_at, w.shard for update;
  for found_window in
    select w.subject, w.starts_at, w.scope, w.ends_at, max(w.shard) as last_shard, sum(w.spent_nanos)::bigint as spent
    from "costs"."budget_windows" w
    where w.organization_id = organization and w.budget_id = change_budget.budget_id
      and (w.ends_at is null or w.ends_at > at)
    group by w.subject, w.starts_at, w.scope, w.ends_at
    order by w.subject, w.starts_at
  loop
    insert into "costs"."budget_windows" (organization_id, budget_id, subject, starts_at, shard, scope, quota_nanos,
        spent_nanos, reserved_nanos, ends_at)
      select organization, change_budget.budget_id, found_window.subject, found_window.starts_at, s,
        found_window.scope, 0, 0, 0, found_window.ends_at
      from generate_series(found_window.last_shard + 1, new_shards - 1) s
      on conflict do nothing;
    perform costs.spread_quota(change_budget.budget_id, found_window.subject, found_window.starts_at);
    perform costs.raise_alerts(change_budget.budget_id, found_window.subject, found_window.starts_at, null,
      found_window.spent);
  end loop;
end $$;
--> statement-breakpoint
-- managed: function costs.raise_missed_alerts()
create or replace function costs.raise_missed_alerts()
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
begin
  perform costs.raise_alerts(w.budget_id, w.subject, w.starts_at, null, sum(w.spent_nanos)::bigint)
    from "costs"."budget_windows" w join "costs"."budgets" b on b.organization_id = w.organization_id and b.id = w.budget_id
    where w.organization_id = organization and b.shards > 1 and current_setting('plinth.role', true) in ('owner', 'admin', 'service')
      -- A call that began in the window may end after it.
      and (w.ends_at is null or w.ends_at > clock_timestamp() - interval '7 days')
    group by w.budget_id, w.subject, w.starts_at;
end $$;
--> statement-breakpoint
-- managed: function costs.budget_status()
create or replace function costs.budget_status()
returns table (budget_id uuid, name text, scope costs.budget_scope, period costs.budget_period,
  mode costs.budget_mode, subject text, limit_nanos bigint, spent_nanos bigint, reserved_nanos bigint,
  starts_at timestamptz, ends_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
begin
  return query
    select b.id, b.name, b.scope, b.period, b.mode, coalesce(w.subject, b.subject, ''), b.limit_nanos,
      coalesce(w.spent, 0)::bigint, coalesce(w.reserved, 0)::bigint, coalesce(w.starts_at, n.starts_at),
      coalesce(w.ends_at, n.ends_at)
    from "costs"."budgets" b
    join "identity"."organizations" z on z.id = b.organization_id
    cross join lateral costs.window_of(b.period, clock_timestamp(), z.time_zone) n
    left join lateral (
      select w.subject, w.starts_at, w.ends_at, sum(w.spent_nanos) as spent, sum(w.reserved_nanos) as reserved
      from "costs"."budget_windows" w
      where w.organization_id = organization and w.budget_id = b.id and w.starts_at <= clock_timestamp()
        and (w.ends_at is null or w.ends_at > clock_timestamp())
      group by w.subject, w.starts_at, w.ends_at) w on true
    where b.organization_id = organization and nullif(current_setting('plinth.role', true), '') is not null
      and (w.subject is not null or b.subject is not null or b.scope = 'organization')
      and not (b.subject is null and b.scope <> 'organization' and exists (
        select from "costs"."budgets" o
        where o.organization_id = b.organization_id and o.scope = b.scope and o.period = b.period
          and o.mode = b.mode and o.subject = w.subject))
      and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or b.scope <> 'user' or coalesce(w.subject, b.subject) = nullif(current_setting('plinth.user_id', true), '')::uuid::text);
end $$;
--> statement-breakpoint
-- managed: function costs.current_window(costs.budget_period)
create or replace function costs.current_window(
  period costs.budget_period, out starts_at timestamptz, out ends_at timestamptz, out at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
begin
  select p.starts_at, p.ends_at, clock_timestamp() into starts_at, ends_at, at
    from "identity"."organizations" z
    cross join lateral costs.window_of(current_window.period, clock_timestamp(), z.time_zone) p
    where z.id = organization;
end $$;
--> statement-breakpoint
-- managed: grant costs.raise_alerts(uuid, text, timestamptz, bigint, bigint)
revoke execute on function costs.raise_alerts(uuid, text, timestamptz, bigint, bigint) from public;
--> statement-breakpoint
-- managed: grant costs.charge_budgets(json, uuid)
revoke execute on function costs.charge_budgets(json, uuid) from public;
--> statement-breakpoint
-- managed: grant costs.charge_budgets(json, uuid) to plinth_app
grant execute on function costs.charge_budgets(json, uuid) to plinth_app;
--> statement-breakpoint
-- managed: grant costs.open_budget(uuid)
revoke execute on function costs.open_budget(uuid) from public;
--> statement-breakpoint
-- managed: grant costs.open_budget(uuid) to plinth_app
grant execute on function costs.open_budget(uuid) to plinth_app;
--> statement-breakpoint
-- managed: grant costs.change_budget(uuid, bigint, smallint)
revoke execute on function costs.change_budget(uuid, bigint, smallint) from public;
--> statement-breakpoint
-- managed: grant costs.change_budget(uuid, bigint, smallint) to plinth_app
grant execute on function costs.change_budget(uuid, bigint, smallint) to plinth_app;
--> statement-breakpoint
-- managed: grant costs.raise_missed_alerts()
revoke execute on function costs.raise_missed_alerts() from public;
--> statement-breakpoint
-- managed: grant costs.raise_missed_alerts() to plinth_app
grant execute on function costs.raise_missed_alerts() to plinth_app;
--> statement-breakpoint
-- managed: grant costs.budget_status()
revoke execute on function costs.budget_status() from public;
--> statement-breakpoint
-- managed: grant costs.budget_status() to plinth_app
grant execute on function costs.budget_status() to plinth_app;
--> statement-breakpoint
-- managed: grant costs.current_window(costs.budget_period)
revoke execute on function costs.current_window(costs.budget_period) from public;
--> statement-breakpoint
-- managed: grant costs.current_window(costs.budget_period) to plinth_app
grant execute on function costs.current_window(costs.budget_period) to plinth_app;
--> statement-breakpoint
-- managed: function costs.give_back(uuid[], costs.reservation_state)
create or replace function costs.give_back(reservation_ids uuid[], outcome "costs"."reservation_state")
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  at timestamptz := clock_timestamp();
begin
  perform 1 from "costs"."budget_windows" w join (
      select h.budget_id, h.subject, h.starts_at, h.shard, sum(r.amount_nanos)::bigint as amount
      from "costs"."reservations" r
      cross join lateral unnest(r.budget_ids, r.subjects, r.window_starts_at, r.shards)
        h (budget_id, subject, starts_at, shard)
      where r.organization_id = organization and r.id = any (reservation_ids)
      group by 1, 2, 3, 4) h on w.organization_id = organization and w.budget_id = h.budget_id and w.subject = h.subject
      and w.starts_at = h.starts_at and w.shard = h.shard
    order by w.budget_id, w.subject, w.starts_at, w.shard for update of w;
  update "costs"."budget_windows" w set reserved_nanos = w.reserved_nanos - h.amount
    from (
      select h.budget_id, h.subject, h.starts_at, h.shard, sum(r.amount_nanos)::bigint as amount
      from "costs"."reservations" r
      cross join lateral unnest(r.budget_ids, r.subjects, r.window_starts_at, r.shards)
        h (budget_id, subject, starts_at, shard)
      where r.organization_id = organization and r.id = any (reservation_ids)
      group by 1, 2, 3, 4) h where w.organization_id = organization and w.budget_id = h.budget_id and w.subject = h.subject
      and w.starts_at = h.starts_at and w.shard = h.shard;
  update "costs"."reservations" r set state = outcome, resolved_at = at
    where r.organization_id = organization and r.id = any (reservation_ids);
end $$;
--> statement-breakpoint
-- managed: function costs.expire_reservations(integer)
create or replace function costs.expire_reservations(max_rows integer)
returns integer language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  ids uuid[];
begin
  perform pg_advisory_xact_lock_shared(hashtextextended('plinth.ledger ' || organization::text, 0));
  ids := array(
    select r.id from "costs"."reservations" r
    where r.organization_id = organization and r.state = 'held' and r.leased_until <= clock_timestamp()
    order by r.leased_until limit max_rows for update skip locked);
  perform costs.give_back(ids, 'expired');
  return cardinality(ids);
end $$;
--> statement-breakpoint
-- managed: function costs.frees_up_at(jsonb, bigint)
create or replace function costs.frees_up_at(budget jsonb, amount bigint)
returns timestamptz language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  most bigint := (budget ->> 'limitNanos')::bigint;
  excess numeric := (budget ->> 'spentNanos')::numeric + (budget ->> 'reservedNanos')::numeric + amount - most;
  room_at timestamptz;
begin
  -- It is too much in any window.
  if amount > most then
    return null;
  end if;
  select min(f.leased_until) into room_at from (
    select r.leased_until, sum(r.amount_nanos) over (order by r.leased_until, r.id) as freed
    from "costs"."reservations" r
    where r.organization_id = organization and r.state = 'held' and exists (
      select from unnest(r.budget_ids, r.subjects, r.window_starts_at) h (budget_id, subject, starts_at)
      where h.budget_id = (budget ->> 'id')::uuid and h.subject = budget ->> 'subject'
        and h.starts_at = (budget ->> 'startsAt')::timestamptz)) f
    where f.freed >= excess;
  return least(room_at, (budget ->> 'endsAt')::timestamptz);
end $$;
--> statement-breakpoint
-- managed: function costs.reserve(uuid, uuid, uuid, text, text, bigint, integer)
create or replace function costs.reserve(
  reservation uuid, member uuid, project uuid, model_provider text, model_name text, amount bigint,
  lease_ms integer, out is_granted boolean, out created_at timestamptz, out leased_until timestamptz,
  out blocked jsonb)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  counter record;
  picked smallint;
  budget_ids uuid[] := '{}';
  subjects text[] := '{}';
  starts timestamptz[] := '{}';
  shards smallint[] := '{}';
  expired_ids uuid[];
  spent bigint;
  reserved bigint;
begin
  if organization is null or not coalesce(current_setting('plinth.role', true) in ('owner', 'admin', 'service') or member is null or member = nullif(current_setting('plinth.user_id', true), '')::uuid, false) then
    raise exception 'calls of another member are an admin''s to make' using errcode = 'insufficient_privilege';
  end if;
  perform pg_advisory_xact_lock_shared(hashtextextended('plinth.ledger ' || organization::text, 0));
  created_at := date_trunc('milliseconds', clock_timestamp());
  leased_until := created_at + lease_ms * interval '1 millisecond';
  if amount > 0 and exists (select from "costs"."reservations" r
      where r.organization_id = organization and r.state = 'held' and r.leased_until <= reserve.created_at) then
    expired_ids := array(
    select r.id from "costs"."reservations" r
    where r.organization_id = organization and r.state = 'held' and r.leased_until <= clock_timestamp()
    order by r.leased_until limit 1000 for update skip locked);
    perform 1 from "costs"."budget_windows" w
      where w.organization_id = organization and (w.budget_id, w.subject, w.starts_at) in (
        select c.id, c.subject, c.starts_at from (
    select b.id, b.name, b.scope, b.shards, b.limit_nanos, s.subject, w.starts_at, w.ends_at,
      b.mode = 'warn' or (b.subject is null and b.scope <> 'organization' and exists (
        select from "costs"."budgets" o
        where o.organization_id = b.organization_id and o.scope = b.scope and o.period = b.period
          and o.mode = b.mode and o.subject = s.subject)) as is_lenient
    from "costs"."budgets" b
    cross join lateral (select case b.scope when 'organization' then '' when 'user' then member::text
    when 'project' then project::text else model_provider || '/' || model_name end as subject) s
    left join lateral (
      select w.starts_at, w.ends_at from "costs"."budget_windows" w
      where w.organization_id = organization and w.budget_id = b.id and w.subject = s.subject
        and w.starts_at <= reserve.created_at and (w.ends_at is null or w.ends_at > reserve.created_at)
      order by w.starts_at desc limit 1) w on true
    where b.organization_id = organization and (b.subject = s.subject or b.subject is null)
      and s.subject is not null
    order by b.id, s.subject, w.starts_at) c
        union
        select h.budget_id, h.subject, h.starts_at from (
      select h.budget_id, h.subject, h.starts_at, h.shard, sum(r.amount_nanos)::bigint as amount
      from "costs"."reservations" r
      cross join lateral unnest(r.budget_ids, r.subjects, r.window_starts_at, r.shards)
        h (budget_id, subject, starts_at, shard)
      where r.organization_id = organization and r.id = any (expired_ids)
      group by 1, 2, 3, 4) h)
      order by w.budget_id, w.subject, w.starts_at, w.shard for update;
    perform costs.give_back(expired_ids, 'expired');
  end if;

  for counter in 
    select b.id, b.name, b.scope, b.shards, b.limit_nanos, s.subject, w.starts_at, w.ends_at,
      b.mode = 'warn' or (b.subject is null and b.scope <> 'organization' and exists (
        select from "costs"."budgets" o
        where o.organization_id = b.organization_id and o.scope = b.scope and o.period = b.period
          and o.mode = b.mode and o.subject = s.subject)) as is_lenient
    from "costs"."budgets" b
    cross join lateral (select case b.scope when 'organization' then '' when 'user' then member::text
    when 'project' then project::text else model_provider || '/' || model_name end as subject) s
    left join lateral (
      select w.starts_at, w.ends_at from "costs"."budget_windows" w
      where w.organization_id = organization and w.budget_id = b.id and w.subject = s.subject
        and w.starts_at <= reserve.created_at and (w.ends_at is null or w.ends_at > reserve.created_at)
      order by w.starts_at desc limit 1) w on true
    where b.organization_id = organization and (b.subject = s.subject or b.subject is null)
      and s.subject is not null
    order by b.id, s.subject, w.starts_at
  loop
    exit when amount = 0;
    if counter.starts_at is null then
      select o.window_start, o.window_end into counter.starts_at, counter.ends_at
        from costs.open_window(counter.id, counter.subject, reserve.created_at) o;
    end if;
    if counter.shards = 1 then
      update "costs"."budget_windows" w set reserved_nanos = w.reserved_nanos + amount
        where w.organization_id = organization and w.budget_id = counter.id
      and w.subject = counter.subject and w.starts_at = counter.starts_at and w.shard = 0
          and (counter.is_lenient or amount <= w.quota_nanos - w.spent_nanos - w.reserved_nanos)
        returning w.shard into picked;
    else
      picked := costs.add_to_shards(counter.id, counter.subject, counter.starts_at, counter.shards, null, amount, 0,
        counter.is_lenient, counter.is_lenient);
    end if;
    if picked is not null then
      budget_ids := budget_ids || counter.id;
      subjects := subjects || counter.subject;
      starts := starts || counter.starts_at;
      shards := shards || picked;
    else
      -- The limit of now, which may have been changed while the rows were waited for.
      select sum(w.spent_nanos), sum(w.reserved_nanos), sum(w.quota_nanos)
        into spent, reserved, counter.limit_nanos from "costs"."budget_windows" w where w.organization_id = organization and w.budget_id = counter.id
      and w.subject = counter.subject and w.starts_at = counter.starts_at;
      -- The budget was removed while its rows were waited for.
      continue when spent is null;
      blocked := coalesce(blocked, '[]') || jsonb_build_object('id', counter.id, 'name', counter.name,
        'scope', counter.scope, 'subject', counter.subject, 'limitNanos', counter.limit_nanos::text,
        'spentNanos', spent::text, 'reservedNanos', reserved::text, 'startsAt', counter.starts_at,
        'endsAt', counter.ends_at);
    end if;
  end loop;

  is_granted := blocked is null;
  if is_granted then
    insert into "costs"."reservations" (organization_id, id, user_id, project_id, provider, model, amount_nanos,
        budget_ids, subjects, window_starts_at, shards, leased_until, created_at)
      values (organization, reservation, member, project, model_provider, model_name, amount,
        budget_ids, subjects, starts, shards, reserve.leased_until, reserve.created_at);
  else
    update "costs"."budget_windows" w set reserved_nanos = w.reserved_nanos - amount
      from unnest(budget_ids, subjects, starts, shards) h (budget_id, subject, starts_at, shard)
      where w.organization_id = organization and w.budget_id = h.budget_id and w.subject = h.subject
      and w.starts_at = h.starts_at and w.shard = h.shard;
    blocked := (select jsonb_agg(b || jsonb_build_object('freesUpAt', costs.frees_up_at(b, amount)) order by n)
      from jsonb_array_elements(blocked) with ordinality as e (b, n));
  end if;
end $$;
--> statement-breakpoint
-- managed: function costs.resolve_reservation(uuid, costs.reservation_state)
create or replace function costs.resolve_reservation(reservation uuid, outcome "costs"."reservation_state",
  out was "costs"."reservation_state", out is_late boolean, out user_id uuid, out project_id uuid, out provider text,
  out model text, out amount_nanos bigint, out created_at timestamptz)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
begin
  perform pg_advisory_xact_lock_shared(hashtextextended('plinth.ledger ' || organization::text, 0));
  select r.state, r.state = 'expired' or (r.state = 'held' and r.leased_until <= clock_timestamp()), r.user_id, r.project_id,
      r.provider, r.model, r.amount_nanos, r.created_at
    into was, is_late, user_id, project_id, provider, model, amount_nanos, created_at
    from "costs"."reservations" r
    where r.organization_id = organization and r.id = reservation and coalesce(current_setting('plinth.role', true) in ('owner', 'admin', 'service') or r.user_id is null or r.user_id = nullif(current_setting('plinth.user_id', true), '')::uuid, false) for update;
  if not found then
    raise exception 'reservation % not found', reservation
      using errcode = 'no_data_found', detail = 'reservation', hint = reservation::text;
  elsif (outcome = 'settled' and was = 'released') or (outcome = 'released' and was = 'settled') then
    raise exception 'reservation % is % already', reservation, was
      using errcode = 'object_not_in_prerequisite_state', detail = 'plinth.reservation.' || was,
        hint = reservation::text;
  elsif outcome = 'released' and was = 'held' then
    perform costs.give_back(array[reservation], outcome);
  end if;
end $$;
--> statement-breakpoint
-- managed: function costs.extend_reservation(uuid, integer)
create or replace function costs.extend_reservation(reservation uuid, lease_ms integer)
returns timestamptz language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  until timestamptz := date_trunc('milliseconds', clock_timestamp()) + lease_ms * interval '1 millisecond';
begin
  update "costs"."reservations" r set leased_until = greatest(r.leased_until, until)
    where r.organization_id = organization and r.id = reservation and r.state = 'held' and coalesce(current_setting('plinth.role', true) in ('owner', 'admin', 'service') or r.user_id is null or r.user_id = nullif(current_setting('plinth.user_id', true), '')::uuid, false)
    returning r.leased_until into until;
  return case when found then until end;
end $$;
--> statement-breakpoint
-- managed: function costs.purge_reservations(uuid, integer)
create or replace function costs.purge_reservations(before uuid, max_rows integer)
returns integer language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  purged integer;
begin
  delete from "costs"."reservations" r where r.organization_id = organization and current_setting('plinth.role', true) in ('owner', 'admin', 'service')
    and r.id = any (array(select x.id from "costs"."reservations" x
      where x.organization_id = organization and x.id < before and x.state <> 'held'
      order by x.id limit max_rows for update skip locked));
  get diagnostics purged = row_count;
  return purged;
end $$;
--> statement-breakpoint
-- managed: function costs.organizations_due(text, uuid, integer)
create or replace function costs.organizations_due(work text, after_organization uuid, max_rows integer)
returns setof uuid language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  last uuid := coalesce(after_organization, '00000000-0000-0000-0000-000000000000');
begin
  if work = 'expire' then
    return query select distinct r.organization_id from "costs"."reservations" r
      where r.state = 'held' and r.leased_until <= clock_timestamp() and r.organization_id > last
      order by 1 limit max_rows;
  elsif work = 'alert' then
    return query select d.organization_id from (
        select a.organization_id from "costs"."budget_alerts" a where a.claimed_at is null
        union select b.organization_id from "costs"."budgets" b where b.shards > 1) d
      where d.organization_id > last order by 1 limit max_rows;
  else
    -- One look into the index an organization, and not one a reservation.
    for i in 1 .. max_rows loop
      select r.organization_id into last from "costs"."reservations" r
        where r.organization_id > last order by r.organization_id limit 1;
      exit when not found;
      return next last;
    end loop;
  end if;
end $$;
--> statement-breakpoint
-- managed: grant costs.give_back(uuid[], costs.reservation_state)
revoke execute on function costs.give_back(uuid[], costs.reservation_state) from public;
--> statement-breakpoint
-- managed: grant costs.frees_up_at(jsonb, bigint)
revoke execute on function costs.frees_up_at(jsonb, bigint) from public;
--> statement-breakpoint
-- managed: grant costs.expire_reservations(integer)
revoke execute on function costs.expire_reservations(integer) from public;
--> statement-breakpoint
-- managed: grant costs.expire_reservations(integer) to plinth_app
grant execute on function costs.expire_reservations(integer) to plinth_app;
--> statement-breakpoint
-- managed: grant costs.reserve(uuid, uuid, uuid, text, text, bigint, integer)
revoke execute on function costs.reserve(uuid, uuid, uuid, text, text, bigint, integer) from public;
--> statement-breakpoint
-- managed: grant costs.reserve(uuid, uuid, uuid, text, text, bigint, integer) to plinth_app
grant execute on function costs.reserve(uuid, uuid, uuid, text, text, bigint, integer) to plinth_app;
--> statement-breakpoint
-- managed: grant costs.resolve_reservation(uuid, costs.reservation_state)
revoke execute on function costs.resolve_reservation(uuid, costs.reservation_state) from public;
--> statement-breakpoint
-- managed: grant costs.resolve_reservation(uuid, costs.reservation_state) to plinth_app
grant execute on function costs.resolve_reservation(uuid, costs.reservation_state) to plinth_app;
--> statement-breakpoint
-- managed: grant costs.extend_reservation(uuid, integer)
revoke execute on function costs.extend_reservation(uuid, integer) from public;
--> statement-breakpoint
-- managed: grant costs.extend_reservation(uuid, integer) to plinth_app
grant execute on function costs.extend_reservation(uuid, integer) to plinth_app;
--> statement-breakpoint
-- managed: grant costs.purge_reservations(uuid, integer)
revoke execute on function costs.purge_reservations(uuid, integer) from public;
--> statement-breakpoint
-- managed: grant costs.purge_reservations(uuid, integer) to plinth_app
grant execute on function costs.purge_reservations(uuid, integer) to plinth_app;
--> statement-breakpoint
-- managed: grant costs.organizations_due(text, uuid, integer)
revoke execute on function costs.organizations_due(text, uuid, integer) from public;
--> statement-breakpoint
-- managed: grant costs.organizations_due(text, uuid, integer) to plinth_platform
grant execute on function costs.organizations_due(text, uuid, integer) to plinth_platform;
--> statement-breakpoint
-- managed: function costs.close_usage_at(uuid, timestamptz)
create or replace function costs.close_usage_at(organization uuid, closing timestamptz)
returns timestamptz language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  closed timestamptz;
begin
  select r.closed_at into closed from "costs"."usage_roll_ups" r where r.organization_id = organization;
  if closed >= closing then
    return closed;
  end if;
  perform pg_advisory_xact_lock(hashtextextended('plinth.ledger ' || organization::text, 0));
  insert into "costs"."usage_roll_ups" as r (organization_id, closed_at) values (organization, closing)
    on conflict (organization_id) do update set closed_at = greatest(r.closed_at, excluded.closed_at)
    returning r.closed_at into closed;
  return closed;
end $$;
--> statement-breakpoint
-- managed: grant costs.close_usage_at(uuid, timestamptz)
revoke execute on function costs.close_usage_at(uuid, timestamptz) from public;
--> statement-breakpoint
-- managed: function costs.close_usage()
create or replace function costs.close_usage()
returns timestamptz language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '500ms' as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
begin
  
  if organization is null or not current_setting('plinth.role', true) in ('owner', 'admin', 'service') then
    raise exception 'only an admin or a service rolls up' using errcode = '42501';
  end if;
  
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'what sums up the ledger needs the isolation level read committed' using errcode = '25001',
      detail = 'plinth.isolation';
  end if;
  return costs.close_usage_at(organization, date_trunc('hour', clock_timestamp() - interval '5 minutes', 'UTC'));
end $$;
--> statement-breakpoint
-- managed: function costs.roll_up_usage_day()
create or replace function costs.roll_up_usage_day()
returns table (day_on date, events bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  closed timestamptz;
  rolled timestamptz;
  day date;
  day_end timestamptz;
begin
  
  if organization is null or not current_setting('plinth.role', true) in ('owner', 'admin', 'service') then
    raise exception 'only an admin or a service rolls up' using errcode = '42501';
  end if;
  
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'what sums up the ledger needs the isolation level read committed' using errcode = '25001',
      detail = 'plinth.isolation';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('plinth.usage_daily ' || organization::text, 0));
  select r.closed_at, r.rolled_at into closed, rolled
    from "costs"."usage_roll_ups" r where r.organization_id = organization;
  if not found then
    return;
  end if;
  day := least(
    (select min(s.day_on) from "costs"."usage_stale_days" s
      where s.organization_id = organization and s.day_on < (((closed) + interval '24 hours' - interval '1 ms') at time zone 'UTC')::date),
    (select ((min(e.occurred_at)) at time zone 'UTC')::date from "costs"."usage_events" e
      where e.organization_id = organization and e.occurred_at < closed
        and e.occurred_at >= coalesce(rolled, '-infinity')));
  if day is null then
    update "costs"."usage_roll_ups" r set rolled_at = closed
      where r.organization_id = organization and r.rolled_at is distinct from closed;
    return;
  end if;
  day_end := least((day + 1)::timestamp at time zone 'UTC', closed);
  delete from "costs"."usage_stale_days" s where s.organization_id = organization and s.day_on = day;
  delete from "costs"."usage_daily" d where d.organization_id = organization and d.day_on = day;
  return query
    with lines as (
      insert into "costs"."usage_daily" as d (organization_id, day_on, line, user_id, project_id, provider, model,
        endpoint, events, unpriced, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
        reasoning_tokens, embedding_tokens, images, audio_seconds, requests, cost_nanos)
      select organization, day, row_number() over (), e.user_id, e.project_id, e.provider, e.model,
        e.endpoint, count(*) filter (where e.adjusts_id is null),
        count(*) filter (where e.status = 'unpriced')
          - count(*) filter (where e.adjusts_status = 'unpriced'),
        sum(e.input_tokens), sum(e.output_tokens), sum(e.cache_read_tokens), sum(e.cache_write_tokens),
        sum(e.reasoning_tokens), sum(e.embedding_tokens), sum(e.images), sum(e.audio_seconds),
        sum(e.requests), coalesce(sum(e.cost_nanos), 0)
      from "costs"."usage_events" e
      where e.organization_id = organization
        and e.occurred_at >= (day)::timestamp at time zone 'UTC' and e.occurred_at < day_end
      -- What is huge is a row of its own, so that no sum leaves bigint.
      group by e.user_id, e.project_id, e.provider, e.model, e.endpoint,
        case when greatest(abs(e.cost_nanos), e.input_tokens, e.output_tokens, e.embedding_tokens, e.images,
          e.audio_seconds, e.requests) >= 1000000000000 then e.id end
      returning d.events
    )
    select day, coalesce(sum(l.events), 0)::bigint from lines l;
  update "costs"."usage_roll_ups" r set rolled_at = day_end
    where r.organization_id = organization and (r.rolled_at is null or r.rolled_at < day_end);
end $$;
--> statement-breakpoint
-- managed: function costs.due_ledgers(uuid, integer)
create or replace function costs.due_ledgers(after_organization uuid, max_rows integer)
returns table (organization_id uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  closing timestamptz := date_trunc('hour', clock_timestamp() - interval '5 minutes', 'UTC');
begin
  -- Scalar subqueries, which stay probes of an index: a join might read whole ledgers.
  return query
    select o.id from "identity"."organizations" o
    left join "costs"."usage_roll_ups" r on r.organization_id = o.id
    where o.archived_at is null and (after_organization is null or o.id > after_organization)
      and coalesce(
        (select true from "costs"."usage_stale_days" s where s.organization_id = o.id
          and s.day_on < (((closing) + interval '24 hours' - interval '1 ms') at time zone 'UTC')::date limit 1),
        (select true from "costs"."usage_events" e where e.organization_id = o.id
          and e.occurred_at >= coalesce(r.rolled_at, '-infinity') and e.occurred_at < closing limit 1))
    order by o.id limit max_rows;
end $$;
--> statement-breakpoint
-- managed: function costs.usage_sums(timestamptz, timestamptz, uuid, text, text, text)
create or replace function costs.usage_sums(
  since timestamptz, until timestamptz, only_user uuid, key text, period text, time_zone text)
returns table (period_at timestamptz, user_id uuid, project_id uuid, provider text, model text, endpoint text,
  events numeric, unpriced numeric, tokens numeric, cost_nanos numeric)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan' set enable_sort = off as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  from_at timestamptz := coalesce(since, '-infinity');
  to_at timestamptz := coalesce(until, 'infinity');
  -- To compare texts line by line would take as long as to read the lines.
  by_period boolean := period in ('hour', 'day', 'month');
  by_user boolean := key = 'user';
  by_project boolean := key = 'project';
  by_model boolean := key = 'model';
  by_endpoint boolean := key = 'endpoint';
  from_on date := (((from_at) + interval '24 hours' - interval '1 ms') at time zone 'UTC')::date;
  -- Until when the days from there on are rolled up, within the stretch.
  rolled timestamptz;
  to_on date;
  live date[];
  boundary timestamp;
  gaps timestamptz[];
  gap_from timestamptz;
  gap_to timestamptz;
begin
  if organization is null then
    return;
  end if;
  if current_setting('plinth.role', true) in ('owner', 'admin', 'service') is not true then
    if only_user <> nullif(current_setting('plinth.user_id', true), '')::uuid then
      return;
    end if;
    only_user := nullif(current_setting('plinth.user_id', true), '')::uuid;
    if only_user is null then
      return;
    end if;
  end if;
  if period is distinct from 'hour' and (period is distinct from 'day' or time_zone = 'UTC') then
    select case when r.rolled_at <= to_at then r.rolled_at else date_trunc('day', to_at, 'UTC') end into rolled
      from "costs"."usage_roll_ups" r where r.organization_id = organization and r.rolled_at is not null;
    to_on := (((rolled) + interval '24 hours' - interval '1 ms') at time zone 'UTC')::date;
  end if;
  if to_on is null or to_on <= from_on then
    gaps := array[from_at, to_at];
  else
    live := array(select distinct s.day_on from "costs"."usage_stale_days" s
      where s.organization_id = organization and s.day_on >= from_on and s.day_on < to_on);
    if period = 'month' and time_zone <> 'UTC' then
      -- A month of another zone ends within a day of UTC; the days beside it for the sake of changing clocks.
      boundary := date_trunc('month', (greatest(from_on, (
        select min(d.day_on) from "costs"."usage_daily" d where d.organization_id = organization)))::timestamp at time zone 'UTC' at time zone time_zone);
      while boundary <= to_on + 1 loop
        live := live || array(select d.day
          from (select boundary::date + n from generate_series(-2, 1) n) d (day)
          where d.day >= from_on and d.day < to_on and d.day <> all (live)
            and date_trunc('month', (d.day)::timestamp at time zone 'UTC', time_zone)
              <> date_trunc('month', (d.day + 1)::timestamp at time zone 'UTC' - interval '1 ms', time_zone));
        boundary := boundary + interval '1 month';
      end loop;
    end if;
    if only_user is null then
      
  return query 
  select case when by_period then date_trunc(period, (t.day_on)::timestamp at time zone 'UTC', time_zone) end,
    case when by_user then t.user_id end, case when by_project then t.project_id end,
    case when by_model then t.provider end, case when by_model then t.model end,
    case when by_endpoint then t.endpoint end, sum(t.events), sum(t.unpriced),
    sum(t.input_tokens + t.output_tokens + t.embedding_tokens), sum(t.cost_nanos)
    from "costs"."usage_daily" t
    where t.organization_id = organization and t.day_on >= from_on and t.day_on < to_on
      and t.day_on <> all (live) group by 1, 2, 3, 4, 5, 6;
    else
      
  return query 
  select case when by_period then date_trunc(period, (t.day_on)::timestamp at time zone 'UTC', time_zone) end,
    case when by_user then t.user_id end, case when by_project then t.project_id end,
    case when by_model then t.provider end, case when by_model then t.model end,
    case when by_endpoint then t.endpoint end, sum(t.events), sum(t.unpriced),
    sum(t.input_tokens + t.output_tokens + t.embedding_tokens), sum(t.cost_nanos)
    from "costs"."usage_daily" t
    where t.organization_id = organization and t.day_on >= from_on and t.day_on < to_on
      and t.day_on <> all (live) and t.user_id = only_user group by 1, 2, 3, 4, 5, 6;
    end if;
    gaps := array[from_at, (from_on)::timestamp at time zone 'UTC', rolled, to_at]
      || array(select b.bound from unnest(live) l (day)
        cross join lateral (values ((l.day)::timestamp at time zone 'UTC'), (least((l.day + 1)::timestamp at time zone 'UTC', rolled))) b (bound));
  end if;
  for place in 1..cardinality(gaps) by 2 loop
    gap_from := gaps[place];
    gap_to := gaps[place + 1];
    continue when gap_from >= gap_to;
    if only_user is null then
      
  return query 
  select case when by_period then date_trunc(period, t.occurred_at, time_zone) end,
    case when by_user then t.user_id end, case when by_project then t.project_id end,
    case when by_model then t.provider end, case when by_model then t.model end,
    case when by_endpoint then t.endpoint end, (count(*) filter (where t.adjusts_id is null))::numeric,
    (count(*) filter (where t.status = 'unpriced')
      - count(*) filter (where t.adjusts_status = 'unpriced'))::numeric,
    sum(t.input_tokens + t.output_tokens + t.embedding_tokens), sum(t.cost_nanos)
    from "costs"."usage_events" t
    where t.organization_id = organization and t.occurred_at >= gap_from and t.occurred_at < gap_to group by 1, 2, 3, 4, 5, 6;
    else
      
  return query 
  select case when by_period then date_trunc(period, t.occurred_at, time_zone) end,
    case when by_user then t.user_id end, case when by_project then t.project_id end,
    case when by_model then t.provider end, case when by_model then t.model end,
    case when by_endpoint then t.endpoint end, (count(*) filter (where t.adjusts_id is null))::numeric,
    (count(*) filter (where t.status = 'unpriced')
      - count(*) filter (where t.adjusts_status = 'unpriced'))::numeric,
    sum(t.input_tokens + t.output_tokens + t.embedding_tokens), sum(t.cost_nanos)
    from "costs"."usage_events" t
    where t.organization_id = organization and t.occurred_at >= gap_from and t.occurred_at < gap_to and t.user_id = only_user group by 1, 2, 3, 4, 5, 6;
    end if;
  end loop;
end $$;
--> statement-breakpoint
-- managed: grant costs.usage_sums(timestamptz, timestamptz, uuid, text, text, text)
revoke execute on function costs.usage_sums(timestamptz, timestamptz, uuid, text, text, text) from public;
--> statement-breakpoint
-- managed: grant costs.usage_sums(timestamptz, timestamptz, uuid, text, text, text) to plinth_app
grant execute on function costs.usage_sums(timestamptz, timestamptz, uuid, text, text, text) to plinth_app;
--> statement-breakpoint
-- managed: grant costs.close_usage()
revoke execute on function costs.close_usage() from public;
--> statement-breakpoint
-- managed: grant costs.close_usage() to plinth_app
grant execute on function costs.close_usage() to plinth_app;
--> statement-breakpoint
-- managed: grant costs.roll_up_usage_day()
revoke execute on function costs.roll_up_usage_day() from public;
--> statement-breakpoint
-- managed: grant costs.roll_up_usage_day() to plinth_app
grant execute on function costs.roll_up_usage_day() to plinth_app;
--> statement-breakpoint
-- managed: grant costs.due_ledgers(uuid, integer)
revoke execute on function costs.due_ledgers(uuid, integer) from public;
--> statement-breakpoint
-- managed: grant costs.due_ledgers(uuid, integer) to plinth_platform
grant execute on function costs.due_ledgers(uuid, integer) to plinth_platform;
--> statement-breakpoint
-- managed: grant activity
grant usage on schema "activity" to plinth_app, plinth_platform;
--> statement-breakpoint
-- managed: grant activity.chains
grant select, insert, update, delete on "activity"."chains" to plinth_app;
--> statement-breakpoint
-- managed: grant activity.seals
grant select on "activity"."seals" to plinth_app;
--> statement-breakpoint
-- managed: grant activity.sealed_rows
grant select on "activity"."sealed_rows" to plinth_app;
--> statement-breakpoint
-- managed: grant activity.auth_logs
grant select, insert on "activity"."auth_logs" to plinth_platform;
--> statement-breakpoint
-- managed: grant activity.error_logs
grant select, insert on "activity"."error_logs" to plinth_platform;
--> statement-breakpoint
-- managed: grant activity.error_groups
grant select, insert, update on "activity"."error_groups" to plinth_platform;
--> statement-breakpoint
-- managed: grant activity.webhook_deliveries
grant select, insert, update, delete on "activity"."webhook_deliveries" to plinth_app;
--> statement-breakpoint
-- managed: call partitions of activity.auth_logs
select partitions.create_months('activity', 'auth_logs', now() - interval '1 month', now() + interval '12 months');
--> statement-breakpoint
-- managed: call partitions of activity.error_logs
select partitions.create_months('activity', 'error_logs', now() - interval '1 month', now() + interval '12 months');
--> statement-breakpoint
-- managed: comment "activity"."auth_logs"
comment on table "activity"."auth_logs" is 'Who tried to get in, and whether they did. Append-only.';
--> statement-breakpoint
-- managed: comment "activity"."webhook_deliveries"
comment on table "activity"."webhook_deliveries" is 'A webhook that came in, or one that is to go out.';
--> statement-breakpoint
-- managed: comment "activity"."error_logs"
comment on table "activity"."error_logs" is 'One occurrence of something that went wrong. Append-only.';
--> statement-breakpoint
-- managed: comment "activity"."error_groups"
comment on table "activity"."error_groups" is 'Errors of one cause, open or resolved.';
--> statement-breakpoint
-- managed: comment "activity"."chains"
comment on table "activity"."chains" is 'Whether the log of an organization is sealed.';
--> statement-breakpoint
-- managed: comment "activity"."seals"
comment on table "activity"."seals" is 'A sealed batch of lines of the log; a chain by their hashes.';
--> statement-breakpoint
-- managed: comment "activity"."sealed_rows"
comment on table "activity"."sealed_rows" is 'The digest of a line of the log as it was when it was sealed.';
--> statement-breakpoint
-- managed: function activity.due_organizations(uuid, integer)
create or replace function activity.due_organizations(after uuid, max_rows integer)
returns setof uuid language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := coalesce(after, '00000000-0000-0000-0000-000000000000'::uuid);
  due timestamptz;
  given integer := 0;
begin
  while given < max_rows loop
    select d.organization_id, d.next_attempt_at into organization, due from "activity"."webhook_deliveries" d
      where d.status = 'pending' and d.organization_id > organization
      order by d.organization_id, d.next_attempt_at limit 1;
    exit when not found;
    perform 1 from "identity"."organizations" o where o.id = organization and o.archived_at is null;
    if found and due <= clock_timestamp() then
      return next organization;
      given := given + 1;
    end if;
  end loop;
end $$;
--> statement-breakpoint
-- managed: grant activity.due_organizations(uuid, integer)
revoke execute on function activity.due_organizations(uuid, integer) from public;
--> statement-breakpoint
-- managed: grant activity.due_organizations(uuid, integer) to plinth_platform
grant execute on function activity.due_organizations(uuid, integer) to plinth_platform;
--> statement-breakpoint
-- managed: function activity.enqueue_delivery(uuid, text, text, text, text, jsonb, jsonb, integer, timestamp with time zone)
create or replace function activity.enqueue_delivery(new_id uuid, of_provider text, named text, of_event text,
  target text, content jsonb, head jsonb, max_count integer, not_before timestamp with time zone)
returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  found_id uuid;
begin
  if organization is null or not coalesce(current_setting('plinth.role', true) in ('owner', 'admin', 'editor', 'member', 'service'), false) then
    raise exception 'a viewer adds no webhook' using errcode = '42501';
  end if;
  -- Again where it was purged between the two.
  loop
    -- Waits for whoever is adding the same event. At the default isolation the row is seen afterwards.
    insert into "activity"."webhook_deliveries" as d (organization_id, id, direction, status, provider, event, event_id, url,
        payload, headers, max_attempts, next_attempt_at)
      values (organization, new_id, 'outgoing', 'pending', of_provider, named, of_event, target, content, head,
        max_count, coalesce(not_before, clock_timestamp()))
      on conflict (organization_id, direction, provider, event_id) where status <> 'rejected' do nothing
      returning d.id into found_id;
    exit when found;
    select d.id into found_id from "activity"."webhook_deliveries" d
      where d.organization_id = organization and d.direction = 'outgoing' and d.provider = of_provider
        and d.event_id = of_event and d.status <> 'rejected';
    exit when found;
  end loop;
  return found_id;
end $$;
--> statement-breakpoint
-- managed: grant activity.enqueue_delivery(uuid, text, text, text, text, jsonb, jsonb, integer, timestamp with time zone)
revoke execute on function activity.enqueue_delivery(uuid, text, text, text, text, jsonb, jsonb, integer, timestamp with time zone) from public;
--> statement-breakpoint
-- managed: grant activity.enqueue_delivery(uuid, text, text, text, text, jsonb, jsonb, integer, timestamp with time zone) to plinth_app
grant execute on function activity.enqueue_delivery(uuid, text, text, text, text, jsonb, jsonb, integer, timestamp with time zone) to plinth_app;
--> statement-breakpoint
-- managed: function activity.row_digest(activity.activity_logs)
create or replace function activity.row_digest(line "activity"."activity_logs")
returns bytea language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return sha256(convert_to(jsonb_build_array('plinth.row.1', line.organization_id, line.id, line.actor_id,
    line.action, line.resource_type, line.resource_id, line.resource_name, line.changes, line.metadata,
    line.ip::text, line.user_agent, line.request_id, (extract(epoch from line.occurred_at) * 1000)::bigint)::text, 'UTF8'));
end $$;
--> statement-breakpoint
-- managed: function activity.seal_rows(timestamptz, timestamptz, timestamptz, uuid, integer)
create or replace function activity.seal_rows(
  since timestamptz, swept_at timestamptz, after_at timestamptz, after_id uuid, max_rows integer)
returns table (sequence bigint, hash bytea, row_count integer, started_at timestamptz, last_at timestamptz, last_id uuid,
  has_more boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  previous record;
  now_at timestamptz(3);
begin
  if organization is null or current_setting('plinth.role', true) in ('owner', 'admin', 'service') is not true then
    raise exception 'only an admin or a service seals the log' using errcode = '42501';
  end if;
  -- A snapshot that is older than the lock would not see the newest seal.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'sealing needs the isolation level read committed' using errcode = '25001',
      detail = 'plinth.isolation';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('plinth.seals ' || organization::text, 0));
  if not exists (select from "activity"."chains" c
      where c.organization_id = organization and c.disabled_at is null) then
    raise exception 'the log of % is not to be sealed; see enableActivitySeals', organization
      using errcode = 'P0002', detail = 'activity chain', hint = organization::text;
  end if;
  select s.sequence, s.hash into previous from "activity"."seals" s
    where s.organization_id = organization order by s.sequence desc limit 1;
  -- Before the lines are looked for: what is committed by then is found.
  now_at := clock_timestamp();
  started_at := least(swept_at, now_at);
  return query
    with found as materialized (
      select l.occurred_at, l.id, activity.row_digest(l::"activity"."activity_logs") as digest,
        (row_number() over (order by l.occurred_at, l.id))::integer as place
      from (
        select u.* from "activity"."activity_logs" u
        where u.organization_id = organization
          and u.occurred_at >= greatest(since, after_at, '-infinity')
          and (after_at is null or (u.occurred_at, u.id) > (after_at, after_id))
          and not exists (select from "activity"."sealed_rows" r where r.organization_id = organization
            and r.occurred_at = u.occurred_at and r.row_id = u.id)
        order by u.occurred_at, u.id limit max_rows + 1
      ) l
    ), seal as (
      select organization as organization_id, coalesce(previous.sequence, 0) + 1 as sequence,
        previous.hash as previous_hash, count(*)::integer as row_count,
        sha256(string_agg(f.digest, ''::bytea order by f.place)) as rows_hash,
        min(f.occurred_at) as first_at, max(f.occurred_at) as last_at,
        case when since is null and not exists (select from found m where m.place > max_rows) then started_at end::timestamptz(3) as complete_at,
        now_at as sealed_at
      from found f where f.place <= max_rows having count(*) > 0
    ), sealed as (
      insert into "activity"."seals" as s (organization_id, sequence, previous_hash, row_count, rows_hash, first_at,
        last_at, hash, complete_at, sealed_at)
      select n.organization_id, n.sequence, n.previous_hash, n.row_count, n.rows_hash, n.first_at, n.last_at,
        sha256(convert_to(jsonb_build_array('plinth.seal.1', n.organization_id, n.sequence,
    encode(n.previous_hash, 'hex'), n.row_count, encode(n.rows_hash, 'hex'),
    (extract(epoch from n.first_at) * 1000)::bigint, (extract(epoch from n.last_at) * 1000)::bigint,
    (extract(epoch from n.complete_at) * 1000)::bigint, (extract(epoch from n.sealed_at) * 1000)::bigint)::text, 'UTF8')), n.complete_at, n.sealed_at
      from seal n
      returning s.sequence, s.hash, s.row_count
    ), entries as (
      insert into "activity"."sealed_rows" as r (organization_id, sequence, position, row_id, digest, occurred_at)
      select organization, n.sequence, f.place, f.id, f.digest, f.occurred_at
      from found f cross join seal n where f.place <= max_rows
      returning r.position
    )
    select s.sequence, s.hash, s.row_count, started_at, f.occurred_at, f.id,
      exists (select from found m where m.place > max_rows)
    from sealed s join found f on f.place = s.row_count
    where (select count(*) from entries) > 0;
end $$;
--> statement-breakpoint
-- managed: function activity.sealed_logs(uuid, integer)
create or replace function activity.sealed_logs(after_organization uuid, max_rows integer)
returns table (organization_id uuid)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select c.organization_id from "activity"."chains" c
    join "identity"."organizations" o on o.id = c.organization_id
    where c.disabled_at is null and o.archived_at is null
      and (after_organization is null or c.organization_id > after_organization)
    order by c.organization_id limit max_rows;
end $$;
--> statement-breakpoint
-- managed: grant activity.row_digest(activity.activity_logs)
revoke execute on function activity.row_digest(activity.activity_logs) from public;
--> statement-breakpoint
-- managed: grant activity.row_digest(activity.activity_logs) to plinth_app
grant execute on function activity.row_digest(activity.activity_logs) to plinth_app;
--> statement-breakpoint
-- managed: grant activity.seal_rows(timestamptz, timestamptz, timestamptz, uuid, integer)
revoke execute on function activity.seal_rows(timestamptz, timestamptz, timestamptz, uuid, integer) from public;
--> statement-breakpoint
-- managed: grant activity.seal_rows(timestamptz, timestamptz, timestamptz, uuid, integer) to plinth_app
grant execute on function activity.seal_rows(timestamptz, timestamptz, timestamptz, uuid, integer) to plinth_app;
--> statement-breakpoint
-- managed: grant activity.sealed_logs(uuid, integer)
revoke execute on function activity.sealed_logs(uuid, integer) from public;
--> statement-breakpoint
-- managed: grant activity.sealed_logs(uuid, integer) to plinth_platform
grant execute on function activity.sealed_logs(uuid, integer) to plinth_platform;
--> statement-breakpoint
-- managed: grant ops
grant usage on schema "ops" to plinth_app, plinth_platform;
--> statement-breakpoint
-- managed: comment "ops"."idempotency_keys"
comment on table "ops"."idempotency_keys" is 'A request under a key of its caller, and what came of it.';
--> statement-breakpoint
-- managed: comment "ops"."locks"
comment on table "ops"."locks" is 'A lock of the platform, held or free.';
--> statement-breakpoint
-- managed: comment "ops"."tenant_locks"
comment on table "ops"."tenant_locks" is 'A lock of an organization, held or free.';
--> statement-breakpoint
-- managed: comment "ops"."rate_limits"
comment on table "ops"."rate_limits" is 'A token bucket of an organization, or of a user in it.';
--> statement-breakpoint
-- managed: comment "ops"."public_rate_limits"
comment on table "ops"."public_rate_limits" is 'A token bucket of callers without an organization.';
--> statement-breakpoint
-- managed: function ops.claim_key(text, text, uuid, integer, bigint)
create or replace function ops.claim_key(
  claimed_key text, request text, new_claim uuid, lease_ms integer, retention_ms bigint)
returns table (outcome text, attempts integer, response text, lease_left_ms integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  member uuid := nullif(current_setting('plinth.user_id', true), '')::uuid;
  requested bytea := decode(request, 'hex');
  patience text := current_setting('lock_timeout');
  blocked boolean := false;
  instant timestamptz;
  held "ops"."idempotency_keys";
begin
  if organization is null then
    raise exception 'there is no scope' using errcode = 'insufficient_privilege';
  end if;
  loop
    instant := clock_timestamp()::timestamptz(3);
    select * into held from "ops"."idempotency_keys" k where k.organization_id = organization and k.key = claimed_key and k.user_id is not distinct from member and k.expires_at > instant;
    if held.fingerprint <> requested then
      outcome := 'conflict';
    elsif held.state = 'completed' then
      outcome := case when held.response_kept then 'completed' else 'not_kept' end;
      response := held.response::text;
    elsif held.leased_until > instant then
      outcome := 'in_progress';
      lease_left_ms := ceil(extract(epoch from held.leased_until - instant) * 1000);
    else
      
  begin
    set local lock_timeout = '50ms';
    insert into "ops"."idempotency_keys" as k (organization_id, claim_id, user_id, key, fingerprint,
          leased_until, created_at, expires_at)
        values (organization, new_claim, member, claimed_key, requested, instant + (lease_ms) * interval '1 millisecond',
          instant, instant + (lease_ms + retention_ms) * interval '1 millisecond')
        on conflict (organization_id, key, user_id) do update set
          claim_id = excluded.claim_id, fingerprint = excluded.fingerprint, state = excluded.state,
          response = null, response_kept = true, completed_at = null,
          attempts = case when k.expires_at <= excluded.created_at then 1 else k.attempts + 1 end,
          created_at = case when k.expires_at <= excluded.created_at then excluded.created_at else k.created_at end,
          leased_until = excluded.leased_until, expires_at = excluded.expires_at
        where k.expires_at <= excluded.created_at or (k.state = 'claimed'
          and k.leased_until <= excluded.created_at and k.fingerprint = excluded.fingerprint)
        returning 'claimed', k.attempts into outcome, attempts;
    execute format('set local lock_timeout = %L', patience);
  exception when lock_not_available then
    blocked := true;
  end;
      if blocked then
        outcome := 'in_progress';
        lease_left_ms := 1000;
      end if;
    end if;
    if outcome is not null then
      return next;
      return;
    end if;
    -- Somebody was faster: the key is held by now, or was released again.
  end loop;
end $$;
--> statement-breakpoint
-- managed: function ops.extend_key(text, uuid, integer, bigint)
create or replace function ops.extend_key(claimed_key text, claim uuid, lease_ms integer, retention_ms bigint)
returns boolean language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  member uuid := nullif(current_setting('plinth.user_id', true), '')::uuid;
  instant timestamptz := clock_timestamp()::timestamptz(3);
begin
  update "ops"."idempotency_keys" k set leased_until = instant + (lease_ms) * interval '1 millisecond',
      expires_at = instant + (lease_ms + retention_ms) * interval '1 millisecond'
    where k.organization_id = organization and k.key = claimed_key and k.user_id is not distinct from member and k.claim_id = claim and k.state = 'claimed' and k.leased_until > instant;
  return found;
end $$;
--> statement-breakpoint
-- managed: function ops.complete_key(text, uuid, text, boolean, bigint)
create or replace function ops.complete_key(
  claimed_key text, claim uuid, answer text, kept boolean, retention_ms bigint)
returns boolean language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  member uuid := nullif(current_setting('plinth.user_id', true), '')::uuid;
  instant timestamptz := clock_timestamp()::timestamptz(3);
begin
  update "ops"."idempotency_keys" k set state = 'completed', response = answer::jsonb, response_kept = kept,
      completed_at = instant, leased_until = instant, expires_at = instant + (retention_ms) * interval '1 millisecond'
    where k.organization_id = organization and k.key = claimed_key and k.user_id is not distinct from member and k.claim_id = claim and k.state = 'claimed';
  return found or exists (
    select from "ops"."idempotency_keys" k where k.organization_id = organization and k.key = claimed_key and k.user_id is not distinct from member and k.claim_id = claim and k.state = 'completed');
end $$;
--> statement-breakpoint
-- managed: function ops.release_key(text, uuid)
create or replace function ops.release_key(claimed_key text, claim uuid)
returns void language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  member uuid := nullif(current_setting('plinth.user_id', true), '')::uuid;
begin
  delete from "ops"."idempotency_keys" k where k.organization_id = organization and k.key = claimed_key and k.user_id is not distinct from member and k.claim_id = claim and k.state = 'claimed';
end $$;
--> statement-breakpoint
-- managed: function ops.check_key(text, uuid)
create or replace function ops.check_key(claimed_key text, claim uuid)
returns boolean language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  member uuid := nullif(current_setting('plinth.user_id', true), '')::uuid;
begin
  perform from "ops"."idempotency_keys" k where k.organization_id = organization and k.key = claimed_key and k.user_id is not distinct from member and k.claim_id = claim and k.state = 'claimed'
    and k.leased_until > clock_timestamp() for key share;
  return found;
end $$;
--> statement-breakpoint
-- managed: grant ops.claim_key(text, text, uuid, integer, bigint)
revoke execute on function ops.claim_key(text, text, uuid, integer, bigint) from public;
--> statement-breakpoint
-- managed: grant ops.claim_key(text, text, uuid, integer, bigint) to plinth_app
grant execute on function ops.claim_key(text, text, uuid, integer, bigint) to plinth_app;
--> statement-breakpoint
-- managed: grant ops.extend_key(text, uuid, integer, bigint)
revoke execute on function ops.extend_key(text, uuid, integer, bigint) from public;
--> statement-breakpoint
-- managed: grant ops.extend_key(text, uuid, integer, bigint) to plinth_app
grant execute on function ops.extend_key(text, uuid, integer, bigint) to plinth_app;
--> statement-breakpoint
-- managed: grant ops.complete_key(text, uuid, text, boolean, bigint)
revoke execute on function ops.complete_key(text, uuid, text, boolean, bigint) from public;
--> statement-breakpoint
-- managed: grant ops.complete_key(text, uuid, text, boolean, bigint) to plinth_app
grant execute on function ops.complete_key(text, uuid, text, boolean, bigint) to plinth_app;
--> statement-breakpoint
-- managed: grant ops.release_key(text, uuid)
revoke execute on function ops.release_key(text, uuid) from public;
--> statement-breakpoint
-- managed: grant ops.release_key(text, uuid) to plinth_app
grant execute on function ops.release_key(text, uuid) to plinth_app;
--> statement-breakpoint
-- managed: grant ops.check_key(text, uuid)
revoke execute on function ops.check_key(text, uuid) from public;
--> statement-breakpoint
-- managed: grant ops.check_key(text, uuid) to plinth_app
grant execute on function ops.check_key(text, uuid) to plinth_app;
--> statement-breakpoint
-- managed: function ops.acquire_lock(text, text, integer)
create or replace function ops.acquire_lock(lock_name text, new_holder text, lease_ms integer)
returns table (token bigint, held_by text, lease_left_ms integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  patience text := current_setting('lock_timeout');
  blocked boolean := false;
  instant timestamptz := clock_timestamp()::timestamptz(3);
begin
  -- First, since the row of a lock that is held is none to wait for.
  perform from "ops"."locks" l where l.name = lock_name and l.leased_until > instant;
  if not found then
    
  begin
    set local lock_timeout = '50ms';
    insert into "ops"."locks" as l (name, holder, fencing_token, acquired_at, leased_until)
      values (lock_name, new_holder, floor(extract(epoch from clock_timestamp()) * 1000000), instant,
        instant + (lease_ms) * interval '1 millisecond')
      on conflict (name) do update set holder = excluded.holder,
        fencing_token = greatest(l.fencing_token + 1, excluded.fencing_token),
        acquired_at = excluded.acquired_at, leased_until = excluded.leased_until
      where l.leased_until <= excluded.acquired_at
      returning l.fencing_token into token;
    execute format('set local lock_timeout = %L', patience);
  exception when lock_not_available then
    blocked := true;
  end;
  end if;
  select l.holder, greatest(ceil(extract(epoch from l.leased_until - instant) * 1000), 0)
    into held_by, lease_left_ms from "ops"."locks" l where l.name = lock_name;
  return next;
end $$;
--> statement-breakpoint
-- managed: function ops.extend_lock(text, bigint, integer)
create or replace function ops.extend_lock(lock_name text, token bigint, lease_ms integer)
returns boolean language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  instant timestamptz := clock_timestamp()::timestamptz(3);
begin
  update "ops"."locks" l set leased_until = instant + (lease_ms) * interval '1 millisecond'
    where l.name = lock_name and l.fencing_token = token and l.leased_until > instant;
  return found;
end $$;
--> statement-breakpoint
-- managed: function ops.release_lock(text, bigint)
create or replace function ops.release_lock(lock_name text, token bigint)
returns boolean language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  instant timestamptz := clock_timestamp()::timestamptz(3);
begin
  update "ops"."locks" l set leased_until = least(l.leased_until, instant)
    where l.name = lock_name and l.fencing_token = token;
  return found;
end $$;
--> statement-breakpoint
-- managed: function ops.check_lock(text, bigint)
create or replace function ops.check_lock(lock_name text, token bigint)
returns boolean language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
begin
  perform from "ops"."locks" l where l.name = lock_name and l.fencing_token = token
    and l.leased_until > clock_timestamp() for key share;
  return found;
end $$;
--> statement-breakpoint
-- managed: grant ops.acquire_lock(text, text, integer)
revoke execute on function ops.acquire_lock(text, text, integer) from public;
--> statement-breakpoint
-- managed: grant ops.acquire_lock(text, text, integer) to plinth_platform
grant execute on function ops.acquire_lock(text, text, integer) to plinth_platform;
--> statement-breakpoint
-- managed: grant ops.extend_lock(text, bigint, integer)
revoke execute on function ops.extend_lock(text, bigint, integer) from public;
--> statement-breakpoint
-- managed: grant ops.extend_lock(text, bigint, integer) to plinth_platform
grant execute on function ops.extend_lock(text, bigint, integer) to plinth_platform;
--> statement-breakpoint
-- managed: grant ops.release_lock(text, bigint)
revoke execute on function ops.release_lock(text, bigint) from public;
--> statement-breakpoint
-- managed: grant ops.release_lock(text, bigint) to plinth_platform
grant execute on function ops.release_lock(text, bigint) to plinth_platform;
--> statement-breakpoint
-- managed: grant ops.check_lock(text, bigint)
revoke execute on function ops.check_lock(text, bigint) from public;
--> statement-breakpoint
-- managed: grant ops.check_lock(text, bigint) to plinth_platform
grant execute on function ops.check_lock(text, bigint) to plinth_platform;
--> statement-breakpoint
-- managed: function ops.acquire_tenant_lock(text, text, integer)
create or replace function ops.acquire_tenant_lock(lock_name text, new_holder text, lease_ms integer)
returns table (token bigint, held_by text, lease_left_ms integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  member uuid := nullif(current_setting('plinth.user_id', true), '')::uuid;
  patience text := current_setting('lock_timeout');
  blocked boolean := false;
  instant timestamptz := clock_timestamp()::timestamptz(3);
begin
  if organization is null then
    raise exception 'there is no scope' using errcode = 'insufficient_privilege';
  end if;
  -- First, since the row of a lock that is held is none to wait for.
  perform from "ops"."tenant_locks" l where l.organization_id = organization and l.name = lock_name and l.leased_until > instant;
  if not found then
    
  begin
    set local lock_timeout = '50ms';
    insert into "ops"."tenant_locks" as l (organization_id, name, holder, fencing_token, acquired_at, leased_until)
      values (organization, lock_name, new_holder, floor(extract(epoch from clock_timestamp()) * 1000000), instant,
        instant + (lease_ms) * interval '1 millisecond')
      on conflict (organization_id, name) do update set holder = excluded.holder,
        fencing_token = greatest(l.fencing_token + 1, excluded.fencing_token),
        acquired_at = excluded.acquired_at, leased_until = excluded.leased_until
      where l.leased_until <= excluded.acquired_at
      returning l.fencing_token into token;
    execute format('set local lock_timeout = %L', patience);
  exception when lock_not_available then
    blocked := true;
  end;
  end if;
  select l.holder, greatest(ceil(extract(epoch from l.leased_until - instant) * 1000), 0)
    into held_by, lease_left_ms from "ops"."tenant_locks" l where l.organization_id = organization and l.name = lock_name;
  return next;
end $$;
--> statement-breakpoint
-- managed: function ops.extend_tenant_lock(text, bigint, integer)
create or replace function ops.extend_tenant_lock(lock_name text, token bigint, lease_ms integer)
returns boolean language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  member uuid := nullif(current_setting('plinth.user_id', true), '')::uuid;
  instant timestamptz := clock_timestamp()::timestamptz(3);
begin
  update "ops"."tenant_locks" l set leased_until = instant + (lease_ms) * interval '1 millisecond'
    where l.organization_id = organization and l.name = lock_name and l.fencing_token = token and l.leased_until > instant;
  return found;
end $$;
--> statement-breakpoint
-- managed: function ops.release_tenant_lock(text, bigint)
create or replace function ops.release_tenant_lock(lock_name text, token bigint)
returns boolean language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  member uuid := nullif(current_setting('plinth.user_id', true), '')::uuid;
  instant timestamptz := clock_timestamp()::timestamptz(3);
begin
  update "ops"."tenant_locks" l set leased_until = least(l.leased_until, instant)
    where l.organization_id = organization and l.name = lock_name and l.fencing_token = token;
  return found;
end $$;
--> statement-breakpoint
-- managed: function ops.check_tenant_lock(text, bigint)
create or replace function ops.check_tenant_lock(lock_name text, token bigint)
returns boolean language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  member uuid := nullif(current_setting('plinth.user_id', true), '')::uuid;
begin
  perform from "ops"."tenant_locks" l where l.organization_id = organization and l.name = lock_name and l.fencing_token = token
    and l.leased_until > clock_timestamp() for key share;
  return found;
end $$;
--> statement-breakpoint
-- managed: grant ops.acquire_tenant_lock(text, text, integer)
revoke execute on function ops.acquire_tenant_lock(text, text, integer) from public;
--> statement-breakpoint
-- managed: grant ops.acquire_tenant_lock(text, text, integer) to plinth_app
grant execute on function ops.acquire_tenant_lock(text, text, integer) to plinth_app;
--> statement-breakpoint
-- managed: grant ops.extend_tenant_lock(text, bigint, integer)
revoke execute on function ops.extend_tenant_lock(text, bigint, integer) from public;
--> statement-breakpoint
-- managed: grant ops.extend_tenant_lock(text, bigint, integer) to plinth_app
grant execute on function ops.extend_tenant_lock(text, bigint, integer) to plinth_app;
--> statement-breakpoint
-- managed: grant ops.release_tenant_lock(text, bigint)
revoke execute on function ops.release_tenant_lock(text, bigint) from public;
--> statement-breakpoint
-- managed: grant ops.release_tenant_lock(text, bigint) to plinth_app
grant execute on function ops.release_tenant_lock(text, bigint) to plinth_app;
--> statement-breakpoint
-- managed: grant ops.check_tenant_lock(text, bigint)
revoke execute on function ops.check_tenant_lock(text, bigint) from public;
--> statement-breakpoint
-- managed: grant ops.check_tenant_lock(text, bigint) to plinth_app
grant execute on function ops.check_tenant_lock(text, bigint) to plinth_app;
--> statement-breakpoint
-- managed: function ops.take_tokens(text, boolean, bigint, numeric, bigint)
create or replace function ops.take_tokens(bucket text, of_user boolean, capacity bigint, per_ms numeric, cost bigint)
returns table (granted boolean, remaining bigint, retry_after_ms bigint)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := nullif(current_setting('plinth.organization_id', true), '')::uuid;
  member uuid := nullif(current_setting('plinth.user_id', true), '')::uuid;
  instant timestamptz := clock_timestamp()::timestamptz(3);
  refilled timestamptz;
begin
  if organization is null then
    raise exception 'there is no scope' using errcode = 'insufficient_privilege';
  end if;
  granted := false;
  -- What is denied at once writes nothing and locks nothing, however many ask.
  select least(capacity, b.nanotokens
    + floor(greatest(extract(epoch from instant - b.refilled_at) * 1000, 0) * per_ms))::bigint, b.refilled_at into remaining, refilled from "ops"."rate_limits" b where b.organization_id = organization and b.key = bucket
      and b.user_id is not distinct from (case when of_user then member end);
  if remaining is null or remaining >= cost then
    insert into "ops"."rate_limits" as b (id, organization_id, key, user_id, nanotokens, refilled_at, full_at)
      values (identity.uuid_v7(), organization, bucket, case when of_user then member end, capacity - cost, instant, case when per_ms > 0 then
          instant + (least(ceil((capacity - (capacity - cost)) / per_ms), 100000000000)::bigint) * interval '1 millisecond' end)
      on conflict (organization_id, key, user_id) do update set nanotokens = least(capacity, b.nanotokens
    + floor(greatest(extract(epoch from instant - b.refilled_at) * 1000, 0) * per_ms))::bigint - cost,
        refilled_at = greatest(b.refilled_at, excluded.refilled_at),
        full_at = case when per_ms > 0 then
          instant + (least(ceil((capacity - (least(capacity, b.nanotokens
    + floor(greatest(extract(epoch from instant - b.refilled_at) * 1000, 0) * per_ms))::bigint - cost)) / per_ms), 100000000000)::bigint) * interval '1 millisecond' end
      where least(capacity, b.nanotokens
    + floor(greatest(extract(epoch from instant - b.refilled_at) * 1000, 0) * per_ms))::bigint >= cost
      returning true, b.nanotokens, 0 into granted, remaining, retry_after_ms;
  end if;
  if granted is not true then
    granted := false;
  select least(capacity, b.nanotokens
    + floor(greatest(extract(epoch from instant - b.refilled_at) * 1000, 0) * per_ms))::bigint, b.refilled_at into remaining, refilled from "ops"."rate_limits" b where b.organization_id = organization and b.key = bucket
      and b.user_id is not distinct from (case when of_user then member end);
    retry_after_ms := ceil(least((cost - remaining) / nullif(per_ms, 0), 100000000000)
      + greatest(extract(epoch from refilled - instant) * 1000, 0));
  end if;
  return next;
end $$;
--> statement-breakpoint
-- managed: grant ops.take_tokens(text, boolean, bigint, numeric, bigint)
revoke execute on function ops.take_tokens(text, boolean, bigint, numeric, bigint) from public;
--> statement-breakpoint
-- managed: grant ops.take_tokens(text, boolean, bigint, numeric, bigint) to plinth_app
grant execute on function ops.take_tokens(text, boolean, bigint, numeric, bigint) to plinth_app;
--> statement-breakpoint
-- managed: function ops.take_public_tokens(text, bigint, numeric, bigint)
create or replace function ops.take_public_tokens(bucket text, capacity bigint, per_ms numeric, cost bigint)
returns table (granted boolean, remaining bigint, retry_after_ms bigint)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  instant timestamptz := clock_timestamp()::timestamptz(3);
  refilled timestamptz;
begin
  granted := false;
  -- What is denied at once writes nothing and locks nothing, however many ask.
  select least(capacity, b.nanotokens
    + floor(greatest(extract(epoch from instant - b.refilled_at) * 1000, 0) * per_ms))::bigint, b.refilled_at into remaining, refilled from "ops"."public_rate_limits" b where b.key = bucket;
  if remaining is null or remaining >= cost then
    insert into "ops"."public_rate_limits" as b (key, nanotokens, refilled_at, full_at)
      values (bucket, capacity - cost, instant, case when per_ms > 0 then
          instant + (least(ceil((capacity - (capacity - cost)) / per_ms), 100000000000)::bigint) * interval '1 millisecond' end)
      on conflict (key) do update set nanotokens = least(capacity, b.nanotokens
    + floor(greatest(extract(epoch from instant - b.refilled_at) * 1000, 0) * per_ms))::bigint - cost,
        refilled_at = greatest(b.refilled_at, excluded.refilled_at),
        full_at = case when per_ms > 0 then
          instant + (least(ceil((capacity - (least(capacity, b.nanotokens
    + floor(greatest(extract(epoch from instant - b.refilled_at) * 1000, 0) * per_ms))::bigint - cost)) / per_ms), 100000000000)::bigint) * interval '1 millisecond' end
      where least(capacity, b.nanotokens
    + floor(greatest(extract(epoch from instant - b.refilled_at) * 1000, 0) * per_ms))::bigint >= cost
      returning true, b.nanotokens, 0 into granted, remaining, retry_after_ms;
  end if;
  if granted is not true then
    granted := false;
  select least(capacity, b.nanotokens
    + floor(greatest(extract(epoch from instant - b.refilled_at) * 1000, 0) * per_ms))::bigint, b.refilled_at into remaining, refilled from "ops"."public_rate_limits" b where b.key = bucket;
    retry_after_ms := ceil(least((cost - remaining) / nullif(per_ms, 0), 100000000000)
      + greatest(extract(epoch from refilled - instant) * 1000, 0));
  end if;
  return next;
end $$;
--> statement-breakpoint
-- managed: grant ops.take_public_tokens(text, bigint, numeric, bigint)
revoke execute on function ops.take_public_tokens(text, bigint, numeric, bigint) from public;
--> statement-breakpoint
-- managed: grant ops.take_public_tokens(text, bigint, numeric, bigint) to plinth_platform
grant execute on function ops.take_public_tokens(text, bigint, numeric, bigint) to plinth_platform;
--> statement-breakpoint
-- managed: function ops.purge(text, integer, bigint)
create or replace function ops.purge(kind text, max_rows integer, lock_age_ms bigint)
returns integer language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  instant timestamptz := clock_timestamp()::timestamptz(3);
  deleted integer := 0;
  amount integer;
  found_row record;
begin
  if kind = 'idempotency_keys' then
  for found_row in
    select t.organization_id, claim_id as own from "ops"."idempotency_keys" t where t.expires_at <= instant limit max_rows
  loop
    delete from "ops"."idempotency_keys" d where d.organization_id = found_row.organization_id and d.claim_id = any(array(
      select t.claim_id from "ops"."idempotency_keys" t where t.organization_id = found_row.organization_id
        and t.claim_id = found_row.own and t.expires_at <= instant for update skip locked));
    if found then deleted := deleted + 1; end if;
  end loop;
  elsif kind = 'tenant_locks' then
  for found_row in
    select t.organization_id, name as own from "ops"."tenant_locks" t where t.leased_until <= instant - (lock_age_ms) * interval '1 millisecond' limit max_rows
  loop
    delete from "ops"."tenant_locks" d where d.organization_id = found_row.organization_id and d.name = any(array(
      select t.name from "ops"."tenant_locks" t where t.organization_id = found_row.organization_id
        and t.name = found_row.own and t.leased_until <= instant - (lock_age_ms) * interval '1 millisecond' for update skip locked));
    if found then deleted := deleted + 1; end if;
  end loop;
  elsif kind = 'locks' then
  delete from "ops"."locks" d where d.name = any(array(
    select t.name from "ops"."locks" t where t.leased_until <= instant - (lock_age_ms) * interval '1 millisecond' limit max_rows for update skip locked));
  get diagnostics amount = row_count;
  deleted := deleted + amount;
  elsif kind = 'rate_limits' then
  for found_row in
    select t.organization_id, id as own from "ops"."rate_limits" t where t.full_at <= instant limit max_rows
  loop
    delete from "ops"."rate_limits" d where d.organization_id = found_row.organization_id and d.id = any(array(
      select t.id from "ops"."rate_limits" t where t.organization_id = found_row.organization_id
        and t.id = found_row.own and t.full_at <= instant for update skip locked));
    if found then deleted := deleted + 1; end if;
  end loop;
  elsif kind = 'public_rate_limits' then
  delete from "ops"."public_rate_limits" d where d.key = any(array(
    select t.key from "ops"."public_rate_limits" t where t.full_at <= instant limit max_rows for update skip locked));
  get diagnostics amount = row_count;
  deleted := deleted + amount;
  end if;
  return deleted;
end $$;
--> statement-breakpoint
-- managed: grant ops.purge(text, integer, bigint)
revoke execute on function ops.purge(text, integer, bigint) from public;
--> statement-breakpoint
-- managed: grant ops.purge(text, integer, bigint) to plinth_platform
grant execute on function ops.purge(text, integer, bigint) to plinth_platform;
