import type { EntityOf } from './kit.ts'

type Column = EntityOf<'columns'>

const FAMILIES: [string, RegExp][] = [
  ['text', /^(text|varchar|character varying|char|character|bpchar|citext)\b/],
  [
    'number',
    /^(smallint|integer|bigint|numeric|decimal|real|double precision|(small|big)?serial)\b/,
  ],
  ['moment', /^(date|timestamp)\b/],
  ['time', /^time\b/],
  ['boolean', /^boolean\b/],
  ['json', /^jsonb?\b/],
  ['uuid', /^uuid\b/],
]

const familyOf = ({ type, typeSchema }: Column) =>
  typeSchema ? 'enum' : FAMILIES.find(([, pattern]) => pattern.test(type))?.[0]

/** Between families, Postgres has these casts, and from text and to text. */
const CASTS = ['moment time', 'json number', 'json boolean']

/** Whether Postgres can turn the one type into the other, without a way through text. */
export function isCastable(from: Column, to: Column): boolean {
  const [a, b] = [familyOf(from), familyOf(to)]
  // Of a type that is not known here, Postgres has to say it.
  if (!a || !b) return true
  // Anything can be written as text, and text be read as anything; an array as well.
  if ((b === 'text' && to.dimensions === 0) || (a === 'text' && from.dimensions === 0)) return true
  if (from.dimensions !== to.dimensions) return false
  if (a === 'text' || b === 'text') return true
  if (a === b) return true
  if (a === 'boolean' && b === 'number') return to.type === 'integer'
  if (a === 'number' && b === 'boolean') return from.type === 'integer'
  return CASTS.includes(`${a} ${b}`)
}
