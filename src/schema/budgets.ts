import { sql } from 'drizzle-orm'
import { countersOf, ofWindow, subjectOf } from './budget-windows.ts'
import { budgetAlerts, budgets, budgetWindows, isOwnCounter, usageEvents } from './costs.ts'
import { organizations } from './identity.ts'
import { managedExecute, managedFunction, managedInner } from './managed.ts'
import { isAdmin, scopedOrganization } from './policies.ts'

/** Raises the alerts of a window that what was spent has reached, each once. */
const raiseAlerts = managedFunction(
  'costs.raise_alerts(uuid, text, timestamptz, bigint, bigint)',
  sql`
create or replace function costs.raise_alerts(
  budget_id uuid, window_subject text, window_start timestamptz, spent_before bigint, spent bigint)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  at timestamptz := clock_timestamp();
begin
  insert into ${budgetAlerts} (organization_id, id, budget_id, subject, starts_at, threshold, spent_nanos,
      limit_nanos, raised_at)
    select organization, identity.uuid_v7(), b.id, window_subject, window_start, t.threshold, spent, b.limit_nanos, at
    from ${budgets} b cross join lateral unnest(b.thresholds) t (threshold)
    where b.organization_id = organization and b.id = raise_alerts.budget_id
      and spent * 100.0 >= b.limit_nanos * t.threshold::numeric
      and (spent_before is null or spent_before * 100.0 < b.limit_nanos * t.threshold::numeric)
    order by t.threshold
    on conflict do nothing;
end $$`,
)

/**
 * Adds to what was spent of a window, whatever its limit, and raises its alerts. Of several counters, one
 * takes it that has room; without one, all are locked, so that the others grant no more than what is left.
 */
const spendOn = managedFunction(
  'costs.spend_on(uuid, text, timestamptz, smallint, bigint, boolean)',
  sql`
create or replace function costs.spend_on(
  budget_id uuid, window_subject text, window_start timestamptz, counters smallint, amount bigint,
  is_lenient boolean)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  picked smallint := 0;
  spent bigint;
begin
  if counters > 1 then
    begin
      picked := costs.free_shard(budget_id, window_subject, window_start, counters, amount,
        is_lenient or amount <= 0);
      update ${budgetWindows} w set spent_nanos = w.spent_nanos + amount
        where ${ofWindow(sql`w`, sql`spend_on.budget_id`, sql`window_subject`, sql`window_start`)}
          and w.shard = picked
          and (is_lenient or amount <= 0 or w.spent_nanos + w.reserved_nanos + amount <= w.quota_nanos);
      if not found then
        raise sqlstate 'PL001';
      end if;
    exception when sqlstate 'PL001' then
      perform 1 from ${budgetWindows} w
        where ${ofWindow(sql`w`, sql`spend_on.budget_id`, sql`window_subject`, sql`window_start`)}
        order by w.shard for update;
      update ${budgetWindows} w set spent_nanos = w.spent_nanos + amount
        where ${ofWindow(sql`w`, sql`spend_on.budget_id`, sql`window_subject`, sql`window_start`)}
          and w.shard = 0;
      perform costs.spread_quota(budget_id, window_subject, window_start, 0);
    end;
    select sum(w.spent_nanos) into spent from ${budgetWindows} w
      where ${ofWindow(sql`w`, sql`spend_on.budget_id`, sql`window_subject`, sql`window_start`)};
    -- What another session adds at once is not seen here, so that any threshold may have been passed.
    perform costs.raise_alerts(budget_id, window_subject, window_start, null, spent);
  else
    update ${budgetWindows} w set spent_nanos = w.spent_nanos + amount
      where ${ofWindow(sql`w`, sql`spend_on.budget_id`, sql`window_subject`, sql`window_start`)}
      returning w.spent_nanos into spent;
    perform costs.raise_alerts(budget_id, window_subject, window_start, spent - amount, spent);
  end if;
end $$`,
)

const line = {
  user: sql`l.user_id`,
  project: sql`l.project_id`,
  model: sql`l.provider || '/' || l.model`,
  at: sql`l.occurred_at`,
}

/**
 * Counts lines that were written into the ledger, and returns the windows of blocking budgets of which more
 * is spent and reserved now than their limit. New windows are opened first, since that holds no lock which
 * whoever locks them in order could wait for.
 */
