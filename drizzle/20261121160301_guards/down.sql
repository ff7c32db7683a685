-- managed: function ops.purge(text, integer, bigint)
drop function if exists ops.purge(text, integer, bigint);
--> statement-breakpoint
-- managed: function ops.take_public_tokens(text, bigint, numeric, bigint)
drop function if exists ops.take_public_tokens(text, bigint, numeric, bigint);
--> statement-breakpoint
-- managed: function ops.take_tokens(text, boolean, bigint, numeric, bigint)
drop function if exists ops.take_tokens(text, boolean, bigint, numeric, bigint);
--> statement-breakpoint
-- managed: function ops.check_tenant_lock(text, bigint)
drop function if exists ops.check_tenant_lock(text, bigint);
--> statement-breakpoint
-- managed: function ops.release_tenant_lock(text, bigint)
drop function if exists ops.release_tenant_lock(text, bigint);
--> statement-breakpoint
-- managed: function ops.extend_tenant_lock(text, bigint, integer)
drop function if exists ops.extend_tenant_lock(text, bigint, integer);
--> statement-breakpoint
-- managed: function ops.acquire_tenant_lock(text, text, integer)
drop function if exists ops.acquire_tenant_lock(text, text, integer);
--> statement-breakpoint
-- managed: function ops.check_lock(text, bigint)
drop function if exists ops.check_lock(text, bigint);
--> statement-breakpoint
-- managed: function ops.release_lock(text, bigint)
drop function if exists ops.release_lock(text, bigint);
--> statement-breakpoint
-- managed: function ops.extend_lock(text, bigint, integer)
drop function if exists ops.extend_lock(text, bigint, integer);
--> statement-breakpoint
-- managed: function ops.acquire_lock(text, text, integer)
drop function if exists ops.acquire_lock(text, text, integer);
--> statement-breakpoint
-- managed: function ops.check_key(text, uuid)
drop function if exists ops.check_key(text, uuid);
--> statement-breakpoint
-- managed: function ops.release_key(text, uuid)
drop function if exists ops.release_key(text, uuid);
--> statement-breakpoint
-- managed: function ops.complete_key(text, uuid, text, boolean, bigint)
drop function if exists ops.complete_key(text, uuid, text, boolean, bigint);
--> statement-breakpoint
-- managed: function ops.extend_key(text, uuid, integer, bigint)
drop function if exists ops.extend_key(text, uuid, integer, bigint);
--> statement-breakpoint
-- managed: function ops.claim_key(text, text, uuid, integer, bigint)
drop function if exists ops.claim_key(text, text, uuid, integer, bigint);
--> statement-breakpoint
-- managed: function activity.sealed_logs(uuid, integer)
drop function if exists activity.sealed_logs(uuid, integer);
--> statement-breakpoint
-- managed: function activity.seal_rows(timestamptz, timestamptz, timestamptz, uuid, integer)
drop function if exists activity.seal_rows(timestamptz, timestamptz, timestamptz, uuid, integer);
--> statement-breakpoint
-- managed: function activity.row_digest(activity.activity_logs)
drop function if exists activity.row_digest(activity.activity_logs);
--> statement-breakpoint
-- managed: function activity.enqueue_delivery(uuid, text, text, text, text, jsonb, jsonb, integer, timestamp with time zone)
drop function if exists activity.enqueue_delivery(uuid, text, text, text, text, jsonb, jsonb, integer, timestamp with time zone);
--> statement-breakpoint
-- managed: function activity.due_organizations(uuid, integer)
drop function if exists activity.due_organizations(uuid, integer);
--> statement-breakpoint
-- managed: grant activity
revoke usage on schema "activity" from plinth_app, plinth_platform;
--> statement-breakpoint
-- managed: function costs.usage_sums(timestamptz, timestamptz, uuid, text, text, text)
drop function if exists costs.usage_sums(timestamptz, timestamptz, uuid, text, text, text);
--> statement-breakpoint
-- managed: function costs.due_ledgers(uuid, integer)
drop function if exists costs.due_ledgers(uuid, integer);
--> statement-breakpoint
-- managed: function costs.roll_up_usage_day()
drop function if exists costs.roll_up_usage_day();
--> statement-breakpoint
-- managed: function costs.close_usage()
drop function if exists costs.close_usage();
--> statement-breakpoint
-- managed: function costs.close_usage_at(uuid, timestamptz)
drop function if exists costs.close_usage_at(uuid, timestamptz);
--> statement-breakpoint
-- managed: function costs.organizations_due(text, uuid, integer)
drop function if exists costs.organizations_due(text, uuid, integer);
--> statement-breakpoint
-- managed: function costs.purge_reservations(uuid, integer)
drop function if exists costs.purge_reservations(uuid, integer);
--> statement-breakpoint
-- managed: function costs.extend_reservation(uuid, integer)
drop function if exists costs.extend_reservation(uuid, integer);
--> statement-breakpoint
-- managed: function costs.resolve_reservation(uuid, costs.reservation_state)
drop function if exists costs.resolve_reservation(uuid, costs.reservation_state);
--> statement-breakpoint
-- managed: function costs.reserve(uuid, uuid, uuid, text, text, bigint, integer)
drop function if exists costs.reserve(uuid, uuid, uuid, text, text, bigint, integer);
--> statement-breakpoint
-- managed: function costs.frees_up_at(jsonb, bigint)
drop function if exists costs.frees_up_at(jsonb, bigint);
--> statement-breakpoint
-- managed: function costs.expire_reservations(integer)
drop function if exists costs.expire_reservations(integer);
--> statement-breakpoint
-- managed: function costs.give_back(uuid[], costs.reservation_state)
drop function if exists costs.give_back(uuid[], costs.reservation_state);
--> statement-breakpoint
-- managed: function costs.current_window(costs.budget_period)
drop function if exists costs.current_window(costs.budget_period);
--> statement-breakpoint
-- managed: function costs.budget_status()
drop function if exists costs.budget_status();
--> statement-breakpoint
-- managed: function costs.raise_missed_alerts()
drop function if exists costs.raise_missed_alerts();
--> statement-breakpoint
-- managed: function costs.change_budget(uuid, bigint, smallint)
drop function if exists costs.change_budget(uuid, bigint, smallint);
--> statement-breakpoint
-- managed: function costs.open_budget(uuid)
drop function if exists costs.open_budget(uuid);
--> statement-breakpoint
-- managed: function costs.charge_budgets(json, uuid)
drop function if exists costs.charge_budgets(json, uuid);
--> statement-breakpoint
-- managed: function costs.raise_alerts(uuid, text, timestamptz, bigint, bigint)
drop function if exists costs.raise_alerts(uuid, text, timestamptz, bigint, bigint);
--> statement-breakpoint
-- managed: function costs.add_to_shards(uuid, text, timestamptz, smallint, smallint, bigint, bigint, boolean, boolean)
drop function if exists costs.add_to_shards(uuid, text, timestamptz, smallint, smallint, bigint, bigint, boolean, boolean);
--> statement-breakpoint
-- managed: function costs.spread_quota(uuid, text, timestamptz)
drop function if exists costs.spread_quota(uuid, text, timestamptz);
--> statement-breakpoint
-- managed: function costs.open_window(uuid, text, timestamptz)
drop function if exists costs.open_window(uuid, text, timestamptz);
--> statement-breakpoint
-- managed: function costs.window_of(costs.budget_period, timestamptz, text)
drop function if exists costs.window_of(costs.budget_period, timestamptz, text);
--> statement-breakpoint
-- managed: function costs.close_ledger()
drop function if exists costs.close_ledger();
--> statement-breakpoint
-- managed: function costs.open_ledger()
drop function if exists costs.open_ledger();
--> statement-breakpoint
-- managed: function identity.archive_user(uuid)
drop function if exists identity.archive_user(uuid);
--> statement-breakpoint
-- managed: function identity.lock_owners(uuid)
drop function if exists identity.lock_owners(uuid);
--> statement-breakpoint
-- managed: function identity.read_api_key(uuid, uuid, bytea)
drop function if exists identity.read_api_key(uuid, uuid, bytea);
--> statement-breakpoint
DROP POLICY "chains_select" ON "activity"."chains";
--> statement-breakpoint
DROP POLICY "chains_insert" ON "activity"."chains";
--> statement-breakpoint
DROP POLICY "chains_update" ON "activity"."chains";
--> statement-breakpoint
DROP POLICY "chains_delete" ON "activity"."chains";
--> statement-breakpoint
DROP POLICY "seals_select" ON "activity"."seals";
--> statement-breakpoint
DROP POLICY "api_keys_select" ON "identity"."api_keys";
--> statement-breakpoint
DROP POLICY "api_keys_insert" ON "identity"."api_keys";
--> statement-breakpoint
DROP POLICY "api_keys_update" ON "identity"."api_keys";
--> statement-breakpoint
DROP POLICY "api_keys_delete" ON "identity"."api_keys";
--> statement-breakpoint
DROP POLICY "budget_alerts_select" ON "costs"."budget_alerts";
--> statement-breakpoint
DROP POLICY "budget_alerts_update" ON "costs"."budget_alerts";
--> statement-breakpoint
DROP POLICY "budget_windows_select" ON "costs"."budget_windows";
--> statement-breakpoint
DROP POLICY "budgets_select" ON "costs"."budgets";
--> statement-breakpoint
DROP POLICY "budgets_insert" ON "costs"."budgets";
--> statement-breakpoint
DROP POLICY "budgets_update" ON "costs"."budgets";
--> statement-breakpoint
DROP POLICY "budgets_delete" ON "costs"."budgets";
--> statement-breakpoint
DROP POLICY "reservations_select" ON "costs"."reservations";
--> statement-breakpoint
DROP POLICY "sealed_rows_select" ON "activity"."sealed_rows";
--> statement-breakpoint
DROP POLICY "usage_daily_select" ON "costs"."usage_daily";
--> statement-breakpoint
DROP POLICY "usage_events_insert" ON "costs"."usage_events";
--> statement-breakpoint
DROP POLICY "usage_roll_ups_select" ON "costs"."usage_roll_ups";
--> statement-breakpoint
DROP POLICY "usage_stale_days_select" ON "costs"."usage_stale_days";
--> statement-breakpoint
DROP POLICY "usage_stale_days_insert" ON "costs"."usage_stale_days";
--> statement-breakpoint
DROP POLICY "webhook_deliveries_select" ON "activity"."webhook_deliveries";
--> statement-breakpoint
DROP POLICY "webhook_deliveries_insert" ON "activity"."webhook_deliveries";
--> statement-breakpoint
DROP POLICY "webhook_deliveries_update" ON "activity"."webhook_deliveries";
--> statement-breakpoint
DROP POLICY "webhook_deliveries_delete" ON "activity"."webhook_deliveries";
--> statement-breakpoint
ALTER TABLE "costs"."budget_alerts" DROP CONSTRAINT "budget_alerts_budget_id_fkey";
--> statement-breakpoint
ALTER TABLE "costs"."budget_windows" DROP CONSTRAINT "budget_windows_budget_id_fkey";
--> statement-breakpoint
ALTER TABLE "activity"."sealed_rows" DROP CONSTRAINT "sealed_rows_sequence_fkey";
--> statement-breakpoint
DROP TABLE "activity"."chains";
--> statement-breakpoint
DROP TABLE "activity"."seals";
--> statement-breakpoint
DROP TABLE "identity"."api_keys";
--> statement-breakpoint
DROP TABLE "activity"."auth_logs";
--> statement-breakpoint
DROP TABLE "costs"."budget_alerts";
--> statement-breakpoint
DROP TABLE "costs"."budget_windows";
--> statement-breakpoint
DROP TABLE "costs"."budgets";
--> statement-breakpoint
DROP TABLE "activity"."error_groups";
--> statement-breakpoint
DROP TABLE "activity"."error_logs";
--> statement-breakpoint
DROP TABLE "ops"."idempotency_keys";
--> statement-breakpoint
DROP TABLE "ops"."locks";
--> statement-breakpoint
DROP TABLE "identity"."oauth_tokens";
--> statement-breakpoint
DROP TABLE "ops"."public_rate_limits";
--> statement-breakpoint
DROP TABLE "ops"."rate_limits";
--> statement-breakpoint
DROP TABLE "costs"."reservations";
--> statement-breakpoint
DROP TABLE "activity"."sealed_rows";
--> statement-breakpoint
DROP TABLE "ops"."tenant_locks";
--> statement-breakpoint
DROP TABLE "costs"."usage_daily";
--> statement-breakpoint
DROP TABLE "costs"."usage_roll_ups";
--> statement-breakpoint
DROP TABLE "costs"."usage_stale_days";
--> statement-breakpoint
DROP TABLE "activity"."webhook_deliveries";
--> statement-breakpoint
ALTER TABLE "costs"."usage_events" DROP CONSTRAINT "usage_events_cost_nanos_check";
--> statement-breakpoint
ALTER TABLE "costs"."usage_events" DROP CONSTRAINT "usage_events_adjusts_check";
--> statement-breakpoint
ALTER TABLE "identity"."organizations" DROP COLUMN "time_zone";
--> statement-breakpoint
ALTER TABLE "costs"."usage_events" DROP COLUMN "adjusts_id";
--> statement-breakpoint
ALTER TABLE "costs"."usage_events" DROP COLUMN "adjusts_status";
--> statement-breakpoint
DROP TYPE "costs"."budget_mode";
--> statement-breakpoint
DROP TYPE "costs"."budget_period";
--> statement-breakpoint
DROP TYPE "costs"."budget_scope";
--> statement-breakpoint
DROP TYPE "activity"."delivery_direction";
--> statement-breakpoint
DROP TYPE "activity"."delivery_status";
--> statement-breakpoint
DROP TYPE "activity"."error_level";
--> statement-breakpoint
DROP TYPE "ops"."idempotency_state";
--> statement-breakpoint
DROP TYPE "costs"."reservation_state";
--> statement-breakpoint
DROP SCHEMA "ops";
--> statement-breakpoint
ALTER TABLE "costs"."usage_events" ADD CONSTRAINT "usage_events_cost_nanos_check" CHECK ("cost_nanos" >= 0);
--> statement-breakpoint
CREATE POLICY "usage_events_insert" ON "costs"."usage_events" AS PERMISSIVE FOR INSERT TO "plinth_app" WITH CHECK ("costs"."usage_events"."organization_id" = nullif(current_setting('plinth.organization_id', true), '')::uuid and (current_setting('plinth.role', true) in ('owner', 'admin', 'service') or "costs"."usage_events"."user_id" is null or "costs"."usage_events"."user_id" = nullif(current_setting('plinth.user_id', true), '')::uuid));
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
-- managed: grant activity
grant usage on schema "activity" to plinth_app;
