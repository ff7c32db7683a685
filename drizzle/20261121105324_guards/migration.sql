-- managed: function costs.open_ledger(uuid)
create or replace function costs.open_ledger(organization uuid)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock_shared(hashtextextended('plinth.ledger ' || organization::text, 0));
end $$;
--> statement-breakpoint
-- managed: function costs.close_ledger(uuid)
create or replace function costs.close_ledger(organization uuid)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('plinth.ledger ' || organization::text, 0));
end $$;
--> statement-breakpoint
-- managed: grant costs.open_ledger(uuid)
revoke execute on function costs.open_ledger(uuid) from public;
--> statement-breakpoint
-- managed: grant costs.open_ledger(uuid) to plinth_app
grant execute on function costs.open_ledger(uuid) to plinth_app;
--> statement-breakpoint
-- managed: grant costs.close_ledger(uuid)
revoke execute on function costs.close_ledger(uuid) from public;
--> statement-breakpoint
-- managed: grant costs.close_ledger(uuid) to plinth_app
grant execute on function costs.close_ledger(uuid) to plinth_app;
