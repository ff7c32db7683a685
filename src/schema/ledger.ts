import { sql } from 'drizzle-orm'
import { budgets } from './costs-budgets.ts'
import { organizations } from './identity.ts'
import { managedExecute, managedFunction } from './managed.ts'
import { scopedOrganization } from './policies.ts'

const ledgerKey = sql`hashtextextended('plinth.ledger ' || organization::text, 0)`

/**
 * Keeps the ledger open, before the first counter of a budget is locked: whoever closes it, as to change budgets,
 * has the counters to itself then, and waits in no circle.
 */
export const keepLedgerOpen = sql`perform pg_advisory_xact_lock_shared(${ledgerKey})`

/**
 * Lets a transaction write into the ledger of the organization in scope: beside other writers, and never beside
 * what has to see all of its lines, such as a new budget or a roll-up, which closes it. Returns whether there are
 * budgets to count them in.
 */
const openLedger = managedFunction(
  'costs.open_ledger()',
  sql`
create or replace function costs.open_ledger()
returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
begin
  ${keepLedgerOpen};
  -- A snapshot that is older than a budget would count nothing in it. Making one changes this row.
  if current_setting('transaction_isolation') <> 'read committed' then
    perform from ${organizations} z where z.id = organization for share;
  end if;
  return exists (select from ${budgets} b where b.organization_id = organization);
end $$`,
)

/** Waits for those who keep a ledger open, and keeps others out until the transaction ends. */
export const keepLedgerClosed = sql`perform pg_advisory_xact_lock(${ledgerKey})`

/** Refuses a snapshot that may be older than the lock, and would miss lines. */
export const needsReadCommitted = sql`
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'what sums up the ledger needs the isolation level read committed' using errcode = '25001',
      detail = 'plinth.isolation';
  end if`

/** Closes the ledger of the organization in scope: to those who write into it or reserve. */
const closeLedger = managedFunction(
  'costs.close_ledger()',
  sql`
create or replace function costs.close_ledger()
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
begin${needsReadCommitted};
  ${keepLedgerClosed};
end $$`,
)

/** In the order in which they are created. */
export const ledgerObjects = [
  openLedger,
  closeLedger,
  ...managedExecute('costs.open_ledger()', 'plinth_app'),
  ...managedExecute('costs.close_ledger()', 'plinth_app'),
]