const chargeBudgets = managedFunction(
  'costs.charge_budgets(json)',
  sql`
create or replace function costs.charge_budgets(lines json)
returns table (id uuid, name text, scope costs.budget_scope, subject text, limit_nanos bigint, spent_nanos bigint,
  reserved_nanos bigint, starts_at timestamptz, ends_at timestamptz)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  charged jsonb[];
  counter jsonb;
  at integer;
begin
  select array_agg(to_jsonb(c) order by c.id, c.subject, c.starts_at) into charged from (
    select c.id, c.subject, c.starts_at, c.ends_at, c.shards, c.is_lenient, c.name, c.scope, c.limit_nanos,
      sum(l.cost_nanos)::bigint as cost_nanos,
      exists (select from ${budgetWindows} w
        where ${ofWindow(sql`w`, sql`c.id`, sql`c.subject`, sql`c.starts_at`)}) as is_open
    from json_to_recordset(lines) l (user_id uuid, project_id uuid, provider text, model text,
      cost_nanos bigint, occurred_at timestamptz)
    cross join lateral (${countersOf(line)}) c
    where l.cost_nanos <> 0
    group by c.id, c.subject, c.starts_at, c.ends_at, c.shards, c.is_lenient, c.name, c.scope, c.limit_nanos) c;

  for at in 1 .. coalesce(cardinality(charged), 0) loop
    counter := charged[at];
    if not (counter ->> 'is_open')::boolean and costs.open_window((counter ->> 'id')::uuid,
        counter ->> 'subject', (counter ->> 'starts_at')::timestamptz, (counter ->> 'ends_at')::timestamptz) then
      charged[at] := counter || '{"is_made": true}';
    end if;
  end loop;

  for at in 1 .. coalesce(cardinality(charged), 0) loop
    counter := charged[at];
    -- A window that was made here has the lines in it already.
    if counter ? 'is_made' then
      perform costs.raise_alerts((counter ->> 'id')::uuid, counter ->> 'subject',
        (counter ->> 'starts_at')::timestamptz, null, (select sum(w.spent_nanos)::bigint from ${budgetWindows} w
          where ${ofWindow(sql`w`, sql`(counter ->> 'id')::uuid`, sql`counter ->> 'subject'`, sql`(counter ->> 'starts_at')::timestamptz`)}));
    else
      perform costs.spend_on((counter ->> 'id')::uuid, counter ->> 'subject',
        (counter ->> 'starts_at')::timestamptz, (counter ->> 'shards')::smallint,
        (counter ->> 'cost_nanos')::bigint, (counter ->> 'is_lenient')::boolean);
    end if;
  end loop;

  return query
    select c.id, c.name, c.scope, c.subject, c.limit_nanos, sum(w.spent_nanos)::bigint,
      sum(w.reserved_nanos)::bigint, c.starts_at, c.ends_at
    from unnest(charged) j
    cross join lateral jsonb_to_record(j) c (id uuid, name text, scope costs.budget_scope, subject text,
      limit_nanos bigint, starts_at timestamptz, ends_at timestamptz, is_lenient boolean)
    join ${budgetWindows} w on ${ofWindow(sql`w`, sql`c.id`, sql`c.subject`, sql`c.starts_at`)}
    where not c.is_lenient
    group by c.id, c.name, c.scope, c.subject, c.limit_nanos, c.starts_at, c.ends_at
    having sum(w.spent_nanos) + sum(w.reserved_nanos) > c.limit_nanos
    order by c.id, c.subject, c.starts_at;
end $$`,
)

/** Opens the windows around now of a budget that was just made: one for each subject that the ledger has. */
const openBudget = managedFunction(
  'costs.open_budget(uuid)',
  sql`
create or replace function costs.open_budget(budget_id uuid)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  budget ${budgets};
  window_start timestamptz;
  window_end timestamptz;
  found_subject text;
begin
  select * into budget from ${budgets} b
    where b.organization_id = organization and b.id = open_budget.budget_id and ${isAdmin};
  select w.starts_at, w.ends_at into window_start, window_end
    from ${organizations} z cross join lateral costs.window_of(budget.period, clock_timestamp(), z.time_zone) w
    where z.id = organization;
  for found_subject in
    select case budget.scope when 'organization' then '' else budget.subject end
    union
    select ${subjectOf(sql`budget.scope`, { user: sql`e.user_id`, project: sql`e.project_id`, model: sql`e.provider || '/' || e.model` })}
    from ${usageEvents} e
    where e.organization_id = organization and budget.subject is null and budget.scope <> 'organization'
      and e.occurred_at >= window_start and (window_end is null or e.occurred_at < window_end)
    order by 1
  loop
    if found_subject is not null
        and costs.open_window(budget.id, found_subject, window_start, window_end) then
      perform costs.raise_alerts(budget.id, found_subject, window_start, null, (
        select sum(w.spent_nanos)::bigint from ${budgetWindows} w
        where ${ofWindow(sql`w`, sql`budget.id`, sql`found_subject`, sql`window_start`)}));
    end if;
  end loop;
end $$`,
)

