import type { AlterTableCmd, AlterTableType, ColumnDef, Constraint, Node } from 'libpg-query'
import type { Situation } from './advice.ts'
import { adviseOnConstraint, adviseOnPartition, sayReferenced } from './advice-constraints.ts'
import type { Lasting, Lock } from './locks.ts'
import { type Name, nameOf, shownName, shownType, typeOf } from './names.ts'
import { commandsOf } from './parse.ts'
import { HERE } from './replay.ts'
import { retypingOf } from './retyping.ts'
import { volatileCall } from './volatility.ts'

/** What ALTER TABLE says of a table, with the table. */
export interface Altering extends Situation {
  readonly on: Name
}

/** Advice about ALTER TABLE, one part after the other. */
export function adviseOnTable(situation: Situation): void {
  const { node } = situation.statement
  if (!('AlterTableStmt' in node)) return
  const { relation, cmds, objtype } = node.AlterTableStmt
  const on = nameOf(relation)
  if (objtype !== 'OBJECT_TABLE' && objtype !== 'OBJECT_MATVIEW') return
  if (!situation.isInUse(on)) {
    for (const { def } of commandsOf(cmds)) referencedLock(situation, def)
    return
  }
  for (const command of commandsOf(cmds)) adviseOnCommand({ ...situation, on }, command)
}

/** A new table's foreign key locks a table that is in use, too. */
function referencedLock(situation: Situation, def: Node | undefined): void {
  if (def && 'Constraint' in def && def.Constraint.pktable) {
    sayReferenced(situation, def.Constraint, 'moment')
  }
}

/** Parts that lock the table for a moment and do nothing else. */
const BRIEF: Partial<Record<AlterTableType, [rule: string, lock: Lock]>> = {
  AT_DropNotNull: ['drop-not-null', 'ACCESS EXCLUSIVE'],
  AT_DropExpression: ['drop-expression', 'ACCESS EXCLUSIVE'],
  AT_SetStorage: ['set-storage', 'ACCESS EXCLUSIVE'],
  AT_SetCompression: ['set-storage', 'ACCESS EXCLUSIVE'],
  AT_ChangeOwner: ['change-owner', 'ACCESS EXCLUSIVE'],
  AT_AlterConstraint: ['alter-constraint', 'ACCESS EXCLUSIVE'],
  AT_AddIdentity: ['alter-identity', 'ACCESS EXCLUSIVE'],
  AT_SetIdentity: ['alter-identity', 'ACCESS EXCLUSIVE'],
  AT_DropIdentity: ['alter-identity', 'ACCESS EXCLUSIVE'],
  AT_DisableRowSecurity: ['row-security', 'ACCESS EXCLUSIVE'],
  AT_ForceRowSecurity: ['row-security', 'ACCESS EXCLUSIVE'],
  AT_NoForceRowSecurity: ['row-security', 'ACCESS EXCLUSIVE'],
  AT_ReplicaIdentity: ['replica-identity', 'ACCESS EXCLUSIVE'],
  AT_EnableTrig: ['switch-trigger', 'SHARE ROW EXCLUSIVE'],
  AT_DisableTrig: ['switch-trigger', 'SHARE ROW EXCLUSIVE'],
}

/** Parts that write the table anew. */
const REWRITING: Partial<Record<AlterTableType, [rule: string, why: string]>> = {
  AT_SetLogged: ['set-logged', 'and the table goes through the write-ahead log whole'],
  AT_SetUnLogged: ['set-unlogged', 'and after a crash it will be empty'],
  AT_SetAccessMethod: ['set-access-method', ''],
  AT_SetTableSpace: ['set-tablespace', 'all of it is copied'],
  AT_SetExpression: ['set-expression', 'every value is computed again'],
}

