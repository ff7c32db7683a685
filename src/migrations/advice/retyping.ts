import type { Node } from 'libpg-query'
import { type ColumnType, stringsOf, typeOf } from './names.ts'

/** What a column's new type does to the table and to the values in it. */
export interface Retyping {
  /** `unless UTC`: not where the session's time zone is UTC. */
  rewrites: 'no' | 'yes' | 'unless UTC'
  /** `changed`: rounded or cut off. `refused`: the statement fails at a value that does not fit. */
  values: 'kept' | 'changed' | 'refused'
}

const result = (rewrites: Retyping['rewrites'], values: Retyping['values']): Retyping => ({
  rewrites,
  values,
})

/** Types of which Postgres reads one as the other, byte by byte. */
const SAME_BYTES: Record<string, readonly string[]> = {
  varchar: ['text', 'varchar'],
  text: ['text', 'varchar'],
  cidr: ['inet'],
  xml: ['text', 'varchar'],
  bit: ['varbit'],
  varbit: ['varbit'],
}

/** Types whose every value the other one can hold. */
const WIDER: Record<string, readonly string[]> = {
  int2: ['int4', 'int8', 'numeric', 'float4', 'float8'],
  int4: ['int8', 'numeric', 'float8'],
  int8: ['numeric'],
  float4: ['float8'],
  date: ['timestamp', 'timestamptz'],
  timestamp: ['timestamptz'],
  timestamptz: ['timestamp'],
  jsonb: ['json'],
}

const NUMBERS = ['int2', 'int4', 'int8', 'numeric', 'float4', 'float8']
const isWhole = (base: string) => base.startsWith('int')
/** Types whose modifier is the number of digits of a second, six at most. */
const TIMES = ['timestamp', 'timestamptz', 'time', 'timetz', 'interval']

/** Whether a text type holds any length. */
const isUnbounded = ({ base, modifiers, isArray }: ColumnType) =>
  !isArray && (base === 'text' || base === 'varchar') && modifiers.length === 0

/**
 * What it takes to give a column another type: whether Postgres writes the table anew, and what becomes
 * of the values. An unknown old type is taken to be the one that costs most.
 */
export function retypingOf(
  from: ColumnType | undefined,
  to: ColumnType,
  using?: { expression: Node; column: string },
): Retyping {
  const cast = using ? castOf(using.expression, using.column, to) : 'implicit'
  if (cast === 'other') return result('yes', 'refused')
  if (!from) return result('yes', isUnbounded(to) ? 'kept' : 'refused')
  const found = from.isArray || to.isArray ? ofArrays(from, to) : ofScalars(from, to)
  // Only an explicit cast cuts a text off where it is too long.
  const isCut = cast === 'explicit' && /^(varchar|bpchar|bit|varbit)$/.test(to.base)
  return isCut && found.values === 'refused' ? { ...found, values: 'changed' } : found
}

/** What a USING does: nothing, cast to the type that the column gets anyway, or something else. */
function castOf(
  expression: Node,
  column: string,
  to: ColumnType,
): 'implicit' | 'explicit' | 'other' {
  if ('ColumnRef' in expression) {
    return stringsOf(expression.ColumnRef.fields).at(-1) === column ? 'implicit' : 'other'
  }
  if (!('TypeCast' in expression)) return 'other'
  const { arg, typeName } = expression.TypeCast
  const isSame = JSON.stringify(typeOf(typeName)) === JSON.stringify(to)
  return isSame && arg && castOf(arg, column, to) === 'implicit' ? 'explicit' : 'other'
}

function ofArrays(from: ColumnType, to: ColumnType): Retyping {
  if (from.isArray !== to.isArray) return result('yes', isUnbounded(to) ? 'kept' : 'refused')
  const element = ofScalars({ ...from, isArray: false }, { ...to, isArray: false })
  // That a cast changes nothing, Postgres knows only of a value by itself.
  const isSame =
    from.base === to.base && (!to.modifiers.length || `${from.modifiers}` === `${to.modifiers}`)
  return isSame ? element : { ...element, rewrites: 'yes' }
}

function ofScalars(from: ColumnType, to: ColumnType): Retyping {
  if (from.base === to.base) return ofModifiers(from, to)
  if (SAME_BYTES[from.base]?.includes(to.base)) {
    return to.modifiers.length === 0 ? result('no', 'kept') : ofBounded(from, to)
  }
  const isTimeZone = /^timestamp/.test(from.base) && /^timestamp/.test(to.base)
  if (isTimeZone) {
    const values = digitsOf(to) < digitsOf(from) ? 'changed' : 'kept'
    return result(digitsOf(to) < 6 ? 'yes' : 'unless UTC', values)
  }
  if (to.base === 'text' || to.base === 'varchar') return ofBounded(from, to)
  return result('yes', ofValues(from, to))
}

/** A text that gets a length, or another one. */
function ofBounded(from: ColumnType, to: ColumnType): Retyping {
  const [most] = to.modifiers
  if (most === undefined) return result('yes', 'kept')
  const [had = Number.POSITIVE_INFINITY] = /char$/.test(from.base) ? from.modifiers : []
  return result('yes', had <= most ? 'kept' : 'refused')
}

const digitsOf = ({ modifiers: [digits = 6] }: ColumnType) => digits

function ofModifiers(from: ColumnType, to: ColumnType): Retyping {
  if (`${from.modifiers}` === `${to.modifiers}` || to.modifiers.length === 0) {
    return result('no', 'kept')
  }
  const [had, most = 0] = [from.modifiers[0], to.modifiers[0]]
  if (to.base === 'numeric') return ofNumeric(from.modifiers, to.modifiers)
  if (TIMES.includes(to.base)) {
    return digitsOf(from) <= most ? result('no', 'kept') : result('yes', 'changed')
  }
  const isWider = had !== undefined && had <= most
  if (to.base === 'varchar' || to.base === 'varbit') {
    return isWider ? result('no', 'kept') : result('yes', 'refused')
  }
  return result('yes', isWider && to.base === 'bpchar' ? 'kept' : 'refused')
}

function ofNumeric(from: readonly number[], to: readonly number[]): Retyping {
  const [most = 0, scale = 0] = to
  const [had, hadScale = 0] = from
  if (had === undefined) return result('yes', 'changed')
  if (scale < hadScale) return result('yes', 'changed')
  if (most - scale < had - hadScale) return result('yes', 'refused')
  return result(scale === hadScale ? 'no' : 'yes', 'kept')
}

function ofValues(from: ColumnType, to: ColumnType): Retyping['values'] {
  if (WIDER[from.base]?.includes(to.base)) return to.modifiers.length > 0 ? 'refused' : 'kept'
  if (NUMBERS.includes(from.base) && NUMBERS.includes(to.base)) {
    return isWhole(from.base) && (isWhole(to.base) || to.base === 'numeric') ? 'refused' : 'changed'
  }
  const isTime = TIMES.includes(from.base) || from.base === 'date'
  if (isTime && (TIMES.includes(to.base) || to.base === 'date')) return 'changed'
  // It keeps neither the order of keys nor one that is there twice.
  if (from.base === 'json' && to.base === 'jsonb') return 'changed'
  return 'refused'
}
