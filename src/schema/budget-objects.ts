import { sql } from 'drizzle-orm'
import { countersOf, isReplacedFor, ofWindow, subjectOf } from './budget-windows.ts'
import { usageEvents } from './costs.ts'
import {
  budgetAlerts,
  budgets,
  budgetWindows,
  isOwnCounter,
  mayResolve,
  reservations,
} from './costs-budgets.ts'
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
      and not ${isReplacedFor(sql`window_subject`)}
      and spent * 100.0 >= b.limit_nanos * t.threshold::numeric
      and (spent_before is null or spent_before * 100.0 < b.limit_nanos * t.threshold::numeric)
      -- To insert one that somebody is claiming would wait until they have told of it.
      and not exists (
        select from ${budgetAlerts} a
        where a.organization_id = organization and a.budget_id = b.id and a.subject = window_subject
          and a.starts_at = window_start and a.threshold = t.threshold)
    order by t.threshold
    on conflict do nothing;
end $$`,
)

const line = {
  user: sql`l.user_id`,
  project: sql`l.project_id`,
  model: sql`l.provider || '/' || l.model`,
  at: sql`l.occurred_at`,
}

const ofCounter = sql`${ofWindow(sql`w`, sql`counter.id`, sql`counter.subject`, sql`counter.starts_at`)}`

/**
 * Counts lines that were written into the ledger, whatever the limits, settles the reservation that they are of and
 * gives back what it holds, and raises the alerts. Returns the windows of blocking budgets of which more is spent and reserved
 * now than their limit.
 */
const chargeBudgets = managedFunction(
  'costs.charge_budgets(json, uuid)',
  sql`
create or replace function costs.charge_budgets(lines json, settled uuid)
returns table (id uuid, name text, scope costs.budget_scope, subject text, limit_nanos bigint, spent_nanos bigint,
  reserved_nanos bigint, starts_at timestamptz, ends_at timestamptz)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  counter record;
  opened record;
  made text[] := '{}';
  settled_at timestamptz := clock_timestamp();
begin
  -- Adjustments are an admin's; nobody else lowers what was spent.
  if not coalesce(${isAdmin}, false) and exists (
      select from json_to_recordset(lines) l (cost_nanos bigint) where l.cost_nanos < 0) then
    raise exception 'only an admin takes back what was spent' using errcode = 'insufficient_privilege';
  end if;
  for counter in
    with charges as (
      select c.id, c.subject, c.starts_at, sum(l.cost_nanos)::bigint as cost, min(l.occurred_at) as at,
        c.is_lenient, c.shards
      from json_to_recordset(lines) l (user_id uuid, project_id uuid, provider text, model text,
        cost_nanos bigint, occurred_at timestamptz)
      cross join lateral (${countersOf(line)}) c
      where l.cost_nanos <> 0
      -- Of windows that are not open yet it is not known which lines are in one.
      group by c.id, c.subject, c.starts_at, c.is_lenient, c.shards,
        case when c.starts_at is null then l.occurred_at end
    ), holds as (
      select h.id, h.subject, h.starts_at, h.shard, r.amount_nanos as held from ${reservations} r
      cross join lateral unnest(r.budget_ids, r.subjects, r.window_starts_at, r.shards) h (id, subject, starts_at, shard)
      where r.organization_id = organization and r.id = settled and r.state = 'held'
        and ${mayResolve(sql`r.user_id`)}
    )
    select b.id, b.name, b.scope, b.limit_nanos, coalesce(c.shards, b.shards) as shards, coalesce(c.subject, h.subject) as subject,
      coalesce(c.starts_at, h.starts_at) as starts_at, coalesce(c.is_lenient, true) as is_lenient, c.at,
      coalesce(c.cost, 0) as cost, h.shard, coalesce(h.held, 0) as held
    from charges c
    full join holds h on h.id = c.id and h.subject = c.subject and h.starts_at = c.starts_at
    join ${budgets} b on b.organization_id = organization and b.id = coalesce(c.id, h.id)
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
      update ${budgetWindows} w
        set spent_nanos = w.spent_nanos + counter.cost, reserved_nanos = w.reserved_nanos - counter.held
        where ${ofCounter} and w.shard = 0
        returning w.spent_nanos, w.reserved_nanos, w.ends_at into spent_nanos, reserved_nanos, ends_at;
    else
      perform costs.add_to_shards(counter.id, counter.subject, counter.starts_at, counter.shards, counter.shard,
        -counter.held, counter.cost, counter.is_lenient or counter.cost < counter.held, true);
      select sum(w.spent_nanos), sum(w.reserved_nanos), max(w.ends_at) into spent_nanos, reserved_nanos, ends_at
        from ${budgetWindows} w where ${ofCounter};
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
  update ${reservations} r set state = 'settled', resolved_at = settled_at
    where r.organization_id = organization and r.id = settled and r.state in ('held', 'expired')
      and ${mayResolve(sql`r.user_id`)};
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
  at timestamptz := clock_timestamp();
  budget ${budgets};
  period record;
  counter record;
  opened record;
