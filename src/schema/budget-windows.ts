import { type SQL, sql } from 'drizzle-orm'
import { usageEvents } from './costs.ts'
import { budgetPeriod, budgets, budgetWindows } from './costs-budgets.ts'
import { organizations } from './identity.ts'
import { managedFunction, managedInner } from './managed.ts'
import { scopedOrganization } from './policies.ts'

// Counters are written by functions only, as their owner: a member who may make a call has no right to lower
// what was spent. The organization is the one in scope and never an argument. Rows are locked in one order:
// reservations, then windows by budget, subject, start and shard.

/** Where the period of a budget around an instant begins and ends, in a time zone. A total never ends. */
const windowOf = managedFunction(
  'costs.window_of(costs.budget_period, timestamptz, text)',
  sql`
create or replace function costs.window_of(
  period ${budgetPeriod}, at timestamptz, zone text, out starts_at timestamptz, out ends_at timestamptz)
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
end $$`,
)

/** Whose counter of a budget a call belongs to; null: the budget is not about it. */
export const subjectOf = (
  scope: SQL,
  { user, project, model }: Record<'user' | 'project' | 'model', SQL>,
) =>
  sql`case ${scope} when 'organization' then '' when 'user' then ${user}::text
    when 'project' then ${project}::text else ${model} end`

/** Whether a budget for one subject takes the place of a budget, here called `b`, for each of its kind. */
export const isReplacedFor = (subject: SQL) =>
  sql`(b.subject is null and b.scope <> 'organization' and exists (
        select from ${budgets} o
        where o.organization_id = b.organization_id and o.scope = b.scope and o.period = b.period
          and o.mode = b.mode and o.subject = ${subject}))`

/**
 * The counters that a call belongs to, in the order in which they are locked; without a start, of a window that
 * is not open yet. A window goes on to its end, also when the organization's time zone has changed.
 */
export const countersOf = (call: Record<'user' | 'project' | 'model' | 'at', SQL>) => sql`
    select b.id, b.name, b.scope, b.shards, b.limit_nanos, s.subject, w.starts_at, w.ends_at,
      b.mode = 'warn' or ${isReplacedFor(sql`s.subject`)} as is_lenient
    from ${budgets} b
    cross join lateral (select ${subjectOf(sql`b.scope`, call)} as subject) s
    left join lateral (
      select w.starts_at, w.ends_at from ${budgetWindows} w
      where w.organization_id = organization and w.budget_id = b.id and w.subject = s.subject
        and w.starts_at <= ${call.at} and (w.ends_at is null or w.ends_at > ${call.at})
      order by w.starts_at desc limit 1) w on true
    where b.organization_id = organization and (b.subject = s.subject or b.subject is null)
      and s.subject is not null
    order by b.id, s.subject, w.starts_at`

/**
 * Opens the window of a budget around an instant, with what the ledger has by now. Returns where it begins and
 * whether it was made here: a writer's own lines are in it then, since they are written before they are counted.
 */
const openWindow = managedFunction(
  'costs.open_window(uuid, text, timestamptz)',
  sql`
create or replace function costs.open_window(budget_id uuid, window_subject text, at timestamptz,
  out window_start timestamptz, out window_end timestamptz, out is_new boolean)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  budget ${budgets};
  spent bigint;
begin
  -- One at a time: two that overlap would both be new, where the time zone has just changed.
  perform pg_advisory_xact_lock(
    hashtextextended(concat_ws(' ', 'plinth.window', organization, open_window.budget_id, window_subject), 0));
  is_new := false;
  select w.starts_at, w.ends_at into window_start, window_end from ${budgetWindows} w
    where w.organization_id = organization and w.budget_id = open_window.budget_id and w.subject = window_subject
      and w.starts_at <= open_window.at and (w.ends_at is null or w.ends_at > open_window.at)
    limit 1;
  if found then
    return;
  end if;
  -- Shared with others who open one, but not with whoever changes the limit.
  select * into budget from ${budgets} b
    where b.organization_id = organization and b.id = open_window.budget_id for share;
  select p.starts_at, p.ends_at into window_start, window_end
    from ${organizations} z cross join lateral costs.window_of(budget.period, open_window.at, z.time_zone) p
    where z.id = organization;
  -- In two that overlap, as after a change of the time zone, a line would count in one only.
  select greatest(window_start, max(w.ends_at) filter (where w.ends_at <= open_window.at)),
      least(window_end, min(w.starts_at) filter (where w.starts_at > open_window.at))
    into window_start, window_end from ${budgetWindows} w
    where w.organization_id = organization and w.budget_id = budget.id and w.subject = window_subject
      and w.ends_at > window_start and w.starts_at < window_end;
  select coalesce(sum(e.cost_nanos), 0) into spent from ${usageEvents} e
    where e.organization_id = organization and e.occurred_at >= window_start
      and (window_end is null or e.occurred_at < window_end)
      and window_subject = ${subjectOf(sql`budget.scope`, {
        user: sql`e.user_id`,
        project: sql`e.project_id`,
        model: sql`e.provider || '/' || e.model`,
      })};
  insert into ${budgetWindows} (organization_id, budget_id, subject, starts_at, shard, scope, quota_nanos,
      spent_nanos, reserved_nanos, ends_at)
    select organization, budget.id, window_subject, window_start, shard, budget.scope,
      (budget.limit_nanos - spent) / budget.shards
        + case shard when 0 then spent + (budget.limit_nanos - spent) % budget.shards else 0 end,
      case shard when 0 then spent else 0 end, 0, window_end
    from generate_series(0, budget.shards - 1) shard
    order by shard
    on conflict do nothing;
  is_new := found;
end $$`,
)

