import { type SQL, sql } from 'drizzle-orm'
import {
  bigint,
  bigserial,
  boolean,
  check,
  foreignKey,
  index,
  integer,
  jsonb,
  numeric,
  type PgColumn,
  pgPolicy,
  pgSchema,
  pgTable,
  primaryKey,
  serial,
  text,
  timestamp,
  unique,
  uniqueIndex,
  varchar,
} from 'drizzle-orm/pg-core'
import fc from 'fast-check'
import { stateOfExports } from '../../src/migrations/generate/kit.ts'
import type { SchemaState } from '../../src/migrations/generate/plan.ts'
import {
  managedComment,
  managedFunction,
  managedGrant,
  managedIndex,
  managedObject,
  managedPartitioning,
  managedStorage,
} from '../../src/schema/managed.ts'

/** A schema as plain data, of which fast-check makes many, and smaller ones where one fails. */
export interface Model {
  labels: string[]
  /** Which of two ways the functions are declared: null for none. */
  positive: 'sql' | 'plpgsql' | 'renamed' | 'atomic' | null
  tables: TableModel[]
  views: ViewModel[]
  /** A function that takes the enum, and whether a default calls it. */
  mood: 'sql' | 'plpgsql' | null
  log: 'range' | 'list' | 'plain' | null
}

interface TableModel {
  /** Behind the name that its place gives it. */
  suffix: string
  inPublic: boolean
  id: 'plain' | 'identity' | 'composite' | 'serial' | 'bigserial'
  columns: ColumnModel[]
  hasGenerated: boolean
  policy: 'using' | 'function' | 'check' | null
  hasComment: boolean
  /** To the table before it. */
  reference: 'restrict' | 'cascade' | null
}

interface ColumnModel {
  name: string
  type: string
  isRequired: boolean
  hasDefault: boolean
  index:
    | 'plain'
    | 'named'
    | 'unique'
    | 'constraint'
    | 'expression'
    | 'partial'
    | 'concurrent'
    | null
  hasCheck: boolean
  storage: boolean
}

interface ViewModel {
  kind: 'view' | 'materialized' | 'wide'
  /** The relation that it reads: a table by its place, or the view before it. */
  source: number | 'view'
  hasGrant: boolean
  hasIndex: boolean
  callsFunction: boolean
}

const TYPES = ['integer', 'bigint', 'text', 'varchar', 'numeric']
const MORE_TYPES = [...TYPES, 'boolean', 'timestamp', 'jsonb', 'mood', 'moods']

export interface ModelOptions {
  /** Of types that turn into one another with their rows, and columns that rows can be given. */
  isLossless?: boolean
}

const maybe = <T>(value: fc.Arbitrary<T>) => fc.option(value, { freq: 2, nil: null })

export function models({ isLossless = false }: ModelOptions = {}): fc.Arbitrary<Model> {
  const column = fc.record<ColumnModel>({
    name: fc.constantFrom('a', 'b', 'c', 'd'),
    type: fc.constantFrom(...(isLossless ? TYPES : MORE_TYPES)),
    isRequired: fc.boolean(),
    hasDefault: isLossless ? fc.constant(true) : fc.boolean(),
    index: maybe(
      fc.constantFrom(
        'plain',
        'named',
        'unique',
        'constraint',
        'expression',
        'partial',
        'concurrent',
      ),
    ),
    hasCheck: fc.boolean(),
    storage: fc.boolean(),
  })
  const table = fc.record<TableModel>({
    suffix: fc.constant(''),
    inPublic: fc.boolean(),
    id: isLossless
      ? fc.constant('plain')
      : fc.constantFrom('plain', 'identity', 'composite', 'serial', 'bigserial'),
    columns: fc.uniqueArray(column, { maxLength: 4, selector: ({ name }) => name }),
    hasGenerated: fc.boolean(),
    policy: maybe(fc.constantFrom('using', 'function', 'check')),
    hasComment: fc.boolean(),
    reference: maybe(fc.constantFrom('restrict', 'cascade')),
  })
  return fc.record<Model>({
    labels: fc.subarray(['sad', 'ok', 'glad', "it's"], { minLength: 1 }),
    positive: maybe(fc.constantFrom('sql', 'plpgsql', 'renamed', 'atomic')),
    tables: fc.array(table, { minLength: 1, maxLength: 3 }),
    views: fc.array(
      fc.record<ViewModel>({
        kind: fc.constantFrom('view', 'materialized', 'wide'),
        source: fc.oneof(fc.nat(2), fc.constant<'view'>('view')),
        hasGrant: fc.boolean(),
        hasIndex: fc.boolean(),
        callsFunction: fc.boolean(),
      }),
      { maxLength: 3 },
    ),
    mood: maybe(fc.constantFrom('sql', 'plpgsql')),
    log: maybe(fc.constantFrom('range', 'list', 'plain')),
  })
}

