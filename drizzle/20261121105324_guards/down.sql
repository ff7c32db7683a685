-- managed: function costs.close_ledger(uuid)
drop function if exists costs.close_ledger(uuid);
--> statement-breakpoint
-- managed: function costs.open_ledger(uuid)
drop function if exists costs.open_ledger(uuid);
