import type { FacetQuery } from './facets.ts'

const word = (column: string, name: string) =>
  `case when ${column} then '${name}' else 'no${name}' end`

const ATTRIBUTES = `concat_ws(' ', ${[
  word('rolsuper', 'superuser'),
  word('rolinherit', 'inherit'),
  word('rolcreaterole', 'createrole'),
  word('rolcreatedb', 'createdb'),
  word('rolcanlogin', 'login'),
  word('rolreplication', 'replication'),
  word('rolbypassrls', 'bypassrls'),
].join(', ')})`

const SERIES = `format('as %s increment by %s minvalue %s maxvalue %s start with %s cache %s%s', format_type(q.seqtypid, null),
  q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache, case when q.seqcycle then ' cycle' else ' no cycle' end)`

const ENUM = `'enum (' || (select string_agg(quote_literal(enumlabel), ', ' order by enumsortorder) from pg_enum where enumtypid = types.oid) || ')'`

const DOMAIN = `format_type(typbasetype, typtypmod) || case when typcollation <> (select b.typcollation from pg_type b where b.oid = types.typbasetype)
  then ' collate ' || typcollation::regcollation::text else '' end`

const ATTRIBUTE_LIST = `'(' || (select string_agg(format('%I %s%s', a.attname, format_type(a.atttypid, a.atttypmod),
    case when a.attcollation <> (select b.typcollation from pg_type b where b.oid = a.atttypid) then ' collate ' || a.attcollation::regcollation::text else '' end), ', ' order by a.attnum)
  from pg_attribute a where a.attrelid = types.typrelid and a.attnum > 0 and not a.attisdropped) || ')'`

const RANGE = `(select format('range (%s)', concat_ws(', ', 'subtype = ' || format_type(g.rngsubtype, null),
    case when g.rngsubdiff <> 0 then 'subtype_diff = ' || g.rngsubdiff::regproc end,
    case when g.rngcollation <> 0 and g.rngcollation <> (select b.typcollation from pg_type b where b.oid = g.rngsubtype) then 'collation = ' || g.rngcollation::regcollation end))
  from pg_range g where g.rngtypid = types.oid)`

const type = (letter: string, definition: string, as: string): FacetQuery => ({
  kind: 'noun',
  name: 'title',
  space: 'nspname',
  definition,
  create: `format('create type %s as ', title) || ${as}`,
  drop: `'drop type ' || title`,
  classId: 'pg_type',
  oid: 'oid',
  noun: `'type ' || title`,
  owner: 'typowner',
  from: `from types where typtype = '${letter}'`,
})

/** Aggregates have no pg_get_…def: these are the parts that nearly all of them have. */
const AGGREGATE = `(select format('(%s)', concat_ws(', ', 'sfunc = ' || a.aggtransfn::regproc, 'stype = ' || format_type(a.aggtranstype, null),
  case when a.aggfinalfn <> 0 then 'finalfunc = ' || a.aggfinalfn::regproc end, 'initcond = ' || quote_literal(a.agginitval),
  case when a.aggcombinefn <> 0 then 'combinefunc = ' || a.aggcombinefn::regproc end,
  'parallel = ' || case p.proparallel when 's' then 'safe' when 'r' then 'restricted' else 'unsafe' end))
  from pg_aggregate a where a.aggfnoid = p.oid)`

const viewLike = (letter: string, create: string): FacetQuery => ({
  kind: 'o.noun',
  name: 'o.title',
  space: 'o.nspname',
  definition: 'd.text',
  create,
  drop: `format('drop %s %s', o.noun, o.title)`,
  shape: `(select string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)
    from pg_attribute a where a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped)`,
  classId: 'pg_class',
  oid: 'o.oid',
  noun: `o.noun || ' ' || o.title`,
  owner: 'o.relowner',
  from: `from own o cross join lateral (select rtrim(pg_get_viewdef(o.oid), ';') as text,
    (select ' with (' || string_agg(format('%I = %L', option_name, option_value), ', ') || ')' from pg_options_to_table(o.reloptions)) as options) d
    where o.relkind = '${letter}'`,
})

