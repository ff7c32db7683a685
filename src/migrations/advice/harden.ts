import type { AlterTableCmd, Constraint } from 'libpg-query'
import { type Late, needs } from './harden-order.ts'
import { keyOf, type Name, named, nameOf, quoted, quotedName, stringsOf } from './names.ts'
import { commandsOf, parseStatements, type Statement, splitAtCommas, wordsOf } from './parse.ts'
import { droppedNames, HERE, type Known, nothingKnown, replay } from './replay.ts'

export interface HardenOptions {
  /** What is there before the first statement: `knownAfter` the migrations before it. */
  known?: Known
  /** Partitioned tables, and indexes of such, as `schema.name`: those of `known` besides. */
  partitioned?: Iterable<string>
  /** The oldest major version of Postgres that it is for. */
  version?: number
}

/** A statement of the result. */
interface Piece {
  text: string
  /** What it keeps behind itself, where it is not run with the rest. */
  late?: Late
}

interface Context {
  readonly known: Known
  readonly version: number
  /** Tables of which the migration drops a constraint: what comes instead of it must not wait. */
  readonly replaced: ReadonlySet<string>
  /** Tables and materialized views that the migration drops: their indexes need no care. */
  readonly dropped: ReadonlySet<string>
  isPartitioned(key: string): boolean
  isInUse(name: Name): boolean
}

const STEP = '-- plinth: step'
const CONCURRENTLY = '-- plinth: concurrently'

/**
 * The statements of a migration in a form that keeps nobody waiting for longer than a moment: indexes of
 * tables in use are built concurrently and constraints validated on their own, after everything that
 * does not need them. Run one after the other, in one transaction or in many, the result makes the same
 * catalog. What touches only tables that it makes itself comes back as it is.
 *
 * @throws {MigrationError} for what Postgres's parser refuses.
 */
export async function harden(
  texts: readonly string[],
  { known = nothingKnown(), partitioned = [], version = 15 }: HardenOptions = {},
): Promise<string[]> {
  const present = structuredClone(known)
  const also = new Set(partitioned)
  const statements = await parseStatements(texts)
  const context: Context = {
    known: present,
    version,
    replaced: replacedBy(statements),
    dropped: droppedBy(statements),
    isPartitioned: (key) => also.has(key) || present.tables.get(key)?.isPartitioned === true,
    isInUse: (name) => present.tables.get(keyOf(name))?.origin.migration !== HERE,
  }
  const first: Piece[] = []
  const late: (Piece & { late: Late })[] = []
  let hasNewValue = false
  for (const [index, text] of texts.entries()) {
    const own = statements.filter((statement) => statement.index === index)
    const [statement] = own
    // Only comments: they stay where they are.
    if (!statement) {
      first.push({ text })
      continue
    }
    const isAlone = own.length === 1 && statement.directives.length === 0
    const pieces = isAlone ? await hardened(statement, text, context) : [{ text }]
    const isNewValue = own.length === 1 && addsValue(statement, context)
    // What stands behind something that had to stay behind may need that in turn: its order is kept.
    const isKept = late.some(
      (each) => each.late.statements !== undefined || own.some((one) => needs(one, each.late)),
    )
    for (const each of own) replay(present, each, HERE)
    for (const piece of pieces) {
      if (piece.late) late.push({ ...piece, late: piece.late })
      else if (isKept) {
        // What may have taken long, or what can be used once it is committed, is committed first.
        const isStep = isNewValue || late.at(-1)?.late.endsTransaction
        const text = isStep ? marked(piece.text, statement, STEP) : piece.text
        late.push({ text, late: { statements: own, endsTransaction: isNewValue } })
      } else {
        const isStep = first.length > 0 && isNewValue !== hasNewValue
        first.push({ text: isStep ? marked(piece.text, statement, STEP) : piece.text })
        hasNewValue = isNewValue
      }
    }
  }
  return [...first, ...late].map(({ text }) => text)
}

const addsValue = ({ node }: Statement, { known }: Context): boolean => {
  if (!('AlterEnumStmt' in node) || !node.AlterEnumStmt.newVal || node.AlterEnumStmt.oldVal) {
    return false
  }
  const type = keyOf(named(stringsOf(node.AlterEnumStmt.typeName)))
  return known.enums.get(type)?.origin.migration !== HERE
}

/** The tables of which the migration drops a constraint. */
const replacedBy = (statements: readonly Statement[]): ReadonlySet<string> =>
  new Set(
    statements.flatMap(({ node }) =>
      'AlterTableStmt' in node &&
      commandsOf(node.AlterTableStmt.cmds).some(({ subtype }) => subtype === 'AT_DropConstraint')
        ? [keyOf(nameOf(node.AlterTableStmt.relation))]
        : [],
    ),
  )

