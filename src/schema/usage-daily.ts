import { type SQL, sql } from 'drizzle-orm'
import { usageDaily, usageEvents, usageRollUps, usageStaleDays } from './costs.ts'
import { organizations } from './identity.ts'
import { keepLedgerClosed, needsReadCommitted } from './ledger.ts'
import { managedExecute, managedFunction, managedInner } from './managed.ts'
import { isAdmin, scopedOrganization, scopedUser } from './policies.ts'

/** The first instant of a day, in UTC. */
const startOf = (day: string) => sql.raw(`(${day})::timestamp at time zone 'UTC'`)

/** The day of UTC that an instant is in. */
const dayOf = (instant: string) => sql.raw(`((${instant}) at time zone 'UTC')::date`)

/** The first day of UTC that begins at an instant or later. In hours: a session's zone may have days of 23. */
const dayFrom = (instant: string) => dayOf(`(${instant}) + interval '24 hours' - interval '1 ms'`)

/** The hour that goes on, by the clock of a server that another one may have succeeded, whose was a little behind. */
const thisHour = sql`date_trunc('hour', clock_timestamp() - interval '5 minutes', 'UTC')`

const mayRollUp = sql`
  if organization is null or not ${isAdmin} then
    raise exception 'only an admin or a service rolls up' using errcode = '42501';
  end if;
  ${needsReadCommitted}`

/**
 * Closes a ledger at an instant: waits for whoever keeps it open. Who writes later finds it closed, and marks the
 * days of earlier lines. Returns until when it is closed, which never goes back.
 */
const closeUsageAt = managedFunction(
  'costs.close_usage_at(uuid, timestamptz)',
  sql`
create or replace function costs.close_usage_at(organization uuid, closing timestamptz)
returns timestamptz language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  closed timestamptz;
begin
  select r.closed_at into closed from ${usageRollUps} r where r.organization_id = organization;
  if closed >= closing then
    return closed;
  end if;
  ${keepLedgerClosed};
  insert into ${usageRollUps} as r (organization_id, closed_at) values (organization, closing)
    on conflict (organization_id) do update set closed_at = greatest(r.closed_at, excluded.closed_at)
    returning r.closed_at into closed;
  return closed;
end $$`,
)

/** Closes the hours before this one. Waits half a second at most. */
const closeUsage = managedFunction(
  'costs.close_usage()',
  sql`
create or replace function costs.close_usage()
returns timestamptz language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '500ms' as $$
declare
  organization uuid := ${scopedOrganization};
begin
  ${mayRollUp};
  return costs.close_usage_at(organization, ${thisHour});
end $$`,
)

/**
 * Rolls up one day as far as the ledger is closed: the earliest one that has lines which are not rolled up yet, or
 * was written into since. Returns it with the number of its lines, and nothing when none is left.
 *
 * It holds up no writer. A line that it does not see was written after the ledger was closed, so that a mark came
 * with it, which it does not see either and leaves: hence the marks go before the lines are read.
 */
