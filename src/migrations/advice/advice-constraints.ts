import type { Constraint } from 'libpg-query'
import type { Situation } from './advice.ts'
import type { Altering } from './advice-table.ts'
import type { Lasting } from './locks.ts'
import { keyOf, type Name, nameOf, quotedName } from './names.ts'
import { columnsOf } from './replay.ts'

/** Says what a foreign key does to the table that it references. */
export function sayReferenced(
  { say, isInUse }: Situation,
  { pktable }: Constraint,
  lasts: Lasting,
): void {
  const on = nameOf(pktable)
  if (!isInUse(on)) return
  say({ rule: 'add-foreign-key', effect: 'locks', on, lock: 'SHARE ROW EXCLUSIVE', lasts })
}

/** Advice about a new constraint of a table in use; of one in a column’s definition, with that column. */
export function adviseOnConstraint(
  altering: Altering,
  constraint: Constraint,
  column?: string,
): void {
  const { on, say } = altering
  const name = constraint.conname ?? 'the constraint'
  const isValid = !constraint.skip_validation
  const later = `add it NOT VALID, and validate it in a step of its own: ALTER TABLE ${quotedName(on)} VALIDATE CONSTRAINT ${constraint.conname ?? '…'}`
  switch (constraint.contype) {
    case 'CONSTR_CHECK':
    case 'CONSTR_FOREIGN': {
      const isForeign = constraint.contype === 'CONSTR_FOREIGN'
      const rule = isForeign ? 'add-foreign-key' : 'add-check'
      say({
        rule,
        effect: 'locks',
        on,
        lock: isForeign ? 'SHARE ROW EXCLUSIVE' : 'ACCESS EXCLUSIVE',
        lasts: isValid ? 'scan' : 'moment',
        ...(isValid ? { alternative: later } : {}),
      })
      if (isForeign) sayReferenced(altering, constraint, isValid ? 'scan' : 'moment')
      const problem = isForeign ? 'references no row' : 'does not satisfy it'
      if (isValid) say({ rule, effect: 'fails', on, message: `refused if a row ${problem}` })
      break
    }
    case 'CONSTR_UNIQUE':
    case 'CONSTR_PRIMARY':
    case 'CONSTR_EXCLUSION': {
      const isExclusion = constraint.contype === 'CONSTR_EXCLUSION'
      const rule = isExclusion ? 'add-exclusion' : 'add-unique'
      const lock = { rule, on, effect: 'locks', lock: 'ACCESS EXCLUSIVE' } as const
      if (constraint.indexname) {
        const isPrimary = constraint.contype === 'CONSTR_PRIMARY'
        say({
          ...lock,
          lasts: 'moment',
          ...(isPrimary ? { message: 'and reads every row if a column may be null' } : {}),
        })
        return
      }
      const alternative = 'CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT … USING INDEX'
      const parts = altering.tableOf(on)?.isPartitioned
        ? { message: 'SHARE on its partitions, from Postgres 18 on ACCESS EXCLUSIVE' }
        : {}
      say({ ...lock, lasts: 'build', ...parts, ...(isExclusion ? {} : { alternative }) })
      const columns = columnsOf(constraint, column).join(', ')
      const message = isExclusion
        ? `refused if two rows conflict under ${name}`
        : `refused if two rows have the same ${columns}`
      say({ rule, effect: 'fails', on, message })
      break
    }
  }
}

/** Advice about ATTACH and DETACH PARTITION. */
export function adviseOnPartition(
  altering: Altering,
  partition: Name,
  subtype: 'AT_AttachPartition' | 'AT_DetachPartition',
  isConcurrent: boolean,
): void {
  const { on, say, tableOf, isInUse } = altering
  if (subtype === 'AT_DetachPartition') {
    const rule = 'detach-partition'
    const alternative = `DETACH PARTITION ${quotedName(partition)} CONCURRENTLY, outside of a transaction`
    if (isConcurrent) return
    const standard = defaultPartitionOf(altering)
    for (const each of [on, partition, ...(standard ? [standard] : [])]) {
      say({
        rule,
        effect: 'locks',
        on: each,
        lock: 'ACCESS EXCLUSIVE',
        lasts: 'moment',
        alternative,
      })
    }
    return
  }
  sayDefaultPartition(altering, 'attach-partition')
  if (!isInUse(partition)) return
  const checks = [...(tableOf(partition)?.constraints.values() ?? [])]
  const isChecked = checks.some(({ kind, isValid }) => kind === 'check' && isValid)
  say({
    rule: 'attach-partition',
    effect: 'locks',
    on: partition,
    lock: 'ACCESS EXCLUSIVE',
    lasts: 'scan',
    message: isChecked
      ? 'unless one of its checks already says what the bounds say'
      : 'and its rows must fit the bounds',
    alternative:
      'first add a check that says what the bounds say, NOT VALID, and validate it: attaching then reads nothing',
  })
}

const defaultPartitionOf = ({ known, on }: Altering): Name | undefined =>
  [...known.tables.values()].find(
    ({ partitionOf, isDefaultPartition }) => isDefaultPartition && partitionOf === keyOf(on),
  )?.name

/** A new partition takes from the default one what would be its rows: that one must have none. */
export function sayDefaultPartition(altering: Altering, rule: string): void {
  const on = defaultPartitionOf(altering)
  if (!on) return
  altering.say({
    rule,
    effect: 'locks',
    on,
    lock: 'ACCESS EXCLUSIVE',
    lasts: 'scan',
    message: 'refused if it has a row that belongs into the new partition',
  })
}
