import { sql } from 'drizzle-orm'
import { managedExecute, managedFunction, managedGrant, managedSchema } from './managed.ts'

const signature = 'partitions.create_months(text, text, timestamptz, timestamptz)'

/**
 * Makes the monthly partitions of a table for every month that `first` to `last` touches. Those that
 * exist are left alone. Returns how many it made.
 *
 * SECURITY DEFINER, because only the owner of a table may add to it. The table has to be one that is
 * partitioned by range and belongs to that owner; the names are quoted by %I.
 */
const createMonths = managedFunction(
  signature,
  sql`
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
end $$`,
)

/** In the order in which they are created; before the objects of every domain. */
export const partitionObjects = [
  // USAGE is plinth_platform's for the function above; no role is granted any table in here.
  managedSchema('partitions'),
  createMonths,
  ...managedExecute(signature, 'plinth_platform'),
  managedGrant('partitions', sql`grant usage on schema partitions to plinth_platform`),
]