const rollUpUsageDay = managedFunction(
  'costs.roll_up_usage_day()',
  sql`
create or replace function costs.roll_up_usage_day()
returns table (day_on date, events bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  closed timestamptz;
  rolled timestamptz;
  day date;
  day_end timestamptz;
begin
  ${mayRollUp};
  perform pg_advisory_xact_lock(hashtextextended('plinth.usage_daily ' || organization::text, 0));
  select r.closed_at, r.rolled_at into closed, rolled
    from ${usageRollUps} r where r.organization_id = organization;
  if not found then
    return;
  end if;
  day := least(
    (select min(s.day_on) from ${usageStaleDays} s
      where s.organization_id = organization and s.day_on < ${dayFrom('closed')}),
    (select ${dayOf('min(e.occurred_at)')} from ${usageEvents} e
      where e.organization_id = organization and e.occurred_at < closed
        and e.occurred_at >= coalesce(rolled, '-infinity')));
  if day is null then
    update ${usageRollUps} r set rolled_at = closed
      where r.organization_id = organization and r.rolled_at is distinct from closed;
    return;
  end if;
  day_end := least(${startOf('day + 1')}, closed);
  delete from ${usageStaleDays} s where s.organization_id = organization and s.day_on = day;
  delete from ${usageDaily} d where d.organization_id = organization and d.day_on = day;
  return query
    with lines as (
      insert into ${usageDaily} as d (organization_id, day_on, line, user_id, project_id, provider, model,
        endpoint, events, unpriced, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
        reasoning_tokens, embedding_tokens, images, audio_seconds, requests, cost_nanos)
      select organization, day, row_number() over (), e.user_id, e.project_id, e.provider, e.model,
        e.endpoint, count(*) filter (where e.adjusts_id is null),
        count(*) filter (where e.status = 'unpriced')
          - count(*) filter (where e.adjusts_status = 'unpriced'),
        sum(e.input_tokens), sum(e.output_tokens), sum(e.cache_read_tokens), sum(e.cache_write_tokens),
        sum(e.reasoning_tokens), sum(e.embedding_tokens), sum(e.images), sum(e.audio_seconds),
        sum(e.requests), coalesce(sum(e.cost_nanos), 0)
      from ${usageEvents} e
      where e.organization_id = organization
        and e.occurred_at >= ${startOf('day')} and e.occurred_at < day_end
      -- What is huge is a row of its own, so that no sum leaves bigint.
      group by e.user_id, e.project_id, e.provider, e.model, e.endpoint,
        case when greatest(abs(e.cost_nanos), e.input_tokens, e.output_tokens, e.embedding_tokens, e.images,
          e.audio_seconds, e.requests) >= 1000000000000 then e.id end
      returning d.events
    )
    select day, coalesce(sum(l.events), 0)::bigint from lines l;
  update ${usageRollUps} r set rolled_at = day_end
    where r.organization_id = organization and (r.rolled_at is null or r.rolled_at < day_end);
end $$`,
)

/** The organizations that have something to roll up, in use only, by id. It looks at the ledgers of all. */
const dueLedgers = managedFunction(
  'costs.due_ledgers(uuid, integer)',
  sql`
create or replace function costs.due_ledgers(after_organization uuid, max_rows integer)
returns table (organization_id uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  closing timestamptz := ${thisHour};
begin
  -- Scalar subqueries, which stay probes of an index: a join might read whole ledgers.
  return query
    select o.id from ${organizations} o
    left join ${usageRollUps} r on r.organization_id = o.id
    where o.archived_at is null and (after_organization is null or o.id > after_organization)
      and coalesce(
        (select true from ${usageStaleDays} s where s.organization_id = o.id
          and s.day_on < ${dayFrom('closing')} limit 1),
        (select true from ${usageEvents} e where e.organization_id = o.id
          and e.occurred_at >= coalesce(r.rolled_at, '-infinity') and e.occurred_at < closing limit 1))
    order by o.id limit max_rows;
end $$`,
)

/** One row for each period and key that is asked for; what is not asked for is null, and so the same for all. */
const summed = (time: SQL, sums: SQL) => sql`
  select case when by_period then date_trunc(period, ${time}, time_zone) end,
    case when by_user then t.user_id end, case when by_project then t.project_id end,
    case when by_model then t.provider end, case when by_model then t.model end,
    case when by_endpoint then t.endpoint end, ${sums},
    sum(t.input_tokens + t.output_tokens + t.embedding_tokens), sum(t.cost_nanos)`

const ofDays = sql`
  return query ${summed(startOf('t.day_on'), sql`sum(t.events), sum(t.unpriced)`)}
    from ${usageDaily} t
    where t.organization_id = organization and t.day_on >= from_on and t.day_on < to_on
      and t.day_on <> all (live)`

const ofGap = sql`
  return query ${summed(
    sql`t.occurred_at`,
    sql`(count(*) filter (where t.adjusts_id is null))::numeric,
    (count(*) filter (where t.status = 'unpriced')
      - count(*) filter (where t.adjusts_status = 'unpriced'))::numeric`,
  )}
    from ${usageEvents} t
    where t.organization_id = organization and t.occurred_at >= gap_from and t.occurred_at < gap_to`

/**
 * What the lines of a stretch of time have cost, by the period and by one of user, project, model and endpoint:
 * several rows of one period and key, which are to be added up. Members see their own lines, admins all.
 *
 * A day is read from the roll-up if it was not written into since, is in one period, and is in the stretch as far as
 * it is rolled up; the rest is read from the ledger. STABLE, so that all of it is one snapshot, the caller's. By plans
 * that are kept: to plan for every partition takes longer than to read a day.
 */
