import type { Node } from 'libpg-query'
import { named, nameOf, quotedName, stringsOf } from './advice/names.ts'
import { commandsOf, type Parser, type Statement, statementsIn, textsOf } from './advice/parse.ts'

/** What a statement makes, drops or detaches: names in quotes. */
export type Target =
  | {
      readonly kind: 'create' | 'drop'
      /** Empty for one that Postgres is to name. */
      readonly index: string
    }
  | { readonly kind: 'detach'; readonly table: string; readonly partition: string }

/** What runs in one go: in a transaction of its own, or outside of any. */
export type Step =
  | {
      readonly kind: 'transaction'
      readonly statements: readonly string[]
      /** Why it may not run. */
      readonly refusal?: string
    }
  | {
      readonly kind: 'outside'
      readonly statement: string
      /** The form that a transaction takes, where there is one. */
      readonly plain: string | undefined
      /** What a crash may leave half done. */
      readonly target: Target | undefined
    }
  | { readonly kind: 'data'; readonly module: string }

const INDEX = /^((?:create\s+(?:unique\s+)?|drop\s+)index\s+)/i

/** The steps of a migration, by its directives: see docs/migrations.md. What cannot be read is left to the server. */
export function readSteps(parser: Parser, content: string): Step[] {
  const texts = textsOf(content)
  const { statements, problems } = statementsIn(parser, texts)
  const unread = problems.map(({ index }) => ({ index, text: texts[index]?.trim() ?? '' }))
  const read = statements.map((statement) => ({
    index: statement.index,
    text: [...statement.comments, statement.sql].join('\n'),
    statement,
  }))
  const steps: Step[] = []
  let together: string[] = []
  let refusal: string | undefined
  const close = () => {
    const refused = refusal === undefined ? {} : { refusal }
    if (together.length > 0) steps.push({ kind: 'transaction', statements: together, ...refused })
    together = []
    refusal = undefined
  }
  const all = [...read, ...unread].sort((a, b) => a.index - b.index)
  for (const { text, statement } of all as (
    | (typeof read)[number]
    | { text: string; statement?: undefined }
  )[]) {
    const outside = statement && outsideOf(statement, text)
    if (outside) {
      close()
      steps.push(outside)
      continue
    }
    if (statement?.directives.includes('step')) close()
    together.push(text)
    refusal ??= statement && refusalOf(statement)
  }
  close()
  return steps
}

/** What would run in another way than it is written. */
function refusalOf({ node, sql, comments, directives }: Statement): string | undefined {
  const kind = 'TransactionStmt' in node ? (node.TransactionStmt.kind ?? '') : ''
  if (kind !== '' && !/SAVEPOINT|_TO$|RELEASE/.test(kind)) {
    return `it has ${sql}, and its transaction is plinth's; for a new one write "-- plinth: step"`
  }
  const asked = comments.find((line) => /^--\s*plinth:/.test(line))
  if (asked && directives.length === 0) {
    return `"${asked}" is no directive; there are "-- plinth: concurrently" and "-- plinth: step"`
  }
  if (directives.includes('concurrently')) {
    return '"-- plinth: concurrently" stands above what is neither CREATE INDEX nor DROP INDEX'
  }
}

function outsideOf({ node, sql, directives }: Statement, text: string): Step | undefined {
  const target = targetOf(node)
  if (isOutside(node)) return { kind: 'outside', statement: sql, plain: undefined, target }
  if (!target || target.kind === 'detach' || !directives.includes('concurrently')) return
  return { kind: 'outside', statement: sql.replace(INDEX, '$1CONCURRENTLY '), plain: text, target }
}

/** Whether Postgres refuses it in a transaction. */
function isOutside(node: Node): boolean {
  if ('IndexStmt' in node) return node.IndexStmt.concurrent === true
  if ('DropStmt' in node) return node.DropStmt.concurrent === true
  if ('VacuumStmt' in node) return node.VacuumStmt.is_vacuumcmd === true
  if ('ReindexStmt' in node)
    return /concurrently/i.test(JSON.stringify(node.ReindexStmt.params ?? ''))
  if ('AlterTableStmt' in node) {
    return commandsOf(node.AlterTableStmt.cmds).some(
      ({ def }) =>
        def !== undefined && 'PartitionCmd' in def && def.PartitionCmd.concurrent === true,
    )
  }
  return ALONE.some((kind) => kind in node)
}

const ALONE = [
  'CreatedbStmt',
  'DropdbStmt',
  'AlterSystemStmt',
  'CreateTableSpaceStmt',
  'DropTableSpaceStmt',
]

function targetOf(node: Node): Target | undefined {
  if ('IndexStmt' in node) {
    const { idxname, relation } = node.IndexStmt
    const { schema } = nameOf(relation)
    const name = idxname && { ...(schema === undefined ? {} : { schema }), name: idxname }
    return { kind: 'create', index: name ? quotedName(name) : '' }
  }
  if ('DropStmt' in node && node.DropStmt.removeType === 'OBJECT_INDEX') {
    const [first] = node.DropStmt.objects ?? []
    if (!first || !('List' in first)) return
    return { kind: 'drop', index: quotedName(named(stringsOf(first.List.items))) }
  }
  if ('AlterTableStmt' in node) {
    const [command] = commandsOf(node.AlterTableStmt.cmds)
    if (command?.subtype !== 'AT_DetachPartition' || !command.def) return
    if (!('PartitionCmd' in command.def)) return
    const table = quotedName(nameOf(node.AlterTableStmt.relation))
    return { kind: 'detach', table, partition: quotedName(nameOf(command.def.PartitionCmd.name)) }
  }
}
