import { sql } from 'drizzle-orm'
import { type Database, rowsOf } from '../../database.ts'
import { literal as plainLiteral, quoted } from '../advice/names.ts'
import { type FacetQuery, SOURCES, selectFacets } from './facets.ts'
import { OBJECT_FACETS } from './facets-objects.ts'
import { RIGHT_FACETS } from './facets-rights.ts'
import { TABLE_FACETS } from './facets-tables.ts'

/** Something of a database that can be changed by itself: a table, or the default of one of its columns. */
export interface Facet {
  /** Such as `table`, `column`, `not null`, `right`, `comment`. */
  kind: string
  /** Such as `app.notes`, `app.notes.title`; one of its kind. Quoted where SQL needs it. */
  name: string
  definition: string
  /** One statement that makes it as it is. */
  create: string
  /** One statement that removes it, or sets it back to what Postgres has by default. */
  drop: string
  /** What has to be equal for a change in place; its meaning is the kind's. */
  shape: string
  /** The Postgres schema that it is in. */
  space: string | undefined
  /** The key of the facet that it is a part of, and vanishes with. */
  parent: string | undefined
  /** The partition that it is a part of, and that does not have it from its parent. */
  partition: string | undefined
  /** Keys of facets that have to be there first. */
  needs: Set<string>
}

/** A partition, whatever the depth, of a partitioned table. */
export interface Partition {
  name: string
  /** The table that is no partition itself. */
  root: string
  bound: string
}

/** A database, as far as it is the user's own to declare. */
export interface Catalog {
  /** The major version of Postgres. */
  version: number
  /** The role that owns most of it. */
  principal: string
  facets: Map<string, Facet>
  partitions: Partition[]
}

interface FacetRow extends Omit<Facet, 'needs' | 'space' | 'parent' | 'partition'> {
  space: string | null
  parent: string | null
  partition: string | null
  root: string | null
  noun: string | null
  address: string | null
  /** Where it is not the principal. */
  owner: string | null
}

export const keyOf = ({ kind, name }: { kind: string; name: string }) => `${kind} ${name}`

/** As quote_ident() has the names that are met most; a keyword it would quote as well. */
export const identifier = (name: string) => (/^[a-z_][a-z0-9_]*$/.test(name) ? name : quoted(name))

const literal = (text: string) =>
  text.includes('\\')
    ? ` E'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
    : plainLiteral(text)

const PARTITIONS: FacetQuery = {
  kind: `'partition'`,
  name: 'title',
  space: 'nspname',
  root: 'root',
  definition: 'pg_get_expr(relpartbound, oid)',
  create: `''`,
  drop: `''`,
  from: 'from own where relispartition',
}

const PRINCIPAL: FacetQuery = {
  kind: `'principal'`,
  name: 'pg_get_userbyid(oid)',
  definition: `current_setting('server_version_num')`,
  create: `''`,
  drop: `''`,
  from: 'from principal',
}

const FACETS = `with ${SOURCES}
${[PRINCIPAL, PARTITIONS, ...OBJECT_FACETS, ...TABLE_FACETS, ...RIGHT_FACETS].map(selectFacets).join('\nunion all\n')}`

/** Objects below this were made by initdb. */
const FIRST_OWN_OID = 16_384

const COMMENTS = `select classoid::regclass || '/' || objoid || '/' || objsubid as address, description
  from pg_description where objoid >= ${FIRST_OWN_OID} or objoid = 'public'::regnamespace`

const DEPENDENCIES = `
with members as materialized (select classid, objid, refobjid from pg_depend where deptype = 'e')
select distinct d.classid::regclass || '/' || d.objid || '/' || d.objsubid as dependent,
  coalesce('pg_extension/' || m.refobjid || '/0', d.refclassid::regclass || '/' || d.refobjid || '/' || d.refobjsubid) as needed
