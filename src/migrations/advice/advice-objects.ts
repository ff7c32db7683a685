import type { DefElem, DropStmt, IndexStmt, Node, RenameStmt } from 'libpg-query'
import type { Situation } from './advice.ts'
import { sayDefaultPartition, sayReferenced } from './advice-constraints.ts'
import { LOCKS } from './locks.ts'
import { keyOf, type Name, named, nameOf, quotedName, shownName, stringsOf } from './names.ts'
import { droppedNames, HERE } from './replay.ts'

/** Advice about what makes, drops and renames objects, and about what keeps indexes and views in order. */
export function adviseOnObject(situation: Situation): void {
  const { say, isInUse, known, statement } = situation
  const { node } = statement
  if ('CreateStmt' in node) adviseOnNewTable(situation, node)
  else if ('IndexStmt' in node) adviseOnIndex(situation, node.IndexStmt)
  else if ('DropStmt' in node) adviseOnDrop(situation, node.DropStmt)
  else if ('RenameStmt' in node) adviseOnRename(situation, node.RenameStmt)
  else if ('CreateTrigStmt' in node) {
    const on = nameOf(node.CreateTrigStmt.relation)
    const lock = 'SHARE ROW EXCLUSIVE'
    if (isInUse(on)) say({ rule: 'create-trigger', effect: 'locks', on, lock, lasts: 'moment' })
  } else if ('CreatePolicyStmt' in node || 'AlterPolicyStmt' in node) {
    const { table } = 'CreatePolicyStmt' in node ? node.CreatePolicyStmt : node.AlterPolicyStmt
    const on = nameOf(table)
    const lock = 'ACCESS EXCLUSIVE'
    if (isInUse(on)) say({ rule: 'change-policy', effect: 'locks', on, lock, lasts: 'moment' })
  } else if ('ViewStmt' in node) {
    const on = nameOf(node.ViewStmt.view)
    if (!node.ViewStmt.replace || !known.tables.has(keyOf(on)) || !isInUse(on)) return
    const rule = 'replace-view'
    say({ rule, effect: 'locks', on, lock: 'ACCESS EXCLUSIVE', lasts: 'moment' })
    say({
      rule,
      effect: 'fails',
      on,
      message:
        'refused if a column that the view has is gone, renamed, moved, or of another type: columns can only be added behind',
      alternative: 'drop the view and what depends on it, and create it again',
    })
  } else if ('RefreshMatViewStmt' in node) {
    const on = nameOf(node.RefreshMatViewStmt.relation)
    const isConcurrent = node.RefreshMatViewStmt.concurrent === true
    if (!isInUse(on)) return
    const alternative = 'REFRESH MATERIALIZED VIEW CONCURRENTLY, which needs a unique index on it'
    say({
      rule: 'refresh-materialized-view',
      effect: isConcurrent ? 'locks' : 'rewrites',
      on,
      lock: isConcurrent ? 'EXCLUSIVE' : 'ACCESS EXCLUSIVE',
      lasts: isConcurrent ? 'scan' : 'rewrite',
      ...(isConcurrent ? {} : { alternative }),
    })
  } else adviseOnUpkeep(situation, node)
}

function adviseOnNewTable(
  situation: Situation,
  { CreateStmt: statement }: Extract<Node, { CreateStmt: unknown }>,
): void {
  for (const element of statement.tableElts ?? []) {
    const constraints =
      'Constraint' in element
        ? [element]
        : 'ColumnDef' in element
          ? (element.ColumnDef.constraints ?? [])
          : []
    for (const each of constraints) {
      if (!('Constraint' in each) || !each.Constraint.pktable) continue
      const isSelf = keyOf(nameOf(each.Constraint.pktable)) === keyOf(nameOf(statement.relation))
      if (!isSelf) sayReferenced(situation, each.Constraint, 'moment')
    }
  }
  const [parent] = statement.inhRelations ?? []
  if (!statement.partbound || !parent || !('RangeVar' in parent)) return
  const on = nameOf(parent.RangeVar)
  if (!situation.isInUse(on)) return
  situation.say({
    rule: 'create-partition',
    effect: 'locks',
    on,
    lock: 'ACCESS EXCLUSIVE',
    lasts: 'moment',
    alternative: `CREATE TABLE … (LIKE ${quotedName(on)} INCLUDING ALL), then ATTACH PARTITION, which lets reads and writes go on`,
  })
  sayDefaultPartition({ ...situation, on }, 'create-partition')
}

/** Whether plinth runs it as CONCURRENTLY, though it is written plainly. */
const isMarked = ({ statement }: Situation) => statement.directives.includes('concurrently')

function adviseOnIndex(situation: Situation, index: IndexStmt): void {
  const { say, isInUse, tableOf } = situation
  const on = nameOf(index.relation)
  if (!isInUse(on)) return
  if (index.unique) {
    const message = 'refused if two rows have the same values'
    say({ rule: 'create-index', effect: 'fails', on, message })
  }
  if (index.concurrent || isMarked(situation)) return
  const alternative = tableOf(on)?.isPartitioned
    ? 'on each partition CREATE INDEX CONCURRENTLY; then on the parent CREATE INDEX … ON ONLY, and attach them'
    : 'CREATE INDEX CONCURRENTLY, outside of a transaction ("-- plinth: concurrently" above it)'
  say({ rule: 'create-index', effect: 'locks', on, lock: 'SHARE', lasts: 'build', alternative })
}