function adviseOnCommand(altering: Altering, { subtype, name = '', def }: AlterTableCmd): void {
  const { on, say, tableOf } = altering
  const locks = (rule: string, lasts: Lasting, message?: string, alternative?: string) =>
    say({
      rule,
      effect: 'locks',
      on,
      lock: 'ACCESS EXCLUSIVE',
      lasts,
      ...(message ? { message } : {}),
      ...(alternative ? { alternative } : {}),
    })
  const column = `${shownName(on)}.${name}`
  const [rule, lock] = (subtype && BRIEF[subtype]) ?? []
  if (rule && lock) say({ rule, effect: 'locks', on, lock, lasts: 'moment' })
  const [rewriting, why] = (subtype && REWRITING[subtype]) ?? []
  if (rewriting) {
    const message = why ? { message: why } : {}
    say({
      rule: rewriting,
      effect: 'rewrites',
      on,
      lock: 'ACCESS EXCLUSIVE',
      lasts: 'rewrite',
      ...message,
    })
  }
  switch (subtype) {
    case 'AT_AddColumn':
      if (def && 'ColumnDef' in def) adviseOnNewColumn(altering, def.ColumnDef)
      break
    case 'AT_DropColumn':
      locks('drop-column', 'moment')
      if (tableOf(on)?.columns.get(name)?.origin.migration !== HERE)
        say({
          rule: 'drop-column',
          effect: 'loses',
          on,
          message: `the values of ${column} are gone, and code that names the column fails`,
          alternative: 'release code that does not name it first, and drop it in a later migration',
        })
      break
    case 'AT_ColumnDefault':
      locks(def ? 'set-default' : 'drop-default', 'moment')
      if (!def) {
        const isNeeded = tableOf(on)?.columns.get(name)?.isNotNull
        say({
          rule: 'drop-default',
          effect: 'breaks',
          on,
          message: isNeeded
            ? `code that inserts without ${column} fails: it may not be null`
            : `code that inserts without ${column} leaves null there from now on`,
        })
      }
      break
    case 'AT_SetNotNull':
      adviseOnNotNull(altering, name)
      break
    case 'AT_AlterColumnType':
      if (def && 'ColumnDef' in def) adviseOnType(altering, name, def.ColumnDef)
      break
    case 'AT_AddConstraint':
      if (def && 'Constraint' in def) adviseOnConstraint(altering, def.Constraint)
      break
    case 'AT_DropConstraint': {
      locks('drop-constraint', 'moment')
      const { references } = tableOf(on)?.constraints.get(name) ?? {}
      const other =
        references === undefined ? undefined : altering.known.tables.get(references)?.name
      if (other && altering.isInUse(other)) {
        say({
          rule: 'drop-constraint',
          effect: 'locks',
          on: other,
          lock: 'ACCESS EXCLUSIVE',
          lasts: 'moment',
        })
      }
      break
    }
    case 'AT_EnableRowSecurity':
      locks('row-security', 'moment')
      if (!tableOf(on)?.policies.size)
        say({
          rule: 'row-security-without-policy',
          effect: 'breaks',
          on,
          message: `there is no policy for ${shownName(on)} yet: all but its owner see none of its rows, and write none`,
          alternative: 'create the policies first, in the same transaction',
        })
      break
    case 'AT_AttachPartition':
    case 'AT_DetachPartition':
      if (def && 'PartitionCmd' in def) {
        const { name: partition, concurrent } = def.PartitionCmd
        adviseOnPartition(altering, nameOf(partition), subtype, concurrent === true)
      }
      break
  }
}

function adviseOnNotNull({ on, say, tableOf }: Altering, column: string): void {
  const checks = [...(tableOf(on)?.constraints.values() ?? [])]
  const isChecked = checks.some(({ notNull, isValid }) => notNull === column && isValid)
  const isNotNull = tableOf(on)?.columns.get(column)?.isNotNull === true
  const lasts = isChecked || isNotNull ? 'moment' : 'scan'
  say({
    rule: 'set-not-null',
    effect: 'locks',
    on,
    lock: 'ACCESS EXCLUSIVE',
    lasts,
    ...(lasts === 'scan'
      ? {
          alternative: `add check ("${column}" is not null) not valid, validate it in a step of its own, then set not null, which finds the check and reads nothing`,
        }
      : {}),
  })
  if (lasts === 'moment') return
  say({ rule: 'set-not-null', effect: 'fails', on, message: `refused if a row has no ${column}` })
}

