import type { AlterTableCmd, ColumnDef, Constraint, CreateStmt, Node } from 'libpg-query'
import { replayFunction } from './functions.ts'
import { type ColumnType, keyOf, type Name, named, nameOf, stringsOf, typeOf } from './names.ts'
import { readStatements, type Statement } from './parse.ts'

/** Stands for the migration that is being looked at, whose tables are new. */
export const HERE = '(this migration)'

/** Which statement made a thing. */
export interface Origin {
  /** The migration's name, or `HERE`. */
  readonly migration: string
  readonly statement: number
  readonly line: number
}

interface KnownColumn {
  type: ColumnType
  isNotNull: boolean
  origin: Origin
}

interface KnownConstraint {
  kind: 'primary' | 'unique' | 'exclude' | 'foreign' | 'check'
  columns: string[]
  isValid: boolean
  /** The column that a check says is not null, where that is all that it says. */
  notNull?: string
  /** The table that a foreign key references. */
  references?: string
}

export interface KnownTable {
  name: Name
  kind: 'table' | 'view' | 'materialized view'
  isPartitioned: boolean
  partitionOf?: string
  isDefaultPartition: boolean
  columns: Map<string, KnownColumn>
  constraints: Map<string, KnownConstraint>
  policies: Set<string>
  hasRowSecurity: boolean
  origin: Origin
}

export interface KnownFunction {
  name: Name
  /** The types of its arguments, as `int4, text`. */
  argumentTypes: string
  /** As it is pinned; undefined if the caller's holds. */
  searchPath?: string[]
  isDefiner: boolean
  isVolatile: boolean
  /** Whether everybody may call it, as they may by default. */
  isPublic: boolean
  /** Whether it is a trigger's, which nobody can call. */
  isTrigger: boolean
  origin: Origin
}

/** What is in a database, as far as the statements tell that made it. */
export interface Known {
  tables: Map<string, KnownTable>
  /** Which table an index is on, and whether it is a constraint's own. */
  indexes: Map<string, { table: string; backsConstraint: boolean }>
  functions: Map<string, KnownFunction>
  enums: Map<string, { labels: Set<string>; origin: Origin }>
  /** Whether functions are taken from everybody as they are made, by ALTER DEFAULT PRIVILEGES. */
  hidesFunctions: boolean
}

/** Nothing, which is what a new database has. */
export const nothingKnown = (): Known => ({
  tables: new Map(),
  indexes: new Map(),
  functions: new Map(),
  enums: new Map(),
  hidesFunctions: false,
})

/**
 * What is there after migrations have run, each with the texts of its statements, in their order. What
 * cannot be read adds nothing.
 */
export async function knownAfter(
  migrations: readonly { name: string; texts: readonly string[] }[],
): Promise<Known> {
  const known = nothingKnown()
  for (const { name, texts } of migrations) {
    const { statements } = await readStatements(texts)
    for (const statement of statements) replay(known, statement, name)
  }
  return known
}

/** Adds to what is known what a statement does. Statements must come in the order in which they run. */
export function replay(known: Known, { node, index, line }: Statement, migration: string): void {
  const origin = { migration, statement: index, line }
  replayTable(known, node, origin)
  replayFunction(known, node, origin)
}

const relation = (name: Name, kind: KnownTable['kind'], origin: Origin): KnownTable => ({
  name,
  kind,
  isPartitioned: false,
  isDefaultPartition: false,
  columns: new Map(),
  constraints: new Map(),
  policies: new Set(),
  hasRowSecurity: false,
  origin,
})

function replayTable(known: Known, node: Node, origin: Origin): void {
  if ('CreateStmt' in node) createTable(known, node.CreateStmt, origin)
  else if ('CreateTableAsStmt' in node) {
    const { into, objtype } = node.CreateTableAsStmt
    const name = nameOf(into?.rel)
    const kind = objtype === 'OBJECT_MATVIEW' ? 'materialized view' : 'table'
    if (!known.tables.has(keyOf(name))) known.tables.set(keyOf(name), relation(name, kind, origin))
  } else if ('ViewStmt' in node) {
    const name = nameOf(node.ViewStmt.view)
    if (!known.tables.has(keyOf(name)))
      known.tables.set(keyOf(name), relation(name, 'view', origin))
  } else if ('IndexStmt' in node) {
    const { relation: on, idxname } = node.IndexStmt
    const table = nameOf(on)
    if (idxname) {
      const entry = { table: keyOf(table), backsConstraint: false }
      known.indexes.set(keyOf({ ...table, name: idxname }), entry)
    }
  } else if ('AlterTableStmt' in node) {
    const table = known.tables.get(keyOf(nameOf(node.AlterTableStmt.relation)))
    for (const each of node.AlterTableStmt.cmds ?? [])
      if ('AlterTableCmd' in each && table) alterTable(known, table, each.AlterTableCmd, origin)
  } else if ('CreatePolicyStmt' in node) {
    const { table, policy_name } = node.CreatePolicyStmt
    known.tables.get(keyOf(nameOf(table)))?.policies.add(policy_name ?? '')
  } else if ('CreateEnumStmt' in node) {
    const labels = new Set(stringsOf(node.CreateEnumStmt.vals))
    known.enums.set(keyOf(named(stringsOf(node.CreateEnumStmt.typeName))), { labels, origin })
  } else if ('AlterEnumStmt' in node) {
    const { typeName, newVal, oldVal } = node.AlterEnumStmt
    const labels = known.enums.get(keyOf(named(stringsOf(typeName))))?.labels
    if (oldVal) labels?.delete(oldVal)
    if (newVal) labels?.add(newVal)
  } else if ('RenameStmt' in node) rename(known, node)
  else if ('AlterObjectSchemaStmt' in node) {
    const { relation: moved, newschema } = node.AlterObjectSchemaStmt
    if (moved && newschema) move(known, nameOf(moved), { ...nameOf(moved), schema: newschema })
  } else if ('DropStmt' in node) drop(known, node)
}

