import { type SQL, sql } from 'drizzle-orm'
import { type Database, rowsOf } from '../../database.ts'
import {
  type ColumnType,
  keyOf,
  type Name,
  named,
  nameOf,
  quoted,
  quotedName,
  shownType,
  stringsOf,
  typeOf,
} from './names.ts'
import { commandsOf, loadParser, parseStatements, type Statement, sliceBytes } from './parse.ts'
import { droppedNames, HERE, nothingKnown, replay } from './replay.ts'
import { retypingOf } from './retyping.ts'

/** Something that a script takes out of a database for good. */
export interface Loss {
  /** `rows`: of a table that stays. `values`: of a column that stays, rounded, cut off or left out. */
  readonly kind:
    | 'table'
    | 'materialized view'
    | 'column'
    | 'schema'
    | 'type'
    | 'extension'
    | 'sequence'
    | 'rows'
    | 'values'
  readonly schema?: string
  /** Of the thing itself: of a column the column, of rows their table. */
  readonly name: string
  readonly table?: string
  readonly column?: string
  /** The type that a column gets. */
  readonly to?: string
  /** All that an enum's values may be from then on. */
  readonly labels?: readonly string[]
  /** The condition of a DELETE or UPDATE, in SQL. */
  readonly where?: string
  /** Whether what depends on it goes with it. */
  readonly cascades?: boolean
}

/**
 * What a script would lose, such as the down of a migration. What it makes itself first is not counted:
 * it is empty.
 *
 * @throws {MigrationError} for what Postgres's parser refuses.
 */
export async function lossesOf(texts: readonly string[]): Promise<Loss[]> {
  const known = nothingKnown()
  const replaced = new Set<string>()
  const found: Loss[] = []
  for (const statement of await parseStatements(texts)) {
    const isNew = (name: Name) => known.tables.get(keyOf(name))?.origin.migration === HERE
    found.push(...(await lossesIn(statement, isNew, new Set(known.enums.keys()))))
    found.push(...leftOut(statement, replaced))
    replay(known, statement, HERE)
  }
  return found
}

/** The labels that an enum is left with, where a script makes one in place of another of its name. */
function leftOut({ node }: Statement, replaced: Set<string>): Loss[] {
  if ('DropStmt' in node && node.DropStmt.removeType === 'OBJECT_TYPE') {
    for (const words of droppedNames(node.DropStmt.objects)) replaced.add(keyOf(named(words)))
  } else if ('RenameStmt' in node && node.RenameStmt.renameType === 'OBJECT_TYPE') {
    const { object } = node.RenameStmt
    if (object && 'List' in object) replaced.add(keyOf(named(stringsOf(object.List.items))))
  } else if ('CreateEnumStmt' in node) {
    const name = named(stringsOf(node.CreateEnumStmt.typeName))
    const labels = stringsOf(node.CreateEnumStmt.vals)
    if (replaced.has(keyOf(name))) return [{ kind: 'values', ...name, labels }]
  }
  return []
}

const KINDS: Record<string, Loss['kind']> = {
  OBJECT_TABLE: 'table',
  OBJECT_MATVIEW: 'materialized view',
  OBJECT_SCHEMA: 'schema',
  OBJECT_TYPE: 'type',
  OBJECT_DOMAIN: 'type',
  OBJECT_EXTENSION: 'extension',
  OBJECT_SEQUENCE: 'sequence',
}

