import type { Node, RangeVar, TypeName } from 'libpg-query'

/** Where an unqualified name is taken to be: Postgres looks there first, unless it is told otherwise. */
const DEFAULT_SCHEMA = 'public'

/** A schema's object, by its names. */
export interface Name {
  readonly schema?: string
  readonly name: string
}

/** A name as one word, `schema.name`, to look things up by. */
export const keyOf = ({ schema = DEFAULT_SCHEMA, name }: Name): string => `${schema}.${name}`

const isPlain = (name: string) => /^[a-z_][a-z0-9_$]*$/.test(name)

/** An identifier in quotes. */
export const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`

/** Text for SQL that takes no parameters. */
export const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`

/** A name as it is written in SQL. */
export const quotedName = ({ schema, name }: Name): string =>
  schema === undefined ? quoted(name) : `${quoted(schema)}.${quoted(name)}`

/** A name as a message says it: quoted only where it has to be. */
export const shownName = ({ schema, name }: Name): string =>
  [...(schema === undefined ? [] : [schema]), name]
    .map((part) => (isPlain(part) ? part : quoted(part)))
    .join('.')

/** The name of a relation in a statement. */
export const nameOf = (relation: RangeVar | undefined): Name =>
  named([
    ...(relation?.schemaname === undefined ? [] : [relation.schemaname]),
    relation?.relname ?? '',
  ])

/** The strings of a list of the parse tree. */
export const stringsOf = (nodes: readonly Node[] | undefined): string[] =>
  (nodes ?? []).flatMap((node) => ('String' in node ? [node.String.sval ?? ''] : []))

/** The name that the last one or two of some words make. */
export function named(words: readonly string[]): Name {
  const [name = '', schema] = words.toReversed()
  return schema === undefined ? { name } : { schema, name }
}

/** A type as Postgres names it inside, with what is in its brackets. */
export interface ColumnType {
  /** Such as `int4`, `varchar`, or `costs.price_unit`. */
  readonly base: string
  /** Such as `[10, 2]` of numeric(10, 2). */
  readonly modifiers: readonly number[]
  readonly isArray: boolean
}

/** The type that a statement names. */
export function typeOf(type: TypeName | undefined): ColumnType {
  const words = stringsOf(type?.names)
  const isBuiltIn = words[0] === 'pg_catalog' || (words.length === 1 && words[0] !== undefined)
  const base = isBuiltIn ? (words.at(-1) ?? '') : keyOf(named(words))
  const modifiers = (type?.typmods ?? []).flatMap((node) =>
    'A_Const' in node && node.A_Const.ival ? [node.A_Const.ival.ival ?? 0] : [],
  )
  return {
    base,
    // The first number of an interval says which of its fields are kept, 32767 being all.
    modifiers: base === 'interval' && modifiers[0] === 32767 ? modifiers.slice(1) : modifiers,
    isArray: (type?.arrayBounds ?? []).length > 0,
  }
}

const SHOWN: Record<string, string> = {
  int2: 'smallint',
  int4: 'integer',
  int8: 'bigint',
  float4: 'real',
  float8: 'double precision',
  bool: 'boolean',
  bpchar: 'char',
}

/** A type as people write it. */
export const shownType = ({ base, modifiers, isArray }: ColumnType): string =>
  `${SHOWN[base] ?? base}${modifiers.length ? `(${modifiers.join(', ')})` : ''}${isArray ? '[]' : ''}`