function createTable(known: Known, statement: CreateStmt, origin: Origin): void {
  const name = nameOf(statement.relation)
  // IF NOT EXISTS over a table that is there does nothing.
  if (known.tables.has(keyOf(name))) return
  const table = relation(name, 'table', origin)
  known.tables.set(keyOf(name), table)
  table.isPartitioned = statement.partspec !== undefined
  const [parent] = statement.inhRelations ?? []
  if (statement.partbound && parent && 'RangeVar' in parent) {
    table.partitionOf = keyOf(nameOf(parent.RangeVar))
    table.isDefaultPartition = statement.partbound.is_default === true
    const above = known.tables.get(table.partitionOf)
    for (const [column, known] of above?.columns ?? []) table.columns.set(column, { ...known })
  }
  for (const element of statement.tableElts ?? []) {
    if ('ColumnDef' in element) addColumn(known, table, element.ColumnDef, origin)
    else if ('Constraint' in element) addConstraint(known, table, element.Constraint)
  }
}

function addColumn(known: Known, table: KnownTable, column: ColumnDef, origin: Origin): void {
  const name = column.colname ?? ''
  if (table.columns.has(name)) return
  table.columns.set(name, { type: typeOf(column.typeName), isNotNull: false, origin })
  for (const each of column.constraints ?? []) {
    if ('Constraint' in each) addConstraint(known, table, each.Constraint, name)
  }
}

const KINDS: Record<string, KnownConstraint['kind']> = {
  CONSTR_PRIMARY: 'primary',
  CONSTR_UNIQUE: 'unique',
  CONSTR_EXCLUSION: 'exclude',
  CONSTR_FOREIGN: 'foreign',
  CONSTR_CHECK: 'check',
}

/** The columns that a constraint is on; of one in a column's definition, that column. */
export const columnsOf = (constraint: Constraint, column?: string): string[] =>
  column === undefined
    ? stringsOf([...(constraint.keys ?? []), ...(constraint.fk_attrs ?? [])])
    : [column]

function addConstraint(
  known: Known,
  table: KnownTable,
  constraint: Constraint,
  column?: string,
): void {
  const columns = columnsOf(constraint, column)
  const notNull = (names: string[]) => {
    for (const each of names) {
      const at = table.columns.get(each)
      if (at) at.isNotNull = true
    }
  }
  if (constraint.contype === 'CONSTR_NOTNULL' || constraint.contype === 'CONSTR_IDENTITY') {
    notNull(columns)
    return
  }
  const kind = KINDS[constraint.contype ?? '']
  if (!kind) return
  if (kind === 'primary') notNull(columns)
  const suffix = {
    primary: 'pkey',
    unique: 'key',
    exclude: 'excl',
    foreign: 'fkey',
    check: 'check',
  }
  const parts = [table.name.name, ...(kind === 'primary' ? [] : columns), suffix[kind]]
  const name = constraint.conname ?? parts.join('_')
  const checked = notNullColumn(constraint)
  table.constraints.set(name, {
    kind,
    columns,
    isValid: !constraint.skip_validation,
    ...(checked === undefined ? {} : { notNull: checked }),
    ...(constraint.pktable ? { references: keyOf(nameOf(constraint.pktable)) } : {}),
  })
  if (kind === 'primary' || kind === 'unique' || kind === 'exclude') {
    const entry = { table: keyOf(table.name), backsConstraint: true }
    if (constraint.indexname) {
      known.indexes.delete(keyOf({ ...table.name, name: constraint.indexname }))
    }
    known.indexes.set(keyOf({ ...table.name, name }), entry)
  }
}

/** The column of a `check (column is not null)`. */
function notNullColumn({ raw_expr: check }: Constraint): string | undefined {
  if (!check || !('NullTest' in check) || check.NullTest.nulltesttype !== 'IS_NOT_NULL') return
  const { arg } = check.NullTest
  return arg && 'ColumnRef' in arg ? stringsOf(arg.ColumnRef.fields).at(-1) : undefined
}