function adviseOnNewColumn(altering: Altering, column: ColumnDef): void {
  const { on, say } = altering
  const constraints = (column.constraints ?? []).flatMap((each) =>
    'Constraint' in each ? [each.Constraint] : [],
  )
  const of = (kind: Constraint['contype']) => constraints.find(({ contype }) => contype === kind)
  const name = column.colname ?? ''
  const value = of('CONSTR_DEFAULT')?.raw_expr
  const call = value && volatileCall(value, altering.known)
  const { generated_kind: kind } = of('CONSTR_GENERATED') ?? {}
  const isSerial = /^(small|big)?serial\d?$/.test(typeOf(column.typeName).base)
  const why = isSerial
    ? 'every row gets a number of its own'
    : of('CONSTR_IDENTITY')
      ? 'every row gets a number of its own'
      : kind && kind !== 'v'
        ? 'its value is computed and stored for every row'
        : call
          ? `${call} is called for every row`
          : undefined
  const isFilled = value !== undefined || why !== undefined
  const alternative = `add the column without it, then give it the default, then fill the rows in batches`
  const lock = { on, lock: 'ACCESS EXCLUSIVE' } as const
  if (why) {
    say({
      rule: 'add-column',
      effect: 'rewrites',
      ...lock,
      lasts: 'rewrite',
      message: why,
      alternative,
    })
  } else if (of('CONSTR_CHECK') || (of('CONSTR_FOREIGN') && isFilled)) {
    const alternative = 'add the column first, and the constraint NOT VALID after it'
    say({ rule: 'add-column', effect: 'locks', ...lock, lasts: 'scan', alternative })
  } else say({ rule: 'add-column', effect: 'locks', ...lock, lasts: 'moment' })

  if ((of('CONSTR_NOTNULL') || of('CONSTR_PRIMARY')) && !isFilled) {
    say({
      rule: 'add-required-column',
      effect: 'fails',
      on,
      message: `refused if ${shownName(on)} has rows: they would have no ${name}`,
      alternative: 'give it a default, or add it nullable, fill it, and set it not null',
    })
  }
  const key = of('CONSTR_UNIQUE') ?? of('CONSTR_PRIMARY')
  if (key) adviseOnConstraint(altering, key, name)
  const foreign = of('CONSTR_FOREIGN')
  if (foreign) sayReferenced(altering, foreign, isFilled ? 'scan' : 'moment')
}

function adviseOnType({ on, say, tableOf }: Altering, name: string, def: ColumnDef): void {
  const from = tableOf(on)?.columns.get(name)?.type
  const to = typeOf(def.typeName)
  const { raw_default: using } = def
  const { rewrites, values } = retypingOf(from, to, using && { expression: using, column: name })
  const change = from ? `${shownType(from)} → ${shownType(to)}` : `its type → ${shownType(to)}`
  const lock = { rule: 'alter-type', on, lock: 'ACCESS EXCLUSIVE' } as const
  if (rewrites === 'no') say({ ...lock, effect: 'locks', lasts: 'moment' })
  else {
    const utc = rewrites === 'unless UTC' ? '; not where the session’s time zone is UTC' : ''
    const unknown = from ? '' : '; what type it has is not known here'
    say({
      ...lock,
      effect: 'rewrites',
      lasts: 'rewrite',
      message: `${change}${utc}${unknown}`,
      alternative:
        'add a column of the new type, fill it in batches, and let code change over to it',
    })
  }
  const column = `${shownName(on)}.${name}`
  if (values === 'changed') {
    say({
      rule: 'alter-type',
      effect: 'loses',
      on,
      message: `${change}: values of ${column} are rounded or cut off`,
    })
  } else if (values === 'refused') {
    say({
      rule: 'alter-type',
      effect: 'fails',
      on,
      message: `${change}: refused if a value of ${column} does not fit`,
    })
  }
}
