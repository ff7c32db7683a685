import { type SQL, sql } from 'drizzle-orm'
import { managedExecute, managedFunction } from './managed.ts'
import { idempotencyKeys, locks, publicRateLimits, rateLimits, tenantLocks } from './ops.ts'
import { scopedOrganization, scopedUser } from './policies.ts'

// What they judge by a clock, they judge by clock_timestamp(), taken before the statement: a transaction may
// be old, and what waited for a row finds its own clock late, never early.

const head = sql`language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$`
const now = sql`clock_timestamp()::timestamptz(3)`
const span = (ms: SQL) => sql`(${ms}) * interval '1 millisecond'`
const msBetween = (from: SQL, to: SQL) => sql`extract(epoch from ${to} - ${from}) * 1000`

const scope = sql`
  organization uuid := ${scopedOrganization};
  member uuid := ${scopedUser};`

const requireScope = sql`
  if organization is null then
    raise exception 'there is no scope' using errcode = 'insufficient_privilege';
  end if;`

/**
 * Runs a statement that waits for rows of transactions under way no longer than 50 ms: the rows may be those of a
 * whole scope. Whoever can wait asks again, and keeps no connection meanwhile.
 */
const impatiently = (statement: SQL) => sql`
  begin
    set local lock_timeout = '50ms';
    ${statement};
    execute format('set local lock_timeout = %L', patience);
  exception when lock_not_available then
    blocked := true;
  end;`

const ownKey = sql`k.organization_id = organization and k.key = claimed_key and k.user_id is not distinct from member`

/**
 * Claims a key for a request, or says what keeps it: \`conflict\` (another request's), \`completed\`, \`not_kept\`,
 * or \`in_progress\`, and then for how long its lease goes on.
 */
const claimKey = managedFunction(
  'ops.claim_key(text, text, uuid, integer, bigint)',
  sql`
create or replace function ops.claim_key(
  claimed_key text, request text, new_claim uuid, lease_ms integer, retention_ms bigint)
returns table (outcome text, attempts integer, response text, lease_left_ms integer)
${head}
declare${scope}
  requested bytea := decode(request, 'hex');
  patience text := current_setting('lock_timeout');
  blocked boolean := false;
  instant timestamptz;
  held ${idempotencyKeys};
begin${requireScope}
  loop
    instant := ${now};
    select * into held from ${idempotencyKeys} k where ${ownKey} and k.expires_at > instant;
    if held.fingerprint <> requested then
      outcome := 'conflict';
    elsif held.state = 'completed' then
      outcome := case when held.response_kept then 'completed' else 'not_kept' end;
      response := held.response::text;
    elsif held.leased_until > instant then
      outcome := 'in_progress';
      lease_left_ms := ceil(${msBetween(sql`instant`, sql`held.leased_until`)});
    else
      ${impatiently(sql`insert into ${idempotencyKeys} as k (organization_id, claim_id, user_id, key, fingerprint,
          leased_until, created_at, expires_at)
        values (organization, new_claim, member, claimed_key, requested, instant + ${span(sql`lease_ms`)},
          instant, instant + ${span(sql`lease_ms + retention_ms`)})
        on conflict (organization_id, key, user_id) do update set
          claim_id = excluded.claim_id, fingerprint = excluded.fingerprint, state = excluded.state,
          response = null, response_kept = true, completed_at = null,
          attempts = case when k.expires_at <= excluded.created_at then 1 else k.attempts + 1 end,
          created_at = case when k.expires_at <= excluded.created_at then excluded.created_at else k.created_at end,
          leased_until = excluded.leased_until, expires_at = excluded.expires_at
        where k.expires_at <= excluded.created_at or (k.state = 'claimed'
          and k.leased_until <= excluded.created_at and k.fingerprint = excluded.fingerprint)
        returning 'claimed', k.attempts into outcome, attempts`)}
      if blocked then
        outcome := 'in_progress';
        lease_left_ms := 1000;
      end if;
    end if;
    if outcome is not null then
      return next;
      return;
    end if;
    -- Somebody was faster: the key is held by now, or was released again.
  end loop;
end $$`,
)

