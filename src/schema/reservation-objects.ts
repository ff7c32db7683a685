import { type SQL, sql } from 'drizzle-orm'
import { countersOf, ofWindow } from './budget-windows.ts'
import {
  budgetAlerts,
  budgets,
  budgetWindows,
  mayResolve,
  reservationState,
  reservations,
} from './costs-budgets.ts'
import { keepLedgerOpen } from './ledger.ts'
import { managedExecute, managedFunction, managedInner } from './managed.ts'
import { isAdmin, scopedOrganization, scopedUser } from './policies.ts'

const isHeldIn = (w: SQL, h: SQL) =>
  sql`${w}.organization_id = organization and ${w}.budget_id = ${h}.budget_id and ${w}.subject = ${h}.subject
      and ${w}.starts_at = ${h}.starts_at and ${w}.shard = ${h}.shard`

/** What reservations hold, by counter. */
const holdsOf = (ids: SQL) => sql`
      select h.budget_id, h.subject, h.starts_at, h.shard, sum(r.amount_nanos)::bigint as amount
      from ${reservations} r
      cross join lateral unnest(r.budget_ids, r.subjects, r.window_starts_at, r.shards)
        h (budget_id, subject, starts_at, shard)
      where r.organization_id = organization and r.id = any (${ids})
      group by 1, 2, 3, 4`

/** Gives back what reservations hold, whose rows the caller has locked, and says what became of them. */
const giveBack = managedFunction(
  'costs.give_back(uuid[], costs.reservation_state)',
  sql`
create or replace function costs.give_back(reservation_ids uuid[], outcome ${reservationState})
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  at timestamptz := clock_timestamp();
begin
  perform 1 from ${budgetWindows} w join (${holdsOf(sql`reservation_ids`)}) h on ${isHeldIn(sql`w`, sql`h`)}
    order by w.budget_id, w.subject, w.starts_at, w.shard for update of w;
  update ${budgetWindows} w set reserved_nanos = w.reserved_nanos - h.amount
    from (${holdsOf(sql`reservation_ids`)}) h where ${isHeldIn(sql`w`, sql`h`)};
  update ${reservations} r set state = outcome, resolved_at = at
    where r.organization_id = organization and r.id = any (reservation_ids);
end $$`,
)

const expired = (max: SQL) => sql`array(
    select r.id from ${reservations} r
    where r.organization_id = organization and r.state = 'held' and r.leased_until <= clock_timestamp()
    order by r.leased_until limit ${max} for update skip locked)`

/** Gives back what is held by reservations whose lease is over. Returns how many these were. */
const expireReservations = managedFunction(
  'costs.expire_reservations(integer)',
  sql`
create or replace function costs.expire_reservations(max_rows integer)
returns integer language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  ids uuid[];
begin
  ${keepLedgerOpen};
  ids := ${expired(sql`max_rows`)};
  perform costs.give_back(ids, 'expired');
  return cardinality(ids);
end $$`,
)

const refuseOthers = sql`
  if organization is null or not coalesce(${isAdmin} or member is null or member = ${scopedUser}, false) then
    raise exception 'calls of another member are an admin''s to make' using errcode = 'insufficient_privilege';
  end if;`

const call = {
  user: sql`member`,
  project: sql`project`,
  model: sql`model_provider || '/' || model_name`,
  at: sql`reserve.created_at`,
}

const ofCounter = ofWindow(sql`w`, sql`counter.id`, sql`counter.subject`, sql`counter.starts_at`)

/**
 * Reserves an amount in every budget that a call belongs to, or in none. What has expired is given back first:
 * its windows and those of the call are locked in one order, before any other.
 */
