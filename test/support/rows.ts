import { randomBytes, randomUUID } from 'node:crypto'
import { type SQL, sql } from 'drizzle-orm'
import { type Database, rowsOf } from '../../src/database.ts'
import { PlinthError } from '../../src/errors.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { random } from './random.ts'

/** A relation of the database, as the catalog has it. */
export interface Relation {
  readonly oid: number
  readonly schema: string
  readonly name: string
  /** As in pg_class: r table, p partitioned table, v view, m materialized view. */
  readonly kind: 'r' | 'p' | 'v' | 'm'
  readonly isPartition: boolean
  readonly isTenant: boolean
}

export type Row = Record<string, unknown>

/** Whose rows are made. A row that another one refers to is made once, and is then the same for all. */
export interface Maker {
  readonly organizationId: string
  readonly userId: string
  /** Rows of this tenant, by table. */
  readonly own: Map<number, Row>
  /** Rows of no tenant, which several makers may share. */
  readonly platform: Map<number, Row>
}

interface Column {
  name: string
  type: string
  labels: string[] | null
  isRequired: boolean
  isKey: boolean
}

interface Reference {
  columns: string[]
  target: number
  targetColumns: string[]
}

interface Description {
  columns: Column[]
  references: Reference[]
  checks: { name: string; columns: string[]; definition: string }[]
  /** The call that makes the partition of a LIST-partitioned table's row, and the column that it takes. */
  partitioner: { call: string; column: string } | null
}

/** The relations of a database's own schemas, parents before what refers to them as far as names tell. */
export const relationsOf = (db: Database) =>
  rowsOf<Relation>(
    db,
    sql`
    select c.oid::integer as oid, n.nspname as schema, c.relname as name, c.relkind as kind,
      c.relispartition as "isPartition",
      exists (select from pg_attribute a where a.attrelid = c.oid
        and a.attname = 'organization_id' and not a.attisdropped) as "isTenant"
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm')
      and n.nspname !~ '^(pg_|information_schema$|drizzle$)'
      and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
    order by n.nspname, c.relname`,
  )

export const nameOf = ({ schema, name }: { schema: string; name: string }) =>
  sql`${sql.identifier(schema)}.${sql.identifier(name)}`

const describe = async (db: Database, table: number): Promise<Description> => {
  const [found] = await rowsOf<Description>(
    db,
    sql`
    select
      (select coalesce(json_agg(json_build_object(
          'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
          'labels', (select json_agg(e.enumlabel order by e.enumsortorder)
            from pg_enum e where e.enumtypid = a.atttypid),
          'isRequired', a.attnotnull,
          'isKey', exists (select from pg_constraint k where k.conrelid = a.attrelid
            and k.contype = 'p' and a.attnum = any (k.conkey))) order by a.attnum), '[]')
        from pg_attribute a where a.attrelid = c.oid and a.attnum > 0
          and not a.attisdropped and a.attgenerated = '' and a.attidentity = '') as columns,
      (select coalesce(json_agg(json_build_object(
          'columns', (select json_agg(a.attname order by k.at) from unnest(f.conkey) with ordinality k (num, at)
            join pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.num),
          'target', f.confrelid::integer,
          'targetColumns', (select json_agg(a.attname order by k.at) from unnest(f.confkey) with ordinality k (num, at)
            join pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.num))
          order by f.conname), '[]')
        from pg_constraint f where f.conrelid = c.oid and f.contype = 'f') as references,
      (select coalesce(json_agg(json_build_object('name', k.conname,
          'definition', pg_get_constraintdef(k.oid),
          'columns', (select json_agg(a.attname) from pg_attribute a
            where a.attrelid = k.conrelid and a.attnum = any (k.conkey)))), '[]')
        from pg_constraint k where k.conrelid = c.oid and k.contype = 'c') as checks,
      (select json_build_object('call', n.nspname || '.create_partition', 'column', a.attname)
        from pg_partitioned_table p
        join pg_attribute a on a.attrelid = c.oid and a.attnum = p.partattrs[0]
        where p.partrelid = c.oid and p.partstrat = 'l'
          and to_regprocedure(n.nspname || '.create_partition(uuid, boolean)') is not null) as partitioner
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = ${table}`,
  )
  if (!found) throw new Error(`no relation ${table}`)
  return found
}