/** Roles, schemas, extensions, types, sequences, functions and views. */
export const OBJECT_FACETS: FacetQuery[] = [
  {
    kind: `'role'`,
    name: 'quote_ident(rolname)',
    definition: ATTRIBUTES,
    create: `format('create role %I %s', rolname, ${ATTRIBUTES})`,
    drop: `format('drop role %I', rolname)`,
    from: `from pg_roles where rolname in ('plinth_app', 'plinth_platform')`,
  },
  {
    kind: `'schema'`,
    name: 'title',
    space: 'nspname',
    create: `'create schema ' || title`,
    drop: `'drop schema ' || title`,
    classId: 'pg_namespace',
    oid: 'oid',
    noun: `'schema ' || title`,
    owner: 'nspowner',
    from: 'from spaces',
  },
  {
    kind: `'extension'`,
    name: 'quote_ident(e.extname)',
    definition: `format('schema %I version %L', n.nspname, e.extversion)`,
    create: `format('create extension %I with schema %I version %L', e.extname, n.nspname, e.extversion)`,
    drop: `format('drop extension %I', e.extname)`,
    classId: 'pg_extension',
    oid: 'e.oid',
    from: 'from pg_extension e join pg_namespace n on n.oid = e.extnamespace',
  },
  type('e', ENUM, ENUM),
  type('c', ATTRIBUTE_LIST, ATTRIBUTE_LIST),
  type('r', RANGE, RANGE),
  {
    ...type('d', DOMAIN, DOMAIN),
    create: `format('create domain %s as ', title) || ${DOMAIN}`,
    drop: `'drop domain ' || title`,
    noun: `'domain ' || title`,
  },
  {
    kind: `'domain default'`,
    name: 'title',
    space: 'nspname',
    parent: `'domain ' || title`,
    definition: 'typdefault',
    create: `format('alter domain %s set default ', title) || pg_get_expr(typdefaultbin, 0)`,
    drop: `format('alter domain %s drop default', title)`,
    from: `from types where typtype = 'd' and typdefaultbin is not null`,
  },
  {
    kind: `'domain not null'`,
    name: 'title',
    space: 'nspname',
    parent: `'domain ' || title`,
    definition: `'not null'`,
    create: `format('alter domain %s set not null', title)`,
    drop: `format('alter domain %s drop not null', title)`,
    from: `from types where typtype = 'd' and typnotnull`,
  },
  {
    kind: `'domain constraint'`,
    name: `t.title || '.' || quote_ident(k.conname)`,
    space: 'nspname',
    parent: `'domain ' || title`,
    definition: 'pg_get_constraintdef(k.oid)',
    create: `format('alter domain %s add constraint %I %s', t.title, k.conname, pg_get_constraintdef(k.oid))`,
    drop: `format('alter domain %s drop constraint %I', t.title, k.conname)`,
    shape: `format('alter domain %s validate constraint %I', t.title, k.conname)`,
    classId: 'pg_constraint',
    oid: 'k.oid',
    noun: `format('constraint %I on domain %s', k.conname, t.title)`,
    from: `from types t join pg_constraint k on k.contypid = t.oid where k.contype = 'c'`,
  },
  {
    kind: `'collation'`,
    name: 'd.title',
    space: 'd.nspname',
    definition: 'd.text',
    create: `format('create collation %s %s', d.title, d.text)`,
    drop: `'drop collation ' || d.title`,
    classId: 'pg_collation',
    oid: 'd.oid',
    noun: `'collation ' || d.title`,
    owner: 'd.collowner',
    from: `from (select c.oid, c.collowner, n.nspname, format('%I.%I', n.nspname, c.collname) as title,
      format('(provider = %s, %s, deterministic = %s)', case c.collprovider when 'i' then 'icu' when 'b' then 'builtin' else 'libc' end,
        coalesce(format('locale = %L', coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale')),
          format('lc_collate = %L, lc_ctype = %L', c.collcollate, c.collctype)), c.collisdeterministic) as text
      from pg_collation c join spaces n on n.oid = c.collnamespace) d`,
  },
  {
    kind: `'sequence'`,
    name: 'o.title',
    space: 'o.nspname',
    definition: SERIES,
    create: `format('create %ssequence %s ', case o.relpersistence when 'u' then 'unlogged ' end, o.title) || ${SERIES}`,
    // It may have gone with the column that owns it.
    drop: `'drop sequence if exists ' || o.title`,
    classId: 'pg_class',
    oid: 'o.oid',
    noun: `'sequence ' || o.title`,
    owner: 'o.relowner',
    from: `from own o join pg_sequence q on q.seqrelid = o.oid
      where not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = o.oid and d.deptype = 'i')`,
  },
  {
    kind: `'owned by'`,
    name: 'o.title',
    space: 'o.nspname',
    parent: `'sequence ' || o.title`,
    definition: `format('%s.%I', d.refobjid::regclass, a.attname)`,
    create: `format('alter sequence %s owned by %s.%I', o.title, d.refobjid::regclass, a.attname)`,
    drop: `format('alter sequence %s owned by none', o.title)`,
    from: `from own o join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = o.oid and d.deptype = 'a' and d.refclassid = 'pg_class'::regclass
      join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid where o.relkind = 'S'`,
  },
  {
    kind: `'function'`,
    name: 'p.title',
    space: 'p.nspname',
    definition: 'd.text',
    create: 'rtrim(d.text)',
    drop: `format('drop %s %s', p.noun, p.title)`,
    shape: `concat_ws(' ', p.prokind, p.proargnames::text, p.proargmodes::text, pg_get_function_result(p.oid), p.pronargdefaults)`,
    classId: 'pg_proc',
    oid: 'p.oid',
    noun: `p.noun || ' ' || p.title`,
    owner: 'p.proowner',
    from: `from routines p cross join lateral (select pg_get_functiondef(p.oid) as text) d where p.prokind <> 'a'`,
  },
  {
    kind: `'aggregate'`,
    name: 'p.title',
    space: 'p.nspname',
    definition: AGGREGATE,
    create: `format('create aggregate %s ', p.title) || ${AGGREGATE}`,
    drop: `'drop aggregate ' || p.title`,
    classId: 'pg_proc',
    oid: 'p.oid',
    noun: `'aggregate ' || p.title`,
    owner: 'p.proowner',
    from: `from routines p where p.prokind = 'a'`,
  },
  viewLike('v', `format('create or replace view %s%s as%s', o.title, d.options, E'\\n' || d.text)`),
  viewLike(
    'm',
    `format('create materialized view %s%s as%s', o.title, d.options, E'\\n' || d.text)`,
  ),
  // Of a view, whose columns are no facets of their own.
  {
    kind: `'comment'`,
    name: `format('column %s.%I', o.title, a.attname)`,
    space: 'o.nspname',
    parent: `o.noun || ' ' || o.title`,
    definition: 'd.description',
    create: `format('comment on column %s.%I is %L', o.title, a.attname, d.description)`,
    drop: `format('comment on column %s.%I is null', o.title, a.attname)`,
    from: `from own o join pg_description d on d.classoid = 'pg_class'::regclass and d.objoid = o.oid
      join pg_attribute a on a.attrelid = o.oid and a.attnum = d.objsubid where o.relkind in ('v', 'm', 'c') and d.objsubid > 0`,
  },
]
