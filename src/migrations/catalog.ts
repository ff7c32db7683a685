import { sql } from 'drizzle-orm'
import { type Database, rowsOf } from '../database.ts'

/**
 * All that a database has in its own schemas, each object with its definition; owners aside, and the
 * order of columns, which a later ALTER TABLE cannot choose. Two databases with equal catalogs behave
 * the same.
 */
export async function catalogOf(db: Database): Promise<Record<string, string>> {
  const found = await rowsOf<{ object: string; definition: string }>(db, OBJECTS)
  return Object.fromEntries(found.map(({ object, definition }) => [object, definition]))
}

// Rights are listed one by one: null, the default, is spelled out, and what an owner has is left out.
const OBJECTS = sql`
with spaces as (
  select oid, nspname, nspacl, nspowner from pg_namespace
  where nspname !~ '^(pg_|information_schema$|drizzle$)'
),
own as (
  select c.*, n.nspname || '.' || c.relname as title, n.nspname as space
  from pg_class c join spaces n on n.oid = c.relnamespace
  where not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
),
functions as (
  select p.*, n.nspname, n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' as title
  from pg_proc p join spaces n on n.oid = p.pronamespace
  where not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
),
types as (
  select t.*, n.nspname || '.' || t.typname as title
  from pg_type t join spaces n on n.oid = t.typnamespace
  where t.typtype in ('e', 'd', 'r') and not exists (select from pg_depend d where d.objid = t.oid and d.deptype = 'e')
),
rights (object, acl, owner) as (
  select 'schema ' || nspname, coalesce(nspacl, acldefault('n', nspowner)), nspowner from spaces
  union all
  select 'table ' || title, coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner)), relowner
    from own where relkind in ('r', 'p', 'v', 'm', 'S')
  union all
  select 'column ' || o.title || '.' || a.attname, a.attacl, o.relowner
    from own o join pg_attribute a on a.attrelid = o.oid where a.attacl is not null
  union all
  select 'function ' || title, coalesce(proacl, acldefault('f', proowner)), proowner from functions
  union all
  select 'type ' || title, coalesce(typacl, acldefault('T', typowner)), typowner from types
)
select object, definition from (
  select 'schema ' || nspname as object, coalesce(obj_description(oid, 'pg_namespace'), '') as definition from spaces
  union all
  select 'extension ' || e.extname, n.nspname || ' ' || e.extversion
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace
  union all
  select 'role ' || rolname, concat_ws(' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls)
    from pg_roles where rolname in ('plinth_app', 'plinth_platform')
  union all
  select case relkind when 'v' then 'view ' when 'm' then 'materialized view ' when 'S' then 'sequence ' else 'table ' end || title,
      concat_ws(' ', relkind, relpersistence, relrowsecurity, relforcerowsecurity, relreplident, reloptions::text,
        pg_get_partkeydef(oid), pg_get_expr(relpartbound, oid),
        (select 'of ' || i.inhparent::regclass from pg_inherits i where i.inhrelid = own.oid),
        case when relkind in ('v', 'm') then pg_get_viewdef(oid) end, '#', obj_description(oid, 'pg_class'))
    from own where relkind in ('r', 'p', 'v', 'm', 'S', 'f', 'c')
  union all
  select 'column ' || o.title || '.' || a.attname,
      concat_ws(' ', format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
        'storage', a.attstorage, 'compression', a.attcompression, 'statistics', a.attstattarget,
        'generated', a.attgenerated, 'identity', a.attidentity, 'collation', a.attcollation::regcollation,
        'default', pg_get_expr(d.adbin, d.adrelid), '#', col_description(o.oid, a.attnum))
    from own o join pg_attribute a on a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on d.adrelid = o.oid and d.adnum = a.attnum
    where o.relkind in ('r', 'p', 'v', 'm', 'f', 'c')
  union all
  -- Before Postgres 18, NOT NULL is no constraint with a name.
  select 'constraint ' || o.title || ' ' || k.conname, concat_ws(' ', pg_get_constraintdef(k.oid), k.convalidated)
    from own o join pg_constraint k on k.conrelid = o.oid where k.contype <> 'n'
  union all
  select 'index ' || o.title || ' ' || x.relname,
      concat_ws(' ', pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready, i.indisclustered, i.indisreplident, x.reloptions::text)
    from own o join pg_index i on i.indrelid = o.oid join pg_class x on x.oid = i.indexrelid
    where o.relkind in ('r', 'p', 'm')
  union all
  select 'policy ' || o.title || ' ' || p.polname,
      concat_ws(' ', p.polcmd, p.polpermissive, (select string_agg(r.rolname, ',' order by r.rolname) from pg_roles r where r.oid = any (p.polroles)),
        'using', pg_get_expr(p.polqual, o.oid), 'check', pg_get_expr(p.polwithcheck, o.oid))
    from own o join pg_policy p on p.polrelid = o.oid
  union all
  select 'trigger ' || o.title || ' ' || t.tgname, pg_get_triggerdef(t.oid)
    from own o join pg_trigger t on t.tgrelid = o.oid where not t.tgisinternal
  union all
  select 'rule ' || o.title || ' ' || r.rulename, pg_get_ruledef(r.oid)
    from own o join pg_rewrite r on r.ev_class = o.oid where r.rulename <> '_RETURN'
  union all
  select 'statistics ' || n.nspname || '.' || s.stxname, pg_get_statisticsobjdef(s.oid)
    from pg_statistic_ext s join spaces n on n.oid = s.stxnamespace
  union all
  select 'function ' || title, pg_get_functiondef(oid) || coalesce(obj_description(oid, 'pg_proc'), '')
    from functions where prokind in ('f', 'p')
  union all
  select 'type ' || title, concat_ws(' ', typtype, (select string_agg(e.enumlabel, ',' order by e.enumsortorder)
      from pg_enum e where e.enumtypid = types.oid), obj_description(oid, 'pg_type'))
    from types
  union all
  select 'right ' || coalesce(r.rolname, 'PUBLIC') || ' ' || lower(a.privilege_type) || ' ' || g.object,
      case when a.is_grantable then 'grantable' else '' end
    from rights g cross join lateral aclexplode(g.acl) a left join pg_roles r on r.oid = a.grantee
    where a.grantee <> g.owner
  union all
  select 'default right ' || coalesce(n.nspname, '') || ' ' || d.defaclobjtype::text || ' ' || d.defaclacl::text, ''
    from pg_default_acl d left join pg_namespace n on n.oid = d.defaclnamespace
) objects order by 1`