/** The SQLSTATE of an error; whatever has none is thrown on. */
export const codeOf = (error: unknown): string => {
  for (let at = error; at instanceof Error; at = at.cause) {
    if ('code' in at && typeof at.code === 'string') return at.code
    if (at instanceof PlinthError && !at.cause) return at.name
  }
  throw error
}

const constraintOf = (error: unknown): string => {
  for (let at = error; at instanceof Error; at = at.cause) {
    for (const key of ['constraint', 'constraint_name']) {
      const value: unknown = Object.entries(at).find(([name]) => name === key)?.[1]
      if (typeof value === 'string') return value
    }
  }
  return ''
}

const INSTANTS = ['now', 'tomorrow', 'yesterday', null]

/** Values that a column could take, as text. The first is tried first; null only where it is allowed. */
function candidates({ name, type, labels, isRequired, isKey }: Column, maker: Maker) {
  const token = randomUUID().slice(-12)
  const values = (): (string | null)[] => {
    if (labels) return labels
    if (type.endsWith('[]')) return ['{}']
    const dimensions = Number(/\((\d+)\)/.exec(type)?.[1] ?? 1)
    if (/^(public\.)?(halfvec|vector)/.test(type))
      return [JSON.stringify(Array(dimensions).fill(1))]
    if (/^timestamp/.test(type)) return INSTANTS
    if (/^(character|text|citext|public\.citext)/.test(type)) {
      return [
        `${name}-${token}`,
        token,
        `${token}@example.com`,
        `https://example.com/${token}`,
        'en',
        '',
      ]
    }
    const bytes = (length: number) => `\\x${randomBytes(length).toString('hex')}`
    const known: Record<string, (string | null)[]> = {
      uuid: isPersonal(name) ? [maker.userId, uuidV7()] : [uuidV7()],
      date: ['today', 'tomorrow', 'yesterday', '2026-01-01'],
      bytea: [32, 16, 64, 20, 1].map(bytes),
      jsonb: ['{}', '[]', '"text"'],
      json: ['{}', '[]'],
      boolean: ['false', 'true'],
      inet: ['127.0.0.1'],
      interval: ['1 hour', '0'],
      tsvector: ['word'],
      tstzrange: ['[now,tomorrow)'],
      daterange: ['[today,tomorrow)'],
      int4range: ['[1,9)'],
      int8range: ['[1,9)'],
    }
    return known[type] ?? ['1', '0', '2', '10', '100', '1000', '-1']
  }
  const all = values().filter((value) => value !== null || !isRequired)
  return isRequired || isKey ? all : [...all, null]
}

/** Whether a column without a foreign key says who did something. */
const isPersonal = (name: string) =>
  /^(user|owner|actor|author|creator|assignee)_id$|_by$/.test(name)

/** Whether a literal is worth a try: another type's would only be refused. */
const fits = (type: string, literal: string) =>
  /^(numeric|real|double|integer|bigint|smallint)/.test(type)
    ? /^[\d.]+$/.test(literal)
    : /^(character|text|citext|date|interval|timestamp)/.test(type)

/** The text and number literals in a constraint: often just what it wants. */
const literals = (definition: string) => [
  ...[...definition.matchAll(/'((?:[^']|'')*)'/g)].map(([, text = '']) =>
    text.replaceAll("''", "'"),
  ),
  ...[...definition.matchAll(/(?<![\w'.])\d+(\.\d+)?(?![\w'.])/g)].flatMap(([number]) => [
    number,
    String(Number(number) + 1),
  ]),
]

/** The statement that inserts a row. */
export function insertion(table: { schema: string; name: string }, row: Row, types: Row): SQL {
  const names = Object.keys(row).filter((name) => row[name] !== undefined)
  const values = names.map(
    (name) => sql`cast(${row[name]}::text as ${sql.raw(String(types[name]))})`,
  )
  return sql`insert into ${nameOf(table)} (${sql.join(
    names.map((name) => sql.identifier(name)),
    sql`, `,
  )}) values (${sql.join(values, sql`, `)})`
}

/** A row that the table takes, with what was needed to find it out. */
export interface MadeRow {
  /** Column values as text, as inserted. */
  readonly values: Row
  readonly types: Row
  /** The condition that is true of this row alone. */
  readonly isIt: SQL
}

const ATTEMPTS = 200
const pick = random()