const app = pgSchema('app')

/** What a column of each type is made by, and a value that is right for it. */
const types = (mood: ReturnType<typeof app.enum<'ok', ['ok']>>) =>
  ({
    integer: [() => integer(), '1'],
    bigint: [() => bigint({ mode: 'bigint' }), '1'],
    text: [() => text(), "'1'"],
    varchar: [() => varchar({ length: 20 }), "'1'"],
    numeric: [() => numeric(), '1'],
    boolean: [() => boolean(), 'true'],
    timestamp: [() => timestamp({ withTimezone: true }), 'now()'],
    jsonb: [() => jsonb(), "'{}'"],
    mood: [() => mood(), `'${mood.enumValues[0].replaceAll("'", "''")}'`],
    moods: [() => mood().array('[]'), `'{}'`],
  }) as const

const FUNCTIONS: Record<string, string> = {
  sql: `(n integer) returns boolean language sql immutable as $$ select n > 0 $$`,
  plpgsql: `(n integer) returns boolean language plpgsql immutable as $$ begin return n > 0; end $$`,
  renamed: `(value integer) returns boolean language sql immutable as $$ select value > 0 $$`,
  atomic: `(n integer) returns boolean language sql immutable return n > 0`,
}

/** A table that rows can be put into by their ids alone, and its columns of numbers. */
export interface Fillable {
  name: string
  columns: string[]
}

/** Builds the objects that a user would write for the model, and reads them as plinth does. */
export async function stateOf(model: Model): Promise<SchemaState & { tables: Fillable[] }> {
  const mood = app.enum('mood', model.labels as ['ok'])
  const exports: Record<string, unknown> = { app, mood }
  const objects: object[] = []
  const fillable: Fillable[] = []
  const kinds: Record<string, readonly [() => unknown, string]> = types(mood)
  const isPositive = model.positive !== null
  if (model.positive) {
    objects.push(
      managedFunction(
        'app.is_positive(integer)',
        sql.raw(`create or replace function app.is_positive${FUNCTIONS[model.positive]}`),
      ),
      managedGrant(
        'app.is_positive',
        sql`revoke execute on function app.is_positive(integer) from public`,
      ),
    )
  }

  if (model.mood) {
    const body =
      model.mood === 'sql'
        ? `language sql immutable as $$ select 1 where m is not null or app.is_any() $$`
        : `language plpgsql immutable as $$ begin return case when app.is_any() then 1 else 2 end; end $$`
    objects.push(
      managedFunction(
        'app.rank(app.mood)',
        sql.raw(`create or replace function app.rank(m app.mood) returns integer ${body}`),
      ),
      managedFunction(
        'app.is_any()',
        sql.raw(
          `create or replace function app.is_any() returns boolean language sql immutable as $$ select true $$`,
        ),
      ),
      managedFunction(
        'app.initial()',
        sql.raw(
          `create or replace function app.initial() returns integer language sql as $$ select app.rank(${'null'}::app.mood) $$`,
        ),
      ),
    )
  }
  const tables: Made[] = []
  const initial = model.mood ? sql`app.initial()` : sql`0`
  for (const [at, declared] of model.tables.entries()) {
    tables.push(
      makeTable(`t${at}${declared.suffix}`, declared, kinds, tables.at(-1), isPositive, initial),
    )
  }
  for (const { table, extra, fill, columns } of tables) {
    exports[fill] = table
    objects.push(...extra)
    fillable.push({ name: fill, columns: ['id', ...columns] })
  }
  addViews(model, tables, exports, objects)
  addLog(model, exports, objects, fillable)
  const ddl = await stateOfExports(exports)
  return { ddl, objects: objects as never, tables: fillable }
}