/** The counters of a window. */
export const ofWindow = (w: SQL, budget: SQL, subject: SQL, start: SQL) =>
  sql`${w}.organization_id = organization and ${w}.budget_id = ${budget}
      and ${w}.subject = ${subject} and ${w}.starts_at = ${start}`

const here = (w: SQL) => ofWindow(w, sql`budget`, sql`window_subject`, sql`window_start`)

/** Gives every counter of a window, whose rows the caller has locked, the same part of what is free of the limit. */
const spreadQuota = managedFunction(
  'costs.spread_quota(uuid, text, timestamptz)',
  sql`
create or replace function costs.spread_quota(budget uuid, window_subject text, window_start timestamptz)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  counters integer;
  free bigint;
begin
  select count(*), min(b.limit_nanos) - sum(w.spent_nanos + w.reserved_nanos) into counters, free
    from ${budgetWindows} w
    join ${budgets} b on b.organization_id = w.organization_id and b.id = w.budget_id
    where ${here(sql`w`)};
  update ${budgetWindows} w
    set quota_nanos = w.spent_nanos + w.reserved_nanos + free / counters
      + case w.shard when 0 then free % counters else 0 end
    where ${here(sql`w`)};
end $$`,
)

const hasRoom = sql`(is_free or reserved + spent <= w.quota_nanos - w.spent_nanos - w.reserved_nanos)`

/**
 * Adds to what is reserved and spent of a window with several counters, or takes away. By `preferred`, if there is
 * one; by one that nobody is writing to; by one that it waits for; or else all are locked, and what is free is
 * spread over them anew. Returns by which, or null if there is no room.
 */
const addToShards = managedFunction(
  'costs.add_to_shards(uuid, text, timestamptz, smallint, smallint, bigint, bigint, boolean, boolean)',
  sql`
create or replace function costs.add_to_shards(budget uuid, window_subject text, window_start timestamptz,
  counters smallint, preferred smallint, reserved bigint, spent bigint, is_free boolean, is_forced boolean)
returns smallint language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  -- Where this session begins to look, so that not all begin at the same.
  first integer := pg_backend_pid() % counters;
  picked smallint := preferred;
  used bigint;
  most bigint;
begin
  if picked is null then
    -- Gives up those that it has locked and found full meanwhile, before it waits for another one.
    begin
      select w.shard into picked from ${budgetWindows} w where ${here(sql`w`)} and ${hasRoom}
        order by (w.shard - first + counters) % counters limit 1 for update skip locked;
      if picked is null then
        raise sqlstate 'PL001';
      end if;
    exception when sqlstate 'PL001' then null;
    end;
  end if;
  if picked is null then
    select w.shard into picked from ${budgetWindows} w where ${here(sql`w`)} and ${hasRoom}
      order by (w.shard - first + counters) % counters limit 1;
  end if;
  begin
    update ${budgetWindows} w
      set reserved_nanos = w.reserved_nanos + reserved, spent_nanos = w.spent_nanos + spent
      where ${here(sql`w`)} and w.shard = picked and ${hasRoom};
    if found then
      return picked;
    end if;
    -- Gives up the rows that were locked in vain: to lock all of them in their order, none may be.
    raise sqlstate 'PL001';
  exception when sqlstate 'PL001' then null;
  end;
  perform 1 from ${budgetWindows} w where ${here(sql`w`)} order by w.shard for update;
  select sum(w.spent_nanos + w.reserved_nanos), min(b.limit_nanos) into used, most
    from ${budgetWindows} w
    join ${budgets} b on b.organization_id = w.organization_id and b.id = w.budget_id
    where ${here(sql`w`)};
  if not is_forced and reserved + spent > most - used then
    return null;
  end if;
  picked := coalesce(preferred, 0);
  update ${budgetWindows} w
    set reserved_nanos = w.reserved_nanos + reserved, spent_nanos = w.spent_nanos + spent
    where ${here(sql`w`)} and w.shard = picked;
  perform costs.spread_quota(budget, window_subject, window_start);
  return picked;
end $$`,
)

/** In the order in which they are created. */
export const budgetWindowObjects = [
  windowOf,
  openWindow,
  spreadQuota,
  addToShards,
  managedInner('costs.window_of(costs.budget_period, timestamptz, text)'),
  managedInner('costs.open_window(uuid, text, timestamptz)'),
  managedInner('costs.spread_quota(uuid, text, timestamptz)'),
  managedInner(
    'costs.add_to_shards(uuid, text, timestamptz, smallint, smallint, bigint, bigint, boolean, boolean)',
  ),
]