/** Goes on with the lease of a claim, unless it has lost the key. */
const extendKey = managedFunction(
  'ops.extend_key(text, uuid, integer, bigint)',
  sql`
create or replace function ops.extend_key(claimed_key text, claim uuid, lease_ms integer, retention_ms bigint)
returns boolean ${head}
declare${scope}
  instant timestamptz := ${now};
begin
  update ${idempotencyKeys} k set leased_until = instant + ${span(sql`lease_ms`)},
      expires_at = instant + ${span(sql`lease_ms + retention_ms`)}
    where ${ownKey} and k.claim_id = claim and k.state = 'claimed' and k.leased_until > instant;
  return found;
end $$`,
)

/** Stores what came of a claim, unless it has lost the key. Twice is once: its answer may have been lost. */
const completeKey = managedFunction(
  'ops.complete_key(text, uuid, text, boolean, bigint)',
  sql`
create or replace function ops.complete_key(
  claimed_key text, claim uuid, answer text, kept boolean, retention_ms bigint)
returns boolean ${head}
declare${scope}
  instant timestamptz := ${now};
begin
  update ${idempotencyKeys} k set state = 'completed', response = answer::jsonb, response_kept = kept,
      completed_at = instant, leased_until = instant, expires_at = instant + ${span(sql`retention_ms`)}
    where ${ownKey} and k.claim_id = claim and k.state = 'claimed';
  return found or exists (
    select from ${idempotencyKeys} k where ${ownKey} and k.claim_id = claim and k.state = 'completed');
end $$`,
)

/** Gives a key back that nothing came of. */
const releaseKey = managedFunction(
  'ops.release_key(text, uuid)',
  sql`
create or replace function ops.release_key(claimed_key text, claim uuid)
returns void ${head}
declare${scope}
begin
  delete from ${idempotencyKeys} k where ${ownKey} and k.claim_id = claim and k.state = 'claimed';
end $$`,
)

/** Whether a claim has its key, which it then keeps until the transaction ends. */
const checkKey = managedFunction(
  'ops.check_key(text, uuid)',
  sql`
create or replace function ops.check_key(claimed_key text, claim uuid)
returns boolean ${head}
declare${scope}
begin
  perform from ${idempotencyKeys} k where ${ownKey} and k.claim_id = claim and k.state = 'claimed'
    and k.leased_until > clock_timestamp() for key share;
  return found;
end $$`,
)