const reserve = managedFunction(
  'costs.reserve(uuid, uuid, uuid, text, text, bigint, integer)',
  sql`
create or replace function costs.reserve(
  reservation uuid, member uuid, project uuid, model_provider text, model_name text, amount bigint,
  lease_ms integer, out is_granted boolean, out created_at timestamptz, out leased_until timestamptz,
  out blocked jsonb)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  counter record;
  picked smallint;
  budget_ids uuid[] := '{}';
  subjects text[] := '{}';
  starts timestamptz[] := '{}';
  shards smallint[] := '{}';
  expired_ids uuid[];
  spent bigint;
  reserved bigint;
begin${refuseOthers}
  ${keepLedgerOpen};
  created_at := date_trunc('milliseconds', clock_timestamp());
  leased_until := created_at + lease_ms * interval '1 millisecond';
  if amount > 0 and exists (select from ${reservations} r
      where r.organization_id = organization and r.state = 'held' and r.leased_until <= reserve.created_at) then
    expired_ids := ${expired(sql`1000`)};
    perform 1 from ${budgetWindows} w
      where w.organization_id = organization and (w.budget_id, w.subject, w.starts_at) in (
        select c.id, c.subject, c.starts_at from (${countersOf(call)}) c
        union
        select h.budget_id, h.subject, h.starts_at from (${holdsOf(sql`expired_ids`)}) h)
      order by w.budget_id, w.subject, w.starts_at, w.shard for update;
    perform costs.give_back(expired_ids, 'expired');
  end if;

  for counter in ${countersOf(call)}
  loop
    exit when amount = 0;
    if counter.starts_at is null then
      select o.window_start, o.window_end into counter.starts_at, counter.ends_at
        from costs.open_window(counter.id, counter.subject, reserve.created_at) o;
    end if;
    if counter.shards = 1 then
      update ${budgetWindows} w set reserved_nanos = w.reserved_nanos + amount
        where ${ofCounter} and w.shard = 0
          and (counter.is_lenient or amount <= w.quota_nanos - w.spent_nanos - w.reserved_nanos)
        returning w.shard into picked;
    else
      picked := costs.add_to_shards(counter.id, counter.subject, counter.starts_at, counter.shards, null, amount, 0,
        counter.is_lenient, counter.is_lenient);
    end if;
    if picked is not null then
      budget_ids := budget_ids || counter.id;
      subjects := subjects || counter.subject;
      starts := starts || counter.starts_at;
      shards := shards || picked;
    else
      -- The limit of now, which may have been changed while the rows were waited for.
      select sum(w.spent_nanos), sum(w.reserved_nanos), sum(w.quota_nanos)
        into spent, reserved, counter.limit_nanos from ${budgetWindows} w where ${ofCounter};
      -- The budget was removed while its rows were waited for.
      continue when spent is null;
      blocked := coalesce(blocked, '[]') || jsonb_build_object('id', counter.id, 'name', counter.name,
        'scope', counter.scope, 'subject', counter.subject, 'limitNanos', counter.limit_nanos::text,
        'spentNanos', spent::text, 'reservedNanos', reserved::text, 'startsAt', counter.starts_at,
        'endsAt', counter.ends_at);
    end if;
  end loop;

  is_granted := blocked is null;
  if is_granted then
    insert into ${reservations} (organization_id, id, user_id, project_id, provider, model, amount_nanos,
        budget_ids, subjects, window_starts_at, shards, leased_until, created_at)
      values (organization, reservation, member, project, model_provider, model_name, amount,
        budget_ids, subjects, starts, shards, reserve.leased_until, reserve.created_at);
  else
    update ${budgetWindows} w set reserved_nanos = w.reserved_nanos - amount
      from unnest(budget_ids, subjects, starts, shards) h (budget_id, subject, starts_at, shard)
      where ${isHeldIn(sql`w`, sql`h`)};
    blocked := (select jsonb_agg(b || jsonb_build_object('freesUpAt', costs.frees_up_at(b, amount)) order by n)
      from jsonb_array_elements(blocked) with ordinality as e (b, n));
  end if;
end $$`,
)

/**
 * When a budget that was full may have room: when as many reservations are over, at the latest when its
 * window ends; null if neither will help.
 */
const freesUpAt = managedFunction(
  'costs.frees_up_at(jsonb, bigint)',
  sql`
create or replace function costs.frees_up_at(budget jsonb, amount bigint)
returns timestamptz language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  most bigint := (budget ->> 'limitNanos')::bigint;
  excess numeric := (budget ->> 'spentNanos')::numeric + (budget ->> 'reservedNanos')::numeric + amount - most;
  room_at timestamptz;
begin
  -- It is too much in any window.
  if amount > most then
    return null;
  end if;
  select min(f.leased_until) into room_at from (
    select r.leased_until, sum(r.amount_nanos) over (order by r.leased_until, r.id) as freed
    from ${reservations} r
    where r.organization_id = organization and r.state = 'held' and exists (
      select from unnest(r.budget_ids, r.subjects, r.window_starts_at) h (budget_id, subject, starts_at)
      where h.budget_id = (budget ->> 'id')::uuid and h.subject = budget ->> 'subject'
        and h.starts_at = (budget ->> 'startsAt')::timestamptz)) f
    where f.freed >= excess;
  return least(room_at, (budget ->> 'endsAt')::timestamptz);
end $$`,
)

/**
 * Releases a reservation, or locks it to be settled. Again, it changes nothing; one that is over can still be
 * settled, since the call was made; the other way round it is refused. charge_budgets settles it, with the lines
 * in the ledger, so that a call which is refused after this leaves it held.
 */