async function lossesIn(
  { node, sql: text }: Statement,
  isNew: (name: Name) => boolean,
  newTypes: ReadonlySet<string>,
): Promise<Loss[]> {
  if ('DropStmt' in node) {
    const { removeType = '', objects, behavior } = node.DropStmt
    const kind = KINDS[removeType]
    if (!kind) return []
    const cascades = behavior === 'DROP_CASCADE' ? { cascades: true } : {}
    return droppedNames(objects)
      .map(named)
      .filter((name) => !isNew(name) && !(kind === 'type' && newTypes.has(keyOf(name))))
      .map((name) => ({ kind, ...name, ...cascades }))
  }
  if ('AlterTableStmt' in node) {
    const on = nameOf(node.AlterTableStmt.relation)
    if (node.AlterTableStmt.objtype !== 'OBJECT_TABLE' || isNew(on)) return []
    const ofColumn = (column: string) => ({ ...on, name: column, table: on.name, column })
    return commandsOf(node.AlterTableStmt.cmds).flatMap(({ subtype, name = '', def }): Loss[] => {
      if (subtype === 'AT_DropColumn') return [{ kind: 'column', ...ofColumn(name) }]
      if (subtype !== 'AT_AlterColumnType' || !def || !('ColumnDef' in def)) return []
      const to = shownType(typeOf(def.ColumnDef.typeName))
      return [{ kind: 'values', ...ofColumn(name), to }]
    })
  }
  if ('TruncateStmt' in node) {
    const cascades = node.TruncateStmt.behavior === 'DROP_CASCADE' ? { cascades: true } : {}
    return (node.TruncateStmt.relations ?? []).flatMap((each): Loss[] => {
      const name = 'RangeVar' in each ? nameOf(each.RangeVar) : undefined
      return name && !isNew(name) ? [{ kind: 'rows', ...name, table: name.name, ...cascades }] : []
    })
  }
  if ('DeleteStmt' in node || 'UpdateStmt' in node) {
    const isDelete = 'DeleteStmt' in node
    const { relation, whereClause } = isDelete ? node.DeleteStmt : node.UpdateStmt
    const joined = isDelete ? node.DeleteStmt.usingClause : node.UpdateStmt.fromClause
    const name = nameOf(relation)
    if (isNew(name)) return []
    // A condition on other tables too is left out: that counts too many rows rather than too few.
    const { withClause } = isDelete ? node.DeleteStmt : node.UpdateStmt
    const isSimple = whereClause && !joined && !withClause && !relation?.alias
    const where = isSimple ? await conditionOf(text) : undefined
    const kind = isDelete ? 'rows' : 'values'
    return [{ kind, ...name, table: name.name, ...(where ? { where } : {}) }]
  }
  return []
}

/** What is behind the WHERE of a DELETE or UPDATE. */
async function conditionOf(text: string): Promise<string | undefined> {
  const { scan } = await loadParser()
  let [depth, from, to] = [0, 0, 0]
  for (const { text: word, start, end } of scan(text)) {
    if (word === '(') depth++
    else if (word === ')') depth--
    if (depth === 0 && /^returning$/i.test(word)) break
    if (depth === 0 && from === 0 && /^where$/i.test(word)) from = end
    to = Math.max(end, start)
  }
  return from === 0 ? undefined : sliceBytes(text, from, to).trim()
}

export interface CountedLoss extends Loss {
  /** Rows, or values that are not null. 0 for what is not there. */
  readonly count: number
}

/**
 * Counts what a script would lose in a database as it is now: rows of tables, of a partitioned one all,
 * of a schema those of all its tables; values of a column that are not null. Null is no loss, and neither
 * is a change of type that keeps every value.
 *
 * @throws {ForbiddenError} without the right to read a table.
 */
export async function countLosses(db: Database, losses: readonly Loss[]): Promise<CountedLoss[]> {
  const counted: CountedLoss[] = []
  for (const loss of losses) counted.push({ ...loss, count: await countOf(db, loss) })
  return counted
}

async function countOf(db: Database, loss: Loss): Promise<number> {
  const { schema, kind, table, column, where, name, labels } = loss
  if (labels) {
    const of = sql`t.oid = to_regtype(${quotedName(loss)})`
    return countValuesOf(
      db,
      of,
      (value) =>
        sql`${value}::text <> all (array[${sql.join(
          labels.map((label) => sql`${label}`),
          sql`, `,
        )}]::text[])`,
    )
  }
  switch (kind) {
    case 'schema':
      return total(db, sql`n.nspname = ${name}`)
    case 'type':
      return loss.cascades ? countValuesOf(db, sql`t.oid = to_regtype(${quotedName(loss)})`) : 0
    case 'extension':
      return loss.cascades
        ? countValuesOf(
            db,
            sql`exists (select from pg_depend x join pg_extension e on e.oid = x.refobjid
              where x.objid = t.oid and x.deptype = 'e' and e.extname = ${name})`,
          )
        : 0
    case 'sequence':
      return (await exists(db, loss)) ? 1 : 0
    default: {
      const on = { ...(schema === undefined ? {} : { schema }), name: table ?? name }
      if (!(await exists(db, on))) return 0
      if (column !== undefined) return countColumn(db, on, column, loss.to)
      return count(db, on, where === undefined ? undefined : sql.raw(where))
    }
  }
}