type Removed = NonNullable<DropStmt['removeType']>

/** What is gone with an object of a kind, besides itself. */
const LOST: Partial<Record<Removed, [rule: string, what: string]>> = {
  OBJECT_TABLE: ['drop-table', 'all its rows are gone, and code that names it fails'],
  OBJECT_FOREIGN_TABLE: ['drop-table', 'code that names it fails; the rows stay where they are'],
  OBJECT_MATVIEW: ['drop-materialized-view', 'its rows are gone until it is built again'],
  OBJECT_SCHEMA: ['drop-schema', 'all that is in it is gone, the rows of its tables too'],
  OBJECT_SEQUENCE: ['drop-sequence', 'where it had got to is gone'],
  OBJECT_TYPE: ['drop-type', 'with CASCADE every column of the type is gone, with its values'],
  OBJECT_DOMAIN: ['drop-type', 'with CASCADE every column of the type is gone, with its values'],
  OBJECT_EXTENSION: ['drop-extension', 'with CASCADE columns and indexes of its types are gone'],
}

const BROKEN: Partial<Record<Removed, string>> = {
  OBJECT_VIEW: 'drop-view',
  OBJECT_FUNCTION: 'drop-function',
  OBJECT_PROCEDURE: 'drop-function',
  OBJECT_ROUTINE: 'drop-function',
}

function adviseOnDrop(situation: Situation, statement: DropStmt): void {
  const { say, isInUse, known, tableOf } = situation
  const { removeType = 'OBJECT_TABLE', objects, behavior } = statement
  if (behavior === 'DROP_CASCADE') {
    const message = 'CASCADE drops whatever depends on it, without a word about what that is'
    say({
      rule: 'drop-cascade',
      effect: 'style',
      message,
      alternative: 'drop what depends on it by name',
    })
  }
  const brief = (rule: string, on: Name, alternative?: string) =>
    say({
      rule,
      effect: 'locks',
      on,
      lock: 'ACCESS EXCLUSIVE',
      lasts: 'moment',
      ...(alternative ? { alternative } : {}),
    })
  if (BROKEN[removeType]) {
    say({ rule: BROKEN[removeType], effect: 'breaks', message: 'code that uses it fails' })
  }
  for (const words of droppedNames(objects)) {
    const on = named(words)
    const [rule, what] = LOST[removeType] ?? []
    if (removeType === 'OBJECT_INDEX') {
      const index = known.indexes.get(keyOf(on))
      const table = index && known.tables.get(index.table)?.name
      if (statement.concurrent || isMarked(situation) || (table && !isInUse(table))) continue
      const alternative = 'DROP INDEX CONCURRENTLY ("-- plinth: concurrently" above it)'
      brief('drop-index', table ?? on, alternative)
    } else if (removeType === 'OBJECT_TRIGGER' || removeType === 'OBJECT_POLICY') {
      const table = named(words.slice(0, -1))
      const rule = removeType === 'OBJECT_POLICY' ? 'change-policy' : 'drop-trigger'
      if (isInUse(table)) brief(rule, table)
    } else if (rule && what) {
      const isRelation = removeType === 'OBJECT_TABLE' || removeType === 'OBJECT_MATVIEW'
      if (isRelation && !isInUse(on)) continue
      if (known.enums.get(keyOf(on))?.origin.migration === HERE) continue
      if (isRelation) brief(rule, on)
      for (const { references } of tableOf(on)?.constraints.values() ?? []) {
        const other = references === undefined ? undefined : known.tables.get(references)?.name
        if (isRelation && other && isInUse(other)) brief(rule, other)
      }
      say({ rule, effect: 'loses', on, message: `${shownName(on)}: ${what}` })
    } else if (removeType === 'OBJECT_VIEW' && isInUse(on)) brief('drop-view', on)
  }
}

function adviseOnRename({ say, isInUse }: Situation, statement: RenameStmt): void {
  const { renameType, relation, subname = '', newname = '' } = statement
  const on = nameOf(relation)
  if (!relation || !isInUse(on) || renameType === 'OBJECT_INDEX') return
  const isColumn = renameType === 'OBJECT_COLUMN'
  const isRelation = /TABLE$|VIEW$/.test(renameType ?? '')
  const rule = isColumn ? 'rename-column' : isRelation ? 'rename-table' : 'rename-object'
  say({ rule, effect: 'locks', on, lock: 'ACCESS EXCLUSIVE', lasts: 'moment' })
  if (!isColumn && !isRelation) return
  say({
    rule,
    effect: 'breaks',
    on,
    message: `code that still says ${isColumn ? subname : shownName(on)} instead of ${newname} fails from now on`,
    alternative: isColumn
      ? 'add a column of the new name, write both, fill it, read the new one, drop the old one later'
      : 'rename it and leave a view under the old name until no code uses that',
  })
}

