/**
 * How a kind of facet is read: SQL expressions of the columns, over what `from` reads. What is left
 * out is null.
 */
export interface FacetQuery {
  kind: string
  name: string
  /** The Postgres schema that it is in. */
  space?: string
  /** Key of the facet that it is a part of, and vanishes with. */
  parent?: string
  /** For a part of a partition: the partition, and the table at the root of it. */
  partition?: string
  root?: string
  definition?: string
  create: string
  drop: string
  /** What has to stay the same for a change in place. */
  shape?: string
  /** The object's address in pg_depend and pg_description. */
  classId?: string
  oid?: string
  sub?: string
  /** What stands after COMMENT ON, and after ALTER where it has an owner. */
  noun?: string
  owner?: string
  from: string
}

const COLUMNS = [
  'kind',
  'name',
  'space',
  'parent',
  'partition',
  'root',
  'definition',
  'create',
  'drop',
  'shape',
  'noun',
] as const

/** One SELECT of the union that reads a catalog; the columns are those of FacetRow. */
export function selectFacets({ from, ...query }: FacetQuery): string {
  const columns = COLUMNS.map((column) => `(${query[column] ?? 'null'})::text as "${column}"`)
  const { classId, oid, sub = '0', owner } = query
  const address = classId ? `'${classId}/' || ${oid} || '/' || ${sub}` : 'null'
  const stranger = owner
    ? `case when ${owner} <> (select oid from principal) then pg_get_userbyid(${owner}) end`
    : 'null'
  return `select ${columns.join(', ')}, (${address})::text as address, (${stranger})::text as owner ${from}`
}

/** What the database has of its own: not Postgres', not an extension's, and not drizzle's ledger. */
export const SOURCES = `
members as materialized (
  select classid, objid from pg_depend where deptype = 'e'
),
spaces as materialized (
  select oid, nspname, nspacl, nspowner, quote_ident(nspname) as title from pg_namespace
  where nspname !~ '^(pg_|information_schema$|drizzle$)'
    and oid not in (select objid from members where classid = 'pg_namespace'::regclass)
),
own as materialized (
  select c.*, n.nspname, format('%I.%I', n.nspname, c.relname) as title,
    case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
      when 'c' then 'composite type' else 'table' end as noun,
    case when c.relispartition then format('%I.%I', n.nspname, c.relname) end as part,
    case when c.relispartition then i.inhparent end as up,
    case when c.relispartition then (select format('%I.%I', rn.nspname, r.relname)
      from pg_class r join pg_namespace rn on rn.oid = r.relnamespace
      where r.oid = pg_partition_root(c.oid)) end as root
  from pg_class c join spaces n on n.oid = c.relnamespace
  left join pg_inherits i on i.inhrelid = c.oid and c.relispartition
  where c.relkind in ('r', 'p', 'v', 'm', 'S', 'c')
    and c.oid not in (select objid from members where classid = 'pg_class'::regclass)
),
routines as materialized (
  select p.*, n.nspname, p.oid::regprocedure::text as title,
    case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end as noun
  from pg_proc p join spaces n on n.oid = p.pronamespace
  where p.oid not in (select objid from members where classid = 'pg_proc'::regclass)
    -- What a range type brings along.
    and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'i')
),
types as materialized (
  select t.*, n.nspname, format('%I.%I', n.nspname, t.typname) as title,
    case t.typtype when 'e' then 'enum' when 'd' then 'domain' when 'r' then 'range' else 'composite type' end as noun
  from pg_type t join spaces n on n.oid = t.typnamespace
  where (t.typtype in ('e', 'd', 'r')
      or t.typtype = 'c' and exists (select from pg_class c where c.oid = t.typrelid and c.relkind = 'c'))
    and t.oid not in (select objid from members where classid = 'pg_type'::regclass)
),
-- Whose database it is: the role that owns most. Only who differs from it has an owner worth a word.
principal as materialized (
  select coalesce(mode() within group (order by owner), (select datdba from pg_database where datname = current_database())) as oid
  from (select relowner as owner from own where root is null union all select proowner from routines union all
    select typowner from types union all select nspowner from spaces where nspname <> 'public') owners
),
backing as materialized (
  select conindid, oid from pg_constraint where contype in ('p', 'u', 'x') and conindid <> 0
),
attributes as materialized (
  select o.oid as rel, o.relkind, o.nspname, o.title, o.part, o.root, o.up, a.attname, a.attnum, a.attnotnull,
    a.attstorage, a.attcompression, nullif(a.attstattarget, -1) as target, a.attidentity, a.attgenerated,
    a.attoptions, a.attislocal, t.typstorage, a.atttypid,
    quote_ident(a.attname) as attribute, o.title || '.' || quote_ident(a.attname) as name,
    format('alter table %s alter column %I ', o.title, a.attname) as alter,
    format_type(a.atttypid, a.atttypmod) || case when a.attcollation <> t.typcollation
      then ' collate ' || a.attcollation::regcollation::text else '' end as type,
    d.oid as expression_oid, pg_get_expr(d.adbin, d.adrelid) as expression
  from own o join pg_attribute a on a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped
  join pg_type t on t.oid = a.atttypid
  left join pg_attrdef d on d.adrelid = o.oid and d.adnum = a.attnum
  where o.relkind in ('r', 'p')
),
columns as materialized (
  select a.*, a.type || case when a.attgenerated <> '' then format(' generated always as (%s)%s', a.expression,
      case a.attgenerated when 's' then ' stored' else ' virtual' end) else '' end as full_type,
    u.attnotnull as up_notnull, u.attstorage as up_storage, u.attcompression as up_compression,
    case when u.attgenerated = '' then u.expression end as up_default,
    case when s.seqrelid is not null then format('generated %s as identity', case a.attidentity when 'a' then 'always' else 'by default' end) end as generated,
    case when s.seqrelid is not null then format('increment by %s minvalue %s maxvalue %s start with %s cache %s%s',
      s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache, case when s.seqcycle then ' cycle' else ' no cycle' end) end as series
  from attributes a
  left join attributes u on u.rel = a.up and u.attname = a.attname
  left join (select d.refobjid, d.refobjsubid, q.* from pg_depend d join pg_sequence q on q.seqrelid = d.objid
      where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype = 'i') s
    on s.refobjid = a.rel and s.refobjsubid = a.attnum and a.attidentity <> ''
)`