async function count(db: Database, on: Name, condition?: SQL, column?: string): Promise<number> {
  const from = sql.raw(quotedName(on))
  const where = condition ? sql` where ${condition}` : sql``
  try {
    const [row] = await rowsOf<{ count: string }>(db, sql`select count(*) from ${from}${where}`)
    return Number(row?.count ?? 0)
  } catch (error) {
    // Another migrator may have dropped it since it was looked up.
    const found = column === undefined ? exists(db, on) : typeOfColumn(db, on, column)
    if (await found.catch(() => true)) throw error
    return 0
  }
}

async function exists(db: Database, on: Name): Promise<boolean> {
  const query = sql`select to_regclass(${quotedName(on)}) is not null as found`
  const [row] = await rowsOf<{ found: boolean }>(db, query)
  return row?.found === true
}

/** The rows of the tables of some schemas; those of a partition count with its parent's. */
async function total(db: Database, spaces: SQL): Promise<number> {
  const tables = await rowsOf<{ schema: string; name: string }>(
    db,
    sql`select n.nspname as schema, c.relname as name
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where ${spaces} and c.relkind in ('r', 'p') and not exists (
        select from pg_inherits i join pg_class p on p.oid = i.inhparent
        where i.inhrelid = c.oid and p.relnamespace = c.relnamespace)
      order by 1, 2`,
  )
  let rows = 0
  for (const each of tables) rows += await count(db, each)
  return rows
}

async function typeOfColumn(db: Database, on: Name, column: string): Promise<string | undefined> {
  const [found] = await rowsOf<{ type: string }>(
    db,
    sql`select format_type(atttypid, atttypmod) as type from pg_attribute
      where attrelid = to_regclass(${quotedName(on)}) and attname = ${column}
        and attnum > 0 and not attisdropped`,
  )
  return found?.type
}

async function countColumn(db: Database, on: Name, column: string, to?: string): Promise<number> {
  const type = await typeOfColumn(db, on, column)
  if (type === undefined) return 0
  if (to !== undefined) {
    const [before, after] = [await readType(type), await readType(to)]
    if (retypingOf(before, after).values === 'kept') return 0
  }
  return count(db, on, sql`${sql.identifier(column)} is not null`, column)
}

/** A type as the catalog writes it. */
async function readType(text: string): Promise<ColumnType> {
  const { parse } = await loadParser()
  const [statement] = parse(`select null::${text}`).stmts ?? []
  const node = statement?.stmt
  const [target] = node && 'SelectStmt' in node ? (node.SelectStmt.targetList ?? []) : []
  const value = target && 'ResTarget' in target ? target.ResTarget.val : undefined
  return typeOf(value && 'TypeCast' in value ? value.TypeCast.typeName : undefined)
}

/** The values of all columns of some types, which go with the type. */
async function countValuesOf(
  db: Database,
  types: SQL,
  condition = (value: SQL) => sql`${value} is not null`,
): Promise<number> {
  const columns = await rowsOf<{ schema: string; name: string; column: string }>(
    db,
    sql`select n.nspname as schema, c.relname as name, a.attname as column
      from pg_attribute a join pg_class c on c.oid = a.attrelid
      join pg_namespace n on n.oid = c.relnamespace
      join pg_type y on y.oid = a.atttypid join pg_type t on t.oid = coalesce(nullif(y.typelem, 0), y.oid)
      where ${types} and c.relkind in ('r', 'p') and not c.relispartition
        and a.attnum > 0 and not a.attisdropped`,
  )
  let values = 0
  for (const { column, ...on } of columns) {
    values += await count(db, on, condition(sql.raw(quoted(column))), column)
  }
  return values
}