/**
 * Inserts one valid row into any table, by what the catalog says of it: types, enums, keys, checks. The
 * rows that it has to refer to are made first. Needs the rights of the owner.
 */
export async function makeRow(db: Database, table: Relation, maker: Maker): Promise<MadeRow> {
  const described = await describe(db, table.oid)
  const types = Object.fromEntries(described.columns.map(({ name, type }) => [name, type]))
  const chosen: Record<string, string | null> = {}
  const choose = async (names: string[], extra: string[], attempt: number) => {
    for (const column of described.columns) {
      if (!names.includes(column.name)) continue
      const all = [...candidates(column, maker), ...extra.filter((text) => fits(column.type, text))]
      const at = attempt === 0 ? 0 : pick(all.length)
      chosen[column.name] = all[at] ?? null
    }
    for (const reference of described.references) {
      if (!reference.columns.some((name) => names.includes(name))) continue
      Object.assign(chosen, await refer(db, table, described, reference, maker, attempt))
    }
    if ('organization_id' in types) chosen.organization_id = maker.organizationId
  }

  await choose(Object.keys(types), [], 0)
  let last: unknown
  for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
    try {
      await makePartition(db, described, chosen)
      const insert = insertion(table, chosen, types)
      const [at] = await db.transaction((tx) =>
        rowsOf<{ table: string; row: string }>(
          tx,
          sql`${insert} returning tableoid::text as table, ctid::text as row`,
        ),
      )
      const isIt = sql`(tableoid = ${at?.table}::oid and ctid = ${at?.row}::tid)`
      return { values: { ...chosen }, types, isIt }
    } catch (error) {
      last = error
      const code = codeOf(error)
      const failed = described.checks.find(({ name }) => name === constraintOf(error))
      if (code === '23514' && failed) {
        await choose(failed.columns ?? [], literals(failed.definition), attempt)
      } else if (/^(23|22)/.test(code)) await choose(Object.keys(types), [], attempt)
      else throw error
    }
  }
  throw new Error(`no row of ${table.schema}.${table.name} was accepted in ${ATTEMPTS} attempts`, {
    cause: last,
  })
}

/** The columns of a foreign key, and whom they refer to: a row of the maker, made now if there is none. */
async function refer(
  db: Database,
  table: Relation,
  { columns }: Description,
  reference: Reference,
  maker: Maker,
  attempt: number,
): Promise<Record<string, string | null>> {
  const optional = reference.columns.filter((name) =>
    columns.some((column) => column.name === name && !column.isRequired),
  )
  // A row cannot refer to itself before it is there; and not referring is worth a try as well.
  if (optional.length && (reference.target === table.oid || (attempt > 0 && attempt % 3 === 0))) {
    return Object.fromEntries(optional.map((name) => [name, null]))
  }
  const row = await referred(db, reference, maker, attempt)
  return Object.fromEntries(
    reference.columns.map((name, at) => [name, String(row[reference.targetColumns[at] ?? ''])]),
  )
}

async function referred(db: Database, { target }: Reference, maker: Maker, attempt: number) {
  const table = (await relationsOf(db)).find(({ oid }) => oid === target)
  if (!table) throw new Error(`no relation ${target}`)
  const kept = table.isTenant ? maker.own : maker.platform
  // Who a row is about is the maker's user at first, or the policies would hide it from them.
  const known: Record<string, string> = {
    'identity.organizations': maker.organizationId,
    'identity.users': maker.userId,
  }
  const id = known[`${table.schema}.${table.name}`]
  if (id && (attempt === 0 || table.name === 'organizations')) return { id }
  // The maker's user is a member, and a row of another one's may be nobody's in the scope to make.
  if (`${table.schema}.${table.name}` === 'identity.memberships' && attempt === 0) {
    return { organization_id: maker.organizationId, user_id: maker.userId }
  }
  const existing = attempt % 5 === 4 || id ? undefined : kept.get(target)
  if (existing) return existing
  const { values } = await makeRow(db, table, maker)
  if (!id) kept.set(target, values)
  return values
}

async function makePartition(db: Database, { partitioner }: Description, row: Row) {
  if (!partitioner) return
  const call = sql.raw(partitioner.call)
  await rowsOf(db, sql`select ${call}(${row[partitioner.column]}::uuid)`)
}