interface Made {
  name: string
  table: ReturnType<typeof pgTable>
  columns: string[]
  isComposite: boolean
  extra: object[]
  fill: string
}

function makeTable(
  name: string,
  { inPublic, id, columns, hasGenerated, policy, hasComment, reference }: TableModel,
  kinds: Record<string, readonly [() => unknown, string]>,
  before: Made | undefined,
  isPositive: boolean,
  initial: SQL,
): Made {
  const make = (inPublic ? pgTable : app.table) as typeof pgTable
  const shape: Record<string, unknown> = {
    id:
      id === 'identity'
        ? integer()
            .notNull()
            .generatedByDefaultAsIdentity({ name: `${name}_id_seq` })
        : id === 'serial'
          ? serial()
          : id === 'bigserial'
            ? bigserial({ mode: 'number' })
            : integer().notNull(),
    part: integer().notNull().default(initial),
  }
  const refers =
    reference !== null && before !== undefined && !before.isComposite ? before : undefined
  if (refers) shape.parent = integer()
  for (const { name: column, type, isRequired, hasDefault } of columns) {
    const [build, value] = kinds[type] ?? []
    let it = build?.() as { notNull(): unknown; default(value: unknown): unknown }
    if (isRequired) it = it.notNull() as typeof it
    shape[column] = hasDefault ? it.default(sql.raw(value ?? '')) : it
  }
  const source = columns.find(({ type }) => TYPES.includes(type))
  if (hasGenerated) {
    shape.g = text()
      .notNull()
      .generatedAlwaysAs(
        sql.raw(source ? `coalesce("${source.name}"::text, '') || '!'` : `"part"::text`),
      )
  }
  const table = make(name, shape as never, (t) => {
    const of = t as unknown as Record<string, PgColumn>
    const column = (key: string) => of[key] as PgColumn
    return [
      primaryKey({
        name: `${name}_pk`,
        columns: (id === 'composite' ? [column('id'), column('part')] : [column('id')]) as [
          PgColumn,
          ...PgColumn[],
        ],
      }),
      ...columns.flatMap((it) => extras(name, it, column)),
      ...(refers
        ? [
            foreignKey({
              name: `${name}_parent_fk`,
              columns: [column('parent')],
              foreignColumns: [
                (refers.table as unknown as Record<string, PgColumn>).id as PgColumn,
              ],
            }).onDelete(reference === 'cascade' ? 'cascade' : 'restrict'),
          ]
        : []),
      ...(policy ? [pgPolicy(`${name}_policy`, policyOf(policy, isPositive))] : []),
    ] as never
  })
  const extra: object[] = []
  if (hasComment) extra.push(managedComment(table, `rows of ${name}`))
  for (const it of columns.filter(
    ({ storage, type }) => storage && (type === 'text' || type === 'jsonb'),
  )) {
    extra.push(
      managedStorage(
        table,
        (table as unknown as Record<string, PgColumn>)[it.name] as PgColumn,
        'external',
      ),
    )
  }
  const schema = inPublic ? 'public' : 'app'
  return {
    name,
    table,
    columns: columns.map((it) => it.name),
    isComposite: id === 'composite',
    extra,
    fill: `"${schema}"."${name}"`,
  }
}

const policyOf = (policy: NonNullable<TableModel['policy']>, isPositive: boolean) => {
  if (policy === 'check') return { for: 'insert' as const, withCheck: sql`part >= 0` }
  return policy === 'function' && isPositive
    ? { using: sql`app.is_positive(id::integer)` }
    : { using: sql`id > 0` }
}