/** Changes the limit of a budget, or over how many counters it is spread, also in the windows that go on. */
const changeBudget = managedFunction(
  'costs.change_budget(uuid, bigint, smallint)',
  sql`
create or replace function costs.change_budget(budget_id uuid, new_limit bigint, new_shards smallint)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  at timestamptz := clock_timestamp();
  found_window record;
begin
  -- Nobody opens a window meanwhile, which would have the old limit.
  update ${budgets} b set limit_nanos = new_limit, shards = new_shards, updated_at = at
    where b.organization_id = organization and b.id = change_budget.budget_id and ${isAdmin};
  perform 1 from ${budgetWindows} w
    where w.organization_id = organization and w.budget_id = change_budget.budget_id
      and (w.ends_at is null or w.ends_at > at)
    order by w.subject, w.starts_at, w.shard for update;
  for found_window in
    select w.subject, w.starts_at, w.scope, w.ends_at, max(w.shard) as last_shard, sum(w.spent_nanos)::bigint as spent
    from ${budgetWindows} w
    where w.organization_id = organization and w.budget_id = change_budget.budget_id
      and (w.ends_at is null or w.ends_at > at)
    group by w.subject, w.starts_at, w.scope, w.ends_at
    order by w.subject, w.starts_at
  loop
    insert into ${budgetWindows} (organization_id, budget_id, subject, starts_at, shard, scope, quota_nanos,
        spent_nanos, reserved_nanos, ends_at)
      select organization, change_budget.budget_id, found_window.subject, found_window.starts_at, s,
        found_window.scope, 0, 0, 0, found_window.ends_at
      from generate_series(found_window.last_shard + 1, new_shards - 1) s
      on conflict do nothing;
    perform costs.spread_quota(change_budget.budget_id, found_window.subject, found_window.starts_at, 0);
    perform costs.raise_alerts(change_budget.budget_id, found_window.subject, found_window.starts_at, null,
      found_window.spent);
  end loop;
end $$`,
)

/** Raises what several counters have reached together while each session saw its own only. */
const raiseMissedAlerts = managedFunction(
  'costs.raise_missed_alerts()',
  sql`
create or replace function costs.raise_missed_alerts()
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
begin
  perform costs.raise_alerts(w.budget_id, w.subject, w.starts_at, null, sum(w.spent_nanos)::bigint)
    from ${budgetWindows} w join ${budgets} b on b.organization_id = w.organization_id and b.id = w.budget_id
    where w.organization_id = organization and b.shards > 1 and ${isAdmin}
      -- A call that began in the window may end after it.
      and (w.ends_at is null or w.ends_at > clock_timestamp() - interval '7 days')
    group by w.budget_id, w.subject, w.starts_at;
end $$`,
)

/** What is spent, reserved and left of each budget in the period around now, of those whom the scope may see. */
const budgetStatus = managedFunction(
  'costs.budget_status()',
  sql`
create or replace function costs.budget_status()
returns table (budget_id uuid, name text, scope costs.budget_scope, period costs.budget_period,
  mode costs.budget_mode, subject text, limit_nanos bigint, spent_nanos bigint, reserved_nanos bigint,
  starts_at timestamptz, ends_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
begin
  return query
    select b.id, b.name, b.scope, b.period, b.mode, coalesce(w.subject, b.subject, ''), b.limit_nanos,
      coalesce(w.spent, 0)::bigint, coalesce(w.reserved, 0)::bigint, n.starts_at, n.ends_at
    from ${budgets} b
    join ${organizations} z on z.id = b.organization_id
    cross join lateral costs.window_of(b.period, clock_timestamp(), z.time_zone) n
    left join lateral (
      select w.subject, sum(w.spent_nanos) as spent, sum(w.reserved_nanos) as reserved from ${budgetWindows} w
      where w.organization_id = organization and w.budget_id = b.id and w.starts_at = n.starts_at
      group by w.subject) w on true
    where b.organization_id = organization and nullif(current_setting('plinth.role', true), '') is not null
      and (w.subject is not null or b.subject is not null or b.scope = 'organization')
      and ${isOwnCounter(sql`b.scope`, sql`coalesce(w.subject, b.subject)`)};
end $$`,
)

/** In the order in which they are created. */
export const budgetObjects = [
  raiseAlerts,
  spendOn,
  chargeBudgets,
  openBudget,
  changeBudget,
  raiseMissedAlerts,
  budgetStatus,
  managedInner('costs.raise_alerts(uuid, text, timestamptz, bigint, bigint)'),
  managedInner('costs.spend_on(uuid, text, timestamptz, smallint, bigint, boolean)'),
  ...managedExecute('costs.charge_budgets(json)', 'plinth_app'),
  ...managedExecute('costs.open_budget(uuid)', 'plinth_app'),
  ...managedExecute('costs.change_budget(uuid, bigint, smallint)', 'plinth_app'),
  ...managedExecute('costs.raise_missed_alerts()', 'plinth_app'),
  ...managedExecute('costs.budget_status()', 'plinth_app'),
]
