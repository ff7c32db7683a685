import type { FacetQuery } from './facets.ts'

/**
 * Whatever has rights: its acl, what the acl would be by default, and how GRANT names it. Where there is
 * no acl the default holds, and there is nothing to say.
 */
const RIGHTS = `(
  select 'schema ' || title as parent, nspname, null as part, null as root, nspacl as acl, acldefault('n', nspowner) as standard, nspowner as owner,
    null as attribute, 'schema ' || title as target from spaces where nspacl is not null
  union all
  select noun || ' ' || title, nspname, part, root, relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner), relowner,
    null, case relkind when 'S' then 'sequence ' else 'table ' end || title from own where relacl is not null and relkind <> 'c'
  union all
  select case when o.relkind in ('r', 'p') then 'column ' || o.title || '.' || quote_ident(a.attname) else o.noun || ' ' || o.title end,
    o.nspname, o.part, o.root, a.attacl, null, o.relowner, quote_ident(a.attname), 'table ' || o.title
    from own o join pg_attribute a on a.attrelid = o.oid where a.attacl is not null and not a.attisdropped
  union all
  select case prokind when 'a' then 'aggregate ' else 'function ' end || title, nspname, null, null, proacl, acldefault('f', proowner), proowner,
    null, 'routine ' || title from routines where proacl is not null
  union all
  select noun || ' ' || title, nspname, null, null, typacl, acldefault('T', typowner), typowner, null, 'type ' || title
    from types where typacl is not null
) g`

const DEFAULTS = `(
  select n.nspname, d.defaclrole as owner, d.defaclacl as acl,
    case when d.defaclnamespace = 0 then acldefault(case d.defaclobjtype when 'S' then 's' else d.defaclobjtype end, d.defaclrole) end as standard,
    case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types'
      when 'n' then 'schemas' else 'large objects' end as target,
    case when d.defaclrole <> (select oid from principal) then ' by ' || quote_ident(pg_get_userbyid(d.defaclrole)) else '' end as stranger,
    format('alter default privileges for role %I%s ', pg_get_userbyid(d.defaclrole), ' in schema ' || quote_ident(n.nspname)) as alter
  from pg_default_acl d left join pg_namespace n on n.oid = d.defaclnamespace
) g`

const GRANTEE = `case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end`
const PRIVILEGE = `lower(a.privilege_type) || coalesce(' (' || attribute || ')', '')`
const OPTION = `case when a.is_grantable then ' with grant option' else '' end`

/** Of those that do not stand by themselves: what the one acl has and the other has not. */
const beyond = (one: string, other: string) =>
  `cross join lateral (select distinct grantee, privilege_type, is_grantable from aclexplode(${one}) x
    where grantee <> owner and not exists (select from aclexplode(${other}) y
      where y.grantee = x.grantee and y.privilege_type = x.privilege_type and y.is_grantable = x.is_grantable)) a`

const right = {
  name: `concat(${PRIVILEGE}, ' on ', target, ' to ', ${GRANTEE})`,
  space: 'nspname',
  parent: 'parent',
  partition: 'part',
  root: 'root',
}
const GRANT = `format('grant %s on %s to %s', ${PRIVILEGE}, target, ${GRANTEE})`
const REVOKE = `format('revoke %s on %s from %s', ${PRIVILEGE}, target, ${GRANTEE})`

const defaultRight = {
  name: `concat(lower(a.privilege_type), ' on ', target, ' in ' || quote_ident(nspname), ' to ', ${GRANTEE}, stranger)`,
  space: 'nspname',
}
const DEFAULT_GRANT = `format('%sgrant %s on %s to %s', alter, lower(a.privilege_type), target, ${GRANTEE})`
const DEFAULT_REVOKE = `format('%srevoke %s on %s from %s', alter, lower(a.privilege_type), target, ${GRANTEE})`

/**
 * Rights, one by one, an owner's own aside. What Postgres grants by itself is no facet, and its
 * absence is: so that an object that is made anew gets the same rights.
 */
export const RIGHT_FACETS: FacetQuery[] = [
  {
    kind: `'right'`,
    ...right,
    definition: `'granted' || ${OPTION}`,
    create: `${GRANT} || ${OPTION}`,
    drop: REVOKE,
    from: `from ${RIGHTS} ${beyond('acl', 'standard')}`,
  },
  {
    kind: `'revoked right'`,
    ...right,
    definition: `'revoked'`,
    create: REVOKE,
    drop: GRANT,
    from: `from ${RIGHTS} ${beyond('standard', 'acl')}`,
  },
  {
    kind: `'default right'`,
    ...defaultRight,
    definition: `'granted' || ${OPTION}`,
    create: `${DEFAULT_GRANT} || ${OPTION}`,
    drop: DEFAULT_REVOKE,
    from: `from ${DEFAULTS} ${beyond('acl', 'standard')}`,
  },
  {
    kind: `'revoked default right'`,
    ...defaultRight,
    definition: `'revoked'`,
    create: DEFAULT_REVOKE,
    drop: DEFAULT_GRANT,
    from: `from ${DEFAULTS} ${beyond('standard', 'acl')}`,
  },
]
