import type { AlterTableType, Node } from 'libpg-query'
import { keyOf, nameOf, stringsOf } from './names.ts'
import { commandsOf, type Statement, valuesUnder, wordsOf } from './parse.ts'
import { madeBy } from './targets.ts'

/** A statement that is put behind others. Where it says nothing of itself, all that follows stays behind it. */
export interface Late {
  /** The table that it is about. */
  readonly table?: string
  /** Its index or constraint. */
  readonly names?: readonly string[]
  /** Whether foreign keys may rest on it. */
  readonly isUnique?: boolean
  /** The words of its own SQL, functions among them. */
  readonly uses?: ReadonlySet<string>
  /** What is behind it only because it needs something late itself. */
  readonly statements?: readonly Statement[]
  /** Whether what follows in its place begins a transaction. */
  readonly endsTransaction?: boolean
}

/** Parts of an ALTER TABLE that take no interest in the table's indexes and constraints. */
const INDEPENDENT: readonly (AlterTableType | undefined)[] = [
  'AT_AddColumn',
  'AT_ColumnDefault',
  'AT_EnableRowSecurity',
  'AT_DisableRowSecurity',
  'AT_ForceRowSecurity',
  'AT_NoForceRowSecurity',
  'AT_SetStatistics',
  'AT_SetStorage',
  'AT_SetNotNull',
]

/** Kinds of statement that may name a table and take no interest in its indexes and constraints. */
const INDEPENDENT_KINDS = [
  'CreatePolicyStmt',
  'AlterPolicyStmt',
  'GrantStmt',
  'CreateTrigStmt',
  'CommentStmt',
  'IndexStmt',
  'CreateFunctionStmt',
]

/** What may do anything. */
const OPAQUE = [
  'DoStmt',
  'SelectStmt',
  'CallStmt',
  'ExecuteStmt',
  'VariableSetStmt',
  'TransactionStmt',
]

const kindOf = (node: Node): string => Object.keys(node)[0] ?? ''

/** Whether a statement has to stay behind a late one. In doubt it does. */
export function needs({ node }: Statement, late: Late): boolean {
  const kind = kindOf(node)
  if (OPAQUE.includes(kind)) return true
  if ([...valuesUnder(node, 'behavior')].includes('DROP_CASCADE')) return true
  const words = wordsOf(node)
  if (late.statements) return late.statements.some((each) => meets(node, each.node))
  const { table, names = [], uses } = late
  if (table === undefined) return true
  if ('CreateFunctionStmt' in node) {
    const name = stringsOf(node.CreateFunctionStmt.funcname).at(-1)
    if (name !== undefined && uses?.has(name)) return true
  }
  if (names.some((name) => words.has(name)) && !isNewColumnOnly(node)) return true
  if (!words.has(table.slice(table.indexOf('.') + 1))) return false
  if (late.isUnique && references(node, table)) return true
  if (kind === 'CreateStmt' || INDEPENDENT_KINDS.includes(kind)) return false
  if (!('AlterTableStmt' in node)) return true
  // Another table's, that only references this one.
  if (keyOf(nameOf(node.AlterTableStmt.relation)) !== table) return false
  return !commandsOf(node.AlterTableStmt.cmds).every(
    ({ subtype, def }) =>
      INDEPENDENT.includes(subtype) ||
      (subtype === 'AT_AddConstraint' &&
        def !== undefined &&
        'Constraint' in def &&
        ['CONSTR_CHECK', 'CONSTR_FOREIGN'].includes(def.Constraint.contype ?? '')),
  )
}

/** Whether one of two statements makes or changes what the other one speaks of. */
function meets(later: Node, earlier: Node): boolean {
  if (OPAQUE.includes(kindOf(earlier))) return true
  const [words, theirs] = [wordsOf(later), wordsOf(earlier)]
  const changed = madeBy(later).map(({ name }) => name)
  // A function, or something else that is not found by its name alone.
  if ('DropStmt' in later && changed.length === 0) return true
  const made = [...madeBy(earlier).map(({ name }) => name), ...valuesUnder(earlier, 'newname')]
  return (
    changed.some((name) => theirs.has(name)) ||
    made.some((name) => typeof name === 'string' && words.has(name))
  )
}

/** A column may have the name of an index that is built late. */
const isNewColumnOnly = (node: Node) =>
  'AlterTableStmt' in node &&
  commandsOf(node.AlterTableStmt.cmds).every(({ subtype }) => subtype === 'AT_AddColumn')

/** Whether a foreign key in it references the table. */
function references(node: Node, table: string): boolean {
  for (const found of valuesUnder(node, 'pktable'))
    if (typeof found === 'object' && found && keyOf(nameOf(found)) === table) return true
  return false
}