/** What locks of the platform and of organizations have in common: all but who is asked, and where they are. */
const lockFunctions = (kind: 'lock' | 'tenant_lock') => {
  const ofTenant = kind === 'tenant_lock'
  const table = ofTenant ? tenantLocks : locks
  const named = (name: string) => sql.raw(`ops.${name}_${kind}`)
  const declared = ofTenant ? scope : sql``
  const required = ofTenant ? requireScope : sql``
  const own = ofTenant
    ? sql`l.organization_id = organization and l.name = lock_name`
    : sql`l.name = lock_name`
  const key = ofTenant ? sql`organization_id, name` : sql`name`
  const values = ofTenant ? sql`organization, lock_name` : sql`lock_name`
  return [
    managedFunction(
      `ops.acquire_${kind}(text, text, integer)`,
      sql`
create or replace function ${named('acquire')}(lock_name text, new_holder text, lease_ms integer)
returns table (token bigint, held_by text, lease_left_ms integer)
${head}
declare${declared}
  patience text := current_setting('lock_timeout');
  blocked boolean := false;
  instant timestamptz := ${now};
begin${required}
  -- First, since the row of a lock that is held is none to wait for.
  perform from ${table} l where ${own} and l.leased_until > instant;
  if not found then
    ${impatiently(sql`insert into ${table} as l (${key}, holder, fencing_token, acquired_at, leased_until)
      values (${values}, new_holder, floor(extract(epoch from clock_timestamp()) * 1000000), instant,
        instant + ${span(sql`lease_ms`)})
      on conflict (${key}) do update set holder = excluded.holder,
        fencing_token = greatest(l.fencing_token + 1, excluded.fencing_token),
        acquired_at = excluded.acquired_at, leased_until = excluded.leased_until
      where l.leased_until <= excluded.acquired_at
      returning l.fencing_token into token`)}
  end if;
  select l.holder, greatest(ceil(${msBetween(sql`instant`, sql`l.leased_until`)}), 0)
    into held_by, lease_left_ms from ${table} l where ${own};
  return next;
end $$`,
    ),
    managedFunction(
      `ops.extend_${kind}(text, bigint, integer)`,
      sql`
create or replace function ${named('extend')}(lock_name text, token bigint, lease_ms integer)
returns boolean ${head}
declare${declared}
  instant timestamptz := ${now};
begin
  update ${table} l set leased_until = instant + ${span(sql`lease_ms`)}
    where ${own} and l.fencing_token = token and l.leased_until > instant;
  return found;
end $$`,
    ),
    managedFunction(
      `ops.release_${kind}(text, bigint)`,
      sql`
create or replace function ${named('release')}(lock_name text, token bigint)
returns boolean ${head}
declare${declared}
  instant timestamptz := ${now};
begin
  update ${table} l set leased_until = least(l.leased_until, instant)
    where ${own} and l.fencing_token = token;
  return found;
end $$`,
    ),
    managedFunction(
      `ops.check_${kind}(text, bigint)`,
      sql`
create or replace function ${named('check')}(lock_name text, token bigint)
returns boolean ${head}
declare${declared}
begin
  perform from ${table} l where ${own} and l.fencing_token = token
    and l.leased_until > clock_timestamp() for key share;
  return found;
end $$`,
    ),
    ...[
      `ops.acquire_${kind}(text, text, integer)`,
      `ops.extend_${kind}(text, bigint, integer)`,
      `ops.release_${kind}(text, bigint)`,
      `ops.check_${kind}(text, bigint)`,
    ].flatMap((signature) =>
      managedExecute(signature, ofTenant ? 'plinth_app' : 'plinth_platform'),
    ),
  ]
}

/** The longest that a bucket is said to take, three years: slower ones would leave what a bigint or a date can be. */
const FOREVER_MS = sql`100000000000`

/** What buckets of the public and of organizations have in common. */
const bucketFunction = (kind: 'tokens' | 'public_tokens') => {
  const ofTenant = kind === 'tokens'
  const table = ofTenant ? rateLimits : publicRateLimits
  const signature = `ops.take_${kind}(text, ${ofTenant ? 'boolean, ' : ''}bigint, numeric, bigint)`
  const argument = ofTenant ? sql`bucket text, of_user boolean` : sql`bucket text`
  const own = ofTenant
    ? sql`b.organization_id = organization and b.key = bucket
      and b.user_id is not distinct from (case when of_user then member end)`
    : sql`b.key = bucket`
  const key = ofTenant ? sql`organization_id, key, user_id` : sql`key`
  const columns = ofTenant ? sql`id, ${key}` : key
  const values = ofTenant
    ? sql`identity.uuid_v7(), organization, bucket, case when of_user then member end`
    : sql`bucket`
  // A clock that goes back takes no tokens, and gives none until it has caught up.
  const available = sql`least(capacity, b.nanotokens
    + floor(greatest(${msBetween(sql`b.refilled_at`, sql`instant`)}, 0) * per_ms))::bigint`
  const look = sql`
  select ${available}, b.refilled_at into remaining, refilled from ${table} b where ${own};`
  const full = (left: SQL) =>
    sql`case when per_ms > 0 then
          instant + ${span(sql`least(ceil((capacity - ${left}) / per_ms), ${FOREVER_MS})::bigint`)} end`
  return [
    managedFunction(
      signature,
      sql`
create or replace function ops.${sql.raw(`take_${kind}`)}(${argument}, capacity bigint, per_ms numeric, cost bigint)
returns table (granted boolean, remaining bigint, retry_after_ms bigint)
${head}
declare${ofTenant ? scope : sql``}
  instant timestamptz := ${now};
  refilled timestamptz;
begin${ofTenant ? requireScope : sql``}
  granted := false;
  -- What is denied at once writes nothing and locks nothing, however many ask.${look}
  if remaining is null or remaining >= cost then
    insert into ${table} as b (${columns}, nanotokens, refilled_at, full_at)
      values (${values}, capacity - cost, instant, ${full(sql`(capacity - cost)`)})
      on conflict (${key}) do update set nanotokens = ${available} - cost,
        refilled_at = greatest(b.refilled_at, excluded.refilled_at),
        full_at = ${full(sql`(${available} - cost)`)}
      where ${available} >= cost
      returning true, b.nanotokens, 0 into granted, remaining, retry_after_ms;
  end if;
  if granted is not true then
    granted := false;${look}
    retry_after_ms := ceil(least((cost - remaining) / nullif(per_ms, 0), ${FOREVER_MS})
      + greatest(${msBetween(sql`instant`, sql`refilled`)}, 0));
  end if;
  return next;
end $$`,
    ),
    ...managedExecute(signature, ofTenant ? 'plinth_app' : 'plinth_platform'),
  ]
}