const usageSums = managedFunction(
  'costs.usage_sums(timestamptz, timestamptz, uuid, text, text, text)',
  sql`
create or replace function costs.usage_sums(
  since timestamptz, until timestamptz, only_user uuid, key text, period text, time_zone text)
returns table (period_at timestamptz, user_id uuid, project_id uuid, provider text, model text, endpoint text,
  events numeric, unpriced numeric, tokens numeric, cost_nanos numeric)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan' set enable_sort = off as $$
declare
  organization uuid := ${scopedOrganization};
  from_at timestamptz := coalesce(since, '-infinity');
  to_at timestamptz := coalesce(until, 'infinity');
  -- To compare texts line by line would take as long as to read the lines.
  by_period boolean := period in ('hour', 'day', 'month');
  by_user boolean := key = 'user';
  by_project boolean := key = 'project';
  by_model boolean := key = 'model';
  by_endpoint boolean := key = 'endpoint';
  from_on date := ${dayFrom('from_at')};
  -- Until when the days from there on are rolled up, within the stretch.
  rolled timestamptz;
  to_on date;
  live date[];
  boundary timestamp;
  gaps timestamptz[];
  gap_from timestamptz;
  gap_to timestamptz;
begin
  if organization is null then
    return;
  end if;
  if ${isAdmin} is not true then
    if only_user <> ${scopedUser} then
      return;
    end if;
    only_user := ${scopedUser};
    if only_user is null then
      return;
    end if;
  end if;
  if period is distinct from 'hour' and (period is distinct from 'day' or time_zone = 'UTC') then
    select case when r.rolled_at <= to_at then r.rolled_at else date_trunc('day', to_at, 'UTC') end into rolled
      from ${usageRollUps} r where r.organization_id = organization and r.rolled_at is not null;
    to_on := ${dayFrom('rolled')};
  end if;
  if to_on is null or to_on <= from_on then
    gaps := array[from_at, to_at];
  else
    live := array(select distinct s.day_on from ${usageStaleDays} s
      where s.organization_id = organization and s.day_on >= from_on and s.day_on < to_on);
    if period = 'month' and time_zone <> 'UTC' then
      -- A month of another zone ends within a day of UTC; the days beside it for the sake of changing clocks.
      boundary := date_trunc('month', ${startOf(`greatest(from_on, (
        select min(d.day_on) from "costs"."usage_daily" d where d.organization_id = organization))`)} at time zone time_zone);
      while boundary <= to_on + 1 loop
        live := live || array(select d.day
          from (select boundary::date + n from generate_series(-2, 1) n) d (day)
          where d.day >= from_on and d.day < to_on and d.day <> all (live)
            and date_trunc('month', ${startOf('d.day')}, time_zone)
              <> date_trunc('month', ${startOf('d.day + 1')} - interval '1 ms', time_zone));
        boundary := boundary + interval '1 month';
      end loop;
    end if;
    if only_user is null then
      ${ofDays} group by 1, 2, 3, 4, 5, 6;
    else
      ${ofDays} and t.user_id = only_user group by 1, 2, 3, 4, 5, 6;
    end if;
    gaps := array[from_at, ${startOf('from_on')}, rolled, to_at]
      || array(select b.bound from unnest(live) l (day)
        cross join lateral (values (${startOf('l.day')}), (least(${startOf('l.day + 1')}, rolled))) b (bound));
  end if;
  for place in 1..cardinality(gaps) by 2 loop
    gap_from := gaps[place];
    gap_to := gaps[place + 1];
    continue when gap_from >= gap_to;
    if only_user is null then
      ${ofGap} group by 1, 2, 3, 4, 5, 6;
    else
      ${ofGap} and t.user_id = only_user group by 1, 2, 3, 4, 5, 6;
    end if;
  end loop;
end $$`,
)

/** What rolls the ledger up and reads it so, in the order in which they are created. */
export const usageDailyObjects = [
  closeUsageAt,
  managedInner('costs.close_usage_at(uuid, timestamptz)'),
  closeUsage,
  rollUpUsageDay,
  dueLedgers,
  usageSums,
  ...managedExecute(
    'costs.usage_sums(timestamptz, timestamptz, uuid, text, text, text)',
    'plinth_app',
  ),
  ...managedExecute('costs.close_usage()', 'plinth_app'),
  ...managedExecute('costs.roll_up_usage_day()', 'plinth_app'),
  ...managedExecute('costs.due_ledgers(uuid, integer)', 'plinth_platform'),
]
