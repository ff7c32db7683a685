import type { Node } from 'libpg-query'
import { adviseOnData, adviseOnObject } from './advice-objects.ts'
import { adviseOnTable } from './advice-table.ts'
import { type Lasting, type Lock, lockSentence, waitsOf } from './locks.ts'
import { keyOf, type Name, named, shownName, stringsOf } from './names.ts'
import { readStatements, type Statement, valuesUnder } from './parse.ts'
import { HERE, type Known, type KnownTable, nothingKnown, replay } from './replay.ts'
import { lint } from './squawk.ts'

/**
 * What a statement does to a database in use. `locks` and `rewrites`: others wait. `loses`: data are
 * gone or changed. `fails`: it may be refused, for the rows that are there or as it is. `breaks`: code
 * that was right before is not after it. `style`: it works, and there is a better way.
 */
export type Effect = 'locks' | 'rewrites' | 'loses' | 'fails' | 'breaks' | 'style'

/** What to know of a statement before it runs. */
export interface Advice {
  /** The index of the text that the statement is in. */
  readonly statement: number
  /** The line of that text, from 1. */
  readonly line: number
  readonly rule: string
  readonly effect: Effect
  /** The table that is locked or changed. */
  readonly table?: string
  readonly lock?: Lock
  readonly waits?: 'reads and writes' | 'writes'
  readonly lasts?: Lasting
  readonly message: string
  /** A safer way to the same end, in words or SQL. */
  readonly alternative?: string
}

export interface AdviceOptions {
  /** What is there before the first statement: `knownAfter` the migrations before it. */
  known?: Known
  /** The oldest major version of Postgres that it is for. */
  version?: number
  /** Whether squawk is asked too, where it is installed. */
  squawk?: boolean
}

/** A statement, and what it meets. */
export interface Situation {
  readonly statement: Statement
  readonly known: Known
  readonly version: number
  /** A table that is not made by the same migration: one that holds rows and is in use. */
  isInUse(name: Name): boolean
  tableOf(name: Name): KnownTable | undefined
  say(advice: Said): void
}

type Said = Omit<Advice, 'statement' | 'line' | 'table' | 'waits' | 'message'> & {
  on?: Name
  /** Behind the sentence that the lock makes; the whole message without a lock. */
  message?: string
}

/**
 * What the statements of a migration lock, rewrite, lose or break, in their order. What a migration makes
 * itself is empty and used by nobody: nothing is said of it.
 *
 * The rules are plinth's own, and squawk's for what those leave out.
 */
export async function adviseOn(
  texts: readonly string[],
  { known = nothingKnown(), version = 15, squawk = true }: AdviceOptions = {},
): Promise<Advice[]> {
  const { statements, problems } = await readStatements(texts)
  const found: Advice[] = problems.map(({ index, line, message }) => ({
    statement: index,
    line,
    rule: 'syntax',
    effect: 'fails',
    message: `cannot be read: ${message}`,
  }))
  const present = structuredClone(known)
  const added = new Map<string, string>()
  for (const statement of statements) {
    if (statement.directives.includes('step')) added.clear()
    const situation: Situation = {
      statement,
      known: present,
      version,
      tableOf: (name) => present.tables.get(keyOf(name)),
      isInUse: (name) => present.tables.get(keyOf(name))?.origin.migration !== HERE,
      say: (advice) => found.push(told(statement, advice, present)),
    }
    adviseOnTable(situation)
    adviseOnObject(situation)
    adviseOnData(situation)
    adviseOnEnum(situation, added)
    replay(present, statement, HERE)
  }
  if (squawk) found.push(...(await lint(texts, statements, { known, version })))
  return found.sort((a, b) => a.statement - b.statement || a.line - b.line)
}

function told(
  { index, line, node }: Statement,
  { on, message, ...advice }: Said,
  known: Known,
): Advice {
  const { lock, lasts } = advice
  const table = on && shownName(on)
  const isAll =
    on && known.tables.get(keyOf(on))?.isPartitioned && reachesPartitions(node, advice.rule)
  const locked = isAll ? `${table} and its partitions` : table
  const sentence = lock && lasts && locked ? lockSentence(lock, locked, lasts) : undefined
  const waits = lock && waitsOf(lock)
  return {
    statement: index,
    line,
    ...advice,
    ...(table ? { table } : {}),
    ...(waits ? { waits } : {}),
    message: [sentence, message].filter(Boolean).join('; '),
  }
}

/** Changes of a partitioned table that are its own. */
const OF_PARENT = [
  'row-security',
  'change-owner',
  'attach-partition',
  'detach-partition',
  'create-partition',
  'change-policy',
  'rename-table',
  'add-unique',
]

/** Whether what is done to a partitioned table is done to its partitions, which are locked with it. */
const reachesPartitions = (node: Node, rule: string): boolean =>
  !OF_PARENT.includes(rule) && !('ReindexStmt' in node)

/** A new value of an enum can be used once it is committed, unless its type is as new. */
function adviseOnEnum({ statement, known, say }: Situation, added: Map<string, string>): void {
  const { node } = statement
  if ('AlterEnumStmt' in node) {
    const { typeName, newVal, oldVal } = node.AlterEnumStmt
    const type = named(stringsOf(typeName))
    if (known.enums.get(keyOf(type))?.origin.migration === HERE) return
    if (newVal && !oldVal) added.set(newVal, shownName(type))
    if (oldVal) {
      say({
        rule: 'rename-enum-value',
        effect: 'breaks',
        message: `code that still says '${oldVal}' fails`,
      })
    }
    return
  }
  for (const value of valuesUnder(node, 'sval')) {
    const type = typeof value === 'string' ? added.get(value) : undefined
    if (!type) continue
    say({
      rule: 'enum-value-used',
      effect: 'fails',
      message: `'${value}' is a new value of ${type}, which cannot be used before the transaction that adds it is committed`,
      alternative:
        'put "-- plinth: step" above this statement, or use the value in a later migration',
    })
    return
  }
}
