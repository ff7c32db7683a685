import { sql } from 'drizzle-orm'
import { activityChains, activityLogs, activitySeals, sealedRows } from './activity.ts'
import { organizations } from './identity.ts'
import { managedExecute, managedFunction } from './managed.ts'
import { isAdmin, scopedOrganization } from './policies.ts'

/** An instant as whole milliseconds since 1970: its text would be in the zone of the session. */
const milliseconds = (instant: string) => sql.raw(`(extract(epoch from ${instant}) * 1000)::bigint`)

/**
 * The digest of a line: SHA-256 of a JSON array of all its columns, as jsonb writes it. That text is the same for the
 * same values whatever the settings: keys are sorted and unique, numbers have their digits, strings are escaped
 * in one way, and no value can pass for another column's.
 */
const rowDigest = managedFunction(
  'activity.row_digest(activity.activity_logs)',
  sql`
create or replace function activity.row_digest(line ${activityLogs})
returns bytea language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return sha256(convert_to(jsonb_build_array('plinth.row.1', line.organization_id, line.id, line.actor_id,
    line.action, line.resource_type, line.resource_id, line.resource_name, line.changes, line.metadata,
    line.ip::text, line.user_agent, line.request_id, ${milliseconds('line.occurred_at')})::text, 'UTF8'));
end $$`,
)

/** The hash of a seal, of the columns of a relation that has them all. */
export const sealHash = (seal: string) =>
  sql`sha256(convert_to(jsonb_build_array('plinth.seal.1', ${sql.raw(`${seal}.organization_id, ${seal}.sequence,
    encode(${seal}.previous_hash, 'hex'), ${seal}.row_count, encode(${seal}.rows_hash, 'hex')`)},
    ${milliseconds(`${seal}.first_at`)}, ${milliseconds(`${seal}.last_at`)},
    ${milliseconds(`${seal}.complete_at`)}, ${milliseconds(`${seal}.sealed_at`)})::text, 'UTF8'))`

const sealSignature = 'activity.seal_rows(timestamptz, timestamptz, timestamptz, uuid, integer)'

/**
 * Seals the first lines, in the order of their times and ids, that are not sealed: those since a time, after another
 * line, up to so many. Returns the seal with where it ends and whether there are more, and nothing without a line.
 *
 * One sealer of an organization at a time, by a lock that no writer of the log takes; and were there two, the key of
 * the seals has room for one. Its writers are never waited for: a line that is committed late, with whatever time,
 * is in a later seal. A sweep is several calls, of which the first one's clock is `swept_at`.
 */
const sealRows = managedFunction(
  sealSignature,
  sql`
create or replace function activity.seal_rows(
  since timestamptz, swept_at timestamptz, after_at timestamptz, after_id uuid, max_rows integer)
returns table (sequence bigint, hash bytea, row_count integer, started_at timestamptz, last_at timestamptz, last_id uuid,
  has_more boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  previous record;
  now_at timestamptz(3);
begin
  if organization is null or ${isAdmin} is not true then
    raise exception 'only an admin or a service seals the log' using errcode = '42501';
  end if;
  -- A snapshot that is older than the lock would not see the newest seal.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'sealing needs the isolation level read committed' using errcode = '25001',
      detail = 'plinth.isolation';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('plinth.seals ' || organization::text, 0));
  if not exists (select from ${activityChains} c
      where c.organization_id = organization and c.disabled_at is null) then
    raise exception 'the log of % is not to be sealed; see enableActivitySeals', organization
      using errcode = 'P0002', detail = 'activity chain', hint = organization::text;
  end if;
  select s.sequence, s.hash into previous from ${activitySeals} s
    where s.organization_id = organization order by s.sequence desc limit 1;
  -- Before the lines are looked for: what is committed by then is found.
  now_at := clock_timestamp();
  started_at := least(swept_at, now_at);
  return query
    with found as materialized (
      select l.occurred_at, l.id, activity.row_digest(l::${activityLogs}) as digest,
        (row_number() over (order by l.occurred_at, l.id))::integer as place
      from (
        select u.* from ${activityLogs} u
        where u.organization_id = organization
          and u.occurred_at >= greatest(since, after_at, '-infinity')
          and (after_at is null or (u.occurred_at, u.id) > (after_at, after_id))
          and not exists (select from ${sealedRows} r where r.organization_id = organization
            and r.occurred_at = u.occurred_at and r.row_id = u.id)
        order by u.occurred_at, u.id limit max_rows + 1
      ) l
    ), seal as (
      select organization as organization_id, coalesce(previous.sequence, 0) + 1 as sequence,
        previous.hash as previous_hash, count(*)::integer as row_count,
        sha256(string_agg(f.digest, ''::bytea order by f.place)) as rows_hash,
        min(f.occurred_at) as first_at, max(f.occurred_at) as last_at,
        case when since is null and not exists (select from found m where m.place > max_rows) then started_at end::timestamptz(3) as complete_at,
        now_at as sealed_at
      from found f where f.place <= max_rows having count(*) > 0
    ), sealed as (
      insert into ${activitySeals} as s (organization_id, sequence, previous_hash, row_count, rows_hash, first_at,
        last_at, hash, complete_at, sealed_at)
      select n.organization_id, n.sequence, n.previous_hash, n.row_count, n.rows_hash, n.first_at, n.last_at,
        ${sealHash('n')}, n.complete_at, n.sealed_at
      from seal n
      returning s.sequence, s.hash, s.row_count
    ), entries as (
      insert into ${sealedRows} as r (organization_id, sequence, position, row_id, digest, occurred_at)
      select organization, n.sequence, f.place, f.id, f.digest, f.occurred_at
      from found f cross join seal n where f.place <= max_rows
      returning r.position
    )
    select s.sequence, s.hash, s.row_count, started_at, f.occurred_at, f.id,
      exists (select from found m where m.place > max_rows)
    from sealed s join found f on f.place = s.row_count
    where (select count(*) from entries) > 0;
end $$`,
)

/** The organizations whose log is sealed, in use only, by id. It looks at the settings of all. */
const sealedLogs = managedFunction(
  'activity.sealed_logs(uuid, integer)',
  sql`
create or replace function activity.sealed_logs(after_organization uuid, max_rows integer)
returns table (organization_id uuid)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select c.organization_id from ${activityChains} c
    join ${organizations} o on o.id = c.organization_id
    where c.disabled_at is null and o.archived_at is null
      and (after_organization is null or c.organization_id > after_organization)
    order by c.organization_id limit max_rows;
end $$`,
)

/** What seals the log, in the order in which they are created. */
export const sealObjects = [
  rowDigest,
  sealRows,
  sealedLogs,
  ...managedExecute('activity.row_digest(activity.activity_logs)', 'plinth_app'),
  ...managedExecute(sealSignature, 'plinth_app'),
  ...managedExecute('activity.sealed_logs(uuid, integer)', 'plinth_platform'),
]