const droppedBy = (statements: readonly Statement[]): ReadonlySet<string> =>
  new Set(
    statements.flatMap(({ node }) =>
      'DropStmt' in node && /TABLE|MATVIEW/.test(node.DropStmt.removeType ?? '')
        ? droppedNames(node.DropStmt.objects).map((words) => keyOf(named(words)))
        : [],
    ),
  )

/** A directive directly above the statement, below the comments that it has. */
function marked(text: string, { sql, directives }: Statement, directive: string): string {
  if (directives.length > 0) return text
  const at = Math.max(text.indexOf(sql), 0)
  return `${text.slice(0, at)}${directive}\n${text.slice(at)}`
}

async function hardened(statement: Statement, text: string, context: Context): Promise<Piece[]> {
  const { node } = statement
  if ('IndexStmt' in node) {
    const { relation, concurrent, idxname: index, unique } = node.IndexStmt
    const table = nameOf(relation)
    const isPlain = concurrent || !index || context.isPartitioned(keyOf(table))
    if (isPlain || !context.isInUse(table)) return [{ text }]
    const late = {
      table: keyOf(table),
      names: [index],
      isUnique: unique === true,
      uses: wordsOf(node),
    }
    return [{ text: marked(text, statement, CONCURRENTLY), late }]
  }
  if ('DropStmt' in node) return hardenedDrop(statement, text, context)
  if (!('AlterTableStmt' in node)) return [{ text }]
  const { relation, cmds, objtype } = node.AlterTableStmt
  const table = nameOf(relation)
  if (objtype !== 'OBJECT_TABLE' || !context.isInUse(table)) return [{ text }]
  const commands = commandsOf(cmds)
  const [command] = commands
  if (commands.length === 1 && command?.subtype === 'AT_SetNotNull') {
    return hardenedNotNull(table, command.name ?? '', text, statement, context)
  }
  const constraint =
    command?.def && 'Constraint' in command.def ? command.def.Constraint : undefined
  if (commands.length === 1 && constraint && canUseIndex(table, constraint, context)) {
    return hardenedKey(table, constraint, context)
  }
  return hardenedChecks(table, commands, text, statement, context)
}

function hardenedDrop(statement: Statement, text: string, context: Context): Piece[] {
  if (!('DropStmt' in statement.node)) return [{ text }]
  const { removeType, objects, behavior, concurrent, missing_ok } = statement.node.DropStmt
  if (removeType !== 'OBJECT_INDEX' || concurrent || behavior === 'DROP_CASCADE') return [{ text }]
  const indexes = droppedNames(objects).map(named)
  const isPlain = indexes.some((index) => {
    const { table, backsConstraint } = context.known.indexes.get(keyOf(index)) ?? {}
    const on = table === undefined ? undefined : context.known.tables.get(table)?.name
    return (
      backsConstraint ||
      (table !== undefined && context.dropped.has(table)) ||
      context.isPartitioned(table ?? keyOf(index)) ||
      context.isPartitioned(keyOf(index)) ||
      (on !== undefined && !context.isInUse(on))
    )
  })
  if (isPlain) return [{ text }]
  return indexes.map((index) => {
    const { table } = context.known.indexes.get(keyOf(index)) ?? {}
    const late: Late = table === undefined ? {} : { table, names: [index.name] }
    // CONCURRENTLY takes one index at a time.
    return indexes.length === 1
      ? { text: marked(text, statement, CONCURRENTLY), late }
      : {
          text: `${CONCURRENTLY}\nDROP INDEX ${missing_ok ? 'IF EXISTS ' : ''}${quotedName(index)};`,
          late,
        }
  })
}

/** The name of the check that stands in for NOT NULL meanwhile, in the 63 bytes that Postgres keeps. */
const standIn = (column: string): string => {
  const suffix = '_not_null_check'
  let name = column
  while (Buffer.byteLength(name) + suffix.length > 63) name = name.slice(0, -1)
  return name + suffix
}

/** The columns that may be null, of which no valid check says otherwise. */
const nullable = (table: Name, columns: readonly string[], { known }: Context): string[] => {
  const found = known.tables.get(keyOf(table))
  const checks = [...(found?.constraints.values() ?? [])]
  return columns.filter(
    (column) =>
      !found?.columns.get(column)?.isNotNull &&
      !checks.some(({ notNull, isValid }) => notNull === column && isValid),
  )
}

function hardenedNotNull(
  table: Name,
  column: string,
  text: string,
  statement: Statement,
  context: Context,
): Piece[] {
  if (nullable(table, [column], context).length === 0) return [{ text }]
  return notNull(table, column, marked(text, statement, STEP))
}