/** Deletes rows that are due by time, up to a number, and leaves those that a transaction is at. */
const purging = (
  table: typeof idempotencyKeys | typeof tenantLocks | typeof rateLimits,
  column: SQL,
  due: SQL,
) => sql`
  for found_row in
    select t.organization_id, ${column} as own from ${table} t where ${due} limit max_rows
  loop
    delete from ${table} d where d.organization_id = found_row.organization_id and d.${column} = any(array(
      select t.${column} from ${table} t where t.organization_id = found_row.organization_id
        and t.${column} = found_row.own and ${due} for update skip locked));
    if found then deleted := deleted + 1; end if;
  end loop;`

const purgingPlatform = (
  table: typeof locks | typeof publicRateLimits,
  column: SQL,
  due: SQL,
) => sql`
  delete from ${table} d where d.${column} = any(array(
    select t.${column} from ${table} t where ${due} limit max_rows for update skip locked));
  get diagnostics amount = row_count;
  deleted := deleted + amount;`

/** Deletes up to a number of rows of a kind that say nothing any more, and returns how many. */
const purge = managedFunction(
  'ops.purge(text, integer, bigint)',
  sql`
create or replace function ops.purge(kind text, max_rows integer, lock_age_ms bigint)
returns integer ${head}
declare
  instant timestamptz := ${now};
  deleted integer := 0;
  amount integer;
  found_row record;
begin
  if kind = 'idempotency_keys' then${purging(idempotencyKeys, sql`claim_id`, sql`t.expires_at <= instant`)}
  elsif kind = 'tenant_locks' then${purging(tenantLocks, sql`name`, sql`t.leased_until <= instant - ${span(sql`lock_age_ms`)}`)}
  elsif kind = 'locks' then${purgingPlatform(locks, sql`name`, sql`t.leased_until <= instant - ${span(sql`lock_age_ms`)}`)}
  elsif kind = 'rate_limits' then${purging(rateLimits, sql`id`, sql`t.full_at <= instant`)}
  elsif kind = 'public_rate_limits' then${purgingPlatform(publicRateLimits, sql`key`, sql`t.full_at <= instant`)}
  end if;
  return deleted;
end $$`,
)

/** What guards work in the database; in the order in which they are created. */
export const guardObjects = [
  claimKey,
  extendKey,
  completeKey,
  releaseKey,
  checkKey,
  ...[
    'ops.claim_key(text, text, uuid, integer, bigint)',
    'ops.extend_key(text, uuid, integer, bigint)',
    'ops.complete_key(text, uuid, text, boolean, bigint)',
    'ops.release_key(text, uuid)',
    'ops.check_key(text, uuid)',
  ].flatMap((signature) => managedExecute(signature, 'plinth_app')),
  ...lockFunctions('lock'),
  ...lockFunctions('tenant_lock'),
  ...bucketFunction('tokens'),
  ...bucketFunction('public_tokens'),
  purge,
  ...managedExecute('ops.purge(text, integer, bigint)', 'plinth_platform'),
]
