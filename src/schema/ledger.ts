import { sql } from 'drizzle-orm'
import { budgets } from './costs-budgets.ts'
import { managedExecute, managedFunction } from './managed.ts'

const ledgerKey = sql`hashtextextended('plinth.ledger ' || organization::text, 0)`

/**
 * Lets a transaction write into the ledger of an organization: beside other writers, and never beside what
 * has to see all of its lines, such as a new budget or a roll-up, which closes it. Returns whether there are
 * budgets to count them in.
 */
const openLedger = managedFunction(
  'costs.open_ledger(uuid)',
  sql`
create or replace function costs.open_ledger(organization uuid)
returns boolean language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock_shared(${ledgerKey});
  return exists (select from ${budgets} b where b.organization_id = organization);
end $$`,
)

/** Waits for the writers of an organization's ledger, and keeps new ones out until the transaction ends. */
const closeLedger = managedFunction(
  'costs.close_ledger(uuid)',
  sql`
create or replace function costs.close_ledger(organization uuid)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- A snapshot that is older than the lock would miss lines.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'what sums up the ledger needs the isolation level read committed' using errcode = '25001',
      detail = 'plinth.isolation';
  end if;
  perform pg_advisory_xact_lock(${ledgerKey});
end $$`,
)

/** In the order in which they are created. */
export const ledgerObjects = [
  openLedger,
  closeLedger,
  ...managedExecute('costs.open_ledger(uuid)', 'plinth_app'),
  ...managedExecute('costs.close_ledger(uuid)', 'plinth_app'),
]