begin
  select * into budget from ${budgets} b
    where b.organization_id = organization and b.id = open_budget.budget_id and ${isAdmin};
  if not found then
    return;
  end if;
  -- So that who began to read before has to begin anew: see open_ledger.
  update ${organizations} z set updated_at = at where z.id = organization;
  select p.* into period from ${organizations} z
    cross join lateral costs.window_of(budget.period, at, z.time_zone) p where z.id = organization;
  for counter in
    select budget.id, f.subject from (
      select case budget.scope when 'organization' then '' else budget.subject end as subject
      union
      select ${subjectOf(sql`budget.scope`, { user: sql`e.user_id`, project: sql`e.project_id`, model: sql`e.provider || '/' || e.model` })}
      from ${usageEvents} e
      where e.organization_id = organization and budget.subject is null and budget.scope <> 'organization'
        and e.occurred_at >= period.starts_at and (period.ends_at is null or e.occurred_at < period.ends_at)) f
    where f.subject is not null order by f.subject
  loop
    select * into opened from costs.open_window(counter.id, counter.subject, at);
    perform costs.raise_alerts(counter.id, counter.subject, opened.window_start, null, (
      select sum(w.spent_nanos)::bigint from ${budgetWindows} w
      where ${ofWindow(sql`w`, sql`counter.id`, sql`counter.subject`, sql`opened.window_start`)}));
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
  if not found then
    return;
  end if;
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
    perform costs.spread_quota(change_budget.budget_id, found_window.subject, found_window.starts_at);
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
      coalesce(w.spent, 0)::bigint, coalesce(w.reserved, 0)::bigint, coalesce(w.starts_at, n.starts_at),
      coalesce(w.ends_at, n.ends_at)
    from ${budgets} b
    join ${organizations} z on z.id = b.organization_id
    cross join lateral costs.window_of(b.period, clock_timestamp(), z.time_zone) n
    left join lateral (
      select w.subject, w.starts_at, w.ends_at, sum(w.spent_nanos) as spent, sum(w.reserved_nanos) as reserved
      from ${budgetWindows} w
      where w.organization_id = organization and w.budget_id = b.id and w.starts_at <= clock_timestamp()
        and (w.ends_at is null or w.ends_at > clock_timestamp())
      group by w.subject, w.starts_at, w.ends_at) w on true
    where b.organization_id = organization and nullif(current_setting('plinth.role', true), '') is not null
      and (w.subject is not null or b.subject is not null or b.scope = 'organization')
      and not ${isReplacedFor(sql`w.subject`)}
      and ${isOwnCounter(sql`b.scope`, sql`coalesce(w.subject, b.subject)`)};
end $$`,
)

/** The period around now of the organization in scope, whose time zone nobody in a scope can read. */
const currentWindow = managedFunction(
  'costs.current_window(costs.budget_period)',
  sql`
create or replace function costs.current_window(
  period costs.budget_period, out starts_at timestamptz, out ends_at timestamptz, out at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
begin
  select p.starts_at, p.ends_at, clock_timestamp() into starts_at, ends_at, at
    from ${organizations} z
    cross join lateral costs.window_of(current_window.period, clock_timestamp(), z.time_zone) p
    where z.id = organization;
end $$`,
)

/** In the order in which they are created. */
export const budgetObjects = [
  raiseAlerts,
  chargeBudgets,
  openBudget,
  changeBudget,
  raiseMissedAlerts,
  budgetStatus,
  currentWindow,
  managedInner('costs.raise_alerts(uuid, text, timestamptz, bigint, bigint)'),
  ...managedExecute('costs.charge_budgets(json, uuid)', 'plinth_app'),
  ...managedExecute('costs.open_budget(uuid)', 'plinth_app'),
  ...managedExecute('costs.change_budget(uuid, bigint, smallint)', 'plinth_app'),
  ...managedExecute('costs.raise_missed_alerts()', 'plinth_app'),
  ...managedExecute('costs.budget_status()', 'plinth_app'),
  ...managedExecute('costs.current_window(costs.budget_period)', 'plinth_app'),
]