const resolveReservation = managedFunction(
  'costs.resolve_reservation(uuid, costs.reservation_state)',
  sql`
create or replace function costs.resolve_reservation(reservation uuid, outcome ${reservationState},
  out was ${reservationState}, out is_late boolean, out user_id uuid, out project_id uuid, out provider text,
  out model text, out amount_nanos bigint, out created_at timestamptz)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
begin
  ${keepLedgerOpen};
  select r.state, r.state = 'expired' or (r.state = 'held' and r.leased_until <= clock_timestamp()), r.user_id, r.project_id,
      r.provider, r.model, r.amount_nanos, r.created_at
    into was, is_late, user_id, project_id, provider, model, amount_nanos, created_at
    from ${reservations} r
    where r.organization_id = organization and r.id = reservation and ${mayResolve(sql`r.user_id`)} for update;
  if not found then
    raise exception 'reservation % not found', reservation
      using errcode = 'no_data_found', detail = 'reservation', hint = reservation::text;
  elsif (outcome = 'settled' and was = 'released') or (outcome = 'released' and was = 'settled') then
    raise exception 'reservation % is % already', reservation, was
      using errcode = 'object_not_in_prerequisite_state', detail = 'plinth.reservation.' || was,
        hint = reservation::text;
  elsif outcome = 'released' and was = 'held' then
    perform costs.give_back(array[reservation], outcome);
  end if;
end $$`,
)

/** Holds a reservation for longer, from now on. Returns until when; null if it is not held any more. */
const extendReservation = managedFunction(
  'costs.extend_reservation(uuid, integer)',
  sql`
create or replace function costs.extend_reservation(reservation uuid, lease_ms integer)
returns timestamptz language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  until timestamptz := date_trunc('milliseconds', clock_timestamp()) + lease_ms * interval '1 millisecond';
begin
  update ${reservations} r set leased_until = greatest(r.leased_until, until)
    where r.organization_id = organization and r.id = reservation and r.state = 'held' and ${mayResolve(sql`r.user_id`)}
    returning r.leased_until into until;
  return case when found then until end;
end $$`,
)

/** Deletes what is resolved of the reservations with an id below one that stands for a time. Returns how many. */
const purgeReservations = managedFunction(
  'costs.purge_reservations(uuid, integer)',
  sql`
create or replace function costs.purge_reservations(before uuid, max_rows integer)
returns integer language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  purged integer;
begin
  delete from ${reservations} r where r.organization_id = organization and ${isAdmin}
    and r.id = any (array(select x.id from ${reservations} x
      where x.organization_id = organization and x.id < before and x.state <> 'held'
      order by x.id limit max_rows for update skip locked));
  get diagnostics purged = row_count;
  return purged;
end $$`,
)

/** The organizations for which there is something to do, by id. It reads the rows of all. */
const organizationsDue = managedFunction(
  'costs.organizations_due(text, uuid, integer)',
  sql`
create or replace function costs.organizations_due(work text, after_organization uuid, max_rows integer)
returns setof uuid language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  last uuid := coalesce(after_organization, '00000000-0000-0000-0000-000000000000');
begin
  if work = 'expire' then
    return query select distinct r.organization_id from ${reservations} r
      where r.state = 'held' and r.leased_until <= clock_timestamp() and r.organization_id > last
      order by 1 limit max_rows;
  elsif work = 'alert' then
    return query select d.organization_id from (
        select a.organization_id from ${budgetAlerts} a where a.claimed_at is null
        union select b.organization_id from ${budgets} b where b.shards > 1) d
      where d.organization_id > last order by 1 limit max_rows;
  else
    -- One look into the index an organization, and not one a reservation.
    for i in 1 .. max_rows loop
      select r.organization_id into last from ${reservations} r
        where r.organization_id > last order by r.organization_id limit 1;
      exit when not found;
      return next last;
    end loop;
  end if;
end $$`,
)

/** In the order in which they are created. */
export const reservationObjects = [
  giveBack,
  expireReservations,
  freesUpAt,
  reserve,
  resolveReservation,
  extendReservation,
  purgeReservations,
  organizationsDue,
  managedInner('costs.give_back(uuid[], costs.reservation_state)'),
  managedInner('costs.frees_up_at(jsonb, bigint)'),
  ...managedExecute('costs.expire_reservations(integer)', 'plinth_app'),
  ...managedExecute('costs.reserve(uuid, uuid, uuid, text, text, bigint, integer)', 'plinth_app'),
  ...managedExecute('costs.resolve_reservation(uuid, costs.reservation_state)', 'plinth_app'),
  ...managedExecute('costs.extend_reservation(uuid, integer)', 'plinth_app'),
  ...managedExecute('costs.purge_reservations(uuid, integer)', 'plinth_app'),
  ...managedExecute('costs.organizations_due(text, uuid, integer)', 'plinth_platform'),
]
