import { type SQL, sql, type Table } from 'drizzle-orm'
import { type AnyPgColumn, PgDialect } from 'drizzle-orm/pg-core'

/**
 * A piece of the database that drizzle-kit has no word for. `npm run db:generate` writes it into the
 * migrations.
 */
export interface ManagedObject {
  /** Unique, and stable: a migration repeats the object whenever the SQL under this name has changed. */
  readonly name: string
  /** One statement, safe to repeat over its own older version; for `within`, the clause to splice in. */
  readonly create: string
  /**
   * Where a migration has it: what tables need comes before them, what needs tables after.
   * `within` is a clause of the CREATE TABLE that drizzle-kit generates for `table`.
   */
  readonly phase: 'before' | 'within' | 'after'
  /** The quoted name of the table that a `within` belongs to. */
  readonly table?: string
}

const dialect = new PgDialect()

/** The text of SQL that takes no parameters. */
const render = (text: SQL): string => dialect.sqlToQuery(text.inlineParams()).sql.trim()

const managed = (phase: ManagedObject['phase'], name: string, create: SQL): ManagedObject => ({
  name,
  create: render(create),
  phase,
})

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

/** An extension, in `public`, where the schema's types and operators are looked for. */
export const managedExtension = (name: string) =>
  managed(
    'before',
    `extension ${name}`,
    sql.raw(`create extension if not exists ${name} with schema public`),
  )

/** A Postgres schema that drizzle must not see, since it would propose to drop what is in it. */
export const managedSchema = (name: string) =>
  managed('before', `schema ${name}`, sql.raw(`create schema if not exists ${name}`))

/** How a table is partitioned. Fixed when the table is created: a later change is refused. */
export const managedPartitioning = (
  table: Table,
  method: 'range' | 'list',
  column: AnyPgColumn,
): ManagedObject => ({
  name: `partitioning ${render(sql`${table}`)}`,
  create: render(sql`partition by ${sql.raw(method)} (${sql.identifier(column.name)})`),
  phase: 'within',
  table: render(sql`${table}`),
})

/** How Postgres stores a column's larger values. */
export const managedStorage = (table: Table, column: AnyPgColumn, storage: 'plain' | 'external') =>
  managed(
    'after',
    `storage ${render(sql`${table}`)}.${column.name}`,
    sql`alter table ${table} alter column ${sql.identifier(column.name)} set storage ${sql.raw(storage)}`,
  )

/** A constraint that Drizzle cannot express. Dropped first, so that the statement can be repeated. */
export const managedConstraint = (table: Table, name: string, definition: SQL) =>
  managed(
    'after',
    `constraint ${name}`,
    sql`alter table ${table} drop constraint if exists ${sql.identifier(name)}, add constraint ${sql.identifier(name)} ${definition}`,
  )

/** A function. `create or replace` it, so that whatever calls it survives the change. */
export const managedFunction = (signature: string, create: SQL) =>
  managed('after', `function ${signature}`, create)

/** A privilege given or taken. Repeating one changes nothing. */
export const managedGrant = (name: string, grant: SQL) => managed('after', `grant ${name}`, grant)

/** The right to call a function: taken from everybody, who have it by default, and given to one role. */
export const managedExecute = (signature: string, role: 'plinth_app' | 'plinth_platform') => [
  managedGrant(signature, sql.raw(`revoke execute on function ${signature} from public`)),
  managedGrant(
    `${signature} to ${role}`,
    sql.raw(`grant execute on function ${signature} to ${role}`),
  ),
]

/** A statement that a new database needs once to be usable, such as its first partitions. */
export const managedCall = (name: string, call: SQL) => managed('after', `call ${name}`, call)

/** What a table's rows are, for whoever meets it in psql, and for the data dictionary. */
export const managedComment = (table: Table, comment: string) =>
  managed('after', `comment ${render(sql`${table}`)}`, sql`comment on table ${table} is ${comment}`)
