import { type SQL, sql, type Table, type View } from 'drizzle-orm'
import { type AnyPgColumn, PgDialect } from 'drizzle-orm/pg-core'

/**
 * A piece of the database that drizzle-kit has no word for. `plinth generate` writes it into the
 * migrations, and drops it when it is no longer declared.
 */
export interface ManagedObject {
  /** Unique, and stable: the object under this name is compared with the last migration's. */
  readonly name: string
  /** One statement; for `within`, the clause to splice in. */
  readonly create: string
  /** One statement that undoes `create`; undefined where nothing is to be undone, or it cannot be. */
  readonly drop?: string | undefined
  /**
   * Where a migration has it: what tables need comes before them, what needs tables after.
   * `within` is a clause of the CREATE TABLE that drizzle-kit generates for `table`.
   */
  readonly phase: 'before' | 'within' | 'after'
  /** The quoted name of the table that a `within` belongs to. */
  readonly table?: string
}

// Schema files may be loaded twice, by Node and by the CLI: a registered symbol is the same in both.
const BRAND = Symbol.for('plinth.managedObject')

/** Whether a value that a schema file exports is a managed object. */
export const isManagedObject = (value: unknown): value is ManagedObject =>
  typeof value === 'object' && value !== null && BRAND in value

const branded = (object: ManagedObject): ManagedObject =>
  Object.defineProperty(object, BRAND, { value: true })

const dialect = new PgDialect()

/** The text of SQL that takes no parameters. */
const render = (text: SQL): string => dialect.sqlToQuery(text.inlineParams()).sql.trim()

export interface ManagedObjectOptions {
  /** Unique, and stable, such as `trigger app.posts.touch`. */
  name: string
  /** One statement. */
  create: SQL
  /** One statement that undoes `create`. Without it, a migration that drops the object leaves it there. */
  drop?: SQL
  /** `before` what drizzle-kit generates, as for a domain that columns use, or `after`, by default. */
  phase?: 'before' | 'after'
}

/** Anything that neither drizzle-kit nor a helper below can say: a trigger, a domain, a text search configuration. */
export const managedObject = ({ name, create, drop, phase = 'after' }: ManagedObjectOptions) =>
  branded({ name, create: render(create), drop: drop && render(drop), phase })

const managed = (phase: 'before' | 'after', name: string, create: SQL, drop?: SQL) =>
  managedObject({ name, create, drop, phase })

/**
 * A role, created unless the cluster has it: roles belong to all databases of a server. Looked for first,
 * since an owner who may not create roles is refused before Postgres finds that there is nothing to do.
 */
export const managedRole = (name: string) =>
  managed(
    'before',
    `role ${name}`,
    sql.raw(`do $$ begin
  if not exists (select from pg_catalog.pg_roles where rolname = '${name}') then
    create role ${name} nologin;
  end if;
exception when duplicate_object or unique_violation then null;
end $$`),
  )

/**
 * An extension, in `public`, where the schema's types and operators are looked for. It is left there when
 * it is not declared any more: others may use it, and it may be another one's to drop.
 */
export const managedExtension = (name: string) =>
  managed(
    'before',
    `extension ${name}`,
    sql.raw(`create extension if not exists ${name} with schema public`),
  )

/** A Postgres schema that drizzle must not see, since it would propose to drop what is in it. */
export const managedSchema = (name: string) =>
  managed(
    'before',
    `schema ${name}`,
    sql.raw(`create schema if not exists ${name}`),
    sql.raw(`drop schema if exists ${name}`),
  )

/** How a table is partitioned. A later change makes a new table, and copies the rows. */
export const managedPartitioning = (
  table: Table,
  method: 'range' | 'list',
  column: AnyPgColumn,
): ManagedObject =>
  branded({
    name: `partitioning ${render(sql`${table}`)}`,
    create: render(sql`partition by ${sql.raw(method)} (${sql.identifier(column.name)})`),
    drop: undefined,
    phase: 'within',
    table: render(sql`${table}`),
  })