function notNull(table: Name, column: string, setNotNull: string): Piece[] {
  const alter = `ALTER TABLE ${quotedName(table)}`
  const check = standIn(column)
  const late: Late = { table: keyOf(table), names: [check] }
  return [
    {
      text: `${alter} ADD CONSTRAINT ${quoted(check)} CHECK (${quoted(column)} IS NOT NULL) NOT VALID;`,
    },
    {
      text: `${STEP}\n${alter} VALIDATE CONSTRAINT ${quoted(check)};`,
      late: { ...late, endsTransaction: true },
    },
    { text: setNotNull, late },
    { text: `${alter} DROP CONSTRAINT ${quoted(check)};`, late },
  ]
}

function canUseIndex(table: Name, constraint: Constraint, context: Context): boolean {
  const { contype, conname, indexname, options, indexspace, without_overlaps } = constraint
  return (
    (contype === 'CONSTR_UNIQUE' || contype === 'CONSTR_PRIMARY') &&
    conname !== undefined &&
    !indexname &&
    !options &&
    !indexspace &&
    !without_overlaps &&
    !context.isPartitioned(keyOf(table)) &&
    // Between the old key and the new one nothing would keep rows apart.
    !context.replaced.has(keyOf(table))
  )
}

/** A unique or primary key as an index that is built concurrently, and then made the constraint's. */
function hardenedKey(table: Name, constraint: Constraint, context: Context): Piece[] {
  const alter = `ALTER TABLE ${quotedName(table)}`
  const { conname = '', deferrable, initdeferred, nulls_not_distinct } = constraint
  const list = (names: readonly string[]) => `(${names.map(quoted).join(', ')})`
  const columns = stringsOf(constraint.keys)
  const including = stringsOf(constraint.including)
  const index = [
    `CREATE UNIQUE INDEX ${quoted(conname)} ON ${quotedName(table)} ${list(columns)}`,
    ...(including.length > 0 ? [`INCLUDE ${list(including)}`] : []),
    ...(nulls_not_distinct ? ['NULLS NOT DISTINCT'] : []),
  ].join(' ')
  const isPrimary = constraint.contype === 'CONSTR_PRIMARY'
  const key = [
    `${alter} ADD CONSTRAINT ${quoted(conname)} ${isPrimary ? 'PRIMARY KEY' : 'UNIQUE'}`,
    `USING INDEX ${quoted(conname)}`,
    ...(deferrable ? ['DEFERRABLE'] : []),
    ...(initdeferred ? ['INITIALLY DEFERRED'] : []),
  ].join(' ')
  const late: Late = { table: keyOf(table), names: [conname], isUnique: true }
  const required = isPrimary ? nullable(table, columns, context) : []
  return [
    ...required.flatMap((column) =>
      notNull(table, column, `${STEP}\n${alter} ALTER COLUMN ${quoted(column)} SET NOT NULL;`),
    ),
    { text: `${CONCURRENTLY}\n${index};`, late },
    { text: `${key};`, late },
  ]
}

/** Checks and foreign keys as NOT VALID, each with a validation. */
async function hardenedChecks(
  table: Name,
  commands: readonly AlterTableCmd[],
  text: string,
  statement: Statement,
  context: Context,
): Promise<Piece[]> {
  const canWait = ({ def }: AlterTableCmd): string | undefined => {
    const constraint = def && 'Constraint' in def ? def.Constraint : undefined
    const { contype, conname, skip_validation, is_enforced } = constraint ?? {}
    const isForeign = contype === 'CONSTR_FOREIGN'
    if (skip_validation || is_enforced === false) return
    if (!isForeign && contype !== 'CONSTR_CHECK') return
    if (isForeign && context.version < 18 && context.isPartitioned(keyOf(table))) return
    return conname
  }
  const names = commands.map(canWait)
  if (names.every((name) => name === undefined)) return [{ text }]
  const parts = await splitAtCommas(statement.sql)
  if (parts.length !== commands.length) return [{ text }]
  const sql = parts.map((part, at) => (names[at] ? `${part} NOT VALID` : part)).join(',')
  const alter = `ALTER TABLE ${quotedName(table)}`
  return [
    { text: text.replace(statement.sql, () => sql) },
    ...names.flatMap((name) =>
      name === undefined
        ? []
        : [
            {
              text: `${STEP}\n${alter} VALIDATE CONSTRAINT ${quoted(name)};`,
              late: { table: keyOf(table), names: [name], endsTransaction: true },
            },
          ],
    ),
  ]
}