const hasOption = (options: readonly Node[] | undefined, name: string) =>
  (options ?? []).some((node) => 'DefElem' in node && isSet(node.DefElem, name))

const isSet = ({ defname, arg }: DefElem, name: string) =>
  defname === name && !(arg && 'String' in arg && /^(false|off|0)$/.test(arg.String.sval ?? ''))

/** REINDEX, CLUSTER and VACUUM FULL. */
function adviseOnUpkeep({ say, isInUse, known }: Situation, node: Node): void {
  if ('ReindexStmt' in node) {
    const { kind, relation, params } = node.ReindexStmt
    if (hasOption(params, 'concurrently')) return
    const isIndex = kind === 'REINDEX_OBJECT_INDEX'
    const found = nameOf(relation)
    const table = known.indexes.get(keyOf(found))?.table
    const on = (isIndex && table !== undefined && known.tables.get(table)?.name) || found
    const alternative = 'REINDEX … CONCURRENTLY, outside of a transaction'
    if (!relation || !isInUse(on)) return
    say({ rule: 'reindex', effect: 'locks', on, lock: 'SHARE', lasts: 'build', alternative })
  } else if ('ClusterStmt' in node) {
    const on = nameOf(node.ClusterStmt.relation)
    if (!node.ClusterStmt.relation || !isInUse(on)) return
    say({ rule: 'cluster', effect: 'rewrites', on, lock: 'ACCESS EXCLUSIVE', lasts: 'rewrite' })
  } else if ('VacuumStmt' in node && hasOption(node.VacuumStmt.options, 'full')) {
    for (const each of node.VacuumStmt.rels ?? []) {
      if (!('VacuumRelation' in each)) continue
      const on = nameOf(each.VacuumRelation.relation)
      const rule = 'vacuum-full'
      say({
        rule,
        effect: 'rewrites',
        on,
        lock: 'ACCESS EXCLUSIVE',
        lasts: 'rewrite',
        alternative: 'VACUUM without FULL, which lets reads and writes go on',
      })
      say({
        rule,
        effect: 'fails',
        on,
        message: 'VACUUM cannot run in a transaction, and so in no migration',
      })
    }
  } else if ('AlterDomainStmt' in node) {
    const { subtype, typeName, def } = node.AlterDomainStmt
    const isValid = !(def && 'Constraint' in def && def.Constraint.skip_validation)
    // Postgres's letters for ADD CONSTRAINT and SET NOT NULL.
    if ((subtype !== 'C' && subtype !== 'O') || !isValid) return
    const name = shownName(named(stringsOf(typeName)))
    say({
      rule: 'alter-domain',
      effect: 'fails',
      message: `reads every table that has a column of ${name} while their writes wait; refused if a value does not satisfy it`,
      alternative: 'add it NOT VALID, and validate it in a step of its own',
    })
  }
}

/** Advice about what deletes or changes all rows of a table. */
export function adviseOnData({ say, isInUse, statement: { node } }: Situation): void {
  if ('TruncateStmt' in node) {
    for (const each of node.TruncateStmt.relations ?? []) {
      if (!('RangeVar' in each)) continue
      const on = nameOf(each.RangeVar)
      if (!isInUse(on)) continue
      say({ rule: 'truncate', effect: 'locks', on, lock: 'ACCESS EXCLUSIVE', lasts: 'moment' })
      say({
        rule: 'truncate',
        effect: 'loses',
        on,
        message: `all rows of ${shownName(on)} are gone`,
      })
    }
    if (node.TruncateStmt.behavior === 'DROP_CASCADE') {
      const message =
        'CASCADE empties every table that references these, without a word about which'
      say({ rule: 'truncate', effect: 'loses', message })
    }
  } else if ('DeleteStmt' in node || 'UpdateStmt' in node) {
    const isDelete = 'DeleteStmt' in node
    const { relation, whereClause } = isDelete ? node.DeleteStmt : node.UpdateStmt
    const on = nameOf(relation)
    if (whereClause || !isInUse(on)) return
    say({
      rule: isDelete ? 'delete-all' : 'update-all',
      effect: 'loses',
      on,
      lock: 'ROW EXCLUSIVE',
      message: isDelete
        ? `all rows of ${shownName(on)} are gone`
        : `all rows of ${shownName(on)} are written again: what they had is gone, and writes to any of them wait until the transaction ends`,
      alternative: 'a data migration, which goes through the rows in batches',
    })
  } else if ('LockStmt' in node) {
    for (const each of node.LockStmt.relations ?? []) {
      if (!('RangeVar' in each)) continue
      const on = nameOf(each.RangeVar)
      const lock = LOCKS[(node.LockStmt.mode ?? LOCKS.length) - 1] ?? 'ACCESS EXCLUSIVE'
      if (isInUse(on)) say({ rule: 'lock-table', effect: 'locks', on, lock, lasts: 'moment' })
    }
  }
}