/** How Postgres stores a column's larger values. */
export const managedStorage = (table: Table, column: AnyPgColumn, storage: 'plain' | 'external') =>
  managed(
    'after',
    `storage ${render(sql`${table}`)}.${column.name}`,
    sql`alter table ${table} alter column ${sql.identifier(column.name)} set storage ${sql.raw(storage)}`,
    // `set storage default` is of Postgres 16.
    sql`do $$ begin
  execute 'alter table ${table} alter column ${sql.identifier(column.name)} set storage ' || (
    select case t.typstorage when 'p' then 'plain' when 'e' then 'external' when 'm' then 'main' else 'extended' end
    from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
    where a.attrelid = '${table}'::regclass and a.attname = '${sql.raw(column.name)}');
end $$`,
  )

/** A constraint that Drizzle cannot express. Dropped first, so that the statement can be repeated. */
export const managedConstraint = (table: Table, name: string, definition: SQL) =>
  managed(
    'after',
    `constraint ${name}`,
    sql`alter table ${table} drop constraint if exists ${sql.identifier(name)}, add constraint ${sql.identifier(name)} ${definition}`,
    sql`alter table ${table} drop constraint if exists ${sql.identifier(name)}`,
  )

/** A function. `create or replace` it, so that whatever calls it survives the change. */
export const managedFunction = (signature: string, create: SQL) =>
  managed('after', `function ${signature}`, create, sql.raw(`drop function if exists ${signature}`))

export interface ManagedIndexOptions {
  name: string
  /** A materialized view, which Drizzle has no indexes for, or a table. */
  on: Table | View
  unique?: boolean
  /** What follows the relation, such as `using gin (terms)`. */
  definition: SQL
}

/** An index that Drizzle cannot express, such as one on a materialized view. */
export function managedIndex({ name, on, unique = false, definition }: ManagedIndexOptions) {
  const relation = render(sql`${on}`)
  return managed(
    'after',
    `index ${relation}.${name}`,
    sql`create ${sql.raw(unique ? 'unique index' : 'index')} ${sql.identifier(name)} on ${on} ${definition}`,
    // An index is in the schema of its relation.
    sql`drop index if exists ${sql.raw(relation.replace(/"[^"]+"$/, ''))}${sql.identifier(name)}`,
  )
}

const UNDO = { grant: ['revoke', 'from'], revoke: ['grant', 'to'] } as const

/** What takes a privilege that was given, or gives one that was taken. */
function undoGrant(text: string): string {
  const [, verb = '', what, , role] = /^(grant|revoke)\s+(.+)\s(to|from)\s+(.+)$/is.exec(text) ?? []
  const undo = UNDO[verb.toLowerCase() as keyof typeof UNDO]
  if (!undo || !role) throw new Error(`neither a grant nor a revoke: ${text}`)
  const [action, direction] = undo
  const subject = what?.replace(/^(grant|admin) option for\s+/i, '')
  const grantee = role.replace(
    /\s+(with (grant|admin) option|granted by .+|cascade|restrict)$/is,
    '',
  )
  return `${action} ${subject} ${direction} ${grantee}`
}

/** A privilege given or taken. Repeating one changes nothing. */
export const managedGrant = (name: string, grant: SQL) =>
  managed('after', `grant ${name}`, grant, sql.raw(undoGrant(render(grant))))

/** A function that only others of the owner's call: the right to call it is taken from everybody. */
export const managedInner = (signature: string) =>
  managedGrant(signature, sql.raw(`revoke execute on function ${signature} from public`))

/** The right to call a function: taken from everybody, who have it by default, and given to one role. */
export const managedExecute = (signature: string, role: 'plinth_app' | 'plinth_platform') => [
  managedInner(signature),
  managedGrant(
    `${signature} to ${role}`,
    sql.raw(`grant execute on function ${signature} to ${role}`),
  ),
]

/** A statement that a new database needs once to be usable, such as its first partitions. */
export const managedCall = (name: string, call: SQL) => managed('after', `call ${name}`, call)

/** What a table's rows are, for whoever meets it in psql, and for the data dictionary. */
export const managedComment = (table: Table, comment: string) =>
  managed(
    'after',
    `comment ${render(sql`${table}`)}`,
    sql`comment on table ${table} is ${comment}`,
    sql`comment on table ${table} is null`,
  )
