import { type SQL, sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../src/database.ts'
import { rollback } from '../src/testing/database.ts'
import { owner, test, url } from './support/database.ts'

// The rules of "One DDL for PGlite, Postgres and Citus", and of the names, over whatever the catalog has:
// a table that is added later is judged without a word. Each rule is a query for its offenders, and
// DDL that offends, so that no rule can be one that never fails.

/** What the rules are about, as views of one query. */
const CATALOG = sql`
  spaces as (
    select oid, nspname from pg_namespace where nspname !~ '^(pg_|information_schema$|drizzle$|public$)'
  ),
  relations as (
    select c.oid, n.nspname as schema, c.relname as name, n.nspname || '.' || c.relname as title,
      c.relkind as kind, c.relpersistence as persistence, c.relrowsecurity as secured,
      c.relforcerowsecurity as forced, c.relispartition as is_partition, c.reloptions as options,
      c.relhassubclass and c.relkind = 'r' or exists (select from pg_inherits i
        where i.inhrelid = c.oid and not c.relispartition) as inherits,
      exists (select from pg_attribute a where a.attrelid = c.oid
        and a.attname = 'organization_id' and not a.attisdropped) as is_tenant
    from pg_class c join spaces n on n.oid = c.relnamespace
  ),
  tables as (select * from relations where kind in ('r', 'p') and not is_partition),
  columns as (
    select t.*, a.attnum, a.attname as column, format_type(a.atttypid, a.atttypmod) as type,
      a.attidentity as identity
    from tables t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
  ),
  constraints as (
    select t.*, k.oid as constraint_oid, k.conname as constraint_name, k.contype as type, k.conkey as key,
      k.confkey as target_key, k.confdeltype as on_delete, k.confupdtype as on_update, k.confrelid as target
    from tables t join pg_constraint k on k.conrelid = t.oid
    where k.contype <> 'n' and k.conparentid = 0
  ),
  indexes as (
    select t.*, i.indexrelid, x.relname as index, i.indisunique as is_unique, i.indisvalid as is_valid,
      i.indkey::int2[] as key, i.indnkeyatts as key_columns, i.indpred is not null as is_partial,
      i.indoption::int2[] as directions, m.amname as method
    from tables t join pg_index i on i.indrelid = t.oid join pg_class x on x.oid = i.indexrelid
    join pg_am m on m.oid = x.relam
  ),
  policies as (
    select t.*, p.polname as policy, p.polcmd as command, p.polpermissive as is_permissive, p.polroles as roles,
      p.polqual is not null as has_using, p.polwithcheck is not null as has_check,
      pg_get_expr(p.polqual, t.oid) as reading, pg_get_expr(p.polwithcheck, t.oid) as writing,
      concat_ws(' ', p.polqual::text, p.polwithcheck::text) as tree
    from tables t join pg_policy p on p.polrelid = t.oid
  ),
  expressions as (
    select title, policy, expression, tree
    from policies cross join lateral (values (reading), (writing)) e (expression)
    where expression is not null
  ),
  commands (code, command) as (values ('r', 'select'), ('a', 'insert'), ('w', 'update'), ('d', 'delete')),
  functions as (
    select p.oid, n.nspname || '.' || p.proname as title, p.prosecdef as is_definer, p.proconfig as settings,
      l.lanname as language, p.prosrc as body, p.proacl as acl, p.proowner as owner
    from pg_proc p join spaces n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
    where not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
  ),
  numbers as (
    select t.oid, (select a.attnum from pg_attribute a
      where a.attrelid = t.oid and a.attname = 'organization_id') as organization
    from tables t
  )`

interface Rule {
  /** Selects the title of each offender. */
  offenders: SQL
  /** Statements that make one. */
  offence: string
}

const table = 'costs.broken'
const tenantTable = (columns = '') =>
  `create table ${table} (organization_id uuid not null, id uuid not null${columns}, constraint broken_pkey primary key (organization_id, id)); comment on table ${table} is 'x';`

const rules: Record<string, Rule> = {
  'every table has a primary key': {
    offenders: sql`select title from tables t
      where not exists (select from constraints k where k.oid = t.oid and k.type = 'p')`,
    offence: `create table ${table} (id uuid)`,
  },
  'rule 1: every key of a tenant table has the organization in it as a plain column': {
    offenders: sql`select i.title || ' ' || i.index from indexes i join numbers n on n.oid = i.oid
      where i.is_tenant and (i.is_unique or exists (select from pg_constraint k
          where k.conindid = i.indexrelid and k.contype = 'x'))
        and not n.organization = any (i.key)`,
    offence: `${tenantTable(', slug text')} create unique index broken_slug_key on ${table} (slug)`,
  },
  'rule 1: the primary key of a tenant table begins with the organization': {
    offenders: sql`select k.title from constraints k join numbers n on n.oid = k.oid
      where k.is_tenant and k.type = 'p' and k.key[1] <> n.organization`,
    offence: `create table ${table} (organization_id uuid, id uuid, constraint broken_pkey primary key (id, organization_id))`,
  },
  'rule 1: no tenant row is without an organization': {
    offenders: sql`select r.title from relations r join pg_attribute a on a.attrelid = r.oid
      where r.kind in ('r', 'p') and a.attname = 'organization_id'
        and (not a.attnotnull or a.atttypid <> 'uuid'::regtype)`,
    offence: `create table ${table} (organization_id text, id uuid, constraint broken_pkey primary key (id))`,
  },
  'rule 2: a foreign key between tenant tables begins with the organization on both sides': {
    offenders: sql`select k.title || ' ' || k.constraint_name from constraints k
      join numbers n on n.oid = k.oid join tables t on t.oid = k.target and t.is_tenant
      join numbers m on m.oid = t.oid
      where k.type = 'f' and (k.key[1] is distinct from n.organization
        or k.target_key[1] is distinct from m.organization)`,
    offence: `alter table costs.usage_keys add constraint x unique (event_id); ${tenantTable(
      ', event_id uuid',
    )} alter table ${table} add constraint broken_event_id_fkey foreign key (event_id) references costs.usage_keys (event_id)`,
  },
  'rule 2: deleting cascades or is refused, and never sets a column': {
    offenders: sql`select title || ' ' || constraint_name from constraints
      where type = 'f' and (on_delete not in ('a', 'c') or on_update <> 'a')`,
    offence: `${tenantTable(
      ', user_id uuid',
    )} alter table ${table} add constraint broken_user_id_fkey foreign key (user_id) references identity.users (id) on delete set null`,
  },
  'rule 2: a tenant table hangs on its organization, by itself or by what it belongs to': {
    offenders: sql`select t.title from tables t where t.is_tenant and not exists (
      select from constraints k join tables u on u.oid = k.target
      where k.oid = t.oid and k.type = 'f' and k.on_delete = 'c'
        and (u.title = 'identity.organizations' or u.is_tenant))`,
    offence: tenantTable(),
  },
  'rule 3: no platform table refers to a tenant table': {
    offenders: sql`select k.title || ' ' || k.constraint_name from constraints k
      join tables t on t.oid = k.target and t.is_tenant where k.type = 'f' and not k.is_tenant`,
    offence: `create table ${table} (id uuid primary key, a uuid, b text, foreign key (a, b) references costs.usage_keys)`,
  },
  'rule 5: no triggers of one’s own': {
    offenders: sql`select t.title || ' ' || g.tgname from pg_trigger g join relations t on t.oid = g.tgrelid
      where not g.tgisinternal`,
    offence: `create function costs.f() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$ begin return new; end $$;
      create trigger t before insert on costs.usage_keys for each row execute function costs.f()`,
  },
  'rule 5: no rules': {
    offenders: sql`select t.title || ' ' || r.rulename from pg_rewrite r join relations t on t.oid = r.ev_class
      where r.rulename <> '_RETURN'`,
    offence: `create rule r as on delete to costs.usage_keys do instead nothing`,
  },
  'rule 5: no inheritance, and nothing unlogged': {
    offenders: sql`select title from relations where kind in ('r', 'p') and (inherits or persistence <> 'p')`,
    offence: `create unlogged table ${table} (id uuid primary key)`,
  },
  'rule 6: every index and every exclusion is valid, and ascending': {
    offenders: sql`select title || ' ' || index from indexes
      where not is_valid or exists (select from unnest(directions) d where d <> 0)`,
    offence: `create index usage_keys_status_idx on costs.usage_keys (organization_id, occurred_at desc)`,
  },
  'names: a key, a check and an exclusion': {
    offenders: sql`select title || ' ' || constraint_name from constraints
      where constraint_name !~ ('^' || name || '_' || case type when 'p' then 'pkey$' when 'f' then '\\w+_fkey$'
        when 'u' then '\\w+_key$' when 'c' then '\\w+_check$' when 'x' then '\\w+_excl$' end)`,
    offence: `alter table costs.usage_keys add constraint positive check (cost_nanos >= 0)`,
  },
  'names: an index': {
    offenders: sql`select i.title || ' ' || i.index from indexes i
      where i.index !~ ('^' || i.name || case when i.is_unique then '_(\\w+_key|pkey)$' else '_\\w+_(idx|excl)$' end)`,
    offence: `create index by_event on costs.usage_keys (organization_id, event_id)`,
  },
  // A longer one is cut off, and two that differ behind the 63rd byte are the same.
  'names: none was cut off at 63 bytes': {
    offenders: sql`select title || ' ' || n from tables t cross join lateral (
        select constraint_name from constraints k where k.oid = t.oid
        union all select index from indexes i where i.oid = t.oid
        union all select policy from policies p where p.oid = t.oid) as names (n)
      where octet_length(n::text) >= 63`,
    offence: `alter table costs.usage_keys add constraint usage_keys_${'x'.repeat(60)}_check check (true)`,
  },
  'names: a table and its columns are snake_case': {
    offenders: sql`select title || ' ' || "column" from columns
      where "column" !~ '^[a-z][a-z0-9]*(_[a-z0-9]+)*$' or name !~ '^[a-z][a-z0-9]*(_[a-z0-9]+)*$'`,
    offence: `alter table costs.usage_keys add column "eventName" text`,
  },
  'names: a policy is called after its table and its command': {
    offenders: sql`select p.title || ' ' || p.policy from policies p left join commands c on c.code = p.command::text
      where p.policy is distinct from p.name || '_' || c.command`,
    offence: `create policy see on costs.usage_keys for update to plinth_app using (false)`,
  },
  'rule 7: every tenant table has row level security, enabled and not forced': {
    offenders: sql`select title from relations where kind in ('r', 'p') and (
        (is_tenant and not is_partition and not secured) or forced)`,
    offence: `alter table costs.usage_keys disable row level security`,
  },
  'rule 7: one permissive policy a command, for plinth_app alone': {
    offenders: sql`select p.title || ' ' || p.policy from policies p
      where p.command = '*' or not p.is_permissive or p.roles <> array[(select oid from pg_roles where rolname = 'plinth_app')]
        or (select count(*) from policies q where q.oid = p.oid and q.command = p.command) > 1`,
    offence: `create policy usage_keys_all on costs.usage_keys to plinth_app using (true)`,
  },
  'rule 7: a policy judges what is read and what is written': {
    offenders: sql`select title || ' ' || policy from policies
      where has_using <> (command in ('r', 'w', 'd')) or has_check <> (command in ('a', 'w'))`,
    offence: `create policy usage_keys_update on costs.usage_keys for update to plinth_app using (false)`,
  },
  'rule 7: a policy has no subquery, and calls nothing but current_setting of plinth.*': {
    offenders: sql`select title || ' ' || policy from expressions
      where tree ~ 'SUBLINK|SUBPLAN'
        or expression ~ 'current_setting\\((?!''plinth\\.\\w+''::text, true\\))'
        or regexp_replace(expression, '(current_setting|NULLIF)\\(', '', 'g') ~ '\\w\\('`,
    offence: `drop policy usage_keys_select on costs.usage_keys; create policy usage_keys_select on costs.usage_keys for select to plinth_app using (organization_id = (select id from identity.organizations limit 1))`,
  },
  'rule 7: every policy compares the organization, and all else only besides': {
    offenders: sql`select title || ' ' || policy from expressions
      where expression !~ ('^\\(?\\(organization_id = '
        || '\\(NULLIF\\(current_setting\\(''plinth.organization_id''::text, true\\), ''''::text\\)\\)::uuid\\)( AND |$)')`,
    offence: `drop policy usage_keys_select on costs.usage_keys; create policy usage_keys_select on costs.usage_keys for select to plinth_app using (true or organization_id is null)`,
  },
  'rule 7: every command that is granted has a policy, and no other one has': {
    offenders: sql`select t.title || ' ' || c.command from tables t cross join commands c
      where t.secured and has_table_privilege('plinth_app', t.oid, c.command)
        <> exists (select from policies p where p.oid = t.oid and p.command::text = c.code)`,
    offence: `grant update on costs.usage_keys to plinth_app`,
  },
  'append-only: who may not update may not delete, and the other way round': {
    offenders: sql`select title from tables where is_tenant
      and has_table_privilege('plinth_app', oid, 'insert')
      and has_table_privilege('plinth_app', oid, 'update') <> has_table_privilege('plinth_app', oid, 'delete')`,
    offence: `grant delete on costs.usage_keys to plinth_app`,
  },
  // Besides enter_scope, which has to be able to be called without a scope.
  'rule 8: a scope is set by SET LOCAL, and never by set_config': {
    offenders: sql`select title from functions where body ~* 'set_config\\('`,
    offence: `create function costs.f() returns void language plpgsql set search_path = pg_catalog, pg_temp as $$ begin perform set_config('plinth.role', 'owner', true); end $$`,
  },
  'rule 9: a view runs as who asks it': {
    offenders: sql`select title from relations
      where kind = 'v' and not coalesce(options::text ~ 'security_invoker=(true|on)', false)`,
    offence: `create view costs.broken as select 1 as one`,
  },
  'rule 9: nobody is granted a materialized view': {
    offenders: sql`select title from relations cross join (values ('plinth_app'), ('plinth_platform')) r (role)
      where kind = 'm' and has_table_privilege(role, oid, 'select')`,
    offence: `create materialized view costs.broken as select 1 as one; grant select on costs.broken to plinth_app`,
  },
  'rule 11: a function is plpgsql': {
    offenders: sql`select title from functions where language <> 'plpgsql'`,
    offence: `create function costs.f(a uuid) returns bigint language sql set search_path = pg_catalog, pg_temp as $$ select count(*) from costs.usage_keys where organization_id = a $$`,
  },
  'a function looks in pg_catalog, and in pg_temp last': {
    offenders: sql`select title from functions where not coalesce('search_path=pg_catalog, pg_temp' = any (settings), false)`,
    offence: `create function costs.f() returns void language plpgsql as $$ begin end $$`,
  },
  'a SECURITY DEFINER function is not for PUBLIC': {
    offenders: sql`select f.title from functions f
      cross join lateral aclexplode(coalesce(f.acl, acldefault('f', f.owner))) a
      where f.is_definer and a.grantee = 0`,
    offence: `create function costs.f() returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$ begin end $$`,
  },
  'times have a zone and milliseconds': {
    offenders: sql`select title || ' ' || "column" from columns
      where type ~ '^(timestamp|time)' and type !~ '^timestamp\\(3\\) with time zone(\\[\\])?$'`,
    offence: `alter table costs.usage_keys add column seen_at timestamptz`,
  },
  'names: a time is an _at, a date an _on, a duration an _ms': {
    offenders: sql`select title || ' ' || "column" from columns
      where (type ~ '^timestamp' and "column" !~ '_(at|until|from|to)$')
        or (type = 'date' and "column" !~ '_on$')
        or ("column" ~ '_at$' and type !~ '^timestamp') or ("column" ~ '_on$' and type <> 'date')
        or ("column" ~ '_ms$' and type not in ('integer', 'bigint'))
        or ("column" ~ '(duration|latency|elapsed)$')`,
    offence: `alter table costs.usage_keys add column seen timestamptz(3)`,
  },
  'money and counts are whole, and carry their unit': {
    offenders: sql`select title || ' ' || "column" from columns
      where type ~ '^(numeric|money|double)' and not is_partition
        or ("column" ~ '_nanos$' and type <> 'bigint')
        or "column" ~ '(^|_)(cost|price|amount)$'`,
    offence: `alter table costs.usage_keys add column cost numeric`,
  },
  // archived_at says more than is_archived.
  'booleans are rare': {
    offenders: sql`select title || ' ' || "column" from columns where "column" ~ '^(is|has|was)_'
      or (type = 'boolean' and (select count(*) from columns c where c.oid = columns.oid and c.type = 'boolean') > 2)`,
    offence: `alter table costs.usage_keys add column is_archived boolean`,
  },
  'no serials and no identities: an id is known before its row': {
    offenders: sql`select title || ' ' || "column" from columns where identity <> ''
      union all select title from relations where kind = 'S'`,
    offence: `alter table costs.model_prices add column number integer generated always as identity`,
  },
  'every foreign key is served by an index': {
    offenders: sql`select k.title || ' ' || k.constraint_name from constraints k where k.type = 'f'
      and not exists (select from indexes i where i.oid = k.oid and not i.is_partial and i.method = 'btree'
        and (i.key)[0:cardinality(k.key) - 1] @> k.key and cardinality(i.key) >= cardinality(k.key))
      -- The rows of one key are a partition, and scanning it is what the delete has to do anyway.
      and not exists (select from pg_partitioned_table p where p.partrelid = k.oid
        and p.partstrat = 'l' and p.partattrs::text = array_to_string(k.key, ' '))`,
    offence: `drop index identity.memberships_invited_by_idx`,
  },
  'no index is the beginning of another one': {
    offenders: sql`select i.title || ' ' || i.index from indexes i join indexes j
        on j.oid = i.oid and j.indexrelid <> i.indexrelid
      where not i.is_unique and not i.is_partial and not j.is_partial and i.method = 'btree' and j.method = 'btree'
        and not 0 = any (i.key) and cardinality(i.key) < cardinality(j.key)
        and (j.key)[0:cardinality(i.key) - 1] = (i.key)[0:cardinality(i.key) - 1]`,
    offence: `create index usage_keys_x_idx on costs.usage_keys (organization_id)`,
  },
  'every table has a comment': {
    offenders: sql`select title from tables where obj_description(oid, 'pg_class') is null`,
    offence: `create table ${table} (id uuid primary key)`,
  },
  'partitions are in the schema partitions, and nothing else is': {
    offenders: sql`select title from relations
      where kind in ('r', 'p', 'v', 'm') and is_partition <> (schema = 'partitions')`,
    offence: `create table costs.usage_events_1999_01 partition of costs.usage_events for values from ('1999-01-01') to ('1999-02-01')`,
  },
  'no partition is a DEFAULT': {
    offenders: sql`select title from relations r join pg_class c on c.oid = r.oid
      where pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT'`,
    offence: `create table partitions.usage_events_default partition of costs.usage_events default`,
  },
  'plinth_app has no use of the partitions, nor of what drizzle keeps': {
    offenders: sql`select n.nspname from pg_namespace n where n.nspname in ('partitions', 'drizzle')
        and has_schema_privilege('plinth_app', n.oid, 'usage')
      union all select title from relations
        where is_partition and kind in ('r', 'p') and has_table_privilege('plinth_app', oid, 'select')`,
    offence: `grant usage on schema partitions to plinth_app`,
  },
  'nothing of plinth is in the schema public': {
    offenders: sql`select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname = 'public' and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')`,
    offence: `create table public.broken (id uuid primary key)`,
  },
}

const offenders = async (db: Database, rule: Rule) => {
  const found = await rowsOf<{ title: string }>(
    db,
    sql`with ${CATALOG}, offenders (title) as (${rule.offenders}) select title from offenders order by 1`,
  )
  return found.map(({ title }) => title)
}

test('there are tables to be judged', async () => {
  const [found] = await rowsOf<{ count: number }>(
    owner,
    sql`with ${CATALOG} select count(*)::integer as count from tables`,
  )
  expect(found?.count).toBeGreaterThanOrEqual(12)
})

describe.each(Object.entries(rules))('%s', (_, rule) => {
  test('holds', async () => {
    expect(await offenders(owner, rule)).toEqual([])
  })

  // On a shared server the locks of DDL would stop the other files.
  test.skipIf(url)('would not, with an offender', async () => {
    await rollback(owner, async (db) => {
      for (const statement of splitStatements(rule.offence)) await db.execute(sql.raw(statement))
      expect(await offenders(db, rule)).not.toEqual([])
    })
  })
})

/** At each semicolon that is in no function's body. */
const splitStatements = (text: string) =>
  (text.match(/(?:\$\$[\s\S]*?\$\$|[^;])+/g) ?? []).filter((statement) => statement.trim())
