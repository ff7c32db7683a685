import { type SQL, sql } from 'drizzle-orm'
import { budgetPeriod, budgets, budgetWindows, usageEvents } from './costs.ts'
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
begin
  if period = 'total' then
    starts_at := '1900-01-01 00:00:00+00';
  else
    starts_at := date_trunc(period::text, at, zone);
    -- A day may have 23 hours; an hour has one, also when the clock is put back.
    ends_at := case when period = 'hour' then starts_at + interval '1 hour'
      else (starts_at at time zone zone + ('1 ' || period)::interval) at time zone zone end;
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

/** The counters that a call belongs to, in the order in which they are locked. */
export const countersOf = (call: Record<'user' | 'project' | 'model' | 'at', SQL>) => sql`
    select b.id, b.name, b.scope, b.shards, b.limit_nanos, s.subject, w.starts_at, w.ends_at,
      -- A budget for one subject takes the place of the one for each of its kind.
      b.mode = 'warn' or (b.subject is null and exists (select from ${budgets} o
        where o.organization_id = b.organization_id and o.scope = b.scope and o.period = b.period
          and o.mode = b.mode and o.subject = s.subject)) as is_lenient
    from ${budgets} b
    join ${organizations} z on z.id = b.organization_id
    cross join lateral (select ${subjectOf(sql`b.scope`, call)} as subject) s
    cross join lateral costs.window_of(b.period, ${call.at}, z.time_zone) w
    where b.organization_id = organization and (b.subject = s.subject or b.subject is null)
      and s.subject is not null
    order by b.id`

/** The lines of the ledger that a counter adds up. */
const linesOf = (subject: SQL) => sql`
    e.organization_id = organization and e.occurred_at >= window_start
      and (window_end is null or e.occurred_at < window_end)
      and ${subject} = case budget.scope when 'organization' then '' when 'user' then e.user_id::text
        when 'project' then e.project_id::text else e.provider || '/' || e.model end`

/**
 * Makes the counters of a window that has none yet, with what the ledger has by now. Returns whether it made
 * them. A writer's own line is in the sum, since it is written before it is counted.
 */
const openWindow = managedFunction(
  'costs.open_window(uuid, text, timestamptz, timestamptz)',
  sql`
create or replace function costs.open_window(
  budget_id uuid, window_subject text, window_start timestamptz, window_end timestamptz)
returns boolean language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  budget ${budgets};
  spent bigint;
begin
  -- Shared with others who open one, but not with whoever changes the limit.
  select * into budget from ${budgets} b where b.organization_id = organization and b.id = budget_id for share;
  select coalesce(sum(e.cost_nanos), 0) into spent from ${usageEvents} e
    where ${linesOf(sql`window_subject`)};
  insert into ${budgetWindows} (organization_id, budget_id, subject, starts_at, shard, scope, quota_nanos,
      spent_nanos, reserved_nanos, ends_at)
    select organization, budget.id, window_subject, window_start, shard, budget.scope,
      (budget.limit_nanos - spent) / budget.shards
        + case shard when 0 then spent + (budget.limit_nanos - spent) % budget.shards else 0 end,
      case shard when 0 then spent else 0 end, 0, window_end
    from generate_series(0, budget.shards - 1) shard
    order by shard
    on conflict do nothing;
  return found;
end $$`,
)

export const ofWindow = (w: SQL, budget: SQL, subject: SQL, start: SQL) =>
  sql`${w}.organization_id = organization and ${w}.budget_id = ${budget}
      and ${w}.subject = ${subject} and ${w}.starts_at = ${start}`

/**
 * Gives every counter of a window, whose rows the caller has locked, the same part of what is free, and
 * the first one \`extra\` of it before. The quotas are the limit again.
 */
const spreadQuota = managedFunction(
  'costs.spread_quota(uuid, text, timestamptz, bigint)',
  sql`
create or replace function costs.spread_quota(
  budget_id uuid, window_subject text, window_start timestamptz, extra bigint)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  counters integer;
  free bigint;
begin
  select count(*), min(b.limit_nanos) - sum(w.spent_nanos + w.reserved_nanos) - extra into counters, free
    from ${budgetWindows} w
    join ${budgets} b on b.organization_id = w.organization_id and b.id = w.budget_id
    where ${ofWindow(sql`w`, sql`spread_quota.budget_id`, sql`window_subject`, sql`window_start`)};
  update ${budgetWindows} w
    set quota_nanos = w.spent_nanos + w.reserved_nanos + free / counters
      + case w.shard when 0 then extra + free % counters else 0 end
    where ${ofWindow(sql`w`, sql`spread_quota.budget_id`, sql`window_subject`, sql`window_start`)};
end $$`,
)

/** The counter to write to: the only one, or of several one that nobody is writing to and that has room. */
const freeShard = managedFunction(
  'costs.free_shard(uuid, text, timestamptz, smallint, bigint, boolean)',
  sql`
create or replace function costs.free_shard(
  budget_id uuid, window_subject text, window_start timestamptz, counters smallint, room bigint, is_lenient boolean)
returns smallint language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  -- Where this session begins to look, so that not all begin at the same.
  first integer := pg_backend_pid() % counters;
  found_shard smallint;
begin
  if counters = 1 then
    return 0;
  end if;
  select w.shard into found_shard from ${budgetWindows} w
    where ${ofWindow(sql`w`, sql`free_shard.budget_id`, sql`window_subject`, sql`window_start`)}
      and (is_lenient or w.spent_nanos + w.reserved_nanos + room <= w.quota_nanos)
    order by (w.shard - first + counters) % counters limit 1
    for update skip locked;
  return coalesce(found_shard, (select w.shard from ${budgetWindows} w
    where ${ofWindow(sql`w`, sql`free_shard.budget_id`, sql`window_subject`, sql`window_start`)}
      and (is_lenient or w.spent_nanos + w.reserved_nanos + room <= w.quota_nanos)
    order by (w.shard - first + counters) % counters limit 1));
end $$`,
)

/** In the order in which they are created. */
export const budgetWindowObjects = [
  windowOf,
  openWindow,
  spreadQuota,
  freeShard,
  managedInner('costs.window_of(costs.budget_period, timestamptz, text)'),
  managedInner('costs.open_window(uuid, text, timestamptz, timestamptz)'),
  managedInner('costs.spread_quota(uuid, text, timestamptz, bigint)'),
  managedInner('costs.free_shard(uuid, text, timestamptz, smallint, bigint, boolean)'),
]