function alterTable(known: Known, table: KnownTable, command: AlterTableCmd, origin: Origin): void {
  const { subtype, name = '', def } = command
  const column = table.columns.get(name)
  if (subtype === 'AT_AddColumn' && def && 'ColumnDef' in def) {
    addColumn(known, table, def.ColumnDef, origin)
  } else if (subtype === 'AT_DropColumn') {
    table.columns.delete(name)
    for (const [key, { columns }] of table.constraints)
      if (columns.includes(name)) table.constraints.delete(key)
  } else if (subtype === 'AT_AddConstraint' && def && 'Constraint' in def) {
    addConstraint(known, table, def.Constraint)
  } else if (subtype === 'AT_DropConstraint') {
    table.constraints.delete(name)
    known.indexes.delete(keyOf({ ...table.name, name }))
  } else if (subtype === 'AT_ValidateConstraint') {
    const constraint = table.constraints.get(name)
    if (constraint) constraint.isValid = true
  } else if (subtype === 'AT_AlterColumnType' && def && 'ColumnDef' in def) {
    if (column) column.type = typeOf(def.ColumnDef.typeName)
  } else if (subtype === 'AT_SetNotNull' || subtype === 'AT_DropNotNull') {
    if (column) column.isNotNull = subtype === 'AT_SetNotNull'
  } else if (subtype === 'AT_EnableRowSecurity') table.hasRowSecurity = true
  else if (subtype === 'AT_DisableRowSecurity') table.hasRowSecurity = false
  else if (
    (subtype === 'AT_AttachPartition' || subtype === 'AT_DetachPartition') &&
    def &&
    'PartitionCmd' in def
  ) {
    const partition = known.tables.get(keyOf(nameOf(def.PartitionCmd.name)))
    if (partition && subtype === 'AT_AttachPartition') {
      partition.partitionOf = keyOf(table.name)
      partition.isDefaultPartition = def.PartitionCmd.bound?.is_default === true
    } else if (partition) delete partition.partitionOf
  }
}

/** Gives a table another name, under which everything that speaks of it finds it. */
function move(known: Known, from: Name, to: Name): void {
  const table = known.tables.get(keyOf(from))
  if (!table) return
  known.tables.delete(keyOf(from))
  table.name = to
  known.tables.set(keyOf(to), table)
  for (const index of known.indexes.values())
    if (index.table === keyOf(from)) index.table = keyOf(to)
  for (const each of known.tables.values())
    if (each.partitionOf === keyOf(from)) each.partitionOf = keyOf(to)
}

function rename(known: Known, node: Extract<Node, { RenameStmt: unknown }>): void {
  const { renameType, relation: on, subname = '', newname = '' } = node.RenameStmt
  const name = nameOf(on)
  const table = known.tables.get(keyOf(name))
  if (renameType === 'OBJECT_COLUMN') {
    const column = table?.columns.get(subname)
    if (!table || !column) return
    table.columns.delete(subname)
    table.columns.set(newname, column)
  } else if (renameType === 'OBJECT_INDEX') {
    const index = known.indexes.get(keyOf(name))
    if (!index) return
    known.indexes.delete(keyOf(name))
    known.indexes.set(keyOf({ ...name, name: newname }), index)
  } else if (renameType === 'OBJECT_TABCONSTRAINT') {
    const constraint = table?.constraints.get(subname)
    if (!table || !constraint) return
    table.constraints.delete(subname)
    table.constraints.set(newname, constraint)
  } else if (on) move(known, name, { ...name, name: newname })
}

/** What a DROP names: of a relation its name, of a policy or trigger the words of its table and its own. */
export const droppedNames = (objects: readonly Node[] | undefined): string[][] =>
  (objects ?? []).flatMap((object) =>
    'List' in object
      ? [stringsOf(object.List.items)]
      : 'String' in object
        ? [[object.String.sval ?? '']]
        : 'TypeName' in object
          ? [stringsOf(object.TypeName.names)]
          : [],
  )

function drop(known: Known, node: Extract<Node, { DropStmt: unknown }>): void {
  const { removeType, objects } = node.DropStmt
  for (const words of droppedNames(objects)) {
    const key = keyOf(named(words))
    if (removeType === 'OBJECT_POLICY') {
      known.tables.get(keyOf(named(words.slice(0, -1))))?.policies.delete(words.at(-1) ?? '')
    } else if (removeType === 'OBJECT_INDEX') known.indexes.delete(key)
    else if (removeType === 'OBJECT_TYPE') known.enums.delete(key)
    else if (removeType === 'OBJECT_SCHEMA') {
      const [schema = ''] = words
      for (const [each, { name }] of known.tables)
        if (name.schema === schema) known.tables.delete(each)
      for (const [each, { name }] of known.functions)
        if (name.schema === schema) known.functions.delete(each)
    } else if (/TABLE$|VIEW$/.test(removeType ?? '')) {
      known.tables.delete(key)
      for (const [index, { table }] of known.indexes) if (table === key) known.indexes.delete(index)
      for (const [partition, { partitionOf }] of known.tables)
        if (partitionOf === key) known.tables.delete(partition)
    }
  }
}