function extras(
  table: string,
  { name, type, index: kind, hasCheck }: ColumnModel,
  column: (key: string) => PgColumn,
) {
  const found: unknown[] = []
  const isText = type === 'text' || type === 'varchar'
  const it = column(name)
  if (type !== 'jsonb' && type !== 'moods') {
    if (kind === 'plain') found.push(index().on(it))
    if (kind === 'named') found.push(index(`${table}_${name}_idx`).on(it, column('id')))
    if (kind === 'concurrent') found.push(index(`${table}_${name}_idx`).on(it).concurrently())
    if (kind === 'unique') found.push(uniqueIndex(`${table}_${name}_key`).on(it, column('id')))
    if (kind === 'constraint') found.push(unique(`${table}_${name}_key`).on(it, column('id')))
    if (kind === 'partial')
      found.push(index(`${table}_${name}_idx`).on(column('id')).where(sql`${it} is not null`))
  }
  if (kind === 'expression' && isText)
    found.push(index(`${table}_${name}_lower`).on(sql`lower(${it})`))
  if (hasCheck) {
    if (isText) found.push(check(`${table}_${name}_check`, sql`${it} <> ''`))
    else if (type === 'mood')
      found.push(
        check(
          `${table}_${name}_check`,
          sql.raw(`"${name}" <> "${name}" or "${name}"::app.mood is not null`),
        ),
      )
    else if (TYPES.includes(type)) found.push(check(`${table}_${name}_check`, sql`${it} >= 0`))
  }
  return found
}

function addViews(
  { views, positive }: Model,
  tables: readonly Made[],
  exports: Record<string, unknown>,
  objects: object[],
) {
  let last: { name: string; sql: string } | undefined
  for (const [at, { kind, source, hasGrant, hasIndex, callsFunction }] of views.entries()) {
    const table = tables[source === 'view' ? 0 : source % tables.length]
    if (!table) continue
    const name = `v${at}`
    const from = source === 'view' && last ? last.sql : table.fill
    const columns = source === 'view' && last ? ['id'] : ['id', ...table.columns]
    const list = kind === 'wide' ? '*' : columns.map((column) => `"${column}"`).join(', ')
    const where = callsFunction && positive ? ' where app.is_positive("id"::integer)' : ''
    const query = sql.raw(`select ${list} from ${from}${where}`)
    const view =
      kind === 'materialized'
        ? app.materializedView(name, { id: integer() }).as(query)
        : app.view(name, { id: integer() }).as(query)
    exports[name] = view
    if (hasGrant) objects.push(managedGrant(name, sql`grant select on ${view} to plinth_fuzz`))
    if (hasIndex && kind === 'materialized') {
      objects.push(managedIndex({ name: `${name}_id`, on: view, definition: sql`(id)` }))
    }
    last = { name, sql: `"app"."${name}"` }
  }
}

function addLog(
  { log }: Model,
  exports: Record<string, unknown>,
  objects: object[],
  fillable: Fillable[],
) {
  if (!log) return
  const table = app.table(
    'log',
    { id: integer().notNull(), kind: text().notNull().default('a'), note: text() },
    (t) => [
      primaryKey({ name: 'log_pk', columns: [t.id, t.kind] }),
      index('log_note_idx').on(t.note),
    ],
  )
  exports.log = table
  fillable.push({ name: '"app"."log"', columns: ['id'] })
  objects.push(managedGrant('log', sql`grant select, insert on ${table} to plinth_fuzz`))
  if (log === 'plain') return
  objects.push(managedPartitioning(table, log, log === 'range' ? table.id : table.kind))
  objects.push(
    managedObject({
      name: 'call partitions of log',
      create: sql.raw(
        `do $$ begin ${
          log === 'range'
            ? `create table app.log_all partition of app.log for values from (0) to (1000)`
            : `create table app.log_all partition of app.log for values in ('a', 'b', '1')`
        }; end $$`,
      ),
    }),
  )
}

/** The model with other names for its tables and columns, and the answers that say so. */
export function withOtherNames(model: Model): {
  model: Model
  renames: { from: string; to: string }[]
} {
  const renames: { from: string; to: string }[] = []
  const tables = model.tables.map((table, at) => {
    const schema = table.inPublic ? 'public' : 'app'
    const [from, to] = [`${schema}.t${at}`, `${schema}.t${at}x`]
    // Every other one keeps its name, and has columns renamed all the same.
    const isRenamed = at % 2 === 0
    if (isRenamed) renames.push({ from, to })
    const columns = table.columns.map((column, place) => {
      if (place % 2 === 1) return column
      const name = `${column.name}_new`
      renames.push({ from: `${from}.${column.name}`, to: `${isRenamed ? to : from}.${name}` })
      return { ...column, name }
    })
    return { ...table, suffix: isRenamed ? 'x' : '', columns }
  })
  return { model: { ...model, tables }, renames }
}