from pg_depend d left join members m on m.classid = d.refclassid and m.objid = d.refobjid
where d.objid >= ${FIRST_OWN_OID} and d.refobjid >= ${FIRST_OWN_OID} and d.deptype in ('n', 'a', 'i')
  and d.refclassid <> 'pg_namespace'::regclass and (d.classid, d.objid) not in (select classid, objid from members)`

/** Objects that stand for another one: a view's rule, a table's row type, a key's index. */
const ALIASES = `
select 'pg_rewrite/' || oid || '/0' as alias, 'pg_class/' || ev_class || '/0' as object from pg_rewrite
  where rulename = '_RETURN' and oid >= ${FIRST_OWN_OID}
union all select 'pg_type/' || t.oid || '/0', 'pg_class/' || c.oid || '/0' from pg_type t join pg_class c on c.oid = t.typrelid
  where c.relkind <> 'c' and t.oid >= ${FIRST_OWN_OID}
union all select 'pg_class/' || c.oid || '/0', 'pg_type/' || c.reltype || '/0' from pg_class c where c.relkind = 'c' and c.oid >= ${FIRST_OWN_OID}
union all select 'pg_type/' || typarray || '/0', 'pg_type/' || oid || '/0' from pg_type where typarray >= ${FIRST_OWN_OID}
union all select 'pg_type/' || rngmultitypid || '/0', 'pg_type/' || rngtypid || '/0' from pg_range where rngtypid >= ${FIRST_OWN_OID}
union all select 'pg_class/' || conindid || '/0', 'pg_constraint/' || oid || '/0' from pg_constraint where contype in ('p', 'u', 'x')
union all select 'pg_attrdef/' || d.oid || '/0', 'pg_class/' || adrelid || '/' || adnum from pg_attrdef d
  join pg_attribute a on a.attrelid = adrelid and a.attnum = adnum where a.attgenerated <> ''`

/** What the texts that Postgres prints depend on. */
const SETTINGS = {
  search_path: '',
  TimeZone: 'UTC',
  DateStyle: 'ISO, MDY',
  IntervalStyle: 'postgres',
  extra_float_digits: '1',
  bytea_output: 'hex',
  quote_all_identifiers: 'off',
}

/**
 * Reads what a database is made of, whatever role asks and whatever its settings are. Takes no lock
 * that a writer would wait for.
 *
 * @throws {ConnectionError} and what else the database refuses.
 */
export function readCatalog(db: Database): Promise<Catalog> {
  return db.transaction(async (tx) => {
    const names = Object.keys(SETTINGS)
    const before = await rowsOf<{ name: string; value: string }>(
      tx,
      sql`select name, current_setting(name) as value from json_array_elements_text(${JSON.stringify(names)}::text::json) name`,
    )
    await set(tx, SETTINGS)
    const rows = await rowsOf<FacetRow>(tx, sql.raw(FACETS))
    const comments = await rowsOf<{ address: string; description: string }>(tx, sql.raw(COMMENTS))
    const dependencies = await rowsOf<Dependency>(tx, sql.raw(DEPENDENCIES))
    const aliases = await rowsOf<{ alias: string; object: string }>(tx, sql.raw(ALIASES))
    // In somebody's own transaction, what is local stays after this one.
    await set(tx, Object.fromEntries(before.map(({ name, value }) => [name, value])))
    const catalog = assemble(rows, new Map(comments.map((one) => [one.address, one.description])))
    connect(
      catalog,
      rows,
      dependencies,
      new Map(aliases.map(({ alias, object }) => [alias, object])),
    )
    return catalog
  })
}

const set = (db: Database, settings: Record<string, string>) =>
  rowsOf(
    db,
    sql`select set_config(key, value, true) from json_each_text(${JSON.stringify(settings)}::text::json)`,
  )

function assemble(rows: readonly FacetRow[], comments: ReadonlyMap<string, string>): Catalog {
  const principal = rows.find(({ kind }) => kind === 'principal')
  const owner = principal?.name ?? ''
  const catalog: Catalog = {
    version: Math.floor(Number(principal?.definition) / 10_000),
    principal: owner,
    facets: new Map(),
    partitions: [],
  }
  const owned = new Set(rows.filter(({ kind }) => kind === 'owned by').map(({ name }) => name))
  const add = (facet: Omit<Facet, 'needs'>) =>
    catalog.facets.set(keyOf(facet), { ...facet, needs: new Set() })
  for (const row of rows) {
    const { kind, name, root, noun, address, partition } = row
    if (kind === 'principal') continue
    if (kind === 'partition') {
      catalog.partitions.push({ name, root: root ?? '', bound: row.definition })
      continue
    }
    const common = {
      shape: row.shape ?? '',
      space: row.space ?? undefined,
      partition: partition ?? undefined,
    }
    const definition = row.definition ?? ''
    const { create, drop } = row
    add({ ...common, kind, name, definition, create, drop, parent: row.parent ?? undefined })
    if (!noun || partition) continue
    const parent = keyOf(row)
    const comment = address ? comments.get(address) : undefined
    if (comment !== undefined) {
      add({
        ...common,
        parent,
        kind: 'comment',
        name: noun,
        definition: comment,
        create: `comment on ${noun} is ${literal(comment)}`,
        drop: `comment on ${noun} is null`,
      })
    }
    // The owner of a table is the owner of its serial, which cannot be given away by itself.
    if (row.owner !== null && !(kind === 'sequence' && owned.has(name))) {
      add({
        ...common,
        parent,
        kind: 'owner',
        name: noun,
        definition: row.owner,
        create: `alter ${noun} owner to ${quoted(row.owner)}`,
        drop: `alter ${noun} owner to ${quoted(owner)}`,
      })
    }
  }
  return catalog
}

interface Dependency {
  dependent: string
  needed: string
}

/** Fills in what each facet needs: its parent, its schema, and what pg_depend has. */
function connect(
  { facets }: Catalog,
  rows: readonly FacetRow[],
  dependencies: readonly Dependency[],
  aliases: ReadonlyMap<string, string>,
): void {
  const addressed = new Map<string, Facet>()
  for (const row of rows) {
    const facet = facets.get(keyOf(row))
    if (row.address && facet && !row.partition) addressed.set(row.address, facet)
  }
  const resolve = (address: string): Facet | undefined => {
    const found = addressed.get(address) ?? addressed.get(address.replace(/\d+$/, '0'))
    const alias = found ? undefined : aliases.get(address)
    return alias ? resolve(alias) : found
  }
  for (const facet of facets.values()) {
    if (facet.parent) facet.needs.add(facet.parent)
    if (facet.space && facet.kind !== 'schema') facet.needs.add(`schema ${identifier(facet.space)}`)
  }
  for (const { dependent, needed } of dependencies) {
    let from = resolve(dependent)
    const to = resolve(needed)
    if (!from || !to || from === to || isWithin(facets, to, from)) continue
    // A serial is made before its column, and given to it afterwards.
    if (from.kind === 'sequence' && to.kind === 'column') from = facets.get(`owned by ${from.name}`)
    from?.needs.add(keyOf(to))
  }
  for (const facet of facets.values()) {
    if (facet.kind === 'owned by') facet.needs.add(`sequence ${facet.name}`)
  }
}

function isWithin(facets: ReadonlyMap<string, Facet>, facet: Facet, outer: Facet): boolean {
  for (let at = facet.parent; at; at = facets.get(at)?.parent) {
    if (at === keyOf(outer)) return true
  }
  return false
}

/**
 * All that a database has in its own schemas, by kind and name, each with its definition. Two databases
 * with equal catalogs behave the same.
 */
export async function catalogOf(db: Database): Promise<Record<string, string>> {
  const { facets, partitions } = await readCatalog(db)
  return Object.fromEntries([
    ...partitions.map(({ name, root, bound }) => [`partition ${name}`, `of ${root} ${bound}`]),
    ...[...facets].map(([key, { definition }]) => [key, definition]),
  ])
}
